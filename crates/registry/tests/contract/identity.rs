//! Which of several agents speaks for a node.

use std::time::Duration;

use model::{AgentEpoch, EventKind, SpawnState};

use crate::on_all;
use crate::support::*;

/// Has a living agent send heartbeats until another one's report is refused: a busy machine may make any agent look dead.
async fn refused(farm: &Farm, living: &mut Agent, other: &mut Agent) -> registry::Orders {
    for _ in 0..20 {
        living.beat(farm).await;
        let orders = other.beat(farm).await;
        if orders.superseded || orders.taken.is_some() {
            return orders;
        }
    }
    panic!("it was not refused");
}

on_all! {
    async fn the_later_life_on_a_state_directory_is_right_whatever_the_registry_remembers(farm: &Farm) {
        let mut old = Agent::new("a", 2).identified();
        old.beat(farm).await;
        // It took the node over before the registry went back to an older state.
        let mut new = Agent { takeover: false, ..old.restarted() };
        assert!(!new.beat(farm).await.superseded);
        assert!(old.beat(farm).await.superseded);
        assert_eq!(farm.registry.nodes().await.unwrap()[0].epoch, new.epoch);
        old.takeover = true;
        assert!(refused(farm, &mut new, &mut old).await.superseded, "while the later one lives");
    }
}

on_all! {
    async fn a_later_life_without_a_heartbeat_is_asked_for_one(farm: &Farm) {
        let mut old = Agent::new("a", 2).identified();
        old.beat(farm).await;
        let mut new = old.restarted();
        assert!(new.report(farm, ready(csr().spawn)).await.unknown);
        assert!(!old.beat(farm).await.superseded, "nothing was applied");
        assert!(!new.beat(farm).await.unknown);
        assert_eq!(farm.used("a").await.0, 1);
    }
}

on_all! {
    async fn another_machine_with_a_living_nodes_name_learns_who_has_it_and_changes_nothing(farm: &Farm) {
        let mut first = Agent::new("a", 2).identified();
        first.beat(farm).await;
        let spawn = farm.take(&csr()).await.spawn;
        first.report(farm, ready(spawn)).await;
        first.beat(farm).await;
        let before = farm.registry.nodes().await.unwrap();
        let position = farm.registry.position().await.unwrap();

        let mut second = Agent::new("a", 9).identified().at("elsewhere");
        let gone = exited(spawn, model::ExitReason::Stopped);
        let change = second.change(&gone);
        let orders = second.takeover(farm, vec![change]).await;
        assert_eq!((orders.taken.as_deref(), orders.superseded), (Some("http://a:7070"), false));
        assert_eq!(farm.registry.nodes().await.unwrap(), before);
        assert_eq!(farm.registry.spawn(spawn).await.unwrap().unwrap().state, SpawnState::Ready);
        let news = farm.registry.follow(position, Duration::ZERO).await.unwrap();
        assert_eq!(news.events, []);

        second.takeover = false;
        let orders = refused(farm, &mut first, &mut second).await;
        assert!(orders.taken.is_some(), "one that had the node before has lost it, or the registry has forgotten that");
        assert!(!first.beat(farm).await.superseded);
        assert_eq!(farm.used("a").await.0, 1);
    }
}

on_all! {
    async fn another_machine_takes_over_the_node_of_one_that_is_gone(farm: &Farm) {
        let mut first = Agent::new("a", 2).identified();
        first.beat(farm).await;
        farm.pass(TIMING.down).await;
        let mut second = Agent::new("a", 9).identified().at("elsewhere");
        let orders = second.beat(farm).await;
        assert_eq!((orders.taken, orders.superseded), (None, false));
        let orders = refused(farm, &mut second, &mut first).await;
        assert!(orders.taken.is_some(), "also when it was not gone for good");
        let node = farm.registry.node(&id("a")).await.unwrap().unwrap();
        assert_eq!((node.description.advertise.as_str(), node.epoch), ("http://elsewhere:7070", second.epoch));
    }
}

on_all! {
    /// As when the registry has gone back to before the node moved.
    async fn an_agent_that_had_its_node_gets_it_back_when_the_one_that_is_remembered_stays_silent(farm: &Farm) {
        let mut gone = Agent::new("a", 2).identified();
        gone.beat(farm).await;
        let mut moved = Agent { takeover: false, ..Agent::new("a", 2).identified().at("elsewhere") };
        let orders = moved.beat(farm).await;
        assert_eq!((orders.taken.as_deref(), orders.superseded), (Some("http://a:7070"), false));
        farm.pass(TIMING.down).await;
        let orders = moved.beat(farm).await;
        assert_eq!((orders.taken, orders.superseded), (None, false));
        assert_eq!(farm.registry.node(&id("a")).await.unwrap().unwrap().epoch, moved.epoch);
    }
}

on_all! {
    async fn an_agent_whose_state_directory_was_lost_takes_its_node_over_at_once(farm: &Farm) {
        let mut first = Agent::new("a", 2).identified();
        first.beat(farm).await;
        let mut second = Agent { epoch: AgentEpoch::mint(), ..Agent::new("a", 2).identified() };
        let orders = second.beat(farm).await;
        assert_eq!((orders.taken, orders.superseded), (None, false));
        assert!(refused(farm, &mut second, &mut first).await.superseded);
    }
}

on_all! {
    /// As when the registry has gone back to before the takeover: neither knows of it.
    async fn of_two_agents_at_one_address_the_later_one_is_right(farm: &Farm) {
        let mut first = Agent::new("a", 2).identified();
        let mut second = Agent { takeover: false, ..Agent::new("a", 2).identified() };
        first.beat(farm).await;
        assert!(!second.beat(farm).await.superseded);
        assert!(refused(farm, &mut second, &mut first).await.superseded);
    }
}

on_all! {
    async fn the_agent_that_lives_keeps_the_node_of_one_that_the_registry_remembers(farm: &Farm) {
        let mut gone = Agent::new("a", 2).identified();
        gone.beat(farm).await;
        farm.pass(TIMING.down).await;
        // It took over elsewhere, and the registry has forgotten that.
        let mut lives = Agent { takeover: false, ..Agent::new("a", 2).identified().at("elsewhere") };
        assert!(!lives.beat(farm).await.superseded);
        let published = farm.registry.follow(registry::Position::default(), Duration::ZERO).await.unwrap().events;
        assert!(published.iter().all(|event| event.kind != EventKind::SpawnExited));
    }
}

on_all! {
    /// As when a machine was restored from a copy.
    async fn an_earlier_life_takes_over_from_a_later_one_that_is_gone(farm: &Farm) {
        let mut earlier = Agent::new("a", 2).identified();
        let mut later = earlier.restarted();
        later.beat(farm).await;
        assert!(refused(farm, &mut later, &mut earlier).await.superseded);
        farm.pass(TIMING.down).await;
        assert!(!earlier.beat(farm).await.superseded);
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_keep_a_dead_agents_node_for_it() {
    let farm = Farm::redis().await;
    let mut dead = Agent::new("a", 2).identified();
    dead.beat(&farm).await;
    let ahead = farm.registry.now().await.unwrap().millis() + 3_600_000;
    farm.server().query::<u32>(&format!("HSET {{hatchery:test}}:node:a beat {ahead}")).await.unwrap();
    let mut next = Agent::new("a", 2).identified().at("elsewhere");
    assert!(next.beat(&farm).await.taken.is_some(), "it may only not have had its turn yet");
    farm.pass(TIMING.down).await;
    assert_eq!(next.beat(&farm).await.taken, None);
}

#[tokio::test]
async fn a_registry_with_an_older_state_believes_the_agent_that_was_restarted_since() {
    let farm = Farm::redis().await;
    let mut old = Agent::new("a", 2).identified();
    old.beat(&farm).await;
    let spawn = farm.take(&csr()).await.spawn;
    old.report(&farm, ready(spawn)).await;
    let snapshot = farm.server().snapshot().await;
    let mut new = old.restarted();
    new.beat(&farm).await;
    farm.server().go_back(&snapshot).await;
    let position = farm.registry.position().await.unwrap();
    let orders = new.beat(&farm).await;
    assert!(!orders.superseded && !orders.unknown && orders.behind.is_none());
    assert_eq!(farm.registry.nodes().await.unwrap()[0].epoch, new.epoch);
    assert_eq!(farm.used("a").await.0, 1);
    let published = farm.registry.follow(position, Duration::ZERO).await.unwrap().events;
    assert!(published.iter().all(|event| event.kind == EventKind::SpawnPing), "{published:?}");
}
