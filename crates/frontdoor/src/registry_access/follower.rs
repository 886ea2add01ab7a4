//! One task listens for the registry's nudges, so that those who wait here hear at once when they should ask again.

use std::sync::Arc;
use std::time::Duration;

use registry::RegistryError;
use registry::ask::LONGEST_FOLLOW;
use tracing::debug;

use crate::registry_access::cleanup::Backoff;
use crate::start::door::Door;

/// Runs for ever. Whatever was missed while the registry was away, everybody asks again when it is back.
pub(crate) async fn follow(door: Arc<Door>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut position = None;
    loop {
        match step(&door, &mut position).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                debug!(%error, "nudges not heard");
                position = None;
                // Its own connection may have been all that broke.
                if door.registry.ping().await.is_err() {
                    door.registry.back().await;
                    backoff.reset();
                }
                backoff.sleep().await;
            }
        }
    }
}

async fn step(door: &Door, position: &mut Option<u64>) -> Result<(), RegistryError> {
    let Some(after) = *position else {
        *position = Some(door.registry.position().await?.nudge);
        nudge(door);
        return Ok(());
    };
    let last = door.registry.nudged(after, LONGEST_FOLLOW).await?;
    *position = Some(last);
    if last != after {
        nudge(door);
    }
    Ok(())
}

fn nudge(door: &Door) {
    door.nudges.send_modify(|count| *count = count.wrapping_add(1));
    door.line.nudge();
}
