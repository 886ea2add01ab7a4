//! Has the registry do what time asks for. Every front door does it, so that it is done while any of them lives.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use crate::registry_access::cleanup::jittered;
use crate::start::door::Door;

/// How often; between half of this and this.
const EVERY: Duration = Duration::from_millis(600);

/// Runs for ever.
pub(crate) async fn sweep(door: Arc<Door>) {
    let timing = door.registry.timing();
    let every = EVERY.min(timing.stale / 3).min(timing.reservation / 3).max(Duration::from_millis(1));
    loop {
        tokio::time::sleep(jittered(every)).await;
        if let Err(error) = door.registry.sweep().await {
            debug!(%error, "registry not swept");
        }
    }
}
