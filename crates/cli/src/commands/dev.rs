//! `hatchery dev`: a whole farm in one process.

use std::env::ArgsOs;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::args::{FarmFlag, LogFlags};
use crate::exit::Exit;
use crate::failure::Failure;

/// The name under which this binary is the simulated server.
const SIMULATOR: &str = "ts3d-sc-sim";

/// The simulated server, if that is what this binary was called as.
pub(crate) fn simulator_named(called: Option<&OsStr>) -> Option<fn(ArgsOs) -> ExitCode> {
    let called_so = Path::new(called?).file_name()? == SIMULATOR;
    called_so.then_some(sc_sim::run as fn(ArgsOs) -> ExitCode)
}

/// Runs a whole farm in this process.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery dev")]
pub(crate) struct DevArgs {
    #[command(flatten)]
    farm: FarmFlag,
    #[command(flatten)]
    log: LogFlags,
}

/// Does it, until a signal.
pub(crate) fn run(args: DevArgs) -> Result<Exit, Failure> {
    crate::logging::start(&args.log)?;
    Err(Failure::failed(format!("not yet: {:?}", args.farm)))
}
