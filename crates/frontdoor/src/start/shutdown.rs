//! The order in which a front door leaves: no new connections, requests finish, what is late is cut, clean-ups are completed, viewers
//! stay up to `--relay-drain`. Each step has a deadline, so it always ends.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::front_door::FrontDoor;

/// How long requests that were cut have to answer their callers.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long clean-ups are waited for, unless the registry is away.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

impl FrontDoor {
    /// Leaves in good order:
    ///
    /// 1. `/readyz` says no, and no new connections are accepted;
    /// 2. requests finish, inside the grace; subscribers of the live feed are closed at once;
    /// 3. requests that have not finished are cut: they leave the line, give back what they hold, and answer their callers;
    /// 4. clean-ups of what they gave back are completed, so that nothing is left to expire that need not be;
    /// 5. viewers stay connected until they leave, up to `--relay-drain`; both ports are free for the next front door;
    /// 6. everything else ends: the probes and metrics last.
    ///
    /// What was late is logged.
    pub async fn shutdown(self) {
        let Self { parts, connections, background, over, .. } = self;
        let (edge, live) = (&parts.edge, &parts.live);
        let (began, grace, stages) = (Instant::now(), edge.config.shutdown_grace, &edge.stages);
        info!(connections = connections.len(), grace_ms = grace.as_millis(), "shutting down");
        stages.leaving.cancel();
        connections.close();
        live.sessions.close();
        let all = async || {
            connections.wait().await;
            live.sessions.wait().await;
        };
        if timeout(grace, all()).await.is_err() {
            let late = edge.metrics.requests.in_flight();
            let feeds = live.sessions.len();
            warn!(late, feeds, connections = connections.len(), "requests not done within the grace are cut");
            stages.cut.cancel();
            if timeout(CUT_TIMEOUT, all()).await.is_err() {
                warn!(connections = connections.len(), "connections closed without an answer");
                stages.closed.cancel();
                all().await;
            }
        }
        let limit = if edge.registry.is_away() { CUT_TIMEOUT } else { CLEANUP_TIMEOUT };
        let undone = parts.cleanups.wait(limit).await;
        if undone > 0 {
            warn!(undone, "clean-ups not done, reservations will expire instead");
        }
        if edge.viewers.len() > 0 {
            info!(
                viewers = edge.viewers.len(),
                "viewers that are connected through here stay until they leave"
            );
            stages.handed_over.cancel();
        }
        edge.viewers.drain().await;
        edge.agents.close(CUT_TIMEOUT).await;
        drop(over);
        background.close();
        if timeout(CUT_TIMEOUT, background.wait()).await.is_err() {
            warn!(tasks = background.len(), "background tasks still running");
        }
        info!(took_ms = began.elapsed().as_millis(), "shut down");
    }
}
