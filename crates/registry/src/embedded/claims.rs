//! Idempotency records: which claimant works on a key, and the answer once there is one. [`Claim`] draws the states.

use std::collections::HashMap;
use std::time::Duration;

use model::{Timestamp, Timing};
use uuid::Uuid;

use crate::ask::{Claim, IdempotencyKey};

#[derive(Debug, Clone)]
pub(super) struct Claims {
    claim_for: Duration,
    keep_for: Duration,
    records: HashMap<IdempotencyKey, Record>,
}

#[derive(Debug, Clone)]
struct Record {
    fingerprint: Uuid,
    claimant: Uuid,
    answer: Option<String>,
    /// When the claim can be taken over, or the answer is forgotten.
    until: Timestamp,
}

impl Claims {
    pub(super) fn new(timing: &Timing) -> Self {
        Self { claim_for: timing.claim, keep_for: timing.idempotency, records: HashMap::new() }
    }

    pub(super) fn claim(
        &mut self,
        now: Timestamp,
        key: &IdempotencyKey,
        fingerprint: Uuid,
        claimant: Uuid,
    ) -> Claim {
        let until = after(now, self.claim_for);
        if let Some(record) = self.records.get(key) {
            let over = record.until <= now;
            match &record.answer {
                // Redis has a key until its time is past.
                Some(_) if record.until < now => {}
                _ if record.fingerprint != fingerprint => return Claim::Conflict,
                Some(answer) => return Claim::Settled(answer.clone()),
                None if record.claimant != claimant && !over => return Claim::Running,
                None => {}
            }
        }
        self.records.insert(key.clone(), Record { fingerprint, claimant, answer: None, until });
        Claim::Mine
    }

    pub(super) fn settle(
        &mut self,
        now: Timestamp,
        key: &IdempotencyKey,
        claimant: Uuid,
        answer: Option<(&str, Duration)>,
    ) -> bool {
        let Some(record) = self.records.get_mut(key) else { return false };
        // A claimant whose first call had no answer repeats it.
        let repeats = |settled: &String| answer.is_none_or(|(answer, _)| answer == settled);
        if record.claimant != claimant || !record.answer.as_ref().is_none_or(repeats) {
            return false;
        }
        match answer {
            Some((answer, keep)) => {
                record.answer = Some(answer.to_owned());
                record.until = after(now, keep);
            }
            None => {
                self.records.remove(key);
            }
        }
        true
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        // A claim that has lapsed still says which request the key belongs to, for as long as an answer would.
        let keep_for = self.keep_for;
        self.records.retain(|_, record| match record.answer {
            Some(_) => record.until >= now,
            None => after(record.until, keep_for) >= now,
        });
    }
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    Timestamp::from_millis(now.millis().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}
