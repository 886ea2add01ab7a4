//! What other machines can reach must be kept: only the farm's front doors start anything, and nobody reads along.

use std::net::SocketAddr;

use model::NodeId;
use tls::{Callers, Role, Server};

use crate::config::{ConfigError, Tls};
use crate::options::Options;

/// Reads every certificate that a flag names, which must be that of this node, and sees to it that no port is open to others
/// unless that is meant.
pub(crate) fn kept(options: &Options, node: &NodeId) -> Result<Tls, ConfigError> {
    let all = match (options.tls.identity(), options.tls.client_ca()) {
        (Some(identity), Some(ca)) => Some((identity, ca)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(ConfigError::new(
                "--tls-client-ca",
                "must be given with --tls-cert and --tls-key: front doors show a certificate of it",
            ));
        }
        (None, Some(_)) => {
            return Err(ConfigError::new("--tls-cert", "and --tls-key must be given with --tls-client-ca"));
        }
    };
    let mut exposed = Vec::new();
    let mut open = |flag, address: SocketAddr, wants: &str| {
        if !tls::is_beyond_this_machine(address) {
            return Ok(());
        }
        exposed.push(flag);
        if options.tls.insecure {
            return Ok(());
        }
        let wants = format!("{wants} where other machines can reach it, as they can {address}");
        Err(ConfigError::new(flag, wants))
    };
    if all.is_none() {
        const WANTS: &str = "needs --tls-cert, --tls-key and --tls-client-ca (or --insecure, to do without)";
        open("--listen", options.listen, WANTS)?;
        open("--admin-listen", options.admin_listen, WANTS)?;
    }
    open(
        "--liveliness-listen",
        options.liveliness_listen,
        "is for the servers of this machine, and needs --insecure",
    )?;
    if let (Some(_), Some(url)) = (&all, &options.advertise)
        && url.starts_with("http://")
    {
        let wants = format!("must be https:// with --tls-cert, not {url:?}");
        return Err(ConfigError::new("--advertise", wants));
    }
    let Some((identity, ca)) = all else { return Ok(Tls { exposed, ..Tls::default() }) };
    let identity = identity.stating(Role::Agent(node.clone()));
    let grpc = Server::open(identity.clone(), Callers::FrontDoors(ca.clone()), tls::HTTP2)?;
    let admin = match tls::is_beyond_this_machine(options.admin_listen) {
        true => Some(Server::open(identity, Callers::MayReadMetrics(ca), tls::HTTP1)?),
        false => None,
    };
    Ok(Tls { grpc: Some(grpc), admin, exposed })
}

impl From<tls::TlsError> for ConfigError {
    fn from(error: tls::TlsError) -> Self {
        Self::new(error.flag, format!("must be {}, not {}", error.wants, error.found))
    }
}
