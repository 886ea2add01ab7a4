//! The places for connections: who has one, what it costs, and who makes room for others.
//!
//! A connection is a stranger until a request on it has shown a good credential. There is a bound on the number of all
//! connections and one on the memory of those that are not known to be of use: what they hold is estimated, and counted
//! before anything is known of them. Both bounds are kept by closing connections, never by making those that come wait:
//!
//! | closed first | what it is |
//! | --- | --- |
//! | 1 | a stranger on the live feed, the oldest |
//! | 2 | a stranger that has no request under way, the one that has waited longest |
//! | 3 | a connection of a known caller without a request, the one that has waited longest |
//!
//! A connection with a request is not closed, nor is one before anybody has looked whether its request is here: connections
//! are accepted many at a time, and those whose callers were quick would make room for those behind them. Part of the places is for known callers alone, and as many are for strangers:
//! every caller begins as one.
//!
//! Failure: while no connection can be closed there is no room, and those that come wait in the kernel.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::callers::{Account, Kind, Share};
use crate::metrics::ConnectionFigures;

/// A connection of which nothing has been read: its socket and its task.
const SILENT: usize = 3 * 1024;
/// One that HTTP is spoken on: buffers and the state of a request, without what was sent.
const SPEAKING: usize = 16 * 1024;
/// One on the live feed.
const LISTENING: usize = 40 * 1024;
/// What TLS adds from the handshake on.
const TLS: usize = 32 * 1024;
/// Buffers grow in steps: they are larger than what is in them.
const GROWTH: usize = 2;

/// Connections that may be leaving at once, at least.
const GOODBYES: usize = 64;

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
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
enum Rank {
    Listener,
    Stranger,
    Known,
}

#[derive(Debug)]
struct Entry {
    standing: Standing,
    known: bool,
    tls: bool,
    /// The number of its last change.
    since: u64,
    leave: CancellationToken,
}

impl Entry {
    /// How soon it makes room; `None`: not at all.
    fn rank(&self) -> Option<Rank> {
        match (self.standing, self.known) {
            (Standing::Fresh | Standing::Busy, _) | (Standing::Listening, true) => None,
            (Standing::Listening, false) => Some(Rank::Listener),
            (_, false) => Some(Rank::Stranger),
            (_, true) => Some(Rank::Known),
        }
    }

    /// The memory that it is counted with, in bytes; nothing for what a known caller is being served.
    fn cost(&self) -> usize {
        let held = match self.standing {
            Standing::Busy | Standing::Listening if self.known => return 0,
            Standing::Fresh | Standing::Silent => return SILENT,
            Standing::Shaking => SILENT,
            Standing::Idle | Standing::Busy => SPEAKING,
            Standing::Begun(bytes) => SPEAKING + GROWTH * bytes,
            Standing::Listening => LISTENING,
        };
        held + if self.tls { TLS } else { 0 }
    }

    /// Whether closing it frees more than a place.
    fn holds(&self) -> bool {
        !matches!(self.standing, Standing::Fresh | Standing::Silent)
    }
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last change.
    changes: u64,
    entries: HashMap<u64, Entry>,
    /// Those that can make room.
    waiting: BTreeSet<(Rank, u64, u64)>,
    /// Those of `waiting` that hold memory, likewise.
    holding: BTreeSet<(Rank, u64, u64)>,
    /// The others of `waiting`: those of which nothing has been read, by their last change.
    silent: BTreeSet<(u64, u64)>,
    strangers: usize,
    /// Of all entries together.
    bytes: usize,
    /// Connections that were asked to leave and have not yet.
    leaving: usize,
    /// Whether the front door waits for a place.
    wanted: bool,
}

impl State {
    fn put(&mut self, id: u64, entry: Entry) {
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

    fn take(&mut self, id: u64) -> Option<Entry> {
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

    /// Asks this one to leave. It counts no longer.
    fn close(&mut self, id: u64) {
        if let Some(entry) = self.take(id) {
            self.leaving += 1;
            entry.leave.cancel();
        }
    }

    /// Closes one that can make room: a known one only where strangers have no more than `few` places.
    fn make_room(&mut self, few: usize) -> bool {
        let first = |rank: Rank| self.waiting.range((rank, 0, 0)..).next().copied();
        let found = if self.strangers <= few { first(Rank::Known) } else { None };
        match found.or_else(|| first(Rank::Listener)) {
            Some((_, _, id)) => self.close(id),
            None => return false,
        }
        true
    }
}

/// The places; clones are one and the same.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    /// Places that strangers do not take, and as many that they keep.
    share: usize,
    /// Bytes that connections may be counted with.
    memory: usize,
    /// Never held across an await.
    state: Mutex<State>,
    /// Somebody has left, or can.
    changed: Notify,
    figures: ConnectionFigures,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// So many places, with so many bytes for connections that are not known to be of use. `share`: how many places are for
    /// callers that have shown a good credential alone; 0 where nobody has to show one.
    pub(crate) fn new(most: usize, share: usize, memory: usize, figures: ConnectionFigures) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { most: most.max(1), share, memory, state, changed, figures }))
    }

    /// Takes a place for a new connection. Does not wait unless all connections have a request under way or are as new.
    pub(super) async fn enter(&self) -> Place {
        loop {
            let changed = self.0.changed.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            changed.await;
        }
    }

    fn try_enter(&self) -> Option<Place> {
        let Inner { most, share, .. } = *self.0;
        let mut state = self.0.state();
        // Those that leave have a moment to say goodbye: so many of them may do so at once.
        state.wanted = state.leaving > (most / 8).max(GOODBYES);
        if state.wanted {
            return None;
        }
        let crowded = state.strangers >= most.saturating_sub(share).max(1);
        let full = state.entries.len() >= most;
        let room = if crowded || full { state.make_room(share) || !full } else { true };
        state.wanted = !room;
        if state.wanted {
            return None;
        }
        state.changes += 1;
        let (id, leave) = (state.changes, CancellationToken::new());
        let entry =
            Entry { standing: Standing::Fresh, known: false, tls: false, since: id, leave: leave.clone() };
        state.put(id, entry);
        self.keep_within(&mut state);
        self.0.figures.opened();
        Some(Place(Arc::new(Taken { places: self.clone(), id, leave, share: OnceLock::new() })))
    }

    /// Closes one connection that can make room, if there is one: descriptors have run out.
    pub(super) fn shed(&self) {
        self.0.state().make_room(self.0.share);
    }

    fn keep_within(&self, state: &mut State) {
        while state.bytes > self.0.memory {
            // Those from which nothing has come hold little each. They go first where all of them together hold most of the
            // memory: each connection that speaks would have to leave for them otherwise.
            let silent = state.silent.first().map(|(_, id)| *id);
            let speaking = state.holding.first().map(|(_, _, id)| *id);
            let most = state.silent.len() * SILENT > self.0.memory / 2;
            let Some(id) = (if most { silent } else { speaking.or(silent) }) else { return };
            state.close(id);
        }
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Entry)) -> bool {
        let mut state = self.0.state();
        let Some(mut entry) = state.take(id) else { return false };
        let (rank, held) = (entry.rank(), entry.holds());
        change(&mut entry);
        // Whoever sends a head byte by byte has waited since its first one.
        if (entry.rank(), entry.holds()) != (rank, held) {
            state.changes += 1;
            entry.since = state.changes;
        }
        let can_leave = entry.rank().is_some();
        state.put(id, entry);
        self.keep_within(&mut state);
        let wanted = can_leave && std::mem::take(&mut state.wanted);
        let here = state.entries.contains_key(&id);
        drop(state);
        if wanted {
            self.0.changed.notify_one();
        }
        here
    }
}

/// A connection's place: one that is no HTTP connection any more keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Place(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    places: Places,
    id: u64,
    leave: CancellationToken,
    /// Of the connections that its caller may have.
    share: OnceLock<Share>,
}

impl Place {
    /// Resolves when this connection must close to make room.
    pub(crate) async fn asked_to_leave(&self) {
        self.0.leave.cancelled().await;
    }

    /// Notes what the connection is at. `false`: it has been asked to leave.
    pub(super) fn stands(&self, standing: Standing) -> bool {
        self.0.places.change(self.0.id, |entry| {
            entry.standing = standing;
            entry.tls |= standing == Standing::Shaking;
        })
    }

    /// Notes that a good credential was shown on it: it counts as this caller's, unless that one has as many as it may have,
    /// and stays a stranger's then. The first caller of a connection that several share counts.
    pub(crate) fn known_to(&self, account: &Arc<Account>) {
        if self.0.share.get().is_none()
            && let Some(share) = account.take_if_free(Kind::Connection)
            && self.0.share.set(share).is_ok()
        {
            self.known();
        }
    }

    /// Notes that it is of use.
    pub(crate) fn known(&self) {
        self.0.places.change(self.0.id, |entry| entry.known = true);
    }

    /// Notes that so many bytes of a stranger's body are held while the rest is awaited; `None`: the body is here.
    /// `false`: the connection has been asked to leave.
    pub(crate) fn holds_body(&self, bytes: Option<usize>) -> bool {
        self.0.places.change(self.0.id, |entry| {
            if !entry.known {
                entry.standing = bytes.map_or(Standing::Busy, Standing::Begun);
            }
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.places.0.state();
        if state.take(self.id).is_none() {
            state.leaving -= 1;
        }
        let wanted = std::mem::take(&mut state.wanted);
        drop(state);
        if wanted {
            self.places.0.changed.notify_one();
        }
        self.places.0.figures.gone();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn places(most: usize, share: usize, memory: usize) -> Places {
        Places::new(
            most,
            share,
            memory,
            ConnectionFigures::register(&mut prometheus_client::registry::Registry::default()),
        )
    }

    async fn entered(places: &Places, standing: Standing) -> Place {
        let place = timeout(Duration::from_secs(1), places.enter()).await.expect("nobody waits for a place");
        place.stands(standing);
        place
    }

    fn left(all: &[&Place]) -> Vec<bool> {
        all.iter().map(|place| place.0.leave.is_cancelled()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_stranger_makes_room_and_nobody_waits_for_it() {
        let places = places(2, 0, 1 << 20);
        let first = entered(&places, Standing::Idle).await;
        let second = entered(&places, Standing::Idle).await;
        first.stands(Standing::Busy);
        first.stands(Standing::Idle);
        let third = entered(&places, Standing::Idle).await;
        assert_eq!(left(&[&first, &second, &third]), [false, true, false]);
        assert!(!second.stands(Standing::Busy), "a request on it comes too late");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_on_the_live_feed_go_first_and_known_callers_stay() {
        let places = places(4, 1, 1 << 20);
        let known = entered(&places, Standing::Idle).await;
        known.known();
        let silent = entered(&places, Standing::Silent).await;
        let listener = entered(&places, Standing::Listening).await;
        let half = entered(&places, Standing::Begun(10)).await;
        let all = [&known, &silent, &listener, &half];
        let one = entered(&places, Standing::Silent).await;
        assert_eq!(left(&all), [false, false, true, false]);
        let two = entered(&places, Standing::Silent).await;
        assert_eq!(left(&all), [false, true, true, false]);
        drop((one, two));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_keep_a_share_so_that_a_caller_can_show_its_credential() {
        let places = places(8, 2, 1 << 20);
        let mut known = Vec::new();
        for _ in 0..20 {
            let place = entered(&places, Standing::Idle).await;
            place.known();
            known.push(place);
        }
        let there = known.iter().filter(|place| !place.0.leave.is_cancelled()).count();
        assert_eq!(there, 8);
        assert!(known[0].0.leave.is_cancelled() && !known[19].0.leave.is_cancelled());
        let fresh = [entered(&places, Standing::Silent).await, entered(&places, Standing::Silent).await];
        assert_eq!(left(&[&fresh[0], &fresh[1]]), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn heads_and_bodies_have_no_more_memory_than_they_are_given() {
        let places = places(1000, 0, 20 * SPEAKING);
        let mut all = Vec::new();
        for _ in 0..100 {
            all.push(entered(&places, Standing::Begun(0)).await);
            assert!(places.0.state().bytes <= 20 * SPEAKING);
        }
        let there = all.iter().filter(|place| !place.0.leave.is_cancelled()).count();
        assert!((15..=20).contains(&there), "{there}");
        // One that is being served stays, one that fills its buffers makes the others leave before it leaves itself.
        let served = all.last().unwrap();
        assert!(served.stands(Standing::Busy));
        let large = entered(&places, Standing::Begun(0)).await;
        assert!(large.stands(Standing::Begun(8 * SPEAKING)));
        assert!(!large.stands(Standing::Begun(30 * SPEAKING)));
        assert!(!served.0.leave.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_say_nothing_leave_memory_for_one_that_speaks() {
        let places = places(10_000, 0, 40 * SILENT);
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(entered(&places, Standing::Silent).await);
            assert!(places.0.state().bytes <= 40 * SILENT);
        }
        assert!(silent[0].0.leave.is_cancelled() && !silent[199].0.leave.is_cancelled());
        let speaks = places.enter().await;
        assert!(
            speaks.stands(Standing::Shaking) && speaks.stands(Standing::Idle),
            "it is not closed for them"
        );
        assert!(speaks.stands(Standing::Busy));
        assert!(places.0.state().bytes <= 40 * SILENT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_looked_at_before_it_makes_room_for_the_next() {
        let places = places(2, 0, 1 << 20);
        let [quick, slow] = [places.enter().await, places.enter().await];
        let next = tokio::spawn({
            let places = places.clone();
            async move { places.enter().await }
        });
        tokio::task::yield_now().await;
        // The request of the first was here already.
        assert!(quick.stands(Standing::Busy));
        assert!(!next.is_finished());
        slow.stands(Standing::Silent);
        let _next = timeout(Duration::from_secs(1), next).await.expect("it is let in").unwrap();
        assert_eq!(left(&[&quick, &slow]), [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_only_while_all_have_a_request() {
        let places = places(1, 0, 1 << 20);
        let busy = entered(&places, Standing::Busy).await;
        assert!(timeout(Duration::from_secs(1), places.enter()).await.is_err());
        let waits = tokio::spawn({
            let places = places.clone();
            async move { places.enter().await }
        });
        tokio::task::yield_now().await;
        busy.stands(Standing::Idle);
        let _next = timeout(Duration::from_secs(1), waits).await.expect("it is let in").unwrap();
        assert_eq!(left(&[&busy]), [true]);
    }
}
