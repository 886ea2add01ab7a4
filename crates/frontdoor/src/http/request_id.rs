//! The id that ties a request to its log lines everywhere: the caller's `X-Request-Id` where that is sane, else a new one. It names
//! no caller and proves nothing.

use axum::http::HeaderMap;
use model::RequestId;

/// The header that carries it, both ways.
pub(crate) const X_REQUEST_ID: &str = wire::REQUEST_ID;

/// The caller's, if it sent exactly one that is sane; a new one otherwise.
pub(crate) fn of(headers: &HeaderMap) -> RequestId {
    let mut given = headers.get_all(X_REQUEST_ID).iter();
    match (given.next(), given.next()) {
        (Some(one), None) => one.to_str().ok().and_then(|text| text.parse().ok()),
        _ => None,
    }
    .unwrap_or_else(RequestId::mint)
}
