//! `hatchery waiting`: who waits in line, at which position, for what and for how long. A look at one moment: places move while it is
//! printed.

use std::io::{self, Write};

use clap::Args;
use model::api::Waiting;
use serde_json::Value;

use crate::args::ClientFlags;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing::{Form, ListFlags, write_value};
use crate::output::{Columns, age, labels, printable, write_json};
use crate::standard_error::say;

/// Lists who waits in line for what, and since when, the first ones first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery waiting\n  \
    hatchery waiting --limit 10\n  \
    hatchery waiting -o wide\n  \
    hatchery waiting --json | jq .total\n\n\
    Who waits has no name but the owner, which is what -o name prints.")]
pub(crate) struct WaitingArgs {
    /// Most to list
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    list: ListFlags,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

impl WaitingArgs {
    /// Whether failures, too, are for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.list.is_json()
    }
}

pub(crate) async fn run(context: &Context, args: &WaitingArgs) -> Result<Exit, Failure> {
    let form = args.list.form(context)?;
    let mut answer = context.client.waiting(args.limit).await?;
    let mut out = io::stdout().lock();
    let waiting = &mut answer.value.waiting;
    if args.list.reverse {
        waiting.reverse();
    }
    let more = answer.value.total.saturating_sub(u64::try_from(waiting.len()).unwrap_or(u64::MAX));
    match form {
        Form::Json if !args.list.reverse => write_json(&mut out, &answer.json)?,
        Form::Json | Form::Yaml => {
            let mut list: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
            if let Some(line) =
                list.get_mut("waiting").and_then(Value::as_array_mut).filter(|_| args.list.reverse)
            {
                line.reverse();
            }
            write_value(&mut out, form, &list)?;
        }
        Form::Name => {
            for waiting in &*waiting {
                writeln!(out, "{}", printable(waiting.owner.as_deref().unwrap_or("-")))?;
            }
            out.flush()?;
            if more > 0 {
                say(&format!("… and {more} more"));
            }
        }
        Form::Table | Form::Wide if waiting.is_empty() => writeln!(out, "no requests in line")?,
        Form::Table | Form::Wide => {
            table(waiting, form == Form::Wide).write(&mut out)?;
            if more > 0 {
                writeln!(out, "… and {more} more")?;
            }
        }
    }
    Ok(Exit::Done)
}

/// A wide table says since when as a time as well.
fn table(line: &[Waiting], wide: bool) -> Columns {
    let mut headings = vec![">POSITION", ">WAITS", "RENDERER", "POOL", "LABELS", "OWNER"];
    headings.extend(wide.then_some("SINCE"));
    let mut table = Columns::new(&headings);
    for waiting in line {
        let cells = [
            waiting.position.to_string().into(),
            waiting.since.map_or_else(|| "-".to_owned(), age).into(),
            waiting.renderer_type.map_or("-", |renderer| renderer.as_str()).into(),
            waiting.pool.as_deref().unwrap_or("-").into(),
            labels(&waiting.labels).into(),
            waiting.owner.as_deref().unwrap_or("-").into(),
        ];
        let since = waiting.since.map_or_else(|| "-".to_owned(), |since| since.to_string()).into();
        table.row(cells.into_iter().chain(wide.then_some(since)));
    }
    table
}
