//! What callers were refused: for their credential, or for a limit of theirs.

use std::sync::atomic::AtomicI64;

use access::{Access, DenialReason};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The label of a limit that a caller has reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LimitLabels {
    pub(crate) limit: &'static str,
}

/// Every limit of a caller.
pub(crate) const LIMITS: [&str; 7] =
    ["calls-per-second", "calls", "connections", "lists", "live-connections", "subscriptions", "waiting"];

pub(crate) type CallerRefusals = Family<LimitLabels, Counter>;

pub(super) fn register_refusals(registry: &mut Registry) -> CallerRefusals {
    let refusals = CallerRefusals::default();
    let help = "What callers were refused because they had all that they may have, by limit";
    registry.register("callers_refused", help, refusals.clone());
    for limit in LIMITS {
        drop(refusals.get_or_create(&LimitLabels { limit }));
    }
    refusals
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyFileLabels {
    keys: &'static str,
}

/// Credentials that were refused, and files of keys that cannot be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuthMetrics {
    failures: Family<FailureLabels, Counter>,
    key_files: Family<KeyFileLabels, Gauge<i64, AtomicI64>>,
}

impl AuthMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Callers who did not show a good credential, by what was wrong with it";
        registry.register("authentication_failures", help, metrics.failures.clone());
        for reason in DenialReason::ALL {
            drop(metrics.failures.get_or_create(&FailureLabels { reason: reason.as_str() }));
        }
        let help = "Files of keys that cannot be read any more, by whether their keys still count (grace) or are refused";
        registry.register("key_files_unread", help, metrics.key_files.clone());
        metrics
    }

    pub(crate) fn failed(&self, reason: DenialReason) {
        self.failures.get_or_create(&FailureLabels { reason: reason.as_str() }).inc();
    }

    /// Counts the files of keys that cannot be read at the moment.
    pub(crate) fn key_files(&self, access: &Access) {
        let unread = access.unread();
        for refused in [false, true] {
            let files = unread.iter().filter(|file| file.refused == refused).count();
            let keys = if refused { "refused" } else { "grace" };
            let gauge = self.key_files.get_or_create(&KeyFileLabels { keys });
            gauge.set(i64::try_from(files).unwrap_or(i64::MAX));
        }
    }
}
