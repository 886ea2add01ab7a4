//! TLS between callers, front doors and agents: certificates that are read again when they change.
//!
//! Reading order: [`Options`] and [`AgentIdentity`] (what a role is told), [`files`](Named) (what is read, and what is wrong
//! with it), `fresh` (what was read, until the files change), [`Role`] (what a certificate says its holder is), [`Server`] and
//! [`Client`] (the two ends of a connection), `purpose` and [`Expected`] (whose certificates are taken), [`Peers`] (what was
//! shown), `validity` (until when), [`Room`] (a bounded number of places).
//!
//! Everything here is rustls with ring, TLS 1.2 and 1.3.

mod client;
mod files;
mod fresh;
mod metrics;
mod options;
mod peers;
mod provider;
mod purpose;
mod role;
mod room;
mod seen;
mod server;
#[cfg(test)]
mod tests;
mod validity;

pub use client::{Client, ClientStream, Roots};
pub use files::{Identity, Named, TlsError};
pub use metrics::PeerMetrics;
pub use options::{AgentIdentity, Options, is_beyond_this_machine};
pub use peers::{Expected, Peers, Refusal, RefusalReason, is_refusal};
pub use role::{MAX_SHOWN, NoRole, Role, TRUST_DOMAIN, stated};
pub use room::{Plea, Room, Seat};
pub use server::{Callers, Server, ServerStream};

/// The protocol of a connection that speaks HTTP/1.1.
pub const HTTP1: &[u8] = b"http/1.1";
/// The protocol of a connection that speaks HTTP/2.
pub const HTTP2: &[u8] = b"h2";
