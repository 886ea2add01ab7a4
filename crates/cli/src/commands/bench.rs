//! `hatchery bench`: load, and how long the answers take.
//!
//! ```text
//!  load ──▶ one life each: spawn ─ hold ─ stop ──▶ tally ──▶ report
//! ```
//!
//! [`load`] decides when a spawn is asked for, [`life`] asks and measures, [`tally`] counts, [`report`] prints. All of it
//! runs on one thread, because it shares the machine with what it measures.

pub(crate) mod life;
pub(crate) mod load;
mod pace;
mod progress;
pub(crate) mod report;
pub(crate) mod tally;

use std::io;
use std::time::Duration;

use clap::{ArgAction, Args};
use tokio_util::sync::CancellationToken;

use crate::args::{ClientFlags, SpawnFlags, duration, time};
use crate::client::PreparedSpawn;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::write_json;
use crate::signals::Signals;
use crate::standard_error::say;

/// How long load lasts when nothing else bounds it.
const DURATION: Duration = Duration::from_secs(10);

/// Puts load on a farm and measures how long its answers take.
///
/// Without --rate the loop is closed: --concurrency spawns are asked for at once, and each that is over is followed by
/// the next. With --rate it is open: spawns are asked for on a fixed schedule, however slow the answers are, and latency
/// counts from the moment on the schedule, so that a stall shows in every request it delayed.
#[derive(Debug, Args)]
#[command(after_help = concat!(
    "Examples:\n  ",
    "hatchery bench\n  ",
    "hatchery bench --concurrency 50 --count 10000\n  ",
    "hatchery bench --rate 200 --duration 30s --hold 5s\n  ",
    "hatchery bench --rate 50 --json | jq .spawnMicros.p99\n\n",
    "The exit code is 0 when at least one spawn became ready, else that of what happened\n",
    "most often. An interrupt ends the load, stops what is running and reports; a second\n",
    "one gives up.\n\n",
    report::json_help!(),
))]
pub(crate) struct BenchArgs {
    /// Closed loop: this many spawns at once, holding and stopping included
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=100_000),
        conflicts_with_all = ["rate", "max_in_flight"],
        help_heading = "Load"
    )]
    concurrency: u32,
    /// Open loop: this many spawns per second, on a fixed schedule
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, help_heading = "Load")]
    rate: Option<f64>,
    /// Open loop: arrivals that find this many in flight are counted as missed, and not sent
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=100_000),
        requires = "rate",
        help_heading = "Load"
    )]
    max_in_flight: u32,
    /// End after this many spawns
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Load")]
    count: Option<u64>,
    /// End after this time [default: 10s, none with --count]
    #[arg(long, value_name = "DURATION", value_parser = time, help_heading = "Load")]
    duration: Option<Duration>,
    /// Stop each spawn, so that its slot comes back
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = ArgAction::Set,
        help_heading = "Load"
    )]
    stop: bool,
    /// Keep each spawn this long between ready and stop
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration, help_heading = "Load")]
    hold: Duration,
    #[command(flatten)]
    pub(crate) spawn: SpawnFlags,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1_000_000.0 => Ok(rate),
        _ => Err("expected spawns per second, more than 0 and at most 1000000".to_owned()),
    }
}

impl BenchArgs {
    fn bounds(&self) -> load::Bounds {
        load::Bounds {
            count: self.count,
            duration: self.duration.or(self.count.is_none().then_some(DURATION)),
        }
    }

    fn shape(&self) -> load::Shape {
        match self.rate {
            Some(rate) => load::Shape::Open { rate, max_in_flight: self.max_in_flight },
            None => load::Shape::Closed { concurrency: self.concurrency },
        }
    }
}

pub(crate) async fn run(context: &Context, args: &BenchArgs) -> Result<Exit, Failure> {
    let life = life::Life::new(life::Plan {
        client: context.client.clone(),
        spawn: PreparedSpawn::new(&args.spawn.request()?, None),
        stop: args.stop,
        hold: args.hold,
    });
    let (bounds, shape) = (args.bounds(), args.shape());
    let (elapsed, interrupted) = drive(shape, bounds, &life, !context.json).await?;

    let tally = life.tally();
    let tally = tally.lock();
    let report = report::Report::new(context.client.server(), shape, elapsed, interrupted, &tally);
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &report.json())?;
    } else {
        report.write(&mut out)?;
    }
    Ok(tally.exit())
}

/// Makes the load, with a progress bar if wanted. Returns how long it took, and whether a signal ended it early.
pub(crate) async fn drive(
    shape: load::Shape,
    bounds: load::Bounds,
    life: &life::Life,
    bar: bool,
) -> Result<(Duration, bool), Failure> {
    let enough = CancellationToken::new();
    let mut signals = Signals::catch()?;
    let progress = progress::Progress::show(bar, &bounds, life.tally());
    let load = load::run(shape, bounds, life.clone(), enough.clone());
    tokio::pin!(load);
    let mut interrupted = false;
    let elapsed = loop {
        tokio::select! {
            biased;
            elapsed = &mut load => break elapsed,
            _ = signals.next() => {
                if interrupted {
                    return Err(Failure::failed("interrupted twice: spawns may be left running"));
                }
                interrupted = true;
                say("interrupted: stopping what is running");
                enough.cancel();
                life.end_hold();
            }
        }
    };
    progress.clear();
    Ok((elapsed, interrupted))
}
