//! Certificates and keys as files that flags name, and what is wrong with them. No error quotes a file's contents.

use std::borrow::Cow;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use webpki::EndEntityCert;

use crate::role::{NoRole, Role, stated};

/// A file of TLS that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {flag}: expected {wants}, got {found}")]
pub struct TlsError {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// What the flag expects.
    pub wants: Cow<'static, str>,
    /// The file, and what is wrong with it.
    pub found: String,
}

/// A file with the flag that named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// Path of that file, as the flag gave it.
    pub path: PathBuf,
}

impl Named {
    /// The file that this flag names.
    #[must_use]
    pub fn new(flag: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { flag, path: path.into() }
    }

    /// The first certificate in it, in DER.
    ///
    /// # Errors
    /// The file cannot be read, or there is none in it.
    pub fn first_certificate(&self) -> Result<Vec<u8>, TlsError> {
        Ok(self.certificates()?.first().map(|first| first.to_vec()).unwrap_or_default())
    }

    /// Whether its first certificate is for this host, a name or an address (IPv6 with or without brackets).
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        self.first_certificate().is_ok_and(|der| is_for(&CertificateDer::from(der), host))
    }

    /// The role that its first certificate states; `None` when it states none.
    ///
    /// # Errors
    /// There is no certificate in it, or its certificate states what is no role of a farm.
    pub fn role(&self) -> Result<Option<Role>, NoRole> {
        let der = self.first_certificate().map_err(|_| NoRole::Unreadable)?;
        stated(&CertificateDer::from(der))
    }

    pub(crate) fn wrong(&self, wants: impl Into<Cow<'static, str>>, why: impl std::fmt::Display) -> TlsError {
        TlsError { flag: self.flag, wants: wants.into(), found: format!("{} ({why})", self.path.display()) }
    }

    /// Every certificate in it; at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.bytes().map_err(|e| self.wrong(CERTIFICATES, e))?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let all = all.map_err(|e| self.wrong(CERTIFICATES, e))?;
        if all.is_empty() {
            return Err(self.wrong(CERTIFICATES, "there is none in it"));
        }
        Ok(all)
    }

    /// What is in it, without the byte order mark that some editors begin a file with: a first line with one begins no PEM.
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let bytes = fs::read(&self.path)?;
        Ok(bytes.strip_prefix("\u{feff}".as_bytes()).map(<[u8]>::to_vec).unwrap_or(bytes))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        const WANTS: &str = "a private key in PEM";
        let bytes = self.bytes().map_err(|e| self.wrong(WANTS, e))?;
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| self.wrong(WANTS, "there is none in it"))
    }

    /// Warns of a key that every user of the machine can read.
    pub(crate) fn warn_if_readable_by_everyone(&self) {
        if self.flag.ends_with("-key") {
            machine::warn_if_readable_by_everyone(self.flag, &self.path);
        }
    }

    /// Its certificates as those that all others must lead to.
    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|e| self.wrong("certificates of a CA in PEM", e))?;
        }
        Ok(Arc::new(roots))
    }

    /// Metadata by which a change of the file is noticed; `None` when there is no file.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        fs::metadata(&self.path).ok().map(|found| Stamp::of(&found))
    }
}

const CERTIFICATES: &str = "certificates in PEM";

/// Whether a certificate is for this host, a name or an address (IPv6 with or without brackets).
pub(crate) fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Ok(name) = ServerName::try_from(host) else { return false };
    EndEntityCert::try_from(certificate).is_ok_and(|c| c.verify_is_valid_for_subject_name(&name).is_ok())
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those that lead from it to its CA.
    pub certificate: Named,
    /// The key of the certificate.
    pub key: Named,
    /// The role that the certificate must state, if it states any; `None` where no role matters.
    pub role: Option<Role>,
}

/// A certificate chain and its key, read.
pub(crate) type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    /// A pair whose certificate may state any role.
    #[must_use]
    pub fn new(certificate: Named, key: Named) -> Self {
        Self { certificate, key, role: None }
    }

    /// The same pair, whose certificate must state this role or, but for relays of nodes, as those of releases before roles, none.
    #[must_use]
    pub fn stating(self, role: Role) -> Self {
        Self { role: Some(role), ..self }
    }

    /// Checks that the certificate states the role that it must, or none.
    ///
    /// # Errors
    /// The certificate states another role.
    pub(crate) fn check_role(&self, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let (Some(role), Some(first)) = (&self.role, chain.first()) else { return Ok(()) };
        let found = match stated(first) {
            Ok(Some(found)) if found == *role => return Ok(()),
            // No release before roles had relays on nodes.
            Ok(None) if !matches!(role, Role::Relay(_)) => return Ok(()),
            Ok(None) => "no role".to_owned(),
            Ok(Some(found)) => found.to_string(),
            Err(other) => other.to_string(),
        };
        let (whose, make) = match role {
            Role::FrontDoor => {
                ("a front door".to_owned(), "`hatchery certs new --frontdoor NAME`".to_owned())
            }
            Role::Agent(node) => (
                format!("node {}", node.as_str()),
                format!(
                    "`hatchery certs new --agent {}`, or start the agent with the node of this one",
                    node.as_str()
                ),
            ),
            Role::Metrics => {
                ("a metrics reader".to_owned(), "`hatchery certs new --metrics NAME`".to_owned())
            }
            Role::Redis => ("Redis".to_owned(), "`hatchery certs new --redis NAME`".to_owned()),
            Role::Relay(node) => (
                format!("the relay of node {}", node.as_str()),
                format!("`hatchery certs new --relay {}`", node.as_str()),
            ),
        };
        let wants = format!("the certificate of {whose} ({role})");
        Err(self.certificate.wrong(wants, format!("it is that of {found}; make one with {make}")))
    }

    /// Whether the certificate on the disk states no role although it should.
    pub(crate) fn lacks_role(&self) -> bool {
        self.role.is_some() && self.certificate.role() == Ok(None)
    }

    pub(crate) fn read(&self) -> Result<Pair, TlsError> {
        Ok((self.certificate.certificates()?, self.key.key()?))
    }

    /// The error for a pair that could be read but rustls refuses.
    pub(crate) fn refused(&self, error: &rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => {
                let whose = self.certificate.path.display();
                self.key.wrong("the key of the certificate", format!("it is not that of {whose}"))
            }
            rustls::Error::InvalidCertificate(_) => self.certificate.wrong(CERTIFICATES, error),
            _ => self.key.wrong("a private key that can be used", error),
        }
    }
}

/// Metadata that differs after a file was written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    changed: (i64, i64),
    size: u64,
    inode: u64,
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            modified: found.modified().ok(),
            changed: (found.ctime(), found.ctime_nsec()),
            size: found.len(),
            inode: found.ino(),
        }
    }
}
