//! The handshake of a live connection: limits of frames and buffers, then the session as a task of its own. A connection that breaks
//! before that leaves nothing.

use std::sync::Arc;

use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::session::{self, Parts, Subscriber};

/// Longer messages end the connection; those that are too long only for the protocol are refused.
const MAX_FRAME: usize = 64 * 1024;
/// Buffers are small: there may be thousands of connections, and most of what they are sent is.
const BUFFER: usize = 4096;

/// Answers a handshake. The session begins once the answer is sent.
pub(crate) fn accept(parts: Arc<Parts>, upgrade: WebSocketUpgrade, subscriber: Subscriber) -> Response {
    let connection = Uuid::now_v7();
    let span = info_span!("live", %connection);
    // From here on, so that shutdown waits for handshakes too.
    let token = parts.live.sessions.token();
    upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .on_upgrade(move |socket: WebSocket| {
            let session = async move {
                session::run(socket, &parts, connection, subscriber).await;
                drop(token);
            };
            session.instrument(span)
        })
}
