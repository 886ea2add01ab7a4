//! Snapshots of recent subscriptions: subscribers that come at the same time begin with the same one, which is encoded once. What
//! happened since it was made follows it as events.
//!
//! Bound: the snapshots that are being written, however slowly, have [`MAX_KIB`] together. Where slow readers hold all of it, each further
//! snapshot waits for [`HOLD_TIMEOUT`], so that they delay others no longer; a reader that is too slow is disconnected.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::Owner;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::encoded::Encoded;
use super::protocol::Topic;

/// A snapshot after which nothing has happened is good for so long: loads, which are no events, may be so much older.
const GOOD_FOR: Duration = Duration::from_millis(250);
/// One that took long to encode is good for so many times as long, up to the maximum, whatever has happened since.
const TIMES: u32 = 10;
const MAX_GOOD_FOR: Duration = Duration::from_secs(2);
/// Snapshots of a farm may be large: few are kept.
const MAX_KEPT: usize = 16;
/// KiB of all snapshots that are kept or written, and of replays that are written.
const MAX_KIB: u32 = 128 * 1024;

/// How long a snapshot waits for others to be written.
const HOLD_TIMEOUT: Duration = Duration::from_secs(1);

/// The farm as of one event, ready to be sent.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(super) seq: u64,
    pub(super) encoded: Encoded,
    /// How long it took to encode.
    pub(super) took: Duration,
    made: Instant,
}

impl Snapshot {
    pub(super) fn new(seq: u64, encoded: Encoded, took: Duration) -> Self {
        Self { seq, encoded, took, made: Instant::now() }
    }

    /// Whether it was made since then: for the one that asks, not for another one.
    pub(super) fn is_of(&self, began: Instant) -> bool {
        self.made >= began
    }

    /// Whether one that begins now may begin with it. `now`: the last event that happened.
    fn is_good(&self, now: u64) -> bool {
        let age = self.made.elapsed();
        (self.seq == now && age < GOOD_FOR) || age < self.costly()
    }

    fn costly(&self) -> Duration {
        (self.took * TIMES).min(MAX_GOOD_FOR)
    }

    fn is_over(&self) -> bool {
        self.made.elapsed() >= self.costly().max(GOOD_FOR)
    }
}

/// What a snapshot is of. Numbers of events compare within one generation of the view only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) topic: Arc<Topic>,
    pub(super) only: Option<Owner>,
    pub(super) generation: u64,
}

type Kept = Arc<OnceCell<Arc<Snapshot>>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Snapshots {
    kept: Mutex<Vec<(Key, Kept)>>,
    budget: Arc<Semaphore>,
}

impl Default for Snapshots {
    fn default() -> Self {
        let budget = Semaphore::new(usize::try_from(MAX_KIB).unwrap_or(usize::MAX));
        Self { kept: Mutex::default(), budget: Arc::new(budget) }
    }
}

impl Snapshots {
    /// The snapshot of a moment ago that is of a later event than `after`, or the one that `make` makes. Those that ask meanwhile wait
    /// for it. `now`: the last event that happened.
    pub(super) async fn get<E>(
        &self,
        key: Key,
        now: u64,
        after: Option<u64>,
        make: impl Future<Output = Result<Snapshot, E>>,
    ) -> Result<Arc<Snapshot>, E> {
        let cell = self.cell(key, now, after);
        let make = async {
            let mut snapshot = make.await?;
            snapshot.encoded.held = self.hold(snapshot.encoded.len()).await;
            Ok(Arc::new(snapshot))
        };
        cell.get_or_try_init(|| make).await.cloned()
    }

    fn cell(&self, key: Key, now: u64, after: Option<u64>) -> Kept {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being made is of an event that is yet to be known: late enough.
        let is_late = |snapshot: &Arc<Snapshot>| after.is_none_or(|after| snapshot.seq > after);
        kept.retain(|(known, cell)| {
            cell.get().is_none_or(|snapshot| {
                if *known == key { snapshot.is_good(now) && is_late(snapshot) } else { !snapshot.is_over() }
            })
        });
        if let Some((_, cell)) = kept.iter().find(|(known, _)| *known == key) {
            return Arc::clone(cell);
        }
        kept.truncate(MAX_KEPT - 1);
        let cell = Kept::default();
        kept.insert(0, (key, Arc::clone(&cell)));
        cell
    }

    /// Waits until so many bytes may be held, and holds them; for a moment only. What is more than all that there is takes all.
    pub(super) async fn hold(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(MAX_KIB).min(MAX_KIB);
        timeout(HOLD_TIMEOUT, Arc::clone(&self.budget).acquire_many_owned(kib)).await.ok()?.ok()
    }

    /// Drops those that are not good any more.
    pub(super) fn tidy(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, cell)| cell.get().is_none_or(|snapshot| !snapshot.is_over()));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::callers::OwnerNames;
    use crate::live::protocol::TopicSnapshot;

    fn key(topic: &str, only: Option<&Owner>, generation: u64) -> Key {
        Key { topic: Arc::new(topic.parse().unwrap()), only: only.cloned(), generation }
    }

    struct Maker {
        snapshots: Snapshots,
        made: AtomicU64,
        took: Duration,
    }

    impl Maker {
        fn new(took: Duration) -> Self {
            Self { snapshots: Snapshots::default(), made: AtomicU64::new(0), took }
        }

        async fn get(&self, key: Key, now: u64, after: Option<u64>) -> u64 {
            let make = async {
                tokio::task::yield_now().await;
                let seq = self.made.fetch_add(1, Ordering::Relaxed) + 1;
                let encoded = Encoded::of(&TopicSnapshot::Nodes(Vec::new()), &OwnerNames::default());
                Ok::<_, Infallible>(Snapshot::new(seq, encoded, self.took))
            };
            let Ok(snapshot) = self.snapshots.get(key, now, after, make).await;
            snapshot.seq
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_encoded_once_for_all_who_may_hear_the_same() {
        let maker = Maker::new(Duration::ZERO);
        let [ann, bob]: [Owner; 2] = ["key:ann", "key:bob"].map(|name| name.parse().unwrap());
        let crowd = join_all((0..1000).map(|_| maker.get(key("spawns", None, 1), 1, None))).await;
        assert!(crowd.iter().all(|seq| *seq == 1), "one for all that come at the same time");
        for (topic, only, generation, wanted) in [
            ("spawns", Some(&ann), 1, 2),
            ("spawns", Some(&ann), 1, 2),
            ("spawns", Some(&bob), 1, 3),
            ("spawns", None, 1, 1),
            ("spawns", None, 2, 4),
            ("spawns?node=a", None, 1, 5),
            ("nodes", None, 1, 6),
            ("nodes", None, 1, 6),
        ] {
            assert_eq!(
                maker.get(key(topic, only, generation), wanted, None).await,
                wanted,
                "{topic} {only:?}"
            );
        }
        assert_eq!(maker.get(key("nodes", None, 1), 6, Some(6)).await, 7, "events after that one are gone");
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!(maker.get(key("nodes", None, 1), 7, None).await, 8);
        for generation in 3..100 {
            maker.get(key("nodes", None, generation), 0, None).await;
        }
        assert_eq!(maker.snapshots.kept.lock().unwrap().len(), MAX_KEPT);
        tokio::time::advance(GOOD_FOR).await;
        maker.snapshots.tidy();
        let left = maker.snapshots.budget.available_permits();
        assert_eq!(left, usize::try_from(MAX_KIB).unwrap(), "nobody writes any of them");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_took_long_serves_others_after_more_has_happened_and_a_cheap_one_does_not() {
        let [cheap, costly] = [Duration::ZERO, Duration::from_millis(100)].map(Maker::new);
        let spawns = || key("spawns", None, 1);
        for maker in [&cheap, &costly] {
            assert_eq!(maker.get(spawns(), 1, None).await, 1);
        }
        assert_eq!((cheap.get(spawns(), 9, None).await, costly.get(spawns(), 9, None).await), (2, 1));
        tokio::time::advance(costly.took * TIMES).await;
        assert_eq!(costly.get(spawns(), 9, None).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_slowly_slows_others_down_for_a_moment_only() {
        let snapshots = Snapshots::default();
        let most = usize::try_from(MAX_KIB).unwrap() * 1024;
        let held = snapshots.hold(most * 2).await;
        let began = Instant::now();
        assert!(held.is_some() && snapshots.hold(1).await.is_none());
        assert_eq!(began.elapsed(), HOLD_TIMEOUT);
        drop(held);
        assert!(snapshots.hold(1).await.is_some());
    }
}
