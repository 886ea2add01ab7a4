//! Since when nothing has gone wrong, part by part: some promises hold at once only where nothing does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::network::Host;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A machine and its processes.
    Machine(Host),
    /// The way between two machines.
    Way(Host, Host),
    /// The network as a whole.
    Network,
    /// What the registry holds, and its process.
    Registry,
}

impl Part {
    /// The way between two machines, in whichever order they are named.
    pub(crate) fn way(one: Host, other: Host) -> Self {
        Self::Way(one.min(other), one.max(other))
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Trouble {
    began: Instant,
    parts: Mutex<BTreeMap<Part, (u32, Instant)>>,
}

impl Trouble {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), parts: Mutex::default() }
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Part, (u32, Instant)>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something goes wrong with these parts.
    pub(crate) fn begin(&self, troubled: &[Part]) {
        let mut parts = self.parts();
        for part in troubled {
            let (count, last) = parts.entry(*part).or_insert((0, self.began));
            (*count, *last) = (*count + 1, Instant::now());
        }
    }

    /// It does not any more.
    pub(crate) fn end(&self, troubled: &[Part]) {
        let mut parts = self.parts();
        for part in troubled {
            if let Some((count, last)) = parts.get_mut(part) {
                (*count, *last) = (count.saturating_sub(1), Instant::now());
            }
        }
    }

    /// How long nothing has gone wrong with any of these parts.
    pub(crate) fn calm_for(&self, parts: &[Part]) -> Duration {
        let state = self.parts();
        let calm = |part: &Part| match state.get(part) {
            Some((0, last)) => last.elapsed(),
            Some(_) => Duration::ZERO,
            None => self.began.elapsed(),
        };
        parts.iter().map(calm).min().unwrap_or_default()
    }

    /// How long nothing at all has gone wrong.
    pub(crate) fn all_calm_for(&self) -> Duration {
        let mut parts: Vec<Part> = self.parts().keys().copied().collect();
        parts.push(Part::Network);
        self.calm_for(&parts)
    }
}
