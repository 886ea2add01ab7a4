//! `hatchery waiting`: who waits in line, at which position, for what and for how long. A look at one moment: places move while it is
//! printed.

use std::io::{self, Write};

use clap::Args;
use model::api::Waiting;

use crate::args::ClientFlags;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Columns, age, labels, write_json};

/// Lists who waits in line for what, and since when, the first ones first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery waiting\n  \
    hatchery waiting --limit 10\n  \
    hatchery waiting --json | jq .total")]
pub(crate) struct WaitingArgs {
    /// Most to list
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &WaitingArgs) -> Result<Exit, Failure> {
    let answer = context.client.waiting(args.limit).await?;
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &answer.json)?;
        return Ok(Exit::Done);
    }
    let waiting = &answer.value.waiting;
    if waiting.is_empty() {
        writeln!(out, "no requests in line")?;
        return Ok(Exit::Done);
    }
    table(waiting).write(&mut out)?;
    let more = answer.value.total.saturating_sub(u64::try_from(waiting.len()).unwrap_or(u64::MAX));
    if more > 0 {
        writeln!(out, "… and {more} more")?;
    }
    Ok(Exit::Done)
}

fn table(line: &[Waiting]) -> Columns {
    let mut table = Columns::new(&[">POSITION", ">WAITS", "RENDERER", "POOL", "LABELS", "OWNER"]);
    for waiting in line {
        table.row([
            waiting.position.to_string().into(),
            waiting.since.map_or_else(|| "-".to_owned(), age).into(),
            waiting.renderer_type.map_or("-", |renderer| renderer.as_str()).into(),
            waiting.pool.as_deref().unwrap_or("-").into(),
            labels(&waiting.labels).into(),
            waiting.owner.as_deref().unwrap_or("-").into(),
        ]);
    }
    table
}
