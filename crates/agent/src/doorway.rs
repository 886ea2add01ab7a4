//! Connections with TLS: accepted, and handed on once hands were shaken.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tls::{Room, Seat, ServerStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Handshakes at once; when there are more, the oldest is given up.
const MOST_HANDSHAKES: usize = 256;
/// After the machine was out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that nobody has taken over yet.
const MOST_READY: usize = 16;

/// A connection with who is at its other end.
pub(crate) struct Visitor {
    stream: ServerStream<TcpStream>,
    peer: SocketAddr,
    /// Its place, and whether it is asked to leave it.
    _seat: Seat,
    leave: BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visitor").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Visitor {
    /// Whether it has shown a certificate of the farm. The handshake has checked the role.
    pub(crate) fn has_shown_a_certificate(&self) -> bool {
        self.stream.get_ref().1.peer_certificates().is_some()
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }
}

/// Waits between two attempts to accept while the machine is out of something, and reports once what of, and when it is over.
#[derive(Debug, Default)]
pub(crate) struct AcceptPause {
    since: Option<(io::ErrorKind, Option<i32>)>,
}

impl AcceptPause {
    /// A connection was accepted.
    pub(crate) fn over(&mut self, name: &'static str) {
        if self.since.take().is_some() {
            tracing::info!(name, "connections are accepted again");
        }
    }

    /// No connection was accepted. Returns when to try again.
    pub(crate) async fn after(&mut self, name: &'static str, error: &io::Error) {
        let kind = (error.kind(), error.raw_os_error());
        if self.since.replace(kind) != Some(kind) {
            warn!(%error, name, "failed to accept connections, trying on");
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Accepts connections without TLS until `stop` is cancelled.
pub(crate) fn accept(listener: TcpListener, stop: CancellationToken) -> mpsc::Receiver<TcpStream> {
    let (ready, accepted) = mpsc::channel(MOST_READY);
    let work = async move {
        let mut pause = AcceptPause::default();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause.over("grpc");
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(%peer, %error, "connection accepted without its options");
                    }
                    if ready.send(stream).await.is_err() {
                        return;
                    }
                }
                Err(error) => pause.after("grpc", &error).await,
            }
        }
    };
    tokio::spawn(async move { stop.run_until_cancelled(work).await });
    accepted
}

/// Accepts connections, at most so many, until told to stop. When there are more, the oldest is closed.
pub(crate) fn open(
    listener: TcpListener,
    server: tls::Server,
    most: usize,
    stop: CancellationToken,
) -> mpsc::Receiver<Visitor> {
    let (ready, visitors) = mpsc::channel(MOST_READY);
    let doorway = Doorway { server, room: Room::new(most), handshakes: Room::new(MOST_HANDSHAKES), ready };
    let accepting = stop.clone();
    let work = async move {
        let mut pause = AcceptPause::default();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause.over("tls");
                    let (doorway, stop) = (doorway.clone(), stop.clone());
                    let seat = doorway.handshakes.enter().await;
                    let shake = async move { doorway.receive(stream, peer, seat).await };
                    tokio::spawn(async move { stop.run_until_cancelled(shake).await });
                }
                Err(error) => pause.after("tls", &error).await,
            }
        }
    };
    tokio::spawn(async move { accepting.run_until_cancelled(work).await });
    visitors
}

#[derive(Debug, Clone)]
struct Doorway {
    server: tls::Server,
    room: Room,
    handshakes: Room,
    ready: mpsc::Sender<Visitor>,
}

impl Doorway {
    async fn receive(self, stream: TcpStream, peer: SocketAddr, seat: Seat) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "connection accepted without its options");
        }
        let shaken = tokio::select! {
            shaken = self.server.accept(stream) => shaken,
            () = self.handshakes.asked_to_leave() => Err(io::Error::other("too many handshakes")),
        };
        let stream = match shaken {
            Ok(stream) => stream,
            // Somebody who shows a wrong certificate is of interest, somebody who only looks whether it listens is not.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return self.server.refused(peer.ip(), &error);
            }
            Err(error) => return debug!(%peer, %error, "no handshake"),
        };
        drop(seat);
        let seat = self.room.enter().await;
        let room = self.room.clone();
        let leave = async move { room.asked_to_leave().await }.boxed();
        // Nobody takes it over any more when the agent ends.
        self.ready.send(Visitor { stream, peer, _seat: seat, leave }).await.ok();
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        self.leave.as_mut().poll(cx).map(|()| Err(io::Error::other("another connection needs the place")))
    }
}

impl AsyncWrite for Visitor {
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

impl Connected for Visitor {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
