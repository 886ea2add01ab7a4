//! Ports that other machines can reach need authentication and TLS, unless the operator says `--insecure`.

use std::net::SocketAddr;

use super::config::{Surface, Tls};
use super::error::ConfigError;
use super::viewers::OwnNode;

/// Which ports other machines can reach.
#[derive(Debug)]
pub(crate) struct Exposure {
    pub(crate) admin_public: bool,
    /// Flags of ports that are reachable without what they need.
    exposed: Vec<&'static str>,
}

impl Exposure {
    /// # Errors
    /// A port would be open to other machines without `--insecure`.
    pub(crate) fn of(
        listen: SocketAddr,
        admin_listen: SocketAddr,
        tls: &tls::Options,
        authenticates: bool,
        surface: Surface,
    ) -> Result<Self, ConfigError> {
        let mut exposed = Vec::new();
        let mut open = |flag, wants: &str, found: String| {
            exposed.push(flag);
            if tls.insecure {
                return Ok(());
            }
            let wants = format!("{wants} where other machines can reach it (or --insecure, to do without)");
            Err(ConfigError { flag, wants, found })
        };
        let secure = tls.tls_cert.is_some();
        // A relay serves viewers alone, and the token in a viewer's URL is its credential.
        let missing = match (authenticates || surface == Surface::Relay, secure) {
            (true, true) => None,
            (true, false) => Some("without TLS"),
            (false, true) => Some("without authentication"),
            (false, false) => Some("without either"),
        };
        if let (true, Some(missing)) = (tls::is_beyond_this_machine(listen), missing) {
            let wants = match surface {
                Surface::Whole => {
                    "authentication (--api-keys or --jwt-keys) and TLS (--tls-cert and --tls-key)"
                }
                Surface::Relay => "TLS (--tls-cert and --tls-key)",
            };
            open("--listen", wants, format!("{listen} {missing}"))?;
        }
        let admin_public = tls::is_beyond_this_machine(admin_listen);
        if admin_public && !secure {
            let found = format!("{admin_listen} without it");
            open("--admin-listen", "TLS (--tls-cert and --tls-key)", found)?;
        }
        Ok(Self { admin_public, exposed })
    }

    /// Adds the listener that answers as the vendor's server does. Its callers have no credentials, so the limits of an owner are
    /// all that keeps it.
    ///
    /// # Errors
    /// It would be open to other machines, without an owner and without `--insecure`.
    pub(crate) fn add_hoops(
        &mut self,
        listen: SocketAddr,
        tls: &tls::Options,
        has_owner: bool,
    ) -> Result<(), ConfigError> {
        if has_owner || !tls::is_beyond_this_machine(listen) {
            return Ok(());
        }
        self.exposed.push("--hoops-listen");
        if tls.insecure {
            return Ok(());
        }
        Err(ConfigError {
            flag: "--hoops-listen",
            wants: "an owner whose limits count (--hoops-owner) where other machines can reach it (or --insecure, to do without)"
                .into(),
            found: format!("{listen} without one"),
        })
    }
}

/// Reads every certificate that a flag names.
pub(crate) fn certificates(
    tls: &tls::Options,
    agent_identity: &tls::AgentOptions,
    exposure: Exposure,
    surface: Surface,
    own_node: Option<&OwnNode>,
) -> Result<Tls, ConfigError> {
    let mut identity = tls.identity();
    let mut callers = tls::Callers::Anyone;
    if let Some(OwnNode { node, .. }) = own_node {
        let missing = |flag| ConfigError {
            flag,
            wants: "a file, as front doors and the relay of a node (--node) show each other certificates"
                .into(),
            found: "none".into(),
        };
        let ca = tls.client_ca().ok_or_else(|| missing("--tls-client-ca"))?;
        let own = identity.ok_or_else(|| missing("--tls-cert"))?;
        identity = Some(own.stating(tls::Role::Relay(node.clone())));
        callers = tls::Callers::BringViewers(ca);
    }
    let server = |identity| tls::Server::open(identity, callers.clone(), tls::HTTP1);
    let http = identity.clone().map(server).transpose()?;
    let admin = match (&identity, tls.client_ca()) {
        (Some(identity), Some(ca)) if exposure.admin_public => {
            Some(tls::Server::open(identity.clone(), tls::Callers::MayReadMetrics(ca), tls::HTTP1)?)
        }
        _ => http.clone().filter(|_| exposure.admin_public),
    };
    let agent_identity = agent_identity.identity();
    let (agents, relays) = match tls.client_ca() {
        Some(ca) => {
            let Some(identity) = agent_identity.or(identity) else {
                return Err(ConfigError {
                    flag: "--tls-client-ca",
                    wants: "a certificate to show to agents (--agent-tls-cert or --tls-cert)".into(),
                    found: "none".into(),
                });
            };
            let identity = identity.clone().stating(role(&identity, surface, own_node));
            let open =
                |protocol| tls::Client::open(tls::Roots::File(ca.clone()), Some(identity.clone()), protocol);
            (Some(open(tls::HTTP2)?), Some(open(tls::HTTP1)?.calling_relays()))
        }
        None if agent_identity.is_some() => {
            return Err(ConfigError {
                flag: "--agent-tls-cert",
                wants: "the CA of the agents that it is shown to (--tls-client-ca)".into(),
                found: "none".into(),
            });
        }
        None => (None, None),
    };
    Ok(Tls { http, admin, agents, relays, exposed: exposure.exposed })
}

/// The role that the certificate must state which is shown to agents and to relays of nodes. A relay that reaches relays of nodes alone
/// need not have the rights of a front door.
fn role(identity: &tls::Identity, surface: Surface, own_node: Option<&OwnNode>) -> tls::Role {
    if let Some(OwnNode { node, .. }) = own_node {
        return tls::Role::Relay(node.clone());
    }
    match (surface, identity.certificate.role()) {
        (Surface::Relay, Ok(Some(relay @ tls::Role::Relay(_)))) => relay,
        _ => tls::Role::FrontDoor,
    }
}
