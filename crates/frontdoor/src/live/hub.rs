//! The live feed's part of a front door: what all its connections share. Owns the feed, the tokens of sessions that shutdown waits
//! for, and the bound of subscriptions that read old events from the registry at once.

use std::sync::Arc;
use std::time::Duration;

use model::NodeRecord;
use model::api::Node;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::feed::Feed;
use super::snapshots::Snapshots;
use crate::callers::OwnerNames;
use crate::metrics::LiveMetrics;
use crate::registry_access::circuit::RegistryClient;

/// Subscriptions at once that read old events from the registry.
const MAX_READERS: usize = 4;

/// The feed, and what all its connections share.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) registry: Arc<RegistryClient>,
    pub(super) feed: Feed,
    pub(super) metrics: LiveMetrics,
    /// One token for each connection; shutdown waits for them.
    pub(crate) sessions: TaskTracker,
    pub(super) readers: Semaphore,
    /// What owners are called.
    pub(super) names: OwnerNames,
    /// What recent subscriptions began with.
    pub(super) snapshots: Snapshots,
    /// Between two pings of a connection.
    pub(super) interval: Duration,
    /// Messages that a subscriber may be behind.
    pub(super) buffer: usize,
}

impl Live {
    pub(crate) fn new(
        registry: Arc<RegistryClient>,
        names: OwnerNames,
        interval: Duration,
        buffer: usize,
        metrics: LiveMetrics,
    ) -> Self {
        Self {
            registry,
            feed: Feed::new(),
            metrics,
            sessions: TaskTracker::new(),
            readers: Semaphore::new(MAX_READERS),
            names,
            snapshots: Snapshots::default(),
            interval,
            buffer,
        }
    }

    /// Takes in what is no event (load, used slots), if there is a subscriber.
    pub(crate) fn refresh(&self, nodes: &[NodeRecord]) {
        self.feed.refresh(|| nodes.iter().cloned().map(Node::from).collect());
    }
}
