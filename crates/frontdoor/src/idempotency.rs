//! One key, one answer: whoever claims an `Idempotency-Key` first does the work, everybody else gets what came of it,
//! through whichever front door they ask.

use std::sync::Arc;
use std::time::Duration;

use model::RequestId;
use model::api::{ErrorCode, Problem, SpawnAnswer};
use registry::{Claim, IdempotencyKey, RegistryError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::cleanup::persist;
use crate::door::Door;
use crate::held::Held;
use crate::order::Order;

/// How often a waiter asks whether the answer is there, nudged or not.
const ASK: Duration = Duration::from_millis(100);
/// How long an answer is kept that says "not now". Those who asked at the same time all get it; who comes back later
/// with the same key is tried afresh.
const KEEP_NOT_NOW: Duration = Duration::from_secs(1);
/// Beyond the longest time that the work itself may take.
const SLACK: Duration = Duration::from_secs(1);

/// An answer as it is kept: the HTTP status and the body.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    status: u16,
    body: serde_json::Value,
}

/// What came of a keyed request.
pub(crate) type Answer = Result<SpawnAnswer, Box<Problem>>;

/// Why a keyed request has no answer of its own.
#[derive(Debug)]
pub(crate) enum KeyError {
    /// The key came with another request before.
    Conflict,
    /// The other request with this key took too long.
    StillRunning,
    /// Its answer was kept by a version that wrote it differently.
    Unreadable,
    /// The registry is away.
    Registry(RegistryError),
}

/// Gives the key's answer: the one that is kept, the one somebody else is working on, or that of `work`.
pub(crate) async fn once<W>(
    door: &Arc<Door>,
    key: &IdempotencyKey,
    order: &Order,
    request: &RequestId,
    work: impl Fn() -> W,
) -> Result<Answer, KeyError>
where
    W: Future<Output = Result<(SpawnAnswer, Held), Box<Problem>>>,
{
    let fingerprint = order.fingerprint();
    let deadline = Instant::now() + order.wait + door.config.spawn_deadline + SLACK;
    let mut nudges = door.nudges.subscribe();
    loop {
        nudges.mark_unchanged();
        match ClaimHeld::take(door, key, fingerprint).await.map_err(KeyError::Registry)? {
            Taken::Mine(claim) => {
                let outcome = tokio::select! {
                    outcome = work() => outcome,
                    // Somebody else took over; their answer counts, and dropping the work leaves nothing behind.
                    () = claim.renew() => continue,
                };
                if let Some(answer) = claim.settle(outcome).await {
                    return Ok(answer);
                }
            }
            Taken::Settled(text) => match replay(&text) {
                Some(answer) => {
                    debug!(request.id = %request, "answer given again");
                    door.metrics.replay();
                    return Ok(answer);
                }
                None => return Err(KeyError::Unreadable),
            },
            Taken::Conflict => return Err(KeyError::Conflict),
            Taken::Running if Instant::now() >= deadline => return Err(KeyError::StillRunning),
            Taken::Running => ask_later(&mut nudges).await,
        }
    }
}

async fn ask_later(nudges: &mut watch::Receiver<u64>) {
    tokio::select! {
        changed = nudges.changed() => drop(changed),
        () = sleep(ASK) => {}
    }
}

/// What came of claiming.
enum Taken {
    Mine(ClaimHeld),
    Running,
    Settled(String),
    Conflict,
}

/// A claim on a key. Dropped without an answer it frees the key, so that those who wait take over.
#[derive(Debug)]
struct ClaimHeld {
    door: Arc<Door>,
    key: IdempotencyKey,
    fingerprint: Uuid,
    claimant: Uuid,
    open: bool,
}

impl ClaimHeld {
    async fn take(door: &Arc<Door>, key: &IdempotencyKey, fingerprint: Uuid) -> Result<Taken, RegistryError> {
        let (door, key) = (Arc::clone(door), key.clone());
        let cleanups = door.cleanups.clone();
        let work = async move {
            let claimant = Uuid::now_v7();
            match door.registry.claim(&key, fingerprint, claimant).await {
                Ok(Claim::Mine) => Ok(Taken::Mine(Self { door, key, fingerprint, claimant, open: true })),
                Ok(Claim::Running) => Ok(Taken::Running),
                Ok(Claim::Settled(answer)) => Ok(Taken::Settled(answer)),
                Ok(Claim::Conflict) => Ok(Taken::Conflict),
                Err(error) => Err(error),
            }
        };
        cleanups.finish(work).await
    }

    /// Keeps the claim alive. Ends only when it was lost.
    async fn renew(&self) {
        let every = (self.door.registry.timing().claim / 4).min(Duration::from_secs(1));
        loop {
            sleep(every).await;
            match self.door.registry.claim(&self.key, self.fingerprint, self.claimant).await {
                Ok(Claim::Mine) => {}
                Ok(other) => {
                    warn!(?other, "claim on an idempotency key lost");
                    return;
                }
                Err(error) => {
                    debug!(%error, "claim on an idempotency key not renewed");
                }
            }
        }
    }

    /// Leaves the answer for everybody who asks with this key. `None` when somebody else's counts by now. Once begun it
    /// is seen through: from here on the answer belongs to the key, not to the caller.
    async fn settle(mut self, outcome: Result<(SpawnAnswer, Held), Box<Problem>>) -> Option<Answer> {
        let cleanups = self.door.cleanups.clone();
        let work = async move {
            let (answer, held) = match outcome {
                Ok((answer, held)) => (Ok(answer), Some(held)),
                Err(problem) => (Err(problem), None),
            };
            // What could not be kept either, and what says how long to wait from now: dropping the claim frees the key.
            let momentary = [ErrorCode::RegistryUnavailable, ErrorCode::RateLimited];
            if answer.as_ref().is_err_and(|problem| momentary.contains(&problem.code)) {
                return Some(answer);
            }
            let not_now = answer.as_ref().is_err_and(|problem| matches!(problem.status, 429 | 503));
            let keep = if not_now { KEEP_NOT_NOW } else { self.door.registry.timing().idempotency };
            let settled = self.write(&keepable(&answer), keep).await;
            if settled == Some(false) {
                return None;
            }
            // Settled, or the registry is away: the caller gets the answer, and whoever asks again while the registry
            // does not know it gets the key's claim when it lapses.
            if let Some(mut held) = held {
                held.keep();
            }
            Some(answer)
        };
        cleanups.finish(work).await
    }

    /// `None` when the registry stayed away; then it is tried in the background for a while.
    async fn write(&mut self, answer: &str, keep: Duration) -> Option<bool> {
        const TRY: Duration = Duration::from_secs(2);
        self.open = false;
        let (door, key, claimant, answer) =
            (Arc::clone(&self.door), self.key.clone(), self.claimant, answer.to_owned());
        let settle = async move {
            persist(&door.registry, "settle", || {
                door.registry.settle(&key, claimant, Some((answer.as_str(), keep)))
            })
            .await
        };
        let settle = self.door.cleanups.finish(settle);
        timeout_at(Instant::now() + TRY, settle).await.ok().flatten()
    }
}

impl Drop for ClaimHeld {
    fn drop(&mut self) {
        if self.open {
            let (door, key, claimant) = (Arc::clone(&self.door), self.key.clone(), self.claimant);
            self.door.cleanups.spawn(async move {
                persist(&door.registry, "free the idempotency key", || {
                    door.registry.settle(&key, claimant, None)
                })
                .await;
            });
        }
    }
}

fn keepable(answer: &Answer) -> String {
    let kept = match answer {
        Ok(answer) => Kept { status: 200, body: serde_json::to_value(answer).unwrap_or_default() },
        Err(problem) => {
            Kept { status: problem.status, body: serde_json::to_value(problem).unwrap_or_default() }
        }
    };
    serde_json::to_string(&kept).unwrap_or_default()
}

/// `None` when it cannot be read.
fn replay(text: &str) -> Option<Answer> {
    let kept: Kept = serde_json::from_str(text).ok()?;
    if kept.status == 200 {
        return serde_json::from_value(kept.body).ok().map(Ok);
    }
    serde_json::from_value(kept.body).ok().map(|problem| Err(Box::new(problem)))
}
