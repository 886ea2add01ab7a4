//! The flags of TLS. The doc comments of the fields are their `--help`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;

use crate::files::{Identity, Named};

/// Certificates of a role, as the command line and the environment name them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
#[group(id = "tls")]
pub struct Options {
    /// Certificate chain (PEM) shown to every client; read again when it changes
    #[arg(long, env = "HATCHERY_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM) of the certificate
    #[arg(long, env = "HATCHERY_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The farm's CA (PEM): front doors and agents must show each other a certificate of it
    #[arg(long, env = "HATCHERY_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Listen beyond this machine without authentication or TLS all the same
    #[arg(long, env = "HATCHERY_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,
}

/// What a front door shows to agents, where it is not what it shows to callers.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct AgentOptions {
    /// Certificate chain (PEM) shown to agents [default: that of --tls-cert]
    #[arg(long, env = "HATCHERY_AGENT_TLS_CERT", value_name = "FILE", requires = "agent_tls_key")]
    pub agent_tls_cert: Option<PathBuf>,

    /// Private key (PEM) of the certificate shown to agents
    #[arg(long, env = "HATCHERY_AGENT_TLS_KEY", value_name = "FILE", requires = "agent_tls_cert")]
    pub agent_tls_key: Option<PathBuf>,
}

fn identity(
    (certificate, certificate_flag): (&Option<PathBuf>, &'static str),
    (key, key_flag): (&Option<PathBuf>, &'static str),
) -> Option<Identity> {
    let certificate = Named::new(certificate_flag, certificate.as_ref()?);
    Some(Identity::new(certificate, Named::new(key_flag, key.as_ref()?)))
}

impl Options {
    /// The certificate and key that are shown to callers.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        identity((&self.tls_cert, "--tls-cert"), (&self.tls_key, "--tls-key"))
    }

    /// The CA whose certificates callers must show (`--tls-client-ca`), if one is given.
    #[must_use]
    pub fn client_ca(&self) -> Option<Named> {
        self.tls_client_ca.as_ref().map(|path| Named::new("--tls-client-ca", path))
    }
}

impl AgentOptions {
    /// The certificate and key that are shown to agents, if they are not those of callers.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        identity((&self.agent_tls_cert, "--agent-tls-cert"), (&self.agent_tls_key, "--agent-tls-key"))
    }
}

/// Whether other machines can connect to this address.
#[must_use]
pub fn is_beyond_this_machine(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}
