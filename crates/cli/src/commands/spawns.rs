//! `hatchery spawns`: lists them, those that run before those that have ended.

use std::io::{self, Write};

use clap::Args;
use model::SpawnState;
use model::api::Spawn;
use serde_json::{Value, json};

use crate::args::ClientFlags;
use crate::commands::redraw;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::filter::{Ends, Filter};
use crate::output::{Columns, age, labels, short, write_json};
use crate::pages::{Count, Pages};

/// Spawns that are listed unless a flag says otherwise.
const LIMIT: u32 = 100;

/// States in which a spawn takes a slot.
const RUNNING: [SpawnState; 5] = [
    SpawnState::Launching,
    SpawnState::Ready,
    SpawnState::Suspect,
    SpawnState::Disconnected,
    SpawnState::Stopping,
];
/// Spawns of a list that are looked at only to count them.
const MAX_COUNTED: usize = 1000;

/// Lists spawns: those that run, then those that have ended, newest first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery spawns\n  \
    hatchery spawns --node node-a --state ready\n  \
    hatchery spawns --owner web --tag user=ann@example.com\n  \
    hatchery spawns --reason failed --renderer ssr --since 24h\n  \
    hatchery spawns --watch\n  \
    hatchery spawns --state exited --all --json\n\n\
    A last line says how many were left out. --json lists all in one order, newest first.")]
pub(crate) struct SpawnsArgs {
    /// At most this many [default: 100]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// All of them, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Show those that have not ended again whenever something changes, until Ctrl-C
    #[arg(long, conflicts_with_all = ["reason", "since", "until"])]
    watch: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    ends: Ends,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

impl SpawnsArgs {
    fn filter(&self) -> Filter {
        Filter { ends: self.ends.clone(), ..self.filter.clone() }
    }

    fn limit(&self) -> usize {
        let limit = self.limit.unwrap_or(LIMIT);
        if self.all { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) }
    }
}

/// Does it, page by page.
pub(crate) async fn run(context: &Context, args: &SpawnsArgs) -> Result<Exit, Failure> {
    if args.watch {
        return redraw::follow(context, "spawns", |snapshot, out| {
            let mut spawns: Vec<Spawn> = redraw::read(context, snapshot)?;
            spawns.retain(|spawn| args.filter.takes(spawn));
            spawns.truncate(args.limit());
            Ok(table(&spawns).write(out)?)
        })
        .await;
    }
    if context.json {
        return as_json(context, args).await;
    }
    let (spawns, left_out) = listed(context, args).await?;
    let mut out = io::stdout().lock();
    table(&spawns).write(&mut out)?;
    if let Some(left_out) = left_out {
        writeln!(out, "{left_out}")?;
    }
    Ok(Exit::Done)
}

/// As they came, newest first, with fields that this version does not know.
async fn as_json(context: &Context, args: &SpawnsArgs) -> Result<Exit, Failure> {
    let limit = args.limit();
    let mut raw: Vec<Value> = Vec::new();
    let mut pages = Pages::of(&context.client, args.filter());
    while let Some(answer) = pages.next(limit - raw.len()).await? {
        let mut page: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
        if let Some(Value::Array(page)) = page.get_mut("spawns").map(Value::take) {
            raw.extend(page);
        }
        raw.truncate(limit);
        if raw.len() == limit {
            break;
        }
    }
    let mut list = json!({ "spawns": raw });
    if let Some(cursor) = pages.cursor() {
        list["nextCursor"] = Value::String(cursor);
    }
    write_json(&mut io::stdout().lock(), list.to_string().as_bytes())?;
    Ok(Exit::Done)
}

/// Those that run first, then those that have ended, each newest first; and what was left out, in words.
async fn listed(context: &Context, args: &SpawnsArgs) -> Result<(Vec<Spawn>, Option<String>), Failure> {
    let limit = args.limit();
    let mut newest = Pages::of(&context.client, args.filter());
    let mut spawns = newest.take(limit).await?;
    if newest.is_over() || args.filter.state.is_some() || args.ends != Ends::default() {
        // All that there are, or one state alone, or those that have ended.
        spawns.sort_by_key(|spawn| !is_running(spawn));
        let left_out = newest.count(MAX_COUNTED).await?;
        return Ok((spawns, words(left_out)));
    }
    // There are more than the newest: those that run must not be lost among those that ended since.
    let mut running: Vec<Spawn> = Vec::new();
    let mut left_out = Count::default();
    for state in RUNNING {
        let mut pages = Pages::of(&context.client, args.filter.with_state(state));
        running.extend(pages.take(limit).await?);
        left_out += pages.count(MAX_COUNTED).await?;
    }
    // Ids are in the order in which they were made.
    running.sort_by_key(|spawn| std::cmp::Reverse(spawn.id));
    left_out += Count::exactly(running.len().saturating_sub(limit));
    running.truncate(limit);
    spawns.retain(|spawn| !is_running(spawn));
    let room = limit - running.len();
    left_out += Count::exactly(spawns.len().saturating_sub(room));
    spawns.truncate(room);
    running.extend(spawns);
    left_out += newest.count_if(MAX_COUNTED, |spawn| !is_running(spawn)).await?;
    Ok((running, words(left_out)))
}

fn is_running(spawn: &Spawn) -> bool {
    RUNNING.contains(&spawn.state)
}

fn words(left_out: Count) -> Option<String> {
    let Count { seen, and_more } = left_out;
    let more = if and_more { "more than " } else { "" };
    (seen > 0 || and_more).then(|| format!("… and {more}{seen} more; --limit and --state show others"))
}

/// Owners and tags have a column where a spawn of the list has them.
fn table(spawns: &[Spawn]) -> Columns {
    let owners = spawns.iter().any(|spawn| spawn.owner.is_some());
    let tags = spawns.iter().any(|spawn| !spawn.tags.is_empty());
    let mut headings = vec!["ID", "NODE", "STATE", ">AGE", "RENDERER", "ENDPOINT", "ENDED"];
    headings.extend(owners.then_some("OWNER"));
    headings.extend(tags.then_some("TAGS"));
    let mut table = Columns::new(&headings);
    for spawn in spawns {
        let ended = match (&spawn.exit, spawn.ended_at) {
            (Some(exit), Some(at)) => {
                format!("{} after {}", exit.reason, short(at.since(spawn.started_at)))
            }
            (Some(exit), None) => exit.reason.to_string(),
            (None, _) => String::new(),
        };
        let cells = [
            spawn.id.to_string().into(),
            spawn.node.as_str().into(),
            spawn.state.as_str().into(),
            age(spawn.started_at).into(),
            spawn.renderer_type.as_str().into(),
            spawn.endpoint.as_str().into(),
            ended.into(),
        ];
        let owner = owners.then(|| spawn.owner.as_deref().unwrap_or("-").into());
        table.row(cells.into_iter().chain(owner).chain(tags.then(|| labels(&spawn.tags).into())));
    }
    table
}
