//! Two registries side by side, and whether they say the same.

use std::cell::Cell;
use std::fmt::Debug;
use std::time::Duration;

use model::{NodeId, SpawnState, Timestamp, Timing};
use registry::{Position, Registry, SpawnFilter};
use tokio::runtime::{Builder, Runtime};

use super::OWNERS;
use super::agents::USERS;
use crate::servers::RedisServer;
use crate::support::{id, tag};

/// A Redis whose clock stands still.
pub(super) struct Server {
    redis: RedisServer,
    /// Where calls to it run.
    runtime: Runtime,
    /// Seconds since its clock was stopped; they never go back.
    now: Cell<u64>,
    /// Farms that it has had.
    farms: Cell<u32>,
}

impl Server {
    pub(super) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let redis = runtime.block_on(RedisServer::with_clock());
        redis.freeze_clock(0);
        Self { redis, runtime, now: Cell::new(0), farms: Cell::new(0) }
    }
}

/// Both registries, and what they said differently.
pub(super) struct Pair<'a> {
    server: &'a Server,
    redis: Registry,
    embedded: Registry,
    /// Where the embedded registry's clock goes by.
    paused: Runtime,
    timing: Timing,
    /// When the test began, by the server's clock, in seconds.
    began: u64,
    /// What each registry's clock showed when the test began, in milliseconds.
    redis_base: u64,
    embedded_base: u64,
    positions: [Position; 2],
    operations: u64,
    last: String,
    pub(super) differences: Vec<String>,
}

impl<'a> Pair<'a> {
    pub(super) fn new(server: &'a Server, timing: Timing) -> Self {
        let farm = server.farms.get();
        server.farms.set(farm + 1);
        let paused = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let redis = Registry::open(&server.redis.url(), &format!("pair-{farm}"), timing.clone()).unwrap();
        let embedded = paused.block_on(async { Registry::embedded(timing.clone()) });
        let redis_base = server.runtime.block_on(redis.now()).unwrap().millis();
        let embedded_base = paused.block_on(embedded.now()).unwrap().millis();
        Self {
            began: server.now.get(),
            server,
            redis,
            embedded,
            paused,
            timing,
            redis_base,
            embedded_base,
            positions: <[Position; 2]>::default(),
            operations: 0,
            last: String::new(),
            differences: Vec::new(),
        }
    }

    /// Seconds since the test began.
    pub(super) fn now(&self) -> u64 {
        self.server.now.get() - self.began
    }

    pub(super) fn pass(&self, seconds: u64) {
        let now = self.server.now.get() + seconds;
        self.server.now.set(now);
        self.server.redis.freeze_clock(now);
        self.paused.block_on(tokio::time::advance(Duration::from_secs(seconds)));
    }

    pub(super) fn note(&mut self, operation: &impl Debug) {
        self.last = format!("{operation:?} at {} s", self.now());
    }

    /// Asks both. The second argument of the call is the time at which the test began, as this registry has it; the answer is
    /// the embedded registry's.
    #[expect(clippy::needless_pass_by_value, reason = "calls are written where they are made")]
    pub(super) fn both<T: Debug>(&mut self, call: impl AsyncFn(&Registry, u64) -> T) -> T {
        self.operations += 1;
        fastrand::seed(self.operations);
        let theirs = self.server.runtime.block_on(call(&self.redis, self.redis_base));
        // A call to Redis begins with an identity that is made by chance.
        fastrand::seed(self.operations);
        fastrand::u128(..);
        let ours = self.paused.block_on(call(&self.embedded, self.embedded_base));
        self.differ(&format!("{theirs:#?}"), &format!("{ours:#?}"));
        ours
    }

    /// Events since the last look, nodes and what they have for a spawn, spawns, the farm's cause and the line.
    pub(super) fn compare(&mut self) {
        let [redis, embedded] = self.positions;
        let mut theirs = self.server.runtime.block_on(self.redis.follow(redis, Duration::ZERO)).unwrap();
        let mut ours = self.paused.block_on(self.embedded.follow(embedded, Duration::ZERO)).unwrap();
        // What one step does to several spawns has no order that is promised; what it does to one has.
        for news in [&mut theirs, &mut ours] {
            news.events.sort_by_key(|event| (event.node.as_ref().map(NodeId::to_string), event.spawn));
        }
        self.positions = [theirs.position, ours.position];
        self.differ(
            &format!("{:#?} {}", theirs.events, theirs.gap),
            &format!("{:#?} {}", ours.events, ours.gap),
        );
        self.both(async |registry, _| {
            let mut nodes = registry.nodes().await.unwrap();
            nodes.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
            nodes
        });
        self.both(async |registry, _| registry.assess().await.unwrap());
        let all = SpawnFilter { limit: 500, ..SpawnFilter::default() };
        self.both(async |registry, _| registry.spawns(&all).await.unwrap().spawns);
        // Another filter with every operation: each part is there or not.
        let n = self.operations;
        let filter = SpawnFilter {
            node: n.is_multiple_of(3).then(|| id("b")),
            owners: OWNERS
                .iter()
                .take(usize::try_from(n % 4).unwrap_or(0) % 3)
                .map(|o| o.parse().unwrap())
                .collect(),
            state: n.is_multiple_of(5).then_some(SpawnState::Ready),
            tags: (!n.is_multiple_of(2))
                .then(|| tag("user", USERS[usize::from(n % 4 > 1)]))
                .into_iter()
                .collect(),
            limit: 2,
            cursor: None,
            ..SpawnFilter::default()
        };
        self.both(async |registry, _| {
            let first = registry.spawns(&filter).await.unwrap();
            let next = SpawnFilter { cursor: first.next, ..filter.clone() };
            let second =
                if first.next.is_some() { registry.spawns(&next).await.unwrap().spawns } else { Vec::new() };
            (first.spawns, first.next.is_some(), second)
        });
        self.both(async |registry, _| registry.farm_cause().await.unwrap());
        self.both(async |registry, _| registry.waiting().await.unwrap());
    }

    /// Both forget everything, and are other registries from then on.
    pub(super) fn wipe(&mut self) {
        self.server.runtime.block_on(self.server.redis.run("FLUSHALL"));
        self.embedded = self.paused.block_on(async { Registry::embedded(self.timing.clone()) });
        let now = self.paused.block_on(self.embedded.now()).unwrap().millis();
        self.embedded_base = now - self.now() * 1000;
        self.positions = <[Position; 2]>::default();
    }

    fn differ(&mut self, theirs: &str, ours: &str) {
        let theirs = relative(theirs, self.redis_base);
        let ours = relative(ours, self.embedded_base);
        if theirs != ours {
            let (theirs, ours) = (only_in(&theirs, &ours), only_in(&ours, &theirs));
            self.differences.push(format!("after {}\nRedis:\n{theirs}\nembedded:\n{ours}", self.last));
        }
    }
}

/// The lines from the first to the last one that differs.
fn only_in(text: &str, other: &str) -> String {
    let (lines, others): (Vec<_>, Vec<_>) = (text.lines().collect(), other.lines().collect());
    let same = lines.iter().zip(&others).take_while(|(a, b)| a == b).count();
    let rest = lines[same..].iter().rev().zip(others[same..].iter().rev());
    let tail = rest.take_while(|(a, b)| a == b).count();
    lines[same.saturating_sub(6)..lines.len() - tail].join("\n")
}

/// Times as seconds since the test began, and numbers of events without their value: both depend on the clock.
fn relative(text: &str, base: u64) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let rfc3339 = rest.get(..24).filter(|t| t.ends_with('Z') && t.as_bytes()[10] == b'T');
        let written = rfc3339.and_then(|t| serde_json::from_str::<Timestamp>(&format!("\"{t}\"")).ok());
        let skipped = if let Some(time) = written {
            out.push_str(&since(time.millis(), base));
            24
        } else if digits == 13 {
            out.push_str(&since(rest[..13].parse().unwrap(), base));
            13
        } else if digits == 16 {
            out.push('#');
            16
        } else if digits > 0 {
            out.push_str(&rest[..digits]);
            digits
        } else {
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    out
}

fn since(millis: u64, base: u64) -> String {
    format!("T{:+}", i128::from(millis) - i128::from(base))
}
