//! Whatever the keys of a farm hold, every call answers, after a bounded number of steps, and wrong entries go away.

use std::time::Duration;

use model::{
    Audit, Availability, ExitReason, FarmSlots, HealthState, OrderKind, Owner, RendererType, RequestId,
    SpawnId, StartFailure, TicketId, Timing,
};
use redis::{AsyncCommands, Value, aio::MultiplexedConnection};
use registry::{AuditFilter, Counts, Outcome, Outcomes, Reserved, SpawnFilter, Standing};
use uuid::Uuid;

use crate::servers::RedisServer;
use crate::support::*;

/// Commands that one call may run in a farm of a handful of nodes.
const MAX_STEPS: u64 = 2_500;

/// Nothing goes stale and nothing expires by itself meanwhile.
pub(crate) fn timing() -> Timing {
    let long = Duration::from_secs(300);
    Timing { stale: long, down: 2 * long, reservation: long, place: long, ..TIMING }
}

/// A farm with something in every key there is.
struct Busy {
    redis: RedisServer,
    farm: Farm,
    agents: Vec<Agent>,
    waiting: TicketId,
    spawn: SpawnId,
}

fn failing(node: &str, renderer: RendererType) -> Outcomes {
    let failure = StartFailure { reason: "no license".to_owned(), conclusive: true, whole_node: false };
    Outcomes { renderer, same_everywhere: None, starts: vec![(id(node), Outcome::Failed(failure))] }
}

fn cordoned() -> Audit {
    Audit::done(OrderKind::Cordon, RequestId::mint())
}

fn stopped() -> Audit {
    Audit::done(OrderKind::Stop, RequestId::mint())
}

fn counts() -> Counts {
    Counts { refused: [("no-capacity", 1)].into(), slots: Some(FarmSlots { total: 9, used: 3 }) }
}

impl Busy {
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let farm = Farm::on_with(&redis.url(), "busy", timing());
        let mut agents = vec![
            Agent::new("good", 8).gpus(2, 4),
            Agent::new("sick", 8).gpus(2, 4),
            Agent::new("red", 1).labels(&[("colour", "red")]),
        ];
        for agent in &mut agents {
            agent.beat(&farm).await;
        }
        let registry = &farm.registry;
        registry.sweep().await.unwrap();
        for node in ["good", "sick"] {
            let ask = ssr().of("ann", 9).avoid("red").avoid(if node == "good" { "sick" } else { "good" });
            let slot = farm.take(&ask).await;
            let report = registry::SpawnReport { gpu: Some(0), ..ready(slot.spawn) };
            let agent = agents.iter_mut().find(|agent| agent.node == slot.node).unwrap();
            agent.report(&farm, report).await;
        }
        let spawn = agents[0].spawns[0].id;
        agents[0].report(&farm, exited(SpawnId::mint(), ExitReason::Stopped)).await;
        for renderer in [RendererType::Csr, RendererType::Ssr] {
            registry.learn(&failing("sick", renderer)).await.unwrap();
        }
        let red = csr().label("colour", "red");
        farm.take(&red).await;
        let waiting = TicketId::mint();
        assert_eq!(farm.reserve(&red.clone().place(waiting).avoid("good")).await, Reserved::Full);
        let given_up = farm.take(&csr()).await;
        registry.abandon(&given_up.node, given_up.spawn).await.unwrap();
        let everywhere = Some(same("no license server"));
        let alike = Outcomes { renderer: RendererType::Csr, same_everywhere: everywhere, starts: Vec::new() };
        registry.learn(&alike).await.unwrap();
        let ann: Owner = "ann".parse().unwrap();
        registry.permit(&ann, 60).await.unwrap();
        let key = "order-1".parse().unwrap();
        registry.claim(&key, Uuid::nil(), Uuid::max()).await.unwrap();
        registry.settle(&"order-2".parse().unwrap(), Uuid::nil(), None).await.unwrap();
        registry.audit(Uuid::nil(), Duration::ZERO, &cordoned()).await.unwrap();
        registry.audit(Uuid::nil(), Duration::ZERO, &stopped()).await.unwrap();
        registry.add_counts(&counts()).await.unwrap();
        Self { redis, farm, agents, waiting, spawn }
    }

    async fn steps(&self) -> u64 {
        let stats: String = self.redis.run("INFO commandstats").await;
        let calls = stats.split(":calls=").skip(1);
        calls.map(|rest| rest.split(',').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Every call once. Those that change the farm for good leave it as it was.
    async fn calls(&mut self, what: &str) {
        let (registry, node) = (self.farm.registry.clone(), id("good"));
        let fine = |call: &str, error: Option<String>| {
            assert_eq!(error, None, "{call} after {what}");
        };
        macro_rules! call {
            ($call:expr) => {{
                let before = self.steps().await;
                let result = $call.await;
                let steps = self.steps().await - before;
                assert!(steps < MAX_STEPS, "{} took {steps} steps after {what}", stringify!($call));
                fine(stringify!($call), result.as_ref().err().map(ToString::to_string));
                result
            }};
        }
        // Before the calls that mend what is damaged.
        call!(registry.audits(&AuditFilter { limit: 9, ..AuditFilter::default() })).unwrap();
        call!(registry.minutes(5)).unwrap();
        for ask in [
            csr(),
            ssr(),
            csr().pack(),
            csr().avoid("good"),
            ssr().avoid("good").avoid("sick"),
            csr().label("colour", "red"),
            csr().label("colour", "red").place(self.waiting),
            ssr().of("ann", 9).place(TicketId::mint()),
        ] {
            if let Ok(Reserved::Slot(slot)) = call!(registry.reserve(&ask)) {
                call!(registry.release(&slot.node, slot.spawn)).unwrap();
            }
            if let Some(ticket) = ask.place.filter(|ticket| *ticket != self.waiting) {
                call!(registry.leave_line(&[ticket])).unwrap();
            }
        }
        call!(registry.release_by_id(SpawnId::mint())).unwrap();
        call!(registry.abandon(&node, SpawnId::mint())).unwrap();
        call!(registry.keep_places(&[self.waiting])).unwrap();
        for renderer in [RendererType::Csr, RendererType::Ssr] {
            call!(registry.learn(&failing("sick", renderer))).unwrap();
            let starts = vec![(node.clone(), Outcome::Nothing)];
            call!(registry.learn(&Outcomes { renderer, same_everywhere: Some(same("x")), starts })).unwrap();
        }
        call!(registry.farm_cause()).unwrap();
        call!(registry.sweep()).unwrap();
        call!(registry.permit(&"ann".parse().unwrap(), 60)).unwrap();
        call!(registry.claim(&"order-1".parse().unwrap(), Uuid::nil(), Uuid::max())).unwrap();
        call!(registry.settle(&"order-2".parse().unwrap(), Uuid::nil(), None)).unwrap();
        call!(registry.set_eligibility(&node, model::Eligibility::Eligible, None, None)).unwrap();
        call!(registry.audit(Uuid::new_v4(), Duration::ZERO, &cordoned())).unwrap();
        call!(registry.audit(Uuid::new_v4(), Duration::ZERO, &stopped())).unwrap();
        call!(registry.add_counts(&counts())).unwrap();
        let counted = call!(registry.minutes(5)).unwrap();
        let refused = counted.last().and_then(|minute| minute.refused.get("no-capacity"));
        assert!(refused.is_some(), "{counted:?} after {what}");
        let page = call!(registry.audits(&AuditFilter { limit: 9, ..AuditFilter::default() })).unwrap();
        assert!(!page.orders.is_empty(), "after {what}");
        call!(registry.nodes()).unwrap();
        call!(registry.living(std::slice::from_ref(&node))).unwrap();
        call!(registry.spawns(&SpawnFilter { limit: 9, ..SpawnFilter::default() })).unwrap();
        call!(registry.position()).unwrap();
        call!(registry.locate(self.spawn)).ok();
    }

    /// All is as it should be, as far as placement goes.
    async fn is_in_order(&mut self, what: &str) {
        for _ in 0..10 {
            for agent in &mut self.agents {
                let orders = agent.beat(&self.farm).await;
                agent.forgotten = orders.abandoned;
            }
            self.farm.registry.sweep().await.unwrap();
        }
        let nodes = self.farm.registry.nodes().await.unwrap();
        let names: Vec<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(names, ["good", "red", "sick"], "{what}");
        for node in &nodes {
            assert_eq!(node.availability, Availability::Up, "{} after {what}", node.id);
        }
        for renderer in [RendererType::Csr, RendererType::Ssr] {
            for _ in 0..2 {
                self.farm.registry.learn(&failing("sick", renderer)).await.unwrap();
            }
        }
        let sick = self.farm.registry.node(&id("sick")).await.unwrap().unwrap();
        assert_eq!(sick.health.state, HealthState::Failing, "{what}");
        for (ask, node) in [
            (csr(), "good"),
            (ssr(), "good"),
            (csr().avoid("good").avoid("red"), "sick"),
            (ssr().avoid("good").avoid("red"), "sick"),
        ] {
            let Reserved::Slot(slot) = self.farm.reserve(&ask).await else {
                panic!("no slot for {ask:?} after {what}")
            };
            self.farm.registry.release(&slot.node, slot.spawn).await.unwrap();
            // "red" is as good as "good" when its slot is free.
            assert!(slot.node == id(node) || slot.node == id("red"), "{} after {what}", slot.node);
            let is_last = node == "sick";
            assert_eq!(slot.standing == Standing::LastChoice, is_last, "{what}");
        }
    }
}

type Saved = Vec<(String, Vec<u8>)>;

async fn save(connection: &mut MultiplexedConnection) -> Saved {
    let mut keys: Vec<String> = connection.keys("*").await.unwrap();
    keys.sort();
    let mut saved = Vec::new();
    for key in keys {
        let dump = redis::cmd("DUMP").arg(&key).query_async(connection).await.unwrap();
        saved.push((key, dump));
    }
    saved
}

async fn restore(connection: &mut MultiplexedConnection, saved: &Saved) {
    let mut all = redis::pipe();
    all.cmd("FLUSHALL").ignore();
    for (key, dump) in saved {
        all.cmd("RESTORE").arg(key).arg(0).arg(dump).ignore();
    }
    let () = all.query_async(connection).await.unwrap();
}

/// Does this to a busy farm, has every call answer, and sees it in order again.
async fn survives(busy: &mut Busy, saved: &Saved, damages: &[Vec<String>]) {
    let mut connection = busy.connection().await;
    let agents = busy.agents.clone();
    for damage in damages {
        restore(&mut connection, saved).await;
        busy.agents.clone_from(&agents);
        let what = damage.join(" ");
        let mut command = redis::cmd(&damage[0]);
        let _: Value = command.arg(&damage[1..]).query_async(&mut connection).await.unwrap();
        busy.calls(&what).await;
        busy.is_in_order(&what).await;
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What no heartbeat brings back, because only the registry knows it.
fn is_irreplaceable(key: &str) -> bool {
    [":abandoned:", ":idem:"].iter().any(|part| key.contains(part))
}

#[tokio::test]
async fn every_call_answers_whichever_key_is_lost() {
    let mut busy = Busy::start().await;
    let saved = save(&mut busy.connection().await).await;
    let names: Vec<&str> = saved.iter().map(|(key, _)| key.as_str()).collect();
    for part in [
        ":open:",
        ":failing:",
        ":probes:",
        ":sick",
        ":cause",
        ":judge",
        ":avoids",
        ":places",
        ":line",
        ":lineno",
        ":wait:",
        ":queues:",
        ":waiter:",
        ":up",
        ":expiries",
        ":held:",
        ":node:",
        ":members:",
        ":known:",
        ":kinds",
        ":kindver",
        ":names",
        ":seq",
        ":floor",
        ":events",
        ":nudges",
        ":permit:",
        ":idem:",
        ":spawn:",
        ":spawns",
        ":ended",
        ":owned:",
        ":abandoned:",
        ":keeps",
        ":audit",
        ":minute:",
        ":weight",
    ] {
        assert!(names.iter().any(|name| name.contains(part)), "{part} is there: {names:?}");
    }
    let damages: Vec<_> =
        names.iter().filter(|key| !is_irreplaceable(key)).map(|key| words(&["DEL", key])).collect();
    survives(&mut busy, &saved, &damages).await;
}

#[tokio::test]
async fn every_call_answers_whatever_a_field_holds() {
    let mut busy = Busy::start().await;
    let mut connection = busy.connection().await;
    let saved = save(&mut connection).await;
    let mut damages = Vec::new();
    for (key, _) in &saved {
        let kind: String = redis::cmd("TYPE").arg(key).query_async(&mut connection).await.unwrap();
        // These must also survive being of another type.
        if kind == "string" || [":minute:", ":keeps", ":audit"].iter().any(|part| key.contains(part)) {
            damages.push(words(&["SET", key, "nonsense"]));
        }
        let is_record = [":node:good", ":node:sick", ":judge", ":cause", ":minute:"]
            .iter()
            .any(|part| key.contains(part));
        if kind == "hash" && is_record {
            let fields: Vec<String> = connection.hkeys(key).await.unwrap();
            // Another agent's epoch or instance is no nonsense, and one node stands for the other.
            let is_tried = |field: &str| {
                !["epoch", "instance"].contains(&field)
                    && (!key.contains(":sick") || ["hcsr", "hssr", "avail", "placeable"].contains(&field))
            };
            for field in fields.iter().filter(|field| is_tried(field)) {
                for value in ["nonsense", "-1", "99999999999999999999", "f|1|"] {
                    damages.push(words(&["HSET", key, field, value]));
                }
                damages.push(words(&["HDEL", key, field]));
            }
        }
    }
    assert!(damages.len() > 100, "{damages:?}");
    survives(&mut busy, &saved, &damages).await;
}
