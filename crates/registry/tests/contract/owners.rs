//! Whose spawns they are, how many an owner may have, and how often it may start one.

use std::time::Duration;

use model::{Availability, ExitReason, Owner, SpawnId, SpawnRecord, SpawnState, TicketId, Timing};
use registry::{Permit, Reserved, SpawnFilter, SpawnReport};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::on_all;
use crate::servers::RedisServer;
use crate::support::*;

/// Shows what a `{`, a quote or a `|` in a name could break.
const ANN: &str = r#"jwt:{ann}|"\"#;
const BOB: &str = "key:bob";

async fn is_refused(farm: &Farm, owner: &str, most: u32) -> bool {
    let got = farm.reserve(&csr().of(owner, most)).await;
    match got {
        Reserved::OverQuota => true,
        Reserved::Slot(slot) => {
            farm.registry.release(&slot.node, slot.spawn).await.unwrap();
            false
        }
        other => panic!("a slot or a refusal was expected, not {other:?}"),
    }
}

/// As the agent reports it.
fn of(owner: &str, report: SpawnReport) -> SpawnReport {
    SpawnReport { owner: Some(self::owner(owner)), ..report }
}

on_all! {
    async fn an_owner_has_no_more_than_it_may(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        let first = farm.take(&csr().of(ANN, 2)).await;
        farm.take(&csr().of(ANN, 2)).await;
        agent.report(farm, of(ANN, ready(first.spawn))).await;
        for _ in 0..2 {
            assert_eq!(farm.reserve(&csr().of(ANN, 2)).await, Reserved::OverQuota);
        }
        assert_eq!(farm.used("a").await.0, 2);
        // Other owners are not concerned, and neither is one without a quota.
        farm.take(&csr().of(BOB, 1)).await;
        farm.take(&csr()).await;
        let mut unlimited = csr().of(ANN, 0);
        unlimited.most = None;
        farm.take(&unlimited).await;
        assert_eq!(farm.reserve(&csr().of(ANN, 3)).await, Reserved::OverQuota, "but that one counts");
        farm.take(&csr().of(ANN, 4)).await;
        assert_eq!(farm.reserve(&csr().of("key:none", 0)).await, Reserved::OverQuota);
    }
}

on_all! {
    async fn an_owner_gets_back_what_is_given_back_in_whatever_way(farm: &Farm) {
        let mut agent = Agent::new("a", 2).gpus(1, 2);
        agent.beat(farm).await;
        for way in ["release", "release by id", "abandon", "expiry", "exit", "silence", "exit of what was abandoned"] {
            let slot = farm.take(&ssr().of(ANN, 1)).await;
            let report = |state: SpawnReport| SpawnReport { gpu: Some(0), ..of(ANN, state) };
            assert!(is_refused(farm, ANN, 1).await, "{way}");
            match way {
                "release" => farm.registry.release(&slot.node, slot.spawn).await.unwrap(),
                "release by id" => farm.registry.release_by_id(slot.spawn).await.unwrap(),
                "abandon" => {
                    farm.registry.abandon(&slot.node, slot.spawn).await.unwrap();
                    agent.forgotten = agent.beat(farm).await.abandoned;
                    assert!(is_refused(farm, ANN, 1).await, "not before the agent has said so");
                    agent.beat(farm).await;
                }
                "expiry" => {
                    farm.pass(TIMING.reservation).await;
                    farm.registry.sweep().await.unwrap();
                    agent.forgotten = agent.beat(farm).await.abandoned;
                    agent.beat(farm).await;
                }
                "exit" => {
                    for state in [launching(slot.spawn), ready(slot.spawn)] {
                        agent.report(farm, report(state)).await;
                        agent.beat(farm).await;
                        assert!(is_refused(farm, ANN, 1).await);
                    }
                    agent.report(farm, report(exited(slot.spawn, ExitReason::Stopped))).await;
                }
                "silence" => {
                    agent.report(farm, report(ready(slot.spawn))).await;
                    agent.spawns.clear();
                    agent.beat(farm).await;
                }
                _ => {
                    agent.report(farm, report(ready(slot.spawn))).await;
                    farm.registry.abandon(&slot.node, slot.spawn).await.unwrap();
                    agent.report(farm, report(exited(slot.spawn, ExitReason::Cancelled))).await;
                    agent.forgotten = agent.beat(farm).await.abandoned;
                    agent.beat(farm).await;
                }
            }
            assert!(farm.owned(ANN).await.is_none_or(|counted| counted == 0), "{way}");
            assert!(!is_refused(farm, ANN, 1).await, "{way}");
            assert_eq!(farm.used("a").await, (0, 0), "{way}");
        }
    }
}

on_all! {
    async fn what_is_lost_with_its_node_does_not_count_until_it_is_back(farm: &Farm) {
        let (mut gone, mut stays) = (Agent::new("gone", 9), Agent::new("stays", 9));
        gone.beat(farm).await;
        for _ in 0..2 {
            let slot = farm.take(&csr().of(ANN, 2)).await;
            gone.report(farm, of(ANN, ready(slot.spawn))).await;
        }
        stays.beat(farm).await;
        assert!(is_refused(farm, ANN, 2).await);
        farm.becomes("gone", Availability::Down).await;
        stays.beat(farm).await;
        farm.take(&csr().of(ANN, 2)).await;
        assert!(!is_refused(farm, ANN, 2).await);
        // Both are back, and none is ended for the quota.
        gone.beat(farm).await;
        stays.beat(farm).await;
        assert_eq!(gone.spawns.len(), 2);
        assert!(is_refused(farm, ANN, 3).await && !is_refused(farm, ANN, 4).await);
        let one = gone.spawns[0].id;
        gone.report(farm, of(ANN, exited(one, ExitReason::Stopped))).await;
        assert!(is_refused(farm, ANN, 2).await && !is_refused(farm, ANN, 3).await);
    }
}

async fn forgotten_with_its_node(farm: Farm) {
    let (mut gone, mut stays) = (Agent::new("gone", 9), Agent::new("stays", 9));
    gone.beat(&farm).await;
    let slots = [farm.take(&csr().of(ANN, 3)).await, farm.take(&csr().of(ANN, 3)).await];
    gone.report(&farm, of(ANN, ready(slots[0].spawn))).await;
    farm.registry.abandon(&slots[1].node, slots[1].spawn).await.unwrap();
    farm.is_forgotten("gone").await;
    stays.beat(&farm).await;
    assert!(farm.owned(ANN).await.is_none_or(|counted| counted == 0));
    assert!(!is_refused(&farm, ANN, 1).await);
    let lost = farm.registry.spawn(slots[0].spawn).await.unwrap().unwrap();
    assert_eq!((lost.state, lost.owner), (SpawnState::Exited, Some(owner(ANN))));
}

fn forgetful() -> Timing {
    let (stale, down) = (Duration::from_millis(200), Duration::from_millis(300));
    Timing { stale, down, forget: Duration::from_millis(600), reservation: Duration::from_secs(60), ..TIMING }
}

#[tokio::test]
async fn what_is_forgotten_with_its_node_does_not_count_embedded() {
    forgotten_with_its_node(Farm::embedded_with(forgetful())).await;
}

#[tokio::test]
async fn what_is_forgotten_with_its_node_does_not_count_redis() {
    forgotten_with_its_node(Farm::redis_with(forgetful()).await).await;
}

on_all! {
    async fn heartbeats_bring_owners_back_to_a_registry_that_was_wiped(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.spawns = vec![of(ANN, ready(csr().spawn)), of(ANN, launching(csr().spawn)), ready(csr().spawn)];
        agent.beat(farm).await;
        assert!(is_refused(farm, ANN, 2).await && !is_refused(farm, ANN, 3).await);
        assert_eq!(ids(&list(farm, ANN, None).await).len(), 2);
        agent.spawns.remove(0);
        agent.beat(farm).await;
        assert!(is_refused(farm, ANN, 1).await && !is_refused(farm, ANN, 2).await);
    }
}

on_all! {
    async fn the_next_agent_need_not_know_whose_a_spawn_is(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        // The agent died before it reported one of them.
        let [reported, unreported, ends] = [
            farm.take(&csr().of(ANN, 9)).await.spawn,
            farm.take(&csr().of(ANN, 9)).await.spawn,
            farm.take(&csr().of(ANN, 9)).await.spawn,
        ];
        for spawn in [reported, ends] {
            agent.report(farm, of(ANN, ready(spawn))).await;
        }
        let position = farm.registry.position().await.unwrap();
        let mut next = Agent::new("a", 9);
        next.spawns = vec![ready(reported), launching(unreported)];
        next.takeover(farm, Vec::new()).await;
        assert!(is_refused(farm, ANN, 2).await && !is_refused(farm, ANN, 3).await);
        for spawn in [reported, unreported] {
            let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
            assert_eq!(record.owner, Some(owner(ANN)));
        }
        let news = farm.registry.follow(position, Duration::from_millis(1)).await.unwrap().events;
        let first = news.iter().find(|event| event.spawn == Some(unreported)).unwrap();
        assert_eq!((&first.data["owner"], &first.data["rendererType"]), (&ANN.into(), &"csr".into()));
        for spawn in [reported, unreported] {
            next.report(farm, exited(spawn, ExitReason::Stopped)).await;
        }
        assert!(!is_refused(farm, ANN, 1).await);
    }
}

on_all! {
    async fn a_caller_at_its_limit_leaves_the_line(farm: &Farm) {
        Agent::new("a", 2).beat(farm).await;
        let held = farm.take(&csr().of(ANN, 2)).await;
        farm.take(&csr()).await;
        let (place, behind) = (TicketId::mint(), TicketId::mint());
        assert_eq!(farm.reserve(&csr().of(ANN, 2).place(place)).await, Reserved::Full);
        assert_eq!(farm.reserve(&csr().of(ANN, 1)).await, Reserved::OverQuota, "even where nothing is free");
        assert_eq!(farm.reserve(&csr().place(behind)).await, Reserved::Full);
        let before = farm.registry.position().await.unwrap().wakeup;
        assert_eq!(farm.reserve(&csr().of(ANN, 1).place(place)).await, Reserved::OverQuota);
        assert_ne!(farm.registry.position().await.unwrap().wakeup, before);
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        farm.take(&csr().place(behind)).await;
    }
}

on_all! {
    async fn many_at_once_get_as_many_as_their_owner_may_have(farm: &Farm) {
        for name in ["a", "b", "c"] {
            Agent::new(name, 40).beat(farm).await;
        }
        let asks: JoinSet<_> = (0..60)
            .map(|_| {
                let registry = farm.registry.clone();
                async move { registry.reserve(&csr().of(ANN, 7)).await.unwrap() }
            })
            .collect();
        let got = asks.join_all().await;
        assert_eq!(got.iter().filter(|got| matches!(got, Reserved::Slot(_))).count(), 7);
        assert_eq!(got.iter().filter(|got| **got == Reserved::OverQuota).count(), 53);
    }
}

async fn list(farm: &Farm, of: &str, more: Option<SpawnFilter>) -> Vec<SpawnRecord> {
    let filter = SpawnFilter { owners: vec![owner(of)], ..more.unwrap_or_default() };
    let mut filter = SpawnFilter { limit: filter.limit.max(2), ..filter };
    let mut all = Vec::new();
    loop {
        let page = farm.registry.spawns(&filter).await.unwrap();
        assert!(page.spawns.len() <= filter.limit);
        all.extend(page.spawns);
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return all;
        }
    }
}

fn ids(records: &[SpawnRecord]) -> Vec<SpawnId> {
    records.iter().map(|record| record.id).collect()
}

on_all! {
    async fn lists_show_what_is_an_owners_newest_first(farm: &Farm) {
        let mut agents = [Agent::new("a", 99), Agent::new("b", 99)];
        let mut anns = Vec::new();
        for agent in &mut agents {
            agent.beat(farm).await;
        }
        for n in 0..10 {
            let spawn = csr().spawn;
            let report = match n % 3 {
                0 => of(BOB, ready(spawn)),
                1 => ready(spawn),
                _ => of(ANN, ready(spawn)),
            };
            anns.extend((n % 3 == 2).then_some((spawn, n % 2)));
            agents[n % 2].report(farm, report).await;
        }
        anns.reverse();
        let all: Vec<SpawnId> = anns.iter().map(|(spawn, _)| *spawn).collect();
        let listed = list(farm, ANN, None).await;
        assert_eq!(ids(&listed), all);
        assert!(listed.iter().all(|record| record.owner == Some(owner(ANN))));
        assert_eq!(list(farm, BOB, None).await.len(), 4);
        assert_eq!(list(farm, "key:nobody", None).await, []);
        let (last, node) = anns[0];
        agents[node].report(farm, of(ANN, exited(last, ExitReason::Stopped))).await;
        let living = SpawnFilter { state: Some(SpawnState::Ready), ..SpawnFilter::default() };
        assert_eq!(ids(&list(farm, ANN, Some(living)).await), all[1..]);
        for (name, at) in [("a", 0), ("b", 1)] {
            let here = SpawnFilter { node: Some(id(name)), limit: 1, ..SpawnFilter::default() };
            let wanted: Vec<_> = anns.iter().filter(|(_, node)| *node == at).map(|(spawn, _)| *spawn).collect();
            assert_eq!(ids(&list(farm, ANN, Some(here)).await), wanted);
        }
        let node = farm.registry.living(&[id("a")]).await.unwrap();
        assert!(node.iter().any(|record| record.owner == Some(owner(ANN))));
    }
}

on_all! {
    async fn the_first_event_of_a_spawn_says_whose_it_is(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        let position = farm.registry.position().await.unwrap();
        let [new, met] = [csr().spawn, csr().spawn];
        agent.report(farm, of(ANN, launching(new))).await;
        agent.report(farm, of(ANN, ready(new))).await;
        // As after a wipe.
        agent.spawns.push(of(ANN, SpawnReport { state: SpawnState::Suspect, ..ready(met) }));
        agent.beat(farm).await;
        let events = farm.registry.follow(position, Duration::from_millis(1)).await.unwrap().events;
        for spawn in [new, met] {
            let mut of_it = events.iter().filter(|event| event.spawn == Some(spawn));
            assert_eq!(of_it.next().unwrap().data["owner"], ANN);
            assert!(of_it.all(|event| !event.data.contains_key("owner")), "said once is enough");
            assert_eq!(farm.registry.spawn(spawn).await.unwrap().unwrap().owner, Some(owner(ANN)));
        }
    }
}

async fn permit(farm: &Farm, of: &str, per_minute: u32) -> Permit {
    farm.registry.permit(&owner(of), per_minute).await.unwrap()
}

on_all! {
    async fn an_owner_starts_a_minutes_worth_at_once_and_then_as_they_fall_due(farm: &Farm) {
        // One a second.
        let began = Instant::now();
        let mut granted = 0;
        let wait = loop {
            match permit(farm, ANN, 60).await {
                Permit::Granted => granted += 1,
                Permit::Wait(wait) => break wait,
            }
        };
        let due = began.elapsed().as_secs();
        assert!(granted >= 60 && granted <= 60 + due, "{granted}, {due} of which had fallen due");
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        assert_eq!(permit(farm, BOB, 60).await, Permit::Granted, "nobody else is concerned");
        farm.pass(wait).await;
        assert_eq!(permit(farm, ANN, 60).await, Permit::Granted, "that was long enough");
    }
}

on_all! {
    async fn another_limit_holds_at_once(farm: &Farm) {
        for _ in 0..2 {
            assert_eq!(permit(farm, ANN, 2).await, Permit::Granted);
        }
        let Permit::Wait(wait) = permit(farm, ANN, 2).await else { panic!("the third in a minute") };
        assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(30), "{wait:?}");
        let Permit::Wait(wait) = permit(farm, ANN, 20).await else { panic!("its minute is used up") };
        assert!(wait <= Duration::from_secs(3), "{wait:?}");
        assert_eq!(permit(farm, BOB, 0).await, Permit::Wait(Duration::from_secs(60)), "none is none");
    }
}

#[tokio::test]
async fn what_an_older_version_did_not_give_back_is_found_out() {
    let redis = RedisServer::start().await;
    let farm = Farm::named(&redis.url(), "old");
    Agent::new("a", 9).beat(&farm).await;
    let kept = farm.take(&csr().of(BOB, 3)).await;
    for _ in 0..2 {
        let slot = farm.take(&csr().of(BOB, 3)).await;
        let gone = redis.query::<u32>(&format!("HDEL {{hatchery:old}}:held:a {}", slot.spawn)).await;
        assert_eq!(gone.unwrap(), 1);
    }
    for _ in 0..2 {
        farm.take(&csr().of(BOB, 3)).await;
    }
    assert_eq!(farm.reserve(&csr().of(BOB, 3)).await, Reserved::OverQuota);
    farm.registry.release(&kept.node, kept.spawn).await.unwrap();
    farm.take(&csr().of(BOB, 3)).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_keeps_no_caller_out() {
    let redis = RedisServer::start().await;
    let farm = Farm::named(&redis.url(), "back");
    let an_hour_ahead = (model::Timestamp::now().millis() + 3_600_000) * 1000;
    redis.run(&format!("SET {{hatchery:back}}:permit:{BOB} {an_hour_ahead}")).await;
    assert_eq!(permit(&farm, BOB, 1).await, Permit::Granted);
    assert!(matches!(permit(&farm, BOB, 1).await, Permit::Wait(_)));
}

#[tokio::test]
async fn nothing_of_an_owner_is_kept_that_has_nothing() {
    let redis = RedisServer::start().await;
    let farm = Farm::named(&redis.url(), "tidy");
    // Half a second of them.
    assert_eq!(permit(&farm, BOB, 120).await, Permit::Granted);
    let mut agent = Agent::new("a", 9);
    agent.beat(&farm).await;
    let slot = farm.take(&csr().of(BOB, 3)).await;
    agent.report(&farm, of(BOB, ready(slot.spawn))).await;
    assert_eq!(redis.query::<Vec<String>>("KEYS *:key:bob").await.unwrap().len(), 3);
    agent.report(&farm, of(BOB, exited(slot.spawn, ExitReason::Stopped))).await;
    let forgets = Farm::on_with(&redis.url(), "tidy", Timing { history: Duration::ZERO, ..TIMING });
    farm.pass(Duration::from_millis(600)).await;
    // Of several front doors the one that keeps ended records longest counts.
    let () = redis.query::<u64>("DEL {hatchery:tidy}:keeps").await.map(|_| ()).unwrap();
    forgets.registry.sweep().await.unwrap();
    assert_eq!(redis.query::<Vec<String>>("KEYS *:key:bob").await.unwrap(), [""; 0]);
}

fn owner(name: &str) -> Owner {
    name.parse().expect("a good name")
}
