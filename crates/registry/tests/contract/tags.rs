//! The pairs of text that callers give their spawns: kept as they are reported, brought back by heartbeats, found by lists
//! with every other part of a filter.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{ExitReason, Origin, Owner, Phases, SpawnId, SpawnState, Tag};
use registry::ask::MAX_LOOKED_AT;
use registry::{SpawnFilter, SpawnReport};

use crate::on_all;
use crate::servers::RedisServer;
use crate::support::*;

/// Shows what quotes, bars, braces and other letters could break.
const ANN: &[(&str, &str)] = &[("user", r#"ann "{é}|\""#), ("visit", "7")];

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn tagged(pairs: &[(&str, &str)], report: SpawnReport) -> SpawnReport {
    SpawnReport { tags: tags(pairs), ..report }
}

async fn recorded(farm: &Farm, spawn: SpawnId) -> BTreeMap<String, String> {
    farm.registry.spawn(spawn).await.unwrap().expect("a record").tags
}

on_all! {
    async fn tags_are_kept_from_a_spawns_first_report_to_its_end(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        let position = farm.registry.position().await.unwrap();
        let [ann, plain] = [csr().spawn, csr().spawn];
        agent.report(farm, tagged(ANN, launching(ann))).await;
        agent.report(farm, launching(plain)).await;
        agent.report(farm, tagged(ANN, ready(ann))).await;
        agent.beat(farm).await;
        assert_eq!((recorded(farm, ann).await, recorded(farm, plain).await), (tags(ANN), tags(&[])));
        agent.report(farm, tagged(ANN, exited(ann, ExitReason::Stopped))).await;
        assert_eq!(recorded(farm, ann).await, tags(ANN));
        let events = farm.registry.follow(position, Duration::from_millis(1)).await.unwrap().events;
        let mut of_ann = events.iter().filter(|event| event.spawn == Some(ann));
        assert_eq!(of_ann.next().unwrap().field("tags"), Some(tags(ANN)), "the first event has them");
        assert!(of_ann.all(|event| !event.data.contains_key("tags")), "once is enough");
        assert!(events.iter().filter(|event| event.spawn == Some(plain)).all(|event| event.data.get("tags").is_none()));
    }
}

on_all! {
    async fn a_heartbeat_brings_tags_back_to_a_registry_that_was_wiped(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        let [suspect, young] = [csr().spawn, csr().spawn];
        agent.spawns = vec![
            tagged(ANN, SpawnReport { state: SpawnState::Suspect, ..ready(suspect) }),
            tagged(&[("visit", "8")], launching(young)),
        ];
        let position = farm.registry.position().await.unwrap();
        agent.beat(farm).await;
        assert_eq!((recorded(farm, suspect).await, recorded(farm, young).await), (tags(ANN), tags(&[("visit", "8")])));
        let events = farm.registry.follow(position, Duration::from_millis(1)).await.unwrap().events;
        for (spawn, wanted) in [(suspect, ANN), (young, &[("visit", "8")])] {
            let first = events.iter().find(|event| event.spawn == Some(spawn)).unwrap();
            assert_eq!(first.field("tags"), Some(tags(wanted)));
        }
    }
}

on_all! {
    async fn an_agent_that_does_not_know_a_spawns_tags_takes_none_away(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        let spawn = csr().spawn;
        agent.report(farm, tagged(ANN, ready(spawn))).await;
        let mut next = Agent::new("a", 9);
        next.spawns = vec![ready(spawn)];
        next.takeover(farm, Vec::new()).await;
        for _ in 0..5 {
            next.beat(farm).await;
        }
        assert_eq!(recorded(farm, spawn).await, tags(ANN));
        next.report(farm, SpawnReport { state: SpawnState::Suspect, ..ready(spawn) }).await;
        assert_eq!(recorded(farm, spawn).await, tags(ANN));
        next.report(farm, exited(spawn, ExitReason::Stopped)).await;
        assert_eq!(recorded(farm, spawn).await, tags(ANN));
        // It is alive after all.
        next.spawns = vec![ready(spawn)];
        next.beat(farm).await;
        assert_eq!(recorded(farm, spawn).await, tags(ANN));
    }
}

#[tokio::test]
async fn tags_that_a_record_has_lost_are_back_with_the_next_heartbeat() {
    let redis = RedisServer::start().await;
    let farm = Farm::named(&redis.url(), "tags");
    let mut agent = Agent::new("a", 9);
    agent.beat(&farm).await;
    let spawn = csr().spawn;
    agent.report(&farm, tagged(ANN, ready(spawn))).await;
    for damage in [
        format!("HDEL {{hatchery:tags}}:spawn:{spawn} tags"),
        format!("HSET {{hatchery:tags}}:spawn:{spawn} tags x"),
    ] {
        redis.run(&damage).await;
        agent.beat(&farm).await;
        assert_eq!(recorded(&farm, spawn).await, tags(ANN), "{damage}");
    }
}

/// All pages of a filter.
async fn found(farm: &Farm, mut filter: SpawnFilter) -> Vec<SpawnId> {
    let mut found = Vec::new();
    loop {
        let page = farm.registry.spawns(&filter).await.unwrap();
        assert!(page.spawns.len() <= filter.limit);
        found.extend(page.spawns.iter().map(|spawn| spawn.id));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return found;
        }
    }
}

on_all! {
    async fn a_filter_finds_exactly_those_that_are_as_all_its_parts_say(farm: &Farm) {
        let mut agents = [Agent::new("a", 99), Agent::new("b", 99)];
        let owners: [Option<Owner>; 3] = [None, Some("key:ann".parse().unwrap()), Some("key:bob".parse().unwrap())];
        let values = ["", "7", r#"a "b"|"#];
        let states = [SpawnState::Ready, SpawnState::Suspect];
        let mut all = Vec::new();
        for (n, agent) in agents.iter_mut().enumerate() {
            agent.beat(farm).await;
            for owner in &owners {
                for value in values {
                    for state in states {
                        let spawn = csr().spawn;
                        let tags = tags(&[("visit", value), ("user", "ann")][..1 + usize::from(value != "7")]);
                        let report = SpawnReport { state, owner: owner.clone(), tags: tags.clone(), ..ready(spawn) };
                        agent.report(farm, report).await;
                        all.push((spawn, ["a", "b"][n], owner, tags, state));
                    }
                }
            }
        }
        all.reverse();
        let wanted_tags: [&[Tag]; 5] = [
            &[],
            &[tag("visit", "")],
            &[tag("user", "ann"), tag("visit", r#"a "b"|"#)],
            &[tag("user", "an")],
            &[tag("visit", "7"), tag("visit", "")],
        ];
        for tags in wanted_tags {
            for node in [None, Some("b")] {
                for names in [&[][..], &[1], &[1, 2], &[2, 1]] {
                    for state in [None, Some(SpawnState::Suspect)] {
                        let owners: Vec<Owner> = names.iter().filter_map(|n| owners[*n].clone()).collect();
                        let fits = |spawn: &&(SpawnId, &str, &Option<Owner>, BTreeMap<String, String>, SpawnState)| {
                            let (_, at, owner, has, is) = spawn;
                            tags.iter().all(|tag| has.get(&tag.key) == Some(&tag.value))
                                && node.is_none_or(|node| node == *at)
                                && (owners.is_empty() || owner.as_ref().is_some_and(|owner| owners.contains(owner)))
                                && state.is_none_or(|state| state == *is)
                        };
                        let wanted: Vec<SpawnId> = all.iter().filter(fits).map(|spawn| spawn.0).collect();
                        for limit in [1, 3, 100] {
                            let filter = SpawnFilter {
                                node: node.map(id), owners: owners.clone(), state, tags: tags.to_vec(), limit, cursor: None, ..SpawnFilter::default() };
                            assert_eq!(found(farm, filter.clone()).await, wanted, "{filter:?}");
                        }
                    }
                }
            }
        }
    }
}

async fn bounded(farm: &Farm) {
    const EACH: usize = 500;
    let needle = csr().spawn;
    for n in 0..=MAX_LOOKED_AT / EACH {
        let mut agent = Agent::new(&format!("n{n}"), 9);
        if n == 0 {
            agent.spawns.push(tagged(ANN, ready(needle)));
        }
        agent.spawns.extend((0..EACH).map(|_| launching(csr().spawn)));
        agent.beat(farm).await;
    }
    let filter = SpawnFilter { tags: vec![tag("visit", "7")], limit: 9, ..SpawnFilter::default() };
    let page = farm.registry.spawns(&filter).await.unwrap();
    assert!(page.spawns.is_empty() && page.next.is_some(), "not the last page, though it is empty: {page:?}");
    let page = farm.registry.spawns(&SpawnFilter { cursor: page.next, ..filter }).await.unwrap();
    assert_eq!((page.spawns.len(), page.next), (1, None));
    assert_eq!(page.spawns[0].id, needle);
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_spawns_embedded() {
    bounded(&Farm::embedded()).await;
}

#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_spawns_redis() {
    bounded(&Farm::redis().await).await;
}

/// The request of a spawn, with what quotes and bars could break.
fn from_a_request(report: SpawnReport) -> SpawnReport {
    let origin = Origin {
        request_id: Some("req-1|{e}".parse().unwrap()),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap()),
        phases: Some(Phases { waited_ms: Some(700), reserved_ms: 810, sent_ms: 812 }),
    };
    SpawnReport { origin, ..report }
}

on_all! {
    async fn the_request_of_a_spawn_is_kept_like_its_tags(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        let [asked, plain] = [csr().spawn, csr().spawn];
        let origin = async |spawn| farm.registry.spawn(spawn).await.unwrap().expect("a record").origin;
        let wanted = from_a_request(launching(asked)).origin;
        agent.report(farm, from_a_request(launching(asked))).await;
        agent.report(farm, launching(plain)).await;
        agent.report(farm, from_a_request(ready(asked))).await;
        assert_eq!((origin(asked).await, origin(plain).await), (wanted.clone(), Origin::default()));
        // The next agent may not know it.
        let mut next = Agent::new("a", 9);
        next.spawns = vec![ready(asked)];
        next.takeover(farm, Vec::new()).await;
        for _ in 0..5 {
            next.beat(farm).await;
        }
        next.report(farm, exited(asked, ExitReason::Stopped)).await;
        assert_eq!(origin(asked).await, wanted);
        // Lists do without.
        let listed = farm.registry.spawns(&SpawnFilter { limit: 9, ..SpawnFilter::default() }).await.unwrap();
        assert!(listed.spawns.iter().all(|spawn| spawn.origin.is_empty()), "{listed:?}");
    }
}

on_all! {
    async fn an_agent_that_knows_less_of_a_request_takes_nothing_from_its_record(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        let spawn = csr().spawn;
        let whole = from_a_request(launching(spawn)).origin;
        agent.report(farm, from_a_request(launching(spawn))).await;
        // It was rolled back to a release that knows no phases.
        let poorer = Origin { phases: None, ..whole.clone() };
        let reported = SpawnReport { origin: poorer, ..ready(spawn) };
        agent.report(farm, reported.clone()).await;
        agent.spawns = vec![reported];
        // Every fourth is a full check.
        for _ in 0..4 {
            agent.beat(farm).await;
        }
        assert_eq!(farm.registry.spawn(spawn).await.unwrap().expect("a record").origin, whole);
    }
}

on_all! {
    async fn a_heartbeat_brings_the_request_back_to_a_registry_that_was_wiped(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        let spawn = csr().spawn;
        agent.spawns = vec![from_a_request(SpawnReport { state: SpawnState::Suspect, ..ready(spawn) })];
        agent.beat(farm).await;
        let record = farm.registry.spawn(spawn).await.unwrap().expect("a record");
        assert_eq!(record.origin, agent.spawns[0].origin);
    }
}
