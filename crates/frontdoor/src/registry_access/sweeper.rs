//! Has the registry do what time asks for: expire reservations, notice missing heartbeats. Every front door does it, so that it
//! is done while any of them lives.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::circuit::RegistryClient;
use model::jittered;

/// Between two sweeps; jittered down to half.
const EVERY: Duration = Duration::from_millis(600);

/// Runs for ever.
pub(crate) async fn sweep(registry: Arc<RegistryClient>) {
    let timing = registry.timing();
    let every = EVERY.min(timing.stale / 3).min(timing.reservation / 3).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(jittered(every)).await;
        // One step is short. When many nodes went away at once there is more to do than one step does.
        loop {
            match registry.sweep().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    debug!(%error, "registry not swept");
                    break;
                }
            }
        }
    }
}
