//! The farm as this front door sees it: the registry, the nodes of the last snapshot, and what operators ordered.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use model::{Eligibility, HealthState};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Whether the registry answers, and which calls to it failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegistryMetrics {
    pub(crate) up: Gauge<i64, AtomicI64>,
    pub(crate) failures: Counter<u64, AtomicU64>,
}

impl RegistryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("registry_up", "Whether the registry answers", metrics.up.clone());
        registry.register("registry_failures", "Calls to the registry that failed", metrics.failures.clone());
        metrics
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    health: &'static str,
}

/// Nodes and their health, as of the last snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct FarmMetrics {
    snapshot_nodes: Gauge<i64, AtomicI64>,
    nodes: Family<HealthLabels, Gauge<i64, AtomicI64>>,
    farm_cause: Gauge<i64, AtomicI64>,
    events_window: Gauge<f64, AtomicU64>,
}

impl FarmMetrics {
    /// Those that every process of a farm names alike.
    pub(super) fn register_nodes(&self, root: &mut Registry) {
        let help = "Nodes that are up, by health, as of the last snapshot";
        root.register("hatchery_nodes", help, self.nodes.clone());
        let help = "Whether starts fail on every node alike, as of the last snapshot";
        root.register("hatchery_farm_cause", help, self.farm_cause.clone());
        let help = "How far back the stream of events goes, in seconds: the age of its oldest event";
        root.register("hatchery_events_window_seconds", help, self.events_window.clone());
    }

    pub(super) fn register_snapshot(&self, registry: &mut Registry) {
        registry.register(
            "snapshot_nodes",
            "Nodes in the last snapshot of the farm",
            self.snapshot_nodes.clone(),
        );
    }

    pub(crate) fn events_window(&self, window: Duration) {
        self.events_window.set(window.as_secs_f64());
    }

    pub(crate) fn snapshot(&self, nodes: usize) {
        self.snapshot_nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// `up`: the health of every node that is up.
    pub(crate) fn health(&self, up: impl Iterator<Item = HealthState>, farm_cause: bool) {
        let up: Vec<HealthState> = up.collect();
        for health in [HealthState::Ok, HealthState::Failing] {
            let count = up.iter().filter(|state| **state == health).count();
            let gauge = self.nodes.get_or_create(&HealthLabels { health: health.as_str() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.farm_cause.set(i64::from(farm_cause));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    eligibility: &'static str,
    agent: &'static str,
}

/// What operators ordered of nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct OperationMetrics(Family<OperationLabels, Counter>);

impl OperationMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Nodes opened, cordoned or drained, by whether the agent confirmed it";
        registry.register("operations", help, metrics.0.clone());
        metrics
    }

    pub(crate) fn count(&self, eligibility: Eligibility, acknowledged: bool) {
        let agent = if acknowledged { "acknowledged" } else { "silent" };
        self.0.get_or_create(&OperationLabels { eligibility: eligibility.as_str(), agent }).inc();
    }
}
