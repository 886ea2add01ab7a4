//! Which role a peer must have, and counts of what peers have shown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use model::NodeId;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error, OtherError};
use tracing::{debug, warn};
use webpki::EndEntityCert;

use crate::logged_once::LoggedOnce;
use crate::role::{NoRole, Role, stated};

/// The role that the other end of a connection must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A front door, of whatever machine.
    FrontDoor,
    /// A metrics reader, or a front door, which may do more.
    MetricsReader,
    /// The agent of this node.
    Agent(NodeId),
    /// A front door or the relay of this node, which ask its agent.
    AgentCaller(NodeId),
    /// A front door or a relay, which bring viewers to the relay of a node.
    ViewerSource,
    /// The relay of this node.
    Relay(NodeId),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrontDoor => Role::FrontDoor.fmt(f),
            Self::MetricsReader => write!(f, "{} or {}", Role::Metrics, Role::FrontDoor),
            Self::Agent(node) => Role::Agent(node.clone()).fmt(f),
            Self::AgentCaller(node) => write!(f, "{} or {}", Role::FrontDoor, Role::Relay(node.clone())),
            Self::ViewerSource => write!(f, "{} or of a relay", Role::FrontDoor),
            Self::Relay(node) => Role::Relay(node.clone()).fmt(f),
        }
    }
}

impl Expected {
    fn admits(&self, role: &Role) -> bool {
        match self {
            Self::FrontDoor => *role == Role::FrontDoor,
            Self::MetricsReader => matches!(role, Role::Metrics | Role::FrontDoor),
            Self::Agent(node) => matches!(role, Role::Agent(of) if of == node),
            Self::AgentCaller(node) => match role {
                Role::Relay(of) => of == node,
                role => *role == Role::FrontDoor,
            },
            Self::ViewerSource => matches!(role, Role::FrontDoor | Role::Relay(_)),
            Self::Relay(node) => matches!(role, Role::Relay(of) if of == node),
        }
    }

    /// Whether a certificate without a role will do, as those of releases before roles. No such release had relays on nodes.
    fn admits_no_role(&self) -> bool {
        !matches!(self, Self::Relay(_))
    }

    /// The role that the certificate states; `None` when it states none, which is accepted for one release.
    ///
    /// # Errors
    /// It states another role, or no role of a farm, or none where one is needed.
    pub(crate) fn check(&self, certificate: &CertificateDer<'_>) -> Result<Option<Role>, RoleMismatch> {
        match stated(certificate) {
            Ok(Some(role)) if !self.admits(&role) => Err(RoleMismatch::new(self, Found::Role(role))),
            Ok(None) if !self.admits_no_role() => Err(RoleMismatch::new(self, Found::Nothing)),
            Ok(role) => Ok(role),
            Err(other) => Err(RoleMismatch::new(self, Found::Other(other))),
        }
    }
}

/// Why a peer was refused for the role of its certificate. The text is for logs only, since it names nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the certificate of {expected}, got that of {found}")]
pub struct RoleMismatch {
    expected: Expected,
    found: Found,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Role(Role),
    Other(NoRole),
    Nothing,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => role.fmt(f),
            Self::Other(other) => other.fmt(f),
            Self::Nothing => f.write_str("no role"),
        }
    }
}

/// The kinds of [`RoleMismatch`], as metrics label them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The certificate is another node's.
    OtherNode,
    /// The certificate is of another role.
    OtherRole,
    /// The certificate states what is no role of a farm, or nothing.
    NoRole,
}

impl RefusalReason {
    /// Every reason, for metrics that begin with 0.
    pub const ALL: [Self; 3] = [Self::OtherNode, Self::OtherRole, Self::NoRole];

    /// The label in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherNode => "other-node",
            Self::OtherRole => "other-role",
            Self::NoRole => "no-role-of-a-farm",
        }
    }
}

impl RoleMismatch {
    fn new(expected: &Expected, found: Found) -> Self {
        Self { expected: expected.clone(), found }
    }

    /// The kind of refusal.
    #[must_use]
    pub fn reason(&self) -> RefusalReason {
        match (&self.expected, &self.found) {
            (Expected::Agent(_), Found::Role(Role::Agent(_)))
            | (Expected::AgentCaller(_) | Expected::Relay(_), Found::Role(Role::Relay(_))) => {
                RefusalReason::OtherNode
            }
            (_, Found::Role(_)) => RefusalReason::OtherRole,
            (_, Found::Other(_) | Found::Nothing) => RefusalReason::NoRole,
        }
    }

    /// The refusal as an error of a rustls verifier.
    pub(crate) fn into_tls(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }

    /// The refusal that ended a handshake, if one did.
    pub(crate) fn in_error(error: &std::io::Error) -> Option<&Self> {
        match error.get_ref()?.downcast_ref()? {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }
}

/// Whether a handshake was ended because of the role of the peer's certificate.
#[must_use]
pub fn is_refusal(error: &std::io::Error) -> bool {
    RoleMismatch::in_error(error).is_some()
}

/// Counts and logs what the peers of one kind have shown. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Peers(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    kind: &'static str,
    without_role: AtomicU64,
    warned: AtomicBool,
    refused: [AtomicU64; RefusalReason::ALL.len()],
    /// Peers that were refused, and why, so that each pair is logged once as a warning.
    seen: LoggedOnce<(String, String)>,
}

impl Peers {
    /// `kind`, such as `frontdoor`, is a label of metrics.
    pub(crate) fn new(kind: &'static str) -> Self {
        Self(Arc::new(Counts {
            kind,
            without_role: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            refused: Default::default(),
            seen: LoggedOnce::default(),
        }))
    }

    /// The expected role, as a label of metrics: `frontdoor`, `agent`, `relay` or `metrics`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.0.kind
    }

    /// Connections whose certificate stated no role.
    #[must_use]
    pub fn without_role(&self) -> u64 {
        self.0.without_role.load(Ordering::Relaxed)
    }

    /// Connections that were refused for the role of their certificate.
    #[must_use]
    pub fn refused(&self, reason: RefusalReason) -> u64 {
        self.0.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Counts a peer without a role, which was accepted. The first one is logged as a warning.
    pub(crate) fn admitted_without_role(&self, certificate: &CertificateDer<'_>) {
        self.0.without_role.fetch_add(1, Ordering::Relaxed);
        let first = !self.0.warned.swap(true, Ordering::Relaxed);
        if first {
            let parsed = EndEntityCert::try_from(certificate);
            let names: Vec<_> = parsed.iter().flat_map(|c| c.valid_dns_names()).take(4).collect();
            warn!(
                peer.kind = self.0.kind,
                names = names.join(" "),
                "a certificate states no role, and the next release refuses it; renew it with `hatchery certs new --renew` (logged once)"
            );
        }
    }

    /// Counts a refusal for the role, and logs why this peer was refused: as a warning the first time.
    pub(crate) fn was_refused(&self, peer: &str, error: &dyn fmt::Display, refusal: Option<&RoleMismatch>) {
        if let Some(refusal) = refusal {
            self.0.refused[refusal.reason() as usize].fetch_add(1, Ordering::Relaxed);
        }
        let why = refusal.map_or_else(|| error.to_string(), ToString::to_string);
        if self.0.seen.is_new((peer.to_owned(), why.clone())) {
            warn!(peer, peer.kind = self.0.kind, error = why, "a connection was refused (logged once)");
        } else {
            debug!(peer, peer.kind = self.0.kind, error = why, "a connection was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_expected_admits_no_other_role() {
        let agent = |node: &str| Role::Agent(node.parse().unwrap());
        let of = |node: &str| Expected::Agent(node.parse().unwrap());
        let relay = |node: &str| Role::Relay(node.parse().unwrap());
        let node = |name: &str| -> NodeId { name.parse().unwrap() };
        let roles = [
            Role::FrontDoor,
            Role::Metrics,
            agent("a"),
            agent("A"),
            agent("frontdoor"),
            relay("a"),
            relay("b"),
            Role::Redis,
        ];
        for (expected, admitted) in [
            (Expected::FrontDoor, "frontdoor"),
            (Expected::MetricsReader, "frontdoor metrics"),
            (of("a"), "agent/a"),
            (of("A"), "agent/A"),
            (of("metrics"), ""),
            (Expected::AgentCaller(node("a")), "frontdoor relay/a"),
            (Expected::ViewerSource, "frontdoor relay/a relay/b"),
            (Expected::Relay(node("b")), "relay/b"),
        ] {
            let found = roles.iter().filter(|role| expected.admits(role)).map(ToString::to_string);
            let found = found.map(|uri| uri.trim_start_matches("spiffe://hatchery/").to_owned());
            assert_eq!(found.collect::<Vec<_>>().join(" "), admitted, "{expected}");
        }
    }

    #[test]
    fn a_refusal_names_both_certificates_and_its_kind() {
        let node = |name: &str| -> NodeId { name.parse().unwrap() };
        let foreign = "spiffe://other/x".parse::<Role>().unwrap_err();
        for (expected, found, reason) in [
            (Expected::Agent(node("b")), Found::Role(Role::Agent(node("a"))), RefusalReason::OtherNode),
            (Expected::Agent(node("b")), Found::Role(Role::Metrics), RefusalReason::OtherRole),
            (Expected::FrontDoor, Found::Role(Role::Agent(node("a"))), RefusalReason::OtherRole),
            (Expected::FrontDoor, Found::Other(foreign), RefusalReason::NoRole),
            (Expected::Relay(node("b")), Found::Role(Role::Relay(node("a"))), RefusalReason::OtherNode),
            (Expected::AgentCaller(node("b")), Found::Role(Role::Relay(node("a"))), RefusalReason::OtherNode),
            (Expected::Relay(node("b")), Found::Role(Role::Agent(node("b"))), RefusalReason::OtherRole),
            (Expected::Relay(node("b")), Found::Nothing, RefusalReason::NoRole),
        ] {
            let refusal = RoleMismatch::new(&expected, found.clone());
            assert_eq!(refusal.reason(), reason);
            let text = refusal.to_string();
            assert!(text.contains(&expected.to_string()) && text.contains(&found.to_string()), "{text}");
            let io = std::io::Error::new(std::io::ErrorKind::InvalidData, refusal.clone().into_tls());
            assert_eq!(RoleMismatch::in_error(&io), Some(&refusal));
        }
        assert_eq!(RoleMismatch::in_error(&std::io::Error::other("x")), None);
    }
}
