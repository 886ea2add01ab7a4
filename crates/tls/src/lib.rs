//! TLS between callers, front doors and agents: certificates that are read again when they change.
//!
//! Reading order:
//!
//! | item | what it is |
//! | --- | --- |
//! | [`Options`], [`AgentOptions`] | the flags |
//! | [`Named`], [`Identity`] | files that flags name, and what is wrong with them |
//! | `fresh` | a configuration made of files, and made again when they change |
//! | [`Role`] | what a certificate states that its holder is |
//! | [`Server`], [`Client`] | the two ends of a connection |
//! | `purpose`, [`Expected`] | which certificates are accepted |
//! | [`Peers`], [`PeerMetrics`] | counts of what peers have shown |
//! | `validity` | from when until when a certificate is valid |
//! | `examine` | a look at a pair for an operator |
//! | [`ConnectionLimit`] | a connection limit that evicts the longest idle |
//!
//! Everything here is rustls with ring, TLS 1.2 and 1.3.
//!
//! Invariants: where certificates are demanded, no session is resumed, so every connection shows a certificate that is
//! valid now. A peer without a role is accepted for one release, counted and logged; a peer with another role never.
//!
//! Failure: at start a bad file is an error that names the flag. Later a bad file is logged, and the configuration of
//! before stays.
//!
//! ```
//! // Whatever other machines can reach has a certificate, unless `--insecure` insists.
//! assert!(tls::is_beyond_this_machine("0.0.0.0:8080".parse()?));
//! assert!(!tls::is_beyond_this_machine("127.0.0.1:8080".parse()?));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod client;
mod connection_limit;
mod examine;
mod files;
#[cfg(test)]
mod files_fuzz_tests;
mod fresh;
mod logged_once;
mod metrics;
mod options;
mod peers;
mod provider;
mod purpose;
mod role;
mod server;
#[cfg(test)]
mod tests;
mod validity;

pub use client::{Client, ClientStream, Roots};
pub use connection_limit::{ConnectionLimit, Permit};
pub use examine::{examine, examine_validity};
pub use files::{Identity, Named, TlsError};
pub use logged_once::LoggedOnce;
pub use metrics::PeerMetrics;
pub use options::{AgentOptions, Options, is_beyond_this_machine};
pub use peers::{Expected, Peers, RefusalReason, RoleMismatch, is_refusal};
pub use role::{MAX_SHOWN, NoRole, Role, TRUST_DOMAIN, stated};
pub use server::{Callers, Server, ServerStream};

/// The ALPN protocol of HTTP/1.1.
pub const HTTP1: &[u8] = b"http/1.1";
/// The ALPN protocol of HTTP/2.
pub const HTTP2: &[u8] = b"h2";
