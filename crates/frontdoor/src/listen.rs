//! Accepting connections and speaking HTTP/1.1 on them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::Shutdown;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{Instrument, debug, debug_span, warn};

use crate::http::Peer;

/// Most connections at once. More wait in the kernel's backlog.
const MOST_CONNECTIONS: usize = 16_384;
/// Bytes the kernel takes over before a peer has asked for them. What a peer does not read stays with whoever made it, where it
/// has a bound, instead of in megabytes of the kernel's.
const MOST_UNSENT: u32 = 128 * 1024;
/// From the first byte of a request to the end of its head.
const HEAD: Duration = Duration::from_secs(10);
/// A connection without a request is closed after this time. Longer than load balancers keep theirs, so that none of
/// them sends a request into a connection that is being closed.
const IDLE: Duration = Duration::from_secs(75);
/// A caller who has sent all and reads no more looks like one who waits for the last answers: those get this long.
const LEAVING: Duration = Duration::from_secs(1);

/// When to stop.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// No new connections; those there are finish the request they are at.
    pub(crate) accepting: CancellationToken,
    /// Connections are closed at once.
    pub(crate) connections: CancellationToken,
}

/// A connection's place among the [`MOST_CONNECTIONS`]: one that is no HTTP connection any more keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Place(#[expect(dead_code, reason = "it is there to be dropped")] Arc<OwnedSemaphorePermit>);

/// Accepts connections until told to stop. `connections` tracks one task for each.
pub(crate) async fn serve(listener: TcpListener, router: Router, connections: TaskTracker, ends: Ends) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = ends.accepting.cancelled() => return,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else { continue };
        let (router, ends) = (router.clone(), ends.clone());
        let span = debug_span!("connection", %peer);
        connections.spawn(converse(stream, peer, Place(Arc::new(permit)), router, ends).instrument(span));
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let socket = SockRef::from(&stream);
            let set = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_notsent_lowat(MOST_UNSENT));
            if let Err(error) = set {
                debug!(%peer, %error, "connection accepted without its options");
            }
            Some((stream, peer, permit))
        }
        Err(error) => {
            // Out of file descriptors, mostly: busy waiting would not free any.
            warn!(%error, "connection not accepted");
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, place: Place, router: Router, ends: Ends) {
    let turn = Arc::new(AtomicU64::new(0));
    let stream = Arc::new(stream);
    let shared = Shared(Arc::clone(&stream));
    let io = TokioIo::new(Impatient { stream: shared, turn: Arc::clone(&turn), head: None });
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(place.clone());
        let (mut router, turn, stream) = (router.clone(), Arc::clone(&turn), Arc::clone(&stream));
        turn.fetch_add(1, Ordering::Relaxed);
        async move {
            let response: Response = tokio::select! {
                biased;
                Ok(response) = router.call(request.map(Body::new)) => response,
                // An error closes the connection; the request's future is dropped and cleans up after itself.
                () = left(&stream) => return Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            };
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                turn.fetch_add(1, Ordering::Relaxed);
            }
            Ok(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = ends.accepting.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = connection => served,
                () = ends.connections.cancelled() => return,
            }
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}

/// Returns when the caller has hung up. hyper notices that too, but only while it has nothing left to read: one byte
/// beyond the request, a stray line end or the next request, and the caller could leave unnoticed.
async fn left(stream: &TcpStream) {
    // Not READABLE, which is true as long as there are bytes that nobody wants yet. Both include the end of the stream.
    let _closed = stream.ready(Interest::PRIORITY).await;
    sleep(LEAVING).await;
}

/// A stream that somebody else watches.
#[derive(Debug)]
struct Shared(Arc<TcpStream>);

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.0, Shutdown::Write).map_err(io::Error::from))
    }
}

/// A connection that is closed when a request's head does not arrive in time.
#[derive(Debug)]
struct Impatient<S> {
    stream: S,
    /// Odd from the end of a request's head until its answer is made, even while the next head is awaited.
    turn: Arc<AtomicU64>,
    /// Runs from the first byte of a head on, in the turn it was started in.
    head: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let turn = self.turn.load(Ordering::Relaxed);
        if self.head.as_ref().is_some_and(|(started, _)| *started != turn) {
            self.head = None;
        }
        if turn % 2 == 1 {
            return read;
        }
        match read {
            Poll::Ready(read) => {
                if self.head.is_none() && buf.filled().len() > before {
                    self.head = Some((turn, Box::pin(sleep(HEAD))));
                }
                Poll::Ready(read)
            }
            Poll::Pending => match &mut self.head {
                Some((_, head)) => {
                    ready!(head.as_mut().poll(cx));
                    Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the request's head was too slow",
                    )))
                }
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
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

    fn pair() -> (tokio::io::DuplexStream, Impatient<tokio::io::DuplexStream>, Arc<AtomicU64>) {
        let (client, stream) = tokio::io::duplex(1024);
        let turn = Arc::new(AtomicU64::new(0));
        (client, Impatient { stream, turn: Arc::clone(&turn), head: None }, turn)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_ends_the_connection() {
        let (mut client, mut server, _turn) = pair();
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
        assert_eq!(began.elapsed().as_secs(), HEAD.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn neither_idleness_nor_a_long_answer_ends_it() {
        let (mut client, mut server, turn) = pair();
        let mut byte = [0];
        for _ in 0..3 {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut byte).await.unwrap();
            turn.fetch_add(1, Ordering::Relaxed);
            let answering = tokio::time::timeout(HEAD * 3, server.read_u8()).await;
            assert!(answering.is_err(), "while the answer is made, nothing happens");
            turn.fetch_add(1, Ordering::Relaxed);
            let idle = tokio::time::timeout(HEAD * 3, server.read_u8()).await;
            assert!(idle.is_err(), "while nothing is asked, nothing happens");
        }
    }
}
