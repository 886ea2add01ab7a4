//! Answers in the vendor's shapes, and the headers for browsers that every one of them carries.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::ext::ReasonPhrase;
use serde::Serialize;
use serde_json::{Value, json};

use crate::settings::Origins;

/// Characters of a message in a status line.
const MAX_MESSAGE: usize = 300;
/// The media type of every answer but files.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// What the vendor's helper asks for in its preflight: it sends the names of the answer's headers as headers of its request.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "Content-Type, Access-Control-Allow-Origin, Access-Control-Allow-Methods, Access-Control-Allow-Headers",
);

/// JSON on one line.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    with_json(status, serde_json::to_vec(body).unwrap_or_default())
}

/// JSON for people, indented by two spaces, unless the query has `raw=true`.
pub(super) fn readable(status: StatusCode, body: &impl Serialize, query: Option<&str>) -> Response {
    let raw = query.unwrap_or_default().split('&').any(|pair| pair == "raw=true");
    let text = if raw { serde_json::to_vec(body) } else { serde_json::to_vec_pretty(body) };
    with_json(status, text.unwrap_or_default())
}

fn with_json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

pub(super) fn not_found() -> Response {
    json(StatusCode::NOT_FOUND, &json!({"result": "error", "reason": "Not Found"}))
}

/// A failure in both shapes that consumers look for: `status` is `failed`, and `result` is `error`.
pub(super) fn failed(status: StatusCode, reason: &str) -> Response {
    json(status, &failure(reason))
}

pub(super) fn failure(reason: &str) -> Value {
    json!({"status": "failed", "result": "error", "reason": reason})
}

/// What is served at a path, for a preflight.
pub(super) fn allow(methods: &'static str) -> Response {
    (StatusCode::OK, [(header::ALLOW, methods), (header::CONTENT_TYPE, "text/html; charset=utf-8")], methods)
        .into_response()
}

/// The answer to an upgrade that leads nowhere: a status line with a message of its own, and the end of the connection.
pub(super) fn raw(status: StatusCode, message: &str) -> Response {
    // A status line has room for one line of visible characters.
    let visible = |c| if matches!(c, ' '..='~') { c } else { '?' };
    let message: String = message.chars().take(MAX_MESSAGE).map(visible).collect();
    let mut response = status.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Ok(phrase) = ReasonPhrase::try_from(message) {
        response.extensions_mut().insert(phrase);
    }
    *response.body_mut() = Body::empty();
    response
}

/// Adds the headers for browsers.
pub(super) fn for_browsers(response: &mut Response, origins: &Origins, asking: Option<&HeaderValue>) {
    const ANY: HeaderValue = HeaderValue::from_static("*");
    let headers: &mut HeaderMap = response.headers_mut();
    let mut insert = |name: HeaderName, value| headers.insert(name, value);
    match (origins, asking) {
        (Origins::Any, _) => {
            insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        }
        (_, asking) => {
            insert(header::VARY, HeaderValue::from_static("origin"));
            if let Some(origin) = asking.filter(|origin| origins.allow(origin)) {
                insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            }
        }
    }
    insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
}
