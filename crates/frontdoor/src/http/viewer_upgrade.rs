//! `GET /s/{node}/{spawn}/{token}`: the handshake of a viewer with its spawn.
//!
//! It is no operation of the API, so the description of the surface does not have it: callers get the URL as a whole, as the
//! `endpoint` of their spawn.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use model::api::ErrorCode;

use super::edge::Edge;
use super::error::{ApiError, unreachable};
use super::extract::request_id;
use crate::listen::ShownByRelay;
use crate::viewers::{self, NotConnected, Wanted, shown};

/// Connects a viewer to its spawn: the `endpoint` of a spawn where the front door has a public URL.
///
/// A WebSocket handshake is passed on to the spawn's server as it came, but for the path, and the server's answer comes back as it is.
/// Nobody has to show a credential: the token in the path is one, for this spawn alone, and is good until the spawn ends.
/// Whatever is wrong with a URL is the same `not-found`. A spawn has one viewer at a time.
pub(crate) async fn connect(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, ApiError> {
    let (node, spawn, token) = viewers::parts(request.uri().path()).ok_or_else(no_spawn)?;
    if !is_websocket(request.method(), request.headers()) {
        return Err(ApiError::new(ErrorCode::UpgradeRequired, "this is the address of a WebSocket"));
    }
    if edge.stages.leaving.is_cancelled() {
        return Err(ApiError::leaving());
    }
    // At the relay of a node, front doors name spawns of old consumers by their port.
    let is_front_door = request.extensions().get() == Some(&ShownByRelay(false));
    let shown = shown(token.to_owned(), is_front_door && edge.config.viewers.own_node.is_some());
    let wanted = Wanted { node, spawn, shown };
    let id = request_id(request.extensions());
    edge.viewers.connect(wanted, request, &id).await.map_err(|why| match why {
        NotConnected::NotFound => no_spawn(),
        NotConnected::Taken => ApiError::new(ErrorCode::AlreadyConnected, "the spawn has a viewer"),
        NotConnected::Busy => {
            ApiError::new(ErrorCode::NoCapacity, "too many viewers are connecting at once; ask again")
        }
        NotConnected::Registry(error) => error.into(),
        NotConnected::Agent(node, error) => unreachable(&node, &error),
        NotConnected::Server(node, why) | NotConnected::Relay(node, why) => {
            let mut error = ApiError::new(ErrorCode::NodeUnreachable, format!("the spawn on {node}: {why}"));
            error.0.node = Some(node);
            error
        }
    })
}

fn no_spawn() -> ApiError {
    ApiError::not_found("there is no spawn that this URL leads to")
}

/// Whether it is a handshake that a WebSocket server could take (RFC 6455, section 4.2.1). What else is wrong with it, the
/// server says.
fn is_websocket(method: &Method, headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    method == Method::GET && has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}
