//! Which connection is closed to make room for others, and what each of them is counted with.
//!
//! A connection is a *stranger* until a request on it has shown a good credential, and *known* from then on.
//!
//! | closed first | what it is |
//! | --- | --- |
//! | 1 | a stranger on the live feed, the oldest |
//! | 2 | a stranger that has no request under way, the one that has waited longest |
//! | 3 | a connection of a known caller without a request, the one that has waited longest |
//!
//! Owns: the index over all connections of one port, without any synchronization of its own; `places` locks it.
//!
//! Invariants: a connection with a request is not closed. Neither is one before its task has looked for a request: connections are
//! accepted many at a time, and those whose callers were quick would make room for those behind them.

use std::collections::{BTreeSet, HashMap};

use tokio_util::sync::CancellationToken;

/// A connection of which nothing has been read: its socket and its task.
pub(super) const SILENT: usize = 3 * 1024;
/// One that HTTP is spoken on: buffers and the state of a request, without what was sent.
pub(super) const SPEAKING: usize = 16 * 1024;
/// One on the live feed.
const LISTENING: usize = 40 * 1024;
/// What TLS adds from the handshake on.
const TLS: usize = 32 * 1024;
/// Buffers grow in steps: they are larger than what is in them.
const GROWTH: usize = 2;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// It was accepted, and its task has not run.
    Fresh,
    /// Nothing has come from it.
    Silent,
    /// A handshake of TLS is under way.
    Shaking,
    /// It waits for a request.
    Idle,
    /// So many bytes of a request are here, and the rest is awaited: of the head, or of a stranger's body.
    Begun(usize),
    /// A request is being answered.
    Busy,
    /// It is on the live feed.
    Listening,
}

/// The order in which connections make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Listener,
    Stranger,
    Known,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) state: ConnectionState,
    pub(super) known: bool,
    pub(super) tls: bool,
    /// The number of its last change.
    pub(super) since: u64,
    pub(super) evict: CancellationToken,
}

impl Entry {
    /// How soon it makes room; `None`: not at all.
    pub(super) fn rank(&self) -> Option<Rank> {
        match (self.state, self.known) {
            (ConnectionState::Fresh | ConnectionState::Busy, _) | (ConnectionState::Listening, true) => None,
            (ConnectionState::Listening, false) => Some(Rank::Listener),
            (_, false) => Some(Rank::Stranger),
            (_, true) => Some(Rank::Known),
        }
    }

    /// The memory that it is counted with, in bytes; nothing for what a known caller is being served.
    fn cost(&self) -> usize {
        let held = match self.state {
            ConnectionState::Busy | ConnectionState::Listening if self.known => return 0,
            ConnectionState::Fresh | ConnectionState::Silent => return SILENT,
            ConnectionState::Shaking => SILENT,
            ConnectionState::Idle | ConnectionState::Busy => SPEAKING,
            ConnectionState::Begun(bytes) => SPEAKING + GROWTH * bytes,
            ConnectionState::Listening => LISTENING,
        };
        held + if self.tls { TLS } else { 0 }
    }

    /// Whether closing it frees more than a place.
    pub(super) fn holds(&self) -> bool {
        !matches!(self.state, ConnectionState::Fresh | ConnectionState::Silent)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The number of the last change.
    pub(super) changes: u64,
    pub(super) entries: HashMap<u64, Entry>,
    /// Connections that can be evicted, in this order.
    waiting: BTreeSet<(Rank, u64, u64)>,
    /// Those of `waiting` that hold memory, likewise.
    holding: BTreeSet<(Rank, u64, u64)>,
    /// The others of `waiting`: those of which nothing has been read, by their last change.
    silent: BTreeSet<(u64, u64)>,
    pub(super) strangers: usize,
    /// Of all entries together.
    pub(super) bytes: usize,
    /// Connections that were evicted and are not closed yet.
    pub(super) leaving: usize,
    /// Whether accepting waits for a place.
    pub(super) wanted: bool,
}

impl State {
    pub(super) fn put(&mut self, id: u64, entry: Entry) {
        if let Some(rank) = entry.rank() {
            self.waiting.insert((rank, entry.since, id));
            if entry.holds() {
                self.holding.insert((rank, entry.since, id));
            } else {
                self.silent.insert((entry.since, id));
            }
        }
        self.strangers += usize::from(!entry.known);
        self.bytes += entry.cost();
        self.entries.insert(id, entry);
    }

    pub(super) fn take(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        if let Some(rank) = entry.rank() {
            self.waiting.remove(&(rank, entry.since, id));
            self.holding.remove(&(rank, entry.since, id));
            self.silent.remove(&(entry.since, id));
        }
        self.strangers -= usize::from(!entry.known);
        self.bytes -= entry.cost();
        Some(entry)
    }

    /// Evicts this one. It counts no longer.
    fn close(&mut self, id: u64) {
        if let Some(entry) = self.take(id) {
            self.leaving += 1;
            entry.evict.cancel();
        }
    }

    /// Evicts one connection, if one can make room: a known one only where strangers have no more than `few` places.
    pub(super) fn make_room(&mut self, few: usize) -> bool {
        let first = |rank: Rank| self.waiting.range((rank, 0, 0)..).next().copied();
        let found = if self.strangers <= few { first(Rank::Known) } else { None };
        match found.or_else(|| first(Rank::Listener)) {
            Some((_, _, id)) => self.close(id),
            None => return false,
        }
        true
    }

    /// Evicts connections until those that are there are counted with no more than `memory` bytes.
    pub(super) fn keep_within(&mut self, memory: usize) {
        while self.bytes > memory {
            // Those from which nothing has come hold little each. They go first where all of them together hold most of the
            // memory: each connection that speaks would have to leave for them otherwise.
            let silent = self.silent.first().map(|(_, id)| *id);
            let speaking = self.holding.first().map(|(_, _, id)| *id);
            let most = self.silent.len() * SILENT > memory / 2;
            let Some(id) = (if most { silent } else { speaking.or(silent) }) else { return };
            self.close(id);
        }
    }
}
