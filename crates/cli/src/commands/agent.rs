//! `hatchery agent`: supervises the stream cache servers of a machine.

use ::agent::{Agent, OnShutdown};
use clap::Args;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{block_on, role};
use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;
use crate::signals::Signals;

/// Runs an agent. One per machine; it starts, watches and ends the machine's stream cache servers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery agent --executable /opt/hoops/ts3d_sc_server --license-file /etc/hoops.key\n  \
    hatchery agent --executable ./ts3d-sc-sim --license-file key --node node-a --slots 8\n  \
    hatchery agent --executable ts3d_sc_server --label sdk=2025.1 --on-shutdown drain\n\n\
    Prints one line to standard output once it listens. SIGTERM and SIGINT end it as\n\
    --on-shutdown says; a second signal hurries.")]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    options: ::agent::Options,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// Does it, until a signal.
pub(crate) fn run(args: AgentArgs) -> Result<Exit, Failure> {
    let config = args.options.into_config().map_err(|e| role::wrong(&e))?;
    logging::start(&args.log)?;
    block_on(Builder::new_multi_thread(), async {
        let registry = role::open(&args.registry)?;
        let (node, on_shutdown) = (config.node.clone(), config.on_shutdown);
        let mut signals = Signals::catch()?;
        let agent = Agent::start(config, registry).await.map_err(|e| role::not_started(&e))?;
        role::announce(&format!(
            "agent {node} listening on http://{}, liveliness on http://{}, admin on http://{}",
            agent.grpc_addr(),
            agent.liveliness_addr(),
            agent.admin_addr()
        ));
        let hurry = CancellationToken::new();
        let taken_over = tokio::select! {
            name = signals.next() => {
                info!(signal.name = name, on_shutdown = %on_shutdown, "ending");
                false
            }
            () = agent.closed() => true,
        };
        // Whoever took the node over is elsewhere, or it could not listen: what runs here has nobody else.
        let on_shutdown = if taken_over { OnShutdown::Drain } else { on_shutdown };
        signals.hurry_on_next(&hurry, agent.shutdown(on_shutdown, hurry.clone())).await;
        if taken_over {
            let wants = "another agent has taken this node over; --node must be unique in the farm";
            return Err(Failure::failed(wants));
        }
        info!("ended");
        Ok(Exit::Done)
    })
}
