//! The flags of TLS.

use std::path::PathBuf;

/// Certificates of a role, as the command line and the environment name them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
#[group(id = "tls")]
pub struct Options {
    /// Certificate chain (PEM) shown to whoever connects; read again when it changes
    #[arg(long, env = "HATCHERY_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM) of the certificate
    #[arg(long, env = "HATCHERY_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The farm's CA (PEM): front doors and agents must show each other a certificate of it
    #[arg(long, env = "HATCHERY_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Listen beyond this machine without authentication or TLS all the same
    #[arg(long, env = "HATCHERY_INSECURE")]
    pub insecure: bool,
}

/// What a front door shows to agents, where it is not what it shows to callers.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct AgentIdentity {
    /// Certificate chain (PEM) shown to agents [default: that of --tls-cert]
    #[arg(long, env = "HATCHERY_AGENT_TLS_CERT", value_name = "FILE", requires = "agent_tls_key")]
    pub agent_tls_cert: Option<PathBuf>,

    /// Private key (PEM) of the certificate shown to agents
    #[arg(long, env = "HATCHERY_AGENT_TLS_KEY", value_name = "FILE", requires = "agent_tls_cert")]
    pub agent_tls_key: Option<PathBuf>,
}
