//! `hatchery forget`: removes the record of a node that will not come back. The front door refuses it for a node that is up.

use std::io::{self, Write};

use clap::Args;
use model::NodeId;

use crate::args::ClientFlags;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::write_json;

/// Removes a node that will not come back, with its slots; its spawns end as node-lost. A node that is up is not removed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery forget node-a\n  \
    hatchery forget node-a --json | jq .ended\n\n\
    A node that comes back all the same registers again, with what it still runs.")]
pub(crate) struct ForgetArgs {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &ForgetArgs) -> Result<Exit, Failure> {
    let answer = context.client.forget(&args.node).await?;
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &answer.json)?;
    } else {
        writeln!(out, "{}  forgotten, spawns ended as node-lost: {}", answer.value.node, answer.value.ended)?;
    }
    Ok(Exit::Done)
}
