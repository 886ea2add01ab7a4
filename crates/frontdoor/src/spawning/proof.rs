//! The proof that the server of a probe lives.
//!
//! On a node whose servers ended soon after they were ready, `ready` says little. The caller of a probe is answered once its server has
//! outlived them ([`registry::Reservation::proof`], at most 3 s). A server that ends meanwhile costs the caller time and no spawn: another
//! node is tried within the same request. The registry learns of the end from the agent's report, as of every other one.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::held_slot::HeldSlot;
use crate::agent_client::Ended;

/// The registry is asked so often whether the server lives.
const INTERVAL: Duration = Duration::from_millis(100);
/// Lines of the output of a server that has ended, for the answer.
const LINES: u32 = 20;

/// Waits until the server of a slot that is ready has lived for as long as it must. Returns how it ended if it did not. At most half of
/// what is left of the deadline is spent so. While the registry cannot be asked, `ready` is enough.
pub(super) async fn ended_early(held: &HeldSlot, deadline: Instant) -> Option<Ended> {
    let began = Instant::now();
    let until = began + held.proof().min(deadline.saturating_duration_since(began) / 2);
    let mut next = began;
    while next < until {
        next = until.min(next + INTERVAL);
        sleep_until(next).await;
        let record = held.record().await?;
        if let Some(exit) = record.exit {
            return Some(Ended { exit, log: held.last_lines(LINES).await, was_ready: true });
        }
    }
    None
}
