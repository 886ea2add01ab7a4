//! The live feed, all named `hatchery_frontdoor_live_…`: connections and why they ended, subscriptions, messages, the lag of events,
//! and how long snapshots take.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds.
const BUCKETS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// Codes of closes that are counted by themselves, and what the others count as.
const CODES: [&str; 7] = ["1000", "1001", "1005", "1006", "1008", "1013", "other"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    direction: &'static str,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseLabels {
    code: &'static str,
}

/// What the live feed counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveMetrics {
    connections: Gauge<i64, AtomicI64>,
    messages: Family<MessageLabels, Counter>,
    subscriptions: Family<TopicLabels, Gauge>,
    closes: Family<CloseLabels, Counter>,
    encoded: Family<TopicLabels, Counter>,
    lag: Option<Histogram>,
    snapshots: Option<Histogram>,
}

/// A connection, a subscription or a viewer that counts for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    pub(super) fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl LiveMetrics {
    /// Registered under the front door's prefix.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let (lag, snapshots) = (Histogram::new(BUCKETS), Histogram::new(BUCKETS));
        let metrics = Self { lag: Some(lag.clone()), snapshots: Some(snapshots.clone()), ..Self::default() };
        registry.register("live_connections", "Connections to the live feed", metrics.connections.clone());
        let help = "Messages of the live feed by direction and type";
        registry.register("live_messages", help, metrics.messages.clone());
        let help = "Subscriptions to the live feed by kind of topic";
        registry.register("live_subscriptions", help, metrics.subscriptions.clone());
        let help = "Connections to the live feed that ended, by code; 1006 is one without a close frame";
        registry.register("live_closes", help, metrics.closes.clone());
        let help = "Snapshots that were encoded, by kind of topic; one serves all subscriptions that begin at the same time";
        registry.register("live_snapshots_encoded", help, metrics.encoded.clone());
        let help = "From the registry's number of an event to its frame in the subscribers' queues";
        registry.register("live_event_lag_seconds", help, lag);
        let help = "Time to make the first frame of a subscription";
        registry.register("live_snapshot_seconds", help, snapshots);
        for code in CODES {
            drop(metrics.closes.get_or_create(&CloseLabels { code }));
        }
        metrics
    }

    pub(crate) fn connection(&self) -> Counted {
        Counted::new(self.connections.clone())
    }

    pub(crate) fn subscription(&self, topic: &'static str) -> Counted {
        Counted::new(self.subscriptions.get_or_create(&TopicLabels { topic }).clone())
    }

    pub(crate) fn encoded(&self, topic: &'static str) {
        self.encoded.get_or_create(&TopicLabels { topic }).inc();
    }

    pub(crate) fn received(&self, r#type: &'static str) {
        self.messages.get_or_create(&MessageLabels { direction: "in", r#type }).inc();
    }

    pub(crate) fn sent(&self, r#type: &'static str) {
        self.counter_of_sent(r#type).inc();
    }

    /// For what is sent so often that it is not looked up every time.
    pub(crate) fn counter_of_sent(&self, r#type: &'static str) -> Counter<u64, AtomicU64> {
        self.messages.get_or_create(&MessageLabels { direction: "out", r#type }).clone()
    }

    pub(crate) fn closed(&self, code: u16) {
        // Peers may send any number; a metric has few labels.
        let code = CODES.into_iter().find(|known| known.parse() == Ok(code)).unwrap_or("other");
        self.closes.get_or_create(&CloseLabels { code }).inc();
    }

    pub(crate) fn lag(&self, lag: Duration) {
        if let Some(histogram) = &self.lag {
            histogram.observe(lag.as_secs_f64());
        }
    }

    pub(crate) fn snapshot(&self, took: Duration) {
        if let Some(histogram) = &self.snapshots {
            histogram.observe(took.as_secs_f64());
        }
    }
}
