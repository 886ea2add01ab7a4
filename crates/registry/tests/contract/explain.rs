//! Why a node is chosen and why the others are not: what is foreseen is what a reserve then does.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{
    Availability, Drain, Eligibility, NodeId, RendererType, StartFailure, Starts, Supply, TicketId, Timing,
    WarmCount,
};
use registry::{Assessment, Forecast, Foreseen, Judge, Outcome, Outcomes, Reserve, Reserved, Standing};

use crate::on_all;
use crate::support::*;

async fn forecast(farm: &Farm, ask: &Reserve) -> Forecast {
    farm.registry.forecast(ask).await.unwrap()
}

async fn assess(farm: &Farm) -> Vec<Assessment> {
    farm.registry.assess().await.unwrap()
}

/// The node that would be chosen, and the verdict on each node.
async fn explain(farm: &Farm, ask: &Reserve) -> (Option<String>, BTreeMap<String, String>) {
    let (forecast, nodes) = (forecast(farm, ask).await, assess(farm).await);
    let judge = Judge::new(&ask.demand, &forecast, &nodes);
    let verdicts = nodes.iter().map(|node| (node.node.to_string(), judge.verdict(node).key().into_owned()));
    let chosen = match &forecast.outcome {
        Foreseen::Slot { node, .. } => Some(node.to_string()),
        _ => None,
    };
    (chosen, verdicts.collect())
}

fn counts(verdicts: &BTreeMap<String, String>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for verdict in verdicts.values() {
        *counts.entry(verdict.as_str()).or_default() += 1;
    }
    counts
}

async fn learn(farm: &Farm, node: &str, outcome: Outcome) {
    let starts = vec![(id(node), outcome)];
    let outcomes = Outcomes { renderer: model::RendererType::Csr, same_everywhere: None, starts };
    farm.registry.learn(&outcomes).await.unwrap();
}

async fn fail(farm: &Farm, node: &str) {
    let reason = "no license".to_owned();
    learn(farm, node, Outcome::Failed(StartFailure { reason, conclusive: true, whole_node: true })).await;
}

async fn close(farm: &Farm, node: &str, eligibility: Eligibility) {
    let now = farm.registry.now().await.unwrap();
    let drain =
        Drain { deadline: now.after(Duration::from_secs(60)), reason: None, by: None, started_at: now };
    let drain = (eligibility == Eligibility::Draining).then_some(&drain);
    farm.registry.set_eligibility(&id(node), eligibility, drain, None).await.unwrap().unwrap();
}

/// Takes slots of this very node.
async fn fill(farm: &Farm, node: &str, slots: u32) {
    let others: Vec<NodeId> = assess(farm).await.into_iter().map(|other| other.node).collect();
    for _ in 0..slots {
        let mut ask = Reserve { probed: true, ..csr() };
        ask.avoid.extend(others.iter().filter(|other| other.as_str() != node).cloned());
        assert_eq!(farm.take(&ask).await.node.as_str(), node);
    }
}

on_all! {
    /// The chosen node, and for every other node the first thing that speaks against it.
    async fn every_node_has_a_verdict_and_a_reserve_takes_the_chosen_one(farm: &Farm) {
        for agent in [
            Agent::new("best", 4),
            Agent::new("busier", 4),
            Agent::new("full", 1),
            Agent::new("cordoned", 4),
            Agent::new("draining", 4),
            Agent::new("failing", 4),
            Agent::new("other-sdk", 4).labels(&[("sdk", "1")]),
            Agent::new("other-pool", 4).labels(&[("sdk", "2")]).pool("gpu"),
            Agent::new("only-ssr", 4).renderers(false, true),
        ] {
            let labelled = !agent.description.kind.labels.is_empty();
            let agent = if labelled { agent } else { agent.labels(&[("sdk", "2")]) };
            agent.clone().beat(farm).await;
        }
        let dedicated = Agent::new("dedicated", 4).labels(&[("sdk", "2")]).pool("next");
        let mut dedicated = dedicated;
        dedicated.description.kind.dedicated = true;
        dedicated.beat(farm).await;
        fill(farm, "full", 1).await;
        fill(farm, "busier", 1).await;
        close(farm, "cordoned", Eligibility::Cordoned).await;
        close(farm, "draining", Eligibility::Draining).await;
        fail(farm, "failing").await;

        let ask = csr().label("sdk", "2").pool("default");
        let (chosen, verdicts) = explain(farm, &ask).await;
        let wanted = [
            ("best", "chosen"),
            ("busier", "outranked"),
            ("cordoned", "cordoned"),
            ("dedicated", "pool"),
            ("draining", "draining"),
            ("failing", "failing"),
            ("full", "full"),
            ("only-ssr", "renderer"),
            ("other-pool", "pool"),
            ("other-sdk", "label sdk"),
        ];
        let wanted: BTreeMap<_, _> = wanted.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        assert_eq!((chosen.as_deref(), &verdicts), (Some("best"), &wanted));
        let (_, anywhere) = explain(farm, &csr().label("sdk", "2")).await;
        assert_eq!(anywhere["dedicated"], "dedicated");
        assert_eq!(farm.take(&ask).await.node.as_str(), "best");
    }
}

on_all! {
    /// However often it is asked.
    async fn asking_why_takes_and_changes_nothing(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        fail(farm, "a").await;
        learn(farm, "a", Outcome::Nothing).await;
        let mut other = Agent::new("b", 1);
        other.beat(farm).await;
        let before = (farm.registry.position().await.unwrap().seq, assess(farm).await);
        for _ in 0..3 {
            let foreseen = forecast(farm, &csr()).await;
            let probe = Foreseen::Slot { node: id("a"), standing: Standing::Probe };
            assert_eq!((foreseen.outcome, foreseen.promised), (probe, Vec::new()), "the probe stays due");
        }
        assert_eq!(before, (farm.registry.position().await.unwrap().seq, assess(farm).await));
        assert_eq!((farm.used("a").await.0, farm.used("b").await.0), (0, 0));
        let taken = farm.take(&csr()).await;
        assert_eq!((taken.node, taken.standing), (id("a"), Standing::Probe));
    }
}

on_all! {
    /// Each time, chance may take another one.
    async fn equals_are_named_and_a_reserve_takes_one_of_them(farm: &Farm) {
        for node in ["a", "b", "c"] {
            Agent::new(node, 4).beat(farm).await;
        }
        Agent::new("d", 8).beat(farm).await;
        fill(farm, "d", 1).await;
        let (chosen, verdicts) = explain(farm, &csr()).await;
        let wanted = BTreeMap::from([("chosen", 1), ("equal", 2), ("outranked", 1)]);
        assert_eq!((counts(&verdicts), verdicts["d"].as_str()), (wanted, "outranked"));
        assert_eq!(verdicts[&chosen.unwrap()], "chosen");
        let taken = farm.take(&csr()).await.node.to_string();
        assert!(["chosen", "equal"].contains(&verdicts[&taken].as_str()), "{taken}: {verdicts:?}");
        // To empty nodes out, the busiest is best.
        let (chosen, _) = explain(farm, &csr().pack()).await;
        let taken = farm.take(&csr().pack()).await.node.to_string();
        assert_eq!((chosen.as_deref(), taken.as_str()), (Some(taken.as_str()), taken.as_str()));
    }
}

on_all! {
    /// Both registries say what decides where loads do not.
    async fn of_nodes_that_are_as_loaded_one_with_a_warm_server_is_better_and_not_equal(farm: &Farm) {
        let supply = |ready, waiting| Supply {
            starts: Some(Starts { limit: 4, waiting }),
            warm: [(RendererType::Csr, WarmCount { ready, wanted: 2 })].into(),
        };
        for (node, supply) in [("cold", supply(0, 0)), ("warm", supply(1, 0)), ("waits", supply(0, 9))] {
            let mut agent = Agent::new(node, 4);
            agent.supply = supply;
            agent.beat(farm).await;
        }
        let (chosen, verdicts) = explain(farm, &csr()).await;
        assert_eq!((chosen.as_deref(), counts(&verdicts)["outranked"]), (Some("warm"), 2), "{verdicts:?}");
        let (forecast, nodes) = (forecast(farm, &csr()).await, assess(farm).await);
        let handicaps: Vec<(&str, u8, u8)> =
            nodes.iter().map(|node| (node.node.as_str(), node.csr.handicap, node.ssr.handicap)).collect();
        assert_eq!(handicaps, [("cold", 1, 1), ("waits", 10, 10), ("warm", 0, 1)]);
        let ask = csr();
        let judge = Judge::new(&ask.demand, &forecast, &nodes);
        assert!(judge.is_warm() && nodes.iter().filter(|node| judge.is_slower(node)).count() == 2);
        assert_eq!(farm.take(&csr()).await.node.as_str(), "warm");
        let (chosen, verdicts) = explain(farm, &csr()).await;
        assert_eq!((chosen.as_deref(), verdicts["waits"].as_str()), (Some("cold"), "outranked"));
    }
}

on_all! {
    /// And the counts say of what.
    async fn where_nothing_is_foreseen_a_reserve_is_refused(farm: &Farm) {
        assert_eq!(forecast(farm, &csr()).await.outcome, Foreseen::NoMatch { known: false });
        let mut full = Agent::new("full", 1);
        full.beat(farm).await;
        Agent::new("gpu", 4).gpus(1, 1).beat(farm).await;
        Agent::new("only-csr", 4).renderers(true, false).beat(farm).await;
        fill(farm, "full", 1).await;
        farm.take(&ssr()).await;
        assert_eq!(forecast(farm, &ssr()).await.outcome, Foreseen::Full);
        assert_eq!(farm.reserve(&ssr()).await, Reserved::Full);
        let (_, verdicts) = explain(farm, &ssr()).await;
        assert_eq!(counts(&verdicts), BTreeMap::from([("full", 1), ("gpu full", 1), ("renderer", 1)]));
        close(farm, "full", Eligibility::Cordoned).await;
        close(farm, "gpu", Eligibility::Draining).await;
        assert_eq!(forecast(farm, &ssr()).await.outcome, Foreseen::NoMatch { known: true });
        assert!(matches!(farm.reserve(&ssr()).await, Reserved::NoMatch { known: true, .. }));
        let (_, verdicts) = explain(farm, &ssr()).await;
        assert_eq!(counts(&verdicts), BTreeMap::from([("cordoned", 1), ("draining", 1), ("renderer", 1)]));
    }
}

on_all! {
    /// A forecast promises a newcomer no slot that it would not get.
    async fn a_slot_that_is_promised_in_line_is_named_so(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        let held = farm.take(&csr()).await;
        assert_eq!(farm.reserve(&csr().place(TicketId::mint())).await, Reserved::Full);
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        let (chosen, verdicts) = explain(farm, &csr()).await;
        assert_eq!((chosen, verdicts["a"].as_str()), (None, "in line"));
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
    }
}

on_all! {
    /// Room is of no use to an owner that has all it may have.
    async fn an_owner_at_its_limit_is_refused_with_the_limit(farm: &Farm) {
        Agent::new("a", 4).beat(farm).await;
        farm.take(&csr().of("key:ann", 1)).await;
        let (chosen, verdicts) = explain(farm, &csr().of("key:ann", 1)).await;
        assert_eq!((chosen, verdicts["a"].as_str()), (None, "quota"));
        assert_eq!(farm.reserve(&csr().of("key:ann", 1)).await, Reserved::OverQuota);
        let (chosen, _) = explain(farm, &csr().of("key:bob", 1)).await;
        assert_eq!(chosen.as_deref(), Some("a"));
    }
}

on_all! {
    /// With its reason, and before a full one.
    async fn a_failing_node_is_the_last_choice(farm: &Farm) {
        for node in ["a", "b"] {
            Agent::new(node, 1).beat(farm).await;
        }
        fail(farm, "a").await;
        let (chosen, verdicts) = explain(farm, &csr()).await;
        assert_eq!((chosen.as_deref(), verdicts["a"].as_str()), (Some("b"), "failing"));
        let nodes = assess(farm).await;
        assert_eq!(nodes[0].csr.failing.as_deref(), Some("no license"));
        assert_eq!(farm.take(&csr()).await.node.as_str(), "b");
        let foreseen = forecast(farm, &csr()).await.outcome;
        assert_eq!(foreseen, Foreseen::Slot { node: id("a"), standing: Standing::LastChoice });
        let (_, verdicts) = explain(farm, &csr()).await;
        assert_eq!((verdicts["a"].as_str(), verdicts["b"].as_str()), ("chosen", "full"));
        assert_eq!(farm.take(&csr()).await.node.as_str(), "a");
    }
}

on_all! {
    /// Nothing is placed there, whatever it has.
    async fn a_silent_node_is_stale_and_then_down(farm: &Farm) {
        Agent::new("a", 4).beat(farm).await;
        for (availability, key) in [(Availability::Stale, "stale"), (Availability::Down, "down")] {
            farm.becomes("a", availability).await;
            let (chosen, verdicts) = explain(farm, &csr()).await;
            assert_eq!(chosen, None);
            // A busy machine may have let more time pass.
            assert!(verdicts["a"] == key || verdicts["a"] == "down", "{verdicts:?}");
        }
    }
}

/// No step of Redis is long, and all nodes are counted.
#[tokio::test]
async fn a_large_farm_is_assessed_whole() {
    const NODES: usize = 1100;
    let farm = Farm::redis_with(Timing { stale: Duration::from_secs(60), ..Timing::FARM }).await;
    for n in 0..NODES {
        Agent::new(&format!("n{n:04}"), 1).beat(&farm).await;
    }
    let (chosen, verdicts) = explain(&farm, &csr()).await;
    assert!(chosen.is_some());
    assert_eq!(counts(&verdicts), BTreeMap::from([("chosen", 1), ("equal", NODES - 1)]));
}

on_all! {
    /// Also for a request that no node there could take.
    async fn a_kind_whose_slots_are_promised_is_named_whatever_it_renders(farm: &Farm) {
        let mut agent = Agent::new("a", 1).renderers(true, false);
        agent.beat(farm).await;
        let taken = farm.take(&csr()).await;
        assert_eq!(farm.reserve(&csr().place(TicketId::mint())).await, Reserved::Full);
        assert_eq!(forecast(farm, &ssr()).await.promised, []);
        farm.registry.release(&taken.node, taken.spawn).await.unwrap();
        let foreseen = forecast(farm, &ssr()).await;
        assert!(matches!(foreseen.outcome, Foreseen::NoMatch { .. }), "{foreseen:?}");
        assert_eq!(foreseen.promised, [agent.description.kind.clone()]);
    }
}

on_all! {
    /// The nodes that a request avoids are left out of its own choice alone.
    async fn a_slot_is_promised_in_line_also_where_the_request_would_not_take_it(farm: &Farm) {
        let (mut a, mut b) = (Agent::new("a", 1), Agent::new("b", 1));
        a.beat(farm).await;
        b.beat(farm).await;
        let taken = [farm.take(&csr()).await, farm.take(&csr()).await];
        assert_eq!(farm.reserve(&csr().place(TicketId::mint()).avoid("b")).await, Reserved::Full);
        for slot in taken {
            farm.registry.release(&slot.node, slot.spawn).await.unwrap();
        }
        let foreseen = forecast(farm, &csr().avoid("a")).await;
        assert_eq!(foreseen.outcome, Foreseen::Slot { node: id("b"), standing: Standing::Good });
        assert_eq!(foreseen.promised, [a.description.kind.clone()]);
    }
}
