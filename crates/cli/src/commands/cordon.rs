//! `hatchery cordon` and `hatchery uncordon`: closes a node to new spawns, and opens it again.

use std::io::{self, Write};

use clap::Args;
use model::NodeId;
use model::api::EligibilityAnswer;

use crate::args::ClientFlags;
use crate::client::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::write_json;
use crate::standard_error::say;

/// Closes a node to new spawns. Those that run stay; a drain that was under way becomes a cordon.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery cordon node-a\n  \
    hatchery cordon node-a --reason maintenance\n  \
    hatchery cordon node-a --json | jq .remaining")]
pub(crate) struct CordonArgs {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
    /// Why, kept with the order: `hatchery nodes NODE` and `hatchery audit` show it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

/// Opens a node to new spawns again; undoes a cordon and a drain.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery uncordon node-a")]
pub(crate) struct UncordonArgs {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &CordonArgs) -> Result<Exit, Failure> {
    report(context, &context.client.cordon(&args.node, args.reason.as_deref()).await?)
}

pub(crate) async fn undo(context: &Context, args: &UncordonArgs) -> Result<Exit, Failure> {
    report(context, &context.client.uncordon(&args.node).await?)
}

/// Says what the front door answered.
pub(super) fn report(context: &Context, answer: &Answer<EligibilityAnswer>) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &answer.json)?;
    } else {
        let EligibilityAnswer { node, eligibility, remaining, deadline, .. } = &answer.value;
        write!(out, "{node}  {eligibility}, {remaining} running")?;
        if let Some(deadline) = deadline {
            write!(out, ", deadline {deadline}")?;
        }
        writeln!(out)?;
    }
    unconfirmed(&answer.value);
    Ok(Exit::Done)
}

/// Says so when the agent has not confirmed.
pub(super) fn unconfirmed(answer: &EligibilityAnswer) {
    if !answer.agent_acknowledged {
        say(&format!(
            "note: the agent of {} has not confirmed; it gets the order with its next heartbeat",
            answer.node
        ));
    }
}
