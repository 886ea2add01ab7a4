//! Reserving, confirming, giving back.

use model::{ExitReason, SpawnId};
use registry::Reserved;

use crate::on_all;
use crate::support::*;

on_all! {
    async fn spawns_go_to_the_least_loaded_node_by_ratio(farm: &Farm) {
        let (mut small, mut large) = (Agent::new("small", 4), Agent::new("large", 8));
        small.beat(farm).await;
        large.beat(farm).await;
        for _ in 0..6 {
            farm.take(&csr()).await;
        }
        assert_eq!((farm.used("small").await.0, farm.used("large").await.0), (2, 4));
    }
}

on_all! {
    async fn ties_are_broken_at_random(farm: &Farm) {
        let mut agents = ["a", "b"].map(|name| Agent::new(name, 1000));
        let mut first = [0, 0];
        for _ in 0..40 {
            for agent in &mut agents {
                agent.beat(farm).await;
            }
            let one = farm.take(&csr()).await;
            let two = farm.take(&csr()).await;
            assert_ne!(one.node, two.node, "the second of a pair levels out the first");
            first[usize::from(one.node == id("b"))] += 1;
        }
        assert!(first[0] > 0 && first[1] > 0, "both win ties, not {first:?}");
    }
}

on_all! {
    async fn pack_fills_the_fullest_node_first(farm: &Farm) {
        for name in ["a", "b", "c"] {
            Agent::new(name, 3).beat(farm).await;
        }
        let first = farm.take(&csr().pack()).await.node;
        for _ in 0..2 {
            assert_eq!(farm.take(&csr().pack()).await.node, first);
        }
        let second = farm.take(&csr().pack()).await.node;
        assert_ne!(second, first, "a full node gets no more");
        assert_eq!(farm.take(&csr().pack()).await.node, second);
    }
}

on_all! {
    async fn a_full_farm_says_so_and_never_oversubscribes(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        farm.take(&csr()).await;
        farm.take(&csr()).await;
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
        assert_eq!(farm.used("a").await.0, 2);
    }
}

on_all! {
    async fn labels_pool_and_renderer_must_match(farm: &Farm) {
        let mut a = Agent::new("a", 9).labels(&[("sdk", "2025.1"), ("zone", "x")]).renderers(true, false);
        let mut b = Agent::new("b", 9).labels(&[("sdk", "2024.8")]).pool("gpu").renderers(false, true);
        a.beat(farm).await;
        b.beat(farm).await;
        assert_eq!(farm.take(&csr().label("sdk", "2025.1")).await.node, id("a"));
        assert_eq!(farm.take(&ssr()).await.node, id("b"));
        assert_eq!(farm.take(&ssr().pool("gpu").label("sdk", "2024.8")).await.node, id("b"));
        for reserve in [
            csr().label("sdk", "2024.8"),
            csr().pool("gpu"),
            ssr().pool("default"),
            csr().label("sdk", "2025.1").label("zone", "y"),
            csr().label("rack", "1"),
        ] {
            assert!(matches!(farm.reserve(&reserve).await, Reserved::NoMatch { known: false, .. }), "{reserve:?}");
        }
    }
}

on_all! {
    async fn gpu_slots_limit_server_side_rendering_only(farm: &Farm) {
        let mut agent = Agent::new("a", 8).gpus(2, 1);
        agent.beat(farm).await;
        farm.take(&ssr()).await;
        let second = farm.take(&ssr()).await;
        assert_eq!(farm.reserve(&ssr()).await, Reserved::Full);
        farm.take(&csr()).await;
        assert_eq!(farm.used("a").await, (3, 2));
        farm.registry.release(&id("a"), second.spawn).await.unwrap();
        assert_eq!(farm.used("a").await, (2, 1));
        farm.take(&ssr()).await;
    }
}

on_all! {
    async fn nodes_to_avoid_are_avoided_once(farm: &Farm) {
        for name in ["a", "b"] {
            Agent::new(name, 4).beat(farm).await;
        }
        for _ in 0..4 {
            assert_eq!(farm.take(&csr().avoid("a")).await.node, id("b"));
        }
        assert_eq!(farm.reserve(&csr().avoid("a")).await, Reserved::Full);
        assert_eq!(farm.take(&csr()).await.node, id("a"));
    }
}

on_all! {
    async fn a_released_slot_comes_back_once(farm: &Farm) {
        Agent::new("a", 1).beat(farm).await;
        let one = farm.take(&csr()).await;
        assert_eq!(one.advertise, "http://a:7070");
        for _ in 0..2 {
            farm.registry.release(&one.node, one.spawn).await.unwrap();
        }
        assert_eq!(farm.used("a").await.0, 0);
        farm.take(&csr()).await;
        farm.registry.release(&one.node, one.spawn).await.unwrap();
        assert_eq!(farm.used("a").await.0, 1, "somebody else's slot is not given back");
    }
}

on_all! {
    async fn a_slot_of_a_caller_that_never_got_its_answer_comes_back(farm: &Farm) {
        let (mut one, mut other) = (Agent::new("a", 2), Agent::new("b", 2));
        one.beat(farm).await;
        other.beat(farm).await;
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(farm.take(&csr()).await);
        }
        for _ in 0..2 {
            farm.registry.release_by_id(taken[0].spawn).await.unwrap();
            farm.registry.release_by_id(SpawnId::mint()).await.unwrap();
        }
        assert_eq!(farm.used("a").await.0 + farm.used("b").await.0, 3);
        assert_eq!(farm.take(&csr()).await.node, taken[0].node);
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
    }
}

on_all! {
    async fn a_reservation_whose_holder_died_expires_and_can_never_start(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        let one = farm.take(&csr()).await;
        farm.pass(TIMING.reservation).await;
        farm.registry.sweep().await.unwrap();
        assert_eq!(farm.used("a").await.0, 0);
        let orders = agent.beat(farm).await;
        assert_eq!((orders.expired.as_slice(), orders.abandoned.as_slice()), (&[one.spawn][..], &[][..]));
        agent.forgotten = orders.expired;
        assert_eq!(agent.beat(farm).await.expired, []);
    }
}

on_all! {
    async fn a_reported_spawn_does_not_expire_and_is_not_released(farm: &Farm) {
        let mut agent = Agent::new("a", 2);
        agent.beat(farm).await;
        let one = farm.take(&csr()).await;
        agent.report(farm, launching(one.spawn)).await;
        farm.registry.release(&one.node, one.spawn).await.unwrap();
        farm.pass(TIMING.reservation).await;
        agent.beat(farm).await;
        farm.registry.sweep().await.unwrap();
        assert_eq!(farm.used("a").await.0, 1);
        agent.report(farm, exited(one.spawn, ExitReason::Stopped)).await;
        assert_eq!(farm.used("a").await.0, 0);
    }
}

on_all! {
    async fn an_abandoned_reservation_keeps_its_slot_until_the_agent_has_forgotten_it(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        let one = farm.take(&csr()).await;
        farm.registry.abandon(&one.node, one.spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
        let orders = agent.beat(farm).await;
        assert_eq!(orders.abandoned, [one.spawn]);
        assert_eq!(farm.used("a").await.0, 1);
        agent.forgotten = vec![one.spawn];
        assert!(agent.beat(farm).await.abandoned.is_empty());
        assert_eq!(farm.used("a").await.0, 0);
    }
}

on_all! {
    async fn what_is_abandoned_on_an_unknown_node_reaches_its_agent(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        let spawn = csr().spawn;
        farm.registry.abandon(&"a".parse().unwrap(), spawn).await.unwrap();
        assert_eq!(agent.beat(farm).await.abandoned, [spawn]);
        agent.forgotten = vec![spawn];
        assert_eq!(agent.beat(farm).await.abandoned, []);
    }
}

on_all! {
    async fn an_abandoned_spawn_that_was_started_ends_through_its_agent(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        let one = farm.take(&csr()).await;
        farm.registry.abandon(&one.node, one.spawn).await.unwrap();
        let orders = agent.report(farm, launching(one.spawn)).await;
        assert_eq!(orders.abandoned, [one.spawn]);
        assert_eq!(farm.used("a").await.0, 1);
        agent.report(farm, exited(one.spawn, ExitReason::Cancelled)).await;
        agent.forgotten = vec![one.spawn];
        assert!(agent.beat(farm).await.abandoned.is_empty());
        assert_eq!(farm.used("a").await.0, 0);
    }
}

on_all! {
    async fn spawning_at_once_on_equal_nodes_is_even(farm: &Farm) {
        for n in 0..5 {
            Agent::new(&format!("n{n}"), 20).beat(farm).await;
        }
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..73 {
            let registry = farm.registry.clone();
            calls.spawn(async move { registry.reserve(&csr()).await });
        }
        while let Some(done) = calls.join_next().await {
            assert!(matches!(done.unwrap().unwrap(), Reserved::Slot(_)));
        }
        let used: Vec<u32> = farm.registry.nodes().await.unwrap().iter().map(|n| n.used).collect();
        let (min, max) = (used.iter().min().unwrap(), used.iter().max().unwrap());
        assert!(max - min <= 1, "{used:?}");
        assert_eq!(used.iter().sum::<u32>(), 73);
    }
}

on_all! {
    async fn unknown_things_are_left_alone(farm: &Farm) {
        farm.registry.release(&id("nobody"), SpawnId::mint()).await.unwrap();
        farm.registry.abandon(&id("nobody"), SpawnId::mint()).await.unwrap();
        assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: false, .. }));
        assert!(farm.registry.nodes().await.unwrap().is_empty());
        assert!(farm.registry.spawn(SpawnId::mint()).await.unwrap().is_none());
    }
}
