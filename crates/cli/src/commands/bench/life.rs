//! One spawn from asking to stopping, measured. What it counts goes to the tally; a call that fails ends this life and no other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::tally::{HAD_ENDED, STOPPED, SharedTally};
use crate::call_error::CallError;
use crate::client::{Client, PreparedSpawn};

/// Pause after a call that reached no front door, so that a dead one is not hammered.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

/// What each life consists of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) client: Client,
    pub(crate) spawn: PreparedSpawn,
    pub(crate) stop: bool,
    /// How long it is kept before that.
    pub(crate) hold: Duration,
}

/// A plan and what came of it so far; cloning shares both.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    plan: Arc<Plan>,
    tally: SharedTally,
    end_hold: CancellationToken,
}

impl Life {
    /// Nothing has been asked for yet.
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan: Arc::new(plan), tally: SharedTally::new(), end_hold: CancellationToken::new() }
    }

    /// What happened so far.
    pub(crate) fn tally(&self) -> SharedTally {
        self.tally.clone()
    }

    /// Spawns that are being held are stopped now.
    pub(crate) fn end_hold(&self) {
        self.end_hold.cancel();
    }

    /// Lives once. Latency counts from `asked`, which is in the past where the schedule could not be kept.
    pub(crate) async fn live(&self, asked: Instant) {
        let Plan { client, spawn, stop, hold } = &*self.plan;
        let outcome = client.spawn(spawn).await;
        self.tally.lock().spawn(outcome.as_ref().map(|_| asked.elapsed()));
        let id = match outcome {
            Ok(answer) => answer.value.id,
            Err(CallError::Unreachable { .. }) => return sleep(UNREACHABLE_PAUSE).await,
            Err(_) => return,
        };
        if !stop {
            return;
        }
        if !hold.is_zero() {
            tokio::select! {
                () = sleep(*hold) => {}
                () = self.end_hold.cancelled() => {}
            }
        }
        let asked = Instant::now();
        let outcome = client.stop(&id.to_string()).await;
        self.tally.lock().stop(
            outcome
                .as_ref()
                .map(|stopped| (if stopped.had_ended { HAD_ENDED } else { STOPPED }, asked.elapsed())),
        );
    }
}
