//! Accepting connections, with TLS or without, for gRPC and the admin port.
//!
//! With TLS, a connection is handed on after its handshake. Handshakes and connections are bounded; beyond the bound the one that has said
//! nothing for longest is closed, so that a peer that holds connections keeps no other out, and takes no descriptors that starts need. When the machine is short of something (descriptors, memory), accepting pauses and
//! goes on, and the log says so once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::tls::{ConnectionLimit, Permit, ServerStream};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::process::{Resource, getrlimit};
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

/// A connection that has its place; with TLS, after its handshake.
pub(crate) struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    /// Counts against the limit of connections.
    _permit: Permit,
    /// Resolves when this connection must close to make room.
    leave: BoxFuture<'static, ()>,
}

/// A connection with TLS.
pub(crate) type SecureConnection = Connection<ServerStream<TcpStream>>;

impl<S> std::fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<S> Connection<S> {
    /// Waits for a place for the connection of this stream.
    async fn enter(room: &ConnectionLimit, stream: S, peer: SocketAddr) -> Self {
        let permit = room.enter().await;
        let room = room.clone();
        let leave = async move { room.eviction_requested().await }.boxed();
        Self { stream, peer, _permit: permit, leave }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl SecureConnection {
    /// Whether it has shown a certificate of the farm. The handshake has checked the role.
    pub(crate) fn has_shown_a_certificate(&self) -> bool {
        self.stream.get_ref().1.peer_certificates().is_some()
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

/// The limit of connections of one port: `max`, but no more than a quarter of the descriptors that this process may have, so that starts
/// and servers' reports always find some.
fn limit(max: usize) -> ConnectionLimit {
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    ConnectionLimit::new(descriptors.map_or(max, |descriptors| max.min(descriptors / 4)).max(1))
}

/// Accepts connections without TLS until `stop` is cancelled, at most `max` at once. `name`: the port's, for the log.
pub(crate) fn plain(
    name: &'static str,
    listener: TcpListener,
    max: usize,
    stop: CancellationToken,
) -> mpsc::Receiver<Connection<TcpStream>> {
    let (ready, accepted) = mpsc::channel(MAX_READY);
    let room = limit(max);
    let work = async move {
        let mut pause = AcceptPause::default();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause.over(name);
                    if let Err(error) = stream.set_nodelay(true) {
                        debug!(%peer, %error, "connection accepted without its options");
                    }
                    let connection = Connection::enter(&room, stream, peer).await;
                    if ready.send(connection).await.is_err() {
                        return;
                    }
                }
                Err(error) => pause.after(name, &error).await,
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
) -> mpsc::Receiver<SecureConnection> {
    let (ready, connections) = mpsc::channel(MAX_READY);
    let acceptor =
        TlsAcceptor { server, room: limit(max), handshakes: ConnectionLimit::new(MAX_HANDSHAKES), ready };
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
    ready: mpsc::Sender<SecureConnection>,
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
        let connection = Connection::enter(&self.room, stream, peer).await;
        // The server is gone when the agent ends.
        self.ready.send(connection).await.ok();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
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

impl Connected for SecureConnection {
    type ConnectInfo = IsRelay;

    fn connect_info(&self) -> IsRelay {
        let shown = self.stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        IsRelay(shown.is_some_and(|shown| matches!(::tls::stated(shown), Ok(Some(::tls::Role::Relay(_))))))
    }
}

impl Connected for Connection<TcpStream> {
    type ConnectInfo = IsRelay;

    fn connect_info(&self) -> IsRelay {
        IsRelay(false)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_connection_that_has_been_silent_longest_makes_room() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut accepted = plain("test", listener, 2, CancellationToken::new());
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(addr).await.unwrap());
            let mut connection = accepted.recv().await.unwrap();
            tokio::spawn(async move { connection.read_u8().await });
        }
        clients.push(TcpStream::connect(addr).await.unwrap());
        accepted.recv().await.unwrap();
        assert_eq!(clients[0].read(&mut [0]).await.unwrap(), 0, "the first one is closed");
    }
}
