//! `hatchery spawns`: lists them.

use std::io;

use clap::Args;
use model::api::Spawn;
use model::{NodeId, SpawnState};
use serde_json::{Value, json};

use crate::args::{ClientFlags, state};
use crate::commands::{Context, redraw};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Columns, age, short, write_json};

/// The most a front door lists in one answer.
const PAGE: u32 = 1000;

/// Lists spawns, newest first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery spawns\n  \
    hatchery spawns --node node-a --state ready\n  \
    hatchery spawns --watch\n  \
    hatchery spawns --state exited --limit 1000 --json")]
pub(crate) struct SpawnsArgs {
    /// Only those of this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = state())]
    state: Option<SpawnState>,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Show those that have not ended again whenever something changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

/// Does it, page by page.
pub(crate) async fn run(context: &Context, args: &SpawnsArgs) -> Result<Exit, Failure> {
    if args.watch {
        return redraw::follow(context, "spawns", |snapshot, out| {
            let mut spawns: Vec<Spawn> = redraw::read(context, snapshot)?;
            spawns.retain(|spawn| args.node.as_ref().is_none_or(|node| *node == spawn.node));
            spawns.retain(|spawn| args.state.is_none_or(|state| state == spawn.state));
            spawns.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
            Ok(table(&spawns).write(out)?)
        })
        .await;
    }
    let mut spawns: Vec<Spawn> = Vec::new();
    let mut raw: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let count = u32::try_from(spawns.len()).unwrap_or(u32::MAX);
        let page = PAGE.min(args.limit - count);
        let answer = context.client.spawns(args.node.as_ref(), args.state, page, cursor.as_deref()).await?;
        if context.json {
            // As they came, with fields that this version does not know.
            let mut page: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
            if let Some(Value::Array(page)) = page.get_mut("spawns").map(Value::take) {
                raw.extend(page);
            }
        }
        // A page may be empty and still have one after it: the filter is applied page by page.
        let room = usize::try_from(args.limit - count).unwrap_or(usize::MAX);
        spawns.extend(answer.value.spawns.into_iter().take(room));
        raw.truncate(spawns.len());
        let seen = cursor;
        cursor = answer.value.next_cursor;
        let full = spawns.len() >= usize::try_from(args.limit).unwrap_or(usize::MAX);
        if full || cursor.is_none() || cursor == seen {
            break;
        }
    }
    let mut out = io::stdout().lock();
    if context.json {
        let mut list = json!({ "spawns": raw });
        if let Some(cursor) = cursor {
            list["nextCursor"] = Value::String(cursor);
        }
        write_json(&mut out, list.to_string().as_bytes())?;
    } else {
        table(&spawns).write(&mut out)?;
    }
    Ok(Exit::Done)
}

fn table(spawns: &[Spawn]) -> Columns {
    let mut table = Columns::new(&["ID", "NODE", "STATE", ">AGE", "RENDERER", "ENDPOINT", "ENDED"]);
    for spawn in spawns {
        let ended = match (&spawn.exit, spawn.ended_at) {
            (Some(exit), Some(at)) => {
                format!("{} after {}", exit.reason, short(at.since(spawn.started_at)))
            }
            (Some(exit), None) => exit.reason.to_string(),
            (None, _) => String::new(),
        };
        table.row([
            spawn.id.to_string().into(),
            spawn.node.as_str().into(),
            spawn.state.as_str().into(),
            age(spawn.started_at).into(),
            spawn.renderer_type.as_str().into(),
            spawn.endpoint.as_str().into(),
            ended.into(),
        ]);
    }
    table
}
