//! `hatchery stop`: ends spawns.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use model::SpawnState;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::show::end;
use crate::args::{ClientFlags, time};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::write_json;

/// Between two looks at a spawn that is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// Stops spawns: TERM, a grace, KILL. Answers at once unless --wait is given.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery stop 01987a5e-2f30-7c41-9d5c-0123456789ab\n  \
    hatchery stop --wait 01987a5e-2f30-7c41-9d5c-0123456789ab 01987a5e-2f31-7d02-8e11-ba9876543210\n  \
    hatchery stop --wait=10s 01987a5e-2f30-7c41-9d5c-0123456789ab\n\n\
    With several ids the exit code is that of the worst.")]
pub(crate) struct StopArgs {
    /// The spawns' ids
    #[arg(value_name = "ID", required = true)]
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
    pub(crate) flags: ClientFlags,
}

/// Asks for every end first, then waits for those that were promised.
pub(crate) async fn run(context: &Context, args: &StopArgs) -> Result<Exit, Failure> {
    let mut worst = Exit::Done;
    let mut promised = Vec::new();
    for id in &args.ids {
        match stop(context, id, args.wait.is_some()).await {
            Ok(()) => promised.push(id),
            Err(failure @ Failure::Output(_)) => return Err(failure),
            Err(failure) => worst = worst.worse(failure.report(context.json)),
        }
    }
    if let Some(wait) = args.wait {
        let deadline = Instant::now() + wait;
        for id in promised {
            let outcome = timeout_at(deadline, ended(context, id)).await.unwrap_or_else(|_| {
                let limit = humantime::format_duration(wait);
                Err(Failure::Said(Exit::TimedOut, format!("spawn {id} has not ended within {limit}")))
            });
            match outcome {
                Ok(()) => {}
                Err(failure @ Failure::Output(_)) => return Err(failure),
                Err(failure) => worst = worst.worse(failure.report(context.json)),
            }
        }
    }
    Ok(worst)
}

/// Prints the outcome of the request; with a wait, the end is printed instead.
async fn stop(context: &Context, id: &str, will_wait: bool) -> Result<(), Failure> {
    let stopped = context.client.stop(id).await?;
    if will_wait {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    if context.json {
        if !stopped.json.is_empty() {
            write_json(&mut out, &stopped.json)?;
        }
    } else {
        writeln!(out, "{id}  {}", if stopped.had_ended { "had ended already" } else { "stopping" })?;
    }
    Ok(())
}

/// Waits until a spawn has ended, and says how.
async fn ended(context: &Context, id: &str) -> Result<(), Failure> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let answer = context.client.show(id).await?;
        match answer.value.state {
            SpawnState::Exited => {
                let mut out = io::stdout().lock();
                if context.json {
                    write_json(&mut out, &answer.json)?;
                } else {
                    let how = answer.value.exit.as_ref().map_or_else(|| "exited".to_owned(), end);
                    writeln!(out, "{id}  {how}")?;
                }
                return Ok(());
            }
            SpawnState::Lost => {
                let node = &answer.value.node;
                return Err(Failure::failed(format!("spawn {id} is lost: node {node} is gone")));
            }
            _ => {}
        }
    }
}
