//! The one task that keeps the index: it reads the farm once, and then what happens on it.
//!
//! ```text
//!  read all living spawns ─▶ follow events ─ events are missing ─▶ pause ─▶ read again
//! ```
//!
//! Failure: while the registry is away the index stays as it was. Readers that want to know what the registry knew a moment ago wait
//! for the task with [`Spawns::catch_up`], for a bounded time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{Heard, NodeId};
use registry::ask::MAX_FOLLOW;
use registry::{Position, RegistryError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::index::{Index, Overlap};
use crate::backoff::Backoff;
use crate::metrics::HoopsMetrics;
use crate::registry_access::circuit::RegistryClient;

/// Nodes whose spawns are read in one go.
const PAGE: usize = 100;
/// How often it is read when spawns last reported, at most.
const HEARD_FOR: Duration = Duration::from_secs(1);
/// How long a reader waits until the index has what the registry has.
const CATCH_UP: Duration = Duration::from_secs(2);

/// When the spawns of each node last reported.
type HeardOf = Arc<HashMap<NodeId, Heard>>;

/// The index, and how far it has come.
#[derive(Debug)]
pub(super) struct Spawns {
    registry: Arc<RegistryClient>,
    /// Never held across an await.
    index: Mutex<Index>,
    seq: watch::Sender<u64>,
    /// When the spawns of each node last reported, and when that was read.
    heard: tokio::sync::Mutex<Option<(Instant, HeardOf)>>,
    metrics: HoopsMetrics,
}

impl Spawns {
    /// Of the spawns of this owner; `None`: of all.
    pub(super) fn new(
        registry: Arc<RegistryClient>,
        only: Option<model::Owner>,
        metrics: HoopsMetrics,
    ) -> Self {
        let index = Mutex::new(Index::new(only));
        Self { registry, index, seq: watch::Sender::new(0), heard: tokio::sync::Mutex::default(), metrics }
    }

    /// The index as it is.
    pub(super) fn now(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the index has what the registry has now: a spawn of a moment ago, also one that another front door started. Gives
    /// up in time, and at once while the registry is away.
    pub(super) async fn catch_up(&self) {
        let caught_up = async {
            let Ok(position) = self.registry.position().await else { return };
            let mut seq = self.seq.subscribe();
            seq.wait_for(|seq| *seq >= position.seen).await.ok();
        };
        if timeout(CATCH_UP, caught_up).await.is_err() {
            debug!("the index of spawns is behind the registry");
        }
    }

    /// When the spawns of each node last reported: as of a moment ago, or longer ago while the registry is away.
    pub(super) async fn heard(&self) -> HeardOf {
        let mut last = self.heard.lock().await;
        if let Some((_, heard)) = last.as_ref().filter(|(read, _)| read.elapsed() < HEARD_FOR) {
            return Arc::clone(heard);
        }
        let heard = match self.registry.nodes().await {
            Ok(nodes) => Arc::new(nodes.into_iter().map(|node| (node.id, node.heard)).collect()),
            Err(_) => last.as_ref().map(|(_, heard)| Arc::clone(heard)).unwrap_or_default(),
        };
        *last = Some((Instant::now(), Arc::clone(&heard)));
        heard
    }

    /// Runs for ever.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut position = None;
        loop {
            let step = match position {
                None => self.load().await.map(Some),
                Some(at) => self.step(at).await,
            };
            match step {
                Ok(at) if at.is_some() => {
                    position = at;
                    backoff.reset();
                }
                Ok(_) => {
                    info!("events are missing: living spawns are read again");
                    position = None;
                    backoff.sleep().await;
                }
                Err(error) => {
                    debug!(%error, "events not heard");
                    if self.registry.ping().await.is_err() {
                        self.registry.back().await;
                        backoff.reset();
                    }
                    backoff.sleep().await;
                }
            }
        }
    }

    /// Reads everything. What happens meanwhile is applied afterwards.
    async fn load(&self) -> Result<Position, RegistryError> {
        let from = self.registry.position().await?;
        let nodes: Vec<NodeId> = self.registry.nodes().await?.into_iter().map(|node| node.id).collect();
        let mut index = self.now().renewed();
        index.seq = from.seq;
        for nodes in nodes.chunks(PAGE) {
            for record in self.registry.living(nodes).await? {
                self.note(index.insert(record));
            }
        }
        self.metrics.overlapping(index.overlapping());
        *self.now() = index;
        self.seq.send_replace(from.seq);
        Ok(from)
    }

    /// `None`: events are missing.
    async fn step(&self, at: Position) -> Result<Option<Position>, RegistryError> {
        let news = self.registry.follow(at, MAX_FOLLOW).await?;
        if news.gap {
            return Ok(None);
        }
        if !news.events.is_empty() {
            let mut overlaps = Vec::new();
            {
                let mut index = self.now();
                overlaps.extend(news.events.iter().filter_map(|event| index.apply(event)));
                self.metrics.overlapping(index.overlapping());
            }
            overlaps.into_iter().for_each(|overlap| self.note(Some(overlap)));
        }
        self.seq.send_replace(news.position.seq);
        Ok(Some(news.position))
    }

    fn note(&self, overlap: Option<Overlap>) {
        if let Some(Overlap { port, nodes: [one, other] }) = overlap {
            warn!(
                port,
                node.id = %one,
                other = %other,
                "two nodes have used the same port: their --ports overlap, so a port does not name a spawn of the farm"
            );
        }
    }
}
