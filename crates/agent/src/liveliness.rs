//! The receiver of what spawned servers say of themselves: `POST /liveliness/{id}?liveliness=ready|ping|disconnect`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use model::SpawnId;
use tokio::time::Instant;

use crate::node::Node;
use crate::table::Liveliness;

pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new().fallback(receive).with_state(node)
}

/// What a request says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    /// Not of the form above.
    ElsewhereThan,
    /// Not a spawn's id.
    NoId,
    About(SpawnId, Option<&'a str>),
}

fn parse<'a>(path: &str, query: Option<&'a str>) -> Said<'a> {
    let Some(id) = path.strip_prefix("/liveliness/") else { return Said::ElsewhereThan };
    // A server that was given a base with a trailing slash may double it.
    let id = id.strip_prefix('/').unwrap_or(id);
    match id.parse() {
        Ok(id) => {
            let value = query.and_then(|q| q.split('&').find_map(|pair| pair.strip_prefix("liveliness=")));
            Said::About(id, value)
        }
        Err(_) => Said::NoId,
    }
}

fn liveliness(value: Option<&str>) -> Option<Liveliness> {
    match value? {
        "ready" => Some(Liveliness::Ready),
        "ping" => Some(Liveliness::Ping),
        "disconnect" => Some(Liveliness::Disconnect),
        _ => None,
    }
}

fn error(status: StatusCode, body: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

const UNKNOWN_ID: &str = r#"{"error":"invalid spawnId."}"#;
const UNKNOWN_VALUE: &str = r#"{"error":"invalid liveliness value"}"#;

#[expect(clippy::unused_async, reason = "axum wants handlers to be async")]
async fn receive(State(node): State<Arc<Node>>, request: Request) -> Response {
    let uri = request.uri();
    let (id, value) = match parse(uri.path(), uri.query()) {
        Said::ElsewhereThan => return error(StatusCode::NOT_FOUND, r#"{"error":"not found"}"#),
        _ if request.method() != Method::POST => {
            let answer = error(StatusCode::METHOD_NOT_ALLOWED, r#"{"error":"method not allowed"}"#);
            return ([(header::ALLOW, "POST")], answer).into_response();
        }
        Said::NoId => return error(StatusCode::NOT_FOUND, UNKNOWN_ID),
        Said::About(id, value) => (id, value),
    };
    match liveliness(value) {
        Some(what) => {
            if !node.table().heard(id, what, Instant::now()) {
                return error(StatusCode::NOT_FOUND, UNKNOWN_ID);
            }
            node.metrics.liveliness.inc();
            StatusCode::OK.into_response()
        }
        None if node.table().knows(id) => error(StatusCode::BAD_REQUEST, UNKNOWN_VALUE),
        None => error(StatusCode::NOT_FOUND, UNKNOWN_ID),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_in_path_and_query() {
        let id = SpawnId::mint();
        for (path, query, want) in [
            (format!("/liveliness/{id}"), Some("liveliness=ready"), Said::About(id, Some("ready"))),
            (format!("/liveliness//{id}"), Some("liveliness=ping"), Said::About(id, Some("ping"))),
            (
                format!("/liveliness/{id}"),
                Some("a=b&liveliness=disconnect"),
                Said::About(id, Some("disconnect")),
            ),
            (format!("/liveliness/{id}"), Some("other=ready"), Said::About(id, None)),
            (format!("/liveliness/{id}"), None, Said::About(id, None)),
            (format!("/liveliness/{id}/x"), None, Said::NoId),
            ("/liveliness/".to_owned(), None, Said::NoId),
            ("/liveliness".to_owned(), None, Said::ElsewhereThan),
            (format!("/{id}"), None, Said::ElsewhereThan),
        ] {
            assert_eq!(parse(&path, query), want, "{path} {query:?}");
        }
    }

    #[test]
    fn only_the_vendors_words_are_understood() {
        assert_eq!(liveliness(Some("ready")), Some(Liveliness::Ready));
        for other in [None, Some(""), Some("Ready"), Some("ready ")] {
            assert_eq!(liveliness(other), None);
        }
    }
}
