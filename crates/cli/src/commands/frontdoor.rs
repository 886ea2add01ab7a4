//! `hatchery frontdoor`: the HTTP service that clients and operators talk to.

use clap::Args;
use tokio::runtime::Builder;
use tracing::{info, warn};

use super::role::Guarded;
use super::{block_on, role};
use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;
use crate::signals::Signals;

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

/// Does it, until a signal.
pub(crate) fn run(args: FrontdoorArgs) -> Result<Exit, Failure> {
    let insecure = args.options.tls.insecure;
    let config = args.options.into_config().map_err(|e| role::wrong(&e))?;
    serve("frontdoor", config, &args.registry, &args.log, insecure)
}

/// Serves as the role of this name, until a signal.
pub(super) fn serve(
    name: &str,
    config: ::frontdoor::Config,
    registry: &RegistryFlags,
    log: &LogFlags,
    insecure: bool,
) -> Result<Exit, Failure> {
    logging::start(log)?;
    block_on(Builder::new_multi_thread(), async {
        let has_tls = config.tls.http.is_some() || config.tls.agents.is_some();
        let knows_callers = config.access.is_some() || config.surface == ::frontdoor::Surface::Relay;
        let guarded = Guarded { role: has_tls && knows_callers, insecure };
        role::check_registry(registry, guarded)?;
        let registry = role::open(registry)?;
        let [http, admin] = [&config.tls.http, &config.tls.admin].map(|tls| role::scheme(tls.is_some()));
        let mut signals = Signals::catch()?;
        let door =
            ::frontdoor::FrontDoor::start(config, registry).await.map_err(|e| role::not_started(&e))?;
        let hoops = door.hoops_addr().map(|address| format!(", hoops on {http}://{address}"));
        role::announce(&format!(
            "{name} listening on {http}://{}, admin on {admin}://{}{}",
            door.http_addr(),
            door.admin_addr(),
            hoops.unwrap_or_default()
        ));
        let signal = signals.next().await;
        info!(signal.name = signal, "ending: no new requests");
        tokio::select! {
            () = door.shutdown() => info!("ended"),
            signal = signals.next() => warn!(signal.name = signal, "a second signal: requests are cut off"),
        }
        Ok(Exit::Done)
    })
}
