//! A spawn that failed, in the vendor's statuses and words.
//!
//! | what happened | status | reason |
//! | --- | --- | --- |
//! | no node offers the renderer | 403 | `Invalid rendering location` |
//! | no room, a limit is reached, or the registry is away | 503 | `No ports available: …` |
//! | the server exited before it was ready | 500 | `ts3d_sc_server failed: reason='invalid license', exit-code=6, id=…` |
//! | a signal ended it, or it was not ready in time | 500 | `ts3d_sc_server failed: reason='exited because of signal=SIGKILL, no exit-code', id=…` |
//! | it could not be started | 500 | `spawn ts3d_sc_server ENOENT` |
//! | the key of `--hoops-owner` does not count any more | 503 | `No ports available: …` |
//! | the request is wrong | 400 | what is wrong |

use axum::http::StatusCode;
use axum::response::Response;
use model::api::{ErrorCode, Problem};
use model::vendor;
use serde_json::json;

use super::answer;
use crate::http::ApiError;

/// Why there is no spawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) reason: String,
    /// What counts of refusals call it; `None` for what is none.
    code: Option<ErrorCode>,
    /// More of it, where the vendor's words say too little.
    detail: Option<&'static str>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        let code = status.is_client_error().then_some(ErrorCode::InvalidRequest);
        Self { status, reason: reason.into(), code, detail: None }
    }

    pub(super) fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// No answer would be in time for the vendor's client any more.
    pub(super) fn late() -> Self {
        let reason = "ts3d_sc_server failed: reason='not ready in time'";
        let code = Some(ErrorCode::ReadyTimeout);
        Self { code, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason) }
    }

    /// The owner of these spawns is an API key that is revoked, expired or cannot be read.
    pub(super) fn barred() -> Self {
        let reason = "No ports available: the owner of these spawns may start none";
        let code = Some(ErrorCode::Forbidden);
        Self { code, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason) }
    }

    /// `offered`: whether some node offers the renderer, if there are nodes.
    pub(super) fn of(ApiError(problem): &ApiError, offered: Option<bool>) -> Self {
        let failure = match problem.code {
            ErrorCode::NoMatchingNode if offered == Some(false) => {
                Self::new(StatusCode::FORBIDDEN, "Invalid rendering location")
            }
            ErrorCode::InvalidRequest => Self::new(StatusCode::BAD_REQUEST, problem.detail.clone()),
            ErrorCode::SpawnFailed | ErrorCode::ReadyTimeout => {
                let detail = (problem.code == ErrorCode::ReadyTimeout).then_some("it was not ready in time");
                let reason = process(problem);
                Self { detail, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason) }
            }
            ErrorCode::Internal => Self::new(StatusCode::INTERNAL_SERVER_ERROR, problem.detail.clone()),
            _ => {
                // What follows is of one node, and may name its files.
                let detail = problem.detail.split(';').next().unwrap_or_default();
                let reason = format!("No ports available: {detail}");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, reason)
            }
        };
        Self { code: Some(problem.code), ..failure }
    }

    pub(super) fn answer(&self) -> Response {
        let mut body = answer::failure(&self.reason);
        if let Some(detail) = self.detail {
            body["detail"] = json!(detail);
        }
        answer::json(self.status, &body)
    }

    /// The same to an upgrade.
    pub(super) fn raw(&self) -> Response {
        answer::raw(self.status, &self.reason)
    }
}

/// What became of the process.
fn process(problem: &Problem) -> String {
    let Some(id) = &problem.spawn else {
        let why = problem.reason.as_deref().unwrap_or_default();
        let code = if why.contains("No such file") || why.contains("os error 2") {
            "ENOENT"
        } else if why.contains("ermission denied") {
            "EACCES"
        } else {
            // Its path stays in the log: callers of this interface are not authenticated.
            "failed, see the log of the front door"
        };
        return format!("spawn ts3d_sc_server {code}");
    };
    match (problem.exit_code, &problem.signal) {
        (Some(code), _) => {
            let text = vendor::exit_text(code);
            format!("ts3d_sc_server failed: reason='{text}', exit-code={code}, id={id}")
        }
        (None, signal) => {
            // One that is late is ended so.
            let signal = signal.as_deref().unwrap_or("SIGTERM");
            format!(
                "ts3d_sc_server failed: reason='exited because of signal={signal}, no exit-code', id={id}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use model::SpawnId;

    use super::*;

    fn failure(code: ErrorCode, change: impl FnOnce(&mut Problem), offered: Option<bool>) -> (u16, String) {
        let mut error = ApiError::new(code, "why not");
        change(&mut error.0);
        let failure = Failure::of(&error, offered);
        (failure.status.as_u16(), failure.reason)
    }

    #[test]
    fn failures_have_the_vendors_statuses_and_words() {
        let id = SpawnId::mint();
        let no = |_: &mut Problem| {};
        assert_eq!(
            failure(ErrorCode::NoMatchingNode, no, Some(false)),
            (403, "Invalid rendering location".into())
        );
        for (code, offered) in [
            (ErrorCode::NoMatchingNode, Some(true)),
            (ErrorCode::NoMatchingNode, None),
            (ErrorCode::NoCapacity, Some(true)),
            (ErrorCode::QuotaExceeded, Some(true)),
            (ErrorCode::RateLimited, Some(true)),
            (ErrorCode::RegistryUnavailable, None),
            (ErrorCode::ShuttingDown, None),
        ] {
            assert_eq!(failure(code, no, offered), (503, "No ports available: why not".into()), "{code:?}");
        }
        let exited = |problem: &mut Problem| (problem.spawn, problem.exit_code) = (Some(id), Some(6));
        let text = format!("ts3d_sc_server failed: reason='invalid license', exit-code=6, id={id}");
        assert_eq!(failure(ErrorCode::SpawnFailed, exited, None), (500, text));
        let killed = |problem: &mut Problem| {
            (problem.spawn, problem.signal) = (Some(id), Some("SIGKILL".into()));
        };
        let words = |signal| {
            format!(
                "ts3d_sc_server failed: reason='exited because of signal={signal}, no exit-code', id={id}"
            )
        };
        assert_eq!(failure(ErrorCode::SpawnFailed, killed, None), (500, words("SIGKILL")));
        let late = |problem: &mut Problem| problem.spawn = Some(id);
        assert_eq!(failure(ErrorCode::ReadyTimeout, late, None), (500, words("SIGTERM")));
        for (why, code) in [
            ("/opt/x: No such file or directory (os error 2)", "ENOENT"),
            ("Permission denied (os error 13)", "EACCES"),
            ("/opt/x: exec format error", "failed, see the log of the front door"),
        ] {
            let unstarted = |problem: &mut Problem| problem.reason = Some(why.into());
            let text = format!("spawn ts3d_sc_server {code}");
            assert_eq!(failure(ErrorCode::SpawnFailed, unstarted, None), (500, text));
        }
        let full = |problem: &mut Problem| problem.detail = "all are full; last tried was a: /opt/x".into();
        let text = "No ports available: all are full".to_owned();
        assert_eq!(failure(ErrorCode::NoCapacity, full, None), (503, text));
        assert_eq!(failure(ErrorCode::InvalidRequest, no, None), (400, "why not".into()));
        assert_eq!(failure(ErrorCode::Internal, no, None), (500, "why not".into()));
    }
}
