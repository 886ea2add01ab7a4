//! The places for connections: a bound on their number, and one on the memory of those without a credential.
//!
//! What a connection holds is estimated, and counted before anything is known of it. Both bounds are kept by evicting connections
//! (`eviction` says which), never by making those that come wait. Part of the places is for known callers alone, and as many are
//! for strangers, since every caller begins as one.
//!
//! Failure: while no connection can be closed there is no room, and those that come wait in the kernel.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::eviction::{ConnectionState, Entry, State};
use crate::callers::{Account, Share, ShareKind};
use crate::metrics::ConnectionMetrics;

/// Evicted connections that may be closing at once, at least.
const MIN_LEAVING: usize = 64;

/// The places; clones are handles of the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    /// Places that strangers do not take, and as many that they keep.
    share: usize,
    /// Bytes that connections may be counted with.
    memory: usize,
    /// Never held across an await.
    state: Mutex<State>,
    /// A connection has been closed, or can be.
    changed: Notify,
    metrics: ConnectionMetrics,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// `max` places, with `memory` bytes for connections without a credential. `share`: how many places are for known callers alone;
    /// 0 where credentials are not required.
    pub(crate) fn new(max: usize, share: usize, memory: usize, metrics: ConnectionMetrics) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { max: max.max(1), share, memory, state, changed, metrics }))
    }

    /// Takes a place for a new connection. Does not wait unless all connections have a request under way or are as new.
    pub(super) async fn enter(&self) -> ConnectionPlace {
        loop {
            let changed = self.0.changed.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            changed.await;
        }
    }

    fn try_enter(&self) -> Option<ConnectionPlace> {
        let Inner { max, share, .. } = *self.0;
        let mut state = self.0.state();
        // Evicted connections have a moment to close, and only so many of them at once.
        state.wanted = state.leaving > (max / 8).max(MIN_LEAVING);
        if state.wanted {
            return None;
        }
        let crowded = state.strangers >= max.saturating_sub(share).max(1);
        let full = state.entries.len() >= max;
        let room = if crowded || full { state.make_room(share) || !full } else { true };
        state.wanted = !room;
        if state.wanted {
            return None;
        }
        state.changes += 1;
        let (id, evict) = (state.changes, CancellationToken::new());
        let entry = Entry {
            state: ConnectionState::Fresh,
            known: false,
            tls: false,
            since: id,
            evict: evict.clone(),
        };
        state.put(id, entry);
        state.keep_within(self.0.memory);
        self.0.metrics.opened();
        Some(ConnectionPlace(Arc::new(Taken { places: self.clone(), id, evict, share: OnceLock::new() })))
    }

    /// Evicts one connection, if one can make room: descriptors have run out.
    pub(super) fn shed(&self) {
        self.0.state().make_room(self.0.share);
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Entry)) -> bool {
        let mut state = self.0.state();
        let Some(mut entry) = state.take(id) else { return false };
        let (rank, held) = (entry.rank(), entry.holds());
        change(&mut entry);
        // A connection that sends a head byte by byte has waited since its first one.
        if (entry.rank(), entry.holds()) != (rank, held) {
            state.changes += 1;
            entry.since = state.changes;
        }
        let can_leave = entry.rank().is_some();
        state.put(id, entry);
        state.keep_within(self.0.memory);
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
pub(crate) struct ConnectionPlace(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    places: Places,
    id: u64,
    evict: CancellationToken,
    /// Its unit of its caller's limit of connections.
    share: OnceLock<Share>,
}

impl ConnectionPlace {
    /// Resolves when this connection must close to make room.
    pub(crate) async fn evicted(&self) {
        self.0.evict.cancelled().await;
    }

    /// Notes the state of the connection. `false`: it has been evicted.
    pub(super) fn set_state(&self, state: ConnectionState) -> bool {
        self.0.places.change(self.0.id, |entry| {
            entry.state = state;
            entry.tls |= state == ConnectionState::Shaking;
        })
    }

    /// Notes that a good credential was shown on it: it counts as this caller's, unless the caller is at its limit of connections;
    /// then it stays a stranger. Of several callers on one connection, the first counts.
    pub(crate) fn known_to(&self, account: &Arc<Account>) {
        if self.0.share.get().is_none()
            && let Some(share) = account.take_if_free(ShareKind::Connection)
            && self.0.share.set(share).is_ok()
        {
            self.known();
        }
    }

    /// Notes that it is a known caller's.
    pub(crate) fn known(&self) {
        self.0.places.change(self.0.id, |entry| entry.known = true);
    }

    /// Notes that so many bytes of a stranger's body are held while the rest is awaited; `None`: the body is here.
    /// `false`: the connection has been evicted.
    pub(crate) fn holds_body(&self, bytes: Option<usize>) -> bool {
        self.0.places.change(self.0.id, |entry| {
            if !entry.known {
                entry.state = bytes.map_or(ConnectionState::Busy, ConnectionState::Begun);
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
        self.places.0.metrics.gone();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::eviction::{SILENT, SPEAKING};
    use super::*;

    fn places(max: usize, share: usize, memory: usize) -> Places {
        Places::new(
            max,
            share,
            memory,
            ConnectionMetrics::register(&mut prometheus_client::registry::Registry::default()),
        )
    }

    async fn entered(places: &Places, state: ConnectionState) -> ConnectionPlace {
        let place = timeout(Duration::from_secs(1), places.enter()).await.expect("nobody waits for a place");
        place.set_state(state);
        place
    }

    fn left(all: &[&ConnectionPlace]) -> Vec<bool> {
        all.iter().map(|place| place.0.evict.is_cancelled()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_stranger_makes_room_at_once() {
        let places = places(2, 0, 1 << 20);
        let first = entered(&places, ConnectionState::Idle).await;
        let second = entered(&places, ConnectionState::Idle).await;
        first.set_state(ConnectionState::Busy);
        first.set_state(ConnectionState::Idle);
        let third = entered(&places, ConnectionState::Idle).await;
        assert_eq!(left(&[&first, &second, &third]), [false, true, false]);
        assert!(!second.set_state(ConnectionState::Busy), "a request on it comes too late");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_on_the_live_feed_go_first_and_known_callers_stay() {
        let places = places(4, 1, 1 << 20);
        let known = entered(&places, ConnectionState::Idle).await;
        known.known();
        let silent = entered(&places, ConnectionState::Silent).await;
        let listener = entered(&places, ConnectionState::Listening).await;
        let half = entered(&places, ConnectionState::Begun(10)).await;
        let all = [&known, &silent, &listener, &half];
        let one = entered(&places, ConnectionState::Silent).await;
        assert_eq!(left(&all), [false, false, true, false]);
        let two = entered(&places, ConnectionState::Silent).await;
        assert_eq!(left(&all), [false, true, true, false]);
        drop((one, two));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_keep_a_share_so_that_a_caller_can_show_its_credential() {
        let places = places(8, 2, 1 << 20);
        let mut known = Vec::new();
        for _ in 0..20 {
            let place = entered(&places, ConnectionState::Idle).await;
            place.known();
            known.push(place);
        }
        let there = known.iter().filter(|place| !place.0.evict.is_cancelled()).count();
        assert_eq!(there, 8);
        assert!(known[0].0.evict.is_cancelled() && !known[19].0.evict.is_cancelled());
        let fresh = [
            entered(&places, ConnectionState::Silent).await,
            entered(&places, ConnectionState::Silent).await,
        ];
        assert_eq!(left(&[&fresh[0], &fresh[1]]), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn heads_and_bodies_have_no_more_memory_than_they_are_given() {
        let places = places(1000, 0, 20 * SPEAKING);
        let mut all = Vec::new();
        for _ in 0..100 {
            all.push(entered(&places, ConnectionState::Begun(0)).await);
            assert!(places.0.state().bytes <= 20 * SPEAKING);
        }
        let there = all.iter().filter(|place| !place.0.evict.is_cancelled()).count();
        assert!((15..=20).contains(&there), "{there}");
        // One that is being served stays, one that fills its buffers makes the others leave before it leaves itself.
        let served = all.last().unwrap();
        assert!(served.set_state(ConnectionState::Busy));
        let large = entered(&places, ConnectionState::Begun(0)).await;
        assert!(large.set_state(ConnectionState::Begun(8 * SPEAKING)));
        assert!(!large.set_state(ConnectionState::Begun(30 * SPEAKING)));
        assert!(!served.0.evict.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_a_strangers_body_counts_until_the_rest_is_here_and_a_known_callers_does_not() {
        let places = places(1000, 0, 20 * SPEAKING);
        let held = || places.0.state().bytes;
        let stranger = entered(&places, ConnectionState::Busy).await;
        let before = held();
        assert!(stranger.holds_body(Some(5 * SPEAKING)) && held() >= before + 4 * SPEAKING);
        assert!(stranger.holds_body(None));
        assert_eq!(held(), before, "the body is here: it is being served");
        let known = entered(&places, ConnectionState::Busy).await;
        known.known();
        let before = held();
        assert!(known.holds_body(Some(19 * SPEAKING)));
        assert_eq!(held(), before);
        // One that holds all there is makes room itself.
        assert!(!stranger.holds_body(Some(30 * SPEAKING)));
        assert_eq!(left(&[&stranger, &known]), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_say_nothing_leave_memory_for_one_that_speaks() {
        let places = places(10_000, 0, 40 * SILENT);
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(entered(&places, ConnectionState::Silent).await);
            assert!(places.0.state().bytes <= 40 * SILENT);
        }
        assert!(silent[0].0.evict.is_cancelled() && !silent[199].0.evict.is_cancelled());
        let speaks = places.enter().await;
        assert!(
            speaks.set_state(ConnectionState::Shaking) && speaks.set_state(ConnectionState::Idle),
            "it is not closed for them"
        );
        assert!(speaks.set_state(ConnectionState::Busy));
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
        assert!(quick.set_state(ConnectionState::Busy));
        assert!(!next.is_finished());
        slow.set_state(ConnectionState::Silent);
        let _next = timeout(Duration::from_secs(1), next).await.expect("it is let in").unwrap();
        assert_eq!(left(&[&quick, &slow]), [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_only_while_all_have_a_request() {
        let places = places(1, 0, 1 << 20);
        let busy = entered(&places, ConnectionState::Busy).await;
        assert!(timeout(Duration::from_secs(1), places.enter()).await.is_err());
        let waits = tokio::spawn({
            let places = places.clone();
            async move { places.enter().await }
        });
        tokio::task::yield_now().await;
        busy.set_state(ConnectionState::Idle);
        let _next = timeout(Duration::from_secs(1), waits).await.expect("it is let in").unwrap();
        assert_eq!(left(&[&busy]), [true]);
    }
}
