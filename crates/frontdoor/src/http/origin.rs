//! Which pages may send a request, and to which name of this front door.
//!
//! A browser sends for any page a request that a plain form could make: a POST without a body, a GET, a WebSocket handshake.
//! CORS keeps the answer from the page, not the request from the server. So a request that a page of another origin sends is
//! refused here, before anything happens, unless that origin may do this.
//!
//! What distinguishes a page's request from a program's: browsers send `Origin` with every POST, PATCH, DELETE, preflight, CORS request and
//! WebSocket handshake (`null` where they hide it), and `Sec-Fetch-Site` to https and to this machine. A program sends neither,
//! and passes. A GET without `Origin` passes when it is a followed link: it changes nothing, and no page can read its answer.

use access::Hosts;
use access::host::{ALLOWED_HOST, is_local_origin, name_of};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use model::api::ErrorCode;

use super::error::ApiError;
use crate::settings::Origins;

/// As much of a name as an answer repeats.
const MAX_REPEATED: usize = 100;

/// The pages that may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Those of every origin: the route serves files that are the same for every caller.
    Anywhere,
    /// Those of `--cors-origin`, and the front door's own.
    Allowed,
    /// The front door's own.
    Own,
}

/// The guard of one route.
#[derive(Debug, Clone)]
pub(crate) struct Border {
    /// The host names that the front door is called by.
    pub(crate) hosts: Hosts,
    pub(crate) origins: Origins,
    pub(crate) reach: Reach,
    /// The certificate of the port that the route is on: its names are this front door's.
    pub(crate) certificate: Option<tls::Server>,
}

/// Lets a request pass when it is for this front door and its page, if a page sent it, may send it.
pub(crate) async fn guard(State(border): State<Border>, request: Request, next: Next) -> Response {
    match border.judge(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

impl Border {
    fn judge(&self, request: &Request) -> Result<(), ApiError> {
        check_host(&self.hosts, self.certificate.as_ref(), request)?;
        if may_send(self.reach, &self.origins, request.method(), request.headers()) {
            return Ok(());
        }
        let detail = match self.reach {
            Reach::Own => "pages of other origins may not do this",
            Reach::Anywhere | Reach::Allowed => {
                "pages of this origin may not do this; --cors-origin names those that may"
            }
        };
        let mut error = ApiError::new(ErrorCode::OriginNotAllowed, detail);
        error.0.field = Some("Origin".to_owned());
        Err(error)
    }
}

/// Makes sure that a request was sent to a name that this front door is known by, or that the certificate of its port is for.
///
/// # Errors
/// It names another host, or more than one.
pub(crate) fn check_host(
    hosts: &Hosts,
    certificate: Option<&tls::Server>,
    request: &Request,
) -> Result<(), ApiError> {
    let lines = request.headers().get_all(header::HOST);
    let named = lines.iter().map(|host| host.to_str().unwrap_or("?"));
    // A request in the form for proxies names the host once more.
    let named = named.chain(request.uri().authority().map(axum::http::uri::Authority::as_str));
    let certified = |host| certificate.zip(name_of(host)).is_some_and(|(server, name)| server.is_for(name));
    for host in named {
        if !hosts.knows(host) && !certified(host) {
            return Err(unknown_host(host));
        }
    }
    if lines.iter().nth(1).is_some() {
        return Err(unknown_host("more than one host"));
    }
    Ok(())
}

fn unknown_host(host: &str) -> ApiError {
    let host: String = host.chars().take(MAX_REPEATED).collect();
    let mut error = ApiError::new(
        ErrorCode::HostNotAllowed,
        format!("this front door is not known as {host:?}; {ALLOWED_HOST} adds a name"),
    );
    error.0.field = Some("Host".to_owned());
    error
}

/// Whether pages of the origin that a request names, if it comes from a page, may send it.
pub(crate) fn may_send(reach: Reach, origins: &Origins, method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = text(HeaderName::from_static("sec-fetch-site"));
    if reach == Reach::Anywhere || matches!(site, Some("same-origin" | "none")) {
        return true;
    }
    let allowed = |origin: &HeaderValue| reach == Reach::Allowed && origins.allow(origin);
    let mut given = headers.get_all(header::ORIGIN).iter().peekable();
    if given.peek().is_some() {
        return given.all(|origin| allowed(origin) || is_host_of(origin, text(header::HOST)));
    }
    let Some(_elsewhere) = site else { return true };
    let changes_nothing = matches!(*method, Method::GET | Method::HEAD);
    let follows_a_link = text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate");
    (changes_nothing && follows_a_link) || (reach == Reach::Allowed && *origins == Origins::Any)
}

/// Whether a page was loaded from the host that the request is for. The scheme says nothing: TLS may end at a proxy.
fn is_host_of(origin: &HeaderValue, host: Option<&str>) -> bool {
    let (Ok(origin), Some(host)) = (origin.to_str(), host) else { return false };
    let host = match origin.split_once("://") {
        Some(("http", page)) => Some((page, host.strip_suffix(":80").unwrap_or(host))),
        Some(("https", page)) => Some((page, host.strip_suffix(":443").unwrap_or(host))),
        _ => None,
    };
    host.is_some_and(|(page, host)| page.eq_ignore_ascii_case(host))
}

impl Origins {
    /// Whether pages of this origin are among them.
    pub(crate) fn allow(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Local => origin.to_str().is_ok_and(is_local_origin),
            Self::Only(list) => list.contains(origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Method = Method::GET;
    const POST: Method = Method::POST;

    fn sends(
        reach: Reach,
        origins: &Origins,
        method: &Method,
        lines: &[(&'static str, &'static str)],
    ) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        may_send(reach, origins, method, &headers)
    }

    #[test]
    fn only_pages_of_the_front_door_itself_may_do_what_operators_do() {
        for (lines, good) in [
            (&[][..], true),
            (&[("host", "farm:8080")], true),
            (&[("host", "farm:8080"), ("origin", "http://farm:8080")], true),
            (&[("host", "farm"), ("origin", "https://farm")], true),
            (&[("host", "farm:443"), ("origin", "https://farm")], true),
            (&[("host", "farm:443"), ("origin", "http://farm")], false),
            (&[("host", "farm:8080"), ("origin", "http://farm")], false),
            (&[("host", "farm:8080"), ("origin", "https://evil.example")], false),
            (&[("host", "farm:8080"), ("origin", "http://localhost:5173")], false),
            (
                &[("host", "farm:8080"), ("origin", "http://farm:8080"), ("origin", "https://evil.example")],
                false,
            ),
            (&[("host", "farm:8080"), ("origin", "null")], false),
            (&[("origin", "null")], false),
            (&[("host", "inner"), ("origin", "https://farm"), ("sec-fetch-site", "same-origin")], true),
            (&[("host", "farm"), ("sec-fetch-site", "none")], true),
            (&[("host", "farm"), ("sec-fetch-site", "cross-site")], false),
            (&[("host", "farm"), ("sec-fetch-site", "same-site")], false),
        ] {
            for origins in [Origins::Any, Origins::Local] {
                assert_eq!(sends(Reach::Own, &origins, &POST, lines), good, "{origins:?} {lines:?}");
            }
        }
    }

    #[test]
    fn pages_of_other_origins_send_what_they_may_and_nothing_else() {
        let listed = Origins::Only(vec![HeaderValue::from_static("https://app.example")]);
        for (origins, origin, good) in [
            (&Origins::Any, "https://other.example", true),
            (&Origins::Any, "null", true),
            (&listed, "https://app.example", true),
            (&listed, "https://other.example", false),
            (&listed, "https://app.example.evil", false),
            (&listed, "http://localhost:3000", false),
            (&listed, "null", false),
            (&listed, "http://farm:8080", true),
            (&Origins::Local, "http://localhost:3000", true),
            (&Origins::Local, "http://[::1]:3000", true),
            (&Origins::Local, "http://farm:8080", true),
            (&Origins::Local, "https://app.example", false),
            (&Origins::Local, "null", false),
        ] {
            for method in [GET, POST, Method::OPTIONS, Method::PATCH, Method::DELETE] {
                let lines = [("host", "farm:8080"), ("origin", origin)];
                assert_eq!(
                    sends(Reach::Allowed, origins, &method, &lines),
                    good,
                    "{origins:?} {origin} {method}"
                );
                assert!(sends(Reach::Anywhere, origins, &method, &lines));
            }
        }
    }

    #[test]
    fn a_link_may_be_followed_from_anywhere_and_nothing_is_sent_so() {
        let link = &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        let part = &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
        for reach in [Reach::Own, Reach::Allowed] {
            assert!(sends(reach, &Origins::Local, &GET, link));
            assert!(!sends(reach, &Origins::Local, &POST, link), "a form");
            assert!(!sends(reach, &Origins::Local, &GET, part), "an image or a script");
        }
    }
}
