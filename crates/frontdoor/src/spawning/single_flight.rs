//! Of the requests that come to this front door with one `Idempotency-Key`, one asks the registry and does the work. The others wait
//! for its answer in this process, and cost the registry nothing.
//!
//! Invariant: a request that comes after the answer asks the registry, because the spawn may have ended meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use model::api::{Problem, SpawnAnswer};
use registry::IdempotencyKey;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};
use uuid::Uuid;

use super::progress::Progress;

/// The outcome of a request with a key.
pub(crate) type KeyedAnswer = Result<SpawnAnswer, Box<Problem>>;

/// The calls under way, by key and by fingerprint of what is asked for.
#[derive(Debug, Default)]
pub(crate) struct SingleFlight(Mutex<HashMap<Id, Weak<Call>>>);

type Id = (IdempotencyKey, Uuid);

/// Requests for the same thing.
#[derive(Debug, Default)]
struct Call {
    /// In the order in which they came: the first holds the lock, and leaves its answer.
    turn: AsyncMutex<Option<KeyedAnswer>>,
    /// How far the one that does the work has come.
    progress: Progress,
}

/// One request; the last to leave drops the call.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    all: &'a SingleFlight,
    id: Id,
    call: Arc<Call>,
}

impl SingleFlight {
    /// Joins the requests that are there already.
    pub(crate) fn join(&self, key: &IdempotencyKey, fingerprint: Uuid) -> Waiter<'_> {
        let id = (key.clone(), fingerprint);
        let mut calls = self.calls();
        let call = calls.entry(id.clone()).or_default();
        let call = call.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *call = Arc::downgrade(&new);
            new
        });
        Waiter { all: self, id, call }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<Id, Weak<Call>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter<'_> {
    /// Resolves with the answer of an earlier request, or with `None` when the work is this one's: what it leaves in the guard is
    /// the answer of those that wait behind it.
    pub(crate) async fn turn(&self) -> AsyncMutexGuard<'_, Option<KeyedAnswer>> {
        self.call.turn.lock().await
    }

    /// How far the request has come that does the work.
    pub(crate) fn progress(&self) -> &Progress {
        &self.call.progress
    }

    /// Requests that come from now on ask the registry: the spawn may end.
    pub(crate) fn forget(&self) {
        let mut calls = self.all.calls();
        if calls.get(&self.id).is_some_and(|call| call.as_ptr() == Arc::as_ptr(&self.call)) {
            calls.remove(&self.id);
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut calls = self.all.calls();
        // Left under the lock, so that of two requests that leave at the same time one is the last.
        drop(std::mem::take(&mut self.call));
        if calls.get(&self.id).is_some_and(|call| call.strong_count() == 0) {
            calls.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::api::ErrorCode;

    use super::*;
    use crate::http::ApiError;

    fn answer() -> KeyedAnswer {
        Err(ApiError::new(ErrorCode::NoCapacity, "all slots are taken").0)
    }

    #[tokio::test]
    async fn one_does_the_work_and_those_who_wait_get_its_answer() {
        let all = SingleFlight::default();
        let key: IdempotencyKey = "k".parse().unwrap();
        let (first, second, other) =
            (all.join(&key, Uuid::nil()), all.join(&key, Uuid::nil()), all.join(&key, Uuid::max()));
        let mut work = first.turn().await;
        assert!(
            second.call.turn.try_lock().is_err() && other.turn().await.is_none(),
            "another request is not held up"
        );
        first.forget();
        *work = Some(answer());
        drop(work);
        assert_eq!(second.turn().await.as_ref().unwrap().as_ref().unwrap_err().detail, "all slots are taken");
        assert!(
            all.join(&key, Uuid::nil()).turn().await.is_none(),
            "who comes after the answer asks the registry"
        );
        drop((first, second, other));
        assert_eq!(all.calls().len(), 0);
    }

    #[tokio::test]
    async fn a_waiter_takes_the_work_over_from_one_that_leaves() {
        let all = SingleFlight::default();
        let key: IdempotencyKey = "k".parse().unwrap();
        let (first, second) = (all.join(&key, Uuid::nil()), all.join(&key, Uuid::nil()));
        drop(first.turn().await);
        drop(first);
        assert!(second.turn().await.is_none());
        assert_eq!(all.calls().len(), 1);
        drop(second);
        assert_eq!(all.calls().len(), 0);
    }
}
