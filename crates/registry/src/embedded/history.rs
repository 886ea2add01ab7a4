//! Spawn records and the event stream, both bounded: the newest of each are kept.
//!
//! Sequence numbers rise by at least one and are at least the clock in microseconds, so they go on rising in the registry
//! that replaces this one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use model::{Event, EventKind, NodeId, Origin, SpawnId, SpawnRecord, Timestamp, Timing};
use serde_json::{Map, Value};

use crate::ask::{MAX_LOOKED_AT, SpawnFilter, SpawnPage};

/// The most records that are dropped in one step.
const MAX_DROPPED: usize = 500;
/// The most events kept with one spawn.
pub(crate) const EVENTS_PER_SPAWN: usize = 100;

/// Spawn records and events, the newest of each.
#[derive(Debug)]
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

/// A spawn's record.
#[derive(Debug)]
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

    /// Drops records of ended spawns that are too old or too many, [`MAX_DROPPED`] of them at the most.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        for _ in 0..MAX_DROPPED {
            let Some((at, spawn)) = self.ended.first().copied() else { return };
            let is_over = now.since(at) >= self.keep.history
                || self.ended.len() > self.keep.history_count as usize
                || self.ended_bytes > self.keep.history_bytes;
            if !is_over {
                return;
            }
            self.revive(spawn);
            if let Some(Kept { order, .. }) = self.spawns.remove(&spawn) {
                self.order.remove(&order);
            }
        }
    }

    pub(super) fn spawn(&self, spawn: SpawnId) -> Option<SpawnRecord> {
        self.get(spawn).cloned()
    }

    pub(super) fn page(&self, filter: &SpawnFilter) -> SpawnPage {
        let mut page = SpawnPage::default();
        let end = filter.cursor.unwrap_or(u64::MAX);
        let mut last = None;
        let mut looked_at = 0;
        let mut before = None;
        for (order, id) in self.order.range(..end).rev() {
            let Some(record) = self.get(*id) else { continue };
            if !may_be_looked_at(filter, record) {
                continue;
            }
            if looked_at == MAX_LOOKED_AT {
                page.next = before;
                break;
            }
            looked_at += 1;
            before = Some(*order);
            if !is_wanted(filter, record) {
                continue;
            }
            if page.spawns.len() == filter.limit.max(1) {
                page.next = last;
                break;
            }
            page.spawns.push(SpawnRecord { events: Vec::new(), origin: Origin::default(), ..record.clone() });
            last = Some(*order);
        }
        page
    }
}

/// What a record takes of Redis, about; see `note_ended` in `redis/lua/spawns.lua`, and docs/operator/sizing.md.
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

/// Whether a record stands in the index that a list by this filter reads: of an owner, of a node, or of all.
fn may_be_looked_at(filter: &SpawnFilter, record: &SpawnRecord) -> bool {
    match (filter.owners.as_slice(), &filter.node) {
        ([owner], _) => record.owner.as_ref() == Some(owner),
        (_, Some(node)) => *node == record.node,
        (_, None) => true,
    }
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
