//! `hatchery spawn`: starts a stream cache server and prints where viewers connect. The body is the flags' alone; the front door
//! checks it.

mod progress;

use std::io;

use clap::Args;
use hyper::header::HeaderValue;

use crate::args::{ClientFlags, SpawnFlags, idempotency_key};
use crate::client::PreparedSpawn;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Facts, write_json};

use self::progress::Progress;

/// Starts a stream cache server, waits until it is ready, and prints where its viewer connects.
///
/// On a terminal it shows meanwhile how many are before it in line, and the node on which it starts.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery spawn\n  \
    hatchery spawn --renderer ssr --label sdk=2025.1 --wait 30s\n  \
    hatchery spawn --tag user=ann@example.com --tag visit=4711\n  \
    hatchery spawn --model bracket.scs --idempotency-key order-4711\n  \
    hatchery spawn --json | jq -r .endpoint\n\n\
    Interrupted before the answer, nothing is left running.")]
pub(crate) struct SpawnArgs {
    #[command(flatten)]
    pub(crate) spawn: SpawnFlags,
    /// The same key gives the same answer for ten minutes, however often it is asked
    #[arg(long, value_name = "KEY", value_parser = idempotency_key, help_heading = "Spawn")]
    idempotency_key: Option<HeaderValue>,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &SpawnArgs) -> Result<Exit, Failure> {
    let prepared = PreparedSpawn::new(&args.spawn.request()?, args.idempotency_key.clone());
    let answer = match Progress::show(context.json) {
        None => context.client.spawn(&prepared).await?,
        // It is gone from the terminal before anything else is written.
        Some(progress) => context.client.spawn_watched(&prepared, |stage| progress.set(stage)).await?,
    };
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &answer.json)?;
    } else {
        let mut facts = Facts::default();
        facts.add("endpoint", &answer.value.endpoint);
        facts.add("id", &answer.value.id);
        facts.add("node", &answer.value.node);
        facts.add("renderer", &answer.value.renderer_type);
        facts.write(&mut out)?;
    }
    Ok(Exit::Done)
}
