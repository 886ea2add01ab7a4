//! An agent's reports about its own processes outrank the registry's memory.

use std::time::Duration;

use model::{EventKind, ExitReason, SpawnState, Timing};
use registry::{Position, Reserved, SpawnFilter};

use crate::on_all;
use crate::support::*;

async fn events_of(farm: &Farm, position: Position) -> Vec<EventKind> {
    let news = farm.registry.follow(position, Duration::ZERO).await.unwrap();
    assert!(!news.gap);
    news.events.iter().map(|event| event.kind).filter(|kind| *kind != EventKind::SpawnPing).collect()
}

async fn state(farm: &Farm, spawn: model::SpawnId) -> (SpawnState, Option<ExitReason>) {
    let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
    (record.state, record.exit.map(|exit| exit.reason))
}

on_all! {
    async fn a_spawn_that_its_agent_lists_lives_whatever_was_recorded(farm: &Farm) {
        let mut agent = Agent::new("a", 4).gpus(1, 4).identified();
        agent.beat(farm).await;
        let taken = farm.take(&ssr().of("ann", 1)).await;
        let owner = Some("ann".parse().unwrap());
        agent.report(farm, registry::SpawnReport { gpu: Some(0), owner, ..ready(taken.spawn) }).await;
        // Started with an empty state directory by mistake.
        let mut empty = Agent { spawns: Vec::new(), ..agent.restarted() };
        empty.beat(farm).await;
        assert_eq!(state(farm, taken.spawn).await, (SpawnState::Exited, Some(ExitReason::NodeLost)));
        assert_eq!(farm.used("a").await, (0, 0));

        let position = farm.registry.position().await.unwrap();
        let mut right = Agent { spawns: agent.spawns.clone(), ..empty.restarted() };
        right.beat(farm).await;
        assert_eq!(state(farm, taken.spawn).await, (SpawnState::Ready, None));
        assert_eq!(farm.registry.spawn(taken.spawn).await.unwrap().unwrap().ended_at, None);
        assert_eq!(farm.used("a").await, (1, 1));
        assert_eq!(farm.reserve(&csr().of("ann", 1)).await, Reserved::OverQuota);
        let living = farm.registry.living(&[id("a")]).await.unwrap();
        assert_eq!(living.iter().map(|spawn| spawn.id).collect::<Vec<_>>(), [taken.spawn]);
        let news = farm.registry.follow(position, Duration::ZERO).await.unwrap();
        let event = news.events.iter().find(|event| event.spawn == Some(taken.spawn)).unwrap();
        assert_eq!(event.kind, EventKind::SpawnReady);
        assert_eq!((&event.data["rendererType"], &event.data["owner"]), (&"csr".into(), &"ann".into()));
        assert!(farm.registry.locate(taken.spawn).await.unwrap().unwrap().advertise.is_some());

        right.report(farm, exited(taken.spawn, ExitReason::Disconnected)).await;
        assert_eq!(state(farm, taken.spawn).await, (SpawnState::Exited, Some(ExitReason::Disconnected)));
        assert_eq!(farm.used("a").await, (0, 0));
        let Reserved::Slot(_) = farm.reserve(&csr().of("ann", 1)).await else { panic!("it has none left") };
    }
}

async fn a_living_record_is_kept(farm: Farm) {
    let mut agent = Agent::new("a", 4);
    agent.beat(&farm).await;
    let spawn = csr().spawn;
    agent.report(&farm, ready(spawn)).await;
    let spawns = std::mem::take(&mut agent.spawns);
    agent.beat(&farm).await;
    agent.spawns = spawns;
    agent.beat(&farm).await;
    farm.pass(Duration::from_millis(200)).await;
    farm.registry.sweep().await.unwrap();
    assert_eq!(state(&farm, spawn).await.0, SpawnState::Ready);
    let all = SpawnFilter { limit: 9, ..SpawnFilter::default() };
    assert_eq!(farm.registry.spawns(&all).await.unwrap().spawns.len(), 1);
}

#[tokio::test]
async fn the_record_of_a_spawn_that_lives_after_all_is_kept_embedded() {
    let timing = Timing { history: Duration::from_millis(200), ..TIMING };
    a_living_record_is_kept(Farm::embedded_with(timing)).await;
}

#[tokio::test]
async fn the_record_of_a_spawn_that_lives_after_all_is_kept_redis() {
    let timing = Timing { history: Duration::from_millis(200), ..TIMING };
    a_living_record_is_kept(Farm::redis_with(timing).await).await;
}

on_all! {
    async fn the_agents_word_on_an_end_replaces_a_guess_and_is_published_once(farm: &Farm) {
        let mut agent = Agent::new("a", 4);
        agent.beat(farm).await;
        let spawn = csr().spawn;
        agent.report(farm, ready(spawn)).await;
        agent.spawns.clear();
        agent.beat(farm).await;
        assert_eq!(state(farm, spawn).await, (SpawnState::Exited, Some(ExitReason::NodeLost)));

        let position = farm.registry.position().await.unwrap();
        for reason in [ExitReason::Failed, ExitReason::Failed, ExitReason::Stopped] {
            agent.report(farm, exited(spawn, reason)).await;
            assert_eq!(state(farm, spawn).await, (SpawnState::Exited, Some(ExitReason::Failed)));
        }
        assert_eq!(events_of(farm, position).await, [EventKind::SpawnExited]);
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!(record.events.last().unwrap().data["exit"]["reason"], "failed");
        assert_eq!(farm.used("a").await.0, 0);
    }
}

async fn a_forgotten_node_that_is_back(farm: Farm) {
    let mut agent = Agent::new("a", 4).identified();
    agent.beat(&farm).await;
    let spawn = csr().spawn;
    agent.report(&farm, ready(spawn)).await;
    for _ in 0..3 {
        farm.pass(Duration::from_millis(60)).await;
        farm.registry.sweep().await.unwrap();
    }
    assert!(farm.registry.nodes().await.unwrap().is_empty());
    assert_eq!(state(&farm, spawn).await, (SpawnState::Exited, Some(ExitReason::NodeLost)));
    agent.beat(&farm).await;
    assert_eq!(farm.used("a").await.0, 1);
    let located = farm.registry.locate(spawn).await.unwrap().unwrap();
    assert_eq!(
        (located.spawn.state, located.advertise.as_deref()),
        (SpawnState::Ready, Some("http://a:7070"))
    );
}

fn forgetful() -> Timing {
    let ms = Duration::from_millis;
    Timing { stale: ms(40), down: ms(50), forget: ms(60), ..TIMING }
}

#[tokio::test]
async fn a_node_that_was_forgotten_brings_its_living_spawns_back_embedded() {
    a_forgotten_node_that_is_back(Farm::embedded_with(forgetful())).await;
}

#[tokio::test]
async fn a_node_that_was_forgotten_brings_its_living_spawns_back_redis() {
    a_forgotten_node_that_is_back(Farm::redis_with(forgetful()).await).await;
}

on_all! {
    async fn a_reservation_that_expired_does_not_end_the_spawn_that_it_became(farm: &Farm) {
        let mut agent = Agent::new("a", 2).identified();
        agent.beat(farm).await;
        let [started, never] = [farm.take(&csr()).await.spawn, farm.take(&csr()).await.spawn];
        // The agent was cut off from the registry meanwhile, and its caller was answered.
        farm.pass(TIMING.reservation).await;
        farm.registry.sweep().await.unwrap();
        agent.spawns.push(ready(started));
        let mut orders = agent.beat(farm).await;
        orders.expired.sort_unstable();
        assert_eq!((orders.abandoned, orders.expired), (vec![], vec![never]), "not what is known to run");
        agent.forgotten = vec![never];
        let orders = agent.beat(farm).await;
        assert_eq!((orders.abandoned, orders.expired), (vec![], vec![]));
        assert_eq!(state(farm, started).await.0, SpawnState::Ready);
        assert_eq!(farm.used("a").await.0, 1);
    }
}

on_all! {
    async fn a_heartbeat_that_was_held_up_on_its_way_says_nothing_of_spawns(farm: &Farm) {
        let mut agent = Agent::new("a", 4).identified();
        agent.beat(farm).await;
        let [ends, comes] = [csr().spawn, csr().spawn];
        agent.report(farm, ready(ends)).await;
        let mut held_up = agent.clone();
        agent.report(farm, exited(ends, ExitReason::Disconnected)).await;
        agent.report(farm, ready(comes)).await;
        assert!(!held_up.beat(farm).await.superseded);
        assert_eq!(state(farm, ends).await, (SpawnState::Exited, Some(ExitReason::Disconnected)));
        assert_eq!(state(farm, comes).await.0, SpawnState::Ready);
        agent.beat(farm).await;
        assert_eq!(farm.used("a").await.0, 1);
    }
}

on_all! {
    async fn a_registry_that_lacks_accepted_changes_says_how_far_it_is_and_is_brought_up_to_date(farm: &Farm) {
        let mut agent = Agent::new("a", 4).identified();
        agent.beat(farm).await;
        let [ended, other] = [csr().spawn, csr().spawn];
        for spawn in [ended, other] {
            agent.report(farm, ready(spawn)).await;
        }
        // What the registry had accepted, and has lost.
        let end = agent.change(&exited(ended, ExitReason::Disconnected));
        agent.serial += 10;
        agent.accepted = agent.serial;
        agent.spawns.retain(|spawn| spawn.id != ended);
        for _ in 0..2 {
            assert_eq!(agent.beat(farm).await.behind, Some(2));
            assert_eq!(state(farm, ended).await.0, SpawnState::Ready, "nothing was applied");
        }
        let position = farm.registry.position().await.unwrap();
        agent.accepted = 2;
        assert_eq!(agent.all(farm, vec![end]).await.behind, None);
        assert_eq!(state(farm, ended).await, (SpawnState::Exited, Some(ExitReason::Disconnected)));
        assert_eq!(events_of(farm, position).await, [EventKind::SpawnExited]);
        assert_eq!(agent.beat(farm).await.behind, None);
        assert_eq!(agent.report(farm, exited(other, ExitReason::Stopped)).await.behind, None);
        assert_eq!(state(farm, other).await, (SpawnState::Exited, Some(ExitReason::Stopped)));
        assert_eq!(agent.beat(farm).await.behind, None);
    }
}

on_all! {
    async fn a_registry_that_knows_nothing_is_not_behind(farm: &Farm) {
        let mut agent = Agent { takeover: false, serial: 7, accepted: 7, ..Agent::new("a", 4).identified() };
        assert!(agent.report(farm, ready(csr().spawn)).await.unknown);
        assert_eq!(agent.beat(farm).await.behind, None);
        assert_eq!(agent.report(farm, ready(csr().spawn)).await.behind, None);
        assert_eq!(farm.used("a").await.0, 2);
        assert_eq!(agent.beat(farm).await.behind, None);
    }
}

#[tokio::test]
async fn a_spawn_that_ended_after_an_older_state_ends_once_and_as_it_did() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 4).identified();
    agent.beat(&farm).await;
    let spawn = csr().spawn;
    agent.report(&farm, ready(spawn)).await;
    let snapshot = farm.server().snapshot().await;
    let end = exited(spawn, ExitReason::Disconnected);
    agent.report(&farm, end.clone()).await;
    let kept = registry::Change { serial: agent.serial, spawn: end, age: Duration::from_secs(1) };
    farm.server().go_back(&snapshot).await;
    let position = farm.registry.position().await.unwrap();
    assert_eq!(agent.beat(&farm).await.behind, Some(1));
    agent.accepted = 1;
    agent.all(&farm, vec![kept]).await;
    agent.beat(&farm).await;
    assert_eq!(state(&farm, spawn).await, (SpawnState::Exited, Some(ExitReason::Disconnected)));
    assert_eq!(events_of(&farm, position).await, [EventKind::SpawnExited]);
}
