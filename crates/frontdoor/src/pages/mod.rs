//! What a browser loads: the dashboard, the demo, and the client library, all of it inside the program.
//!
//! ```text
//! /            dashboard.html     operates the farm: nothing but what this front door serves may run or be asked
//! /demo        demo.html          a web client: may also open WebSockets to nodes, wherever they are
//! /demo/stage  stage.html         the vendor's viewer: scripts from anywhere, so it has no origin and can operate nothing
//! /client.js   client/            for pages of any origin, with its types beside it; see `library`
//! /pages/…                        styles and modules of the above
//! ```
//!
//! Everything is revalidated with its entity tag, so that a page never runs with another version's modules.

mod library;
mod policy;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use policy::Policy;

/// A file that is served as it is.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its path in the address.
    pub(crate) path: &'static str,
    media_type: &'static str,
    policy: Policy,
    body: Body,
}

/// Where a page's bytes come from.
#[derive(Debug)]
enum Body {
    File(&'static [u8]),
    /// The client library, which is joined from its parts.
    Client,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
/// Browsers never run it; editors and compilers do not mind.
const TYPES: &str = "text/plain; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! body {
    (client) => {
        Body::Client
    };
    ($file:literal) => {
        Body::File(include_bytes!(concat!("../../pages/", $file)))
    };
}

macro_rules! pages {
    ($($path:literal: $file:tt, $media_type:expr, $policy:expr;)+) => {
        pub(crate) const PAGES: &[Page] = &[$(Page {
            path: $path,
            media_type: $media_type,
            policy: $policy,
            body: body!($file),
        }),+];
    };
}

pages! {
    "/": "dashboard.html", HTML, Policy::Operator;
    "/demo": "demo.html", HTML, Policy::Client;
    "/demo/stage": "stage.html", HTML, Policy::Stage;
    "/client.js": client, JS, Policy::Library;
    "/client.d.ts": "client/client.d.ts", TYPES, Policy::Library;
    "/pages/icon.svg": "icon.svg", SVG, Policy::Part;
    "/pages/base.css": "base.css", CSS, Policy::Part;
    "/pages/dashboard.css": "dashboard.css", CSS, Policy::Part;
    "/pages/tables.css": "tables.css", CSS, Policy::Part;
    "/pages/demo.css": "demo.css", CSS, Policy::Part;
    "/pages/stage.css": "stage.css", CSS, Policy::Library;
    "/pages/stage.js": "stage.js", JS, Policy::Library;
    "/pages/demo.js": "demo.js", JS, Policy::Part;
    "/pages/connection.js": "connection.js", JS, Policy::Part;
    "/pages/viewer.js": "viewer.js", JS, Policy::Part;
    "/pages/words.js": "words.js", JS, Policy::Part;
    "/pages/dom.js": "dom.js", JS, Policy::Part;
    "/pages/dashboard.js": "dashboard.js", JS, Policy::Part;
    "/pages/snapshot.js": "snapshot.js", JS, Policy::Part;
    "/pages/history.js": "history.js", JS, Policy::Part;
    "/pages/chart.js": "chart.js", JS, Policy::Part;
    "/pages/window.js": "window.js", JS, Policy::Part;
    "/pages/nodes.js": "nodes.js", JS, Policy::Part;
    "/pages/node.js": "node.js", JS, Policy::Part;
    "/pages/spawns.js": "spawns.js", JS, Policy::Part;
    "/pages/events.js": "events.js", JS, Policy::Part;
    "/pages/failures.js": "failures.js", JS, Policy::Part;
    "/pages/line.js": "line.js", JS, Policy::Part;
    "/pages/orders.js": "orders.js", JS, Policy::Part;
    "/pages/address.js": "address.js", JS, Policy::Part;
    "/pages/ask.js": "ask.js", JS, Policy::Part;
    "/pages/audit.js": "audit.js", JS, Policy::Part;
    "/pages/minutes.js": "minutes.js", JS, Policy::Part;
    "/pages/past.js": "past.js", JS, Policy::Part;
    "/pages/record.js": "record.js", JS, Policy::Part;
    "/pages/scope.js": "scope.js", JS, Policy::Part;
    "/pages/why.js": "why.js", JS, Policy::Part;
    "/pages/trouble.js": "trouble.js", JS, Policy::Part;
    "/pages/signin.js": "signin.js", JS, Policy::Part;
}

impl Page {
    fn bytes(&self) -> &'static [u8] {
        match self.body {
            Body::File(bytes) => bytes,
            Body::Client => library::CLIENT.as_bytes(),
        }
    }

    /// The answer to a request with these headers.
    pub(crate) fn answer(&self, asked: &HeaderMap) -> Response {
        let tag = TAGS.get(self.path);
        let mut response = match tag {
            Some(tag) if known(asked, tag) => StatusCode::NOT_MODIFIED.into_response(),
            _ => {
                ([(header::CONTENT_TYPE, self.media_type)], Bytes::from_static(self.bytes())).into_response()
            }
        };
        let headers = response.headers_mut();
        if let Some(tag) = tag {
            headers.insert(header::ETAG, tag.clone());
        }
        for (name, value) in EVERYWHERE {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        for (name, value) in self.policy.headers() {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        response
    }
}

const EVERYWHERE: [(&str, &str); 3] = [
    ("cache-control", "no-cache"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

/// Entity tags by path, made once.
static TAGS: LazyLock<BTreeMap<&str, HeaderValue>> = LazyLock::new(|| {
    let tag = |page: &Page| HeaderValue::from_str(&format!("\"{:016x}\"", fingerprint(page.bytes()))).ok();
    PAGES.iter().filter_map(|page| Some((page.path, tag(page)?))).collect()
});

/// FNV-1a: the same in every replica of one version, which is all that an entity tag needs.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether the caller has this very version.
fn known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let Ok(tag) = tag.to_str() else { return false };
    let given = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests;
