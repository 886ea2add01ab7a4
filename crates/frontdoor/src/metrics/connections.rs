//! Connections to both ports, and why a front door closed some of them. The gauge follows the connections' own life: each is counted
//! when it is taken and again when it is gone.

use std::fmt;
use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a front door closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClosedReason {
    /// Nothing was sent for too long.
    Idle,
    /// A request's head did not arrive in time.
    SlowHead,
    /// Places or memory had run short, and it had no request.
    Shed,
    /// The handshake of TLS failed or took too long.
    Handshake,
    /// Its answers were not read.
    Unread,
}

impl ClosedReason {
    const ALL: [Self; 5] = [Self::Idle, Self::SlowHead, Self::Shed, Self::Handshake, Self::Unread];
}

impl EncodeLabelValue for ClosedReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let word = match self {
            Self::Idle => "idle",
            Self::SlowHead => "slow-head",
            Self::Shed => "shed",
            Self::Handshake => "handshake",
            Self::Unread => "unread",
        };
        word.encode(encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabels {
    reason: ClosedReason,
}

/// How many connections there are, and why others were closed.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionMetrics {
    open: Gauge<i64, AtomicI64>,
    closed: Family<ClosedLabels, Counter>,
}

impl ConnectionMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { open: Gauge::default(), closed: Family::default() };
        registry.register("connections", "Connections to both ports", metrics.open.clone());
        registry.register(
            "connections_closed",
            "Connections closed from here, by reason",
            metrics.closed.clone(),
        );
        for reason in ClosedReason::ALL {
            drop(metrics.closed.get_or_create(&ClosedLabels { reason }));
        }
        for reason in [
            ClosedReason::Idle,
            ClosedReason::SlowHead,
            ClosedReason::Shed,
            ClosedReason::Handshake,
            ClosedReason::Unread,
        ] {
            drop(metrics.closed.get_or_create(&ClosedLabels { reason }));
        }
        metrics
    }

    pub(crate) fn opened(&self) {
        self.open.inc();
    }

    pub(crate) fn gone(&self) {
        self.open.dec();
    }

    pub(crate) fn closed(&self, reason: ClosedReason) {
        self.closed.get_or_create(&ClosedLabels { reason }).inc();
    }
}
