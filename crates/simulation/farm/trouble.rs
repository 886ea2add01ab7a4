//! Since when nothing has gone wrong, host by host: some promises hold at once only where nothing does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::network::Host;

/// What stands for the registry's process and data, where [`crate::registry_way::REGISTRY`] is its host in the network.
pub(crate) const REGISTRY_ITSELF: Host = "the registry itself";

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Trouble {
    began: Instant,
    hosts: Mutex<BTreeMap<Host, (u32, Instant)>>,
}

impl Trouble {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), hosts: Mutex::default() }
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<Host, (u32, Instant)>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something goes wrong with these hosts.
    pub(crate) fn begin(&self, troubled: &[Host]) {
        let mut hosts = self.hosts();
        for host in troubled {
            let (count, last) = hosts.entry(host).or_insert((0, self.began));
            (*count, *last) = (*count + 1, Instant::now());
        }
    }

    /// It does not any more.
    pub(crate) fn end(&self, troubled: &[Host]) {
        let mut hosts = self.hosts();
        for host in troubled {
            if let Some((count, last)) = hosts.get_mut(host) {
                (*count, *last) = (count.saturating_sub(1), Instant::now());
            }
        }
    }

    /// How long nothing has gone wrong with any of these hosts.
    pub(crate) fn calm_for(&self, hosts: &[Host]) -> Duration {
        let state = self.hosts();
        let calm = |host: &Host| match state.get(host) {
            Some((0, last)) => last.elapsed(),
            Some(_) => Duration::ZERO,
            None => self.began.elapsed(),
        };
        hosts.iter().map(calm).min().unwrap_or_default()
    }
}
