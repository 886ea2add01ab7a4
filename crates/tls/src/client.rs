//! The calling end of a connection: it checks the server's certificate, and shows its own when asked.

use std::io;
use std::sync::Arc;

use model::NodeId;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::files::{Identity, Named, TlsError};
use crate::fresh::{Fresh, Made, Source};
use crate::peers::{Expected, Peers, RoleMismatch};
use crate::provider::provider;

/// A TLS connection to a server.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// The CAs that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// The CAs that this machine trusts.
    System,
    /// The CAs in this file, and no others.
    File(Named),
}

/// Makes TLS connections; cloning is cheap and shares the configuration.
#[derive(Debug, Clone)]
pub struct Client {
    files: Arc<Fresh<Files>>,
    peers: Peers,
}

#[derive(Debug, Clone)]
struct Files {
    roots: Roots,
    identity: Option<Identity>,
    protocol: &'static [u8],
}

impl Source for Files {
    type Config = ClientConfig;

    fn make(&self) -> Result<Made<ClientConfig>, TlsError> {
        let roots = match &self.roots {
            Roots::File(ca) => ca.roots()?,
            Roots::System => Arc::new(of_this_machine()),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError { flag: "TLS", wants: "ring".into(), found: e.to_string() })?
            .with_root_certificates(roots);
        let mut shown = None;
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                let role = identity.check_role(&chain);
                shown = chain.first().cloned();
                let config = builder.with_client_auth_cert(chain, key).map_err(|e| identity.refused(&e))?;
                role?;
                config
            }
        };
        config.alpn_protocols = vec![self.protocol.to_vec()];
        Ok(Made { config: Arc::new(config), shown })
    }

    fn files(&self) -> Vec<&Named> {
        let roots = match &self.roots {
            Roots::File(ca) => Some(ca),
            Roots::System => None,
        };
        let pair = self.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        pair.chain(roots).collect()
    }

    fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

/// The CAs of this machine. A machine without any is no error here: each connection then fails with an unknown issuer.
fn of_this_machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "certificates of this machine cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

impl Client {
    /// Reads the files. `identity` is shown to servers that ask for a certificate; `protocol` is spoken on the connections,
    /// such as [`HTTP1`](crate::HTTP1).
    ///
    /// # Errors
    /// A file cannot be read or used; the key is not that of the certificate; the certificate is of another role.
    pub fn open(roots: Roots, identity: Option<Identity>, protocol: &'static [u8]) -> Result<Self, TlsError> {
        let files = Arc::new(Fresh::read(Files { roots, identity, protocol })?);
        Ok(Self { files, peers: Peers::new("agent") })
    }

    /// The same for connections to relays of nodes instead of agents.
    #[must_use]
    pub fn calling_relays(self) -> Self {
        Self { peers: Peers::new("relay"), ..self }
    }

    /// Reads the files again when they have changed, for later connections. Never returns: run it for as long as the client
    /// is used, unless that is short.
    pub async fn keep_fresh(&self) {
        self.files.keep().await;
        std::future::pending().await
    }

    /// Shakes hands with this host, a name or an address (IPv6 with or without brackets), whose certificate must be for it.
    /// The caller bounds the time.
    ///
    /// # Errors
    /// The host is malformed, its certificate is not trusted, or the connection broke. In TLS 1.3 a server that refuses this end's
    /// certificate may be noticed only by the first read.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<ClientStream<S>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        TlsConnector::from(self.files.current()).connect(name, stream).await
    }

    /// Checks that the other end has shown the certificate of this node's agent. Call it before anything is sent. Counts
    /// and logs a refusal, as a warning once for each node and reason.
    ///
    /// # Errors
    /// The certificate is another node's or of another role. The text is for logs only, since it names nodes.
    pub fn check_agent<S>(&self, stream: &ClientStream<S>, node: &NodeId) -> Result<(), RoleMismatch> {
        self.check(stream, node, &Expected::Agent(node.clone()))
    }

    /// Checks that the other end has shown the certificate of this node's relay, as [`check_agent`](Self::check_agent) does for its
    /// agent. A certificate without a role is refused: no release before roles had relays on nodes.
    ///
    /// # Errors
    /// The certificate is another node's, of another role, or states none.
    pub fn check_relay<S>(&self, stream: &ClientStream<S>, node: &NodeId) -> Result<(), RoleMismatch> {
        self.check(stream, node, &Expected::Relay(node.clone()))
    }

    /// Logs a handshake with this node that failed, as a warning once for each node and reason.
    pub fn refused(&self, node: &NodeId, error: &io::Error) {
        self.peers.was_refused(node.as_str(), error, RoleMismatch::in_error(error));
    }

    fn check<S>(
        &self,
        stream: &ClientStream<S>,
        node: &NodeId,
        expected: &Expected,
    ) -> Result<(), RoleMismatch> {
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let shown = shown.cloned().unwrap_or_else(|| CertificateDer::from(Vec::new()));
        match expected.check(&shown) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                self.peers.admitted_without_role(&shown);
                Ok(())
            }
            Err(refusal) => {
                self.peers.was_refused(node.as_str(), &refusal, Some(&refusal));
                Err(refusal)
            }
        }
    }

    /// Counts of what the other ends have shown.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Logs that the certificate states no role although it should.
    pub fn warn_without_role(&self) {
        self.files.warn_without_role();
    }

    /// When the client's certificate expires, in seconds since 1970; `None` without a certificate, or when it cannot be parsed.
    #[must_use]
    pub fn not_after(&self) -> Option<u64> {
        self.files.not_after()
    }
}
