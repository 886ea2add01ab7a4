//! Spawn records and the event stream, both bounded: the newest of each are kept.
//!
//! Sequence numbers rise by at least one and are at least the clock in microseconds, so they go on rising in the registry
//! that replaces this one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use model::{Event, EventKind, NodeId, Origin, SpawnId, SpawnRecord, Timestamp, Timing};
use serde_json::{Map, Value};

use crate::ask::{MAX_LOOKED_AT, SpawnFilter, SpawnPage};

/// The most events kept with one spawn.
pub(crate) const EVENTS_PER_SPAWN: usize = 100;

/// Spawn records and events, the newest of each.
#[derive(Debug)]
pub(super) struct History {
    keep: Timing,
    spawns: HashMap<SpawnId, (u64, SpawnRecord)>,
    /// By the seq of the first event of each spawn.
    order: BTreeMap<u64, SpawnId>,
    ended: BTreeSet<(Timestamp, SpawnId)>,
    events: VecDeque<Event>,
    /// The last event that was dropped.
    dropped: u64,
    pub(super) last_seq: u64,
}

impl History {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            keep: timing.clone(),
            spawns: HashMap::new(),
            order: BTreeMap::new(),
            ended: BTreeSet::new(),
            events: VecDeque::new(),
            dropped: 0,
            last_seq: 0,
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
        let seq = (self.last_seq + 1).max(now.millis().saturating_mul(1000));
        self.last_seq = seq;
        let event = Event { seq, at, kind, node: Some(node.clone()), spawn, data };
        if let Some((_, record)) = spawn.and_then(|id| self.spawns.get_mut(&id))
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
        self.spawns.get(&spawn).map(|(_, record)| record)
    }

    pub(super) fn get_mut(&mut self, spawn: SpawnId) -> Option<&mut SpawnRecord> {
        self.spawns.get_mut(&spawn).map(|(_, record)| record)
    }

    /// Adds a record; its first event must follow at once.
    pub(super) fn add(&mut self, now: Timestamp, record: SpawnRecord) {
        let order = (self.last_seq + 1).max(now.millis().saturating_mul(1000));
        self.order.insert(order, record.id);
        self.spawns.insert(record.id, (order, record));
    }

    /// Notes that a spawn has ended, so that [`Self::sweep`] drops its record later.
    pub(super) fn end(&mut self, spawn: SpawnId, at: Timestamp) {
        self.ended.insert((at, spawn));
    }

    /// Takes back [`Self::end`]: an agent has listed the spawn as alive.
    pub(super) fn revive(&mut self, spawn: SpawnId) {
        self.ended.retain(|(_, ended)| *ended != spawn);
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        while let Some((at, spawn)) = self.ended.first().copied()
            && (now.since(at) >= self.keep.history || self.ended.len() > self.keep.history_count as usize)
        {
            self.ended.pop_first();
            if let Some((order, _)) = self.spawns.remove(&spawn) {
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
        && filter.tags.iter().all(|tag| tag.is_in(&record.tags))
}
