//! Heartbeats, epochs, eligibility.

use std::time::Duration;

use model::{AgentEpoch, Availability, Drain, Eligibility, EventKind, SpawnState, Timestamp};
use registry::{DesiredStateReport, DrainReport, Reserved};

use crate::on_all;
use crate::support::*;

on_all! {
    async fn a_heartbeat_has_everything_about_a_node(farm: &Farm) {
        let mut agent = Agent::new("a", 7).pool("gpu").labels(&[("sdk", "1")]).gpus(2, 3);
        let orders = agent.beat(farm).await;
        assert_eq!(orders.eligibility, Eligibility::Eligible);
        let node = farm.registry.node(&id("a")).await.unwrap().unwrap();
        assert_eq!(node.description, agent.description);
        assert_eq!((node.availability, node.epoch, node.used), (Availability::Up, agent.epoch, 0));
        assert_eq!(node.load.memory_free_bytes, 1 << 30);
        assert_eq!(farm.registry.nodes().await.unwrap(), [node]);
    }
}

on_all! {
    async fn a_silent_node_gets_nothing_and_comes_back_with_its_next_heartbeat(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        farm.becomes("a", Availability::Stale).await;
        assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: true, .. }));
        assert_eq!(farm.registry.nodes().await.unwrap()[0].availability, Availability::Stale);
        agent.beat(farm).await;
        farm.take(&csr()).await;
        assert_eq!(farm.registry.nodes().await.unwrap()[0].availability, Availability::Up);
    }
}

on_all! {
    async fn silent_nodes_do_not_hide_a_live_one(farm: &Farm) {
        for n in 0..40 {
            Agent::new(&format!("dead{n}"), 9).beat(farm).await;
        }
        farm.becomes("dead39", Availability::Stale).await;
        let mut live = Agent::new("live", 9);
        live.beat(farm).await;
        for _ in 0..5 {
            assert_eq!(farm.take(&csr()).await.node, id("live"));
        }
    }
}

on_all! {
    async fn cordoned_and_draining_nodes_get_nothing(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let drain = Drain {
            deadline: Timestamp::now(),
            reason: Some("kernel".into()),
            by: None,
            started_at: Timestamp::now(),
        };
        for (wanted, drain) in [(Eligibility::Cordoned, None), (Eligibility::Draining, Some(&drain))] {
            assert!(farm.registry.set_eligibility(&id("a"), wanted, drain, None).await.unwrap().is_some());
            assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: true, .. }));
            let orders = agent.beat(farm).await;
            assert_eq!(orders.eligibility, wanted);
            assert_eq!(orders.drain.map(|(d, _)| d), drain.cloned());
            assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: true, .. }), "a heartbeat opens nothing");
        }
        assert!(farm.registry.set_eligibility(&id("a"), Eligibility::Eligible, None, None).await.unwrap().is_some());
        farm.take(&csr()).await;
        assert_eq!(farm.registry.set_eligibility(&id("nobody"), Eligibility::Cordoned, None, None).await.unwrap(), None);
    }
}

on_all! {
    async fn a_new_epoch_takes_the_node_over_and_the_old_one_is_refused(farm: &Farm) {
        let mut old = Agent::new("a", 2);
        old.beat(farm).await;
        let mut new = Agent { epoch: AgentEpoch::mint(), takeover: true, ..old.clone() };
        assert!(!new.beat(farm).await.superseded);
        assert!(old.beat(farm).await.superseded);
        assert_eq!(farm.registry.nodes().await.unwrap()[0].epoch, new.epoch);
    }
}

fn remembered() -> DesiredStateReport {
    let drain = DrainReport {
        left: Duration::from_secs(600),
        age: Duration::from_secs(60),
        reason: Some("kernel \"6.18\", früh".into()),
        by: None,
    };
    DesiredStateReport { generation: 0, eligibility: Eligibility::Draining, drain: Some(drain) }
}

on_all! {
    async fn a_registry_that_lost_everything_takes_the_desired_state_from_the_agent(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.desired = remembered();
        let orders = agent.beat(farm).await;
        let (drain, left) = orders.drain.unwrap();
        assert_eq!(orders.eligibility, Eligibility::Draining);
        assert_eq!((drain.reason.as_deref(), drain.by), (Some("kernel \"6.18\", früh"), None));
        assert!(left <= Duration::from_secs(600) && left > Duration::from_secs(599), "{left:?}");
        let node = farm.registry.node(&id("a")).await.unwrap().unwrap();
        assert_eq!(drain.deadline.since(node.last_heartbeat_at), Duration::from_secs(600));
        assert_eq!(drain.deadline.since(drain.started_at), Duration::from_secs(660));
        assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: true, .. }));

        let mut other = Agent::new("b", 2);
        other.desired = DesiredStateReport { generation: 0, eligibility: Eligibility::Cordoned, drain: None };
        let orders = other.beat(farm).await;
        assert_eq!((orders.eligibility, orders.drain), (Eligibility::Cordoned, None));
    }
}

on_all! {
    async fn the_registrys_own_memory_wins_over_what_an_agent_remembers(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        agent.desired = remembered();
        let mut next = Agent { epoch: AgentEpoch::mint(), takeover: true, ..agent.clone() };
        for agent in [&mut agent, &mut next] {
            let orders = agent.beat(farm).await;
            assert_eq!((orders.eligibility, orders.drain), (Eligibility::Eligible, None));
        }
        farm.take(&csr()).await;
    }
}

on_all! {
    /// Spawns run on under the next agent: nothing about them changes, and there is no event.
    async fn a_takeover_that_brings_its_spawns_is_not_seen_in_them(farm: &Farm) {
        let mut old = Agent::new("a", 4).gpus(1, 2);
        old.beat(farm).await;
        let (stays, launches, ends) = (csr().spawn, csr().spawn, csr().spawn);
        let long_ago = Duration::from_secs(40);
        let was = registry::SpawnReport {
            started: long_ago,
            ready: Some(long_ago),
            last_ping: Some(Duration::from_secs(1)),
            gpu: Some(0),
            ..ready(stays)
        };
        for report in [was.clone(), launching(launches), ready(ends)] {
            old.report(farm, report).await;
        }
        farm.pass(Duration::from_millis(50)).await;
        let before = farm.registry.spawn(stays).await.unwrap().unwrap();
        let position = farm.registry.position().await.unwrap();

        let mut new = Agent { epoch: AgentEpoch::mint(), takeover: true, serial: 0, ..old.clone() };
        let gone = exited(ends, model::ExitReason::Failed);
        new.spawns = vec![
            // It has not heard of it yet, and its start was written down with less care.
            registry::SpawnReport { last_ping: None, started: Duration::from_secs(39), ..was },
            launching(launches),
        ];
        let change = new.change(&gone);
        let orders = new.takeover(farm, vec![change]).await;
        assert!(!orders.superseded && !orders.unknown);

        assert_eq!(farm.registry.spawn(stays).await.unwrap().unwrap(), before, "as if nothing had happened");
        assert_eq!(farm.used("a").await, (2, 1));
        let events = farm.registry.follow(position, Duration::ZERO).await.unwrap().events;
        let events: Vec<_> = events.iter().map(|event| (event.kind, event.spawn)).collect();
        assert_eq!(events, [(EventKind::SpawnExited, Some(ends))]);

        assert!(old.report(farm, exited(stays, model::ExitReason::Stopped)).await.superseded);
        assert_eq!(farm.registry.spawn(stays).await.unwrap().unwrap().state, SpawnState::Ready);
        new.report(farm, ready(launches)).await;
        assert_eq!(farm.registry.spawn(launches).await.unwrap().unwrap().state, SpawnState::Ready);
    }
}

on_all! {
    async fn a_takeover_after_the_node_was_given_up_brings_its_spawns_back(farm: &Farm) {
        let mut old = Agent::new("a", 4);
        old.beat(farm).await;
        let spawn = csr().spawn;
        old.report(farm, ready(spawn)).await;
        let before = farm.registry.spawn(spawn).await.unwrap().unwrap();
        farm.becomes("a", Availability::Down).await;
        assert_eq!(farm.registry.spawn(spawn).await.unwrap().unwrap().state, SpawnState::Lost);
        let mut new = Agent { epoch: AgentEpoch::mint(), takeover: true, serial: 0, ..old.clone() };
        new.spawns[0].last_ping = None;
        new.spawns[0].ready = Some(TIMING.down);
        new.beat(farm).await;
        let back = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!((back.state, back.ready_at), (SpawnState::Ready, before.ready_at));
        assert_eq!((back.started_at, back.last_ping_at), (before.started_at, before.last_ping_at));
        let kinds: Vec<_> = back.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::SpawnReady, EventKind::SpawnLost, EventKind::SpawnReady]);
        assert_eq!(farm.registry.nodes().await.unwrap()[0].availability, Availability::Up);
        assert_eq!(farm.used("a").await.0, 1);
    }
}

on_all! {
    async fn an_unknown_node_is_asked_for_a_heartbeat(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.takeover = false;
        let orders = agent.report(farm, launching(csr().spawn)).await;
        assert!(orders.unknown);
        assert!(!agent.beat(farm).await.unknown);
        assert_eq!(farm.used("a").await.0, 1, "the heartbeat's list brings the spawn");
    }
}

on_all! {
    async fn a_node_that_changes_its_labels_is_found_by_the_new_ones_only(farm: &Farm) {
        let mut agent = Agent::new("a", 2).labels(&[("sdk", "1")]);
        agent.beat(farm).await;
        farm.take(&csr().label("sdk", "1")).await;
        agent = agent.labels(&[("sdk", "2")]);
        agent.beat(farm).await;
        assert!(matches!(farm.reserve(&csr().label("sdk", "1")).await, Reserved::NoMatch { known: false, .. }));
        farm.take(&csr().label("sdk", "2")).await;
        assert_eq!(farm.used("a").await.0, 2);
    }
}

on_all! {
    async fn fewer_slots_than_spawns_is_full_until_they_end(farm: &Farm) {
        let mut agent = Agent::new("a", 3);
        agent.beat(farm).await;
        let taken = [farm.take(&csr()).await, farm.take(&csr()).await];
        agent.description.slots = 1;
        agent.beat(farm).await;
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
        farm.registry.release(&id("a"), taken[0].spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
        farm.registry.release(&id("a"), taken[1].spawn).await.unwrap();
        farm.take(&csr()).await;
    }
}

async fn node_that_is_down_for_long(farm: Farm) {
    let mut agent = Agent::new("a", 2).labels(&[("sdk", "1")]);
    agent.beat(&farm).await;
    agent.report(&farm, ready(farm.take(&csr()).await.spawn)).await;
    let spawn = agent.spawns[0].id;
    farm.is_forgotten("a").await;
    assert!(farm.registry.nodes().await.unwrap().is_empty());
    assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: false, .. }));
    let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
    assert_eq!(record.exit.unwrap().reason, model::ExitReason::NodeLost);
}

fn forgetful() -> model::Timing {
    let ms = Duration::from_millis;
    model::Timing { stale: ms(160), down: ms(200), forget: ms(240), ..TIMING }
}

#[tokio::test]
async fn a_node_that_is_down_for_long_is_forgotten_embedded() {
    node_that_is_down_for_long(Farm::embedded_with(forgetful())).await;
}

#[tokio::test]
async fn a_node_that_is_down_for_long_is_forgotten_redis() {
    node_that_is_down_for_long(Farm::redis_with(forgetful()).await).await;
}

on_all! {
    async fn its_clock_goes_on_and_is_the_one_that_heartbeats_are_stamped_with(farm: &Farm) {
        let before = farm.registry.now().await.unwrap();
        Agent::new("n", 1).beat(farm).await;
        let stamped = farm.registry.node(&id("n")).await.unwrap().unwrap().last_heartbeat_at;
        let after = farm.registry.now().await.unwrap();
        assert!(before <= stamped && stamped <= after, "{before} {stamped} {after}");
    }
}

on_all! {
    async fn operators_orders_are_events_that_say_who_and_why(farm: &Farm) {
        Agent::new("a", 2).beat(farm).await;
        let from_here = farm.registry.position().await.unwrap();
        let at = Timestamp::from_millis(1_767_225_600_000);
        let drain = Drain { deadline: at, reason: Some("kernel".into()), by: Some("ops".into()), started_at: at };
        for (wanted, drain, by) in [
            (Eligibility::Cordoned, None, Some("10.0.0.9")),
            (Eligibility::Draining, Some(&drain), Some("ops")),
            (Eligibility::Eligible, None, None),
        ] {
            farm.registry.set_eligibility(&id("a"), wanted, drain, by).await.unwrap();
        }
        let events: Vec<(String, String)> = farm
            .registry
            .follow(from_here, Duration::ZERO)
            .await
            .unwrap()
            .events
            .iter()
            .map(|e| (e.kind.to_string(), serde_json::Value::from(e.data.clone()).to_string()))
            .collect();
        let draining = "{\"by\":\"ops\",\"deadline\":\"2026-01-01T00:00:00.000Z\",\"reason\":\"kernel\",\
                        \"startedAt\":\"2026-01-01T00:00:00.000Z\"}";
        let want = [
            ("node.cordoned", "{\"by\":\"10.0.0.9\"}"),
            ("node.draining", draining),
            ("node.drained", "{}"),
            ("node.uncordoned", "{}"),
        ];
        assert_eq!(events, want.map(|(kind, data)| (kind.to_owned(), data.to_owned())));
    }
}
