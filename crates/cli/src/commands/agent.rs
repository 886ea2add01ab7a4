//! `hatchery agent`: supervises the stream cache servers of a machine.

use clap::Args;

use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;

/// Runs an agent. One per machine; it starts, watches and ends the machine's stream cache servers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery agent\n  \
    hatchery agent --registry redis://redis:6379 --farm blue\n\n\
    Prints one line to standard output once it listens.")]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// Does it, until a signal.
pub(crate) fn run(args: AgentArgs) -> Result<Exit, Failure> {
    crate::logging::start(&args.log)?;
    Err(Failure::failed(format!("not yet: {:?}", args.registry)))
}
