//! One key, one answer: the first request that claims an `Idempotency-Key` does the work, and every other one gets its answer,
//! through whichever front door it comes.
//!
//! ```text
//!  claim ─┬─ mine ─▶ work ─▶ settle: the answer is kept for the key, or the key is freed ("not now", an outage)
//!         ├─ running (another front door) ─▶ wait for a notification, or a moment ─▶ claim again
//!         ├─ settled ─▶ the kept answer, unless its spawn has ended
//!         └─ conflict ─▶ the key came with another request
//! ```
//!
//! Invariants: a claim is renewed while its work lasts, and dropping it frees the key. An answer belongs to the key from the moment
//! that settling begins, not to the caller.
//!
//! Failure: a spawn whose key cannot be settled is ended, because a claim that lapses would let a second spawn start.

use std::sync::Arc;
use std::time::Duration;

use model::api::{ErrorCode, Problem, SpawnAnswer};
use model::{Exit, NodeId, RequestId, SpawnId, SpawnState, jittered};
use registry::{Claim, IdempotencyKey, RegistryError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};
use uuid::Uuid;

use super::held_slot::HeldSlot;
use super::order::SpawnOrder;
use super::single_flight::{KeyedAnswer, SingleFlight, Waiter};
use crate::metrics::SpawnMetrics;
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::cleanup::{Cleanups, persist};

/// While the registry cannot be asked, settling a key is tried this often.
const SETTLE_AGAIN: Duration = Duration::from_millis(100);
/// An answer that says that there is no spawn is not worth a longer wait for the registry than this.
const SETTLE_FAILURE: Duration = Duration::from_secs(2);
/// A settle that is begun has at least so much time: the work may have taken all that there was.
const FIRST_SETTLE: Duration = Duration::from_millis(500);
/// How often a waiter asks whether the answer is there, woken or not.
const ASK: Duration = Duration::from_millis(100);
/// How long an answer is kept that says "not now". All requests that came at the same time get it; one that comes later with the
/// same key is tried afresh.
const KEEP_NOT_NOW: Duration = Duration::from_secs(1);
/// Bytes of a failed start's log lines in its kept answer: all of what servers say that are not out to fill the registry, since one caller
/// may have very many failures kept. Requests that wait for the same start get all lines.
const KEEP_LOG: usize = 4096;
/// Beyond the longest time that the work itself may take.
const SLACK: Duration = Duration::from_secs(1);

/// An answer as it is kept: the HTTP status and the body.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    status: u16,
    body: serde_json::Value,
}

/// Why a keyed request has no answer of its own.
#[derive(Debug)]
pub(crate) enum KeyError {
    /// The key came with another request before.
    Conflict,
    /// The work for this key took too long, here or in another request.
    StillRunning,
    /// Its answer was kept in a form that this version cannot read.
    Unreadable,
    /// The spawn that the key was answered with has ended: its endpoint may lead to another caller's by now.
    SpawnEnded { node: NodeId, spawn: SpawnId, exit: Box<Exit> },
    /// The registry is away.
    Registry(RegistryError),
}

/// Keeps one answer for each key.
#[derive(Debug)]
pub(crate) struct Idempotency {
    registry: Arc<RegistryClient>,
    cleanups: Cleanups,
    metrics: SpawnMetrics,
    single_flight: SingleFlight,
    /// Changes whenever requests that wait for another front door should ask again.
    wake_ups: watch::Sender<u64>,
    spawn_deadline: Duration,
}

impl Idempotency {
    pub(crate) fn new(
        registry: Arc<RegistryClient>,
        cleanups: Cleanups,
        spawn_deadline: Duration,
        metrics: SpawnMetrics,
    ) -> Self {
        let (single_flight, wake_ups) = (SingleFlight::default(), watch::Sender::new(0));
        Self { registry, cleanups, metrics, single_flight, wake_ups, spawn_deadline }
    }

    /// Wakes the requests that wait for another front door.
    pub(crate) fn wake(&self) {
        self.wake_ups.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Joins the requests with this key for the same thing that are under way here.
    pub(crate) fn join(&self, key: &IdempotencyKey, order: &SpawnOrder) -> Waiter<'_> {
        self.single_flight.join(key, order.fingerprint())
    }

    /// Returns the key's answer: the one that is kept, the one that another request is working on, or that of `work`.
    pub(crate) async fn once<W>(
        &self,
        waiter: &Waiter<'_>,
        key: &IdempotencyKey,
        order: &SpawnOrder,
        request: &RequestId,
        work: impl Fn() -> W,
    ) -> Result<KeyedAnswer, KeyError>
    where
        W: Future<Output = Result<(SpawnAnswer, HeldSlot), Box<Problem>>>,
    {
        let deadline = Instant::now() + order.wait + self.spawn_deadline + SLACK;
        let Ok(mut shared) = timeout_at(deadline, waiter.turn()).await else {
            return Err(KeyError::StillRunning);
        };
        if let Some(answer) = &*shared {
            debug!(requestId = %request, "answer shared");
            self.metrics.replay();
            return Ok(answer.clone());
        }
        let answer = self.lead(key, order, request, deadline, work).await?;
        waiter.forget();
        *shared = Some(answer.clone());
        Ok(answer)
    }

    /// Asks the registry for all requests with the key here.
    async fn lead<W>(
        &self,
        key: &IdempotencyKey,
        order: &SpawnOrder,
        request: &RequestId,
        deadline: Instant,
        work: impl Fn() -> W,
    ) -> Result<KeyedAnswer, KeyError>
    where
        W: Future<Output = Result<(SpawnAnswer, HeldSlot), Box<Problem>>>,
    {
        // A front door of the release before this one compares its own form, so claims are made in that, and the fixed form is only
        // accepted. The next release claims in the fixed form.
        let mut fingerprint = order.legacy_fingerprint();
        let mut fixed = Some(order.fingerprint());
        let mut wake_ups = self.wake_ups.subscribe();
        loop {
            wake_ups.mark_unchanged();
            match self.claim(key, fingerprint).await.map_err(KeyError::Registry)? {
                Taken::Mine(claim) => {
                    // Dropping the work leaves nothing behind.
                    let outcome = tokio::select! {
                        outcome = timeout_at(deadline, work()) => outcome.map_err(|_| KeyError::StillRunning)?,
                        // Another claimant's answer counts. Should it give none, there is only so much time left for one more try.
                        () = claim.renew() => continue,
                    };
                    if let Some(answer) = claim.settle(outcome, deadline).await.map_err(KeyError::Registry)? {
                        return Ok(answer);
                    }
                }
                Taken::Settled(text) => match replay(&text) {
                    Some(answer) => {
                        if let Ok(answer) = &answer {
                            self.still_there(answer).await?;
                        }
                        debug!(requestId = %request, "answer given again");
                        self.metrics.replay();
                        return Ok(answer);
                    }
                    None => return Err(KeyError::Unreadable),
                },
                // A front door of the release after this one may have claimed the key for the same request.
                Taken::Conflict => match fixed.take() {
                    Some(other) => fingerprint = other,
                    None => return Err(KeyError::Conflict),
                },
                Taken::Running if Instant::now() >= deadline => return Err(KeyError::StillRunning),
                Taken::Running => ask_later(&mut wake_ups).await,
            }
        }
    }

    /// Refuses an answer whose spawn is known to have ended. One that the registry does not know counts as there: its agent may
    /// not have reported it yet.
    async fn still_there(&self, answer: &SpawnAnswer) -> Result<(), KeyError> {
        let record = self.registry.spawn(answer.id).await.map_err(KeyError::Registry)?;
        match record.filter(|record| record.state == SpawnState::Exited).and_then(|record| record.exit) {
            Some(exit) => {
                let (node, spawn) = (answer.node.clone(), answer.id);
                Err(KeyError::SpawnEnded { node, spawn, exit: Box::new(exit) })
            }
            None => Ok(()),
        }
    }

    async fn claim(&self, key: &IdempotencyKey, fingerprint: Uuid) -> Result<Taken, RegistryError> {
        let (registry, cleanups, key) = (Arc::clone(&self.registry), self.cleanups.clone(), key.clone());
        let work = async move {
            let claimant = Uuid::now_v7();
            match registry.claim(&key, fingerprint, claimant).await {
                Ok(Claim::Mine) => {
                    Ok(Taken::Mine(KeyClaim { registry, cleanups, key, fingerprint, claimant, open: true }))
                }
                Ok(Claim::Running) => Ok(Taken::Running),
                Ok(Claim::Settled(answer)) => Ok(Taken::Settled(answer)),
                Ok(Claim::Conflict) => Ok(Taken::Conflict),
                Err(error) => Err(error),
            }
        };
        self.cleanups.finish(work).await
    }
}

async fn ask_later(wake_ups: &mut watch::Receiver<u64>) {
    tokio::select! {
        changed = wake_ups.changed() => drop(changed),
        () = sleep(ASK) => {}
    }
}

/// The outcome of claiming a key.
enum Taken {
    Mine(KeyClaim),
    Running,
    Settled(String),
    Conflict,
}

/// A claim on a key. Dropped without an answer it frees the key, so that a waiting request takes over.
#[derive(Debug)]
struct KeyClaim {
    registry: Arc<RegistryClient>,
    cleanups: Cleanups,
    key: IdempotencyKey,
    fingerprint: Uuid,
    claimant: Uuid,
    open: bool,
}

impl KeyClaim {
    /// Keeps the claim alive. Ends only when it was lost.
    async fn renew(&self) {
        let every = (self.registry.timing().claim / 4).min(Duration::from_secs(1));
        loop {
            sleep(every).await;
            match self.registry.claim(&self.key, self.fingerprint, self.claimant).await {
                Ok(Claim::Mine) => {}
                Ok(other) => {
                    let settled = matches!(other, Claim::Settled(_));
                    warn!(settled, "claim on an idempotency key lost");
                    return;
                }
                Err(error) => {
                    debug!(%error, "claim on an idempotency key not renewed");
                }
            }
        }
    }

    /// Keeps the answer for every request with this key. `None` when another claimant's answer counts by now. Once begun
    /// it is seen through: from here on the answer belongs to the key, not to the caller.
    ///
    /// While the registry is away, settling is tried until the deadline. A spawn whose key cannot be settled is ended, and the
    /// error is the answer: a claim that lapses would let a second spawn start for the same key.
    async fn settle(
        mut self,
        outcome: Result<(SpawnAnswer, HeldSlot), Box<Problem>>,
        deadline: Instant,
    ) -> Result<Option<KeyedAnswer>, RegistryError> {
        let cleanups = self.cleanups.clone();
        let work = async move {
            let (answer, held) = match outcome {
                Ok((answer, held)) => (Ok(answer), Some(held)),
                Err(problem) => (Err(problem), None),
            };
            // What could not be kept either, and what says how long to wait from now: dropping the claim frees the key.
            let momentary = [ErrorCode::RegistryUnavailable, ErrorCode::RateLimited, ErrorCode::Internal];
            if answer.as_ref().is_err_and(|problem| momentary.contains(&problem.code)) {
                return Ok(Some(answer));
            }
            let not_now = answer.as_ref().is_err_and(|problem| matches!(problem.status, 429 | 503));
            let keep = if not_now { KEEP_NOT_NOW } else { self.registry.timing().idempotency };
            let end = if held.is_some() { deadline } else { deadline.min(Instant::now() + SETTLE_FAILURE) };
            match self.write(&keepable(&answer), keep, end).await {
                Ok(true) => {
                    if let Some(mut held) = held {
                        held.keep();
                    }
                    Ok(Some(answer))
                }
                Ok(false) => Ok(None),
                // Dropping `held` ends the spawn.
                Err(error) if held.is_some() => {
                    warn!(%error, "spawn ended: its idempotency key could not be settled");
                    Err(error)
                }
                Err(_) => Ok(Some(answer)),
            }
        };
        cleanups.finish(work).await
    }

    /// Whether the claim was still this one's; the error when the registry could not be asked until `end`.
    async fn write(&mut self, answer: &str, keep: Duration, end: Instant) -> Result<bool, RegistryError> {
        loop {
            let settling = self.registry.settle(&self.key, self.claimant, Some((answer, keep)));
            // Whether it was settled after all is not known then; the spawn ends either way.
            let settled = timeout_at(end.max(Instant::now() + FIRST_SETTLE), settling)
                .await
                .unwrap_or_else(|_| Err(RegistryError::late("not settled in time")));
            match settled {
                Ok(mine) => {
                    self.open = false;
                    return Ok(mine);
                }
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => {
                    // A registry that stays away is reported by the call after this.
                    timeout_at(end, self.registry.back()).await.ok();
                    sleep(jittered(SETTLE_AGAIN)).await;
                }
            }
        }
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        if self.open {
            let (registry, key, claimant) = (Arc::clone(&self.registry), self.key.clone(), self.claimant);
            self.cleanups.spawn(async move {
                persist(&registry, "free the idempotency key", || registry.settle(&key, claimant, None))
                    .await;
            });
        }
    }
}

fn keepable(answer: &KeyedAnswer) -> String {
    let kept = match answer {
        Ok(answer) => Kept { status: 200, body: serde_json::to_value(answer).unwrap_or_default() },
        Err(problem) => {
            let problem = Problem { log: problem.log.as_deref().map(last_lines), ..(**problem).clone() };
            Kept { status: problem.status, body: serde_json::to_value(problem).unwrap_or_default() }
        }
    };
    serde_json::to_string(&kept).unwrap_or_default()
}

/// The last lines, as far as they fit into what a kept answer has of them; of a last line that is longer, its beginning.
fn last_lines(log: &[String]) -> Vec<String> {
    let mut left = KEEP_LOG;
    let fit = |line: &&String| {
        let fits = line.len() <= left;
        left = left.saturating_sub(line.len());
        fits
    };
    let mut lines: Vec<String> = log.iter().rev().take_while(fit).cloned().collect();
    if let (true, Some(last)) = (lines.is_empty(), log.last()) {
        let end = (0..=KEEP_LOG).rev().find(|end| last.is_char_boundary(*end));
        lines.push(last[..end.unwrap_or(0)].to_owned());
    }
    lines.reverse();
    lines
}

/// `None` when it cannot be read.
fn replay(text: &str) -> Option<KeyedAnswer> {
    let kept: Kept = serde_json::from_str(text).ok()?;
    if kept.status == 200 {
        return serde_json::from_value(kept.body).ok().map(Ok);
    }
    serde_json::from_value(kept.body).ok().map(|problem| Err(Box::new(problem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_kept_with_the_end_of_its_log_and_all_else() {
        let kept = |log: &[String]| {
            let problem = serde_json::json!({
                "type": "urn:hatchery:problem:spawn-failed", "title": "", "status": 502, "detail": "it ended", "code": "spawn-failed",
                "requestId": "r", "exitCode": 6, "node": "node-a", "log": log,
            });
            let problem: Problem = serde_json::from_value(problem).unwrap();
            let text = keepable(&Err(Box::new(problem)));
            assert!(text.len() < KEEP_LOG + 512, "{text}");
            let problem = replay(&text).unwrap().unwrap_err();
            assert_eq!((problem.exit_code, problem.detail.as_str()), (Some(6), "it ended"));
            problem.log.unwrap()
        };
        let lines: Vec<String> = (0..200).map(|line| format!("{line:050}")).collect();
        assert_eq!(kept(&lines), lines[200 - KEEP_LOG / 50..]);
        assert_eq!(kept(&lines[..3]), lines[..3]);
        assert_eq!(kept(&[]), Vec::<String>::new());
        assert_eq!(kept(&["short".to_owned(), "é".repeat(KEEP_LOG)]), ["é".repeat(KEEP_LOG / 2)]);
    }
}
