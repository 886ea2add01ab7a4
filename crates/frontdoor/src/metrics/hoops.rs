//! The HOOPS Server interface, all named `hatchery_frontdoor_hoops_…`: spawns by way and status, upgrades that wait, and ports that
//! lead nowhere, by reason.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::live_feed::Counted;

/// How a spawn was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoopsWay {
    /// `POST /service` or `POST /api/spawn`.
    Service,
    Proxy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SpawnLabels {
    way: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// What the interface counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct HoopsMetrics {
    spawns: Family<SpawnLabels, Counter>,
    held: Gauge<i64, AtomicI64>,
    ports_refused: Family<ReasonLabels, Counter>,
    overlapping: Gauge<i64, AtomicI64>,
}

impl HoopsMetrics {
    /// Registered under the front door's prefix.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help =
            "Spawns that were asked for through the HOOPS Server interface, by way and status of the answer";
        registry.register("hoops_spawns", help, metrics.spawns.clone());
        let help = "Upgrades that wait until their spawn is ready";
        registry.register("hoops_held_upgrades", help, metrics.held.clone());
        let help = "Viewers that a port led nowhere, by reason";
        registry.register("hoops_ports_refused", help, metrics.ports_refused.clone());
        let help = "Ports that spawns of several nodes have had: the ranges of their agents overlap";
        registry.register("hoops_overlapping_ports", help, metrics.overlapping.clone());
        for reason in ["off", "unknown", "ambiguous", "not-connected"] {
            drop(metrics.ports_refused.get_or_create(&ReasonLabels { reason }));
        }
        metrics
    }

    pub(crate) fn spawned(&self, way: HoopsWay, status: u16) {
        let way = match way {
            HoopsWay::Service => "service",
            HoopsWay::Proxy => "proxy",
        };
        self.spawns.get_or_create(&SpawnLabels { way, status }).inc();
    }

    pub(crate) fn held(&self) -> Counted {
        Counted::new(self.held.clone())
    }

    pub(crate) fn port_refused(&self, reason: &'static str) {
        self.ports_refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn overlapping(&self, ports: usize) {
        self.overlapping.set(i64::try_from(ports).unwrap_or(i64::MAX));
    }
}
