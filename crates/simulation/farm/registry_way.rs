//! The way of one process to the registry: its client's one connection, in order, with the timeouts and the errors of the client for Redis.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use registry::{Outage, OutageKind, Transport, Way};
use tokio::time::{Instant, sleep_until};

use crate::network::{Host, Network, Process};

/// The host of the registry.
pub(crate) const REGISTRY: Host = "registry";
/// The client waits so long for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// No two calls of a connection arrive at once.
const APART: Duration = Duration::from_millis(1);

/// Whether the registry serves at all.
#[derive(Debug, Default)]
pub(crate) struct Availability {
    away: AtomicBool,
}

impl Availability {
    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct RegistryWay {
    network: Arc<Network>,
    process: Process,
    availability: Arc<Availability>,
    /// When the last request arrives: those that follow arrive later.
    last: Mutex<Instant>,
    random: Mutex<fastrand::Rng>,
}

impl RegistryWay {
    pub(crate) fn new(
        network: Arc<Network>,
        process: Process,
        availability: Arc<Availability>,
        seed: u64,
    ) -> Arc<Self> {
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        Arc::new(Self { network, process, availability, last: Mutex::new(Instant::now()), random })
    }

    /// When a request that is sent now arrives: after all before it.
    fn arrival(&self) -> Instant {
        let delay = self.network.delay(self.process.host, REGISTRY);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last + APART).max(Instant::now() + delay);
        *last
    }

    /// How often a request arrives whose connection breaks under it, and else.
    fn copies(&self) -> u32 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if random.u32(..200) == 0 { 2 } else { 1 }
    }

    fn refused() -> Outage {
        Outage::new(OutageKind::ConnectionRefused, "registry: connection refused")
    }

    async fn away(&self) -> Outage {
        // A process that has ended hears nothing, and nobody waits for it.
        if self.process.over.is_cancelled() {
            std::future::pending().await
        }
        Outage::new(OutageKind::NoAnswer, "registry: no answer in time")
    }
}

impl Transport for RegistryWay {
    fn request(&self, _call: &'static str) -> Way<'_, u32> {
        Box::pin(async move {
            let (host, over) = (self.process.host, &self.process.over);
            let arrival = self.arrival();
            if arrival > Instant::now() + ANSWER {
                tokio::time::sleep(ANSWER).await;
                return Err(self.away().await);
            }
            sleep_until(arrival).await;
            if !self.network.carry_within(host, REGISTRY, ANSWER).await || over.is_cancelled() {
                return Err(self.away().await);
            }
            if self.availability.is_away() {
                return Err(Self::refused());
            }
            Ok(self.copies())
        })
    }

    fn answer(&self, _call: &'static str) -> Way<'_, ()> {
        Box::pin(async move {
            let (host, over) = (self.process.host, &self.process.over);
            if self.availability.is_away() {
                return Err(Outage::new(OutageKind::Other, "registry: the connection broke"));
            }
            if !self.network.carry_within(REGISTRY, host, ANSWER).await || over.is_cancelled() {
                return Err(self.away().await);
            }
            Ok(())
        })
    }
}
