//! The order in which a front door leaves.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::start::FrontDoor;

/// How long requests that were cut have to say so to their callers.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long clean-ups are waited for, unless the registry is away.
const CLEANUPS: Duration = Duration::from_secs(30);

impl FrontDoor {
    /// Leaves in good order:
    ///
    /// 1. `/readyz` says no, and no new connections are accepted;
    /// 2. requests finish, inside the grace, and so do subscribers of the live feed, who are told at once;
    /// 3. those that have not are cut: they leave the line, give back what they hold, and tell their callers;
    /// 4. what they gave back is seen through, so that nothing is left to expire that need not be;
    /// 5. everything else ends: the probes and metrics last.
    ///
    /// Who was late is logged.
    pub async fn shutdown(self) {
        let Self { door, connections, background, over, .. } = self;
        let (began, grace, stages) = (Instant::now(), door.config.shutdown_grace, &door.stages);
        info!(connections = connections.len(), grace = ?grace, "shutting down");
        stages.leaving.cancel();
        connections.close();
        door.live.sessions.close();
        let all = async || {
            connections.wait().await;
            door.live.sessions.wait().await;
        };
        if timeout(grace, all()).await.is_err() {
            let late = door.metrics.in_flight();
            let feeds = door.live.sessions.len();
            warn!(late, feeds, connections = connections.len(), "requests not done within the grace are cut");
            stages.cut.cancel();
            if timeout(LAST_WORDS, all()).await.is_err() {
                warn!(connections = connections.len(), "connections closed without an answer");
                stages.closed.cancel();
                all().await;
            }
        }
        let patience = if door.registry.outage().is_some() { LAST_WORDS } else { CLEANUPS };
        let undone = door.cleanups.wait(patience).await;
        if undone > 0 {
            warn!(undone, "clean-ups not done, reservations will expire instead");
        }
        door.agents.close(LAST_WORDS).await;
        drop(over);
        background.close();
        if timeout(LAST_WORDS, background.wait()).await.is_err() {
            warn!(tasks = background.len(), "background tasks still running");
        }
        info!(took = ?began.elapsed(), "shut down");
    }
}
