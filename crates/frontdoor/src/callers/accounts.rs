//! Accounts of callers: what each caller takes of this front door, and whether it may take more.
//!
//! Owns: one [`Account`] for each caller, in this process alone. A caller at its limit costs the registry nothing.
//!
//! Invariants: what is taken is a [`Share`], which gives it back when it is dropped. An account is dropped once no share of it is
//! held and it has nothing to remember.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::Owner;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::rate::Rate;
use crate::metrics::{CallerRefusals, LimitLabels};
use crate::settings::Limits;

/// Accounts without shares and memory are dropped when there are more than this.
const CROWD: usize = 1024;
/// How far a caller may run ahead of its rate of calls.
const AHEAD: Duration = Duration::from_secs(2);
/// All connections of a caller together may use one part in this many of a core's time for beginning subscriptions.
const BEGINNINGS: u32 = 10;
/// Time of beginnings that may be used at once; enough for two thousand subscriptions.
const BEGINNINGS_AHEAD: Duration = Duration::from_secs(20);
/// All lists of a caller together may use one part in this many of the registry's time.
const LISTS: u32 = 5;
/// The registry's time for a record that is looked at.
const LOOK: Duration = Duration::from_micros(10);
/// Time of lists that may be used at once; enough for two hundred thousand records.
const LISTS_AHEAD: Duration = Duration::from_secs(10);
/// The longest wait before the next subscription or list, however expensive the last ones were.
const MAX_REST: Duration = Duration::from_secs(5);
/// How long the registry's answer that a caller is over its quota is remembered.
const OVER_QUOTA: Duration = Duration::from_millis(100);

/// The identity that limits are counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum AccountHolder {
    /// The owner in a credential.
    Owner(Owner),
    /// An address, or a network where one host has a whole one.
    Peer(IpAddr),
}

impl AccountHolder {
    /// The caller at this address.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Peer(match address.to_canonical() {
            // A host may choose any address of its /64.
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What a caller can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShareKind {
    /// A call under way.
    Call,
    /// A connection that counts as its own.
    Connection,
    Live,
    Subscription,
    /// A place in line.
    Waiting,
}

/// A limit of the caller that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitExceeded {
    /// It has as many of these as it may have.
    TooMany { kind: ShareKind, max: usize },
    /// Its list has no turn in time.
    NoTurn { wait: Option<Duration> },
    /// It calls faster than it may.
    TooFast { per_second: NonZeroU32, wait: Duration },
}

/// One unit that a caller has taken; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    account: Arc<Account>,
    kind: ShareKind,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.account.taken[self.kind as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl LimitExceeded {
    fn limit(&self) -> &'static str {
        match self {
            Self::TooFast { .. } => "calls-per-second",
            Self::NoTurn { .. } => "lists",
            Self::TooMany { kind: ShareKind::Call, .. } => "calls",
            Self::TooMany { kind: ShareKind::Connection, .. } => "connections",
            Self::TooMany { kind: ShareKind::Live, .. } => "live-connections",
            Self::TooMany { kind: ShareKind::Subscription, .. } => "subscriptions",
            Self::TooMany { kind: ShareKind::Waiting, .. } => "waiting",
        }
    }
}

#[derive(Debug, Default)]
struct Memory {
    calls: Rate,
    beginnings: Rate,
    lists: Rate,
    /// Until when the registry grants no start at this rate.
    too_soon: Option<(NonZeroU32, Instant)>,
    /// Until when the registry's answer is believed that the owner has as many as this quota or more.
    over_quota: Option<(u32, Instant)>,
}

/// What one caller takes at this front door, and its limits.
#[derive(Debug)]
pub(crate) struct Account {
    limits: Arc<Limits>,
    refusals: CallerRefusals,
    taken: [AtomicUsize; 5],
    /// Held by the one connection that reads old events from the registry for this caller.
    pub(crate) reader: Semaphore,
    /// Held by the one long list that is read for this caller.
    pub(crate) lister: Semaphore,
    /// Never held across an await.
    memory: Mutex<Memory>,
}

impl Account {
    fn new(limits: Arc<Limits>, refusals: CallerRefusals) -> Self {
        let (reader, lister) = (Semaphore::new(1), Semaphore::new(1));
        Self { limits, refusals, taken: Default::default(), reader, lister, memory: Mutex::default() }
    }

    fn refuse(&self, refused: LimitExceeded) -> LimitExceeded {
        self.refusals.get_or_create(&LimitLabels { limit: refused.limit() }).inc();
        refused
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn max(&self, kind: ShareKind) -> usize {
        match kind {
            ShareKind::Call | ShareKind::Connection => self.limits.calls,
            ShareKind::Live => self.limits.live,
            ShareKind::Subscription => self.limits.subscriptions,
            ShareKind::Waiting => self.limits.waiting,
        }
    }

    /// Takes one unit of this kind until the share is dropped.
    pub(crate) fn take(self: &Arc<Self>, kind: ShareKind) -> Result<Share, LimitExceeded> {
        self.take_if_free(kind)
            .ok_or_else(|| self.refuse(LimitExceeded::TooMany { kind, max: self.max(kind) }))
    }

    /// The same, but reaching the limit is not counted as a refusal.
    pub(crate) fn take_if_free(self: &Arc<Self>, kind: ShareKind) -> Option<Share> {
        let max = self.max(kind);
        let more = |taken: usize| (taken < max).then_some(taken + 1);
        let taken = self.taken[kind as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Share { account: Arc::clone(self), kind })
    }

    /// Counts a call until the share is dropped, and against the calls a second.
    pub(crate) fn call(self: &Arc<Self>) -> Result<Share, LimitExceeded> {
        if let Some(per_second) = self.limits.calls_per_second {
            let cost = Duration::from_secs(1) / per_second.get();
            let taken = self.memory().calls.take(Instant::now(), cost, AHEAD);
            taken.map_err(|wait| self.refuse(LimitExceeded::TooFast { per_second, wait }))?;
        }
        self.take(ShareKind::Call)
    }

    /// Notes that the beginning of a subscription took this long; how long to wait before the next one.
    pub(crate) fn began_subscription(&self, took: Duration) -> Duration {
        /// The cost of a message beside what is measured.
        const MIN: Duration = Duration::from_millis(1);
        let cost = took.max(MIN) * BEGINNINGS;
        self.memory().beginnings.charge(Instant::now(), cost, BEGINNINGS_AHEAD, MAX_REST)
    }

    /// How long to wait before the next list.
    pub(crate) fn rest_of_lists(&self) -> Duration {
        self.listed(Duration::ZERO)
    }

    /// Notes that the registry was busy for so long with a list; how long to wait before the next one.
    pub(crate) fn listed(&self, busy: Duration) -> Duration {
        self.memory().lists.charge(Instant::now(), busy * LISTS, LISTS_AHEAD, MAX_REST)
    }

    /// How long the registry is busy with looking at so many records.
    pub(crate) fn time_of(records: usize) -> Duration {
        LOOK * u32::try_from(records).unwrap_or(u32::MAX)
    }

    /// The list has no turn in time. `wait`: how long until it may have one, where that is known.
    pub(crate) fn no_turn(&self, wait: Option<Duration>) -> LimitExceeded {
        self.refuse(LimitExceeded::NoTurn { wait })
    }

    /// How long the registry will still grant no start at this rate, as far as it has said so.
    pub(crate) fn too_soon(&self, per_minute: NonZeroU32) -> Option<Duration> {
        let (of, until) = self.memory().too_soon?;
        let left = until.saturating_duration_since(Instant::now());
        (of == per_minute && !left.is_zero()).then_some(left)
    }

    /// Remembers the registry's answer. Nothing that other front doors do makes it sooner.
    pub(crate) fn note_too_soon(&self, per_minute: NonZeroU32, wait: Duration) {
        self.memory().too_soon = Some((per_minute, Instant::now() + wait));
    }

    /// Whether the registry has just answered that the owner has as many as this, or more. Credentials of one owner may state
    /// different quotas.
    pub(crate) fn is_over_quota(&self, most: u32) -> bool {
        self.memory().over_quota.is_some_and(|(over, until)| most <= over && until > Instant::now())
    }

    pub(crate) fn note_over_quota(&self, most: u32) {
        self.memory().over_quota = Some((most, Instant::now() + OVER_QUOTA));
    }

    fn remembers(&self, now: Instant) -> bool {
        let memory = self.memory();
        let too_soon = memory.too_soon.map(|(_, until)| until);
        let over_quota = memory.over_quota.map(|(_, until)| until);
        let ends = [memory.calls.0, memory.beginnings.0, memory.lists.0, too_soon, over_quota];
        ends.into_iter().flatten().any(|end| end > now)
    }
}

/// The accounts of all callers.
#[derive(Debug)]
pub(crate) struct Callers {
    limits: Arc<Limits>,
    refusals: CallerRefusals,
    /// The accounts, and how many there may be before unused ones are dropped. Never held across an await.
    accounts: Mutex<(HashMap<AccountHolder, Arc<Account>>, usize)>,
}

impl Callers {
    /// `refusals` counts what callers were refused.
    pub(crate) fn new(limits: Limits, refusals: CallerRefusals) -> Self {
        Self { limits: Arc::new(limits), refusals, accounts: Mutex::new((HashMap::new(), CROWD)) }
    }

    pub(crate) fn of(&self, caller: AccountHolder) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let (accounts, crowd) = &mut *accounts;
        if accounts.len() > *crowd {
            let now = Instant::now();
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || account.remembers(now));
            *crowd = CROWD.max(accounts.len() * 2);
        }
        let new = || Arc::new(Account::new(Arc::clone(&self.limits), self.refusals.clone()));
        Arc::clone(accounts.entry(caller).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(limits: Limits) -> Callers {
        Callers::new(limits, CallerRefusals::default())
    }

    fn owner(name: &str) -> AccountHolder {
        AccountHolder::Owner(format!("key:{name}").parse().unwrap())
    }

    #[test]
    fn a_caller_has_as_many_as_it_may_and_others_do_not_feel_it() {
        let callers = callers(Limits { live: 2, ..Limits::default() });
        let greedy = callers.of(owner("a"));
        let held =
            [greedy.take(ShareKind::Live).unwrap(), callers.of(owner("a")).take(ShareKind::Live).unwrap()];
        assert_eq!(
            greedy.take(ShareKind::Live).unwrap_err(),
            LimitExceeded::TooMany { kind: ShareKind::Live, max: 2 }
        );
        let counted = |limit| callers.refusals.get_or_create(&LimitLabels { limit }).get();
        assert_eq!((counted("live-connections"), counted("calls")), (1, 0));
        assert!(greedy.take_if_free(ShareKind::Live).is_none());
        assert_eq!(counted("live-connections"), 1, "nothing was refused");
        assert!(
            greedy.take(ShareKind::Waiting).is_ok() && callers.of(owner("b")).take(ShareKind::Live).is_ok()
        );
        drop(held);
        assert!(greedy.take(ShareKind::Live).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_have_a_pace_and_what_is_refused_does_not_count() {
        let callers = callers(Limits { calls_per_second: NonZeroU32::new(10), ..Limits::default() });
        let account = callers.of(owner("a"));
        let granted = |count: usize| (0..count).filter(|_| account.call().is_ok()).count();
        assert_eq!(granted(100), 20, "two seconds' worth at once");
        let Err(LimitExceeded::TooFast { wait, .. }) = account.call() else { panic!("it is too fast") };
        tokio::time::advance(wait).await;
        assert_eq!(granted(5), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(granted(100), 10);
        assert!(callers.of(owner("b")).call().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn subscriptions_that_begin_all_the_time_are_slowed_down() {
        let account = callers(Limits::default()).of(owner("a"));
        let waits: Vec<Duration> = (0..3000).map(|_| account.began_subscription(Duration::ZERO)).collect();
        assert!(waits[..1999].iter().all(Duration::is_zero));
        assert_eq!(waits[2249], Duration::from_millis(2500));
        assert_eq!(waits[2999], MAX_REST);
        assert_eq!(account.began_subscription(Duration::from_secs(600)), MAX_REST, "however dear it was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_the_registry_is_remembered_for_as_long_as_it_is_true() {
        let account = callers(Limits::default()).of(owner("a"));
        let [six, seven] = [6, 7].map(|n| NonZeroU32::new(n).unwrap());
        account.note_too_soon(six, Duration::from_secs(9));
        assert_eq!(account.too_soon(six), Some(Duration::from_secs(9)));
        assert_eq!(account.too_soon(seven), None, "the key says something else by now");
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(account.too_soon(six), None);
        account.note_over_quota(5);
        assert!(account.is_over_quota(5) && account.is_over_quota(4));
        assert!(!account.is_over_quota(6), "another credential of the owner says something else");
        tokio::time::advance(OVER_QUOTA).await;
        assert!(!account.is_over_quota(5), "one of its spawns may have ended");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_are_gone_are_forgotten() {
        let callers = callers(Limits::default());
        let held = callers.of(owner("stays")).take(ShareKind::Live).unwrap();
        for n in 0..10 * CROWD {
            callers.of(owner(&n.to_string()));
        }
        assert!(callers.accounts.lock().unwrap().0.len() <= CROWD + 2);
        assert!(callers.accounts.lock().unwrap().0.contains_key(&owner("stays")));
        drop(held);
    }

    #[test]
    fn a_host_with_a_whole_network_is_one_caller() {
        let at = |text: &str| AccountHolder::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
