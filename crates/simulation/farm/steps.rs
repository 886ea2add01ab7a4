//! The log of a run: everything that happened, in order, and a hash of it. Two runs of a seed have the same.

use std::collections::VecDeque;
use std::fmt::Arguments;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Steps that are kept to be shown with a violation.
const KEPT: usize = 60;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Steps {
    began: Instant,
    prints: bool,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    hash: u64,
    count: u64,
    last: VecDeque<String>,
    /// The first promise that was broken.
    violation: Option<String>,
}

impl Steps {
    /// An empty log; call it inside the runtime. `prints`: every step is also written to standard output.
    pub(crate) fn new(prints: bool) -> Self {
        let log = Log { hash: 0xcbf2_9ce4_8422_2325, count: 0, last: VecDeque::new(), violation: None };
        Self { began: Instant::now(), prints, log: Mutex::new(log) }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time has passed: the clocks of the process follow.
    pub(crate) fn tick(&self) {
        simulation::set_elapsed(self.began.elapsed());
    }

    /// Something has happened.
    pub(crate) fn note(&self, what: Arguments<'_>) {
        self.tick();
        let mut log = self.log();
        log.count += 1;
        let line = format!("{:>6} {:>8.3} {what}", log.count, self.began.elapsed().as_secs_f64());
        // FNV-1a, 64 bits: the same on every machine and for ever.
        for byte in line.bytes() {
            log.hash = (log.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.prints {
            println!("{line}");
        }
        if log.last.len() == KEPT {
            log.last.pop_front();
        }
        log.last.push_back(line);
    }

    /// A promise is broken.
    pub(crate) fn violate(&self, why: &str) {
        self.note(format_args!("VIOLATION {why}"));
        self.log().violation.get_or_insert_with(|| why.to_owned());
    }

    /// The first promise that was broken.
    pub(crate) fn violation(&self) -> Option<String> {
        self.log().violation.clone()
    }

    /// The hash of all steps, and their number.
    pub(crate) fn hash(&self) -> (u64, u64) {
        let log = self.log();
        (log.hash, log.count)
    }

    /// The last steps.
    pub(crate) fn last(&self) -> Vec<String> {
        self.log().last.iter().cloned().collect()
    }
}
