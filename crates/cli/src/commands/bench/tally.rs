//! What happened so far: counts by outcome, and latencies in a histogram of three digits. Shared by all lives; one lock, held for a
//! count.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::call_error::CallError;
use crate::exit::Exit;

/// The outcome of a call that did what it was asked.
pub(crate) const READY: &str = "ready";
/// The outcome of a stop that was accepted.
pub(crate) const STOPPED: &str = "stopped";
/// A stop that came after the end.
pub(crate) const HAD_ENDED: &str = "had-ended";

/// Longer than any call can take; what is slower counts as this.
const MAX_MICROS: u64 = 3_600_000_000;
/// Digits that percentiles keep.
const DIGITS: u8 = 3;

/// Counts and latencies of one kind of call.
#[derive(Debug)]
pub(crate) struct Calls {
    /// Microseconds of the calls that did what they were asked.
    pub(crate) micros: Histogram<u64>,
    /// How many ended how.
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
}

impl Calls {
    fn new() -> Self {
        let micros = Histogram::new_with_bounds(1, MAX_MICROS, DIGITS)
            .unwrap_or_else(|_| unreachable!("the bounds are constants that suit each other"));
        Self { micros, outcomes: BTreeMap::new() }
    }

    /// How many had this outcome.
    pub(crate) fn of(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }

    /// How many have ended.
    pub(crate) fn total(&self) -> u64 {
        self.outcomes.values().sum()
    }

    fn count(&mut self, outcome: &'static str, latency: Option<Duration>) {
        *self.outcomes.entry(outcome).or_default() += 1;
        if let Some(latency) = latency {
            self.micros.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Tally {
    /// `POST /spawn`.
    pub(crate) spawns: Calls,
    /// `DELETE /v1/spawns/{id}`.
    pub(crate) stops: Calls,
    /// Arrivals that were not sent, because too many were in flight.
    pub(crate) missed: u64,
    /// What the failures mean to a script.
    exits: Vec<(Exit, u64)>,
}

impl Tally {
    /// Notes how a spawn call ended.
    pub(crate) fn spawn(&mut self, outcome: Result<Duration, &CallError>) {
        match outcome {
            Ok(latency) => self.spawns.count(READY, Some(latency)),
            Err(error) => {
                self.spawns.count(error.code(), None);
                let exit = error.exit();
                match self.exits.iter_mut().find(|(e, _)| *e == exit) {
                    Some((_, count)) => *count += 1,
                    None => self.exits.push((exit, 1)),
                }
            }
        }
    }

    /// Notes how a stop call ended.
    pub(crate) fn stop(&mut self, outcome: Result<(&'static str, Duration), &CallError>) {
        match outcome {
            Ok((word, latency)) => self.stops.count(word, Some(latency)),
            Err(error) => self.stops.count(error.code(), None),
        }
    }

    /// What the whole run means to a script.
    pub(crate) fn exit(&self) -> Exit {
        if self.spawns.of(READY) > 0 {
            return Exit::Done;
        }
        self.exits.iter().max_by_key(|(_, count)| count).map_or(Exit::Failed, |(exit, _)| *exit)
    }
}

/// A tally that several tasks write to. The lock is never held across an await.
#[derive(Debug, Clone)]
pub(crate) struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    pub(crate) fn new() -> Self {
        let (spawns, stops) = (Calls::new(), Calls::new());
        Self(Arc::new(Mutex::new(Tally { spawns, stops, missed: 0, exits: Vec::new() })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
