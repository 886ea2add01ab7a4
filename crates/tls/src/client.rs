//! The end of a connection that calls.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::files::{Identity, Named, TlsError};
use crate::fresh::{Fresh, Source};
use crate::provider;

/// A connection whose other end was called.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// Whose certificates are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those that this machine trusts.
    System,
    /// Those of the CAs in this file, and no others.
    File(Named),
}

/// Makes connections with TLS; cloning is cheap.
#[derive(Debug, Clone)]
pub struct Client(Arc<Fresh<Files>>);

#[derive(Debug, Clone)]
struct Files {
    roots: Roots,
    identity: Option<Identity>,
    protocol: &'static [u8],
}

impl Source for Files {
    type Made = ClientConfig;

    fn make(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.roots {
            Roots::File(ca) => ca.roots()?,
            Roots::System => Arc::new(of_this_machine()),
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError { flag: "TLS", wants: "ring", found: e.to_string() })?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = identity.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|e| identity.refused(&e))?
            }
        };
        config.alpn_protocols = vec![self.protocol.to_vec()];
        Ok(config)
    }

    fn files(&self) -> Vec<&Named> {
        let roots = match &self.roots {
            Roots::File(ca) => Some(ca),
            Roots::System => None,
        };
        let pair = self.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        pair.chain(roots).collect()
    }

    fn certificate(&self) -> Option<&Named> {
        self.identity.as_ref().map(|identity| &identity.certificate)
    }
}

/// A machine without any is not wrong: whoever calls is told of an unknown issuer.
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
    /// Reads the files. `identity` is what is shown to those that ask for a certificate; `protocol` is what is spoken on
    /// the connections, such as [`HTTP1`](crate::HTTP1).
    ///
    /// # Errors
    /// A file cannot be read or used; the key is not that of the certificate.
    pub fn open(roots: Roots, identity: Option<Identity>, protocol: &'static [u8]) -> Result<Self, TlsError> {
        Fresh::read(Files { roots, identity, protocol }).map(|fresh| Self(Arc::new(fresh)))
    }

    /// Reads the files again when they have changed, for connections that are made after that. Never returns; it must be
    /// run for as long as the client is used, unless that is short.
    pub async fn keep_fresh(&self) {
        self.0.keep().await;
        std::future::pending().await
    }

    /// Shakes hands with this host, a name or an address (IPv6 with or without brackets), which must show a certificate for
    /// it. The caller sees to a limit of time.
    ///
    /// # Errors
    /// The host is none, it is not trusted, or the connection broke. That it does not trust this end may be told only by the
    /// first read.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<ClientStream<S>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        TlsConnector::from(self.0.current()).connect(name, stream).await
    }

    /// When the certificate that is shown ends, in seconds since 1970, as far as there is one and it can be told.
    #[must_use]
    pub fn not_after(&self) -> Option<u64> {
        self.0.not_after()
    }
}
