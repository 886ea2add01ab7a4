//! Errors as the contract wants them.

use serde_json::Value;

use crate::http::Response;

/// A well-formed error answer.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The stable code.
    pub code: String,
    /// What was wrong this time.
    pub detail: String,
    /// The whole of it.
    pub json: Value,
}

impl Response {
    /// The answer as a problem of this status and code; panics on anything that is not in order with it.
    pub fn problem(&self, status: u16, code: &str) -> Problem {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        let text = |member: &str| match &json[member] {
            Value::String(text) if !text.is_empty() => text.clone(),
            other => panic!("{member} is {other} in {json}"),
        };
        for member in ["type", "title", "detail", "code", "requestId"] {
            text(member);
        }
        assert_eq!(json["status"], status, "the body repeats the status: {json}");
        assert_eq!(Some(text("requestId").as_str()), self.header("x-request-id"), "{self:?}");
        if ["no-capacity", "no-matching-node"].contains(&code) {
            self.retry_after();
        }
        Problem { code: text("code"), detail: text("detail"), json }
    }

    /// Seconds after which to try again.
    pub fn retry_after(&self) -> u64 {
        let value = self.header("retry-after").unwrap_or_else(|| panic!("no Retry-After: {self:?}"));
        value.parse().unwrap_or_else(|_| panic!("Retry-After is {value:?}"))
    }

    fn code(&self) -> String {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        json.and_then(|json| json["code"].as_str().map(str::to_owned)).unwrap_or_default()
    }
}

impl Problem {
    /// The member of this name as text.
    pub fn text(&self, member: &str) -> &str {
        self.json[member].as_str().unwrap_or_else(|| panic!("no {member} in {}", self.json))
    }

    /// Whether the detail or the field names this.
    pub fn names(&self, what: &str) -> bool {
        self.detail.contains(what) || self.json["field"].as_str().is_some_and(|field| field.contains(what))
    }
}
