//! Accepts connections, with TLS or without, and speaks HTTP/1.1 on them.
//!
//! ```text
//!  accepted ─▶ first byte ─▶ handshake (with TLS) ─▶ requests, one after the other ─▶ closed, or a WebSocket
//! ```
//!
//! Owns: one task for each connection, and its place (`places`).
//!
//! Invariants: no caller ties the service up by holding connections. A connection that sends nothing, or sends it too slowly, is
//! closed in time (`timeouts`). When places or memory run short, connections without a request are closed (`eviction`), and
//! accepting does not wait for them. A request whose caller has hung up is dropped, and cleans up after itself.
//!
//! Failure: without free file descriptors one connection is evicted, and accepting goes on after a pause.

mod activity;
mod backlog;
mod eviction;
mod forwarded;
mod limit;
mod peer;
mod places;
mod shared_socket;
pub(crate) mod simulated;
mod timeouts;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
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
use socket2::SockRef;
use tls::ConnectionLimit;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;
use tracing::{Instrument, debug, debug_span, warn};

use crate::metrics::{ClosedReason, ConnectionMetrics};
use crate::settings::TrustedProxies;
use activity::{Activity, ActivityBody};
use eviction::ConnectionState;
use shared_socket::SharedSocket;
use timeouts::{FIRST_BYTE_TIMEOUT, TimedStream};

pub(crate) use backlog::bind;
pub(crate) use limit::allow;
pub(crate) use peer::{Certified, Peer, ShownByRelay};
pub(crate) use places::{ConnectionPlace, Places};

/// Handshakes at once: each takes memory before anything is known of its caller.
const MAX_HANDSHAKES: usize = 2048;
/// Unsent bytes that the kernel buffers for a peer. What a peer does not read stays in this process, where it has a bound, instead
/// of in megabytes of the kernel's.
const MAX_UNSENT: u32 = 128 * 1024;
/// A connection that has been of use and has no request is closed after this time. Longer than load balancers keep theirs, so
/// that none of them sends a request into a connection that is being closed.
const IDLE: Duration = Duration::from_secs(75);
/// A caller that has closed its sending side looks like one that has hung up. It has this long to read its last answer.
const LEAVING: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// No new connections; those there are finish the request they are at.
    pub(crate) accepting: CancellationToken,
    /// Connections are closed at once.
    pub(crate) connections: CancellationToken,
}

/// How connections are received.
#[derive(Debug, Clone)]
pub(crate) struct Reception {
    /// `None`: without TLS.
    pub(crate) tls: Option<tls::Server>,
    /// The places there are.
    pub(crate) places: Places,
    proxies: TrustedProxies,
    handshakes: ConnectionLimit,
    metrics: ConnectionMetrics,
}

impl Reception {
    /// `max`: the number of places.
    pub(crate) fn new(
        tls: Option<tls::Server>,
        max: usize,
        places: Places,
        metrics: ConnectionMetrics,
    ) -> Self {
        let (handshakes, proxies) =
            (ConnectionLimit::new(MAX_HANDSHAKES.min(max)), TrustedProxies::default());
        Self { tls, places, proxies, handshakes, metrics }
    }

    /// These load balancers say who a caller is.
    pub(crate) fn behind(self, proxies: TrustedProxies) -> Self {
        Self { proxies, ..self }
    }
}

/// Accepts connections until `ends.accepting`. `connections` tracks one task for each.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    reception: Reception,
    connections: TaskTracker,
    ends: Ends,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = ends.accepting.cancelled() => return,
            accepted = accept(&listener, &reception) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let span = debug_span!("connection", %peer);
        let (router, ends) = (router.clone(), ends.clone());
        let caller =
            Caller { peer, place, router, ends, certified: Certified(false), is_relay: ShownByRelay(false) };
        connections.spawn(receive(stream, caller, reception.clone()).instrument(span));
    }
}

async fn accept(
    listener: &TcpListener,
    reception: &Reception,
) -> Option<(TcpStream, SocketAddr, ConnectionPlace)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            let place = reception.places.enter().await;
            let socket = SockRef::from(&stream);
            let set = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_notsent_lowat(MAX_UNSENT));
            if let Err(error) = set {
                debug!(%peer, %error, "connection accepted without its options");
            }
            Some((stream, peer, place))
        }
        Err(error) => {
            // Out of file descriptors, mostly: busy waiting would not free any, but a connection may close.
            warn!(%error, "connection not accepted");
            reception.places.shed();
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// A connection, and what is known of it.
struct Caller {
    peer: SocketAddr,
    place: ConnectionPlace,
    router: Router,
    ends: Ends,
    certified: Certified,
    is_relay: ShownByRelay,
}

/// Waits for the first byte, so that a silent connection costs no buffers; then does the handshake of TLS, if there is one, and
/// serves.
async fn receive(stream: TcpStream, caller: Caller, reception: Reception) {
    let mut looked = false;
    // Not `readable`: a socket counts as readable from the moment it was accepted until a read has found nothing.
    let peek = poll_fn(|cx| {
        let spoke = stream.poll_peek(cx, &mut ReadBuf::new(&mut [0]));
        if spoke.is_pending() && !std::mem::replace(&mut looked, true) {
            caller.place.set_state(ConnectionState::Silent);
        }
        spoke
    });
    let spoke = tokio::select! {
        biased;
        () = caller.ends.accepting.cancelled() => return,
        spoke = timeout(FIRST_BYTE_TIMEOUT, peek) => spoke.map_err(|_| ClosedReason::Idle),
        () = caller.place.evicted() => Err(ClosedReason::Shed),
    };
    match spoke {
        // Without a byte it has hung up.
        Ok(Ok(0)) => debug!("connection closed by its caller, who had said nothing"),
        Ok(Ok(_)) => Box::pin(attend(stream, caller, reception)).await,
        Ok(Err(error)) => debug!(%error, "connection broken before it said anything"),
        Err(reason) => {
            reception.metrics.closed(reason);
            debug!("connection closed that had said nothing");
        }
    }
}

async fn attend(mut stream: TcpStream, mut caller: Caller, reception: Reception) {
    if reception.proxies.trust(caller.peer.ip()) {
        let announced = tokio::select! {
            biased;
            () = caller.ends.accepting.cancelled() => return,
            announced = timeout(FIRST_BYTE_TIMEOUT, forwarded::announced(&mut stream)) => announced,
            () = caller.place.evicted() => return reception.metrics.closed(ClosedReason::Shed),
        };
        match announced {
            Ok(Ok(announced)) => caller.peer = announced.unwrap_or(caller.peer),
            Ok(Err(error)) => return debug!(%error, "connection closed: its PROXY header cannot be read"),
            Err(_) => return reception.metrics.closed(ClosedReason::Idle),
        }
    }
    let stream = Arc::new(stream);
    let shared = SharedSocket(Arc::clone(&stream));
    let Some(tls) = &reception.tls else {
        return Box::pin(converse(shared, stream, caller, &reception)).await;
    };
    caller.place.set_state(ConnectionState::Shaking);
    let shake = async {
        let _permit = reception.handshakes.enter().await;
        tokio::select! {
            shaken = tls.accept(shared) => shaken.map_err(|error| {
                if tls::is_refusal(&error) {
                    tls.refused(caller.peer.ip(), &error);
                }
                (ClosedReason::Handshake, error.to_string())
            }),
            () = reception.handshakes.eviction_requested() => Err((ClosedReason::Shed, "too many handshakes".to_owned())),
        }
    };
    let shaken = tokio::select! {
        biased;
        () = caller.ends.accepting.cancelled() => return,
        shaken = shake => shaken,
        () = caller.place.evicted() => Err((ClosedReason::Shed, "others needed its place".to_owned())),
    };
    match shaken {
        Ok(secure) => {
            let shown = secure.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certified = Certified(shown.is_some());
            let role = shown.and_then(|shown| tls::stated(shown).ok().flatten());
            let is_relay = ShownByRelay(matches!(role, Some(tls::Role::Relay(_))));
            Box::pin(converse(secure, stream, Caller { certified, is_relay, ..caller }, &reception)).await;
        }
        Err((reason, why)) => {
            reception.metrics.closed(reason);
            debug!(why, "no handshake");
        }
    }
}

/// Bytes of a request's head, and of what is read or written ahead.
const MAX_HEAD: usize = 64 * 1024;

/// Speaks HTTP on `io`, below which is `stream`.
async fn converse<S, H>(io: S, stream: Arc<H>, caller: Caller, reception: &Reception)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: HangUp,
{
    let Caller { peer, place, router, ends, certified, is_relay } = caller;
    let (staying, proxies) = (place.clone(), reception.proxies.clone());
    let activity = Arc::new(Activity::default());
    let io = TokioIo::new(TimedStream::new(io, Arc::clone(&activity)));
    let service = service_fn(|mut request: Request<Incoming>| {
        let peer = forwarded::caller(peer, request.headers(), &proxies);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(place.clone());
        request.extensions_mut().insert(certified);
        request.extensions_mut().insert(is_relay);
        let (mut router, activity, stream) = (router.clone(), Arc::clone(&activity), Arc::clone(&stream));
        let (begun, place) = (place.set_state(ConnectionState::Busy), place.clone());
        activity.begin();
        async move {
            if !begun {
                // It is being closed to make room, and nothing was done for this request.
                activity.end(ClosedReason::Shed);
                return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
            }
            let response: Response = tokio::select! {
                biased;
                Ok(response) = router.call(request.map(Body::new)) => response,
                // An error closes the connection; the request's future is dropped and cleans up after itself.
                () = stream.left() => return Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            };
            let upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if upgrade {
                activity.upgraded();
                place.set_state(ConnectionState::Listening);
            } else {
                activity.answered();
            }
            let left = async move { stream.left().await };
            Ok(response.map(|body| ActivityBody::new(body, (!upgrade).then_some(activity), left)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // The state changes only while the connection is polled, so it need not wake this task by itself.
    let mut last_state = None;
    let leave = staying.evicted();
    let mut leave = pin!(leave);
    let served = poll_fn(|cx| {
        if let Poll::Ready(served) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(served));
        }
        let state = activity.state();
        if let Some(new) = state.filter(|_| state != last_state) {
            last_state = state;
            staying.set_state(new);
        }
        leave.as_mut().poll(cx).map(|()| None)
    });
    let served = tokio::select! {
        served = served => served,
        () = ends.accepting.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = connection => Some(served),
                () = ends.connections.cancelled() => return,
            }
        }
    };
    let reason = match &served {
        None => Some(ClosedReason::Shed),
        Some(Err(error)) => activity.ended().or_else(|| error.is_timeout().then_some(ClosedReason::Idle)),
        // hyper does not call it an error when nothing was sent.
        Some(Ok(())) => activity.ended(),
    };
    if let Some(reason) = reason {
        reception.metrics.closed(reason);
    }
    match served {
        Some(Err(error)) => debug!(%error, "connection ended"),
        None => debug!("connection closed to make room"),
        Some(Ok(())) => {}
    }
}

/// What a connection is made on.
trait HangUp: Send + Sync + 'static {
    /// Returns when the caller has hung up. hyper notices that too, but only while it has nothing left to read: with one byte
    /// beyond the request, a stray line end or the next request, the hang-up would go unnoticed.
    fn left(&self) -> impl Future<Output = ()> + Send;
}

impl HangUp for TcpStream {
    async fn left(&self) {
        // Not READABLE, which is true as long as there are unread bytes. Both include the end of the stream.
        let _closed = self.ready(Interest::PRIORITY).await;
        sleep(LEAVING).await;
    }
}
