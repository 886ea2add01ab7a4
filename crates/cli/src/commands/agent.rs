//! `hatchery agent`: supervises the stream cache servers of a machine.

use ::agent::{Agent, Closed, OnShutdown};
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
    --on-shutdown says; a second signal hurries. The next agent with the same --state-dir\n\
    and --liveliness-listen takes over what still runs, however this one ended.")]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    options: ::agent::Options,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// What ends an agent.
enum End {
    Signal(&'static str),
    Closed(Closed),
    Drained,
}

/// Does it, until a signal.
pub(crate) fn run(args: AgentArgs) -> Result<Exit, Failure> {
    let config = args.options.into_config().map_err(|e| role::wrong(&e))?;
    logging::start(&args.log)?;
    block_on(Builder::new_multi_thread(), async {
        let registry = role::open(&args.registry)?;
        let (node, on_shutdown) = (config.node.clone(), config.on_shutdown);
        let exit_when_drained = config.exit_when_drained;
        let [grpc, admin] = [&config.tls.grpc, &config.tls.admin].map(|tls| role::scheme(tls.is_some()));
        let mut signals = Signals::catch()?;
        let agent = Agent::start(config, registry).await.map_err(|e| role::not_started(&e))?;
        role::announce(&format!(
            "agent {node} listening on {grpc}://{}, liveliness on http://{}, admin on {admin}://{}",
            agent.grpc_addr(),
            agent.liveliness_addr(),
            agent.admin_addr()
        ));
        let hurry = CancellationToken::new();
        let end = tokio::select! {
            name = signals.next() => End::Signal(name),
            closed = agent.closed() => End::Closed(closed),
            () = agent.drained(), if exit_when_drained => End::Drained,
        };
        let on_shutdown = match end {
            End::Signal(name) => {
                info!(signal.name = name, on_shutdown = %on_shutdown, "ending");
                on_shutdown
            }
            End::Drained => {
                info!("the node is drained and empty, ending");
                on_shutdown
            }
            // Whoever took the node over has another state directory: what runs here has nobody else.
            End::Closed(Closed::Superseded) => OnShutdown::Drain,
            // The agent that is started next takes it over.
            End::Closed(Closed::Failed) => OnShutdown::Adopt,
        };
        signals.hurry_on_next(&hurry, agent.shutdown(on_shutdown, hurry.clone())).await;
        match end {
            End::Closed(Closed::Superseded) => {
                let wants = "another agent has taken this node over; --node must be unique in the farm";
                Err(Failure::failed(wants))
            }
            End::Closed(Closed::Failed) => Err(Failure::failed("a part of the agent has failed")),
            End::Signal(_) | End::Drained => {
                info!("ended");
                Ok(Exit::Done)
            }
        }
    })
}
