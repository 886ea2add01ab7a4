//! Accepting connections, with TLS or without, for gRPC and the admin port.
//!
//! With TLS, a connection is handed on after its handshake. Handshakes and connections are bounded; beyond the bound the oldest one is closed,
//! so that a peer that holds connections keeps no other out. When the machine is short of something (descriptors, memory), accepting pauses and
//! goes on, and the log says so once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::tls::{ConnectionLimit, Permit, ServerStream};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// Handshakes at once; when there are more, the oldest is given up.
const MAX_HANDSHAKES: usize = 256;
/// After the machine was out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that the server has not taken yet.
const MAX_READY: usize = 16;

/// A connection with TLS, after its handshake.
pub(crate) struct Connection {
    stream: ServerStream<TcpStream>,
    peer: SocketAddr,
    /// Counts against the limit of connections.
    _permit: Permit,
    /// Resolves when this connection must close to make room.
    leave: BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
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
pub(crate) fn plain(listener: TcpListener, stop: CancellationToken) -> mpsc::Receiver<TcpStream> {
    let (ready, accepted) = mpsc::channel(MAX_READY);
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

/// Accepts connections, with TLS until `stop` is cancelled, at most `max` at once. Beyond it the oldest is closed.
pub(crate) fn tls(
    listener: TcpListener,
    server: ::tls::Server,
    max: usize,
    stop: CancellationToken,
) -> mpsc::Receiver<Connection> {
    let (ready, connections) = mpsc::channel(MAX_READY);
    let acceptor = TlsAcceptor {
        server,
        room: ConnectionLimit::new(max),
        handshakes: ConnectionLimit::new(MAX_HANDSHAKES),
        ready,
    };
    let accepting = stop.clone();
    let work = async move {
        let mut pause = AcceptPause::default();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause.over("tls");
                    let (acceptor, stop) = (acceptor.clone(), stop.clone());
                    let permit = acceptor.handshakes.enter().await;
                    let shake = async move { acceptor.receive(stream, peer, permit).await };
                    tokio::spawn(async move { stop.run_until_cancelled(shake).await });
                }
                Err(error) => pause.after("tls", &error).await,
            }
        }
    };
    tokio::spawn(async move { accepting.run_until_cancelled(work).await });
    connections
}

#[derive(Debug, Clone)]
struct TlsAcceptor {
    server: ::tls::Server,
    room: ConnectionLimit,
    handshakes: ConnectionLimit,
    ready: mpsc::Sender<Connection>,
}

impl TlsAcceptor {
    async fn receive(self, stream: TcpStream, peer: SocketAddr, permit: Permit) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "connection accepted without its options");
        }
        let shaken = tokio::select! {
            shaken = self.server.accept(stream) => shaken,
            () = self.handshakes.eviction_requested() => Err(io::Error::other("too many handshakes")),
        };
        let stream = match shaken {
            Ok(stream) => stream,
            // A wrong certificate is worth a warning; a port scan is not.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return self.server.refused(peer.ip(), &error);
            }
            Err(error) => return debug!(%peer, %error, "no handshake"),
        };
        drop(permit);
        let permit = self.room.enter().await;
        let room = self.room.clone();
        let leave = async move { room.eviction_requested().await }.boxed();
        // The server is gone when the agent ends.
        self.ready.send(Connection { stream, peer, _permit: permit, leave }).await.ok();
    }
}

impl AsyncRead for Connection {
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

impl AsyncWrite for Connection {
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

/// Whether a call is the relay's of this node, which may ask for viewers and nothing else. The handshake has checked which node it
/// is of. Calls without TLS, and those of front doors, have no such mark or `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IsRelay(pub(crate) bool);

impl Connected for Connection {
    type ConnectInfo = IsRelay;

    fn connect_info(&self) -> IsRelay {
        let shown = self.stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        IsRelay(shown.is_some_and(|shown| matches!(::tls::stated(shown), Ok(Some(::tls::Role::Relay(_))))))
    }
}
