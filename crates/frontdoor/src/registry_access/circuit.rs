//! The registry behind a circuit breaker: every call of a front door to the registry goes through [`RegistryClient`].
//!
//! ```text
//!            a call finds the registry away
//!   closed ──────────────────────────────────▶ open: calls fail at once
//!     ▲                                          │ probe, every 200–400 ms; after a relapse with a growing pause
//!     └──────────────────────────────────────────┘ the registry takes a write
//! ```
//!
//! Owns: whether the registry is away, and since when. Both transitions are logged here, once each.
//!
//! Invariants: only a call that began after the last outage ended may open the circuit. A registry that answers and takes no
//! writes is away, because the farm needs both. For [`REFILL`] after an outage or a wipe the registry may lack what it knew.
//!
//! Failure: a registry that is full is swept with each probe, so that records of the past make room for it to come back. An answer that
//! is not understood is counted and returned, and opens nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{
    Audit, Drain, Eligibility, FarmCause, Minute, NodeId, NodeRecord, Owner, SpawnId, SpawnRecord, TicketId,
    Timestamp, Timing, jittered,
};
use registry::{
    Assessment, AuditFilter, AuditPage, Claim, Counts, Cursor, Delivery, Follow, Forecast, Forgotten,
    IdempotencyKey, Located, NodeFilter, NodePage, Outage, Outcomes, Pending, Permit, Position, Registry,
    RegistryError, Reserve, Reserved, Restored, SpawnFilter, SpawnPage, WaitingRequest, WantedPings,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::metrics::RegistryMetrics;

/// Between two probes while the registry is away; jittered down to half.
const PROBE: Duration = Duration::from_millis(400);
/// A registry that is away again so soon after it came back is left alone before the first probe: half as long as [`PROBE`],
/// then twice as long each time, up to [`MAX_PAUSE`].
const RELAPSE: Duration = Duration::from_secs(5);
/// Calls that need the registry work again this soon after it does, whatever happened before.
const MAX_PAUSE: Duration = Duration::from_millis(800);
/// A registry that has just come back may have been wiped. The agents have filled it again after this time.
const REFILL: Duration = Duration::from_secs(3);

/// A check is good for this long.
const RECENT: Duration = Duration::from_secs(1);

/// Since when the circuit is open, and why.
#[derive(Debug)]
struct OpenCircuit {
    /// By this machine's clock, for people.
    since: Timestamp,
    outage: Outage,
    began: Instant,
}

#[derive(Debug, Default)]
struct State {
    open: Option<OpenCircuit>,
    /// When the last outage ended.
    back: Option<Instant>,
    /// Outages in a row that began soon after the one before.
    relapses: u32,
    /// Which registry it is, as far as the snapshot of the farm knows.
    incarnation: Option<Uuid>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct RegistryClient {
    registry: Registry,
    state: watch::Sender<State>,
    /// When it was last known to take writes. Never held across an await.
    checked: Mutex<Option<Instant>>,
    metrics: RegistryMetrics,
}

/// Calls that open the circuit when they find the registry away.
macro_rules! through_circuit {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)+) => {
        impl RegistryClient {
            $(
                pub(crate) async fn $name(&self, $($argument: $type),*) -> Result<$answer, RegistryError> {
                    self.ask(self.registry.$name($($argument),*)).await
                }
            )+
        }
    };
}

through_circuit! {
    learn(outcomes: &Outcomes) -> ();
    farm_cause() -> Option<FarmCause>;
    incarnation() -> Uuid;
    restore_order(node: &NodeId, eligibility: Eligibility, drain: Option<&Drain>, generation: u64) -> Restored;
    ping() -> ();
    now() -> Timestamp;
    reserve(ask: &Reserve) -> Reserved;
    forecast(ask: &Reserve) -> Forecast;
    assess() -> Vec<Assessment>;
    pending() -> Pending;
    release(node: &NodeId, spawn: SpawnId) -> ();
    release_by_id(spawn: SpawnId) -> ();
    abandon(node: &NodeId, spawn: SpawnId) -> ();
    keep_places(tickets: &[TicketId]) -> ();
    leave_line(tickets: &[TicketId]) -> ();
    waiting() -> Vec<WaitingRequest>;
    is_waiting(ticket: TicketId) -> bool;
    permit(owner: &Owner, per_minute: u32) -> Permit;
    sweep() -> bool;
    nodes() -> Vec<NodeRecord>;
    node(node: &NodeId) -> Option<NodeRecord>;
    set_eligibility(node: &NodeId, eligibility: Eligibility, drain: Option<&Drain>, by: Option<&str>) -> Option<u64>;
    forget(node: &NodeId, by: Option<&str>) -> Forgotten;
    spawn(spawn: SpawnId) -> Option<SpawnRecord>;
    locate(spawn: SpawnId) -> Option<Located>;
    living(nodes: &[NodeId]) -> Vec<SpawnRecord>;
    claim(key: &IdempotencyKey, fingerprint: Uuid, claimant: Uuid) -> Claim;
    settle(key: &IdempotencyKey, claimant: Uuid, answer: Option<(&str, Duration)>) -> bool;
    delivery(webhook: Uuid, holder: Uuid, lease: Option<Duration>, cursor: Option<Cursor>) -> Delivery;
    position() -> Position;
    events_window() -> Duration;
    audit(id: Uuid, age: Duration, audit: &Audit) -> ();
    audits(filter: &AuditFilter) -> AuditPage;
    add_counts(counts: &Counts) -> ();
    minutes(minutes: u32) -> Vec<Minute>;
}

impl RegistryClient {
    pub(crate) fn new(registry: Registry, metrics: RegistryMetrics) -> Self {
        metrics.up.set(1);
        Self { registry, state: watch::Sender::default(), checked: Mutex::default(), metrics }
    }

    pub(crate) fn backend(&self) -> &'static str {
        self.registry.backend()
    }

    /// What an operator should change about the registry's server.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.registry.warnings()
    }

    pub(crate) fn timing(&self) -> &Timing {
        self.registry.timing()
    }

    /// Checks that the registry takes writes.
    pub(crate) async fn check(&self) -> Result<(), RegistryError> {
        self.ask(self.registry.check()).await?;
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    /// The same, without a call when the last check is recent: probes of load balancers may come often.
    pub(crate) async fn is_well(&self) -> Result<(), RegistryError> {
        self.is_there()?;
        let checked = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.is_some_and(|checked| checked.elapsed() < RECENT) {
            return Ok(());
        }
        self.check().await
    }

    /// Does not open the circuit: lists have a connection of their own and may be late by themselves.
    pub(crate) async fn nodes_page(&self, filter: &NodeFilter) -> Result<NodePage, RegistryError> {
        self.list(self.registry.nodes_page(filter)).await
    }

    /// Does not open the circuit, for the same reason.
    pub(crate) async fn spawns(&self, filter: &SpawnFilter) -> Result<SpawnPage, RegistryError> {
        self.list(self.registry.spawns(filter)).await
    }

    /// Does not open the circuit: it has a connection of its own, which may be all that broke.
    pub(crate) async fn wait_for_wakeup(&self, after: u64, wait: Duration) -> Result<u64, RegistryError> {
        self.is_there()?;
        self.count(self.registry.wait_for_wakeup(after, wait).await)
    }

    /// Does not open the circuit, for the same reason.
    pub(crate) async fn follow_with_pings(
        &self,
        after: Position,
        wait: Duration,
        wanted: &WantedPings,
    ) -> Result<Follow, RegistryError> {
        self.registry.follow_with_pings(after, wait, wanted).await
    }

    pub(crate) async fn follow(&self, after: Position, wait: Duration) -> Result<Follow, RegistryError> {
        self.is_there()?;
        self.count(self.registry.follow(after, wait).await)
    }

    /// Whether the registry is away, as far as is known.
    pub(crate) fn is_away(&self) -> bool {
        self.state.borrow().open.is_some()
    }

    /// Since when it is away, by this machine's clock.
    pub(crate) fn away_since(&self) -> Option<Timestamp> {
        self.state.borrow().open.as_ref().map(|open| open.since)
    }

    /// Whether it may still lack what it knew before an outage.
    pub(crate) fn refilling(&self) -> bool {
        self.state.borrow().back.is_some_and(|back| back.elapsed() < REFILL)
    }

    /// It was wiped, or replaced by another one: it lacks what it knew.
    pub(crate) fn wiped(&self) {
        self.state.send_modify(|state| state.back = Some(Instant::now()));
    }

    /// Which registry the snapshot of the farm was taken from.
    pub(crate) fn is_of(&self, incarnation: Uuid) {
        self.state.send_modify(|state| state.incarnation = Some(incarnation));
    }

    /// Whether it may lack what lives: asks it who it is unless it was away or wiped a moment ago.
    pub(crate) async fn may_lack(&self) -> Result<bool, RegistryError> {
        if self.refilling() {
            return Ok(true);
        }
        let Some(known) = self.state.borrow().incarnation else { return Ok(false) };
        let is_another = self.incarnation().await? != known;
        if is_another {
            self.wiped();
        }
        Ok(is_another)
    }

    /// Waits until it is not away; does not wait when it is there.
    pub(crate) async fn back(&self) {
        // The sender lives as long as `self`.
        self.state.subscribe().wait_for(|state| state.open.is_none()).await.ok();
    }

    fn is_there(&self) -> Result<(), RegistryError> {
        match &self.state.borrow().open {
            None => Ok(()),
            Some(open) => Err(RegistryError::Away(open.outage.unsent())),
        }
    }

    async fn ask<T>(&self, call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        self.is_there()?;
        let began = Instant::now();
        let answer = self.count(call.await);
        if let Err(RegistryError::Away(outage)) = &answer {
            self.open(began, outage);
        }
        answer
    }

    async fn list<T>(
        &self,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        self.is_there()?;
        self.count(call.await)
    }

    fn count<T>(&self, answer: Result<T, RegistryError>) -> Result<T, RegistryError> {
        if answer.is_err() {
            self.metrics.failures.inc();
        }
        answer
    }

    /// The registry was found to be away by a call that began then.
    fn open(&self, asked: Instant, outage: &Outage) {
        let opened = self.state.send_if_modified(|state| {
            // Calls of the last outage may fail when it is over.
            let news = state.open.is_none() && state.back.is_none_or(|back| back <= asked);
            if news {
                let soon = state.back.is_some_and(|back| back.elapsed() < RELAPSE);
                state.relapses = if soon { state.relapses.saturating_add(1) } else { 0 };
                let (since, began) = (Timestamp::now(), Instant::now());
                state.open = Some(OpenCircuit { since, outage: outage.clone(), began });
            }
            news
        });
        if opened {
            self.metrics.up.set(0);
            warn!(why = %outage, "registry is away: spawns without a key go on from the last snapshot of the farm");
        }
    }

    fn close(&self) {
        let mut open = None;
        self.state.send_modify(|state| {
            open = state.open.take();
            state.back = Some(Instant::now());
        });
        self.metrics.up.set(1);
        if let Some(open) = open {
            info!(after_ms = open.began.elapsed().as_millis(), "registry is back");
        }
    }
}

fn pause(relapses: u32) -> Duration {
    (PROBE / 2).saturating_mul(1 << (relapses.min(8) - 1)).min(MAX_PAUSE)
}

/// Runs for ever: ends outages.
pub(crate) async fn probe(client: Arc<RegistryClient>) {
    let mut state = client.state.subscribe();
    while let Ok(relapses) = state.wait_for(|state| state.open.is_some()).await.map(|state| state.relapses) {
        // Otherwise at once: it may have been no more than one connection that broke.
        if relapses > 0 {
            sleep(jittered(pause(relapses))).await;
        }
        while let Err(error) = client.registry.check().await {
            // A sweep makes room in a server that is full. Nothing else would: no sweep passes an open circuit.
            if error.is_full()
                && let Err(error) = client.registry.sweep().await
            {
                debug!(%error, "a full registry was not swept");
            }
            sleep(jittered(PROBE)).await;
        }
        client.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> RegistryClient {
        RegistryClient::new(Registry::embedded(Timing::FARM), RegistryMetrics::default())
    }

    async fn fails(client: &RegistryClient) {
        let call = async { Err::<(), _>(RegistryError::late("gone")) };
        client.ask(call).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn after_one_call_that_finds_it_away_no_other_is_made_until_it_is_back() {
        let client = client();
        assert!(client.ping().await.is_ok());
        fails(&client).await;
        assert_eq!(client.metrics.up.get(), 0);
        let call = async { panic!("it must not be asked") };
        let answer: Result<(), _> = client.ask(call).await;
        assert!(matches!(answer, Err(error) if error.is_refusal() && error.to_string().ends_with("gone")));
        assert_eq!(client.metrics.failures.get(), 1, "what was not asked did not fail");
        client.close();
        client.back().await;
        assert!(client.ping().await.is_ok() && !client.is_away());
        assert!(client.refilling());
        tokio::time::advance(REFILL).await;
        assert!(!client.refilling());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_of_the_last_outage_that_fails_late_does_not_begin_another() {
        let client = client();
        let late = client.ask(async {
            sleep(Duration::from_secs(1)).await;
            Err::<(), _>(RegistryError::late("late"))
        });
        let outage = async {
            fails(&client).await;
            sleep(Duration::from_millis(10)).await;
            client.close();
        };
        tokio::join!(late, outage).0.unwrap_err();
        assert!(!client.is_away());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_understood_is_no_outage() {
        let client = client();
        let call = async { Err::<(), _>(RegistryError::Unexpected { call: "ping", what: "?".into() }) };
        client.ask(call).await.unwrap_err();
        assert!(!client.is_away());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_late_is_no_outage_and_is_not_made_during_one() {
        let client = client();
        client.list(async { Err::<(), _>(RegistryError::late("late")) }).await.unwrap_err();
        assert!(!client.is_away());
        assert_eq!(client.metrics.failures.get(), 1);
        fails(&client).await;
        client.list::<()>(async { panic!("it must not be asked") }).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_away_again_and_again_is_probed_within_a_second() {
        let client = client();
        for expected in [0, 1, 2, 3, 4, 5, 6] {
            fails(&client).await;
            assert_eq!(client.state.borrow().relapses, expected);
            client.close();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let pauses = [1, 2, 3, 4, u32::MAX].map(|relapses| pause(relapses).as_millis());
        assert_eq!(pauses, [200, 400, 800, 800, 800]);
        tokio::time::advance(RELAPSE).await;
        fails(&client).await;
        assert_eq!(client.state.borrow().relapses, 0);
    }
}
