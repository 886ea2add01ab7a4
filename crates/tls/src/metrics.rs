//! The metrics of peers' roles, alike in every role of the farm: peers without a role in their certificate, and those refused, by
//! reason.

use std::sync::atomic::Ordering;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::peers::{Peers, RefusalReason};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    peer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    peer: &'static str,
    reason: &'static str,
}

/// What the peers of this process have shown: `hatchery_tls_peers_without_role_total` and
/// `hatchery_tls_peers_refused_total`.
#[derive(Debug)]
pub struct PeerMetrics {
    without_role: Family<PeerLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
}

impl PeerMetrics {
    /// Metrics in this registry, whose names have no prefix of their own.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { without_role: Family::default(), refused: Family::default() };
        registry.register(
            "hatchery_tls_peers_without_role",
            "Connections whose certificate states no role, by what the peer was expected to be",
            metrics.without_role.clone(),
        );
        registry.register(
            "hatchery_tls_peers_refused",
            "Connections refused for the role of their certificate, by what the peer was expected to be",
            metrics.refused.clone(),
        );
        metrics
    }

    /// Copies the counts of one kind of peers into the metrics.
    pub fn update(&self, peers: &Peers) {
        let peer = peers.kind();
        let total = self.without_role.get_or_create(&PeerLabels { peer });
        total.inner().store(peers.without_role(), Ordering::Relaxed);
        for reason in RefusalReason::ALL {
            let total = self.refused.get_or_create(&RefusalLabels { peer, reason: reason.as_str() });
            total.inner().store(peers.refused(reason), Ordering::Relaxed);
        }
    }
}
