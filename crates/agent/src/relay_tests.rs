use std::collections::{BTreeMap, HashMap};

use model::{EventKind, Exit, ExitReason, RendererType, Timing};
use proptest::prelude::*;

use super::*;
use crate::config::{Config, Launcher};
use crate::disk::Disk;
use crate::logs::{Bounds, Logs};
use crate::state::StateDir;
use crate::table::entrance::{Admission, SpawnSpec};

fn relay(dir: &tempfile::TempDir) -> Relay {
    let mut config = Config::new("n".parse().unwrap(), Launcher::Nothing, dir.path().to_owned());
    // Nothing listens here in any test.
    config.ports = 19_100..=19_199;
    let any = "127.0.0.1:1".parse().unwrap();
    let disk = Disk::new().unwrap();
    let state = StateDir::open(dir.path(), disk.state.clone()).unwrap();
    let logs = Logs::open(state.logs().to_owned(), &Default::default(), Bounds::of(config.keep_ended));
    let node = Node::new(config, disk, state, logs, None, any, any).unwrap();
    let mut relay = Relay::new(Arc::new(node), Registry::embedded(Timing::FARM));
    relay.batch = 3;
    relay
}

/// What really happened to each spawn.
type Truth = HashMap<SpawnId, Vec<SpawnState>>;

fn start(relay: &Relay, truth: &mut Truth) {
    let ask = SpawnSpec {
        id: SpawnId::mint(),
        renderer: RendererType::Csr,
        labels: BTreeMap::new(),
        tags: BTreeMap::new(),
        owner: None,
        origin: Default::default(),
        endpoint_form: None,
        max_life: None,
        max_idle: None,
    };
    let (now, id) = (Instant::now(), ask.id);
    let mut table = relay.node.table();
    if let Admission::New(..) = table.admit(ask, now) {
        table.launched(id, 1, now);
        truth.insert(id, vec![SpawnState::Launching]);
    }
}

fn go_on(relay: &Relay, truth: &mut Truth, pick: prop::sample::Index, end: bool) {
    let mut living: Vec<_> =
        truth.iter_mut().filter(|(_, s)| s.last() != Some(&SpawnState::Exited)).collect();
    if living.is_empty() {
        return;
    }
    living.sort_by_key(|(id, _)| **id);
    let (id, states) = living.swap_remove(pick.index(living.len()));
    let mut table = relay.node.table();
    let next = match states.last() {
        _ if end => SpawnState::Exited,
        Some(SpawnState::Ready) => SpawnState::Suspect,
        _ => SpawnState::Ready,
    };
    if end {
        let exit = Exit { reason: ExitReason::Stopped, code: None, signal: None, text: None };
        table.exited(*id, exit, Instant::now());
    } else {
        table.enter(*id, next, Instant::now());
    }
    states.push(next);
}

/// What the registry has seen happen must have happened in this order; with `all`, nothing may be missing.
async fn check(relay: &Relay, truth: &Truth, all: bool) -> Result<(), TestCaseError> {
    for (id, states) in truth {
        let Some(record) = relay.registry.spawn(*id).await.unwrap() else {
            prop_assert!(!all, "{} is not known", id);
            continue;
        };
        let seen: Vec<EventKind> = record.events.iter().map(|event| event.kind).collect();
        let happened: Vec<EventKind> = states.iter().map(|state| EventKind::of_state(*state)).collect();
        let mut rest = happened.iter();
        prop_assert!(seen.iter().all(|kind| rest.any(|h| h == kind)), "{:?} of {:?}", seen, happened);
        if all {
            prop_assert_eq!(&seen, &happened);
        }
    }
    Ok(())
}

async fn tell_all(relay: &mut Relay) {
    relay.next_heartbeat = Instant::now();
    for _ in 0..1000 {
        let outcome = relay.send().await;
        let has_beaten = relay.next_heartbeat > Instant::now();
        if outcome == ReportOutcome::Accepted && has_beaten && relay.node.table().backlog_len() == 0 {
            return;
        }
        if outcome == ReportOutcome::Everything {
            relay.next_heartbeat = Instant::now();
        }
    }
    panic!("never done");
}

async fn live(steps: Vec<(u8, prop::sample::Index)>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let mut truth = Truth::new();
    let mut wiped = false;
    for (what, pick) in steps {
        match what {
            0 | 1 => start(&relay, &mut truth),
            2 | 3 => go_on(&relay, &mut truth, pick, false),
            4 => go_on(&relay, &mut truth, pick, true),
            5 => {
                relay.send().await;
            }
            6 => {
                relay.next_heartbeat = Instant::now();
                relay.send().await;
            }
            // The report arrived, the answer did not.
            7 => {
                let outgoing = relay.compose(Instant::now());
                relay.registry.report(&outgoing.report).await.unwrap();
            }
            // The report did not arrive.
            8 => drop(relay.compose(Instant::now())),
            _ => {
                wiped = true;
                relay.registry = Registry::embedded(Timing::FARM);
            }
        }
        check(&relay, &truth, false).await?;
    }
    tell_all(&mut relay).await;
    check(&relay, &truth, !wiped).await?;
    let node = relay.registry.node(&relay.node.config.node).await.unwrap().unwrap();
    let living: Vec<_> = truth.iter().filter(|(_, s)| s.last() != Some(&SpawnState::Exited)).collect();
    prop_assert_eq!(usize::try_from(node.used).unwrap(), living.len());
    for (id, states) in living {
        let record = relay.registry.spawn(*id).await.unwrap().unwrap();
        prop_assert_eq!(Some(&record.state), states.last());
    }
    Ok(())
}

fn one(relay: &Relay) -> SpawnId {
    let mut truth = Truth::new();
    start(relay, &mut truth);
    *truth.keys().next().unwrap()
}

fn end(relay: &Relay, id: SpawnId) {
    let exit = Exit { reason: ExitReason::Stopped, code: None, signal: None, text: None };
    relay.node.table().exited(id, exit, Instant::now());
}

fn why(relay: &Relay, id: SpawnId) -> Option<crate::spawn::Refusal> {
    let ask = SpawnSpec {
        id,
        renderer: RendererType::Csr,
        labels: BTreeMap::new(),
        tags: BTreeMap::new(),
        owner: None,
        origin: Default::default(),
        endpoint_form: None,
        max_life: None,
        max_idle: None,
    };
    match relay.node.table().admit(ask, Instant::now()) {
        Admission::Refused(refusal) => Some(refusal),
        Admission::New(..) | Admission::Joined(_) => None,
    }
}

#[tokio::test]
async fn a_registry_that_went_back_gets_the_ends_since_then_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let (first, second, stays) = (one(&relay), one(&relay), one(&relay));
    end(&relay, first);
    tell_all(&mut relay).await;
    end(&relay, second);
    tell_all(&mut relay).await;
    // Three starts and two ends.
    assert_eq!((relay.accepted, relay.node.table().backlog_len()), (5, 0));
    assert_eq!(relay.behind(4, Instant::now()), ReportOutcome::Everything);
    relay.next_heartbeat = Instant::now();
    let report = relay.compose(Instant::now()).report;
    let changes: Vec<(u64, SpawnId)> = report.changes.iter().map(|c| (c.serial, c.spawn.id)).collect();
    assert_eq!((report.accepted, changes), (4, vec![(5, second)]));
    let living: Vec<SpawnId> = report.heartbeat.unwrap().spawns.iter().map(|spawn| spawn.id).collect();
    assert_eq!(living, [stays]);
    assert_eq!(relay.behind(4, Instant::now()), ReportOutcome::Failed, "not in a loop without a pause");
    tell_all(&mut relay).await;
    assert_eq!(relay.accepted, 5);
}

#[tokio::test]
async fn an_agent_whose_node_another_one_has_admits_nothing_until_it_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let runs = one(&relay);
    let now = Instant::now();
    assert_eq!(relay.taken("http://10.0.0.7:7070", now), ReportOutcome::Taken);
    let refusal = why(&relay, SpawnId::mint()).unwrap();
    assert_eq!(refusal.kind, crate::spawn::RefusalKind::ShuttingDown);
    assert!(refusal.detail.contains("http://10.0.0.7:7070"), "{refusal:?}");
    assert_eq!(relay.taken("http://10.0.0.7:7070", now + TAKEN_TIMEOUT / 2), ReportOutcome::Taken);
    assert!(relay.node.table().knows(runs) && !relay.node.closed.is_cancelled());
    // The other one has gone: the registry accepts the next report.
    relay.next_heartbeat = now;
    assert_eq!(relay.send().await, ReportOutcome::Accepted);
    assert_eq!(relay.node.table().admission_mode(), AdmissionMode::Open);
    assert_eq!(why(&relay, SpawnId::mint()), None);
    let later = now + TAKEN_TIMEOUT;
    assert_eq!(relay.taken("http://10.0.0.7:7070", later), ReportOutcome::Taken, "its time begins anew");
    assert_eq!(relay.taken("http://10.0.0.8:7070", later + TAKEN_TIMEOUT), ReportOutcome::Over);
    assert!(relay.node.closed.is_cancelled());
    assert_eq!(relay.node.table().admission_mode(), AdmissionMode::Superseded, "it had the node before");
}

#[tokio::test]
async fn an_agent_that_never_had_its_node_gives_up_when_the_other_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let now = Instant::now();
    assert_eq!(relay.taken("http://10.0.0.7:7070", now), ReportOutcome::Taken);
    assert_eq!(relay.taken("http://10.0.0.7:7070", now + TAKEN_TIMEOUT), ReportOutcome::Over);
    assert!(relay.node.closed.is_cancelled());
    assert_eq!(relay.node.table().admission_mode(), AdmissionMode::Taken);
    assert_eq!(relay.node.table().other_agent(), Some("http://10.0.0.7:7070"));
}

#[tokio::test]
async fn an_expired_reservation_ends_nothing_that_runs_and_starts_nothing_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let (runs, unwanted, late) = (one(&relay), one(&relay), SpawnId::mint());
    tell_all(&mut relay).await;
    let orders = Orders { expired: vec![runs, late], abandoned: vec![unwanted], ..Orders::default() };
    relay.apply(orders);
    assert_eq!(relay.node.table().collect(runs).end, None);
    assert_eq!(relay.node.table().collect(unwanted).end, Some(Cause::Cancelled));
    assert_eq!(why(&relay, late).map(|refusal| refusal.kind), Some(crate::spawn::RefusalKind::Abandoned));
    relay.next_heartbeat = Instant::now();
    let heartbeat = relay.compose(Instant::now()).report.heartbeat.unwrap();
    assert_eq!(heartbeat.forgotten, [late], "those that run are listed as spawns");
    assert!(heartbeat.spawns.iter().any(|spawn| spawn.id == runs));
    end(&relay, runs);
    let heartbeat = relay.compose(Instant::now()).report.heartbeat.unwrap();
    assert_eq!(heartbeat.forgotten, [runs, late]);
}

#[tokio::test]
async fn reports_carry_the_agents_identity_and_the_number_of_the_order_it_follows() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let order = crate::desired_state::EligibilityOrder { generation: 7, ..Default::default() };
    assert!(relay.node.table().order(order, Instant::now()));
    relay.next_heartbeat = Instant::now();
    let report = relay.compose(Instant::now()).report;
    assert_eq!((report.identity.life, report.identity.instance.is_nil(), report.accepted), (1, false, 0));
    assert_eq!(report.heartbeat.unwrap().desired.generation, 7);
    relay.apply(Orders { generation: 6, eligibility: model::Eligibility::Cordoned, ..Orders::default() });
    assert_eq!(relay.node.table().eligibility(), model::Eligibility::Eligible, "an older order");
}

#[tokio::test]
async fn a_list_is_sent_when_something_differs_and_never_while_all_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut relay = relay(&dir);
    let (mut truth, lists) = (Truth::new(), |relay: &Relay| relay.node.metrics.lists_sent());
    start(&relay, &mut truth);
    tell_all(&mut relay).await;
    assert_eq!(lists(&relay), 1, "the first");
    for _ in 0..12 {
        start(&relay, &mut truth);
        let (id, states) = truth.iter_mut().find(|(_, states)| states.len() == 1).unwrap();
        relay.node.table().enter(*id, SpawnState::Ready, Instant::now());
        states.push(SpawnState::Ready);
        tell_all(&mut relay).await;
        tell_all(&mut relay).await;
    }
    assert_eq!(lists(&relay), 1);
    check(&relay, &truth, true).await.unwrap();
    relay.registry = Registry::embedded(Timing::FARM);
    tell_all(&mut relay).await;
    tell_all(&mut relay).await;
    assert_eq!(lists(&relay), 2, "one was enough");
    let node = relay.registry.node(&relay.node.config.node).await.unwrap().unwrap();
    assert_eq!(usize::try_from(node.used).unwrap(), truth.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However reports are cut, lost or repeated, and however often the registry forgets everything: it is told what
    /// happened, in order, nothing twice, and in the end it has the truth.
    #[test]
    fn the_registry_has_what_the_agent_has(steps in prop::collection::vec((0u8..10, any::<prop::sample::Index>()), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(steps))?;
    }
}
