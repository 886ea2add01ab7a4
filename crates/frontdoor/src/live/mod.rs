//! The live feed: everybody who wants to know hears what happens on the farm, in order, each event once.
//!
//! ```text
//!  registry ──▶ follow ──▶ feed (view · ring · who listens) ──▶ a bounded queue each ──▶ session ──▶ WebSocket
//! ```
//!
//! Reading order: `protocol` (the frames), `view` (the farm as of one event), `ring` (the events of the last moments),
//! `feed` (both of them, and who is told of what), `follow` (the one task that reads the registry's stream), `resume` and `frames` (how a
//! subscription begins), `rights` (who may hear what), `session` (one connection), `metrics`.
//!
//! Nothing here runs, and nothing is kept, while nobody subscribes. One that is too slow for its queue is sent away; nobody
//! waits for it.

mod feed;
pub(crate) mod follow;
mod frames;
mod protocol;
mod resume;
mod rights;
mod ring;
mod session;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use self::feed::Feed;
use self::frames::Frames;
pub(crate) use self::rights::Rights;
use crate::callers::{Account, Share};
use crate::listen::Place;
use crate::metrics::LiveFigures;
use crate::start::door::Door;

/// Longer messages end the connection; those that are too long only for the protocol are refused.
const LARGEST_FRAME: usize = 64 * 1024;
/// Buffers are small: there may be thousands of connections, and most of what they are sent is.
const BUFFER: usize = 4096;
/// Subscriptions at once that read events of long ago from the registry.
const MOST_READERS: usize = 4;

/// The feed's part of a front door.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) feed: Feed,
    pub(crate) figures: LiveFigures,
    /// One token for each connection.
    pub(crate) sessions: TaskTracker,
    readers: Semaphore,
    /// Snapshots of the last moments.
    frames: Frames,
    interval: Duration,
    buffer: usize,
}

impl Live {
    pub(crate) fn new(interval: Duration, buffer: usize, figures: LiveFigures) -> Self {
        Self {
            feed: Feed::new(figures.clone()),
            figures,
            sessions: TaskTracker::new(),
            readers: Semaphore::new(MOST_READERS),
            frames: Frames::default(),
            interval,
            buffer,
        }
    }
}

/// Who asks to be told.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) rights: Rights,
    /// Its address.
    pub(crate) peer: Option<String>,
    /// Its place among the connections.
    pub(crate) place: Option<Place>,
    /// Whose limits hold for it, and what it has of the live connections; `None` until it has said who it is.
    pub(crate) account: Option<(Arc<Account>, Share)>,
}

/// Answers a handshake; the session goes on when the answer is gone.
pub(crate) fn welcome(door: Arc<Door>, upgrade: WebSocketUpgrade, guest: Guest) -> Response {
    let connection = Uuid::now_v7();
    let span = info_span!("live", %connection);
    // From here on, so that shutdown waits for handshakes too.
    let token = door.live.sessions.token();
    upgrade
        .max_message_size(LARGEST_FRAME)
        .max_frame_size(LARGEST_FRAME)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .on_upgrade(move |socket: WebSocket| {
            let session = async move {
                session::run(socket, &door, connection, guest).await;
                drop(token);
            };
            session.instrument(span)
        })
}

/// A frame that says something.
fn text(text: axum::extract::ws::Utf8Bytes) -> Message {
    Message::Text(text)
}
