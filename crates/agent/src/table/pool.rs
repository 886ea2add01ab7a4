//! What is known of the warm servers of an agent, as data: [`super::warm`] and [`super::claim`] change it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use model::{RendererType, SpawnId};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::entry::Inbox;
use crate::spawn::Facts;
use crate::spawn::body::Body;
use crate::spawn::lifecycle::suspect_after;

/// After the first failure, the next one starts so much later, and twice as much after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// How far a warm server has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WarmStage {
    /// It waits for its turn, or starts.
    Starting,
    /// A request could get it.
    Ready,
    /// It has been silent for too long.
    Suspect,
    /// It is being ended.
    Ending,
}

/// Why a warm server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WarmEnd {
    /// A spawn takes its slot, GPU slot, port or memory.
    Room,
    /// It has been kept for as long as it may.
    Aged,
    /// The node takes no spawns of its renderer: it is closed, another agent has it, starts fail there, or its agent ends.
    Closed,
    /// There are more than are wanted.
    Surplus,
    /// The agent that started it had other settings.
    OtherSettings,
    /// Something has connected to it.
    Used,
}

impl WarmEnd {
    pub(crate) const ALL: [Self; 6] =
        [Self::Room, Self::Aged, Self::Closed, Self::Surplus, Self::OtherSettings, Self::Used];

    /// The word in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Aged => "aged",
            Self::Closed => "closed",
            Self::Surplus => "surplus",
            Self::OtherSettings => "other-settings",
            Self::Used => "used",
        }
    }
}

/// Who gets the process of a server that is claimed.
pub(crate) type Successor = oneshot::Sender<Body>;

/// A warm server, for the task that owns it.
#[derive(Debug)]
pub(crate) struct KeptServer {
    /// Its own: no spawn has it.
    pub(crate) facts: Arc<Facts>,
    pub(crate) notify: Arc<Notify>,
    /// Resolves when a spawn has got it.
    pub(crate) claimed: oneshot::Receiver<Successor>,
}

/// A warm server in the pool.
#[derive(Debug)]
pub(super) struct PoolEntry {
    pub(super) facts: Arc<Facts>,
    pub(super) stage: WarmStage,
    /// Its process is being started.
    pub(super) is_starting: bool,
    /// 0 until its process was started.
    pub(super) pid: u32,
    pub(super) heard: Instant,
    /// When it is old.
    pub(super) old_at: Instant,
    pub(super) inbox: Inbox,
    pub(super) why: Option<WarmEnd>,
    pub(super) notify: Arc<Notify>,
    pub(super) claim: oneshot::Sender<Successor>,
    /// A spawn that waits for its end has these of it.
    pub(super) lent: Option<Lent>,
    /// Cancelled when its process has ended.
    pub(super) gone: CancellationToken,
}

/// What of a warm server's passes to the spawn that it makes room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lent {
    pub(super) port: bool,
    pub(super) user: bool,
    pub(super) gpu: bool,
}

/// When the next server of a renderer may be started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    pub(super) failures: u32,
    pub(super) until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) wanted: BTreeMap<RendererType, u32>,
    pub(super) max_age: Duration,
    ping_interval: Duration,
    pub(super) kept: HashMap<SpawnId, PoolEntry>,
    /// Spawns by the ids of the servers that they have got from the pool.
    pub(super) claimed: HashMap<SpawnId, SpawnId>,
    pub(super) backoff: BTreeMap<RendererType, Backoff>,
    /// Renderers for which starts fail here, as the registry says.
    pub(super) failing: Vec<RendererType>,
    /// Wakes the task that keeps the pool.
    pub(super) changed: Arc<Notify>,
}

impl Pool {
    pub(super) fn new(
        wanted: BTreeMap<RendererType, u32>,
        max_age: Duration,
        ping_interval: Duration,
    ) -> Self {
        Self {
            wanted,
            max_age,
            ping_interval,
            kept: HashMap::new(),
            claimed: HashMap::new(),
            backoff: BTreeMap::new(),
            failing: Vec::new(),
            changed: Arc::new(Notify::new()),
        }
    }

    pub(super) fn wants(&self, renderer: RendererType) -> bool {
        self.wanted.get(&renderer).is_some_and(|count| *count > 0)
    }

    /// Whether a request could get it.
    pub(super) fn is_claimable(&self, entry: &PoolEntry, now: Instant) -> bool {
        entry.stage == WarmStage::Ready
            && entry.inbox.end.is_none()
            && !entry.inbox.disconnect
            && now < entry.old_at
            && now.saturating_duration_since(entry.heard) < suspect_after(self.ping_interval)
    }

    /// Those that make no room for a spawn yet.
    pub(super) fn unlent(&self) -> usize {
        self.kept.values().filter(|entry| entry.lent.is_none()).count()
    }

    pub(super) fn succeeded(&mut self, renderer: RendererType) {
        self.backoff.remove(&renderer);
    }

    /// The oldest first.
    pub(super) fn sorted(&self) -> Vec<&PoolEntry> {
        let mut all: Vec<&PoolEntry> = self.kept.values().collect();
        all.sort_by_key(|entry| entry.facts.started);
        all
    }

    /// One has died by itself: the next one starts later.
    pub(super) fn failed(&mut self, renderer: RendererType, now: Instant) {
        let pause = self.backoff.entry(renderer).or_default();
        let doubled = FIRST_PAUSE.saturating_mul(1 << pause.failures.min(6)).min(MAX_PAUSE);
        pause.failures = pause.failures.saturating_add(1);
        pause.until = Some(now + doubled.mul_f64(0.75 + fastrand::f64() / 4.0));
    }
}
