//! `hatchery frontdoor`: the HTTP service that clients and operators talk to.

use clap::Args;

use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;

/// Runs a front door. It holds nothing: any number of them serve one farm.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery frontdoor\n  \
    hatchery frontdoor --registry redis://redis:6379 --farm blue\n\n\
    Prints one line to standard output once it listens. SIGTERM and SIGINT end it after the requests it is serving; a\n\
    second signal hurries.")]
pub(crate) struct FrontdoorArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// Does it, until a signal.
pub(crate) fn run(args: FrontdoorArgs) -> Result<Exit, Failure> {
    crate::logging::start(&args.log)?;
    Err(Failure::failed(format!("not yet: {:?}", args.registry)))
}
