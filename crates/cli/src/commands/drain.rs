//! `hatchery drain`: empties a node, and waits for that if asked to.
//!
//! The order stands once the front door has answered. A wait only looks: it outlives restarts of front doors and registry, and when it ends
//! early, the drain goes on.

mod progress;

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use model::api::{DrainRequest, EligibilityAnswer, ErrorCode, Node};
use model::{Availability, Eligibility, NodeId, SpawnState};
use tokio::time::{Instant, sleep, timeout_at};

use self::progress::Progress;
use super::cordon::{report, unconfirmed};
use crate::args::{ClientFlags, duration};
use crate::call_error::CallError;
use crate::client::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::output::write_json;
use crate::signals::Signals;
use crate::standard_error::say;

/// Between two looks at the node.
const LOOK: Duration = Duration::from_millis(500);
/// A drain goes on while front doors and registry are restarted, and so does the wait for it.
const AWAY: Duration = Duration::from_secs(60);
/// The longest deadline that may be given.
const MAX_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Lost spawns that are counted.
const MAX_LOST: u32 = 1000;
/// Characters of a reason.
const MAX_REASON_CHARS: usize = 500;

/// Empties a node: once this has answered nothing new starts there, and what runs ends by itself, or at the deadline.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery drain node-a\n  \
    hatchery drain node-a --deadline 30m --reason kernel-update --wait\n  \
    hatchery drain node-a --force --wait --timeout 1m\n\n\
    Repeated, it replaces deadline and reason; `hatchery uncordon NODE` undoes it.\n\
    Interrupted while it waits, it leaves the drain running and exits with 0.\n\
    A node that is down is not waited for: its spawns are lost already.\n\
    With --wait, --json prints the node as it is in the end.")]
pub(crate) struct DrainArgs {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
    /// End what still runs after this time, at most 7d [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = deadline)]
    deadline: Option<Duration>,
    /// Reason for the drain, shown with the node
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// End what still runs now
    #[arg(long, conflicts_with = "deadline")]
    force: bool,
    /// Wait until nothing runs on the node any more, as long as --timeout if that is given
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

fn deadline(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        deadline if deadline > MAX_DEADLINE => Err("must be at most 7d".to_owned()),
        deadline => Ok(deadline),
    }
}

fn reason(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("must not have control characters".to_owned());
    }
    match text.chars().count() {
        0..=MAX_REASON_CHARS => Ok(text.to_owned()),
        length => Err(format!("must have at most {MAX_REASON_CHARS} characters, not {length}")),
    }
}

pub(crate) async fn run(context: &Context, args: &DrainArgs) -> Result<Exit, Failure> {
    let began = Instant::now();
    let seconds = |d: Duration| u32::try_from(d.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    let request = DrainRequest {
        deadline_seconds: args.deadline.map(seconds),
        reason: args.reason.clone(),
        force: args.force.then_some(true),
    };
    if !args.wait {
        return report(context, &context.client.drain(&args.node, &request).await?);
    }
    // From here on an interrupt ends the wait, not the process with a half-drawn bar.
    let mut signals = Signals::catch()?;
    let answer = context.client.drain(&args.node, &request).await?.value;
    unconfirmed(&answer);
    let mut progress = Progress::show(context.json, &answer)?;
    let limit = args.flags.timeout.map(|timeout| (timeout, began + timeout));
    let drained = async {
        match limit {
            None => wait(context, &answer, &mut progress).await,
            Some((timeout, end)) => {
                timeout_at(end, wait(context, &answer, &mut progress)).await.unwrap_or_else(|_| {
                    let limit = humantime::format_duration(timeout);
                    let message =
                        format!("node {} is not empty after {limit}; the drain goes on", answer.node);
                    Err(Failure::Said(Exit::TimedOut, message))
                })
            }
        }
    };
    let outcome = tokio::select! {
        outcome = drained => Some(outcome),
        _ = signals.next() => None,
    };
    progress.clear();
    match outcome {
        None => {
            let left = progress.left();
            say(&format!(
                "the drain of {} goes on, {left} running; only the wait for it has ended",
                answer.node
            ));
            Ok(Exit::Done)
        }
        Some(node) => {
            let node = node?;
            if context.json {
                write_json(&mut io::stdout().lock(), &node.json)?;
            } else if node.value.availability == Availability::Down {
                let lost = lost_on(context, &answer.node).await?;
                let mut out = io::stdout().lock();
                writeln!(
                    out,
                    "{}  down: nothing runs there for the farm, {lost} lost; it stays closed if it comes back",
                    answer.node
                )?;
            } else {
                progress.done(&answer.node)?;
            }
            Ok(Exit::Done)
        }
    }
}

/// How many of a node's spawns are lost, in words.
async fn lost_on(context: &Context, node: &NodeId) -> Result<String, Failure> {
    let lost =
        context.client.spawns(&Filter::of(Some(node), Some(SpawnState::Lost)), MAX_LOST, None).await?.value;
    let more = if lost.next_cursor.is_some() { "more than " } else { "" };
    Ok(match lost.spawns.len() {
        1 => format!("{more}1 spawn is"),
        count => format!("{more}{count} spawns are"),
    })
}

/// Looks at the node until nothing runs there any more, or it is down: then there is nothing to wait for.
async fn wait(
    context: &Context,
    answer: &EligibilityAnswer,
    progress: &mut Progress,
) -> Result<Answer<Node>, Failure> {
    let mut heard = Instant::now();
    loop {
        match context.client.node(&answer.node).await {
            Ok(node) if node.value.eligibility != Eligibility::Draining => {
                let now = node.value.eligibility;
                let message = format!("node {} is {now} now: the drain was undone", answer.node);
                return Err(Failure::Said(Exit::Refused, message));
            }
            Ok(node) if node.value.slots.used == 0 || node.value.availability == Availability::Down => {
                return Ok(node);
            }
            Ok(node) => {
                heard = Instant::now();
                progress.set(&answer.node, node.value.slots.used)?;
            }
            Err(error) if passes(context, &error) && heard.elapsed() < AWAY => {}
            Err(error) => return Err(error.into()),
        }
        sleep(LOOK).await;
    }
}

/// Whether this is what a restart looks like, or a token that is about to be replaced in its file.
fn passes(context: &Context, error: &CallError) -> bool {
    if error.is_unauthenticated() {
        return context.client.credential().can_change();
    }
    match error {
        CallError::Unreachable { .. } | CallError::Broken { .. } | CallError::TimedOut { .. } => true,
        CallError::Refused { problem, .. } => {
            matches!(problem.code, ErrorCode::RegistryUnavailable | ErrorCode::ShuttingDown)
        }
        CallError::Odd { status, .. } => status.is_server_error(),
        CallError::Unreadable { .. } => false,
    }
}
