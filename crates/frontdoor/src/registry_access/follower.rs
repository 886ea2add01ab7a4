//! One task listens for the registry's notifications and wakes the requests that wait here, so that they ask again at once.
//!
//! Failure: what is missed while the registry is away needs no repair, because every waiter is woken when it is back, and asks on
//! a timer as well.

use std::sync::Arc;
use std::time::Duration;

use registry::RegistryError;
use registry::ask::MAX_FOLLOW;
use tracing::debug;

use super::circuit::RegistryClient;
use crate::backoff::Backoff;

/// Runs for ever. `wake` is called whenever something may have changed for waiting requests.
pub(crate) async fn follow(registry: Arc<RegistryClient>, wake: impl Fn() + Send + Sync) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut position = None;
    loop {
        match step(&registry, &mut position, &wake).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                debug!(%error, "notifications not heard");
                position = None;
                // The follower has a connection of its own, which may be all that broke.
                if registry.ping().await.is_err() {
                    registry.back().await;
                    backoff.reset();
                }
                backoff.sleep().await;
            }
        }
    }
}

async fn step(
    registry: &RegistryClient,
    position: &mut Option<u64>,
    wake: &(impl Fn() + Sync),
) -> Result<(), RegistryError> {
    let Some(after) = *position else {
        *position = Some(registry.position().await?.wakeup);
        wake();
        return Ok(());
    };
    let last = registry.wait_for_wakeup(after, MAX_FOLLOW).await?;
    *position = Some(last);
    if last != after {
        wake();
    }
    Ok(())
}
