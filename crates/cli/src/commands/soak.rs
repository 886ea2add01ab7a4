//! `hatchery soak`: start and stop, again and again, and look whether anything is left.

mod audit;
mod memory;

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::args::{ClientFlags, SpawnFlags, time};
use crate::client::PreparedSpawn;
use crate::commands::bench::drive;
use crate::commands::bench::life::{Life, Plan};
use crate::commands::bench::load::{Bounds, Shape};
use crate::commands::bench::report::Report;
use crate::context::{ANSWER, Context};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::write_json;
use crate::server::Server;

/// How long it goes on when nothing else bounds it.
const DURATION: Duration = Duration::from_secs(60);

/// Starts and stops spawns, and checks that a farm is afterwards as it was before.
///
/// Whatever runs on the farm already may stay, but nothing else may come or go meanwhile: every node's slots and GPU slots
/// must be back where they were, and no more spawns may live than before.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery soak --count 1000\n  \
    hatchery soak --duration 1h --concurrency 50\n  \
    hatchery soak --count 100000 --watch-admin http://door:9080,http://node:9070\n  \
    hatchery soak --json | jq .audit\n\n\
    The exit code is 0 when everything is back, 1 when something is left, and that of the\n\
    commonest failure when no spawn became ready at all.\n\n\
    With --json the result is one object:\n  \
    load     as `hatchery bench --json`\n  \
    audit    passed, leftovers (in words), liveBefore, liveAfter, and nodes: id,\n           \
    slotsBefore, slotsAfter, gpuSlotsBefore, gpuSlotsAfter\n  \
    memory   per watched address: url, and bytes at first, atTenth and last")]
pub(crate) struct SoakArgs {
    /// This many spawns at once
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=100_000),
        help_heading = "Load"
    )]
    concurrency: u32,
    /// End after this many spawns
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Load")]
    count: Option<u64>,
    /// End after this time [default: 1m, none with --count]
    #[arg(long, value_name = "DURATION", value_parser = time, help_heading = "Load")]
    duration: Option<Duration>,
    /// Give the farm this long to be as it was
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = time, help_heading = "Audit")]
    settle: Duration,
    /// Admin address of a front door or an agent whose memory is to be watched; may be repeated
    #[arg(long, value_name = "URL", value_delimiter = ',', help_heading = "Audit")]
    watch_admin: Vec<Server>,
    #[command(flatten)]
    pub(crate) spawn: SpawnFlags,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

/// What a run found out.
#[derive(Debug, Serialize)]
struct Findings {
    load: Report,
    audit: audit::Audit,
    memory: Vec<memory::Watched>,
}

pub(crate) async fn run(context: &Context, args: &SoakArgs) -> Result<Exit, Failure> {
    let mut watched = Vec::new();
    for server in &args.watch_admin {
        watched.push(memory::Watch::first(context.client.beside(server, ANSWER)?).await?);
    }
    let before = audit::Count::take(&context.client).await?;
    let life = Life::new(Plan {
        client: context.client.clone(),
        spawn: PreparedSpawn::new(&args.spawn.request()?, None),
        stop: true,
        hold: Duration::ZERO,
    });
    let bounds =
        Bounds { count: args.count, duration: args.duration.or(args.count.is_none().then_some(DURATION)) };
    let shape = Shape::Closed { concurrency: args.concurrency };
    let ((elapsed, interrupted), ()) = tokio::try_join!(
        drive(shape, bounds, &life, !context.json),
        memory::at_a_tenth(&mut watched, bounds, life.tally()),
    )?;
    let audit = audit::Audit::within(args.settle, &context.client, before).await?;
    let mut memory = Vec::new();
    for watch in watched {
        memory.push(watch.last().await?);
    }
    let (load, exit) = {
        let tally = life.tally();
        let tally = tally.lock();
        (Report::new(context.client.server(), shape, elapsed, interrupted, &tally), tally.exit())
    };
    let exit = if audit.passed { exit } else { Exit::Failed };
    let findings = Findings { load, audit, memory };
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &serde_json::to_vec(&findings).unwrap_or_default())?;
    } else {
        findings.load.write(&mut out)?;
        writeln!(out)?;
        findings.audit.write(&mut out)?;
        memory::write(&findings.memory, &mut out)?;
    }
    Ok(exit)
}
