//! Deliveries to webhooks, all named `hatchery_frontdoor_webhook_…`. The label is scheme, host and port of the receiver.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    webhook: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabels {
    webhook: String,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct WebhookMetrics {
    attempts: Family<AttemptLabels, Counter>,
    gaps: Family<WebhookLabels, Counter>,
    set_aside: Family<WebhookLabels, Counter>,
    lag: Family<WebhookLabels, Gauge<f64, AtomicU64>>,
    holds: Family<WebhookLabels, Gauge<i64, AtomicI64>>,
}

/// The metrics of one webhook.
#[derive(Debug, Clone)]
pub(crate) struct OneWebhook {
    delivered: Counter,
    failed: Counter,
    gaps: Counter,
    set_aside: Counter,
    lag: Gauge<f64, AtomicU64>,
    holds: Gauge<i64, AtomicI64>,
}

impl WebhookMetrics {
    /// Registered under the front door's prefix.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Attempts to deliver an event, by outcome: delivered or failed";
        registry.register("webhook_attempts", help, metrics.attempts.clone());
        let help = "Times that the stream had dropped events that were not delivered yet";
        registry.register("webhook_gaps", help, metrics.gaps.clone());
        let help = "Events that were set aside: the receiver went on refusing them while it took others";
        registry.register("webhook_set_aside", help, metrics.set_aside.clone());
        let help = "Age of the oldest event that was not delivered yet; 0 when there is none, or another front door delivers";
        registry.register("webhook_lag_seconds", help, metrics.lag.clone());
        let help = "1 at the front door that delivers";
        registry.register("webhook_delivers", help, metrics.holds.clone());
        metrics
    }

    /// Those of one webhook, which begin with 0.
    pub(crate) fn of(&self, webhook: &str) -> OneWebhook {
        let labels = WebhookLabels { webhook: webhook.to_owned() };
        let attempts = |outcome| {
            let labels = AttemptLabels { webhook: webhook.to_owned(), outcome };
            self.attempts.get_or_create(&labels).clone()
        };
        OneWebhook {
            delivered: attempts("delivered"),
            failed: attempts("failed"),
            gaps: self.gaps.get_or_create(&labels).clone(),
            set_aside: self.set_aside.get_or_create(&labels).clone(),
            lag: self.lag.get_or_create(&labels).clone(),
            holds: self.holds.get_or_create(&labels).clone(),
        }
    }
}

impl OneWebhook {
    pub(crate) fn delivered(&self) {
        self.delivered.inc();
    }

    pub(crate) fn failed(&self) {
        self.failed.inc();
    }

    pub(crate) fn gap(&self) {
        self.gaps.inc();
    }

    pub(crate) fn set_aside(&self) {
        self.set_aside.inc();
    }

    pub(crate) fn lag(&self, lag: Duration) {
        self.lag.set(lag.as_secs_f64());
    }

    /// The age of the oldest event that was not delivered yet, where this front door delivers.
    pub(crate) fn lag_now(&self) -> Duration {
        Duration::try_from_secs_f64(self.lag.get()).unwrap_or_default()
    }

    /// This front door delivers from now on.
    pub(crate) fn delivers(&self) {
        self.holds.set(1);
    }

    /// This front door does not deliver any more.
    pub(crate) fn delivers_no_more(&self) {
        self.holds.set(0);
    }
}
