use std::collections::BTreeMap;
use std::path::PathBuf;

use model::{Eligibility, Exit, ExitReason, RendererType};
use proptest::prelude::*;

use super::entrance::{Admission, Admitted, SpawnSpec};
use super::*;
use crate::config::Launcher;
use crate::desired_state::EligibilityOrder;
use crate::spawn::RefusalKind;
use crate::spawn::exit::Cause;

pub(super) fn table(change: impl FnOnce(&mut Config)) -> Table {
    let mut config = Config::new("n".parse().unwrap(), Launcher::Nothing, PathBuf::from("/s"));
    // Nothing listens here in any test.
    config.ports = 19_000..=19_015;
    config.slots = 4;
    change(&mut config);
    let endpoint = config.endpoint.on(&config.node, "h");
    Table::new(&config, endpoint)
}

pub(super) fn ask(renderer: RendererType) -> SpawnSpec {
    SpawnSpec {
        id: SpawnId::mint(),
        renderer,
        labels: BTreeMap::new(),
        tags: BTreeMap::new(),
        owner: None,
        origin: Default::default(),
        endpoint_form: None,
        max_life: None,
        max_idle: None,
    }
}

/// Lets one in and starts it.
fn start(table: &mut Table, ask: &SpawnSpec, now: Instant) -> Admitted {
    match table.admit(ask.clone(), now) {
        Admission::New(admitted, _) => {
            table.launched(ask.id, 1, now);
            admitted
        }
        other => panic!("{other:?}"),
    }
}

fn why(table: &mut Table, ask: &SpawnSpec, now: Instant) -> RefusalKind {
    match table.admit(ask.clone(), now) {
        Admission::Refused(refusal) => refusal.kind,
        other => panic!("{other:?}"),
    }
}

fn exit() -> Exit {
    Exit { reason: ExitReason::Stopped, code: None, signal: None, text: None }
}

#[test]
fn each_refusal_has_its_reason() {
    let now = Instant::now();
    let csr = ask(RendererType::Csr);
    let ssr = ask(RendererType::Ssr);
    let mut full = table(|c| c.slots = 1);
    start(&mut full, &ask(RendererType::Csr), now);
    assert_eq!(why(&mut full, &csr, now), RefusalKind::Full);

    let mut gpus = table(|c| {
        c.gpus = 1;
        c.gpu_slots = 1;
    });
    start(&mut gpus, &ask(RendererType::Ssr), now);
    assert_eq!(why(&mut gpus, &ssr, now), RefusalKind::GpusFull);
    start(&mut gpus, &csr, now);

    let mut ports = table(|c| {
        c.ports = 19_000..=19_000;
        c.slots = 2;
    });
    start(&mut ports, &csr, now);
    assert_eq!(why(&mut ports, &ssr, now), RefusalKind::NoPort);
    assert_eq!(ports.running(), 1, "a refused one leaves nothing behind");

    let mut off = table(|c| c.ssr = false);
    assert_eq!(why(&mut off, &ssr, now), RefusalKind::RendererOff);

    let mut closed = table(|_| ());
    let cordon = EligibilityOrder { eligibility: Eligibility::Cordoned, ..Default::default() };
    assert!(closed.order(cordon, now));
    assert_eq!(why(&mut closed, &csr, now), RefusalKind::NotEligible);
    closed.end(csr.id, Cause::Stopped, Again::Hurries, now);
    assert_eq!(why(&mut closed, &csr, now), RefusalKind::Abandoned);
    closed.set_admission_mode(AdmissionMode::ShuttingDown);
    assert_eq!(why(&mut closed, &csr, now), RefusalKind::ShuttingDown);
}

#[test]
fn a_lost_port_is_replaced_unless_the_spawn_or_the_agent_is_to_end() {
    let now = Instant::now();
    let mut table = table(|c| c.ports = 19_000..=19_001);
    let ask = ask(RendererType::Csr);
    let before = start(&mut table, &ask, now).facts;
    let after = table.relocate(ask.id).unwrap();
    assert_ne!(before.port, after.port);
    assert_eq!(after.endpoint, format!("ws://h:{}", after.port));
    assert_eq!((table.usage().ports, table.facts(ask.id, now).unwrap().port), (1, after.port));
    assert!(table.relocate(SpawnId::mint()).is_none());
    for door in [AdmissionMode::ShuttingDown, AdmissionMode::Taken, AdmissionMode::Superseded] {
        table.set_admission_mode(door);
        assert!(table.relocate(ask.id).is_none(), "{door:?}");
    }
    table.set_admission_mode(AdmissionMode::Emptying);
    assert_eq!(table.relocate(ask.id).unwrap().port, before.port);
    table.end(ask.id, Cause::Stopped, Again::ChangesNothing, now);
    assert!(table.relocate(ask.id).is_none(), "its end is wanted");
    table.exited(ask.id, exit(), now);
    assert_eq!(table.usage().ports, 0);

    let mut alone = super::tests::table(|c| c.ports = 19_000..=19_000);
    start(&mut alone, &ask, now);
    assert!(alone.relocate(ask.id).is_none(), "there is no other port");
    assert_eq!(alone.usage().ports, 1);
}

#[test]
fn a_spawn_that_is_here_is_joined_even_by_a_closing_agent() {
    let (mut table, now) = (table(|_| ()), Instant::now());
    let ask = ask(RendererType::Csr);
    start(&mut table, &ask, now);
    table.set_admission_mode(AdmissionMode::ShuttingDown);
    assert!(matches!(table.admit(ask.clone(), now), Admission::Joined(_)));
    table.exited(ask.id, exit(), now);
    assert!(matches!(table.admit(ask, now), Admission::Joined(_)), "shortly after its end too");
}

#[test]
fn only_the_last_caller_that_goes_unanswered_ends_a_spawn() {
    for (answers, cancelled) in [([false, false], true), ([true, false], false), ([false, true], false)] {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let ask = ask(RendererType::Csr);
        start(&mut table, &ask, now);
        assert!(table.join(ask.id, now).is_some());
        table.leave(ask.id, answers[0], now);
        assert_eq!(table.collect(ask.id).end, None);
        table.leave(ask.id, answers[1], now);
        assert_eq!(table.collect(ask.id).end, cancelled.then_some(Cause::Cancelled), "{answers:?}");
    }
}

#[test]
fn a_spawn_that_was_never_reported_is_no_change() {
    let (mut table, now) = (table(|_| ()), Instant::now());
    let ask = ask(RendererType::Csr);
    assert!(matches!(table.admit(ask.clone(), now), Admission::New(..)));
    assert!(table.is_queued(ask.id) && table.starting() == 0);
    assert_eq!(table.begin_start(ask.id), Ok(()));
    assert_eq!((table.starting(), table.snapshots().count(), table.backlog_len()), (1, 0, 0));
    table.not_launched(ask.id);
    assert_eq!((table.starting(), table.running(), table.backlog_len()), (0, 0, 0));
    assert!(matches!(table.admit(ask, now), Admission::New(..)), "it may be tried again");
}

#[test]
fn what_waits_for_its_turn_starts_only_while_it_may() {
    let (mut table, now) = (table(|_| ()), Instant::now());
    let asks = [(); 3].map(|()| ask(RendererType::Csr));
    for ask in &asks {
        assert!(matches!(table.admit(ask.clone(), now), Admission::New(..)));
    }
    let [stopped, late, cordoned] = asks;
    table.end(stopped.id, Cause::Stopped, Again::ChangesNothing, now);
    table.end(late.id, Cause::ReadyTimeout, Again::ChangesNothing, now);
    let order = |generation, eligibility| EligibilityOrder { generation, eligibility, ..Default::default() };
    let kind = |begun: Result<(), crate::spawn::Refusal>| begun.unwrap_err().kind;
    assert_eq!(kind(table.begin_start(stopped.id)), RefusalKind::Abandoned);
    assert_eq!(kind(table.begin_start(late.id)), RefusalKind::StartsBusy);
    assert!(table.order(order(1, Eligibility::Cordoned), now));
    assert_eq!(kind(table.begin_start(cordoned.id)), RefusalKind::NotEligible);
    assert!(table.order(order(2, Eligibility::Eligible), now));
    assert_eq!(table.begin_start(cordoned.id), Ok(()));
    table.not_launched(stopped.id);
    assert_eq!(
        why(&mut table, &stopped, now),
        RefusalKind::Abandoned,
        "a repeated request starts it no more"
    );
    assert_eq!((table.starting(), table.running()), (1, 2));
}

#[test]
fn a_closed_node_begins_no_warm_server_and_waits_for_those_that_have_begun() {
    let (mut table, now) = (table(|_| ()), Instant::now());
    let order = |generation, eligibility| EligibilityOrder { generation, eligibility, ..Default::default() };
    let [first, second, hung, waits] =
        [(); 4].map(|()| table.keep_another(RendererType::Csr, now).unwrap().facts.id);
    for begins in [first, second, hung] {
        assert!(table.begin_warm_start(begins));
    }
    assert!(table.order(order(1, Eligibility::Cordoned), now));
    assert!(!table.begin_warm_start(waits), "the plan has not followed the order yet");
    assert_eq!(table.starting(), 3);
    table.warm_started(first, 7);
    table.warm_gone(second, now);
    assert_eq!(table.starting(), 1);
    table.give_up_starts();
    assert_eq!(table.starting(), 0);
    assert!(table.order(order(2, Eligibility::Eligible), now));
    table.end_warm(waits, super::pool::WarmEnd::Closed);
    assert!(!table.begin_warm_start(waits), "its end is wanted");
    assert_eq!(table.starting(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order, what is used is what runs, and nothing goes beyond its limit.
    #[test]
    fn counts_always_agree(steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>()), 1..80)) {
        let mut table = table(|c| {
            c.gpus = 2;
            c.gpu_slots = 1;
        });
        let now = Instant::now();
        let mut here: Vec<(SpawnId, bool)> = Vec::new();
        let mut changes = 0;
        for (what, pick) in steps {
            match what {
                0 | 1 => {
                    let ask = ask(if what == 0 { RendererType::Csr } else { RendererType::Ssr });
                    let room = here.len() < 4 && (what == 0 || here.iter().filter(|(_, ssr)| *ssr).count() < 2);
                    match table.admit(ask.clone(), now) {
                        Admission::New(..) => {
                            prop_assert!(room);
                            here.push((ask.id, what == 1));
                            table.launched(ask.id, 7, now);
                            changes += 1;
                        }
                        Admission::Refused(_) => prop_assert!(!room),
                        Admission::Joined(_) => prop_assert!(false, "nobody asked before"),
                    }
                }
                2 => {
                    let ask = ask(RendererType::Csr);
                    if let Admission::New(..) = table.admit(ask.clone(), now) {
                        table.not_launched(ask.id);
                    }
                }
                _ if here.is_empty() => {}
                3 => {
                    let (id, _) = here.swap_remove(pick.index(here.len()));
                    table.exited(id, exit(), now);
                    table.exited(id, exit(), now);
                    changes += 1;
                }
                4 => {
                    table.enter(here[pick.index(here.len())].0, SpawnState::Ready, now);
                    changes += 1;
                }
                _ => drop(table.end(here[pick.index(here.len())].0, Cause::Stopped, Again::Hurries, now)),
            }
            let usage = table.usage();
            let ssr = here.iter().filter(|(_, ssr)| *ssr).count();
            prop_assert_eq!(usage.by_state.iter().map(|(_, n)| n).sum::<usize>(), here.len());
            prop_assert_eq!((usage.ports, usage.gpu_slots as usize), (here.len(), ssr));
            prop_assert_eq!(usage.backlog, changes);
        }
    }
}
