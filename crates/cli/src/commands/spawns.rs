//! `hatchery spawns`: lists them, those that run before those that have ended.

use std::io::{self, Write};

use clap::Args;
use model::api::{Spawn, SpawnList};
use model::{NodeId, SpawnState};
use serde_json::{Value, json};

use crate::args::{ClientFlags, state};
use crate::client::Answer;
use crate::commands::redraw;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Columns, age, short, write_json};

/// The most a front door lists in one answer.
const PAGE: u32 = 1000;

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
    hatchery spawns --watch\n  \
    hatchery spawns --state exited --limit 1000 --json\n\n\
    A last line says how many were left out. --json lists all in one order, newest first.")]
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
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut raw: Vec<Value> = Vec::new();
    let mut pages = Pages::of(args.node.as_ref(), args.state);
    while let Some(answer) = pages.next(context, limit - raw.len()).await? {
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
    if let Some(cursor) = pages.cursor {
        list["nextCursor"] = Value::String(cursor);
    }
    write_json(&mut io::stdout().lock(), list.to_string().as_bytes())?;
    Ok(Exit::Done)
}

/// Those that run first, then those that have ended, each newest first; and what was left out, in words.
async fn listed(context: &Context, args: &SpawnsArgs) -> Result<(Vec<Spawn>, Option<String>), Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut newest = Pages::of(args.node.as_ref(), args.state);
    let mut spawns = newest.take(context, limit).await?;
    if newest.is_over() || args.state.is_some() {
        // All that there are, or one state alone.
        spawns.sort_by_key(|spawn| !is_running(spawn));
        let left_out = newest.count(context, MAX_COUNTED).await?;
        return Ok((spawns, words(left_out)));
    }
    // There are more than the newest: those that run must not be lost among those that ended since.
    let mut running: Vec<Spawn> = Vec::new();
    let mut left_out = Count::default();
    for state in RUNNING {
        let mut pages = Pages::of(args.node.as_ref(), Some(state));
        running.extend(pages.take(context, limit).await?);
        left_out += pages.count(context, MAX_COUNTED).await?;
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
    left_out += newest.count_if(context, MAX_COUNTED, |spawn| !is_running(spawn)).await?;
    Ok((running, words(left_out)))
}

fn is_running(spawn: &Spawn) -> bool {
    RUNNING.contains(&spawn.state)
}

/// How many, as far as was counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    seen: usize,
    /// Whether more spawns were not looked at.
    and_more: bool,
}

impl Count {
    fn exactly(seen: usize) -> Self {
        Self { seen, and_more: false }
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.and_more |= other.and_more;
    }
}

fn words(left_out: Count) -> Option<String> {
    let Count { seen, and_more } = left_out;
    let more = if and_more { "more than " } else { "" };
    (seen > 0 || and_more).then(|| format!("… and {more}{seen} more; --limit and --state show others"))
}

/// A list, page by page.
struct Pages<'a> {
    node: Option<&'a NodeId>,
    state: Option<SpawnState>,
    cursor: Option<String>,
    over: bool,
}

impl<'a> Pages<'a> {
    fn of(node: Option<&'a NodeId>, state: Option<SpawnState>) -> Self {
        Self { node, state, cursor: None, over: false }
    }

    fn is_over(&self) -> bool {
        self.over
    }

    /// The next page with at most so many; `None` after the last.
    async fn next(&mut self, context: &Context, most: usize) -> Result<Option<Answer<SpawnList>>, Failure> {
        if self.is_over() {
            return Ok(None);
        }
        let page = u32::try_from(most).unwrap_or(u32::MAX).clamp(1, PAGE);
        let answer = context.client.spawns(self.node, self.state, page, self.cursor.as_deref()).await?;
        let next = answer.value.next_cursor.clone();
        // One that stands still would be followed for ever.
        self.over = next.is_none() || next == self.cursor;
        self.cursor = next;
        Ok(Some(answer))
    }

    /// The first so many.
    async fn take(&mut self, context: &Context, most: usize) -> Result<Vec<Spawn>, Failure> {
        let mut spawns = Vec::new();
        // A page may be empty and still have one after it: the filter is applied page by page.
        while spawns.len() < most
            && let Some(answer) = self.next(context, most - spawns.len()).await?
        {
            spawns.extend(answer.value.spawns);
        }
        spawns.truncate(most);
        Ok(spawns)
    }

    /// How many there are beyond those that were taken; no more than so many are looked at.
    async fn count(&mut self, context: &Context, most: usize) -> Result<Count, Failure> {
        self.count_if(context, most, |_| true).await
    }

    async fn count_if(
        &mut self,
        context: &Context,
        most: usize,
        is_meant: impl Fn(&Spawn) -> bool,
    ) -> Result<Count, Failure> {
        let (mut seen, mut looked_at) = (0, 0);
        while looked_at < most
            && let Some(answer) = self.next(context, most - looked_at).await?
        {
            looked_at += answer.value.spawns.len().max(1);
            seen += answer.value.spawns.iter().filter(|spawn| is_meant(spawn)).count();
        }
        Ok(Count { seen, and_more: !self.is_over() })
    }
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
