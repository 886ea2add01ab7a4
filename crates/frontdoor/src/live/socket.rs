//! The WebSocket of a live connection.
//!
//! Snapshots are written frame by frame, which takes the WebSocket library itself: that of axum writes whole messages, and keeps a
//! buffer of the size of the largest.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Longer messages end the connection; those that are too long only for the protocol are refused.
const MAX_FRAME: usize = 64 * 1024;
/// Buffers are small: there may be thousands of connections, and most of what they are sent is.
const BUFFER: usize = 4096;

/// See the module's documentation.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The WebSocket on a connection whose handshake is done.
pub(super) async fn socket(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER);
    Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}
