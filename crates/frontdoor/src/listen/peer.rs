//! What a request knows of the connection it came on: the other end, and what its certificate stated. Set by the listener, which has
//! checked it; nothing in the request can change it.

use std::net::SocketAddr;

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Peer {
    /// Its address as text.
    pub(crate) fn text(self) -> String {
        self.0.ip().to_canonical().to_string()
    }
}

/// Whether the caller has shown a certificate of the farm whose role may read metrics. The handshake has checked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Certified(pub(crate) bool);

/// Whether the certificate that the caller has shown is that of a relay. The handshake has checked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShownByRelay(pub(crate) bool);
