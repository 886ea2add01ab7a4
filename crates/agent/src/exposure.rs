//! What other machines can reach must be protected: only the farm's front doors start anything, and no third party reads along.
//!
//! A port that others can reach needs TLS, or `--insecure`. Checked before anything is bound.

use std::net::SocketAddr;

use model::NodeId;
use tls::{Callers, Role, Server};

use crate::config::{ConfigError, Tls};

/// What others may reach: the addresses of `--listen`, `--admin-listen` and `--liveliness-listen`, and the URL of `--advertise`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reachable<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) liveliness_listen: SocketAddr,
    pub(crate) advertise: Option<&'a str>,
}

/// Reads every certificate that a flag names, which must be that of this node.
///
/// # Errors
/// A flag is missing or a file cannot be used, or a port is open to other machines without TLS and without `--insecure`.
pub(crate) fn check(options: &tls::Options, ports: Reachable<'_>, node: &NodeId) -> Result<Tls, ConfigError> {
    let all = match (options.identity(), options.client_ca()) {
        (Some(identity), Some(ca)) => Some((identity, ca)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError::new(
                "--tls-client-ca",
                "it must be given with --tls-cert and --tls-key: front doors show a certificate of it",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::new(
                "--tls-cert",
                "--tls-cert and --tls-key must be given with --tls-client-ca",
            ));
        }
    };
    let mut exposed = Vec::new();
    let mut open = |flag, address: SocketAddr, needs: &str| {
        if !tls::is_beyond_this_machine(address) {
            return Ok(());
        }
        exposed.push(flag);
        if options.insecure {
            return Ok(());
        }
        let problem = format!("{needs} where other machines can reach it, as they can {address}");
        Err(ConfigError::new(flag, problem))
    };
    if all.is_none() {
        const NEEDS: &str =
            "it needs --tls-cert, --tls-key and --tls-client-ca (or --insecure, to do without)";
        open("--listen", ports.listen, NEEDS)?;
        open("--admin-listen", ports.admin_listen, NEEDS)?;
    }
    open(
        "--liveliness-listen",
        ports.liveliness_listen,
        "it is for the servers of this machine, and needs --insecure",
    )?;
    if let (Some(_), Some(url)) = (&all, ports.advertise)
        && url.starts_with("http://")
    {
        let problem = format!("expected https:// with --tls-cert, got {url:?}");
        return Err(ConfigError::new("--advertise", problem));
    }
    let Some((identity, ca)) = all else { return Ok(Tls { exposed, ..Tls::default() }) };
    let identity = identity.stating(Role::Agent(node.clone()));
    let grpc = Server::open(identity.clone(), Callers::OfAgent(ca.clone(), node.clone()), tls::HTTP2)?;
    let admin = match tls::is_beyond_this_machine(ports.admin_listen) {
        true => Some(Server::open(identity, Callers::MayReadMetrics(ca), tls::HTTP1)?),
        false => None,
    };
    Ok(Tls { grpc: Some(grpc), admin, exposed })
}

impl From<tls::TlsError> for ConfigError {
    fn from(error: tls::TlsError) -> Self {
        Self::new(error.flag, format!("expected {}, got {}", error.wants, error.found))
    }
}
