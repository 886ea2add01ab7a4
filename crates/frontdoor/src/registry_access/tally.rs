//! What the registry cannot count by itself: refused requests, and how full the farm is. Kept here for a few seconds, then sent together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::api::ErrorCode;
use model::jittered;
use registry::Counts;
use tokio::time::sleep;
use tracing::debug;

use super::circuit::RegistryClient;
use super::snapshot::Snapshot;

/// Between two reports; jittered down to half.
const EVERY: Duration = Duration::from_secs(4);

/// Requests for a spawn that were answered with an error since the last report, by its code.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    fn refused(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, code: ErrorCode) {
        *self.refused().entry(code.as_str()).or_default() += 1;
    }
}

/// Reports for ever. What the registry does not take in an outage is part of a later report, in the minute of that.
pub(crate) async fn report(registry: Arc<RegistryClient>, snapshot: Arc<Snapshot>, tally: Arc<Tally>) {
    loop {
        sleep(jittered(EVERY)).await;
        let counts = Counts { refused: std::mem::take(&mut *tally.refused()), slots: snapshot.slots() };
        if let Err(error) = registry.add_counts(&counts).await {
            debug!(%error, "counts not reported");
            let mut kept = tally.refused();
            for (code, count) in counts.refused {
                *kept.entry(code).or_default() += count;
            }
        }
    }
}
