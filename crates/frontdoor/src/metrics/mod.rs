//! Metrics for operators, all named `hatchery_frontdoor_…` but for what every process or farm has.
//!
//! Each part of a front door counts through a handle of its own (`SpawnMetrics`, `ConnectionMetrics`, …). The handles are cheap
//! clones of what [`Metrics`] has registered; only the edge holds `Metrics` itself, for the answer to `GET /metrics`.

mod callers;
mod connections;
mod farm;
mod hoops;
mod live_feed;
mod process;
mod relay;
mod requests;
mod spawning;
mod webhooks;

use std::fmt;

use prometheus_client::registry::Registry;

pub(crate) use self::callers::{AuthMetrics, CallerRefusals, LimitLabels};
pub(crate) use self::connections::{ClosedReason, ConnectionMetrics};
pub(crate) use self::farm::{FarmMetrics, OperationMetrics, RegistryMetrics};
pub(crate) use self::hoops::{HoopsMetrics, HoopsWay};
pub(crate) use self::live_feed::{Counted, LiveMetrics};
use self::process::ProcessMetrics;
pub(crate) use self::relay::RelayMetrics;
pub(crate) use self::requests::RequestMetrics;
pub(crate) use self::spawning::{AttemptOutcome, CleanupKind, Source, SpawnMetrics, SpawnPhase};
pub(crate) use self::webhooks::{OneWebhook, WebhookMetrics};
use crate::settings::Tls;

/// Every metric of a front door.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    process: ProcessMetrics,
    pub(crate) requests: RequestMetrics,
    pub(crate) spawning: SpawnMetrics,
    pub(crate) backend: RegistryMetrics,
    pub(crate) farm: FarmMetrics,
    pub(crate) operations: OperationMetrics,
    pub(crate) authentication: AuthMetrics,
    pub(crate) caller_refusals: CallerRefusals,
    pub(crate) live: LiveMetrics,
    pub(crate) relay: RelayMetrics,
    pub(crate) hoops: HoopsMetrics,
    pub(crate) connections: ConnectionMetrics,
    pub(crate) webhooks: WebhookMetrics,
}

impl Metrics {
    /// `tls`: the certificates whose expiry is reported.
    pub(crate) fn new(tls: Tls) -> Self {
        let mut root = Registry::default();
        let farm = FarmMetrics::default();
        farm.register_nodes(&mut root);
        let process = ProcessMetrics::register(&mut root, tls);
        let registry = root.sub_registry_with_prefix("hatchery_frontdoor");
        process.register_certificates(registry);
        farm.register_snapshot(registry);
        Self {
            requests: RequestMetrics::register(registry),
            spawning: SpawnMetrics::register(registry),
            backend: RegistryMetrics::register(registry),
            operations: OperationMetrics::register(registry),
            authentication: AuthMetrics::register(registry),
            caller_refusals: callers::register_refusals(registry),
            live: LiveMetrics::register(registry),
            relay: RelayMetrics::register(registry),
            hoops: HoopsMetrics::register(registry),
            connections: ConnectionMetrics::register(registry),
            webhooks: WebhookMetrics::register(registry),
            farm,
            process,
            registry: root,
        }
    }

    /// In the OpenMetrics text format.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        self.process.refresh();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
