//! `hatchery frontdoor`: the HTTP service that clients and operators talk to. Starts a [`::frontdoor::FrontDoor`] and shuts it down
//! in good order on a signal; a second one hurries.

use clap::Args;

use super::role;
use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;

/// Runs a front door. It holds nothing: any number of them serve one farm.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery frontdoor\n  \
    hatchery frontdoor --registry redis://redis:6379 --farm blue\n  \
    hatchery frontdoor --listen 0.0.0.0:443 --api-keys keys --tls-cert door.pem --tls-key door.key\n  \
    hatchery frontdoor --cors-origin https://viewer.example --log warn --log-format json\n\n\
    Prints one line to standard output once it listens. SIGTERM and SIGINT end it\n\
    after the requests it is serving, and once the viewers that are connected through it\n\
    have gone; a second signal ends it at once.")]
pub(crate) struct FrontdoorArgs {
    #[command(flatten)]
    options: ::frontdoor::Options,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// Runs until a signal.
pub(crate) fn run(args: FrontdoorArgs) -> Result<Exit, Failure> {
    let insecure = args.options.tls.insecure;
    let config = args.options.into_config().map_err(|e| role::wrong(&e))?;
    role::serve("frontdoor", config, Some(&args.registry), &args.log, insecure)
}
