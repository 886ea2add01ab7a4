//! The server's own settings, and what an operator should change about them. Read with every new connection and once a minute, since
//! operators change them while it runs; a server that does not show them gets no warning.

use std::sync::{Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{InfoDict, cmd};
use tracing::{info, warn};

/// What an operator should change in the server's settings, as of the last look at them.
#[derive(Default)]
pub(super) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the server's settings. A server that does not show them gets no warning.
    pub(super) async fn read(&self, mut connection: MultiplexedConnection) {
        let memory = cmd("INFO").arg("memory").query_async::<InfoDict>(&mut connection).await;
        let Ok(memory) = memory else { return };
        let policy: Option<String> = memory.get("maxmemory_policy");
        self.replace(eviction(memory.get("maxmemory").unwrap_or(0), policy.as_deref()).into_iter().collect());
    }

    /// Logs what is new, once.
    fn replace(&self, warnings: Vec<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == warnings {
            return;
        }
        for warning in &warnings {
            warn!("{warning}");
        }
        if warnings.is_empty() {
            info!("the registry's settings are as they should be");
        }
        *known = warnings;
    }
}

/// A warning of key eviction: a farm's keys are no cache, and evicting them forgets nodes and spawns at random.
pub(super) fn eviction(limit: u64, policy: Option<&str>) -> Option<String> {
    let policy = policy.filter(|policy| limit > 0 && *policy != "noeviction")?;
    Some(format!(
        "Redis evicts keys when its memory is full (maxmemory-policy {policy}), and nodes and spawns with them: \
         set maxmemory-policy to noeviction"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_has_a_limit_and_evicts_is_warned_of() {
        for (limit, policy, warned) in [
            (0, Some("allkeys-lru"), false),
            (1, Some("noeviction"), false),
            (1, None, false),
            (1, Some("allkeys-lru"), true),
            (1, Some("volatile-ttl"), true),
        ] {
            assert_eq!(eviction(limit, policy).is_some(), warned, "{limit} {policy:?}");
        }
    }
}
