//! Lists in pages, and what time changes, in bounded steps.

use std::time::Duration;

use model::{Availability, Eligibility, ExitReason, HealthState, NodeId, Owner, SpawnId, Timing};
use registry::{NodeFilter, SpawnFilter, SpawnReport};

use crate::on_all;
use crate::servers::RedisServer;
use crate::support::*;

/// All pages, and how many there were.
async fn pages(farm: &Farm, filter: NodeFilter) -> (Vec<NodeId>, usize) {
    let (mut filter, mut names, mut count) = (filter, Vec::new(), 0);
    loop {
        let page = farm.registry.nodes_page(&filter).await.unwrap();
        count += 1;
        assert!(page.nodes.len() <= filter.limit.max(1), "{} nodes", page.nodes.len());
        names.extend(page.nodes.into_iter().map(|node| node.id));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return (names, count);
        }
    }
}

on_all! {
    async fn nodes_are_listed_in_pages_by_name_and_by_what_they_are(farm: &Farm) {
        for (name, pool, colour) in
            [("d", "big", "red"), ("b", "big", "red"), ("a", "big", "blue"), ("c", "small", "red"), ("e", "big", "red")]
        {
            Agent::new(name, 4).pool(pool).labels(&[("colour", colour)]).beat(farm).await;
        }
        farm.registry.set_eligibility(&id("d"), Eligibility::Cordoned, None, None).await.unwrap();
        let all = || NodeFilter { limit: 2, ..NodeFilter::default() };
        let red = || vec![("colour".to_owned(), "red".to_owned())];
        let big = || Some("big".to_owned());
        for (filter, wanted, count) in [
            (all(), &["a", "b", "c", "d", "e"][..], Some(3)),
            (NodeFilter { limit: 5, ..all() }, &["a", "b", "c", "d", "e"], Some(1)),
            (NodeFilter { limit: 0, ..all() }, &["a", "b", "c", "d", "e"], Some(5)),
            (NodeFilter { cursor: Some(id("bb")), ..all() }, &["c", "d", "e"], Some(2)),
            (NodeFilter { cursor: Some(id("e")), ..all() }, &[], Some(1)),
            (NodeFilter { pool: big(), ..all() }, &["a", "b", "d", "e"], None),
            (NodeFilter { pool: big(), labels: red(), limit: 9, ..all() }, &["b", "d", "e"], Some(1)),
            (NodeFilter { eligibility: Some(Eligibility::Cordoned), ..all() }, &["d"], Some(1)),
            (NodeFilter { availability: Some(Availability::Down), ..all() }, &[], Some(1)),
            (NodeFilter { health: Some(HealthState::Failing), ..all() }, &[], Some(1)),
            (NodeFilter { health: Some(HealthState::Ok), limit: 9, ..all() }, &["a", "b", "c", "d", "e"], Some(1)),
        ] {
            let (names, pages) = pages(farm, filter.clone()).await;
            assert_eq!(names.iter().map(NodeId::as_str).collect::<Vec<_>>(), wanted, "{filter:?}");
            assert!(count.is_none_or(|count| count == pages), "{pages} pages of {filter:?}");
        }
    }
}

fn of(owner: &str, report: SpawnReport) -> SpawnReport {
    SpawnReport { owner: Some(owner.parse().unwrap()), ..report }
}

/// All pages of spawns.
async fn spawns(farm: &Farm, mut filter: SpawnFilter) -> Vec<SpawnId> {
    let mut ids = Vec::new();
    loop {
        let page = farm.registry.spawns(&filter).await.unwrap();
        ids.extend(page.spawns.iter().map(|spawn| spawn.id));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return ids;
        }
    }
}

on_all! {
    async fn spawns_of_several_owners_are_one_list_newest_first(farm: &Farm) {
        let mut agent = Agent::new("a", 99);
        agent.beat(farm).await;
        let mut wanted = Vec::new();
        for n in 0..9 {
            let owner = ["key:ann", "key:bob", "key:eve"][n % 3];
            let spawn = csr().spawn;
            agent.report(farm, of(owner, ready(spawn))).await;
            if owner != "key:eve" {
                wanted.insert(0, spawn);
            }
        }
        let owners: Vec<Owner> = ["key:bob", "key:nobody", "key:ann"].map(|owner| owner.parse().unwrap()).into();
        for limit in [1, 2, 100] {
            let filter = SpawnFilter { owners: owners.clone(), limit, ..SpawnFilter::default() };
            assert_eq!(spawns(farm, filter).await, wanted, "{limit} a page");
        }
    }
}

on_all! {
    async fn ended_spawns_are_listed_by_when_they_ended_and_no_others_are_looked_at(farm: &Farm) {
        let mut agent = Agent::new("a", 99);
        agent.beat(farm).await;
        // Those that began first end last.
        let ids: Vec<SpawnId> = (0..6).map(|_| csr().spawn).collect();
        for id in &ids {
            agent.report(farm, ready(*id)).await;
        }
        let running = csr().spawn;
        agent.report(farm, ready(running)).await;
        for id in ids.iter().rev() {
            agent.report(farm, exited(*id, ExitReason::Stopped)).await;
        }
        // Those that ended in one millisecond are in an order of their own.
        let ended = farm.registry.now().await.unwrap().before(Duration::from_secs(60));
        for limit in [1, 2, 100] {
            let filter = SpawnFilter { ended_since: Some(ended), limit, ..SpawnFilter::default() };
            let mut listed = spawns(farm, filter).await;
            assert_eq!(listed.len(), ids.len(), "{limit} a page");
            listed.sort_unstable();
            let mut wanted = ids.clone();
            wanted.sort_unstable();
            assert_eq!(listed, wanted, "each once, {limit} a page");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        agent.report(farm, exited(running, ExitReason::Failed)).await;
        let filter = SpawnFilter { ended_since: Some(ended), limit: 1, ..SpawnFilter::default() };
        let page = farm.registry.spawns(&filter).await.unwrap();
        assert_eq!(page.spawns[0].id, running, "it ended last");
    }
}

/// Nothing goes stale by itself meanwhile.
fn slow() -> Timing {
    let long = Duration::from_secs(60);
    Timing { stale: long, down: 2 * long, reservation: Duration::from_secs(2), ..TIMING }
}

#[tokio::test]
async fn a_sweep_does_a_bounded_amount_and_says_when_more_is_due() {
    let redis = RedisServer::start().await;
    let farm = Farm::on_with(&redis.url(), "swept", slow());
    let mut agent = Agent::new("a", 300);
    agent.beat(&farm).await;
    let reserved = async || farm.registry.pending().await.unwrap().reserved;
    for _ in 0..300 {
        farm.take(&csr()).await;
    }
    assert!(!farm.registry.sweep().await.unwrap(), "nothing is due");
    assert_eq!(reserved().await, 300);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let mut sweeps = 0;
    loop {
        let before = reserved().await;
        let more = farm.registry.sweep().await.unwrap();
        sweeps += 1;
        assert!(before - reserved().await <= 64, "a step is short");
        if !more {
            break;
        }
    }
    assert_eq!((reserved().await, sweeps > 4), (0, true), "{sweeps} steps");
}
