//! The flags of `hatchery dev`, and what they become for the parts of the farm. A combination that makes no sense is refused by name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use model::RendererType;

use crate::args::{FarmFlag, LogFlags, time};

/// Runs a whole farm in this process, for trying things out: a front door, some nodes, and a registry in memory.
///
/// Unless --executable is given, spawns are a simulated server that needs no licence: it speaks the protocols of
/// ts3d_sc_server, opens no models, and shows ssr viewers a moving picture.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery dev\n  \
    hatchery dev --nodes 4 --slots 8 --listen 127.0.0.1:0\n  \
    hatchery dev --executable /opt/hoops/ts3d_sc_server --license-file /etc/hoops.key\n  \
    hatchery dev --env SC_SIM_READY_DELAY_MS=2000 --log debug\n\n\
    Ctrl-C ends everything, spawns included; a second one hurries. Nothing is kept.")]
pub(crate) struct DevArgs {
    /// Address that clients and operators are served on; port 0 takes any
    #[arg(long, env = "HATCHERY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(super) listen: SocketAddr,
    /// Listen beyond this machine all the same: everybody there can start and stop everything
    #[arg(long, env = "HATCHERY_INSECURE", value_parser = BoolishValueParser::new())]
    pub(super) insecure: bool,
    /// How many nodes
    #[arg(
        long,
        env = "HATCHERY_NODES",
        value_name = "COUNT",
        default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=26)
    )]
    pub(super) nodes: u16,
    /// Most spawns at once on each node
    #[arg(
        long,
        env = "HATCHERY_SLOTS",
        value_name = "COUNT",
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(super) slots: u32,
    /// Servers that start at once on each node [default: twice the processors]
    #[arg(
        long,
        env = "HATCHERY_STARTS",
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(super) starts: Option<u32>,
    /// Servers that each node keeps ready, for example csr=2,ssr=1
    #[arg(
        long,
        env = "HATCHERY_WARM",
        value_name = "RENDERER=COUNT",
        value_delimiter = ',',
        value_parser = ::agent::warm_count
    )]
    pub(super) warm: Vec<(RendererType, u32)>,
    /// How long a server is kept ready before another one takes its place
    #[arg(
        long,
        env = "HATCHERY_WARM_AGE",
        value_name = "DURATION",
        default_value = "10m",
        value_parser = time
    )]
    pub(super) warm_age: Duration,
    /// The ts3d_sc_server to start [default: a simulated one]
    #[arg(long, env = "HATCHERY_EXECUTABLE", value_name = "FILE", requires = "license_file")]
    pub(super) executable: Option<PathBuf>,
    /// File with the vendor's licence key
    #[arg(long, env = "HATCHERY_LICENSE_FILE", value_name = "FILE")]
    pub(super) license_file: Option<PathBuf>,
    /// Directory with models; repeat it, or separate several by commas
    #[arg(long = "model-dir", env = "HATCHERY_MODEL_DIR", value_name = "DIR", value_delimiter = ',')]
    pub(super) model_dirs: Vec<PathBuf>,
    /// A spawn that is not ready within this time is ended
    #[arg(
        long,
        env = "HATCHERY_READY_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = time
    )]
    pub(super) ready_timeout: Duration,
    /// How long records and logs of ended spawns, and operators' orders, can be read
    #[arg(
        long,
        env = "HATCHERY_KEEP_ENDED",
        value_name = "DURATION",
        default_value = "24h",
        value_parser = time
    )]
    pub(super) keep_ended: Duration,
    /// Environment variable for spawns, whose environment is otherwise replaced; repeat it, or separate by commas
    #[arg(
        long = "env",
        env = "HATCHERY_ENV",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = variable
    )]
    pub(super) env: Vec<(String, String)>,
    /// Extra argument for spawns; may be repeated
    #[arg(long = "arg", env = "HATCHERY_ARG", value_name = "ARG", allow_hyphen_values = true)]
    pub(super) args: Vec<String>,
    /// Where the farm's state is kept: `embedded` in this process, or a redis:// URL
    #[arg(
        long,
        env = "HATCHERY_REGISTRY",
        default_value = "embedded",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Registry"
    )]
    pub(super) registry: String,
    #[command(flatten)]
    pub(super) farm: FarmFlag,
    #[command(flatten)]
    pub(super) log: LogFlags,
}

/// `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("must be NAME=VALUE, not {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(variable("A").is_err() && variable("=b").is_err());
    }
}
