//! `hatchery frontdoor`: the HTTP service that clients and operators talk to.

use clap::Args;
use tokio::runtime::Builder;
use tracing::{info, warn};

use super::role;
use super::role::Guarded;
use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;
use crate::runtime::block_on;
use crate::signals::Signals;

/// Runs a front door. It holds nothing: any number of them serve one farm.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery frontdoor\n  \
    hatchery frontdoor --registry redis://redis:6379 --farm blue\n  \
    hatchery frontdoor --listen 0.0.0.0:443 --api-keys keys --tls-cert door.pem --tls-key door.key\n  \
    hatchery frontdoor --cors-origin https://viewer.example --log warn --log-format json\n\n\
    Prints one line to standard output once it listens. SIGTERM and SIGINT end it\n\
    after the requests it is serving; a second signal ends it at once.")]
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
    logging::start(&args.log)?;
    block_on(Builder::new_multi_thread(), async {
        let has_tls = config.tls.http.is_some() || config.tls.agents.is_some();
        let guarded = Guarded { role: has_tls && config.access.is_some(), insecure };
        role::check_registry(&args.registry, guarded)?;
        let registry = role::open(&args.registry)?;
        let [http, admin] = [&config.tls.http, &config.tls.admin].map(|tls| role::scheme(tls.is_some()));
        let mut signals = Signals::catch()?;
        let door =
            ::frontdoor::FrontDoor::start(config, registry).await.map_err(|e| role::not_started(&e))?;
        role::announce(&format!(
            "frontdoor listening on {http}://{}, admin on {admin}://{}",
            door.http_addr(),
            door.admin_addr()
        ));
        let name = signals.next().await;
        info!(signal.name = name, "ending: no new requests");
        tokio::select! {
            () = door.shutdown() => info!("ended"),
            name = signals.next() => warn!(signal.name = name, "a second signal: requests are cut off"),
        }
        Ok(Exit::Done)
    })
}
