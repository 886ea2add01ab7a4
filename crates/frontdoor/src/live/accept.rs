//! The handshake of a live connection: limits of frames and buffers, then the session as a task of its own. A connection that breaks
//! before that leaves nothing.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{Instrument, debug, info_span};
use uuid::Uuid;

use super::session::{self, Parts, Subscriber};
use super::socket::socket;

/// Answers a handshake, whose `Sec-WebSocket-Key` this is. The session begins once the answer is sent.
pub(crate) fn accept(
    parts: Arc<Parts>,
    key: &HeaderValue,
    upgrade: OnUpgrade,
    subscriber: Subscriber,
) -> Response {
    let connection = Uuid::now_v7();
    let span = info_span!("live", %connection);
    // From here on, so that shutdown waits for handshakes too.
    let token = parts.live.sessions.token();
    let session = async move {
        match upgrade.await {
            Ok(upgraded) => {
                session::run(socket(upgraded).await, &parts, connection, subscriber).await;
            }
            Err(error) => debug!(%error, "the connection broke off before it was a WebSocket"),
        }
        drop(token);
    };
    tokio::spawn(session.instrument(span));
    let headers = [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes())),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}
