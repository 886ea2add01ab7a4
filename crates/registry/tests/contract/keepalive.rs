//! Heartbeats without a list: what they cost, what they find, and pings, which are no events.

use std::time::Duration;

use model::{Availability, EventKind, ExitReason, SpawnId, SpawnState, Timing};
use registry::{Difference, HeardReport, Orders, SpawnReport, WantedPings};

use crate::on_all;
use crate::support::*;

/// The heartbeats within which damage to one of so many spawns is found: each fourth one looks at the node, the others at a spawn.
fn bound(spawns: usize) -> usize {
    spawns.div_ceil(3) * 4
}

async fn with_spawns(farm: &Farm, spawns: usize) -> Agent {
    let mut agent = Agent::new("a", 200).gpus(1, 200).identified();
    agent.beat(farm).await;
    for n in 0..spawns {
        let report = SpawnReport {
            gpu: (n % 2 == 0).then_some(0),
            owner: (n % 3 > 0).then(|| "ann".parse().unwrap()),
            labels: [("sdk".to_owned(), "1".to_owned())].into(),
            tags: [("user".to_owned(), n.to_string())].into(),
            life_left: (n == 1).then_some(Duration::from_secs(600)),
            connected: (n == 1).then_some(Duration::ZERO),
            ..ready(csr().spawn)
        };
        agent.report(farm, report).await;
    }
    agent
}

on_all! {
    async fn a_heartbeat_without_a_list_keeps_a_node_up_and_brings_orders(farm: &Farm) {
        let mut agent = with_spawns(farm, 2).await;
        for _ in 0..4 {
            farm.pass(TIMING.stale / 2).await;
            agent.beat(farm).await;
        }
        assert_eq!(farm.registry.node(&id("a")).await.unwrap().unwrap().availability, Availability::Up);
        let taken = farm.take(&csr()).await.spawn;
        farm.registry.abandon(&id("a"), taken).await.unwrap();
        let generation =
            farm.registry.set_eligibility(&id("a"), model::Eligibility::Cordoned, None, None).await.unwrap();
        let orders = agent.beat(farm).await;
        assert_eq!((orders.eligibility, Some(orders.generation)), (model::Eligibility::Cordoned, generation));
        assert_eq!(orders.abandoned, [taken]);
        assert_eq!(agent.differences, []);
        assert_eq!(farm.used("a").await, (3, 1));
    }
}

on_all! {
    async fn whatever_both_do_not_agree_on_is_asked_for_and_right_after_one_list(farm: &Farm) {
        let mut agent = with_spawns(farm, 3).await;
        // The agent has lost one without a word: its own digest is another one, so it sends the list by itself.
        let lost = agent.spawns.pop().unwrap().id;
        let asked = farm.registry.keepalive(&agent.keepalive()).await.unwrap();
        assert_eq!(asked, Orders { differs: Some(Difference::Digest), ..Orders::default() });
        assert_eq!(farm.registry.spawn(lost).await.unwrap().unwrap().state, SpawnState::Ready, "nothing is applied");
        agent.beat(farm).await;
        assert_eq!(farm.registry.spawn(lost).await.unwrap().unwrap().state, SpawnState::Exited);
        // A report was lost on its way.
        let mut ahead = agent.clone();
        ahead.accepted += 1;
        let asked = farm.registry.keepalive(&ahead.keepalive()).await.unwrap();
        assert_eq!(asked.differs, Some(Difference::Changes));
        let mut ordered = agent.clone();
        ordered.desired.generation = 7;
        ordered.spawns = agent.spawns.clone();
        let keepalive = registry::Keepalive { digest: agent.digest(), ..ordered.keepalive() };
        assert_eq!(farm.registry.keepalive(&keepalive).await.unwrap().differs, Some(Difference::Order));
        let other = agent.restarted();
        assert_eq!(farm.registry.keepalive(&other.keepalive()).await.unwrap().differs, Some(Difference::Unknown));
        let nowhere = Agent::new("b", 1).identified();
        assert_eq!(farm.registry.keepalive(&nowhere.keepalive()).await.unwrap().differs, Some(Difference::Unknown));
        farm.becomes("a", Availability::Stale).await;
        agent.beat(farm).await;
        assert_eq!(agent.differences, [Difference::Silent]);
        assert_eq!(farm.registry.node(&id("a")).await.unwrap().unwrap().availability, Availability::Up);
        agent.beat(farm).await;
        assert_eq!(agent.differences.len(), 1);
    }
}

on_all! {
    async fn what_happens_on_a_healthy_node_asks_for_no_list(farm: &Farm) {
        let mut agent = Agent::new("a", 9).gpus(1, 4).identified();
        agent.beat(farm).await;
        for n in 0..24 {
            let taken = farm.take(&if n % 2 == 0 { ssr() } else { csr() }.of("ann", 9)).await.spawn;
            agent.beat(farm).await;
            let owner = Some("ann".parse().unwrap());
            let spawn = SpawnReport { gpu: (n % 2 == 0).then_some(0), owner, ..launching(taken) };
            agent.report(farm, spawn.clone()).await;
            agent.beat(farm).await;
            let state = SpawnState::Ready;
            agent.report(farm, SpawnReport { state, ready: Some(Duration::ZERO), ..spawn }).await;
            if agent.spawns.len() > 3 {
                let first = agent.spawns[0].id;
                agent.report(farm, exited(first, ExitReason::Disconnected)).await;
            }
            if n == 7 {
                let change = agent.change(&agent.spawns[0].clone());
                agent.report(farm, change.spawn.clone()).await;
                agent.repeat(farm, change).await;
            }
        }
        for _ in 0..8 {
            agent.beat(farm).await;
        }
        assert_eq!(agent.differences, []);
        assert_eq!(farm.used("a").await.0, 3);
    }
}

/// Heartbeats that are counted together.
const BEATS: u64 = 40;

/// Nothing goes stale while a test damages key after key.
fn timing() -> Timing {
    Timing { stale: Duration::from_secs(300), down: Duration::from_secs(600), ..TIMING }
}

#[tokio::test]
async fn damage_to_any_of_many_spawns_is_found_within_the_bound_and_made_good_by_one_list() {
    let farm = Farm::redis_with(timing()).await;
    let mut agent = with_spawns(&farm, 10).await;
    let owner = "ann".parse().unwrap();
    let of_owner =
        registry::SpawnFilter { owners: vec![owner], limit: 99, ..registry::SpawnFilter::default() };
    let mut connection = farm.server().connection().await;
    let see = async || {
        let mut living = farm.registry.living(&[id("a")]).await.unwrap();
        living.sort_unstable_by_key(|spawn| spawn.id);
        // The history of a record that is lost is lost, and what is left are ages.
        let owned: Vec<SpawnId> =
            farm.registry.spawns(&of_owner).await.unwrap().spawns.into_iter().map(|spawn| spawn.id).collect();
        let living: Vec<_> = living
            .into_iter()
            .map(|s| {
                (s.viewer_and_life(), s.id, s.state, s.endpoint, s.renderer, s.labels, s.tags, s.owner, s.gpu)
            })
            .collect();
        (living, owned.len(), farm.used("a").await, farm.owned("ann").await)
    };
    let before = see().await;
    let spawn = agent.spawns[1].id;
    let prefix = "{hatchery:test}";
    let mut damages = vec![
        format!("HDEL {prefix}:held:a {spawn}"),
        format!("HSET {prefix}:held:a {spawn} R-"),
        format!("ZREM {prefix}:spawns {spawn}"),
        format!("ZREM {prefix}:spawns:a {spawn}"),
        format!("ZREM {prefix}:spawns-of:ann {spawn}"),
        format!("HDEL {prefix}:owned:ann {spawn}"),
        format!("DEL {prefix}:owned:ann"),
        format!("DEL {prefix}:spawns-of:ann"),
        format!("DEL {prefix}:spawns"),
        format!("DEL {prefix}:held:a"),
        format!("DEL {prefix}:spawn:{spawn}"),
    ];
    for field in [
        "state",
        "renderer",
        "endpoint",
        "gpu",
        "labels",
        "tags",
        "owner",
        "started",
        "connected",
        "expires",
        "events",
    ] {
        damages.push(format!("HDEL {prefix}:spawn:{spawn} {field}"));
        if !["state", "gpu"].contains(&field) {
            damages.push(format!("HSET {prefix}:spawn:{spawn} {field} nonsense"));
        }
    }
    for damage in damages {
        let words: Vec<&str> = damage.split(' ').collect();
        let mut command = redis::cmd(words[0]);
        let () = command.arg(&words[1..]).query_async(&mut connection).await.unwrap();
        agent.differences.clear();
        let mut beats = 0;
        while agent.differences.is_empty() {
            agent.beat(&farm).await;
            beats += 1;
            assert!(beats <= bound(10), "{damage} is not found");
        }
        assert_eq!(see().await, before, "{damage}");
        for _ in 0..bound(10) {
            agent.beat(&farm).await;
        }
        assert_eq!(agent.differences.len(), 1, "{damage}: {:?}", agent.differences);
    }
}

trait ViewerAndLife {
    fn viewer_and_life(&self) -> (bool, bool, bool);
}

impl ViewerAndLife for model::SpawnRecord {
    fn viewer_and_life(&self) -> (bool, bool, bool) {
        (self.connected_at.is_some(), self.disconnected_at.is_some(), self.expires_at.is_some())
    }
}

#[tokio::test]
async fn a_heartbeat_without_a_list_costs_the_same_with_no_spawns_and_with_a_hundred() {
    let mut costs = Vec::new();
    for spawns in [0, 100] {
        let farm = Farm::redis_with(timing()).await;
        let mut agent = with_spawns(&farm, spawns).await;
        agent.beat(&farm).await;
        let server = farm.server();
        let read = async |section: &str, field: &str| -> u64 {
            let text: String = server.query(&format!("INFO {section}")).await.unwrap();
            let lines = text.lines().filter(|line| line.starts_with(field) && !line.contains("_info"));
            let number = |line: &str| {
                let from = line.find("calls=").map_or(line.find(':').unwrap() + 1, |at| at + 6);
                line[from..].split(',').next().unwrap().parse::<u64>().unwrap()
            };
            lines.map(number).sum()
        };
        let before = (read("commandstats", "cmdstat_").await, read("stats", "total_net_input_bytes").await);
        for _ in 0..BEATS {
            agent.beat(&farm).await;
        }
        let calls = read("commandstats", "cmdstat_").await - before.0;
        let bytes = read("stats", "total_net_input_bytes").await - before.1;
        assert_eq!(agent.differences, []);
        assert!(bytes / BEATS < 1024, "{} bytes each", bytes / BEATS);
        costs.push(f64::from(u32::try_from(calls).unwrap()) / 40.0);
    }
    let ratio = costs[1] / costs[0];
    assert!((0.9..1.1).contains(&ratio), "commands of a heartbeat: {costs:?}");
    assert!(costs[0] < 20.0, "{costs:?}");
}

on_all! {
    async fn pings_reach_those_that_ask_for_them_and_are_no_events(farm: &Farm) {
        let mut agent = with_spawns(farm, 2).await;
        let position = farm.registry.position().await.unwrap();
        let spawn = agent.spawns[0].id;
        let ping = vec![(spawn, Duration::from_millis(100))];
        agent.pings = ping.clone();
        assert!(!agent.beat(farm).await.pings, "no reader has asked");
        let one = WantedPings::Of([id("a")].into());
        let follow = async |position| farm.registry.follow_with_pings(position, Duration::ZERO, &one).await.unwrap();
        assert_eq!(follow(position).await.events, []);
        agent.pings.clear();
        assert!(agent.beat(farm).await.pings);
        agent.pings = ping.clone();
        let before = farm.registry.now().await.unwrap();
        agent.beat(farm).await;
        agent.pings.clear();
        // Among the events, in the order of their numbers.
        let change = agent.change(&SpawnReport { state: SpawnState::Suspect, ..agent.spawns[1].clone() });
        agent.report(farm, change.spawn).await;
        agent.beat(farm).await;
        agent.pings = ping;
        agent.beat(farm).await;
        let news = follow(position).await;
        let kinds: Vec<EventKind> = news.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::SpawnPing, EventKind::SpawnSuspect, EventKind::SpawnPing]);
        assert!(news.events.is_sorted_by_key(|event| event.seq) && news.position.seq == news.events[2].seq);
        let first = &news.events[0];
        assert_eq!((&first.node, first.spawn, first.data["pings"].as_object().unwrap().len()), (&Some(id("a")), None, 1));
        let at: model::Timestamp = serde_json::from_value(first.data["pings"][spawn.to_string()].clone()).unwrap();
        assert!(at >= before.before(Duration::from_millis(100)), "{at} {before}");
        // One goes on from either.
        let last = news.position;
        assert_eq!(follow(last).await, registry::Follow { position: last, ..registry::Follow::default() });
        for seq in [news.events[0].seq, news.events[1].seq] {
            let from = registry::Position { seq, seen: seq, ..last };
            let events = follow(from).await.events;
            assert_eq!(events, news.events.iter().filter(|event| event.seq > seq).cloned().collect::<Vec<_>>());
        }
        let events = farm.registry.follow(position, Duration::ZERO).await.unwrap().events;
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::SpawnSuspect]);
        assert!(!farm.registry.follow(last, Duration::ZERO).await.unwrap().gap);
        farm.registry.follow_with_pings(last, Duration::ZERO, &WantedPings::All).await.unwrap();
        let mut other = Agent::new("b", 1).identified();
        other.beat(farm).await;
        assert!(other.beat(farm).await.pings, "all are wanted now");
    }
}

on_all! {
    async fn a_heartbeat_says_when_all_spawns_last_reported_but_for_late_ones(farm: &Farm) {
        let mut agent = with_spawns(farm, 3).await;
        let [punctual, late, silent] = [0, 1, 2].map(|n| agent.spawns[n].id);
        let second = Duration::from_secs(1);
        let heard = async |spawn: SpawnId| {
            let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
            let located = farm.registry.locate(spawn).await.unwrap().unwrap().spawn;
            let listed = farm.registry.living(&[id("a")]).await.unwrap();
            let listed = listed.iter().find(|record| record.id == spawn).unwrap().last_ping_at;
            assert_eq!((located.last_ping_at, listed), (record.last_ping_at, record.last_ping_at));
            farm.registry.now().await.unwrap().since(record.last_ping_at.unwrap())
        };
        farm.pass(second / 4).await;
        agent.heard = HeardReport { since: Some(Duration::ZERO), late: vec![(late, Some(second)), (silent, None)] };
        agent.beat(farm).await;
        assert!(heard(punctual).await < second / 4, "{:?}", heard(punctual).await);
        assert!(heard(late).await >= second, "{:?}", heard(late).await);
        assert!(heard(silent).await >= second / 4, "what the record says");
        assert_eq!(agent.differences, []);
        agent.heard = HeardReport::default();
        agent.beat(farm).await;
        assert!(heard(punctual).await >= second / 4, "not known any more");
    }
}
