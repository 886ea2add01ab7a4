//! The two directions of a relayed connection, and what ends them.
//!
//! ```text
//!            pings ─▶ between whole frames
//!   viewer ◀────────────────────────────── server      Down
//!   viewer ──────────────────────────────▶ server      Up
//!            answers to pings ─▶ dropped
//! ```
//!
//! With a second relay ([`Hop`]), the answers are dropped by the one behind, and its own pings by the one in front.
//!
//! Each side is at rest, sending, or closed. Either side's end is passed on to the other one, which then has [`LINGER`] to
//! finish. A viewer counts as gone when it has answered a ping with nothing, not even with part of a frame, for a whole interval,
//! or has not taken what waits for it during two. A relay behind another one counts it as gone when for two intervals nothing came from
//! there, and nothing was taken; one in front counts the server as gone when nothing came from the relay behind for two intervals.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::frames::Frames;
use crate::hop::Hop;
use crate::pings::{PING, PONG, PingTag, TagFilter};

/// How long one side may go on sending after the other has ended.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes read at once by a direction with little traffic, and by one with much.
const MIN_BUFFER: usize = 4 * 1024;
const MAX_BUFFER: usize = 256 * 1024;

/// How a connection is relayed.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Time between two pings of the viewer.
    pub ping_interval: Duration,
    /// Where this relay stands.
    pub hop: Hop,
}

/// What has passed so far; may be read at any time.
#[derive(Debug, Default)]
pub struct Passed {
    up: AtomicU64,
    down: AtomicU64,
    frames: AtomicU64,
}

impl Passed {
    /// Bytes from the viewer to the server.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes from the server to the viewer, without pings.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Frames from the viewer, without answers to pings.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndedBy {
    /// The viewer closed it, or its connection broke.
    Viewer,
    /// The server closed it, or its connection broke.
    Server,
    /// The viewer did not answer pings any more.
    Vanished,
    /// The relay has cut it on request.
    Cut,
}

impl EndedBy {
    /// Every value, for metrics that begin with 0.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Server, Self::Vanished, Self::Cut];

    /// The word in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Server => "server",
            Self::Vanished => "vanished",
            Self::Cut => "cut",
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub struct Ended {
    /// The side that ended it, or the relay itself.
    pub by: EndedBy,
    /// With this error, if it did not end in good order.
    pub error: Option<io::Error>,
}

/// What the two directions share.
#[derive(Debug, Default)]
struct Signs {
    /// Bytes that came from the viewer, answers to pings included.
    heard: AtomicU64,
    /// The server does not take what the viewer sends: while it does not, nothing is read from the viewer.
    server_is_slow: AtomicBool,
}

/// Relays until one side ends, the viewer has vanished or `cut` is cancelled. Both connections are closed when this returns.
pub async fn relay<V, S>(
    viewer: V,
    server: S,
    settings: Settings,
    passed: &Passed,
    cut: &CancellationToken,
) -> Ended
where
    V: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let (from_viewer, to_viewer) = split(viewer);
    let (from_server, to_server) = split(server);
    let (tag, signs) = (settings.hop.tag(), Signs::default());
    let mut up = std::pin::pin!(up(from_viewer, to_server, tag, settings.hop, passed, &signs));
    let mut down = std::pin::pin!(down(from_server, to_viewer, tag, settings, passed, &signs));
    tokio::select! {
        () = cut.cancelled() => Ended { by: EndedBy::Cut, error: None },
        ended = &mut up => {
            // Also when the server takes nothing any more: what it sent before is on its way.
            timeout(LINGER, down).await.ok();
            ended
        }
        ended = &mut down => {
            if ended.by == EndedBy::Server {
                timeout(LINGER, up).await.ok();
            }
            ended
        }
    }
}

impl Ended {
    fn of(by: EndedBy, outcome: io::Result<()>) -> Self {
        Self { by, error: outcome.err() }
    }
}

/// A buffer that is large only while much passes.
#[derive(Debug)]
struct Buffer(Vec<u8>);

impl Buffer {
    fn new() -> Self {
        Self(vec![0; MIN_BUFFER])
    }

    /// `read` bytes came at once.
    fn adapt(&mut self, read: usize) {
        if read == self.0.len() && read < MAX_BUFFER {
            self.0.resize(read * 2, 0);
        }
    }

    /// Nothing came for a while.
    fn shrink(&mut self) {
        if self.0.len() > MIN_BUFFER {
            *self = Self::new();
        }
    }
}

/// From the viewer to the server.
async fn up<V: AsyncRead, S: AsyncWrite>(
    mut viewer: ReadHalf<V>,
    mut server: WriteHalf<S>,
    tag: PingTag,
    hop: Hop,
    passed: &Passed,
    signs: &Signs,
) -> Ended {
    let (mut buffer, mut answers, mut out) = (Buffer::new(), TagFilter::new(PONG, tag), Vec::new());
    let outcome = loop {
        let read = match viewer.read(&mut buffer.0).await {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(error) => break Err(error),
        };
        signs.heard.fetch_add(length(read), Ordering::Relaxed);
        let frames = answers.filter(&buffer.0[..read], &mut out);
        let passed_on: &[u8] = match hop {
            // The relay behind hears of the viewer by the answers.
            Hop::InFront(_) => &buffer.0[..read],
            Hop::Alone | Hop::Behind(_) => &out,
        };
        passed.frames.fetch_add(frames, Ordering::Relaxed);
        signs.server_is_slow.store(true, Ordering::Relaxed);
        let written = async {
            server.write_all(passed_on).await?;
            server.flush().await
        };
        if let Err(error) = written.await {
            return Ended::of(EndedBy::Server, Err(error));
        }
        signs.server_is_slow.store(false, Ordering::Relaxed);
        passed.up.fetch_add(length(passed_on.len()), Ordering::Relaxed);
        buffer.adapt(read);
        if read < MIN_BUFFER {
            buffer.shrink();
            out = Vec::new();
        } else {
            out.clear();
        }
    };
    server.shutdown().await.ok();
    Ended::of(EndedBy::Viewer, outcome)
}

/// From the server to the viewer, and the pings.
async fn down<S: AsyncRead, V: AsyncWrite>(
    mut server: ReadHalf<S>,
    viewer: WriteHalf<V>,
    tag: PingTag,
    settings: Settings,
    passed: &Passed,
    signs: &Signs,
) -> Ended {
    let mut buffer = Buffer::new();
    let mut to_viewer =
        ToViewer { viewer, settings, frames: Frames::default(), taken: 0, watch: Watch::new(tag, settings) };
    let is_in_front = matches!(settings.hop, Hop::InFront(_));
    let (mut pings, mut out) = (is_in_front.then(|| TagFilter::new(PING, tag)), Vec::new());
    let mut quiet_intervals = 0;
    let outcome = loop {
        let read = tokio::select! {
            read = server.read(&mut buffer.0) => read,
            _ = to_viewer.watch.ticks.tick() => {
                if quiet_intervals > 0 {
                    buffer.shrink();
                    out = Vec::new();
                }
                if is_in_front && quiet_intervals > 1 {
                    return Ended::of(EndedBy::Server, Err(io::ErrorKind::TimedOut.into()));
                }
                quiet_intervals += 1;
                match to_viewer.tick(signs).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                }
            }
        };
        let read = match read {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(error) => break Err(error),
        };
        quiet_intervals = 0;
        let passed_on: &[u8] = match &mut pings {
            None => &buffer.0[..read],
            Some(pings) => {
                out.clear();
                pings.filter(&buffer.0[..read], &mut out);
                &out
            }
        };
        if let Err(ended) = to_viewer.pass(passed_on, signs).await {
            return ended;
        }
        passed.down.fetch_add(length(passed_on.len()), Ordering::Relaxed);
        buffer.adapt(read);
    };
    to_viewer.viewer.shutdown().await.ok();
    Ended::of(EndedBy::Server, outcome)
}

/// Whether the viewer is still there, as far as pings show.
#[derive(Debug)]
struct Watch {
    tag: PingTag,
    ticks: Interval,
    /// Whether the relay in front watches over the viewer.
    is_behind: bool,
    /// What had been heard of the viewer when it was last pinged; `None` before that.
    pinged: Option<u64>,
    /// Behind another relay: what had been heard and taken at the last two ticks.
    signs_of_life: [Option<u64>; 2],
    /// A ping waits for the end of a frame.
    due: bool,
}

impl Watch {
    fn new(tag: PingTag, settings: Settings) -> Self {
        let mut ticks = interval_at(Instant::now() + settings.ping_interval, settings.ping_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let is_behind = matches!(settings.hop, Hop::Behind(_));
        Self { tag, ticks, is_behind, pinged: None, signs_of_life: [None; 2], due: false }
    }

    /// Time for a ping. `false`: the last one was not answered, or the relay in front is gone. `taken`: bytes that it has taken.
    fn tick(&mut self, signs: &Signs, taken: u64) -> bool {
        let heard = signs.heard.load(Ordering::Relaxed);
        let is_silent = if self.is_behind {
            let now = Some(heard + taken);
            let is_silent = self.signs_of_life == [now; 2];
            self.signs_of_life = [self.signs_of_life[1], now];
            is_silent
        } else {
            self.pinged == Some(heard)
        };
        if is_silent && !signs.server_is_slow.load(Ordering::Relaxed) {
            return false;
        }
        self.due = true;
        true
    }
}

struct ToViewer<V> {
    viewer: WriteHalf<V>,
    settings: Settings,
    frames: Frames,
    /// Bytes that the viewer, or the relay in front, has taken, pings left out.
    taken: u64,
    watch: Watch,
}

impl<V: AsyncWrite> ToViewer<V> {
    async fn tick(&mut self, signs: &Signs) -> Result<(), Ended> {
        if !self.watch.tick(signs, self.taken) {
            return Err(Ended { by: EndedBy::Vanished, error: None });
        }
        if self.frames.at_boundary() { self.ping(signs).await } else { Ok(()) }
    }

    /// Passes bytes on. A ping that is due goes between the first two frames that these bytes are of.
    async fn pass(&mut self, bytes: &[u8], signs: &Signs) -> Result<(), Ended> {
        let mut rest = bytes;
        if self.watch.due {
            let (first, later) = rest.split_at(self.frames.advance_to_boundary(rest));
            self.write(first).await?;
            if self.frames.at_boundary() {
                self.ping(signs).await?;
            }
            rest = later;
        }
        let mut passed = rest;
        while !passed.is_empty() {
            passed = &passed[self.frames.advance_to_boundary(passed)..];
        }
        self.write(rest).await?;
        self.taken += length(bytes.len());
        self.flush().await
    }

    async fn ping(&mut self, signs: &Signs) -> Result<(), Ended> {
        let frame = self.watch.tag.ping();
        self.write(&frame).await?;
        self.flush().await?;
        self.watch.due = false;
        self.watch.pinged = Some(signs.heard.load(Ordering::Relaxed));
        Ok(())
    }

    /// Writes as fast as the viewer takes it. One that takes nothing at all for two intervals has vanished.
    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Ended> {
        let longest = self.settings.ping_interval * 2;
        while !bytes.is_empty() {
            match timeout(longest, self.viewer.write(bytes)).await {
                Ok(Ok(0)) => return Err(Ended::of(EndedBy::Viewer, Err(io::ErrorKind::WriteZero.into()))),
                Ok(Ok(written)) => bytes = &bytes[written..],
                Ok(Err(error)) => return Err(Ended::of(EndedBy::Viewer, Err(error))),
                Err(_) => return Err(Ended { by: EndedBy::Vanished, error: None }),
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        match timeout(self.settings.ping_interval * 2, self.viewer.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Ended::of(EndedBy::Viewer, Err(error))),
            Err(_) => Err(Ended { by: EndedBy::Vanished, error: None }),
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
