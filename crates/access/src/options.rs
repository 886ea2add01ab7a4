//! The flags of authentication. The doc comments of the fields are their `--help`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::caller::CallerLimits;

/// The keys that callers authenticate with, and default limits, from the command line and the environment.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Authentication")]
#[group(id = "access")]
pub struct Options {
    /// File of API keys as `hatchery key new` writes it; read again when it changes
    #[arg(long, env = "HATCHERY_API_KEYS", value_name = "FILE")]
    pub api_keys: Option<PathBuf>,

    /// Keys that JSON web tokens are signed with: a JWKS file, a PEM public key or a file with an HS256 secret
    #[arg(long, env = "HATCHERY_JWT_KEYS", value_name = "FILE", value_delimiter = ',')]
    pub jwt_keys: Vec<PathBuf>,

    /// Issuer (`iss`) that tokens must name
    #[arg(long, env = "HATCHERY_JWT_ISSUER", value_name = "TEXT", requires = "jwt_keys")]
    pub jwt_issuer: Option<String>,

    /// Audience (`aud`) that tokens must name; without it, none that names one is good
    #[arg(long, env = "HATCHERY_JWT_AUDIENCE", value_name = "TEXT", requires = "jwt_keys")]
    pub jwt_audience: Option<String>,

    /// Most spawns a caller may start in a minute, where its key says nothing else
    #[arg(long, env = "HATCHERY_SPAWNS_PER_MINUTE", value_name = "COUNT")]
    pub spawns_per_minute: Option<NonZeroU32>,

    /// Most spawns a caller may have at once, where its key says nothing else
    #[arg(long, env = "HATCHERY_CONCURRENT_SPAWNS", value_name = "COUNT")]
    pub concurrent_spawns: Option<NonZeroU32>,
}

/// The keys that readers of metrics authenticate with, where nothing else is asked for by HTTP.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "metrics")]
pub struct MetricsOptions {
    /// File of API keys as `hatchery key new` writes it: /metrics is for their scopes metrics and read; read again when it changes
    #[arg(long, env = "HATCHERY_METRICS_KEYS", value_name = "FILE")]
    pub metrics_keys: Option<PathBuf>,
}

impl Options {
    /// The limits of owners whose key says nothing else.
    #[must_use]
    pub fn limits(&self) -> CallerLimits {
        CallerLimits { per_minute: self.spawns_per_minute, concurrent: self.concurrent_spawns }
    }

    /// Whether callers must authenticate.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.api_keys.is_some() || !self.jwt_keys.is_empty()
    }
}
