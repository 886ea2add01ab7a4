//! WebSockets: an upgrade of any path has a spawn started for it and waits until that is ready; one below a prefix of ports leads to
//! the spawn that has the port; one with the path of a viewer's URL leads to that viewer's spawn.
//!
//! Invariants: upgrades that wait are bounded in number and in time. A spawn that was started for an upgrade ends with its caller, up to
//! the moment in which its viewer is connected; from then on it ends as the spawn of any viewer does.
//!
//! Failure: a status line and the end of the connection, as the vendor's proxy answers.

use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::response::Response;
use model::RendererType;
use tokio::time::Instant;
use tracing::field::display;
use tracing::{Span, info};

use super::answer::raw;
use super::failure::Failure;
use super::index::AtPort;
use super::parts::{ANSWER_WITHIN, Hoops};
use super::request::Wanted as Asked;
use super::route::UpgradeTarget;
use crate::http::request_id;
use crate::metrics::HoopsWay;
use crate::request_context::RequestContext;
use crate::settings::HoopsEndpoint;
use crate::viewers::{NotConnected, Shown, Wanted};

/// Whether the request asks for another protocol on its connection.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(','));
    headers.contains_key(header::UPGRADE) && tokens.any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Whether the other protocol is HTTP/2, and that alone.
pub(super) fn offers_http2(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().all(|value| value == "h2c")
}

pub(super) async fn upgrade(hoops: &Hoops, target: UpgradeTarget, request: Request) -> Response {
    if !is_websocket(&request) {
        return raw(StatusCode::BAD_REQUEST, "Bad Request");
    }
    if hoops.edge.stages.leaving.is_cancelled() {
        return raw(StatusCode::SERVICE_UNAVAILABLE, "No ports available: this front door is shutting down");
    }
    match target {
        UpgradeTarget::New => {
            let answer = proxied(hoops, request).await.inspect_err(|failure| hoops.refused(failure));
            let answer = answer.unwrap_or_else(|failure| failure.raw());
            hoops.metrics.spawned(HoopsWay::Proxy, answer.status().as_u16());
            answer
        }
        UpgradeTarget::Viewer { node, spawn, token } => {
            relayed(hoops, Wanted { node, spawn, shown: Shown::Token(token) }, request).await
        }
        UpgradeTarget::Port(port) => by_port(hoops, port, request).await,
        UpgradeTarget::NoPort | UpgradeTarget::NoViewer => raw(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// A handshake, and nothing smuggled in with it: what follows the head belongs to the WebSocket.
fn is_websocket(request: &Request) -> bool {
    let headers = request.headers();
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let is_exact = upgrades.next().is_some_and(|value| value == "websocket") && upgrades.next().is_none();
    let lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let has_body =
        headers.contains_key(header::TRANSFER_ENCODING) || lengths.into_iter().any(|length| length != "0");
    is_exact && !has_body && request.method() == Method::GET && request.version() == Version::HTTP_11
}

/// Connects a viewer to a spawn that is started for it.
async fn proxied(hoops: &Hoops, request: Request) -> Result<Response, Failure> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let busy = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "No ports available: too many viewers wait");
    let _held = hoops.held.try_acquire().map_err(|_| busy())?;
    let _counted = hoops.metrics.held();
    let turn = hoops.admit(request.extensions())?;
    let context = RequestContext::of(request.extensions());
    let asked = Asked::of(rendering_location(request.uri().query()));
    let order = hoops.order(&asked, hoops.forms.proxied.clone(), &turn)?;
    let (spawned, mut held) = hoops.spawn(&order, &context, deadline).await?;
    Span::current().record("spawn.id", display(spawned.id)).record("node.id", display(&spawned.node));
    let token = spawned.endpoint.rsplit('/').next().unwrap_or_default().to_owned();
    let wanted = Wanted { node: spawned.node, spawn: spawned.id, shown: Shown::Token(token) };
    match hoops.edge.viewers.connect(wanted, request, &context).await {
        Ok(answer) => {
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                held.keep();
            }
            Ok(answer)
        }
        Err(why) => {
            let (status, message) = not_connected(&why);
            Err(Failure::new(status, message))
        }
    }
}

/// Connects a viewer to the spawn that has this port.
async fn by_port(hoops: &Hoops, port: u16, request: Request) -> Response {
    if hoops.settings.endpoint != HoopsEndpoint::Port {
        hoops.metrics.port_refused("off");
        return raw(StatusCode::NOT_FOUND, "Not Found: ports lead to spawns with --hoops-endpoint port only");
    }
    // What the registry knows now: another node may have had this port since.
    hoops.spawns.catch_up().await;
    let at = hoops.spawns.now().at(port);
    match at {
        AtPort::One(node, spawn) => {
            relayed(hoops, Wanted { node, spawn, shown: Shown::Port(port) }, request).await
        }
        AtPort::Nothing => {
            hoops.metrics.port_refused("unknown");
            raw(StatusCode::NOT_FOUND, "Not Found: no spawn has this port")
        }
        AtPort::Several(nodes) => {
            hoops.metrics.port_refused("ambiguous");
            let nodes = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            info!(port, nodes, "a viewer is refused: spawns of several nodes have this port");
            raw(StatusCode::CONFLICT, "Conflict: spawns of several nodes have this port, so it leads to none")
        }
    }
}

async fn relayed(hoops: &Hoops, wanted: Wanted, request: Request) -> Response {
    let id = request_id(request.extensions());
    let by_port = matches!(wanted.shown, Shown::Port(_));
    Span::current().record("spawn.id", display(wanted.spawn)).record("node.id", display(&wanted.node));
    hoops.edge.viewers.connect(wanted, request, &id).await.unwrap_or_else(|why| {
        if by_port {
            hoops.metrics.port_refused("not-connected");
        }
        let (status, message) = not_connected(&why);
        raw(status, message)
    })
}

fn not_connected(why: &NotConnected) -> (StatusCode, &'static str) {
    info!(reason = why.word(), detail = why.detail(), "a viewer is not connected");
    match why {
        NotConnected::NotFound => (StatusCode::NOT_FOUND, "Not Found"),
        NotConnected::Taken => (StatusCode::CONFLICT, "Conflict: the spawn has a viewer"),
        NotConnected::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many viewers are connecting at once"),
        NotConnected::Registry(_) => (StatusCode::SERVICE_UNAVAILABLE, "the registry is away"),
        NotConnected::Agent(..) => (StatusCode::BAD_GATEWAY, "the agent of the node did not answer"),
        NotConnected::Relay(..) => (StatusCode::BAD_GATEWAY, "the relay of the node did not answer"),
        NotConnected::Server(..) => (StatusCode::BAD_GATEWAY, "the server of the spawn did not answer"),
    }
}

/// The renderer that a query asks for.
fn rendering_location(query: Option<&str>) -> RendererType {
    let mut pairs = query.unwrap_or_default().split('&');
    let location = pairs.find_map(|pair| pair.strip_prefix("renderingLocation="));
    if location == Some("ssr") { RendererType::Ssr } else { RendererType::Csr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_word_asks_for_server_side_rendering() {
        for (query, renderer) in [
            (None, RendererType::Csr),
            (Some(""), RendererType::Csr),
            (Some("renderingLocation=ssr"), RendererType::Ssr),
            (Some("a=b&renderingLocation=ssr&c"), RendererType::Ssr),
            (Some("renderingLocation=SSR"), RendererType::Csr),
            (Some("renderinglocation=ssr"), RendererType::Csr),
            (Some("renderingLocation=csr"), RendererType::Csr),
            (Some("renderingLocation=ssr2"), RendererType::Csr),
        ] {
            assert_eq!(rendering_location(query), renderer, "{query:?}");
        }
    }
}
