//! Refuses what web pages send to the admin port. A browser sends a GET for any page; the port is for probes and Prometheus, and has no pages
//! of its own.

use std::sync::Arc;

use access::Hosts;
use access::host::{ALLOWED_HOST, name_of};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use model::api::ErrorCode;
use serde_json::json;

/// The names under which the port may be called.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) hosts: Hosts,
    /// The certificate of the port, whose names count as well.
    pub(crate) certificate: Option<tls::Server>,
}

impl Known {
    fn has(&self, host: &str) -> bool {
        let certificate = self.certificate.as_ref();
        self.hosts.knows(host)
            || certificate.zip(name_of(host)).is_some_and(|(server, name)| server.is_for(name))
    }
}

/// Lets a request pass when no page sent it and its host is known.
pub(crate) async fn guard(State(known): State<Arc<Known>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let named = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
    let mut named = named.chain(request.uri().authority().map(axum::http::uri::Authority::as_str));
    if let Some(host) = named.find(|host| !known.has(host)) {
        let host: String = host.chars().take(100).collect();
        let detail = format!("this agent is not known as {host:?}; {ALLOWED_HOST} adds a name");
        return problem(ErrorCode::HostNotAllowed, &detail);
    }
    if is_from_a_page(headers) {
        return problem(ErrorCode::OriginNotAllowed, "pages may not ask an agent");
    }
    next.run(request).await
}

fn is_from_a_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let elsewhere = text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    headers.contains_key(header::ORIGIN) || (elsewhere && text("sec-fetch-mode") != Some("navigate"))
}

fn problem(code: ErrorCode, detail: &str) -> Response {
    let body = json!({
        "type": format!("urn:hatchery:problem:{}", code.as_str()),
        "title": code.title(),
        "status": code.status(),
        "detail": detail,
        "code": code.as_str(),
    });
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::FORBIDDEN);
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}
