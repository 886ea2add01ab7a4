//! When an event that is not delivered is set aside, so that it holds up nothing after it.
//!
//! Plain data. Two things must be so: the event has failed for long, and the receiver has taken another one meanwhile. A receiver that takes nothing is
//! away or set up wrongly, and then no event is to blame: nothing is set aside, and what waits is delivered once that is mended.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use model::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::post::Failure;

/// An event is refused so often before it is set aside: a receiver that is being replaced may answer anything for a moment.
const MIN_REFUSALS: u32 = 4;
/// What fails in another way (5xx, no answer) is set aside after so many times as long.
const OTHERWISE: u32 = 24;

/// When a receiver took an event last.
#[derive(Debug, Default)]
pub(super) struct LastTaken(Mutex<Option<Instant>>);

impl LastTaken {
    pub(super) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_after(&self, moment: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|taken| taken > moment)
    }
}

/// The failures of one event at this front door.
#[derive(Debug, Default)]
pub(super) struct Failures {
    first: Option<Instant>,
    /// Refusals without another failure between them.
    refusals: u32,
}

impl Failures {
    /// Notes a failure. Returns whether the event is to be set aside, where one that is refused waits for `refused_for`.
    pub(super) fn are_enough(
        &mut self,
        now: Instant,
        failure: &Failure,
        refused_for: Duration,
        taken: &LastTaken,
    ) -> bool {
        let first = *self.first.get_or_insert(now);
        self.refusals = if failure.is_refusal { self.refusals + 1 } else { 0 };
        let long = if self.refusals >= MIN_REFUSALS { refused_for } else { refused_for * OTHERWISE };
        now.duration_since(first) >= long && taken.is_after(first)
    }
}

/// What is posted in the place of an event that was set aside: what it was, without what it said. The record of its spawn has the event.
pub(super) fn notice(body: &[u8], id: &str, why: &str) -> Bytes {
    let event: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut notice = json!({
        "at": Timestamp::now(),
        "kind": "webhook.set-aside",
        "event": {"id": id, "kind": event["kind"]},
        "why": why,
    });
    for name in ["seq", "node", "spawn"] {
        if let Some(value) = event.get(name) {
            notice[name] = value.clone();
        }
    }
    notice.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn failure(is_refusal: bool) -> Failure {
        Failure { why: String::new(), is_refusal }
    }

    /// Whether so many failures over this time are enough.
    fn enough(failures: u32, over: Duration, is_refusal: bool, taken: &LastTaken) -> bool {
        let (mut all, begun) = (Failures::default(), Instant::now());
        let mut last = false;
        for n in 0..failures {
            let now = begun + over * n / (failures - 1).max(1);
            last = all.are_enough(now, &failure(is_refusal), LONG, taken);
        }
        last
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_set_aside_once_it_was_refused_for_long_while_others_were_taken() {
        let taken = LastTaken::default();
        assert!(!enough(9, LONG * 100, true, &taken), "the receiver takes nothing");
        taken.now();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!enough(9, LONG * 100, true, &taken), "it has taken nothing since");
        let taken = LastTaken(Mutex::new(Some(Instant::now() + LONG / 2)));
        assert!(enough(4, LONG, true, &taken));
        assert!(!enough(4, LONG - Duration::from_millis(1), true, &taken), "it is not long");
        assert!(!enough(3, LONG, true, &taken), "it is not often");
        assert!(!enough(100, LONG * OTHERWISE - Duration::from_secs(1), false, &taken), "it may pass");
        assert!(enough(100, LONG * OTHERWISE, false, &taken));
    }

    #[test]
    fn a_notice_says_which_event_it_was_and_not_what_was_in_it() {
        let body = br#"{"seq":7,"at":"2026-01-01T00:00:00.000Z","kind":"spawn.ready","spawn":"s","endpoint":"ws://secret"}"#;
        let notice: Value = serde_json::from_slice(&notice(body, "evt_7", "it answers 422")).unwrap();
        assert_eq!(notice["event"], json!({"id": "evt_7", "kind": "spawn.ready"}));
        assert_eq!(
            (&notice["seq"], &notice["spawn"], &notice["why"]),
            (&7.into(), &"s".into(), &"it answers 422".into())
        );
        assert!(notice.get("endpoint").is_none() && notice.get("node").is_none());
    }
}
