//! What a large farm costs the registry: a heartbeat by itself, and a fleet of agents without processes, with the tables and relays of real
//! ones. It churns, starts spawns in a burst, loses nodes, and its Redis is emptied and fails over.
//!
//! `fleet=1000x32` is one of that many nodes with that many spawns each. `curve=10x0` only lets one churn; several of them make a curve,
//! which `tests/bench/curve.py` draws from the lines that begin with `csv,`. `wipe=5000x32` empties the Redis of one besides.

mod disasters;
mod farm;
mod heartbeat;
mod spent;

use std::time::Duration;

use anyhow::Context as _;
use hatchery_tests::{RedisServer, Sentinels};
use tokio::time::{Instant, sleep};

use self::farm::Fleet;
pub(crate) use self::spent::Spent;
use crate::table::{Sample, Table, us};

/// How long a fleet is watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Each spawn ends, and another one begins, this often.
const LIFE: Duration = Duration::from_secs(1800);
const FLEET: &str = "fleet";
const CURVE: &str = "curve=";
const WIPE: &str = "wipe=";

/// What happens to a fleet once it has churned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Nothing,
    /// Its Redis is emptied.
    Wipe,
    /// All disasters, with Sentinels and a replica.
    All,
}

/// A fleet to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    nodes: usize,
    /// Of each node.
    spawns: usize,
    fate: Fate,
}

impl Size {
    fn parse(part: &str) -> Option<Self> {
        let form = |name, fate| part.strip_prefix(name).map(|text| (text, fate));
        let forms = [form(CURVE, Fate::Nothing), form(WIPE, Fate::Wipe), form(FLEET, Fate::All)];
        let (text, fate) = forms.into_iter().find_map(|form| form)?;
        if text.is_empty() {
            return Some(Self { nodes: 200, spawns: 32, fate });
        }
        let (nodes, spawns) = text.trim_start_matches('=').split_once('x')?;
        Some(Self {
            nodes: nodes.parse().ok().filter(|nodes| *nodes > 0)?,
            spawns: spawns.parse().ok()?,
            fate,
        })
    }

    fn text(self) -> String {
        format!("{} nodes with {} spawns", self.nodes, self.spawns)
    }
}

/// The fleets that are wanted; one where all parts of the benchmark are.
pub(crate) fn sizes(wanted: &[String]) -> Vec<Size> {
    if wanted.is_empty() {
        return Size::parse(FLEET).into_iter().collect();
    }
    wanted.iter().filter_map(|part| Size::parse(part)).collect()
}

/// Whether the heartbeat is wanted by itself.
pub(crate) fn wants_heartbeat(wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|part| part == "heartbeat" || part == FLEET)
}

pub(crate) async fn measure_heartbeat(table: &mut Table) -> anyhow::Result<()> {
    heartbeat::measure(table).await
}

pub(crate) async fn measure(size: Size, table: &mut Table) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut redis = RedisServer::start(scratch.path()).await;
    let with_sentinels = size.fate == Fate::All;
    let sentinels = if with_sentinels { Some(Sentinels::over(&redis, scratch.path()).await) } else { None };
    let url = sentinels.as_ref().map_or_else(|| redis.url(), Sentinels::url);
    let mut fleet = Fleet::start(&url, scratch.path(), size.nodes, size.spawns).await?;
    churn(&fleet, &redis, size, table).await?;
    match &sentinels {
        Some(sentinels) => disasters::measure(&mut fleet, &mut redis, sentinels, size, table).await,
        None if size.fate == Fate::Wipe => disasters::wipe(&fleet, &redis, size, table).await,
        None => Ok(()),
    }
}

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// The figures of a fleet that churns.
struct Churn {
    took: Duration,
    before: Spent,
    after: Spent,
    reserves: Sample,
    reports: Sample,
}

impl Churn {
    fn each_second(&self, count: u64) -> f64 {
        float(usize::try_from(count).unwrap_or(usize::MAX)) / self.took.as_secs_f64()
    }

    /// Spawns that end and begin, a second.
    fn changes(&self) -> f64 {
        float(self.reports.len()) / self.took.as_secs_f64()
    }

    /// Of a core of Redis.
    fn share(&self) -> f64 {
        (self.after.processor - self.before.processor).as_secs_f64() / self.took.as_secs_f64()
    }

    fn scripts(&self) -> f64 {
        self.each_second(self.after.calls - self.before.calls)
    }

    fn kibibytes(&self) -> f64 {
        self.each_second(self.after.bytes - self.before.bytes) / 1024.0
    }

    fn mebibytes_used(&self) -> f64 {
        float(usize::try_from(self.after.memory >> 10).unwrap_or(usize::MAX)) / 1024.0
    }

    #[expect(clippy::print_stdout, reason = "a curve is drawn from these lines")]
    fn print(&self, size: Size) {
        let micros = |sample: &Sample, share| sample.quantile(share).as_secs_f64() * 1e6;
        println!(
            "csv,{},{},{:.2},{:.4},{:.0},{:.0},{:.1},{:.0},{:.0},{:.0},{:.0}",
            size.nodes,
            size.spawns,
            self.changes(),
            self.share(),
            self.scripts(),
            self.kibibytes(),
            self.mebibytes_used(),
            micros(&self.reserves, 0.5),
            micros(&self.reserves, 0.99),
            micros(&self.reports, 0.5),
            micros(&self.reports, 0.99),
        );
    }
}

/// How often a node was called stale, by the events that there are.
async fn called_stale(redis: &RedisServer) -> anyhow::Result<u64> {
    let count = "local n = 0
        for _, entry in ipairs(redis.call('XRANGE', '{hatchery:fleet}:events', '-', '+')) do
          if entry[2][2] == 'node.stale' then n = n + 1 end
        end
        return n";
    let count = count.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = redis.says(&format!("EVAL \"{count}\" 0")).await.context("an answer of Redis")?;
    said.trim().trim_start_matches(':').parse().with_context(|| said.clone())
}

/// Spawns end and begin anew, and all of them ping.
async fn churn(fleet: &Fleet, redis: &RedisServer, size: Size, table: &mut Table) -> anyhow::Result<()> {
    sleep(Duration::from_secs(3)).await;
    let (mut reserves, mut reports) = (Sample::default(), Sample::default());
    let late_before = called_stale(redis).await?;
    let (lists, before, began) = (fleet.lists(), Spent::read(redis).await?, Instant::now());
    let agents = fleet.all();
    let pause = LIFE.div_f64(float((size.nodes * size.spawns).max(1))).min(Duration::from_millis(200));
    let mut pinged = 0;
    // The next change is due so long after the last one was, however long that took.
    let mut due_at = began;
    while began.elapsed() < WATCHED {
        let due = usize::try_from(began.elapsed().as_millis())? * size.nodes / 5_000;
        for n in pinged..due {
            agents[n % size.nodes].ping();
        }
        pinged = due;
        due_at += pause;
        tokio::time::sleep_until(due_at).await;
        let asked = Instant::now();
        if agents[fastrand::usize(..size.nodes)].end_one().await {
            reports.add(asked.elapsed());
        }
        // A node without spawns shows what a reserve costs all the same: it is released again.
        reserves.add(fleet.reserve(size.spawns > 0).await?);
    }
    let (after, took) = (Spent::read(redis).await?, began.elapsed());
    let late = called_stale(redis).await? - late_before;
    let churn = Churn { took, before, after, reserves, reports };
    churn.print(size);
    let what = size.text();
    table.row(
        format!("{what}, of which {:.1} a second end and begin: a core of Redis", churn.changes()),
        format!("{:.1} %", churn.share() * 100.0),
        format!("{:.0} scripts and {:.0} KiB a second", churn.scripts(), churn.kibibytes()),
        format!(
            "{} lists were asked for, {late} nodes called stale, {:.1} MiB in use",
            fleet.lists() - lists,
            churn.mebibytes_used()
        ),
    );
    table.row(
        format!("{what}: reserve, p50 and p99"),
        us(churn.reserves.quantile(0.5)),
        us(churn.reserves.quantile(0.99)),
        "",
    );
    table.row(
        format!("{what}: an end until the registry has accepted it, p50 and p99"),
        us(churn.reports.quantile(0.5)),
        us(churn.reports.quantile(0.99)),
        "",
    );
    Ok(())
}
