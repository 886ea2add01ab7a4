//! Checking the certificates of callers: issued by the CA, made for clients, and of a role that may call. So an agent's
//! certificate, taken from a node, gives no access to other agents.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

use crate::peers::{Expected, RoleMismatch};

/// The extended key usage `clientAuth` (RFC 5280, 4.2.1.12) in DER: 1.3.6.1.5.5.7.3.2.
const CLIENT_AUTH: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 2];

/// A verifier on top of the usual one, which accepts a certificate without extended key usage for every purpose. This one
/// demands `clientAuth`, and that a stated role is the expected one.
#[derive(Debug)]
pub(crate) struct Callable {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    expected: Expected,
}

impl Callable {
    pub(crate) fn new(
        inner: Arc<dyn ClientCertVerifier>,
        roots: Arc<RootCertStore>,
        provider: &CryptoProvider,
        expected: Expected,
    ) -> Self {
        Self { inner, roots, algorithms: provider.signature_verification_algorithms.all, expected }
    }
}

impl ClientCertVerifier for Callable {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let wrong = |_| Error::InvalidCertificate(CertificateError::InvalidPurpose);
        EndEntityCert::try_from(end_entity)
            .map_err(wrong)?
            .verify_for_usage(
                self.algorithms,
                &self.roots.roots,
                intermediates,
                now,
                KeyUsage::required(CLIENT_AUTH),
                None,
                None,
            )
            .map_err(wrong)?;
        self.expected.check(end_entity).map_err(RoleMismatch::into_tls)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
