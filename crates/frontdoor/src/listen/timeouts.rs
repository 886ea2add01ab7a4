//! Timeouts of a connection: for its first byte, for the rest of a request's head, and for a caller to read its answer.
//!
//! Failure: a timeout ends the connection with an I/O error, and [`Activity`] notes the reason.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;
use crate::metrics::ClosedReason;

/// From the start of a connection to its first byte.
pub(super) const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte of a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From a write that the peer has no room for until it has read something.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that is closed when its first byte or a request's head does not arrive in time, or when its answers are not read.
#[derive(Debug)]
pub(super) struct TimedStream<S> {
    stream: S,
    activity: Arc<Activity>,
    /// The timeout that runs: for the first byte, or for the rest of a head.
    waits: Option<Wait>,
    /// The timeout that runs while the peer reads nothing of what is written.
    unread: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Wait {
    reason: ClosedReason,
    /// The turn that it was started in.
    turn: u64,
    end: Pin<Box<Sleep>>,
}

impl Wait {
    fn start(reason: ClosedReason, turn: u64, time: Duration) -> Option<Self> {
        Some(Self { reason, turn, end: Box::pin(sleep(time)) })
    }
}

impl<S> TimedStream<S> {
    /// The timeout of the first byte runs from now on.
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        let waits = Wait::start(ClosedReason::Idle, activity.turn(), FIRST_BYTE_TIMEOUT);
        Self { stream, activity, waits, unread: None }
    }

    /// Passes on the result of a write, unless the peer has not read for too long.
    fn taken<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.activity.wrote(wrote.is_pending());
        if wrote.is_ready() || self.activity.is_upgraded() {
            self.unread = None;
            return wrote;
        }
        let end = self.unread.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(end.as_mut().poll(cx));
        self.activity.end(ClosedReason::Unread);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let turn = self.activity.turn();
        if self.waits.as_ref().is_some_and(|wait| wait.turn != turn) {
            self.waits = None;
        }
        if turn % 2 == 1 {
            return read;
        }
        match read {
            Poll::Ready(read) => {
                self.activity.heard(buf.filled().len() - before);
                let head =
                    self.waits.as_ref().is_some_and(|wait| matches!(wait.reason, ClosedReason::SlowHead));
                if !head && buf.filled().len() > before {
                    self.waits = Wait::start(ClosedReason::SlowHead, turn, HEAD_TIMEOUT);
                }
                Poll::Ready(read)
            }
            Poll::Pending => match &mut self.waits {
                Some(wait) => {
                    ready!(wait.end.as_mut().poll(cx));
                    let reason = wait.reason;
                    self.activity.end(reason);
                    let why = match reason {
                        ClosedReason::SlowHead => "the request's head was too slow",
                        ClosedReason::Idle
                        | ClosedReason::Shed
                        | ClosedReason::Handshake
                        | ClosedReason::Unread => "nothing was sent",
                    };
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
                }
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.taken(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.taken(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        let flushed = self.taken(cx, flushed);
        if flushed.is_ready() {
            self.activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (tokio::io::DuplexStream, TimedStream<tokio::io::DuplexStream>, Arc<Activity>) {
        let (client, stream) = tokio::io::duplex(1024);
        let activity = Arc::new(Activity::default());
        (client, TimedStream::new(stream, Arc::clone(&activity)), activity)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_ends_the_connection() {
        let (mut client, mut server, activity) = pair();
        let began = Instant::now();
        let trickle = async {
            for _ in 0..30 {
                client.write_all(b"x").await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
        };
        let read = async {
            let mut bytes = Vec::new();
            server.read_to_end(&mut bytes).await
        };
        tokio::select! {
            () = trickle => panic!("the head took 30 s"),
            read = read => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut),
        }
        assert_eq!(began.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
        assert_eq!(activity.ended(), Some(ClosedReason::SlowHead));
    }

    #[tokio::test(start_paused = true)]
    async fn neither_idleness_nor_a_long_answer_ends_it() {
        let (mut client, mut server, activity) = pair();
        let mut byte = [0];
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut byte).await.unwrap();
            activity.begin();
            let answering = tokio::time::timeout(HEAD_TIMEOUT * 3, server.read_u8()).await;
            assert!(answering.is_err(), "while the answer is made, nothing happens");
            activity.answered();
            let idle = tokio::time::timeout(HEAD_TIMEOUT * 3, server.read_u8()).await;
            assert!(idle.is_err(), "while nothing is asked, nothing happens");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_ends_it_and_one_that_is_read_slowly_does_not() {
        let (mut client, mut server, activity) = pair();
        let slowly = async {
            let mut some = [0; 512];
            for _ in 0..8 {
                sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
                client.read_exact(&mut some).await.unwrap();
            }
            client
        };
        let (_client, wrote) = tokio::join!(slowly, server.write_all(&[0; 5 * 1024]));
        wrote.unwrap();
        let began = Instant::now();
        let wrote = server.write_all(&[0; 4 * 1024]).await;
        assert_eq!(wrote.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
        assert_eq!(activity.ended(), Some(ClosedReason::Unread));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_at_all_ends() {
        let (_client, mut server, activity) = pair();
        let began = Instant::now();
        let read = server.read_u8().await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), FIRST_BYTE_TIMEOUT.as_secs());
        assert_eq!(activity.ended(), Some(ClosedReason::Idle));
    }
}
