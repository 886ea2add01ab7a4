//! A node that will not come back is removed with all that it had.

use std::time::Duration;

use model::{Availability, Eligibility, EventKind, ExitReason, NodeId, SpawnId, SpawnState};
use registry::{Forgotten, Reserved, Restored, SpawnFilter};

use crate::on_all;
use crate::support::*;

async fn forget(farm: &Farm, node: &str) -> Forgotten {
    farm.registry.forget(&id(node), Some("key:ops")).await.unwrap()
}

/// What happened since, by kind and spawn, with the operator where one is named.
async fn since(farm: &Farm, after: registry::Position) -> Vec<(EventKind, Option<SpawnId>, String)> {
    let news = farm.registry.follow(after, Duration::ZERO).await.unwrap();
    let by = |event: &model::Event| event.field::<String>("by").unwrap_or_default();
    news.events.iter().map(|event| (event.kind, event.spawn, by(event))).collect()
}

on_all! {
    /// And one that was never there is not known.
    async fn a_node_that_is_up_is_not_forgotten(farm: &Farm) {
        assert_eq!(forget(farm, "a").await, Forgotten::Unknown);
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        assert_eq!(forget(farm, "a").await, Forgotten::Up);
        assert_eq!(farm.take(&csr()).await.node.as_str(), "a");
    }
}

on_all! {
    /// Its spawns end as lost, its slots count for no owner, and the feed says so last.
    async fn a_silent_node_goes_with_all_that_it_had(farm: &Farm) {
        let mut agent = Agent::new("a", 3);
        agent.beat(farm).await;
        let running = farm.take(&csr().of("key:ann", 2)).await.spawn;
        agent.report(farm, registry::SpawnReport { owner: Some("key:ann".parse().unwrap()), ..ready(running) }).await;
        farm.take(&csr().of("key:ann", 2)).await;
        farm.becomes("a", Availability::Down).await;
        let before = farm.registry.position().await.unwrap();
        assert_eq!(forget(farm, "a").await, Forgotten::Gone { ended: 1 });
        let exited = (EventKind::SpawnExited, Some(running), String::new());
        let forgotten = (EventKind::NodeForgotten, None, "key:ops".to_owned());
        assert_eq!(since(farm, before).await, [exited, forgotten]);
        assert_eq!(farm.registry.node(&id("a")).await.unwrap(), None);
        assert!(farm.registry.nodes().await.unwrap().is_empty());
        assert!(farm.registry.assess().await.unwrap().is_empty());
        let record = farm.registry.spawn(running).await.unwrap().unwrap();
        assert_eq!((record.state, record.exit.unwrap().reason), (SpawnState::Exited, ExitReason::NodeLost));
        assert_eq!(farm.owned("key:ann").await.unwrap_or(0), 0);
        assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: false, .. }));
        assert_eq!(forget(farm, "a").await, Forgotten::Unknown);
        // What was reserved there expires without a trace.
        farm.pass(farm.registry.timing().reservation).await;
        assert!(farm.registry.living(&[id("a")]).await.unwrap().is_empty());
    }
}

on_all! {
    /// With what it still runs.
    async fn a_forgotten_node_that_comes_back_registers_again(farm: &Farm) {
        let mut agent = Agent::new("a", 2).identified();
        agent.beat(farm).await;
        let spawn = farm.take(&csr()).await.spawn;
        agent.report(farm, ready(spawn)).await;
        // Late is enough: it need not be down.
        farm.becomes("a", Availability::Stale).await;
        assert_eq!(forget(farm, "a").await, Forgotten::Gone { ended: 1 });
        agent.restarted().takeover(farm, Vec::new()).await;
        let node = farm.registry.node(&id("a")).await.unwrap().unwrap();
        assert_eq!((node.availability, node.used), (Availability::Up, 1));
        let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!((record.state, record.exit), (SpawnState::Ready, None));
        let all = SpawnFilter { limit: 10, ..SpawnFilter::default() };
        assert_eq!(farm.registry.spawns(&all).await.unwrap().spawns.len(), 1);
        assert_eq!(farm.take(&csr()).await.node, id("a") as NodeId);
    }
}

on_all! {
    /// A front door that remembers an order to the node that is gone learns that it has no use; new orders are above it.
    async fn orders_to_a_forgotten_node_are_not_for_the_next_of_its_name(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let cordon = async || farm.registry.set_eligibility(&id("a"), Eligibility::Cordoned, None, None).await.unwrap();
        let given = cordon().await.unwrap();
        farm.becomes("a", Availability::Down).await;
        forget(farm, "a").await;
        let restore = async |number| {
            farm.registry.restore_order(&id("a"), Eligibility::Cordoned, None, number).await.unwrap()
        };
        assert_eq!(restore(given).await, Restored::Forgotten);
        let mut next = Agent::new("a", 2);
        next.beat(farm).await;
        assert_eq!(restore(given).await, Restored::Forgotten);
        let record = farm.registry.node(&id("a")).await.unwrap().unwrap();
        assert_eq!((record.eligibility, record.generation), (Eligibility::Eligible, 0));
        let later = cordon().await.unwrap();
        assert!(later > given);
        assert_eq!(restore(later).await, Restored::NotNeeded);
        assert_eq!(restore(later + 60_000).await, Restored::Taken);
    }
}
