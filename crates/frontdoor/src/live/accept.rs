//! The handshake of a live connection, once its request was checked.
//!
//! Snapshots are written frame by frame, which takes the WebSocket library itself: that of axum writes whole messages.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tracing::{Instrument, debug, info_span};
use uuid::Uuid;

use super::session::{self, Parts, Subscriber};

/// Longer messages end the connection; those that are too long only for the protocol are refused.
const MAX_FRAME: usize = 64 * 1024;
/// Buffers are small: there may be thousands of connections, and most of what they are sent is.
const BUFFER: usize = 4096;

/// A live connection.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

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
                let config = WebSocketConfig::default()
                    .max_message_size(Some(MAX_FRAME))
                    .max_frame_size(Some(MAX_FRAME))
                    .read_buffer_size(BUFFER)
                    .write_buffer_size(BUFFER);
                let io = TokioIo::new(upgraded);
                let socket = Socket::from_raw_socket(io, Role::Server, Some(config)).await;
                session::run(socket, &parts, connection, subscriber).await;
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
