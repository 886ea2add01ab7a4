//! Spawn records and the event stream, both bounded: the newest of each are kept.
//!
//! Sequence numbers rise by at least one and are at least the clock in microseconds, so they go on rising in the registry
//! that replaces this one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use model::{Event, EventKind, NodeId, Origin, SpawnId, SpawnRecord, Timestamp, Timing};
use serde_json::{Map, Value};

use crate::ask::{MAX_LOOKED_AT, SpawnFilter, SpawnPage, Walk};
use crate::place_among_ends::PlaceAmongEnds;

/// The most records that are dropped in one step.
const MAX_DROPPED: usize = 100;
/// The most events kept with one spawn.
pub(crate) const EVENTS_PER_SPAWN: usize = 100;

/// Spawn records and events, the newest of each.
#[derive(Debug, Clone)]
pub(super) struct History {
    keep: Timing,
    spawns: HashMap<SpawnId, Kept>,
    /// By the seq of the first event of each spawn.
    order: BTreeMap<u64, SpawnId>,
    ended: BTreeSet<(Timestamp, SpawnId)>,
    /// Bytes of the records of ended spawns.
    ended_bytes: u64,
    events: VecDeque<Event>,
    /// The last event that was dropped.
    dropped: u64,
    /// The last number that was given, to an event or a ping.
    pub(super) last_seq: u64,
    pub(super) last_event: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    /// Seq of its first event.
    order: u64,
    record: SpawnRecord,
    /// When it ended, and the bytes of its record then.
    ended: Option<(Timestamp, u64)>,
}

impl History {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            keep: timing.clone(),
            spawns: HashMap::new(),
            order: BTreeMap::new(),
            ended: BTreeSet::new(),
            ended_bytes: 0,
            events: VecDeque::new(),
            dropped: 0,
            last_seq: 0,
            last_event: 0,
        }
    }

    /// Publishes an event: appends it to the stream, and to the history of its spawn. Returns its number.
    pub(super) fn publish(
        &mut self,
        now: Timestamp,
        at: Timestamp,
        kind: EventKind,
        node: &NodeId,
        spawn: Option<SpawnId>,
        data: Map<String, Value>,
    ) -> u64 {
        let seq = self.next_seq(now);
        self.last_event = seq;
        let event = Event { seq, at, kind, node: Some(node.clone()), spawn, data };
        if let Some(Kept { record, .. }) = spawn.and_then(|id| self.spawns.get_mut(&id))
            && record.events.len() < EVENTS_PER_SPAWN
        {
            record.events.push(event.clone());
        }
        self.events.push_back(event);
        if self.events.len() > self.keep.events_count as usize
            && let Some(old) = self.events.pop_front()
        {
            self.dropped = old.seq;
        }
        seq
    }

    /// The number of the oldest event, which shows when it was published.
    pub(super) fn first(&self) -> Option<u64> {
        self.events.front().map(|event| event.seq)
    }

    pub(super) fn next_seq(&mut self, now: Timestamp) -> u64 {
        self.last_seq = (self.last_seq + 1).max(now.millis().saturating_mul(1000));
        self.last_seq
    }

    /// Events after `seq`, and whether some of them are gone.
    pub(super) fn after(&self, seq: u64) -> (Vec<Event>, bool) {
        let from = self.events.partition_point(|e| e.seq <= seq);
        (self.events.range(from..).cloned().collect(), seq > 0 && seq < self.dropped)
    }

    /// Whether an event can be read, or was dropped as one of the oldest.
    pub(super) fn has_had(&self, seq: u64) -> bool {
        seq <= self.dropped || self.events.binary_search_by_key(&seq, |event| event.seq).is_ok()
    }

    pub(super) fn get(&self, spawn: SpawnId) -> Option<&SpawnRecord> {
        self.spawns.get(&spawn).map(|kept| &kept.record)
    }

    pub(super) fn get_mut(&mut self, spawn: SpawnId) -> Option<&mut SpawnRecord> {
        self.spawns.get_mut(&spawn).map(|kept| &mut kept.record)
    }

    /// Adds a record; its first event must follow at once.
    pub(super) fn add(&mut self, now: Timestamp, record: SpawnRecord) {
        let order = (self.last_seq + 1).max(now.millis().saturating_mul(1000));
        self.order.insert(order, record.id);
        self.spawns.insert(record.id, Kept { order, record, ended: None });
    }

    /// Notes that a spawn has ended, so that [`Self::sweep`] drops its record later.
    pub(super) fn end(&mut self, spawn: SpawnId, at: Timestamp) {
        self.revive(spawn);
        let Some(kept) = self.spawns.get_mut(&spawn) else { return };
        let bytes = bytes_of(&kept.record);
        kept.ended = Some((at, bytes));
        self.ended_bytes += bytes;
        self.ended.insert((at, spawn));
    }

    /// Takes back [`Self::end`]: an agent has listed the spawn as alive.
    pub(super) fn revive(&mut self, spawn: SpawnId) {
        if let Some((at, bytes)) = self.spawns.get_mut(&spawn).and_then(|kept| kept.ended.take()) {
            self.ended_bytes -= bytes;
            self.ended.remove(&(at, spawn));
        }
    }

    /// Drops records of ended spawns that are too old or too many, [`MAX_DROPPED`] of them at the most. Returns whether there may be more.
    pub(super) fn sweep(&mut self, now: Timestamp) -> bool {
        for _ in 0..MAX_DROPPED {
            let Some((at, spawn)) = self.ended.first().copied() else { return false };
            let is_over = now.since(at) >= self.keep.history
                || self.ended.len() > self.keep.history_count as usize
                || self.ended_bytes > self.keep.history_bytes;
            if !is_over {
                return false;
            }
            self.revive(spawn);
            if let Some(Kept { order, .. }) = self.spawns.remove(&spawn) {
                self.order.remove(&order);
            }
        }
        true
    }

    pub(super) fn spawn(&self, spawn: SpawnId) -> Option<SpawnRecord> {
        self.get(spawn).cloned()
    }

    pub(super) fn page(&self, filter: &SpawnFilter) -> SpawnPage {
        let mut page = SpawnPage::default();
        let mut last = None;
        let mut before = None;
        for (place, id) in self.walk(filter) {
            let Some(record) = self.get(id) else { continue };
            if page.looked_at == MAX_LOOKED_AT {
                page.next = before;
                break;
            }
            page.looked_at += 1;
            before = Some(place);
            if !is_wanted(filter, record) {
                continue;
            }
            if page.spawns.len() == filter.limit.max(1) {
                page.next = last;
                break;
            }
            page.spawns.push(SpawnRecord { events: Vec::new(), origin: Origin::default(), ..record.clone() });
            last = Some(place);
        }
        page
    }

    /// The spawns that a list looks at, in its order, each with its place. `redis/walk.rs` does the same.
    fn walk<'a>(&'a self, filter: &'a SpawnFilter) -> Box<dyn Iterator<Item = (u64, SpawnId)> + 'a> {
        let walk = filter.walk();
        if walk == Walk::Ends {
            let since = filter.ended_since.map_or(0, |since| since.millis());
            let after = filter.cursor.map(PlaceAmongEnds::from);
            let ended = self.ended.iter().rev().map(|(at, id)| (at.millis(), *id));
            let placed = ended.scan(PlaceAmongEnds::default(), |place, (at, id)| {
                *place = place.next(at);
                Some((*place, id))
            });
            let is_after = move |place: PlaceAmongEnds| {
                after.is_none_or(|after| {
                    place.at < after.at || (place.at == after.at && place.among > after.among)
                })
            };
            let walked = placed.take_while(move |(place, _)| place.at >= since);
            return Box::new(walked.filter(move |(p, _)| is_after(*p)).map(|(place, id)| (place.into(), id)));
        }
        let begun = self.order.range(..filter.cursor.unwrap_or(u64::MAX)).rev();
        let stands = move |record: &SpawnRecord| match walk {
            Walk::Owners => record.owner.as_ref().is_some_and(|owner| filter.owners.contains(owner)),
            Walk::Node(node) => record.node == *node,
            Walk::All | Walk::Ends => true,
        };
        let begun = begun.filter(move |(_, id)| self.get(**id).is_some_and(stands));
        Box::new(begun.map(|(order, id)| (*order, *id)))
    }
}

/// What a record takes of Redis, about; see `redis/lua/weight.lua`, and docs/operator/sizing.md.
fn bytes_of(record: &SpawnRecord) -> u64 {
    const RECORD: usize = 2000;
    const EVENT: usize = 110;
    let pair = |(key, value): (&String, &String)| key.len() + value.len() + 6;
    let texts: usize = record.labels.iter().chain(&record.tags).map(pair).sum();
    let events = record.events.iter().map(|event| EVENT + json_len(&event.data));
    (RECORD + record.endpoint.len() + texts + events.sum::<usize>()) as u64
}

fn json_len(data: &Map<String, Value>) -> usize {
    serde_json::to_string(data).map_or(0, |text| text.len())
}

fn is_wanted(filter: &SpawnFilter, record: &SpawnRecord) -> bool {
    let owned = || record.owner.as_ref().is_some_and(|owner| filter.owners.contains(owner));
    filter.node.as_ref().is_none_or(|node| *node == record.node)
        && filter.state.is_none_or(|state| state == record.state)
        && (filter.owners.is_empty() || owned())
        && filter.renderer.is_none_or(|renderer| renderer == record.renderer)
        && filter.wants_end(record.ended_at, record.exit.as_ref().map(|exit| exit.reason))
        && filter.tags.iter().all(|tag| tag.is_in(&record.tags))
}
