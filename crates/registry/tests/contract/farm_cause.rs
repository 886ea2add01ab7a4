//! The farm's cause: requests that fail in the same way wherever they are tried blame no node.

use std::collections::BTreeMap;

use model::{Demand, FarmCause, NodeHealth, RendererType};
use registry::{Outcome, Outcomes, Reserve, SameEverywhere, Standing};

use crate::health::{chosen, failed, health, learn};
use crate::on_all;
use crate::support::*;

async fn fails_everywhere(farm: &Farm, why: &str) {
    let starts = vec![(id("a"), Outcome::Nothing), (id("b"), Outcome::Nothing)];
    let outcomes = Outcomes { renderer: RendererType::Csr, same_everywhere: Some(same(why)), starts };
    farm.registry.learn(&outcomes).await.unwrap();
}

on_all! {
    async fn requests_that_fail_alike_on_every_node_are_the_farms_cause_until_one_succeeds(farm: &Farm) {
        for name in ["a", "b"] {
            Agent::new(name, 8).beat(farm).await;
        }
        let cause = || async { farm.registry.farm_cause().await.unwrap() };
        for _ in 0..2 {
            fails_everywhere(farm, "no license server").await;
            assert_eq!(cause().await, None);
            assert_eq!(chosen(farm, csr()).await.1, Standing::Watched, "so that a success is reported");
        }
        learn(farm, "a", Outcome::Ready).await;
        assert_eq!(chosen(farm, csr()).await.1, Standing::Good);
        let before = farm.registry.now().await.unwrap();
        for _ in 0..4 {
            fails_everywhere(farm, "no \"license\" server").await;
        }
        let Some(FarmCause { reason, since, requests, .. }) = cause().await else { panic!("no cause") };
        assert_eq!((reason.as_str(), requests), ("no \"license\" server", 4));
        assert!(since >= before && since <= farm.registry.now().await.unwrap());
        assert_eq!(health(farm, "a").await, NodeHealth::default(), "no node is at fault");
        learn(farm, "b", failed()).await;
        assert!(cause().await.is_some());
        learn(farm, "a", Outcome::Ready).await;
        assert_eq!(cause().await, None);
    }
}

on_all! {
    async fn a_success_in_another_pool_does_not_end_the_cause_of_one(farm: &Farm) {
        for (name, pool) in [("c1", "cpu"), ("c2", "cpu"), ("g1", "gpu")] {
            Agent::new(name, 8).pool(pool).beat(farm).await;
        }
        let fails = |renderer, pool: Option<&str>| {
            let demand = Demand { renderer, pool: pool.map(str::to_owned), labels: BTreeMap::new() };
            let same_everywhere = Some(SameEverywhere { reason: "no license".to_owned(), demand });
            Outcomes { renderer, same_everywhere, starts: Vec::new() }
        };
        let of = async |nodes: &str| {
            let cause = farm.registry.farm_cause().await.unwrap();
            assert_eq!(cause.map(|cause| cause.nodes()), Some(format!("every node{nodes}")));
        };
        for _ in 0..3 {
            farm.registry.learn(&fails(RendererType::Csr, Some("cpu"))).await.unwrap();
            learn(farm, "g1", Outcome::Ready).await;
        }
        of(" of pool cpu").await;
        let ssr = Outcomes {
            renderer: RendererType::Ssr,
            same_everywhere: None,
            starts: vec![(id("c1"), Outcome::Ready)],
        };
        farm.registry.learn(&ssr).await.unwrap();
        of(" of pool cpu").await;
        farm.registry.learn(&fails(RendererType::Csr, None)).await.unwrap();
        of("").await;
        learn(farm, "g1", Outcome::Ready).await;
        of(" of pool cpu").await;
        learn(farm, "c2", Outcome::Ready).await;
        assert_eq!(farm.registry.farm_cause().await.unwrap(), None);
    }
}

on_all! {
    async fn sick_nodes_that_are_the_least_loaded_do_not_hide_those_that_are_well(farm: &Farm) {
        let sick = ["a", "b", "c"];
        for name in sick {
            Agent::new(name, 8).beat(farm).await;
        }
        for name in ["y", "z"] {
            let mut well = Agent::new(name, 8);
            well.spawns = (0..4).map(|_| ready(csr().spawn)).collect();
            well.beat(farm).await;
        }
        // One request after the other, each tried on three nodes at the most.
        let mut given = 0;
        for _ in 0..6 {
            let mut tried = Vec::new();
            let mut success = None;
            while tried.len() < 3 && success.is_none() {
                let slot = farm.take(&Reserve { avoid: tried.clone(), ..csr() }).await;
                farm.registry.release(&slot.node, slot.spawn).await.unwrap();
                match sick.contains(&slot.node.as_str()) {
                    true => tried.push(slot.node),
                    false => success = Some(slot.node),
                }
            }
            let mut starts: Vec<_> = tried.iter().map(|node| (node.clone(), failed())).collect();
            let same_everywhere = success.is_none().then(|| same("no license"));
            if same_everywhere.is_some() {
                starts.clear();
            }
            given += usize::from(success.is_some());
            starts.extend(success.map(|node| (node, Outcome::Ready)));
            let outcomes = Outcomes { renderer: RendererType::Csr, same_everywhere, starts };
            farm.registry.learn(&outcomes).await.unwrap();
        }
        assert!(given >= 4, "{given} of 6 requests found a node that is well");
    }
}
