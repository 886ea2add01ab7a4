//! One connection of a simulation, which has no listener and no sockets: from its first byte on it is served as any other.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Caller, Certified, Ends, HangUp, Reception, ShownByRelay, converse};

/// Nothing is known of the connection but what is read from it.
#[derive(Debug)]
struct Unwatched;

impl HangUp for Unwatched {
    async fn left(&self) {
        std::future::pending().await
    }
}

/// Speaks HTTP on `io` until it ends.
pub(crate) async fn serve_stream<S>(io: S, peer: SocketAddr, router: Router, reception: Reception, ends: Ends)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = reception.places.enter().await;
    let (certified, is_relay) = (Certified(false), ShownByRelay(false));
    let caller = Caller { peer, place, router, ends, certified, is_relay };
    Box::pin(converse(io, Arc::new(Unwatched), caller, &reception)).await;
}
