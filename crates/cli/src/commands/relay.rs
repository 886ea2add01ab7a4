//! `hatchery relay`: the way of viewers to their spawns, and nothing else. It is a front door without its other routes; with `--node`
//! it serves that node alone.

use clap::Args;

use super::role;
use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;

/// Runs a relay: viewers reach their spawns through it, on one port. It holds nothing; any number of them serve one farm.
///
/// Front doors with --public-url do the same beside everything else. A relay is for a network of its own, where nothing but
/// viewers is to be served. Endpoints lead through it when they name it: `--public-url` of the front doors, or --endpoint of
/// the agents, such as wss://viewers.example.com/s/{node}/{id}/{token}.
///
/// With --node it is the relay of a node: front doors and relays bring viewers to it by mutual TLS, and the ports of the node's
/// servers need not be reachable by other machines.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery relay\n  \
    hatchery relay --registry redis://redis:6379 --farm blue\n  \
    hatchery relay --listen 0.0.0.0:443 --tls-cert relay.pem --tls-key relay.key\n  \
    hatchery relay --node node-a --agent https://node-a:7070 --listen 0.0.0.0:8091 \\\n    \
    --tls-cert node-a.relay.pem --tls-key node-a.relay.key --tls-client-ca ca.pem\n\n\
    Prints one line to standard output once it listens. SIGTERM and SIGINT free its ports; it ends once\n\
    its last viewer has gone. A second signal ends it at once.")]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    options: ::frontdoor::RelayOptions,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// Does it, until a signal.
pub(crate) fn run(args: RelayArgs) -> Result<Exit, Failure> {
    let insecure = args.options.tls.insecure;
    // One that was given its agent looks up no node.
    let registry = args.options.agent.is_none().then_some(&args.registry);
    let config = args.options.into_config().map_err(|e| role::wrong(&e))?;
    role::serve("relay", config, registry, &args.log, insecure)
}
