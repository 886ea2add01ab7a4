//! The one task that reads the registry's stream, for as long as there is a subscriber and a minute longer.
//!
//! ```text
//!  idle ─ first subscriber ─▶ load a view ─▶ follow events ─ last subscriber left, LINGER is over ─▶ idle
//!                                ▲                │
//!                                └── events are missing: pause, wait for the registry to be refilled
//! ```
//!
//! Spawns are read of those nodes alone whose spawns a subscription needs, page by page, while events are followed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use model::api::Node;
use model::{Availability, Event, NodeId, SpawnId, Timestamp};
use registry::{Position, RegistryError, WantedPings};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::followed::Followed;
use super::hub::Live;
use super::ring::{Owned, Ring, Subject};
use super::view::{View, Watched};
use crate::backoff::Backoff;

/// The feed runs on for this long without subscribers, because those that were cut off come back.
const LINGER: Duration = Duration::from_secs(60);
/// Nodes whose spawns are read in one go.
const PAGE: usize = 100;
/// Nodes whose spawns are read before a view is there; those of the others come after. It has to be there soon.
const MAX_AT_ONCE: usize = 1000;
/// The ring begins with events that are no older than this, for subscribers that come over from a front door that left.
const REACH: Duration = Duration::from_secs(15);
/// Agents fill a registry that was wiped within two of their heartbeats. Until then a view would show an empty farm.
const REFILL: Duration = Duration::from_millis(2500);
/// A view that events are missing for again so soon is not made anew at once: what makes gaps may go on, and each view reads the
/// whole farm.
const SHORT_LIVED: Duration = Duration::from_secs(10);
/// Between two such views, at most.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long one read waits, so that a new subscriber hears of pings soon.
const READ: Duration = Duration::from_secs(1);
/// How often the registry's clock is held against ours.
const CLOCK: Duration = Duration::from_secs(10);

/// Runs for ever.
pub(crate) async fn keep(live: Arc<Live>) {
    loop {
        live.feed.wanted().await;
        info!("live feed begins to follow the registry");
        tokio::select! {
            () = pump(&live) => {}
            () = cover(&live) => {}
            () = live.feed.idle(LINGER) => {}
        }
        live.feed.unload();
        info!("live feed has no subscribers any more");
    }
}

/// The outcome of reading on.
enum Step {
    On(Position),
    /// Events are missing.
    Gap,
}

/// Runs for ever.
async fn pump(live: &Live) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut gaps = Gaps::new();
    let mut position = None;
    let mut clock = None;
    let mut wanted = Wanted::default();
    loop {
        let step = match position {
            None => load(live).await.map(|at| at.map_or(Step::Gap, Step::On)),
            Some(at) => step(live, at, &mut clock, &mut wanted).await,
        };
        match step {
            Ok(Step::On(at)) => {
                position = Some(at);
                backoff.reset();
            }
            Ok(Step::Gap) => {
                info!("events are missing: subscriptions begin anew");
                gaps.pause().await;
                refilled(live).await;
                position = None;
            }
            Err(error) => {
                debug!(%error, "events not heard");
                // The stream has a connection of its own, which may be all that broke.
                if live.registry.ping().await.is_err() {
                    live.registry.back().await;
                    backoff.reset();
                }
                backoff.sleep().await;
            }
        }
    }
}

/// Reads the spawns that subscriptions need. Runs for ever.
async fn cover(live: &Live) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let found = live.feed.uncovered(PAGE).await;
        match read_spawns(live, &found.nodes).await {
            Ok((spawns, until)) => {
                if live.feed.cover(&found, spawns, until) {
                    backoff.reset();
                } else {
                    backoff.sleep().await;
                }
            }
            Err(error) => {
                debug!(%error, "spawns not read");
                live.registry.back().await;
                backoff.sleep().await;
            }
        }
    }
}

/// The spawns of these nodes that have not ended, and the last event that they may include.
async fn read_spawns(live: &Live, nodes: &[NodeId]) -> Result<(Vec<Followed>, u64), RegistryError> {
    let spawns = live.registry.living(nodes).await?.into_iter().map(Followed::from).collect();
    Ok((spawns, live.registry.position().await?.seq))
}

/// Gaps one after the other.
#[derive(Debug)]
struct Gaps {
    last: Option<Instant>,
    backoff: Backoff,
}

impl Gaps {
    fn new() -> Self {
        Self { last: None, backoff: Backoff::new(Duration::from_millis(200), MAX_PAUSE) }
    }

    /// Notes one, and waits if the one before it was a moment ago, longer each time.
    async fn pause(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < SHORT_LIVED) {
            self.backoff.sleep().await;
        } else {
            self.backoff.reset();
        }
        // The pause does not count.
        self.last = Some(Instant::now());
    }
}

/// Whose pings subscribers hear of, as of a moment ago.
#[derive(Debug, Default)]
struct Wanted {
    pings: Option<WantedPings>,
    asked: Option<Instant>,
}

impl Wanted {
    fn pings(&mut self, live: &Live) -> Option<&WantedPings> {
        if self.asked.is_none_or(|asked| asked.elapsed() >= READ) {
            (self.pings, self.asked) = (live.feed.wanted_pings(), Some(Instant::now()));
            live.feed.tidy(LINGER);
            live.snapshots.tidy();
        }
        self.pings.as_ref()
    }
}

async fn step(
    live: &Live,
    at: Position,
    clock: &mut Option<Clock>,
    wanted: &mut Wanted,
) -> Result<Step, RegistryError> {
    if clock.as_ref().is_none_or(|clock| clock.read.elapsed() > CLOCK) {
        *clock = Some(Clock::read(live).await?);
    }
    let news = match wanted.pings(live) {
        Some(pings) => live.registry.follow_with_pings(at, READ, pings).await?,
        None => live.registry.follow(at, READ).await?,
    };
    if news.gap {
        return Ok(Step::Gap);
    }
    for event in news.events {
        publish(live, event, clock.as_ref()).await?;
    }
    Ok(Step::On(news.position))
}

/// Publishes one event. When it fails nothing of it was published, but of those before it was: the next try must not begin
/// with them, which the view's own number sees to.
async fn publish(live: &Live, event: Event, clock: Option<&Clock>) -> Result<(), RegistryError> {
    let feed = &live.feed;
    if event.seq <= feed.seq() {
        return Ok(());
    }
    let read = match feed.lacks(&event) {
        Some(node) => live.registry.node(node).await?.map(Node::from),
        None => None,
    };
    let seq = event.seq;
    feed.publish(event, read, &live.names);
    if let Some(clock) = clock {
        live.metrics.lag(clock.since(seq));
    }
    Ok(())
}

/// Makes a view: what is read while events happen is made exact by applying these events. `None`: they were dropped faster
/// than they could be read.
async fn load(live: &Live) -> Result<Option<Position>, RegistryError> {
    let began = Instant::now();
    let from = live.registry.position().await?;
    let nodes = settled_nodes(live).await?;
    let mut needed = live.feed.needed_of(&nodes);
    needed.truncate(MAX_AT_ONCE);
    let mut spawns: Vec<Followed> = Vec::new();
    for ids in needed.chunks(PAGE) {
        spawns.extend(live.registry.living(ids).await?.into_iter().map(Followed::from));
    }
    let until = live.registry.position().await?;

    let mut view = View::new(from.seq, nodes);
    view.cover(&needed, spawns, until.seq, &[]);
    // Numbers are made from the registry's clock in microseconds.
    let reach = u64::try_from(REACH.as_micros()).unwrap_or(0);
    let mut at = Position { seq: from.seq.saturating_sub(reach).max(1), ..from };
    let mut news = live.registry.follow(at, Duration::ZERO).await?;
    // Where some of the old ones are gone, what is there is complete from its first on.
    let floor = news.events.first().map_or(from.seq, |event| event.seq - 1);
    let mut ring = Ring::after_event(from.seq);
    let none_yet = news.gap && news.events.is_empty();
    if news.gap && floor > from.seq {
        return Ok(None);
    }
    // Of those that had ended before the view.
    let mut met: HashMap<SpawnId, Subject> = HashMap::new();
    while !news.events.is_empty() {
        at = news.position;
        for event in news.events {
            let mut of = view.subject_of(&event);
            if let Some(spawn) = event.spawn {
                if of.is_known {
                    met.insert(spawn, of.clone());
                } else if let Some(known) = met.get(&spawn) {
                    of = known.clone();
                }
            }
            if event.seq > from.seq {
                let read = match view.lacks(&event) {
                    Some(node) => live.registry.node(node).await?.map(Node::from),
                    None => None,
                };
                view.apply(&event, read, Watched::No);
            }
            ring.push(Arc::new(Owned::new(Arc::new(live.names.named(event)), of)));
        }
        if at.seq >= until.seq {
            break;
        }
        news = live.registry.follow(at, Duration::ZERO).await?;
        if news.gap {
            return Ok(None);
        }
    }
    view.reach(until.seq);
    // A stream without a beginning has no place to follow it from.
    at.seq = if none_yet { 0 } else { view.seq };
    info!(seq = view.seq, took_ms = began.elapsed().as_millis(), "view of the farm made");
    live.feed.load(view, ring);
    Ok(Some(at))
}

/// All nodes. One that is read as stale may not have been judged yet: then it is now, or it was not stale after all.
async fn settled_nodes(live: &Live) -> Result<Vec<Node>, RegistryError> {
    let mut nodes = live.registry.nodes().await?;
    let late = |node: &model::NodeRecord| node.availability == Availability::Stale;
    if nodes.iter().any(late) {
        while live.registry.sweep().await? {}
        for node in nodes.iter_mut().filter(|node| late(node)) {
            if let Some(fresh) = live.registry.node(&node.id).await? {
                *node = fresh;
            }
        }
    }
    Ok(nodes.into_iter().map(Node::from).collect())
}

/// Returns when every node that was up is up again, or has had its time.
async fn refilled(live: &Live) {
    let (began, expected) = (Instant::now(), live.feed.up());
    while began.elapsed() < REFILL {
        if let Ok(nodes) = live.registry.nodes().await {
            let up = |id: &NodeId| {
                let at = nodes.binary_search_by(|node| node.id.cmp(id));
                at.is_ok_and(|at| nodes[at].availability == Availability::Up)
            };
            if expected.iter().all(up) {
                return;
            }
        }
        sleep(REFILL / 25).await;
    }
}

/// The registry's clock, held against this machine's steady one: times of two machines are not compared.
#[derive(Debug)]
struct Clock {
    registry: Timestamp,
    read: Instant,
}

impl Clock {
    async fn read(live: &Live) -> Result<Self, RegistryError> {
        let asked = Instant::now();
        let registry = live.registry.now().await?;
        // The answer was made halfway, most likely.
        Ok(Self { registry, read: asked + asked.elapsed() / 2 })
    }

    /// How long ago an event got its number.
    fn since(&self, seq: u64) -> Duration {
        // It reads in milliseconds, half of one too little on average.
        let now =
            Duration::from_millis(self.registry.millis()) + Duration::from_micros(500) + self.read.elapsed();
        now.saturating_sub(Duration::from_micros(seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_gap_is_not_waited_for_and_gaps_without_end_make_few_views() {
        let (began, mut gaps) = (Instant::now(), Gaps::new());
        gaps.pause().await;
        assert!(began.elapsed().is_zero());
        for _ in 0..30 {
            gaps.pause().await;
        }
        assert!(began.elapsed() > Duration::from_secs(60), "{:?}", began.elapsed());
        let last = Instant::now();
        gaps.pause().await;
        assert!(last.elapsed() <= MAX_PAUSE);
        sleep(SHORT_LIVED).await;
        let later = Instant::now();
        gaps.pause().await;
        assert!(later.elapsed().is_zero());
    }
}
