//! Heartbeats repair a Redis that has lost single keys, and one bad record hides no others.

use std::time::Duration;

use model::{
    Drain, Eligibility, EventKind, NodeRecord, RendererType, SpawnId, StartFailure, Timestamp, Timing,
};
use redis::AsyncCommands;
use registry::{DesiredStateReport, Outcome, Outcomes, Reserved, SpawnFilter, SpawnReport};

use crate::support::*;

/// Every agent's heartbeats until all is as before.
const HEARTBEATS: usize = 5;

/// No node goes stale and no reservation expires while a test deletes key after key.
fn timing() -> Timing {
    Timing {
        stale: Duration::from_secs(300),
        down: Duration::from_secs(600),
        reservation: Duration::from_secs(300),
        ..TIMING
    }
}

/// All that callers see of a farm, but for what changes with time.
#[derive(Debug, PartialEq)]
struct Seen {
    nodes: Vec<NodeRecord>,
    living: Vec<SpawnId>,
    listed: Vec<SpawnId>,
    listed_of: Vec<Vec<SpawnId>>,
    /// Where nothing but one node matches: whether it is chosen.
    reserves: Vec<bool>,
    over_quota: bool,
}

struct Damage {
    farm: Farm,
    agents: Vec<Agent>,
    reserved: SpawnId,
}

impl Damage {
    async fn start() -> Self {
        let farm = Farm::redis_with(timing()).await;
        let mut agents = vec![
            Agent::new("a", 9).labels(&[("sdk", "1")]).gpus(2, 4).identified(),
            Agent::new("b", 9).identified(),
            Agent::new("c", 9).labels(&[("sdk", "3")]).identified(),
        ];
        for agent in &mut agents {
            agent.beat(&farm).await;
        }
        let owner = Some("ann".parse().unwrap());
        for (index, gpu) in [(0, None), (0, Some(1)), (1, None)] {
            let renderer = if gpu.is_some() { RendererType::Ssr } else { RendererType::Csr };
            let report =
                SpawnReport { gpu, renderer, owner: owner.clone(), last_ping: None, ..ready(csr().spawn) };
            agents[index].report(&farm, report).await;
        }
        let reserved = farm.take(&ssr().label("sdk", "1")).await.spawn;
        let at = Timestamp::from_millis(4_000_000_000_000);
        let drain = Drain { deadline: at, reason: None, by: None, started_at: at };
        let draining = Eligibility::Draining;
        let generation =
            farm.registry.set_eligibility(&id("c"), draining, Some(&drain), None).await.unwrap().unwrap();
        agents[2].desired = DesiredStateReport {
            generation,
            eligibility: draining,
            drain: Some(registry::DrainReport {
                left: Duration::from_secs(3600),
                age: Duration::ZERO,
                reason: None,
                by: None,
            }),
        };
        Self { farm, agents, reserved }
    }

    async fn beat(&mut self) {
        for agent in &mut self.agents {
            let orders = agent.beat(&self.farm).await;
            assert!(!orders.superseded && orders.taken.is_none(), "{orders:?}");
            if let Some(serial) = orders.behind {
                agent.accepted = serial;
            }
        }
    }

    async fn see(&self) -> Seen {
        let registry = &self.farm.registry;
        let mut nodes = registry.nodes().await.unwrap();
        for node in &mut nodes {
            node.last_heartbeat_at = Timestamp::default();
            // The agent knows how long a drain has left, not its day.
            if let Some(drain) = &mut node.drain {
                drain.deadline = Timestamp::default();
                drain.started_at = Timestamp::default();
            }
        }
        let sorted = |mut ids: Vec<SpawnId>| {
            ids.sort_unstable();
            ids
        };
        let ids = |spawns: Vec<model::SpawnRecord>| spawns.into_iter().map(|spawn| spawn.id).collect();
        let names: Vec<_> = self.agents.iter().map(|agent| agent.node.clone()).collect();
        let all = SpawnFilter { limit: 99, ..SpawnFilter::default() };
        let mut listed_of = Vec::new();
        for node in [Some(id("a")), Some(id("b")), None] {
            let owner = node.is_none().then(|| "ann".parse().unwrap());
            let page = registry
                .spawns(&SpawnFilter { node, owners: owner.into_iter().collect(), ..all.clone() })
                .await
                .unwrap();
            listed_of.push(ids(page.spawns));
        }
        let mut reserves = Vec::new();
        for ask in [csr().label("sdk", "1"), ssr().label("sdk", "1"), csr(), csr().label("sdk", "3")] {
            let answer = self.farm.reserve(&ask).await;
            if let Reserved::Slot(slot) = &answer {
                registry.release(&slot.node, slot.spawn).await.unwrap();
            }
            reserves.push(matches!(answer, Reserved::Slot(_)));
        }
        Seen {
            nodes,
            living: sorted(ids(registry.living(&names).await.unwrap())),
            listed: ids(registry.spawns(&all).await.unwrap().spawns),
            listed_of,
            reserves,
            over_quota: self.farm.reserve(&csr().of("ann", 3)).await == Reserved::OverQuota,
        }
    }

    /// Lets this happen to the keys, and everything is as before after a few heartbeats, without an event.
    async fn survives(&mut self, what: &str, damage: &redis::Cmd) {
        let before = self.see().await;
        let position = self.farm.registry.position().await.unwrap();
        let () = damage.query_async(&mut self.farm.server().connection().await).await.unwrap();
        for _ in 0..HEARTBEATS {
            self.beat().await;
        }
        assert_eq!(self.see().await, before, "{what}");
        let news = self.farm.registry.follow(position, Duration::ZERO).await.unwrap();
        let published: Vec<_> =
            news.events.iter().map(|event| event.kind).filter(|kind| *kind != EventKind::SpawnPing).collect();
        assert_eq!(published, [], "{what}");
    }
}

fn cmd(words: &[&str]) -> redis::Cmd {
    let mut cmd = redis::cmd(words[0]);
    cmd.arg(&words[1..]);
    cmd
}

#[tokio::test]
async fn any_single_key_that_is_lost_is_back_within_five_heartbeats() {
    let mut farm = Damage::start().await;
    let mut connection = farm.farm.server().connection().await;
    let mut keys: Vec<String> = connection.keys("*").await.unwrap();
    keys.sort();
    // A lost record of a spawn is a new spawn to the registry, and an event.
    let is_repaired = |key: &String| !key.contains(":spawn:");
    for key in keys.iter().filter(|key| is_repaired(key)) {
        if key.ends_with(":held:a") {
            // Only the registry knows of a reservation.
            farm.farm.registry.release(&id("a"), farm.reserved).await.unwrap();
        }
        farm.survives(key, &cmd(&["DEL", key])).await;
    }
    for key in
        ["names", "kinds", "kindver", "up", "seq", "floor", "events", "incarnation", "spawns", "owned:ann"]
    {
        assert!(keys.contains(&format!("{{hatchery:test}}:{key}")), "{key} was among them");
    }
}

#[tokio::test]
async fn keys_without_which_no_request_finds_a_node_are_back_with_the_next_heartbeats() {
    let mut damage = Damage::start().await;
    let before = damage.see().await;
    // Whichever heartbeat it is between two full checks.
    for _ in 0..4 {
        for lost in ["names", "kinds", "kindver"] {
            damage.farm.server().run(&format!("DEL {{hatchery:test}}:{lost}")).await;
            damage.beat().await;
            let now = damage.see().await;
            assert_eq!((now.nodes, now.reserves), (before.nodes.clone(), before.reserves.clone()), "{lost}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_has_lost_keys_says_that_it_knows_no_better() {
    let stale = Duration::from_millis(800);
    let farm = Farm::redis_with(Timing { stale, down: Duration::from_secs(60), ..TIMING }).await;
    let mut agent = Agent::new("a", 2).labels(&[("sdk", "1")]);
    let (asks, other) = (csr().label("sdk", "1"), csr().label("sdk", "2"));
    let beat_for_long = async |agent: &mut Agent| {
        for _ in 0..4 {
            agent.beat(&farm).await;
            farm.pass(stale / 2).await;
        }
        agent.beat(&farm).await;
    };
    beat_for_long(&mut agent).await;
    assert_eq!(farm.reserve(&other).await, Reserved::NoMatch { known: false, fresh: false });
    for lost in ["names", "kinds", "kindver", "node:a"] {
        farm.server().run(&format!("DEL {{hatchery:test}}:{lost}")).await;
        assert_eq!(farm.reserve(&other).await, Reserved::NoMatch { known: false, fresh: true }, "{lost}");
        beat_for_long(&mut agent).await;
        assert!(matches!(farm.reserve(&asks).await, Reserved::Slot(_)), "{lost}");
        agent.beat(&farm).await;
        assert_eq!(farm.reserve(&other).await, Reserved::NoMatch { known: false, fresh: false }, "{lost}");
    }
}

#[tokio::test]
async fn any_field_of_a_node_that_is_lost_or_nonsense_is_right_within_five_heartbeats() {
    let mut farm = Damage::start().await;
    let mut connection = farm.farm.server().connection().await;
    for node in ["a", "c"] {
        let key = format!("{{hatchery:test}}:node:{node}");
        let fields: Vec<String> = connection.hkeys(&key).await.unwrap();
        assert!(fields.len() > 15);
        for field in fields {
            farm.survives(&format!("{field} lost"), &cmd(&["HDEL", &key, &field])).await;
            // Another agent's epoch or instance is no nonsense.
            if !["epoch", "instance"].contains(&field.as_str()) {
                farm.survives(&format!("{field} nonsense"), &cmd(&["HSET", &key, &field, "nonsense"])).await;
            }
        }
        for count in ["-1", "77", "1e300", "nan"] {
            farm.survives("a wrong count", &cmd(&["HSET", &key, "gused", count])).await;
        }
        for field in ["gen", "serial", "beats", "life"] {
            for count in ["-1", "1e300", "nan"] {
                farm.survives(field, &cmd(&["HSET", &key, field, count])).await;
            }
        }
        for drain in ["{}", "[]", "5"] {
            farm.survives("a drain", &cmd(&["HSET", &key, "drain", drain])).await;
        }
    }
}

#[tokio::test]
async fn nothing_calls_a_node_failing_whose_record_was_lost() {
    let mut farm = Damage::start().await;
    let failure = StartFailure { reason: "no license".to_owned(), conclusive: true, whole_node: true };
    let starts = vec![(id("a"), Outcome::Failed(failure))];
    let outcomes = Outcomes { renderer: RendererType::Csr, same_everywhere: None, starts };
    farm.farm.registry.learn(&outcomes).await.unwrap();
    let mut connection = farm.farm.server().connection().await;
    let left = async |connection: &mut redis::aio::MultiplexedConnection| {
        let mut keys: Vec<String> = Vec::new();
        for pattern in ["*:failing:*", "*:probes:*", "*:sick"] {
            keys.append(&mut connection.keys(pattern).await.unwrap());
        }
        keys
    };
    assert_eq!(left(&mut connection).await.len(), 5, "both renderers");
    for field in ["hcsr", "hssr"] {
        let () = connection.hdel("{hatchery:test}:node:a", field).await.unwrap();
    }
    for _ in 0..HEARTBEATS {
        farm.beat().await;
    }
    assert_eq!(left(&mut connection).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_reservation_whose_expiry_is_lost_expires_all_the_same() {
    let farm = Farm::redis_with(Timing { stale: Duration::from_secs(300), ..TIMING }).await;
    let mut agent = Agent::new("a", 2);
    agent.beat(&farm).await;
    farm.take(&csr()).await;
    farm.server().run("DEL {hatchery:test}:expiries").await;
    for _ in 0..HEARTBEATS {
        agent.beat(&farm).await;
    }
    assert_eq!(farm.used("a").await.0, 1);
    farm.pass(TIMING.reservation).await;
    farm.registry.sweep().await.unwrap();
    assert_eq!(farm.used("a").await.0, 0);
}

#[tokio::test]
async fn one_bad_record_hides_no_others() {
    let farm = Farm::redis_with(timing()).await;
    let mut agents = [Agent::new("a", 9), Agent::new("b", 9)];
    let mut spawns = Vec::new();
    for agent in &mut agents {
        agent.beat(&farm).await;
        for _ in 0..2 {
            let spawn = csr().spawn;
            agent.report(&farm, ready(spawn)).await;
            spawns.push(spawn);
        }
    }
    let server = farm.server();
    server.query::<u32>("HSET {hatchery:test}:node:a desc nonsense").await.unwrap();
    server.query::<u32>(&format!("HSET {{hatchery:test}}:spawn:{} state nonsense", spawns[0])).await.unwrap();
    server
        .query::<u32>(&format!("HSET {{hatchery:test}}:spawn:{} started nonsense", spawns[2]))
        .await
        .unwrap();
    server.query::<u32>("HSET {hatchery:test}:kinds odd nonsense").await.unwrap();
    server.run("SET {hatchery:test}:kindver 5").await;
    server.run(&format!("XADD {{hatchery:test}}:events {}-0 k nonsense t x n y s z d w", u64::MAX / 4)).await;
    let nodes = farm.registry.nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.id.as_str()).collect::<Vec<_>>(), ["b"]);
    let page = farm.registry.spawns(&SpawnFilter { limit: 3, ..SpawnFilter::default() }).await.unwrap();
    assert_eq!(page.spawns.iter().map(|spawn| spawn.id).collect::<Vec<_>>(), [spawns[3], spawns[1]]);
    let living = farm.registry.living(&[id("a"), id("b")]).await.unwrap();
    assert_eq!(living.len(), 2);
    farm.take(&csr()).await;
    let all = farm.registry.follow(registry::Position::default(), Duration::ZERO).await.unwrap();
    assert_eq!(all.events.len(), 6);
    assert_eq!(all.position.seq, u64::MAX / 4);
}

#[tokio::test]
async fn ended_spawns_are_listed_again_after_their_index_was_lost() {
    let farm = Farm::redis_with(timing()).await;
    let mut agent = Agent::new("a", 9);
    agent.beat(&farm).await;
    for _ in 0..20 {
        agent.report(&farm, exited(csr().spawn, model::ExitReason::Stopped)).await;
    }
    let of_node = SpawnFilter { node: Some(id("a")), limit: 99, ..SpawnFilter::default() };
    let all = SpawnFilter { node: None, ..of_node.clone() };
    for (index, filter) in [("spawns", all), ("spawns:a", of_node)] {
        let before = farm.registry.spawns(&filter).await.unwrap().spawns;
        assert_eq!(before.len(), 20);
        farm.server().run(&format!("DEL {{hatchery:test}}:{index}")).await;
        farm.registry.sweep().await.unwrap();
        assert_eq!(farm.registry.spawns(&filter).await.unwrap().spawns, before);
    }
}

#[tokio::test]
async fn a_node_that_is_gone_is_down_also_when_the_set_of_silent_ones_was_lost() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 2);
    agent.beat(&farm).await;
    agent.report(&farm, ready(csr().spawn)).await;
    for lost in ["up", "stale"] {
        let () = farm.server().connection().await.del(format!("{{hatchery:test}}:{lost}")).await.unwrap();
        let next = if lost == "up" { model::Availability::Stale } else { model::Availability::Down };
        farm.becomes("a", next).await;
    }
    let record = farm.registry.spawn(agent.spawns[0].id).await.unwrap().unwrap();
    assert_eq!(record.state, model::SpawnState::Lost);
}
