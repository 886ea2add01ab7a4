//! How a subscription begins: with a snapshot, or with the events since the last one that its subscriber has.
//!
//! ```text
//!  since ──▶ events in the ring, or in the registry ──▶ page after page ──▶ caught up: the rest arrives in the mailbox
//!                 │ some are gone                          ▲
//!                 └──────▶ snapshot ── events after it ────┘
//! ```
//!
//! Each page is made when the one before it is written, so a slow reader holds one page. Until it has caught up nothing arrives in its
//! mailbox, so a long replay does not fill it.

use std::sync::Arc;
use std::time::Duration;

use model::{NodeId, SpawnState};
use registry::{Follow, Position, RegistryError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::encoded::{Encoded, Fragments};
use super::feed::{Listening, Next};
use super::followed::Followed;
use super::hub::Live;
use super::protocol::{Frame, Topic, TopicSnapshot};
use super::ring::Owned;
use super::snapshots::{Key, Snapshot};
use super::view::Need;
use crate::callers::Account;

/// How long a subscription waits for the view that the first one asks for.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits for the spawns that it needs: a large farm has many.
const COVER_TIMEOUT: Duration = Duration::from_secs(20);
/// Events of a page. So many may be in a mailbox at once, too.
const PAGE: usize = 200;
/// Bytes that a page of old events is taken to have: a page of the registry's stream has a thousand.
const PAGE_BYTES: usize = 512 * 1024;
/// Snapshots of a subscription that events go missing after, one after the other. Then the feed is of no use.
const MAX_SNAPSHOTS: usize = 5;
/// Spawns that are encoded without leaving the thread: some milliseconds.
const MAX_INLINE: usize = 2000;

/// There is no view, and the registry is away.
#[derive(Debug)]
pub(crate) struct NoView;

/// What is sent next.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// These messages, of this snapshot.
    Snapshot(Vec<Fragments>, Arc<Snapshot>),
    /// The subscription goes on where it was.
    Resumed(Utf8Bytes),
    /// Frames of events. Old ones count as held until they are written.
    Events(Vec<Utf8Bytes>, Option<OwnedSemaphorePermit>),
}

/// Where a beginning is.
#[derive(Debug, Clone, Copy)]
enum At {
    /// Its subscriber has this event and wants those after it.
    Since(u64),
    /// The subscription is confirmed. `next` events in the registry are read, where the ring has them no more.
    After(u64),
    /// A snapshot comes next, of a later event than this.
    Snapshot(Option<u64>),
    /// It has caught up with this event.
    Begun(u64),
}

/// See the module's documentation.
pub(crate) struct Beginning<'a> {
    live: &'a Live,
    listening: Listening<'a>,
    need: Need,
    account: Option<&'a Account>,
    in_parts: bool,
    at: At,
    /// The view that `at` is a place in.
    generation: u64,
    snapshots: usize,
    began: Instant,
    /// How long this process was busy making it: what the registry took, and the wait for a turn, are not the subscriber's doing.
    pub(crate) took: Duration,
}

/// The spawns that a subscription needs: a subscriber to nodes needs none.
pub(crate) async fn need(live: &Live, topic: &Topic, is_part: bool) -> Result<Need, NoView> {
    Ok(match topic {
        Topic::Nodes => Need::Nothing,
        Topic::Spawns => Need::All,
        Topic::Narrowed(narrowed) => narrowed.node.clone().map_or(Need::All, Need::Of),
        // Whose spawn an event is of, matters only to those that hear of some.
        Topic::Node(node) if is_part => Need::Of(node.clone()),
        Topic::Node(_) => Need::Nothing,
        Topic::Spawn(spawn) => {
            let node: Option<NodeId> = match live.feed.node_of(*spawn) {
                Some(node) => Some(node),
                // One that is not known yet is introduced by its first event.
                None => live.registry.spawn(*spawn).await.map_err(|_| NoView)?.map(|record| record.node),
            };
            node.map_or(Need::Nothing, Need::Of)
        }
    })
}

impl<'a> Beginning<'a> {
    /// Begins a subscription once there is a view that has what it needs. Old events are read for one connection of an account at a time.
    pub(crate) async fn new(
        live: &'a Live,
        listening: Listening<'a>,
        since: Option<u64>,
        need: Need,
        in_parts: bool,
        account: Option<&'a Account>,
    ) -> Result<Self, NoView> {
        timeout(LOAD_TIMEOUT, live.feed.loaded()).await.map_err(|_| NoView)?;
        timeout(COVER_TIMEOUT, live.feed.covers(&need)).await.map_err(|_| NoView)?;
        let at = since.map_or(At::Snapshot(None), At::Since);
        Ok(Self {
            live,
            listening,
            need,
            account,
            in_parts,
            at,
            generation: live.feed.generation(),
            snapshots: 0,
            began: Instant::now(),
            took: Duration::ZERO,
        })
    }

    /// Events up to this one must not be sent any more.
    pub(crate) fn last_sent_seq(&self) -> u64 {
        match self.at {
            At::Since(seq) | At::After(seq) | At::Begun(seq) => seq,
            At::Snapshot(_) => u64::MAX,
        }
    }

    /// What is sent next; `None` once it has caught up.
    pub(crate) async fn next(&mut self) -> Result<Option<Chunk>, NoView> {
        loop {
            match self.at {
                At::Begun(_) => return Ok(None),
                At::Snapshot(after) => return self.snapshot(after).await.map(Some),
                At::Since(since) => {
                    if self.can_resume(since).await? {
                        self.at = At::After(since);
                        self.live.metrics.snapshot(self.began.elapsed());
                        let frame = Frame::Subscribed { topic: self.listening.topic, seq: since };
                        return Ok(Some(Chunk::Resumed(frame.encode())));
                    }
                    self.at = At::Snapshot(None);
                }
                At::After(since) => {
                    if let Some(chunk) = self.after(since).await? {
                        return Ok(Some(chunk));
                    }
                }
            }
        }
    }

    /// Whether the events after this one are to be had. Subscribes where none is missing here.
    async fn can_resume(&self, since: u64) -> Result<bool, NoView> {
        let Self { live, listening, .. } = self;
        Ok(match live.feed.peek(*listening, since) {
            Next::Caught { .. } | Next::Page(_) => true,
            // The owners of the spawns in old events are not known.
            Next::Older { .. } => !listening.is_part() && is_known(live, since).await,
            // Another front door may be a moment ahead of this one.
            Next::Ahead => is_known(live, since).await,
            Next::Changed => false,
            Next::Nothing => return Err(NoView),
        })
    }

    /// Events after this one.
    async fn after(&mut self, since: u64) -> Result<Option<Chunk>, NoView> {
        let began = Instant::now();
        let next = self.live.feed.catch_up(self.listening, since, PAGE, self.generation);
        let chunk = match next {
            Next::Caught { events, seq } => {
                self.at = At::Begun(seq);
                (!events.is_empty()).then(|| Chunk::Events(self.frames(&events), None))
            }
            Next::Page(events) => {
                self.at = At::After(events.last().map_or(since, |last| last.event.seq));
                Some(Chunk::Events(self.frames(&events), None))
            }
            Next::Older { until } if !self.listening.is_part() => {
                self.took += began.elapsed();
                return Ok(self.older(since, until).await);
            }
            Next::Older { .. } | Next::Ahead => {
                self.at = At::Snapshot(Some(since));
                None
            }
            Next::Changed => {
                self.at = At::Snapshot(None);
                None
            }
            Next::Nothing => return Err(NoView),
        };
        self.took += began.elapsed();
        Ok(chunk)
    }

    fn frames(&self, events: &[Arc<Owned>]) -> Vec<Utf8Bytes> {
        let topic = self.listening.topic;
        let frame = |owned: &Arc<Owned>| topic.form(&owned.event).map(|form| owned.frame(topic, form));
        events.iter().filter_map(frame).collect()
    }

    /// A page of old events from the registry. When some of them are gone, or the registry is away, a snapshot comes instead.
    async fn older(&mut self, since: u64, until: u64) -> Option<Chunk> {
        let Self { live, listening, account, .. } = self;
        // The account's turn first: a caller with many connections takes one of the readers.
        let _turn = match account {
            Some(account) => account.reader.acquire().await.ok(),
            None => None,
        };
        let _reading = live.readers.acquire().await.ok();
        let held = live.snapshots.hold(PAGE_BYTES).await;
        let position = Position { seq: since, wakeup: u64::MAX, seen: since, incarnation: None };
        let news = live.registry.follow(position, Duration::ZERO).await.ok().filter(|news| !news.gap);
        let Some(news) = news else {
            self.at = At::Snapshot(Some(since));
            return None;
        };
        let began = Instant::now();
        // Not every number is an event's.
        self.at = At::After(if news.events.is_empty() { until } else { news.position.seq.min(until) });
        let wanted = news.events.into_iter().filter(|event| event.seq <= until);
        let frame = |event: model::Event| {
            let form = listening.topic.form(&event)?;
            Some(super::protocol::event_frame(listening.topic, &live.names.named(event), form))
        };
        let frames: Vec<Utf8Bytes> = wanted.filter_map(frame).collect();
        self.took += began.elapsed();
        (!frames.is_empty()).then_some(Chunk::Events(frames, held))
    }

    async fn snapshot(&mut self, after: Option<u64>) -> Result<Chunk, NoView> {
        self.snapshots += 1;
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(NoView);
        }
        let Self { live, listening, need, .. } = self;
        let Listening { topic, only, .. } = *listening;
        timeout(COVER_TIMEOUT, live.feed.covers(need)).await.map_err(|_| NoView)?;
        let generation = live.feed.generation();
        let began = Instant::now();
        let snapshot = match &**topic {
            // Small, and there are many of them.
            Topic::Node(_) | Topic::Spawn(_) => Arc::new(make(live, *listening, need).await?),
            _ => {
                // Nodes are the same for every owner.
                let only = only.filter(|_| **topic != Topic::Nodes).cloned();
                let key = Key { topic: Arc::clone(topic), only, generation };
                live.snapshots.get(key, live.feed.seq(), after, make(live, *listening, need)).await?
            }
        };
        if snapshot.is_of(began) {
            self.took += snapshot.took;
        }
        live.metrics.snapshot(self.began.elapsed());
        (self.at, self.generation) = (At::After(snapshot.seq), generation);
        let encoded = &snapshot.encoded;
        let messages = if self.in_parts {
            encoded.parts(topic, snapshot.seq)
        } else {
            vec![encoded.whole(topic, snapshot.seq)]
        };
        Ok(Chunk::Snapshot(messages, snapshot))
    }
}

async fn make(live: &Live, listening: Listening<'_>, need: &Need) -> Result<Snapshot, NoView> {
    let Listening { topic, only, .. } = listening;
    let (mut snapshot, seq) = live.feed.snapshot(topic, only, need).ok_or(NoView)?;
    if let (Topic::Spawn(id), TopicSnapshot::Spawn(spawn @ None)) = (&**topic, &mut snapshot) {
        // It may have ended. One whose end is still to be sent is not known yet.
        let record = live.registry.spawn(*id).await.ok().flatten();
        let ended = record.filter(|r| only.is_none() || r.owner.as_ref() == only).filter(|r| {
            r.state == SpawnState::Exited && r.events.last().is_none_or(|event| event.seq <= seq)
        });
        *spawn = ended.map(|record| Arc::new(Followed::from(record)));
    }
    let began = Instant::now();
    let encoded = match &snapshot {
        TopicSnapshot::Spawns(spawns) if spawns.len() > MAX_INLINE => {
            let names = live.names.clone();
            let encode = move || Encoded::of(&snapshot, &names);
            tokio::task::spawn_blocking(encode).await.map_err(|_| NoView)?
        }
        _ => Encoded::of(&snapshot, &live.names),
    };
    live.metrics.encoded(topic.kind());
    Ok(Snapshot::new(seq, encoded, began.elapsed()))
}

/// Whether this is the number of an event, or of a ping of a moment ago, that the registry has.
async fn is_known(live: &Live, seq: u64) -> bool {
    let position = Position { seq, wakeup: u64::MAX, seen: seq, incarnation: None };
    let news: Result<Follow, RegistryError> = live.registry.follow(position, Duration::ZERO).await;
    news.is_ok_and(|news| !news.gap)
}
