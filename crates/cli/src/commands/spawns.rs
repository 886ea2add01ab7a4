//! `hatchery spawns`: lists them, those that run before those that have ended, filtered by the front door, of which only as many are
//! read as are shown.

use std::cmp::Ordering;
use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use model::SpawnState;
use model::api::Spawn;
use serde_json::{Value, json};

use crate::args::ClientFlags;
use crate::commands::redraw;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::filter::{Ends, Filter};
use crate::listing::{Form, ListFlags, tally, write_value};
use crate::output::{Columns, age, count, labels, short, write_json};
use crate::pages::{Count, Pages};
use crate::standard_error::say;

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
/// Spawns that are put in order: those that match, the newest where there are more.
const MAX_SORTED: usize = 10_000;

/// Lists spawns: those that run, then those that have ended, newest first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery spawns\n  \
    hatchery spawns --node node-a --state ready\n  \
    hatchery spawns --owner web --tag user=ann@example.com\n  \
    hatchery spawns --reason failed --renderer ssr --since 24h\n  \
    hatchery spawns --watch --sort node\n  \
    hatchery spawns -q --all --owner web\n  \
    hatchery spawns -o wide\n  \
    hatchery spawns --state exited --all --json\n\n\
    Every command takes the end of an id for the id. A line says how many were left out, and the last one\n\
    counts those that are listed. --json lists all in one order, newest first.")]
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
    /// Order of what is listed [default: those that run, then those that have ended, newest first]
    #[arg(long, value_enum, value_name = "COLUMN", help_heading = "Output")]
    sort: Option<Sort>,
    #[command(flatten)]
    list: ListFlags,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    ends: Ends,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

/// By what spawns are put in order; those that are alike stay newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// The newest first.
    Age,
    Node,
    State,
    Owner,
    Renderer,
    /// What ended last, first.
    Ended,
    /// What took the longest from its start to `ready`, first.
    Ready,
}

impl SpawnsArgs {
    /// Whether failures, too, are for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.list.is_json()
    }

    fn filter(&self) -> Filter {
        Filter { ends: self.ends.clone(), ..self.filter.clone() }
    }

    fn limit(&self) -> usize {
        let limit = self.limit.unwrap_or(LIMIT);
        if self.all { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) }
    }

    /// Which of two comes first, where a flag says so.
    fn order(&self, a: &Spawn, b: &Spawn) -> Ordering {
        let order = match self.sort {
            None => Ordering::Equal,
            Some(Sort::Age) => b.started_at.cmp(&a.started_at),
            Some(Sort::Node) => a.node.cmp(&b.node),
            Some(Sort::State) => a.state.as_str().cmp(b.state.as_str()),
            Some(Sort::Owner) => a.owner.cmp(&b.owner),
            Some(Sort::Renderer) => a.renderer_type.as_str().cmp(b.renderer_type.as_str()),
            Some(Sort::Ended) => b.ended_at.cmp(&a.ended_at),
            Some(Sort::Ready) => ready_after(b).cmp(&ready_after(a)),
        };
        if self.list.reverse { order.reverse() } else { order }
    }

    /// Whether all that match must be read to know which come first.
    fn is_sorted(&self) -> bool {
        self.sort.is_some() || self.list.reverse
    }

    fn sort(&self, spawns: &mut [Spawn]) {
        if self.sort.is_none() && self.list.reverse {
            spawns.reverse();
        }
        spawns.sort_by(|a, b| self.order(a, b));
    }

    /// The same with spawns as they came, with fields that this version does not know.
    fn sort_raw(&self, raw: &mut Vec<Value>) {
        if self.sort.is_none() {
            if self.list.reverse {
                raw.reverse();
            }
            return;
        }
        let mut both = with_spawns(std::mem::take(raw));
        both.sort_by(|(a, _), (b, _)| self.order(a, b));
        raw.extend(both.into_iter().map(|(_, raw)| raw));
    }
}

/// Each with the spawn that it is; what is none is left out.
fn with_spawns(raw: Vec<Value>) -> Vec<(Spawn, Value)> {
    let both = |raw: Value| Some((serde_json::from_value(raw.clone()).ok()?, raw));
    raw.into_iter().filter_map(both).collect()
}

/// Does it, page by page.
pub(crate) async fn run(context: &Context, args: &SpawnsArgs) -> Result<Exit, Failure> {
    if args.watch {
        let form = args.list.form_to_follow(context)?;
        return redraw::follow(context, form == Form::Json, "spawns", |snapshot, out| {
            if form == Form::Json {
                let mut both = with_spawns(redraw::read(context, snapshot)?);
                both.retain(|(spawn, _)| args.filter.takes(spawn));
                // A program gets all of them unless it says how many.
                both.truncate(args.limit.map_or(usize::MAX, |_| args.limit()));
                let mut raw: Vec<Value> = both.into_iter().map(|(_, raw)| raw).collect();
                args.sort_raw(&mut raw);
                return Ok(write_json(out, json!({ "spawns": raw }).to_string().as_bytes())?);
            }
            let mut spawns: Vec<Spawn> = redraw::read(context, snapshot)?;
            spawns.retain(|spawn| args.filter.takes(spawn));
            spawns.truncate(args.limit());
            args.sort(&mut spawns);
            Ok(write(&spawns, None, args, form, out)?)
        })
        .await;
    }
    let form = args.list.form(context)?;
    if matches!(form, Form::Json | Form::Yaml) {
        return as_value(context, args, form).await;
    }
    let (spawns, left_out) =
        if args.is_sorted() { sorted(context, args).await? } else { listed(context, args).await? };
    write(&spawns, left_out.as_deref(), args, form, &mut io::stdout().lock())?;
    Ok(Exit::Done)
}

/// Writes a list for people, or the ids alone.
fn write(
    spawns: &[Spawn],
    left_out: Option<&str>,
    args: &SpawnsArgs,
    form: Form,
    out: &mut impl Write,
) -> io::Result<()> {
    if form == Form::Name {
        for spawn in spawns {
            writeln!(out, "{}", spawn.id)?;
        }
        out.flush()?;
        // Ids go to other commands, which must not take a part for the whole.
        if let Some(left_out) = left_out {
            say(left_out);
        }
        return Ok(());
    }
    if spawns.is_empty() && left_out.is_none() {
        return writeln!(out, "no spawns{}", args.filter.words());
    }
    table(spawns, form == Form::Wide).write(out)?;
    if let Some(left_out) = left_out {
        writeln!(out, "{left_out}")?;
    }
    let states = tally(spawns.iter().map(|spawn| spawn.state.as_str()));
    writeln!(out, "\n{}: {states}", count(spawns.len(), "spawn"))
}

/// As they came, newest first unless a flag says otherwise, with fields that this version does not know.
async fn as_value(context: &Context, args: &SpawnsArgs, form: Form) -> Result<Exit, Failure> {
    let limit = if args.is_sorted() { args.limit().max(MAX_SORTED) } else { args.limit() };
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
    let cut = args.is_sorted() && !pages.is_over();
    args.sort_raw(&mut raw);
    raw.truncate(args.limit());
    let mut list = json!({ "spawns": raw });
    if cut {
        say(ORDERED);
    }
    // Where a list in another order ends says nothing of where the next page starts.
    if let Some(cursor) = pages.cursor().filter(|_| !args.is_sorted()) {
        list["nextCursor"] = Value::String(cursor);
    }
    write_value(&mut io::stdout().lock(), form, &list)?;
    Ok(Exit::Done)
}

/// What is said where there are more than are put in order.
const ORDERED: &str = "… of more than 10000 spawns the newest 10000 were put in order; --state, --node, --since and --all show others";

/// All that match in the order of the flags, of which as many as are wanted; and what was left out, in words.
async fn sorted(context: &Context, args: &SpawnsArgs) -> Result<(Vec<Spawn>, Option<String>), Failure> {
    let limit = args.limit();
    let mut pages = Pages::of(&context.client, args.filter());
    let mut spawns = pages.take(limit.max(MAX_SORTED)).await?;
    if args.sort.is_none() {
        spawns.sort_by_key(|spawn| !is_running(spawn));
    }
    args.sort(&mut spawns);
    let more = Count::exactly(spawns.len().saturating_sub(limit));
    spawns.truncate(limit);
    let left_out = if pages.is_over() { words(more) } else { Some(ORDERED.to_owned()) };
    Ok((spawns, left_out))
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

/// How a spawn ended; empty while it has not.
fn ended(spawn: &Spawn) -> String {
    match (&spawn.exit, spawn.ended_at) {
        (Some(exit), Some(at)) => format!("{} after {}", exit.reason, short(at.since(spawn.started_at))),
        (Some(exit), None) => exit.reason.to_string(),
        (None, _) => String::new(),
    }
}

/// From its start until it was ready.
fn ready_after(spawn: &Spawn) -> Option<Duration> {
    spawn.ready_at.map(|ready| ready.since(spawn.started_at))
}

/// `1.2s`, or `-`.
fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.1}s", time.as_secs_f64()))
}

/// A wide table has all columns, the viewer's URL with its secret included. In another one owners and tags have a column where a spawn of the list has them.
fn table(spawns: &[Spawn], wide: bool) -> Columns {
    let owners = wide || spawns.iter().any(|spawn| spawn.owner.is_some());
    let tags = wide || spawns.iter().any(|spawn| !spawn.tags.is_empty());
    let mut headings = vec!["ID", "NODE", "STATE", ">AGE", "RENDERER", "ENDED"];
    headings.extend(["ENDPOINT", "POOL", ">GPU", "VIEWER", ">PING", ">READY"].into_iter().filter(|_| wide));
    headings.extend(owners.then_some("OWNER"));
    headings.extend(tags.then_some("TAGS"));
    let mut table = Columns::new(&headings);
    for spawn in spawns {
        let cells = [
            spawn.id.to_string().into(),
            spawn.node.as_str().into(),
            spawn.state.as_str().into(),
            age(spawn.started_at).into(),
            spawn.renderer_type.as_str().into(),
            ended(spawn).into(),
        ];
        let more = [
            spawn.endpoint.as_str().into(),
            spawn.pool.as_str().into(),
            spawn.gpu.map_or_else(|| "-".to_owned(), |gpu| gpu.to_string()).into(),
            spawn.viewer.to_string().into(),
            spawn.last_ping_at.map_or_else(|| "-".to_owned(), age).into(),
            seconds(ready_after(spawn)).into(),
        ];
        let more = more.into_iter().filter(|_| wide);
        let owner = owners.then(|| spawn.owner.as_deref().unwrap_or("-").into());
        let tags = tags.then(|| labels(&spawn.tags).into());
        table.row(cells.into_iter().chain(more).chain(owner).chain(tags));
    }
    table
}
