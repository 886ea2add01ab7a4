//! Operators' orders: their numbers, and what they mean for nodes that are down.

use std::time::Duration;

use model::{Drain, Eligibility, EventKind, Timestamp};
use registry::{DesiredStateReport, DrainReport, Position, Restored};

use crate::on_all;
use crate::support::*;

fn drain(by: &str) -> Drain {
    let at = Timestamp::from_millis(4_000_000_000_000);
    Drain { deadline: at, reason: None, by: Some(by.to_owned()), started_at: at }
}

async fn published(farm: &Farm, position: &mut Position) -> Vec<EventKind> {
    let news = farm.registry.follow(*position, Duration::ZERO).await.unwrap();
    *position = news.position;
    news.events.iter().map(|event| event.kind).filter(|kind| *kind != EventKind::SpawnPing).collect()
}

async fn node(farm: &Farm) -> model::NodeRecord {
    farm.registry.node(&id("a")).await.unwrap().unwrap()
}

on_all! {
    async fn every_order_has_a_higher_number_than_the_one_before(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        assert_eq!(node(farm).await.generation, 0);
        let began = farm.registry.now().await.unwrap().millis();
        let mut last = 0;
        for wanted in [Eligibility::Cordoned, Eligibility::Cordoned, Eligibility::Eligible] {
            let given = farm.registry.set_eligibility(&id("a"), wanted, None, None).await.unwrap().unwrap();
            assert!(given > last && given >= began, "{given} after {last}, since {began}");
            assert_eq!(node(farm).await.generation, given);
            assert_eq!(agent.beat(farm).await.generation, given);
            last = given;
        }
    }
}

on_all! {
    async fn the_order_with_the_higher_number_wins_and_is_published_once(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let given = farm.registry.set_eligibility(&id("a"), Eligibility::Cordoned, None, None).await.unwrap().unwrap();
        let mut position = farm.registry.position().await.unwrap();
        for generation in [0, given - 1, given] {
            agent.desired = DesiredStateReport { generation, eligibility: Eligibility::Eligible, drain: None };
            let orders = agent.beat(farm).await;
            assert_eq!((orders.eligibility, orders.generation), (Eligibility::Cordoned, given));
        }
        assert_eq!(published(farm, &mut position).await, []);

        let desired = DrainReport {
            left: Duration::from_secs(60),
            age: Duration::from_secs(1),
            reason: Some("kernel".to_owned()),
            by: None,
        };
        agent.desired = DesiredStateReport { generation: given + 1, eligibility: Eligibility::Draining, drain: Some(desired) };
        agent.spawns.push(ready(csr().spawn));
        for _ in 0..3 {
            let orders = agent.beat(farm).await;
            assert_eq!((orders.eligibility, orders.generation), (Eligibility::Draining, given + 1));
            assert_eq!(orders.drain.unwrap().0.reason.as_deref(), Some("kernel"));
        }
        assert_eq!(published(farm, &mut position).await, [EventKind::SpawnReady, EventKind::NodeDraining]);
        assert_eq!(node(farm).await.generation, given + 1);

        agent.desired = DesiredStateReport { generation: given + 2, eligibility: Eligibility::Eligible, drain: None };
        assert_eq!(agent.beat(farm).await.drain, None);
        assert_eq!(published(farm, &mut position).await, [EventKind::NodeUncordoned]);
        farm.take(&csr()).await;
    }
}

on_all! {
    async fn an_order_is_repeated_only_where_it_is_not_known(farm: &Farm) {
        let restore = async |wanted, drain: Option<&Drain>, generation| {
            farm.registry.restore_order(&id("a"), wanted, drain, generation).await.unwrap()
        };
        assert_eq!(restore(Eligibility::Cordoned, None, 9).await, Restored::NotNeeded, "there is no such node");
        let mut agent = Agent::new("a", 2);
        agent.desired.generation = 5;
        assert_eq!(agent.beat(farm).await.generation, 5);
        let mut position = farm.registry.position().await.unwrap();
        for generation in [4, 5] {
            assert_eq!(restore(Eligibility::Cordoned, None, generation).await, Restored::NotNeeded);
        }
        let ordered = drain("ops");
        assert_eq!(restore(Eligibility::Draining, Some(&ordered), 6).await, Restored::Taken);
        assert_eq!(restore(Eligibility::Draining, Some(&ordered), 6).await, Restored::NotNeeded);
        assert_eq!(published(farm, &mut position).await, [EventKind::NodeDraining, EventKind::NodeDrained]);
        let record = node(farm).await;
        assert_eq!((record.eligibility, record.generation, record.drain), (Eligibility::Draining, 6, Some(ordered)));
    }
}

on_all! {
    async fn a_node_that_is_down_holds_nothing_and_counts_again_when_it_is_back(farm: &Farm) {
        let mut agent = Agent::new("a", 4).gpus(1, 4);
        agent.beat(farm).await;
        agent.report(farm, registry::SpawnReport { gpu: Some(0), ..ready(csr().spawn) }).await;
        farm.take(&ssr()).await;
        assert_eq!(farm.used("a").await, (2, 2));
        farm.becomes("a", model::Availability::Down).await;
        let mut record = node(farm).await;
        assert_eq!((record.used, record.gpu_used), (0, 0));
        assert!(record.gpus.iter().all(|gpu| gpu.used == 0));
        assert_eq!(farm.registry.nodes().await.unwrap(), [record.clone()]);
        agent.beat(farm).await;
        record = node(farm).await;
        assert_eq!((record.used, record.gpu_used), (1, 1), "the reservation has expired meanwhile");
    }
}

on_all! {
    async fn draining_a_node_that_is_down_is_over_at_once(farm: &Farm) {
        let mut agent = Agent::new("a", 4);
        agent.beat(farm).await;
        agent.report(farm, ready(csr().spawn)).await;
        farm.becomes("a", model::Availability::Down).await;
        let mut position = farm.registry.position().await.unwrap();
        let ordered = drain("ops");
        farm.registry.set_eligibility(&id("a"), Eligibility::Draining, Some(&ordered), None).await.unwrap();
        assert_eq!(published(farm, &mut position).await, [EventKind::NodeDraining, EventKind::NodeDrained]);
        // It is back, and drains in earnest.
        agent.beat(farm).await;
        assert_eq!(published(farm, &mut position).await, [EventKind::NodeUp, EventKind::SpawnReady]);
        assert_eq!(farm.used("a").await.0, 1);
        agent.report(farm, exited(agent.spawns[0].id, model::ExitReason::Drained)).await;
        assert_eq!(published(farm, &mut position).await, [EventKind::SpawnExited, EventKind::NodeDrained]);
    }
}

on_all! {
    async fn a_draining_node_that_goes_down_is_drained(farm: &Farm) {
        let mut agent = Agent::new("a", 4);
        agent.beat(farm).await;
        agent.report(farm, ready(csr().spawn)).await;
        let reserved = farm.take(&csr()).await;
        let ordered = drain("ops");
        farm.registry.set_eligibility(&id("a"), Eligibility::Draining, Some(&ordered), None).await.unwrap();
        let mut position = farm.registry.position().await.unwrap();
        farm.becomes("a", model::Availability::Down).await;
        farm.registry.release(&reserved.node, reserved.spawn).await.unwrap();
        let mut kinds = published(farm, &mut position).await;
        kinds.sort_unstable_by_key(|kind| kind.to_string());
        let expected =
            [EventKind::NodeDown, EventKind::NodeDrained, EventKind::NodeStale, EventKind::SpawnLost];
        assert_eq!(kinds, expected);
    }
}
