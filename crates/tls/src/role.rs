//! The role that a certificate states: a SPIFFE ID as the URI of its subject alternative names.
//!
//! A role has exactly one spelling. Node names consist of characters that a SPIFFE path may hold as they are, so nothing
//! is percent-encoded, and a URI with a percent sign is no role. Comparison is byte for byte: no case folding, no
//! normalization of the path.

use std::fmt;
use std::str::FromStr;

use model::NodeId;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The trust domain of every role. Which farm a certificate belongs to is decided by its CA.
pub const TRUST_DOMAIN: &str = "hatchery";

const SCHEME: &str = "spiffe:";

/// What the holder of a certificate is in the farm.
///
/// ```
/// use tls::Role;
///
/// let role: Role = "spiffe://hatchery/agent/node-a".parse()?;
/// assert_eq!(role, Role::Agent("node-a".parse().unwrap()));
/// assert!("spiffe://hatchery/agent/node-a/".parse::<Role>().is_err(), "a role has one spelling");
/// # Ok::<(), tls::NoRole>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Serves callers and commands agents: `spiffe://hatchery/frontdoor`.
    FrontDoor,
    /// The agent of this node: `spiffe://hatchery/agent/NODE`.
    Agent(NodeId),
    /// Reads metrics and nothing else: `spiffe://hatchery/metrics`.
    Metrics,
    /// Serves the registry, and calls nobody: `spiffe://hatchery/redis`.
    Redis,
    /// Leads viewers to the spawns of this node, and asks its agent about them: `spiffe://hatchery/relay/NODE`.
    Relay(NodeId),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}//{TRUST_DOMAIN}/")?;
        match self {
            Self::FrontDoor => f.write_str("frontdoor"),
            Self::Agent(node) => write!(f, "agent/{}", node.as_str()),
            Self::Metrics => f.write_str("metrics"),
            Self::Redis => f.write_str("redis"),
            Self::Relay(node) => write!(f, "relay/{}", node.as_str()),
        }
    }
}

/// Why a certificate, or a URI, states no role of a farm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRole {
    /// The URI is none of the forms of [`Role`]. At most [`MAX_SHOWN`] characters of it are kept.
    #[error("{0:?}, which is no role of a farm")]
    Unknown(String),
    /// A SPIFFE ID stands beside other URIs. A certificate of one role has one.
    #[error("{0} URIs, of which one must be the only one")]
    Several(usize),
    /// The certificate cannot be parsed.
    #[error("a certificate that cannot be read")]
    Unreadable,
}

/// The most characters of an unknown URI that a message repeats.
pub const MAX_SHOWN: usize = 200;

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(uri: &str) -> Result<Self, NoRole> {
        let unknown = || NoRole::Unknown(uri.chars().take(MAX_SHOWN).collect());
        let path = uri
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.strip_prefix("//"))
            .and_then(|rest| rest.strip_prefix(TRUST_DOMAIN))
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(unknown)?;
        match path {
            "frontdoor" => Ok(Self::FrontDoor),
            "metrics" => Ok(Self::Metrics),
            "redis" => Ok(Self::Redis),
            _ => {
                let (role, node): (fn(NodeId) -> Self, _) = match path.split_once('/') {
                    Some(("agent", node)) => (Self::Agent, node),
                    Some(("relay", node)) => (Self::Relay, node),
                    _ => return Err(unknown()),
                };
                // SPIFFE forbids relative segments (other software would normalize them away), and no node has such a name.
                node.parse().map(role).map_err(|_| unknown())
            }
        }
    }
}

/// The role that a certificate in DER states; `None` when no URI of it is a SPIFFE ID, as in certificates of releases
/// before roles.
///
/// # Errors
/// It states a SPIFFE ID that is no role, or more than one URI.
pub fn stated(certificate: &CertificateDer<'_>) -> Result<Option<Role>, NoRole> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| NoRole::Unreadable)?;
    of_uris(&parsed.valid_uri_names().collect::<Vec<_>>())
}

fn of_uris(uris: &[&str]) -> Result<Option<Role>, NoRole> {
    let is_spiffe = |uri: &str| uri.get(..SCHEME.len()).is_some_and(|s| s.eq_ignore_ascii_case(SCHEME));
    match uris {
        _ if !uris.iter().any(|uri| is_spiffe(uri)) => Ok(None),
        [uri] => uri.parse().map(Some),
        _ => Err(NoRole::Several(uris.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agent(node: &str) -> Role {
        Role::Agent(node.parse().unwrap())
    }

    #[test]
    fn a_role_has_one_spelling() {
        let long = "n".repeat(63);
        let every = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-";
        for (uri, role) in [
            ("spiffe://hatchery/frontdoor", Role::FrontDoor),
            ("spiffe://hatchery/metrics", Role::Metrics),
            ("spiffe://hatchery/redis", Role::Redis),
            ("spiffe://hatchery/agent/node-a", agent("node-a")),
            ("spiffe://hatchery/agent/frontdoor", agent("frontdoor")),
            ("spiffe://hatchery/agent/Node_A.example-1", agent("Node_A.example-1")),
            (&format!("spiffe://hatchery/agent/{long}"), agent(&long)),
            (&format!("spiffe://hatchery/agent/{every}"), agent(every)),
            ("spiffe://hatchery/agent/._", agent("._")),
            ("spiffe://hatchery/agent/...", agent("...")),
            ("spiffe://hatchery/relay/node-a", Role::Relay("node-a".parse().unwrap())),
            ("spiffe://hatchery/relay/agent", Role::Relay("agent".parse().unwrap())),
        ] {
            assert_eq!(uri.parse(), Ok(role.clone()), "{uri}");
            assert_eq!(role.to_string(), uri);
        }
    }

    #[test]
    fn what_is_nearly_a_role_is_none() {
        let long = format!("spiffe://hatchery/agent/{}", "n".repeat(64));
        let longer = format!("spiffe://hatchery/agent/{}", "n".repeat(100_000));
        for uri in [
            "",
            "spiffe:",
            "spiffe://",
            "spiffe://hatchery",
            "spiffe://hatchery/",
            "spiffe://hatchery/frontdoor/",
            "spiffe://hatchery//frontdoor",
            "spiffe://hatchery/frontdoor?x",
            "spiffe://hatchery/frontdoor#x",
            "spiffe://hatchery/frontdoor ",
            " spiffe://hatchery/frontdoor",
            "spiffe://hatchery/frontdoor\0",
            "spiffe://hatchery/frontdoors",
            "spiffe://hatchery/Frontdoor",
            "spiffe://hatchery/*",
            "SPIFFE://hatchery/frontdoor",
            "spiffe://Hatchery/frontdoor",
            "spiffe://hatchery.example/frontdoor",
            "spiffe://hatchery:443/frontdoor",
            "spiffe://user@hatchery/frontdoor",
            "spiffe://other/frontdoor",
            "spiffe:/hatchery/frontdoor",
            "spiffe:hatchery/frontdoor",
            "https://hatchery/frontdoor",
            "spiffe://hatchery/metrics/a",
            "spiffe://hatchery/agent",
            "spiffe://hatchery/agent/",
            "spiffe://hatchery/agent/*",
            "spiffe://hatchery/agent/.",
            "spiffe://hatchery/agent/..",
            "spiffe://hatchery/agent/../frontdoor",
            "spiffe://hatchery/agent/node-a/",
            "spiffe://hatchery/agent/node-a/b",
            "spiffe://hatchery/agent//node-a",
            "spiffe://hatchery/agent/node%2da",
            "spiffe://hatchery/agent/node a",
            "spiffe://hatchery/agent/nöde",
            "spiffe://hatchery/Agent/node-a",
            "spiffe://hatchery/relay",
            "spiffe://hatchery/relay/",
            "spiffe://hatchery/relay/..",
            "spiffe://hatchery/relay/node-a/b",
            "spiffe://hatchery/relays/node-a",
            &long,
            &longer,
        ] {
            let refused = uri.parse::<Role>().expect_err(uri);
            assert!(refused.to_string().len() < 3 * MAX_SHOWN, "it repeats all of it");
        }
    }

    #[test]
    fn a_certificate_states_one_role_or_none() {
        const DOOR: &str = "spiffe://hatchery/frontdoor";
        const WEB: &str = "https://farm.example/";
        assert_eq!(of_uris(&[]), Ok(None));
        assert_eq!(of_uris(&[WEB, "urn:x", "spiff"]), Ok(None));
        assert_eq!(of_uris(&[DOOR]), Ok(Some(Role::FrontDoor)));
        for two in [[DOOR, DOOR], [DOOR, "spiffe://hatchery/metrics"], [DOOR, WEB], [WEB, DOOR]] {
            assert_eq!(of_uris(&two), Err(NoRole::Several(2)), "{two:?}");
        }
        for foreign in ["spiffe://other/frontdoor", "SPIFFE://hatchery/frontdoor", "spiffe:"] {
            assert!(matches!(of_uris(&[foreign]), Err(NoRole::Unknown(_))), "{foreign}");
        }
        assert_eq!(stated(&CertificateDer::from(vec![0x30, 0])), Err(NoRole::Unreadable));
    }

    proptest! {
        #[test]
        fn the_role_of_every_node_is_read_as_it_was_written(node in "[A-Za-z0-9._-]{1,63}") {
            prop_assume!(node != "." && node != "..");
            let role = agent(&node);
            prop_assert_eq!(role.to_string().parse(), Ok(role));
        }

        #[test]
        fn nothing_that_is_read_as_a_role_was_written_otherwise(
            uri in prop_oneof![
                ".*",
                "spiffe://hatchery/.*",
                "spiffe://hatchery/agent/.*",
                "[Ss]?spiffe:/{0,3}[Hh]?atchery/{0,2}(agent|relay|frontdoor|metrics|Agent)?/{0,2}[a-z%.*-]{0,8}/?",
            ]
        ) {
            if let Ok(role) = uri.parse::<Role>() {
                prop_assert_eq!(role.to_string(), uri);
            }
        }
    }
}
