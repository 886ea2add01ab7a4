//! The ordered event stream.

use std::time::Duration;

use model::{EventKind, ExitReason};
use registry::Position;

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
                    agent.tell(farm, launching(spawn)).await;
                    agent.tell(farm, ready(spawn)).await;
                    agent.tell(farm, exited(spawn, ExitReason::Stopped)).await;
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
        assert!(news.events.is_empty() && !news.nudged && !news.gap);
        assert_eq!(news.position, position);
    }
}

async fn a_slow_follower(farm: Farm) {
    let mut agent = Agent::new("a", 9);
    agent.beat(&farm).await;
    let from_here = farm.registry.position().await.unwrap();
    for _ in 0..100 {
        agent.tell(&farm, exited(csr().spawn, ExitReason::Stopped)).await;
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
async fn a_follower_that_is_too_slow_is_told_of_the_gap_embedded() {
    a_slow_follower(Farm::embedded_with(model::Timing { events_count: 64, ..TIMING })).await;
}

#[tokio::test]
async fn a_follower_that_is_too_slow_is_told_of_the_gap_redis() {
    a_slow_follower(Farm::redis_with(model::Timing { events_count: 64, ..TIMING }).await).await;
}
