//! The called end of a connection: it shows its certificate, and checks the caller's where one is demanded.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::NodeId;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::files::{Identity, Named, TlsError};
use crate::fresh::{Fresh, Made, Source};
use crate::peers::{Expected, Peers, RoleMismatch};
use crate::provider::provider;
use crate::purpose::Callable;
use crate::role::stated;

/// The timeout of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A TLS connection of a caller.
pub type ServerStream<S> = tokio_rustls::server::TlsStream<S>;

/// Which certificates callers must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callers {
    /// Any caller. None is asked for a certificate.
    Anyone,
    /// Any caller. A certificate is optional; one that is shown must be of this CA, and a metrics reader's or front door's.
    MayReadMetrics(Named),
    /// Front doors, which must show a certificate of this CA that was made for clients.
    FrontDoors(Named),
    /// Those who may ask the agent of a node: front doors, and the relay of this node, which must show a certificate of this CA.
    OfAgent(Named, NodeId),
    /// Those who bring viewers to the relay of a node: front doors and relays, which must show a certificate of this CA.
    BringViewers(Named),
}

impl Callers {
    fn ca(&self) -> Option<&Named> {
        match self {
            Self::Anyone => None,
            Self::MayReadMetrics(ca)
            | Self::FrontDoors(ca)
            | Self::OfAgent(ca, _)
            | Self::BringViewers(ca) => Some(ca),
        }
    }

    /// The role that a certificate must state, and whether a caller must show one.
    fn expected(&self) -> (Expected, bool) {
        match self {
            Self::Anyone | Self::MayReadMetrics(_) => (Expected::MetricsReader, false),
            Self::FrontDoors(_) => (Expected::FrontDoor, true),
            Self::OfAgent(_, node) => (Expected::AgentCaller(node.clone()), true),
            Self::BringViewers(_) => (Expected::ViewerSource, true),
        }
    }
}

/// Accepts TLS connections; cloning is cheap and shares the configuration.
#[derive(Debug, Clone)]
pub struct Server {
    files: Arc<Fresh<Files>>,
    peers: Peers,
}

#[derive(Debug, Clone)]
struct Files {
    identity: Identity,
    callers: Callers,
    protocol: &'static [u8],
}

impl Source for Files {
    type Config = ServerConfig;

    fn make(&self) -> Result<Made<ServerConfig>, TlsError> {
        let (chain, key) = self.identity.read()?;
        let shown = chain.first().cloned();
        let role = self.identity.check_role(&chain);
        let wrong = |error: rustls::Error| self.identity.refused(&error);
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = match self.callers.ca() {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = ca.roots()?;
                let inner =
                    WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
                let (expected, must_show) = self.callers.expected();
                let inner = if must_show { inner } else { inner.allow_unauthenticated() };
                let inner = inner.build().map_err(|e| ca.wrong("certificates of a CA in PEM", e))?;
                builder.with_client_cert_verifier(Arc::new(Callable::new(inner, roots, &provider, expected)))
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(wrong)?;
        role?;
        config.alpn_protocols = vec![self.protocol.to_vec()];
        if self.callers.ca().is_some() {
            // A caller that resumes a session does not show its certificate again, which may have expired since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Made { config: Arc::new(config), shown })
    }

    fn files(&self) -> Vec<&Named> {
        let pair = [&self.identity.certificate, &self.identity.key];
        pair.into_iter().chain(self.callers.ca()).collect()
    }

    fn identity(&self) -> Option<&Identity> {
        Some(&self.identity)
    }
}

impl Server {
    /// Reads the files. `protocol` is spoken on the connections, such as [`HTTP1`](crate::HTTP1).
    ///
    /// # Errors
    /// A file cannot be read or used; the key is not that of the certificate; the certificate is of another role.
    pub fn open(identity: Identity, callers: Callers, protocol: &'static [u8]) -> Result<Self, TlsError> {
        let peers = Peers::new(match callers.expected().0 {
            Expected::FrontDoor | Expected::AgentCaller(_) | Expected::ViewerSource => "frontdoor",
            Expected::MetricsReader => "metrics",
            Expected::Agent(_) => "agent",
            Expected::Relay(_) => "relay",
        });
        let files = Arc::new(Fresh::read(Files { identity, callers, protocol })?);
        Ok(Self { files, peers })
    }

    /// Reads the files again when they have changed, for later connections. Never returns: run it for as long as the server
    /// is used.
    pub async fn keep_fresh(&self) {
        self.files.keep().await;
        std::future::pending().await
    }

    /// Shakes hands with a caller, within ten seconds.
    ///
    /// # Errors
    /// The caller speaks no TLS, does not trust this end, is not trusted, or is too slow.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<ServerStream<S>> {
        let accepted = timeout(HANDSHAKE, TlsAcceptor::from(self.files.current()).accept(stream))
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake was too slow")))?;
        let shown = accepted.get_ref().1.peer_certificates().and_then(<[_]>::first);
        if let Some(shown) = shown.filter(|shown| stated(shown) == Ok(None)) {
            self.peers.admitted_without_role(shown);
        }
        Ok(accepted)
    }

    /// Whether every caller must show a certificate of the farm.
    #[must_use]
    pub fn demands_certificates(&self) -> bool {
        self.files.source().callers.expected().1
    }

    /// Counts and logs a refused handshake, as a warning once for each caller and reason.
    pub fn refused(&self, caller: IpAddr, error: &io::Error) {
        self.peers.was_refused(&caller.to_string(), error, RoleMismatch::in_error(error));
    }

    /// Counts of what callers have shown.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Logs that the certificate states no role although it should.
    pub fn warn_without_role(&self) {
        self.files.warn_without_role();
    }

    /// Whether the server's certificate is for this host, a name or an address. Callers of another name refuse it.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        self.files.is_for(host)
    }

    /// When the server's certificate expires, in seconds since 1970; `None` when it cannot be parsed.
    #[must_use]
    pub fn not_after(&self) -> Option<u64> {
        self.files.not_after()
    }
}
