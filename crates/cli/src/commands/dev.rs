//! `hatchery dev`: a whole farm in one process.
//!
//! [`settings`] says what each part is told, [`stand_in`] finds or makes the simulated server, [`farm`] starts and ends
//! the parts, [`notice`] tells whoever started it what there is.

mod farm;
mod notice;
mod settings;
mod stand_in;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use stand_in::simulator_named;

use super::block_on;
use crate::args::{FarmFlag, LogFlags, time};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;
use crate::signals::Signals;

/// Runs a whole farm in this process, for trying things out: a front door, some nodes, and a registry in memory.
///
/// Unless --executable is given, spawns are a simulated server that needs no licence: it speaks the protocols of
/// ts3d_sc_server, opens no models and draws nothing.
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
    listen: SocketAddr,
    /// Listen beyond this machine all the same: everybody there can start and stop everything
    #[arg(long, env = "HATCHERY_INSECURE", value_parser = BoolishValueParser::new())]
    insecure: bool,
    /// How many nodes
    #[arg(
        long,
        env = "HATCHERY_NODES",
        value_name = "COUNT",
        default_value_t = 2,
        value_parser = clap::value_parser!(u16).range(1..=26)
    )]
    nodes: u16,
    /// Most spawns at once on each node
    #[arg(
        long,
        env = "HATCHERY_SLOTS",
        value_name = "COUNT",
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    slots: u32,
    /// The ts3d_sc_server to start [default: a simulated one]
    #[arg(long, env = "HATCHERY_EXECUTABLE", value_name = "FILE", requires = "license_file")]
    executable: Option<PathBuf>,
    /// File with the vendor's licence key
    #[arg(long, env = "HATCHERY_LICENSE_FILE", value_name = "FILE")]
    license_file: Option<PathBuf>,
    /// Directory with models; repeat it, or separate several by commas
    #[arg(long = "model-dir", env = "HATCHERY_MODEL_DIR", value_name = "DIR", value_delimiter = ',')]
    model_dirs: Vec<PathBuf>,
    /// A spawn that is not ready within this time is ended
    #[arg(
        long,
        env = "HATCHERY_READY_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = time
    )]
    ready_timeout: Duration,
    /// Environment variable for spawns, whose environment is otherwise replaced; repeat it, or separate by commas
    #[arg(
        long = "env",
        env = "HATCHERY_ENV",
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        value_parser = settings::variable
    )]
    env: Vec<(String, String)>,
    /// Extra argument for spawns; may be repeated
    #[arg(long = "arg", env = "HATCHERY_ARG", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// Where the farm's state is kept: `embedded` in this process, or a redis:// URL
    #[arg(
        long,
        env = "HATCHERY_REGISTRY",
        default_value = "embedded",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Registry"
    )]
    registry: String,
    #[command(flatten)]
    farm: FarmFlag,
    #[command(flatten)]
    log: LogFlags,
}

/// Does it, until a signal.
pub(crate) fn run(args: &DevArgs) -> Result<Exit, Failure> {
    logging::start(&args.log)?;
    block_on(Builder::new_multi_thread(), async {
        let settings = settings::Settings::prepare(args)?;
        let mut signals = Signals::catch()?;
        let farm = tokio::select! {
            farm = farm::Farm::start(&settings) => farm?,
            name = signals.next() => {
                info!(signal.name = name, "ended before it had started");
                return Ok(Exit::Done);
            }
        };
        notice::show(&settings, &farm);
        let name = signals.next().await;
        info!(signal.name = name, "ending, and every spawn with it");
        let hurry = CancellationToken::new();
        signals.hurry_on_next(&hurry, farm.end(&hurry)).await;
        Ok(Exit::Done)
    })
}
