//! The farm as this front door sees it: the registry, the nodes of the last snapshot, and what operators ordered.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Availability, Eligibility, HealthState, NodeRecord};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use registry::Pending;

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

/// Failing nodes that have a series of their own: a farm that fails as a whole must not make thousands.
const MAX_NAMED: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    health: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    eligibility: &'static str,
    availability: &'static str,
    health: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    node: String,
}

/// The farm's nodes, slots and requests on their way, as of the last snapshot. Every front door says the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct FarmMetrics {
    snapshot_nodes: Gauge<i64, AtomicI64>,
    unreachable: Gauge<i64, AtomicI64>,
    up: Family<HealthLabels, Gauge<i64, AtomicI64>>,
    nodes: Family<NodeLabels, Gauge<i64, AtomicI64>>,
    failing: Family<NameLabels, Gauge<i64, AtomicI64>>,
    /// The nodes that have such a series.
    named: Arc<Mutex<BTreeSet<String>>>,
    farm_cause: Gauge<i64, AtomicI64>,
    slots: Gauge<i64, AtomicI64>,
    used: Gauge<i64, AtomicI64>,
    reserved: Gauge<i64, AtomicI64>,
    waiting: Gauge<i64, AtomicI64>,
    events_window: Gauge<f64, AtomicU64>,
}

impl FarmMetrics {
    /// Those that every process of a farm names alike.
    pub(super) fn register_nodes(&self, root: &mut Registry) {
        let help = "Nodes that are up, by health, as of the last snapshot";
        root.register("hatchery_nodes", help, self.up.clone());
        let help = "All nodes, by eligibility, availability and health, as of the last snapshot";
        root.register("hatchery_farm_nodes", help, self.nodes.clone());
        let help = "1 for each failing node, by its name, up to a hundred of them";
        root.register("hatchery_farm_node_failing", help, self.failing.clone());
        root.register("hatchery_farm_slots", "Slots of all nodes that are up", self.slots.clone());
        let help = "Slots of nodes that are up which are reserved or have a spawn";
        root.register("hatchery_farm_slots_used", help, self.used.clone());
        let help = "Slots that are reserved for spawns that no agent has reported yet";
        root.register("hatchery_farm_slots_reserved", help, self.reserved.clone());
        let help = "Requests that wait in line, at any front door";
        root.register("hatchery_farm_waiting", help, self.waiting.clone());
        let help =
            "Whether starts fail alike on every node that some requests may use, as of the last snapshot";
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
        registry.register(
            "unreachable_nodes",
            "Nodes that are up and whose agent this front door cannot reach",
            self.unreachable.clone(),
        );
    }

    pub(crate) fn events_window(&self, window: Duration) {
        self.events_window.set(window.as_secs_f64());
    }

    pub(crate) fn unreachable(&self, nodes: usize) {
        self.unreachable.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    pub(crate) fn snapshot(&self, nodes: usize) {
        self.snapshot_nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// Counts the nodes of the last snapshot.
    pub(crate) fn nodes(&self, nodes: &mut dyn Iterator<Item = &NodeRecord>) {
        let (mut counts, mut failing) = (HashMap::new(), BTreeSet::new());
        let (mut slots, mut used) = (0, 0);
        for node in nodes {
            *counts.entry((node.eligibility, node.availability, node.health.state)).or_insert(0_i64) += 1;
            if node.availability == Availability::Up {
                slots += i64::from(node.description.slots);
                used += i64::from(node.used);
            }
            if node.health.state == HealthState::Failing && failing.len() < MAX_NAMED {
                failing.insert(node.id.to_string());
            }
        }
        self.slots.set(slots);
        self.used.set(used);
        for &health in HealthState::ALL {
            let mut up = 0;
            for &eligibility in Eligibility::ALL {
                for &availability in Availability::ALL {
                    let count = counts.remove(&(eligibility, availability, health)).unwrap_or(0);
                    up += if availability == Availability::Up { count } else { 0 };
                    let labels = NodeLabels {
                        eligibility: eligibility.as_str(),
                        availability: availability.as_str(),
                        health: health.as_str(),
                    };
                    self.nodes.get_or_create(&labels).set(count);
                }
            }
            self.up.get_or_create(&HealthLabels { health: health.as_str() }).set(up);
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        for node in named.difference(&failing) {
            self.failing.remove(&NameLabels { node: node.clone() });
        }
        for node in &failing {
            self.failing.get_or_create(&NameLabels { node: node.clone() }).set(1);
        }
        *named = failing;
    }

    /// Whether starts fail on every node alike.
    pub(crate) fn cause(&self, there_is_one: bool) {
        self.farm_cause.set(i64::from(there_is_one));
    }

    /// Takes in what is under way.
    pub(crate) fn pending(&self, pending: Pending) {
        let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.reserved.set(count(pending.reserved));
        self.waiting.set(count(pending.waiting));
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
        for &eligibility in Eligibility::ALL {
            for agent in ["acknowledged", "silent"] {
                let labels = OperationLabels { eligibility: eligibility.as_str(), agent };
                drop(metrics.0.get_or_create(&labels));
            }
        }
        metrics
    }

    pub(crate) fn count(&self, eligibility: Eligibility, acknowledged: bool) {
        let agent = if acknowledged { "acknowledged" } else { "silent" };
        self.0.get_or_create(&OperationLabels { eligibility: eligibility.as_str(), agent }).inc();
    }
}
