//! `hatchery stop`: ends spawns, by their ids or by what they are like.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, stream};
use model::SpawnState;
use model::api::Spawn;
use tokio::time::{Instant, sleep, timeout_at};

use super::show::end;
use crate::args::{ClientFlags, time};
use crate::call_error::CallError;
use crate::client::{Answer, Stopped};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Readers};
use crate::filter::Filter;
use crate::output::{count, write_json};
use crate::pages::Pages;
use crate::retry::patiently;
use crate::spawn_ids::{self, Purpose};
use crate::standard_error::say;

/// Between two looks at the spawns that are waited for.
const LOOK: Duration = Duration::from_millis(200);
/// The last look may take so much longer than the wait.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Spawns that are stopped, or waited for, at once.
const AT_ONCE: usize = 16;

/// Stops spawns: TERM, a grace, KILL. Answers at once unless --wait is given.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery stop 456789ab\n  \
    hatchery stop --wait 01987a5e-2f30-7c41-9d5c-0123456789ab 01987a5e-2f31-7d02-8e11-ba9876543210\n  \
    hatchery stop --wait=10s 01987a5e-2f30-7c41-9d5c-0123456789ab\n  \
    hatchery stop --tag user=ann@example.com\n  \
    hatchery stop --owner web --node node-a\n  \
    hatchery stop --all\n\n\
    With several spawns the exit code is that of the worst. By a filter, those that match and have not\n\
    ended are stopped; `hatchery spawns` with the same flags lists them.")]
pub(crate) struct StopArgs {
    /// The spawns' ids, or their ends of eight characters or more
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Wait until they have ended, at most this long [default with --wait: 30s]
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_parser = time
    )]
    wait: Option<Duration>,
    #[command(flatten)]
    filter: Filter,
    /// All of them: every spawn that the caller may stop, or that matches the filter
    #[arg(long, help_heading = "Filter")]
    all: bool,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

/// Asks for every end first, then waits for those that were promised.
pub(crate) async fn run(context: &Context, args: &StopArgs) -> Result<Exit, Failure> {
    let chosen = args.all || !args.filter.is_empty();
    match (chosen, args.ids.is_empty()) {
        (true, false) => return Err(Failure::usage("name spawns by id or by a filter, not by both")),
        (false, true) => {
            return Err(Failure::usage(
                "say which: <ID>, --tag, --owner, --node or --state, or --all for every spawn",
            ));
        }
        (true, true) | (false, false) => {}
    }
    let ids = if chosen {
        meant(context, &args.filter).await?
    } else {
        spawn_ids::resolve_all(&context.client, &args.ids, Purpose::Change).await?
    };
    let mut worst = Exit::Done;
    let mut promised = Vec::new();
    // In the order in which they were named, however soon each is answered.
    let mut stops = stream::iter(&ids).map(|id| stop(context, id, &args.filter)).buffered(AT_ONCE);
    let mut named = ids.iter();
    while let (Some(outcome), Some(id)) = (stops.next().await, named.next()) {
        match outcome {
            Ok(Asked::Stopped(stopped)) => {
                if args.wait.is_none() {
                    say_stopped(context, id, &stopped)?;
                }
                promised.push(id);
            }
            Ok(Asked::Changed(state)) => say(&format!("{id} is {state} now and was not stopped")),
            Ok(Asked::Gone) => {}
            Err(error) => worst = worst.worse(Failure::from(error).report(Readers::of(context.json))),
        }
    }
    match args.wait {
        Some(wait) => Ok(worst.worse(ends(context, promised, wait).await?)),
        None => Ok(worst),
    }
}

/// The spawns that a filter means and that have not ended, and says what becomes of them.
async fn meant(context: &Context, filter: &Filter) -> Result<Vec<String>, Failure> {
    let mut spawns: Vec<Spawn> = Vec::new();
    let mut pages = Pages::of(&context.client, filter.clone());
    while let Some(answer) = patiently(async || pages.next(usize::MAX).await).await? {
        spawns.extend(answer.value.spawns);
    }
    let living = spawns.iter().filter(|spawn| spawn.state != SpawnState::Exited);
    let ids: Vec<String> = living.map(|spawn| spawn.id.to_string()).collect();
    let words = filter.words();
    say(&match ids.len() {
        0 => format!("no spawn{words} to stop"),
        ids => format!("stopping {}{words}", count(ids, "spawn")),
    });
    Ok(ids)
}

/// What came of asking for a spawn's end.
enum Asked {
    Stopped(Stopped),
    /// It is not in the state any more that the filter named.
    Changed(SpawnState),
    /// It was to be stopped for its state, and there is no record of it any more.
    Gone,
}

/// Asks for a spawn's end. Of what a filter names only the state of a spawn can change, so it is looked at once more.
async fn stop(context: &Context, id: &str, filter: &Filter) -> Result<Asked, CallError> {
    if let Some(wanted) = filter.state {
        match patiently(async || context.client.show(id).await).await {
            Ok(answer) if answer.value.state != wanted => return Ok(Asked::Changed(answer.value.state)),
            Ok(_) => {}
            Err(error) if error.exit() == Exit::NotFound => return Ok(Asked::Gone),
            Err(error) => return Err(error),
        }
    }
    patiently(async || context.client.stop(id).await).await.map(Asked::Stopped)
}

/// Prints the outcome of the request; with a wait, the end is printed instead.
fn say_stopped(context: &Context, id: &str, stopped: &Stopped) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !context.json {
        return writeln!(out, "{id}  {}", if stopped.had_ended { "had ended already" } else { "stopping" });
    }
    if stopped.json.is_empty() { Ok(()) } else { write_json(&mut out, &stopped.json) }
}

/// Waits until all have ended, and says how each did as soon as it is known. Looks at all of them again and again, so many at
/// once.
async fn ends(context: &Context, mut promised: Vec<&String>, wait: Duration) -> Result<Exit, Failure> {
    let deadline = Instant::now() + wait;
    let mut worst = Exit::Done;
    loop {
        let looks = stream::iter(std::mem::take(&mut promised));
        let mut looks =
            looks.map(async |id| (id, look(context, id, deadline + LAST_LOOK).await)).buffered(AT_ONCE);
        while let Some((id, outcome)) = looks.next().await {
            match outcome {
                Ok(Some(ended)) => say_ended(context, id, &ended)?,
                Ok(None) => promised.push(id),
                Err(failure) => worst = worst.worse(failure.report(Readers::of(context.json))),
            }
        }
        drop(looks);
        if promised.is_empty() {
            return Ok(worst);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let limit = humantime::format_duration(wait);
            for id in promised {
                let late = Failure::Said(Exit::TimedOut, format!("spawn {id} has not ended within {limit}"));
                worst = worst.worse(late.report(Readers::of(context.json)));
            }
            return Ok(worst);
        }
        sleep(LOOK.min(left)).await;
    }
}

/// The record of a spawn that has ended; `None` while it has not, as far as is known by then.
async fn look(context: &Context, id: &str, until: Instant) -> Result<Option<Answer<Spawn>>, Failure> {
    let call = patiently(async || context.client.show(id).await);
    let Ok(answer) = timeout_at(until, call).await else { return Ok(None) };
    let answer = answer?;
    match answer.value.state {
        SpawnState::Exited => Ok(Some(answer)),
        SpawnState::Lost => {
            let node = &answer.value.node;
            Err(Failure::failed(format!("spawn {id} is lost: node {node} is gone")))
        }
        _ => Ok(None),
    }
}

fn say_ended(context: &Context, id: &str, ended: &Answer<Spawn>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if context.json {
        return write_json(&mut out, &ended.json);
    }
    let how = ended.value.exit.as_ref().map_or_else(|| "exited".to_owned(), end);
    writeln!(out, "{id}  {how}")
}
