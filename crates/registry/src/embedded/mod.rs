//! The registry inside one process.
//!
//! [`farm::Farm`] is the whole state as plain data; [`Embedded`] puts it behind a lock, gives it the time, and wakes those
//! who follow. The files are named as the Lua scripts that decide the same:
//!
//! | file | decides | in `redis/lua/` |
//! | --- | --- | --- |
//! | `reserve` | which node gets a spawn, whose turn it is | `demand`, `choice`, `chosen`, `reserve`, `forecast`, and what they rarely need: `quota`, `overtaking`, `probe`, `mended`, `shortage`; `keep_places`, `leave_line`, `line` |
//! | `assess` | what each node has for a spawn | `assess` |
//! | `slots` | when a slot comes back | `release`, `release_by_id`, `abandon`, `slots`, `freed` |
//! | `report`, `identity` | what an agent's report changes, and whether it may | `report`, `reconcile`; `changes`, `applied`; `apply` in both |
//! | `keepalive`, `pings` | whether a heartbeat says what is held, and who hears of pings | `keepalive`, `node_check`, `spawn_check`, `alive`, `supply`; `pings`, `bring_pings` |
//! | `orders` | what an operator's order changes | `order`, `set_eligibility`, `restore_order` |
//! | `sweep` | what time alone changes | `sweep` |
//! | `forget` | what becomes of a node that is not known any more | `forget`, `sweep` |
//! | `health` | what outcomes of starts change | `outcomes`, `learn` |
//! | `claims` | who works on an idempotency key | `claim`, `settle` |
//! | `audit`, `minutes` | what operators ordered, and counts of each minute | `audit`, `count` |
//! | `index`, `stock`, `shelf`, `line`, `owned`, `history` | the indexes and records behind them | `indexes`, `nodes`, `strike`, `records`, `weight`, `unseen`, `ended`, `events`, `streams` |
//!
//! Nothing here fails, and nothing is written to disk: the registry ends with its process. Only a simulation sets it back to an older state.

mod assess;
mod audit;
mod claims;
mod deliveries;
mod farm;
mod forget;
mod health;
mod history;
mod identity;
mod index;
mod keepalive;
mod line;
mod listing;
mod minutes;
mod orders;
mod owned;
mod pings;
mod probes;
mod renderers;
mod report;
mod reserve;
mod shelf;
mod slots;
mod stock;
mod sweep;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{
    Audit, Drain, Eligibility, FarmCause, Minute, NodeId, NodeRecord, Owner, SpawnId, SpawnRecord, TicketId,
    Timestamp, Timing,
};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use self::farm::{Farm, Hold};
use crate::ask::{
    AuditFilter, AuditPage, Claim, Counts, Follow, Forgotten, IdempotencyKey, Located, MAX_FOLLOW, Outcomes,
    Position, Reserve, Reserved, Restored, SpawnFilter, SpawnPage,
};
use crate::delivery::{Cursor, Delivery};
use crate::keepalive::Keepalive;
use crate::node_list::{NodeFilter, NodePage};
use crate::permits::Permit;
use crate::pings::WantedPings;
use crate::report::{AgentReport, Orders};
use crate::verdict::{Assessment, Forecast};
use crate::waiting::{Pending, WaitingRequest};

/// Everything that a registry held at one moment, see [`crate::Registry::copy`].
#[derive(Debug, Clone)]
pub struct RegistryCopy(Farm);

/// A handle to a registry that lives in this process.
#[derive(Debug, Clone)]
pub(crate) struct Embedded(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    timing: Timing,
    /// The machine's time when the registry was made. It goes on with tokio's clock, so that a machine clock that is set
    /// changes nothing.
    born: (Timestamp, Instant),
    /// Held for a few microseconds and never across an await.
    farm: Mutex<Farm>,
    /// The position after the last step, for those who wait for events or wake-ups.
    latest: watch::Sender<Position>,
}

impl Embedded {
    pub(crate) fn new(timing: Timing) -> Self {
        let now = Timestamp::now();
        Self(Arc::new(Shared {
            farm: Mutex::new(Farm::new(timing.clone(), now)),
            timing,
            born: (now, Instant::now()),
            latest: watch::Sender::new(Position::default()),
        }))
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.0.timing
    }

    pub(crate) fn copy(&self) -> RegistryCopy {
        RegistryCopy(self.farm().clone())
    }

    pub(crate) fn set_back(&self, copy: Option<&RegistryCopy>) {
        let timing = self.0.timing.clone();
        self.change(|farm| {
            let now = farm.now;
            *farm = copy.map_or_else(|| Farm::new(timing, now), |copy| copy.0.clone());
            farm.now = now;
        });
    }

    fn farm(&self) -> MutexGuard<'_, Farm> {
        let mut farm = self.0.farm.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, started) = self.0.born;
        let elapsed = started.elapsed();
        farm.now = Timestamp::from_millis(
            epoch.millis().saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)),
        );
        farm
    }

    /// Runs a step that may add events or wake-ups, and publishes the new position if it did.
    fn change<T>(&self, what: impl FnOnce(&mut Farm) -> T) -> T {
        let mut farm = self.farm();
        let result = what(&mut farm);
        let position = farm.position();
        drop(farm);
        self.0.latest.send_if_modified(|seen| {
            let news = *seen != position;
            *seen = position;
            news
        });
        result
    }

    #[expect(clippy::unused_self, reason = "the contract is the same for both backends")]
    pub(crate) fn ping(&self) {}

    #[expect(clippy::unused_self, reason = "the contract is the same for both backends")]
    pub(crate) fn check(&self) {}

    pub(crate) fn learn(&self, outcomes: &Outcomes) {
        self.change(|farm| farm.learn(outcomes));
    }

    pub(crate) fn farm_cause(&self) -> Option<FarmCause> {
        self.farm().farm_cause()
    }

    pub(crate) fn incarnation(&self) -> Uuid {
        self.farm().incarnation
    }

    pub(crate) fn restore_order(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        generation: u64,
    ) -> Restored {
        self.change(|farm| farm.restore_order(node, eligibility, drain, generation))
    }

    pub(crate) fn reserve(&self, ask: &Reserve) -> Reserved {
        self.change(|farm| farm.reserve(ask))
    }

    pub(crate) fn forecast(&self, ask: &Reserve) -> Forecast {
        self.change(|farm| farm.forecast(ask))
    }

    pub(crate) fn assess(&self) -> Vec<Assessment> {
        self.change(Farm::assess)
    }

    pub(crate) fn release(&self, node: &NodeId, spawn: SpawnId) {
        self.change(|farm| farm.release(node, spawn));
    }

    pub(crate) fn release_by_id(&self, spawn: SpawnId) {
        self.change(|farm| farm.release_by_id(spawn));
    }

    pub(crate) fn abandon(&self, node: &NodeId, spawn: SpawnId) {
        self.change(|farm| farm.abandon(node, spawn));
    }

    pub(crate) fn keep_places(&self, tickets: &[TicketId]) {
        self.change(|farm| farm.keep_places(tickets));
    }

    pub(crate) fn leave_line(&self, tickets: &[TicketId]) {
        self.change(|farm| farm.leave_line(tickets));
    }

    pub(crate) fn waiting(&self) -> Vec<WaitingRequest> {
        self.farm().waiting()
    }

    pub(crate) fn is_waiting(&self, ticket: TicketId) -> bool {
        self.farm().line.is_in(ticket)
    }

    pub(crate) fn pending(&self) -> Pending {
        let farm = self.farm();
        let held = farm.nodes.values().flat_map(|node| node.held.values());
        let reserved = held.filter(|held| held.hold == Hold::Reserved).count();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Pending { reserved: count(reserved), waiting: count(farm.line.len()) }
    }

    pub(crate) fn permit(&self, owner: &Owner, per_minute: u32) -> Permit {
        let mut farm = self.farm();
        let now = Duration::from_millis(farm.now.millis());
        farm.permits.permit(owner, per_minute, now)
    }

    pub(crate) fn report(&self, report: &AgentReport) -> Orders {
        self.change(|farm| farm.report(report))
    }

    pub(crate) fn keepalive(&self, keepalive: &Keepalive) -> Orders {
        self.change(|farm| farm.keepalive(keepalive))
    }

    pub(crate) fn sweep(&self) -> bool {
        self.change(Farm::sweep)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.farm().now
    }

    pub(crate) fn nodes(&self) -> Vec<NodeRecord> {
        self.farm().nodes()
    }

    pub(crate) fn nodes_page(&self, filter: &NodeFilter) -> NodePage {
        self.farm().nodes_page(filter)
    }

    pub(crate) fn node(&self, node: &NodeId) -> Option<NodeRecord> {
        self.farm().node(node)
    }

    pub(crate) fn set_eligibility(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        by: Option<&str>,
    ) -> Option<u64> {
        self.change(|farm| farm.set_eligibility(node, eligibility, drain, by))
    }

    pub(crate) fn forget(&self, node: &NodeId, by: Option<&str>) -> Forgotten {
        self.change(|farm| farm.forget(node, by))
    }

    pub(crate) fn spawns(&self, filter: &SpawnFilter) -> SpawnPage {
        let farm = self.farm();
        let page = farm.history.page(filter);
        SpawnPage { spawns: page.spawns.into_iter().map(|record| farm.heard_of(record)).collect(), ..page }
    }

    pub(crate) fn spawn(&self, spawn: SpawnId) -> Option<SpawnRecord> {
        let farm = self.farm();
        farm.history.spawn(spawn).map(|record| farm.heard_of(record))
    }

    pub(crate) fn locate(&self, spawn: SpawnId) -> Option<Located> {
        let mut farm = self.farm();
        let spawn = farm.heard_of(farm.history.spawn(spawn)?);
        let advertise = farm.node(&spawn.node).map(|node| node.description.advertise);
        Some(Located { spawn, advertise })
    }

    pub(crate) fn living(&self, nodes: &[NodeId]) -> Vec<SpawnRecord> {
        self.farm().living(nodes)
    }

    pub(crate) fn claim(&self, key: &IdempotencyKey, fingerprint: Uuid, claimant: Uuid) -> Claim {
        self.change(|farm| farm.claims.claim(farm.now, key, fingerprint, claimant))
    }

    pub(crate) fn settle(
        &self,
        key: &IdempotencyKey,
        claimant: Uuid,
        answer: Option<(&str, Duration)>,
    ) -> bool {
        self.change(|farm| {
            let mine = farm.claims.settle(farm.now, key, claimant, answer);
            farm.wake();
            mine
        })
    }

    pub(crate) fn audit(&self, id: Uuid, age: Duration, audit: &Audit) {
        let mut farm = self.farm();
        let now = farm.now;
        farm.audits.add(now, id, age, audit);
    }

    pub(crate) fn audits(&self, filter: &AuditFilter) -> AuditPage {
        self.farm().audits.page(filter)
    }

    pub(crate) fn add_counts(&self, counts: &Counts) {
        let mut farm = self.farm();
        let now = farm.now;
        farm.minutes.count(now, counts);
    }

    pub(crate) fn minutes(&self, minutes: u32) -> Vec<Minute> {
        let farm = self.farm();
        farm.minutes.last(farm.now, minutes)
    }

    pub(crate) fn delivery(
        &self,
        webhook: Uuid,
        holder: Uuid,
        lease: Option<Duration>,
        cursor: Option<Cursor>,
    ) -> Delivery {
        let mut farm = self.farm();
        let (now, until) = (farm.now, lease.map(|lease| farm.after(lease)));
        farm.deliveries.hold(now, webhook, holder, until, cursor)
    }

    pub(crate) fn position(&self) -> Position {
        self.farm().position()
    }

    pub(crate) fn events_window(&self) -> Duration {
        let farm = self.farm();
        farm.history
            .first()
            .map_or(Duration::ZERO, |first| farm.now.since(Timestamp::from_millis(first / 1000)))
    }

    pub(crate) async fn follow(
        &self,
        after: Position,
        wait: Duration,
        pings: Option<&WantedPings>,
    ) -> Follow {
        let mut latest = self.0.latest.subscribe();
        let deadline = Instant::now() + wait.min(MAX_FOLLOW);
        loop {
            latest.mark_unchanged();
            let news = self.farm().follow(after, pings);
            if !news.events.is_empty() || news.woken || news.gap {
                return news;
            }
            // The sender lives as long as `self`, so the only other outcome is the deadline.
            if tokio::time::timeout_at(deadline, latest.changed()).await.is_err() {
                return news;
            }
        }
    }

    pub(crate) async fn wait_for_wakeup(&self, after: u64, wait: Duration) -> u64 {
        let mut latest = self.0.latest.subscribe();
        let news = latest.wait_for(|position| position.wakeup != after);
        // The sender lives as long as `self`, so the only other outcome is the deadline.
        match tokio::time::timeout(wait.min(MAX_FOLLOW), news).await {
            Ok(Ok(position)) => position.wakeup,
            Ok(Err(_)) | Err(_) => after,
        }
    }
}
