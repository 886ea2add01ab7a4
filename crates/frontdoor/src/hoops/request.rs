//! The body of `POST /service` and `POST /api/spawn`, read as leniently as the vendor's server reads it: JSON or a form, every field
//! optional, unknown fields and other media types ignored. What is handed on to a spawn is held to the rules of `POST /spawn`.

use axum::http::{HeaderMap, StatusCode, header};
use model::RendererType;
use serde_json::{Map, Value, json};

use super::form;
use crate::spawning::order::SpawnOrder;

/// The class that asks for server-side rendering; every other one is client-side.
const SSR: &str = "ssr_session";

/// What a body asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    pub(super) renderer: RendererType,
    model: Option<String>,
    session_token: Option<String>,
    /// It named directories, which nothing is done with.
    pub(super) named_directories: bool,
}

/// A body that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRequest {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl BadRequest {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    fn wrong(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

impl Wanted {
    /// For the proxy, which knows no more.
    pub(super) fn of(renderer: RendererType) -> Self {
        Self { renderer, ..Self::default() }
    }

    pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Self, BadRequest> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let mut parts = content_type.unwrap_or_default().split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        if !matches!(media.as_str(), "application/json" | "application/x-www-form-urlencoded") {
            return Ok(Self::default());
        }
        check_encoding(headers, parts)?;
        let object = if media == "application/json" {
            json_object(body)?
        } else {
            form::to_json(body).map_err(|form::TooManyPairs| {
                BadRequest::new(StatusCode::PAYLOAD_TOO_LARGE, "too many parameters")
            })?
        };
        Self::from_object(&object)
    }

    fn from_object(object: &Map<String, Value>) -> Result<Self, BadRequest> {
        let is_ssr = object.get("class").and_then(Value::as_str) == Some(SSR);
        let none = Map::new();
        let params = object.get("params").and_then(Value::as_object).unwrap_or(&none);
        Ok(Self {
            renderer: if is_ssr { RendererType::Ssr } else { RendererType::Csr },
            model: text(params, "model")?,
            session_token: text(params, "sessionToken")?,
            named_directories: names_directories(params)?,
        })
    }

    /// The same as an order of `POST /spawn`, whose rules it must meet.
    pub(super) fn order(&self) -> Result<SpawnOrder, BadRequest> {
        let body = json!({
            "rendererType": self.renderer, "model": self.model, "sessionToken": self.session_token,
        });
        SpawnOrder::parse(body.to_string().as_bytes()).map_err(|invalid| BadRequest::wrong(invalid.detail))
    }
}

/// Only what can be read as it stands.
fn check_encoding<'a>(
    headers: &HeaderMap,
    parameters: impl Iterator<Item = &'a str>,
) -> Result<(), BadRequest> {
    let unsupported = |what: &str, name: &str| {
        let name: String = name.chars().take(50).collect();
        let reason = format!("unsupported {what} \"{name}\"");
        Err(BadRequest::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
    };
    for (name, value) in parameters.filter_map(|parameter| parameter.split_once('=')) {
        let value = value.trim().trim_matches('"');
        if name.trim().eq_ignore_ascii_case("charset") && !value.eq_ignore_ascii_case("utf-8") {
            return unsupported("charset", &value.to_uppercase());
        }
    }
    match headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?")) {
        Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => {
            unsupported("content encoding", encoding)
        }
        _ => Ok(()),
    }
}

/// An object; a list counts as an empty one, and nothing else will do.
fn json_object(body: &[u8]) -> Result<Map<String, Value>, BadRequest> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(Value::Array(_)) => Ok(Map::new()),
        Ok(_) => Err(BadRequest::wrong("the body must be a JSON object")),
        Err(error) => Err(BadRequest::wrong(error.to_string())),
    }
}

/// An empty text counts as none.
fn text(params: &Map<String, Value>, name: &str) -> Result<Option<String>, BadRequest> {
    match params.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(BadRequest::wrong(format!("params.{name} must be a text"))),
    }
}

fn names_directories(params: &Map<String, Value>) -> Result<bool, BadRequest> {
    match params.get("modelSearchDirectories") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => Ok(!list.is_empty()),
        Some(_) => Err(BadRequest::wrong("params.modelSearchDirectories must be a list of texts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";

    fn parse(media: &str, body: &str) -> Result<Wanted, BadRequest> {
        let mut headers = HeaderMap::new();
        if !media.is_empty() {
            headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
        }
        Wanted::parse(&headers, body.as_bytes())
    }

    #[test]
    fn only_the_exact_class_asks_for_server_side_rendering() {
        for (media, body, renderer) in [
            (JSON, r#"{"class":"ssr_session"}"#, RendererType::Ssr),
            (JSON, r#"{"class":"ssr_session","params":{}}"#, RendererType::Ssr),
            ("Application/JSON; charset=UTF-8", r#"{"class":"ssr_session"}"#, RendererType::Ssr),
            (JSON, "\u{feff}{\"class\":\"ssr_session\"}", RendererType::Ssr),
            (FORM, "class=ssr_session", RendererType::Ssr),
            ("application/x-www-form-urlencoded;charset=utf-8", "a=b&class=ssr_session", RendererType::Ssr),
            (JSON, r#"{"class":"csr_session"}"#, RendererType::Csr),
            (JSON, r#"{"class":"SSR_session"}"#, RendererType::Csr),
            (JSON, r#"{"class":["ssr_session"]}"#, RendererType::Csr),
            (JSON, r#"{"class":7,"unknown":{"x":1}}"#, RendererType::Csr),
            (JSON, r#"{"class":"ssr_session","class":"other"}"#, RendererType::Csr),
            (JSON, "[]", RendererType::Csr),
            (JSON, r#"[{"class":"ssr_session"}]"#, RendererType::Csr),
            (JSON, "", RendererType::Csr),
            ("", r#"{"class":"ssr_session"}"#, RendererType::Csr),
            ("text/plain", r#"{"class":"ssr_session"}"#, RendererType::Csr),
            ("application/jsonp", r#"{"class":"ssr_session"}"#, RendererType::Csr),
            ("text/plain; charset=latin1", "not looked at", RendererType::Csr),
            (FORM, "class=ssr_session&class=ssr_session", RendererType::Csr),
        ] {
            assert_eq!(parse(media, body).unwrap().renderer, renderer, "{media} {body}");
        }
    }

    #[test]
    fn parameters_come_as_json_or_as_a_form_and_empty_ones_count_as_none() {
        let all = Wanted {
            renderer: RendererType::Csr,
            model: Some("a/b.scs".into()),
            session_token: Some("t 1".into()),
            named_directories: true,
        };
        let json = r#"{"params":{"model":"a/b.scs","sessionToken":"t 1","modelSearchDirectories":["/m"],
            "readyEndpoint":"http://x","statusUpdateFrequency":"5"}}"#;
        assert_eq!(parse(JSON, json).unwrap(), all);
        let form = "params[model]=a/b.scs&params[sessionToken]=t+1&params[modelSearchDirectories][]=/m";
        assert_eq!(parse(FORM, form).unwrap(), all);
        for none in [
            r#"{"params":{"model":"","sessionToken":null,"modelSearchDirectories":[]}}"#,
            r#"{"params":null}"#,
            r#"{"params":"x"}"#,
            r#"{"params":[1]}"#,
            r#"{"model":"a","sessionToken":"b"}"#,
        ] {
            assert_eq!(parse(JSON, none).unwrap(), Wanted::default(), "{none}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_reason() {
        for (media, body, status, reason) in [
            (JSON, "{", 400, "EOF"),
            (JSON, "{\"class\":}", 400, "expected value"),
            (JSON, "null", 400, "object"),
            (JSON, "\"ssr_session\"", 400, "object"),
            (JSON, "7", 400, "object"),
            (JSON, "{} {}", 400, "trailing"),
            (JSON, "\u{0}", 400, "expected value"),
            ("application/json; charset=latin1", "{}", 415, "unsupported charset \"LATIN1\""),
            ("application/x-www-form-urlencoded; charset=utf-16", "a=b", 415, "unsupported charset"),
            (JSON, r#"{"params":{"model":7}}"#, 400, "params.model"),
            (JSON, r#"{"params":{"sessionToken":{}}}"#, 400, "params.sessionToken"),
            (JSON, r#"{"params":{"modelSearchDirectories":"/m"}}"#, 400, "modelSearchDirectories"),
            (JSON, r#"{"params":{"modelSearchDirectories":[7]}}"#, 400, "modelSearchDirectories"),
            (FORM, "params[model]=a&params[model]=b", 400, "params.model"),
        ] {
            let refused = parse(media, body).unwrap_err();
            assert_eq!(refused.status.as_u16(), status, "{body}: {refused:?}");
            assert!(refused.reason.contains(reason), "{body}: {refused:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, JSON.parse().unwrap());
        headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(Wanted::parse(&headers, b"{}").unwrap_err().status.as_u16(), 415);
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(parse(JSON, &deep).unwrap_err().status.as_u16(), 400);
    }

    #[test]
    fn what_a_spawn_is_given_meets_the_rules_of_every_spawn() {
        let order = |params: &str| parse(JSON, &format!(r#"{{"params":{params}}}"#)).unwrap().order();
        assert_eq!(order(r#"{"model":"a/b.scs"}"#).unwrap().model.as_deref(), Some("a/b.scs"));
        for model in ["/etc/passwd", "../x", "a/../../b", "~/x", "C:/x", "a\\b", "a\u{0}"] {
            let params = json!({ "model": model }).to_string();
            let refused = order(&params).unwrap_err();
            assert_eq!(refused.status.as_u16(), 400, "{model}");
            assert!(refused.reason.contains("model"), "{refused:?}");
        }
        assert!(order(&json!({"sessionToken": "x".repeat(5000)}).to_string()).is_err());
    }
}
