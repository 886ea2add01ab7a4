//! `hatchery agent`: supervises the stream cache servers of a machine. Opens the registry, runs one [`::agent::Agent`] until a signal
//! or the loss of its node, and makes its end an exit code.

use ::agent::{Agent, Closed, OnShutdown, StartError};
use clap::Args;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::role;
use super::role::Guarded;
use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;
use crate::notify_socket::NotifySocket;
use crate::runtime::block_on;
use crate::signals::Signals;

/// Runs an agent. One per machine; it starts, watches and ends the machine's stream cache servers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery agent --executable /opt/hoops/ts3d_sc_server --license-file /etc/hoops.key\n  \
    hatchery agent --executable ./ts3d-sc-sim --license-file key --node node-a --slots 8\n  \
    hatchery agent --executable ts3d_sc_server --label sdk=2025.1 --on-shutdown drain\n\n\
    Prints one line to standard output once it listens. SIGTERM and SIGINT end it as\n\
    --on-shutdown says; a second signal hurries. The next agent with the same --state-dir\n\
    and --liveliness-listen takes over what still runs, however this one ended. It exits with\n\
    4 when another agent has taken the node over: starting it again would not help.")]
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

/// Servers outlive the agent. They inherit no descriptor that it was started with (a lock or a file of its shell), and those of other users
/// gain nothing from programs with the set-user-ID bit. To be called while this process has one thread.
fn confine_what_is_started(as_other_users: bool) {
    close_fds::set_fds_cloexec(3, &[]);
    if as_other_users && let Err(error) = nix::sys::prctl::set_no_new_privs() {
        warn!(%error, "servers may gain privileges by programs with the set-user-ID bit");
    }
}

/// Runs until a signal.
pub(crate) fn run(args: AgentArgs) -> Result<Exit, Failure> {
    let insecure = args.options.tls.insecure;
    let mut config = args.options.into_config().map_err(|e| role::wrong(&e))?;
    config.inherit_orphans = true;
    let password = args.registry.registry_password_file.iter();
    config.secret_files.extend(password.map(|file| ("--registry-password-file", file.clone())));
    let settings = role::trace_settings()?;
    logging::start(&args.log)?;
    confine_what_is_started(config.spawn_users.is_some());
    block_on(Builder::new_multi_thread(), async {
        let tracer = role::tracer(settings, "hatchery-agent", Some(&config.node))?;
        config.tracer = tracer.clone();
        role::check_registry(&args.registry, Guarded { role: config.tls.grpc.is_some(), insecure })?;
        let registry = role::open(&args.registry, config.keep_ended)?;
        let (node, on_shutdown) = (config.node.clone(), config.on_shutdown);
        let exit_when_drained = config.exit_when_drained;
        let [grpc, admin] = [&config.tls.grpc, &config.tls.admin].map(|tls| role::scheme(tls.is_some()));
        let mut signals = Signals::catch()?;
        let service = NotifySocket::from_environment();
        let agent = Agent::start(config, registry).await.map_err(|e| not_started(&e))?;
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
            never = service.follow(async || agent.readiness()) => match never {},
        };
        let closed = match end {
            End::Closed(closed) => Some(closed),
            End::Signal(_) | End::Drained => None,
        };
        if closed == Some(Closed::Superseded) {
            // What runs here has no other agent, and it may be a mistake that this one has lost the node: nothing is ended for it, whatever
            // --on-shutdown says.
            warn!(
                "spawns go on here until they end; SIGTERM leaves them running, with --on-shutdown drain once they have ended"
            );
            // With `drain`, ending this process may end what runs (a container): it stays for the spawns until a second signal.
            let mut signals_left = if on_shutdown == OnShutdown::Drain { 2 } else { 1 };
            while signals_left > 0 {
                tokio::select! {
                    name = signals.next() => {
                        signals_left -= 1;
                        info!(signal.name = name, %on_shutdown, "the node is another agent's: no spawn is ended");
                    }
                    () = agent.emptied() => signals_left = 0,
                    never = service.follow(async || agent.readiness()) => match never {},
                }
            }
        }
        let on_shutdown = match end {
            End::Signal(name) => {
                info!(signal.name = name, on_shutdown = %on_shutdown, "ending");
                on_shutdown
            }
            End::Drained => {
                info!("the node is drained and empty, ending");
                on_shutdown
            }
            // The agent that is started next takes over what runs.
            End::Closed(Closed::Superseded | Closed::Taken | Closed::Failed) => OnShutdown::Adopt,
        };
        service.stopping(&format!("ending, --on-shutdown {on_shutdown}")).await;
        let own = agent.advertise().to_owned();
        let other = agent.other_agent().unwrap_or_default();
        signals.hurry_on_next(&hurry, agent.shutdown(on_shutdown, hurry.clone())).await;
        if !hurry.is_cancelled() {
            role::end_traces(&[&tracer], &mut signals).await;
        }
        match closed {
            Some(Closed::Superseded) => {
                let wants = "another agent has taken this node over; --node must be unique in the farm";
                Err(Failure::refused(wants))
            }
            Some(Closed::Taken) => {
                let wants = format!(
                    "another agent, at {other}, has node {node}, not this one at {own}; --node must be unique in the farm"
                );
                Err(Failure::refused(wants))
            }
            Some(Closed::Failed) => Err(Failure::failed("a part of the agent has failed")),
            None => {
                info!("ended");
                Ok(Exit::Done)
            }
        }
    })
}

fn not_started(error: &StartError) -> Failure {
    match error {
        StartError::Config(_) => role::wrong(error),
        _ => role::not_started(error),
    }
}
