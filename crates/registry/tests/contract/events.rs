//! The ordered event stream.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{EventKind, ExitReason, SpawnState};
use registry::{Position, SpawnReport};

use crate::on_all;
use crate::support::*;

on_all! {
    async fn a_follower_sees_every_event_once_and_in_order(farm: &Farm) {
        let mut position = farm.registry.position().await.unwrap();
        let writer = async {
            let mut agents: Vec<Agent> = (0..4).map(|n| Agent::new(&format!("n{n}"), 99)).collect();
            for agent in &mut agents {
                agent.beat(farm).await;
            }
            for _ in 0..25 {
                for agent in &mut agents {
                    let spawn = csr().spawn;
                    agent.report(farm, launching(spawn)).await;
                    agent.report(farm, ready(spawn)).await;
                    agent.report(farm, exited(spawn, ExitReason::Stopped)).await;
                }
            }
        };
        let reader = async {
            let mut events = Vec::new();
            while events.len() < 304 {
                let news = farm.registry.follow(position, Duration::from_secs(5)).await.unwrap();
                assert!(!news.gap);
                position = news.position;
                events.extend(news.events);
            }
            events
        };
        let ((), events) = tokio::join!(writer, reader);
        assert!(events.windows(2).all(|w| w[0].seq < w[1].seq));
        assert_eq!(events.len(), 304);
        assert_eq!(events.iter().filter(|e| e.kind == EventKind::NodeUp).count(), 4);
        for kind in [EventKind::SpawnLaunching, EventKind::SpawnReady, EventKind::SpawnExited] {
            assert_eq!(events.iter().filter(|e| e.kind == kind).count(), 100);
        }
    }
}

on_all! {
    async fn following_waits_for_news_and_ends_without(farm: &Farm) {
        let position = farm.registry.position().await.unwrap();
        let news = farm.registry.follow(position, Duration::from_millis(50)).await.unwrap();
        assert!(news.events.is_empty() && !news.woken && !news.gap);
        assert_eq!(news.position, position);
    }
}

async fn a_slow_follower(farm: Farm) {
    let mut agent = Agent::new("a", 9);
    agent.beat(&farm).await;
    let from_here = farm.registry.position().await.unwrap();
    for _ in 0..100 {
        agent.report(&farm, exited(csr().spawn, ExitReason::Stopped)).await;
    }
    let news = farm.registry.follow(from_here, Duration::ZERO).await.unwrap();
    assert!(news.gap);
    assert!(news.events.len() <= 70, "{}", news.events.len());
    let kept = farm.registry.follow(Position::default(), Duration::ZERO).await.unwrap();
    assert!(!kept.gap && kept.events == news.events);
    let next = farm.registry.follow(news.position, Duration::ZERO).await.unwrap();
    assert!(next.events.is_empty() && !next.gap);
}

#[tokio::test]
async fn a_follower_that_is_too_slow_learns_of_the_gap_embedded() {
    a_slow_follower(Farm::embedded_with(model::Timing { events_count: 64, ..TIMING })).await;
}

#[tokio::test]
async fn a_follower_that_is_too_slow_learns_of_the_gap_redis() {
    a_slow_follower(Farm::redis_with(model::Timing { events_count: 64, ..TIMING }).await).await;
}

on_all! {
    async fn the_first_event_of_a_spawn_says_enough_to_make_its_record(farm: &Farm) {
        let mut agent = Agent::new("a", 9).gpus(1, 9);
        agent.beat(farm).await;
        let position = farm.registry.position().await.unwrap();
        let labels = BTreeMap::from([("sdk".to_owned(), "2025.1".to_owned())]);
        let [new, old, gone] = [csr().spawn, csr().spawn, csr().spawn];
        let with = |spawn: SpawnReport| SpawnReport { gpu: Some(0), labels: labels.clone(), ..spawn };
        agent.report(farm, with(launching(new))).await;
        agent.report(farm, ready(new)).await;
        // As after a wipe.
        let stopping = SpawnReport { state: SpawnState::Stopping, ..ready(gone) };
        agent.spawns.extend([with(ready(old)), stopping]);
        agent.beat(farm).await;
        let events = farm.registry.follow(position, Duration::from_millis(1)).await.unwrap().events;
        let first = |spawn| events.iter().find(|event| event.spawn == Some(spawn)).unwrap();
        for spawn in [new, old, gone] {
            let data = &first(spawn).data;
            assert_eq!((&data["rendererType"], &data["endpoint"]), (&"csr".into(), &"ws://node:55000".into()));
        }
        for spawn in [new, old] {
            let data = &first(spawn).data;
            assert_eq!((&data["gpu"], &data["labels"]["sdk"]), (&0.into(), &"2025.1".into()));
        }
        let record = farm.registry.spawn(old).await.unwrap().unwrap();
        let data = &first(old).data;
        assert_eq!(data["startedAt"], record.started_at.to_string());
        assert_eq!(data["readyAt"], record.ready_at.unwrap().to_string());
        let second = events.iter().filter(|event| event.spawn == Some(new)).nth(1).unwrap();
        assert_eq!(second.data.keys().collect::<Vec<_>>(), ["endpoint"], "said once is enough");
    }
}

on_all! {
    async fn living_spawns_are_those_that_have_not_ended(farm: &Farm) {
        let mut agents = [Agent::new("a", 9), Agent::new("b", 9)];
        let mut all = Vec::new();
        for agent in &mut agents {
            agent.beat(farm).await;
            let [ends, lives] = [csr().spawn, csr().spawn];
            for spawn in [ends, lives] {
                agent.report(farm, ready(spawn)).await;
            }
            agent.report(farm, exited(ends, ExitReason::Stopped)).await;
            all.push(lives);
        }
        // A reservation is no spawn yet.
        farm.take(&csr()).await;
        let living = async |nodes: &[&str]| {
            let nodes: Vec<_> = nodes.iter().map(|node| id(node)).collect();
            let mut ids: Vec<_> = farm.registry.living(&nodes).await.unwrap().into_iter().map(|s| s.id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(living(&["a", "b", "nowhere"]).await, all);
        assert_eq!(living(&["b"]).await, all[1..]);
        assert_eq!(living(&[]).await, []);
    }
}
