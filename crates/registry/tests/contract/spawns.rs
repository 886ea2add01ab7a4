//! Spawn records: what agents report is what can be read.

use std::time::Duration;

use model::{Availability, EventKind, ExitReason, SpawnState, ViewerPresence};
use registry::{SpawnFilter, SpawnReport};

use crate::on_all;
use crate::support::*;

fn kinds(record: &model::SpawnRecord) -> Vec<EventKind> {
    record.events.iter().map(|e| e.kind).collect()
}

on_all! {
    async fn a_spawns_record_follows_its_agent(farm: &Farm) {
        let mut agent = Agent::new("a", 2).pool("p");
        agent.beat(farm).await;
        let spawn = farm.take(&csr()).await.spawn;
        assert!(farm.registry.spawn(spawn).await.unwrap().is_none(), "a reservation is not a spawn yet");
        agent.report(farm, launching(spawn)).await;
        agent.report(farm, SpawnReport { started: Duration::from_secs(2), ..ready(spawn) }).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!((record.state, record.pool.as_str()), (SpawnState::Ready, "p"));
        assert!(record.ready_at >= Some(record.started_at));
        for state in [SpawnState::Suspect, SpawnState::Ready, SpawnState::Disconnected] {
            agent.report(farm, SpawnReport { state, ..ready(spawn) }).await;
        }
        agent.report(farm, exited(spawn, ExitReason::Disconnected)).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!(record.state, SpawnState::Exited);
        assert_eq!(record.exit.as_ref().unwrap().reason, ExitReason::Disconnected);
        assert!(record.ended_at.is_some() && record.ready_at.is_some());
        assert_eq!(kinds(&record), [
            EventKind::SpawnLaunching,
            EventKind::SpawnReady,
            EventKind::SpawnSuspect,
            EventKind::SpawnReady,
            EventKind::SpawnDisconnected,
            EventKind::SpawnExited,
        ]);
        assert!(record.events.windows(2).all(|w| w[0].seq < w[1].seq));
        assert_eq!(record.events[1].data["endpoint"], "ws://node:55000");
        assert_eq!(record.events[5].data["exit"]["reason"], "disconnected");
    }
}

on_all! {
    async fn a_spawn_is_found_with_the_address_of_its_agent(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        let unknown = farm.registry.locate(csr().spawn).await.unwrap();
        assert_eq!(unknown, None);
        agent.beat(farm).await;
        let spawn = farm.take(&csr()).await.spawn;
        agent.report(farm, ready(spawn)).await;
        let found = farm.registry.locate(spawn).await.unwrap().unwrap();
        assert_eq!(Some(found.spawn), farm.registry.spawn(spawn).await.unwrap());
        let node = farm.registry.node(&"a".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(found.advertise, Some(node.description.advertise));
    }
}

on_all! {
    async fn a_spawn_is_where_it_became_ready_and_not_where_it_was_launched(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let spawn = farm.take(&csr()).await.spawn;
        agent.report(farm, launching(spawn)).await;
        let moved = "ws://node:55001".to_owned();
        agent.report(farm, SpawnReport { endpoint: moved.clone(), ..ready(spawn) }).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!(record.endpoint, moved);
        assert_eq!(record.events[1].data["endpoint"], moved.as_str());
    }
}

on_all! {
    async fn a_change_sent_twice_happens_once(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let spawn = csr().spawn;
        let suspect = SpawnReport { state: SpawnState::Suspect, ..ready(spawn) };
        for report in [launching(spawn), ready(spawn)] {
            agent.report(farm, report).await;
        }
        let change = agent.change(&suspect);
        agent.repeat(farm, change.clone()).await;
        agent.report(farm, ready(spawn)).await;
        agent.repeat(farm, change).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!(record.state, SpawnState::Ready);
        assert_eq!(record.events.len(), 4);
    }
}

on_all! {
    async fn an_ended_spawn_stays_ended(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let spawn = csr().spawn;
        agent.report(farm, exited(spawn, ExitReason::Failed)).await;
        agent.report(farm, ready(spawn)).await;
        agent.spawns.clear();
        agent.beat(farm).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!(record.state, SpawnState::Exited);
        assert_eq!(farm.used("a").await.0, 0);
    }
}

on_all! {
    async fn spawns_of_a_lost_node_are_lost_and_come_back_as_they_are(farm: &Farm) {
        let mut agent = Agent::new("a", 4);
        agent.beat(farm).await;
        let (stays, ends) = (csr().spawn, csr().spawn);
        for spawn in [stays, ends] {
            agent.report(farm, ready(spawn)).await;
        }
        farm.becomes("a", Availability::Down).await;
        for spawn in [stays, ends] {
            assert_eq!(farm.registry.spawn(spawn).await.unwrap().unwrap().state, SpawnState::Lost);
        }
        agent.spawns.retain(|s| s.id == stays);
        agent.beat(farm).await;
        let back = farm.registry.spawn(stays).await.unwrap().unwrap();
        assert_eq!(back.state, SpawnState::Ready);
        assert_eq!(kinds(&back), [EventKind::SpawnReady, EventKind::SpawnLost, EventKind::SpawnReady]);
        let gone = farm.registry.spawn(ends).await.unwrap().unwrap();
        assert_eq!(gone.exit.unwrap().reason, ExitReason::NodeLost);
        assert_eq!(farm.used("a").await.0, 1);
    }
}

on_all! {
    async fn one_heartbeat_brings_back_what_a_registry_never_knew(farm: &Farm) {
        let mut agent = Agent::new("a", 4).gpus(1, 4);
        agent.spawns = (0..3)
            .map(|n| SpawnReport { gpu: (n == 0).then_some(0), started: Duration::from_secs(9), ..ready(csr().spawn) })
            .collect();
        agent.beat(farm).await;
        assert_eq!(farm.used("a").await, (3, 1));
        let page = farm.registry.spawns(&SpawnFilter { limit: 10, ..SpawnFilter::default() }).await.unwrap();
        assert_eq!(page.spawns.len(), 3);
        assert!(page.spawns.iter().all(|s| s.ready_at.unwrap().since(s.started_at) >= Duration::from_secs(8)));
    }
}

on_all! {
    async fn lists_are_filtered_and_paged_newest_first(farm: &Farm) {
        let mut agents = [Agent::new("a", 99), Agent::new("b", 99)];
        let mut all = Vec::new();
        for agent in &mut agents {
            agent.beat(farm).await;
        }
        for n in 0..7 {
            let spawn = csr().spawn;
            agents[n % 2].report(farm, ready(spawn)).await;
            all.push(spawn);
        }
        agents[0].report(farm, exited(all[0], ExitReason::Stopped)).await;
        all.reverse();

        let mut seen = Vec::new();
        let mut filter = SpawnFilter { limit: 3, ..SpawnFilter::default() };
        let mut pages = 0;
        loop {
            let page = farm.registry.spawns(&filter).await.unwrap();
            pages += 1;
            seen.extend(page.spawns.iter().map(|s| s.id));
            filter.cursor = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (all.clone(), 3));

        let b = SpawnFilter { node: Some(id("b")), limit: 3, ..SpawnFilter::default() };
        let page = farm.registry.spawns(&b).await.unwrap();
        assert_eq!((page.spawns.len(), page.next), (3, None), "exactly a page has no next one");
        let ended = SpawnFilter { state: Some(SpawnState::Exited), limit: 1, ..SpawnFilter::default() };
        let page = farm.registry.spawns(&ended).await.unwrap();
        assert_eq!(page.spawns.iter().map(|s| s.id).collect::<Vec<_>>(), [all[6]]);
        assert_eq!(page.next, None);
    }
}

async fn old_records_are_dropped(farm: Farm) {
    let mut agent = Agent::new("a", 99);
    agent.beat(&farm).await;
    for _ in 0..8 {
        agent.report(&farm, exited(csr().spawn, ExitReason::Stopped)).await;
    }
    let running = csr().spawn;
    agent.report(&farm, ready(running)).await;
    let everything = SpawnFilter { limit: 100, ..SpawnFilter::default() };
    farm.registry.sweep().await.unwrap();
    assert_eq!(
        farm.registry.spawns(&everything).await.unwrap().spawns.len(),
        6,
        "five ended and one that runs"
    );
    farm.pass(Duration::from_millis(500)).await;
    farm.registry.sweep().await.unwrap();
    let left = farm.registry.spawns(&everything).await.unwrap().spawns;
    assert_eq!(left.iter().map(|s| s.id).collect::<Vec<_>>(), [running]);
}

fn short_memory() -> model::Timing {
    model::Timing { history: Duration::from_millis(500), history_count: 5, ..TIMING }
}

#[tokio::test]
async fn records_of_ended_spawns_are_kept_up_to_an_age_and_a_number_embedded() {
    old_records_are_dropped(Farm::embedded_with(short_memory())).await;
}

#[tokio::test]
async fn records_of_ended_spawns_are_kept_up_to_an_age_and_a_number_redis() {
    old_records_are_dropped(Farm::redis_with(short_memory()).await).await;
}

on_all! {
    async fn a_viewers_coming_and_going_is_recorded_and_its_coming_is_an_event(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let spawn = farm.take(&csr()).await.spawn;
        agent.report(farm, ready(spawn)).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!((record.viewer(), record.connected_at), (ViewerPresence::Never, None));
        let ago = |ms| Some(Duration::from_millis(ms));
        let on = SpawnReport { connected: ago(500), ..ready(spawn) };
        agent.report(farm, on.clone()).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        let came = record.connected_at.unwrap();
        assert_eq!((record.viewer(), record.disconnected_at), (ViewerPresence::Connected, None));
        assert!(came < record.events.last().unwrap().at.after(Duration::from_secs(1)));
        // It is told again with every heartbeat, a little differently each time.
        agent.report(farm, SpawnReport { connected: ago(507), ..on.clone() }).await;
        // An agent that has just adopted the spawn may not know.
        agent.report(farm, ready(spawn)).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!((record.viewer(), record.connected_at), (ViewerPresence::Connected, Some(came)));
        agent.report(farm, SpawnReport { disconnected: ago(0), ..on.clone() }).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!((record.viewer(), record.connected_at), (ViewerPresence::Gone, Some(came)));
        assert!(record.disconnected_at >= Some(came));
        agent.report(farm, exited(spawn, ExitReason::Disconnected)).await;
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!((record.viewer(), record.connected_at), (ViewerPresence::Gone, Some(came)));
        let kinds = kinds(&record);
        assert_eq!(kinds, [EventKind::SpawnReady, EventKind::SpawnConnected, EventKind::SpawnExited]);
        // A registry that has never heard of the spawn learns it with the first report, and a list shows it.
        let other = farm.take(&csr()).await.spawn;
        agent.report(farm, SpawnReport { connected: ago(0), ..ready(other) }).await;
        let page = farm.registry.spawns(&SpawnFilter { limit: 5, ..SpawnFilter::default() }).await.unwrap();
        let listed = page.spawns.iter().find(|record| record.id == other).unwrap();
        assert_eq!(listed.viewer(), ViewerPresence::Connected);
    }
}

on_all! {
    async fn when_a_spawn_is_ended_at_the_latest_is_recorded_and_changes(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let spawn = farm.take(&csr()).await.spawn;
        let left = |seconds| Some(Duration::from_secs(seconds));
        let expiry = async || farm.registry.spawn(spawn).await.unwrap().unwrap().expires_at;
        agent.report(farm, launching(spawn)).await;
        assert_eq!(expiry().await, None);
        agent.report(farm, SpawnReport { life_left: left(60), ..ready(spawn) }).await;
        let first = expiry().await.unwrap();
        agent.report(farm, SpawnReport { life_left: left(600), ..ready(spawn) }).await;
        let extended = expiry().await.unwrap();
        assert!(extended.since(first) > Duration::from_secs(500), "{first:?} {extended:?}");
        agent.report(farm, SpawnReport { life_left: left(30), ..ready(spawn) }).await;
        assert!(expiry().await.unwrap() < first);
    }
}
