//! Viewers that come through this front door, all named `hatchery_frontdoor_relay_…`: sessions and handshakes under way, bytes
//! passed, and why viewers were not connected or were parted from their servers.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use relay::EndedBy;

use super::live_feed::Counted;

/// Upper bounds in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

/// What the relay counts.
#[derive(Debug, Clone)]
pub(crate) struct RelayMetrics {
    viewers: Gauge<i64, AtomicI64>,
    handshakes: Gauge<i64, AtomicI64>,
    bytes: Family<DirectionLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    ended: Family<ReasonLabels, Counter>,
    connect: Histogram,
}

impl RelayMetrics {
    /// Registered under the front door's prefix.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            viewers: Gauge::default(),
            handshakes: Gauge::default(),
            bytes: Family::default(),
            refused: Family::default(),
            ended: Family::default(),
            connect: Histogram::new(BUCKETS),
        };
        registry.register("relay_viewers", "Viewers connected through here", metrics.viewers.clone());
        let help = "Viewers that are connecting through here";
        registry.register("relay_handshakes", help, metrics.handshakes.clone());
        let help = "Bytes between viewers and servers by direction, pings left out";
        registry.register("relay_passed_bytes", help, metrics.bytes.clone());
        let help = "Viewers that were not connected, by reason";
        registry.register("relay_refused", help, metrics.refused.clone());
        let help = "Viewers that are not connected any more, by who ended it";
        registry.register("relay_ended", help, metrics.ended.clone());
        let help = "Time from a viewer's request to its server's 101";
        registry.register("relay_connect_seconds", help, metrics.connect.clone());
        metrics.passed(0, 0);
        for reason in EndedBy::ALL {
            drop(metrics.ended.get_or_create(&ReasonLabels { reason: reason.as_str() }));
        }
        metrics
    }

    pub(crate) fn viewer(&self) -> Counted {
        Counted::new(self.viewers.clone())
    }

    pub(crate) fn handshake(&self) -> Counted {
        Counted::new(self.handshakes.clone())
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.connect.observe(took.as_secs_f64());
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn ended(&self, reason: EndedBy) {
        self.ended.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
    }

    pub(crate) fn passed(&self, up: u64, down: u64) {
        self.bytes.get_or_create(&DirectionLabels { direction: "up" }).inc_by(up);
        self.bytes.get_or_create(&DirectionLabels { direction: "down" }).inc_by(down);
    }
}
