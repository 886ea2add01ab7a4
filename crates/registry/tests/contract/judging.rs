//! Nodes are called silent only by a registry that was there to hear them.

use std::time::Duration;

use model::{Availability, EventKind, SpawnId, TicketId, Timing};
use registry::{Registry, Reserved};
use tokio::time::{Instant, sleep};

use crate::servers::RedisServer;
use crate::support::*;

/// Two nodes with a spawn each.
struct Pair {
    lives: Agent,
    dies: Agent,
    spawns: [SpawnId; 2],
}

impl Pair {
    async fn new(farm: &Farm) -> Self {
        let [mut lives, mut dies] = ["lives", "dies"].map(|name| Agent::new(name, 8));
        let spawns = [SpawnId::mint(), SpawnId::mint()];
        for (agent, spawn) in [&mut lives, &mut dies].into_iter().zip(spawns) {
            agent.beat(farm).await;
            agent.report(farm, ready(spawn)).await;
        }
        let mut pair = Self { lives, dies, spawns };
        // Long enough that what was before the first judgement does not matter any more.
        let end = Instant::now() + 2 * farm.registry.timing().down;
        while Instant::now() < end {
            pair.lives.beat(farm).await;
            pair.dies.beat(farm).await;
            farm.pass(farm.registry.timing().stale / 8).await;
        }
        pair
    }
}

/// The registry's farm is in order; then `away` happens, which ends with the registry there, and without a judgement or a
/// heartbeat since. Living nodes are never called silent, dead ones after the usual time.
async fn judges_fairly(farm: &Farm, away: impl AsyncFnOnce()) {
    let timing = farm.registry.timing().clone();
    let mut pair = Pair::new(farm).await;
    let ticket = TicketId::mint();
    let ask = csr().label("colour", "red");
    let mut red = Agent::new("red", 1).labels(&[("colour", "red")]);
    red.beat(farm).await;
    farm.take(&ask).await;
    assert_eq!(farm.reserve(&ask.clone().place(ticket)).await, Reserved::Full);
    let number = 1;
    let from_here = farm.registry.position().await.unwrap();
    away().await;

    let back = Instant::now();
    assert!(farm.registry.nodes().await.unwrap().iter().all(|node| node.availability == Availability::Up));
    let slot = farm.take(&csr()).await;
    farm.registry.release(&slot.node, slot.spawn).await.unwrap();
    farm.registry.sweep().await.unwrap();
    for node in farm.registry.nodes().await.unwrap() {
        assert_eq!(node.availability, Availability::Up, "{}", node.id);
    }
    // The place in line was not renewed either, and is kept.
    red.beat(farm).await;
    assert_eq!(farm.reserve(&ask.clone().place(TicketId::mint())).await, Reserved::Full);
    let mut first = None;
    while first.is_none() {
        red.beat(farm).await;
        farm.registry.keep_places(&[ticket]).await.unwrap();
        farm.registry.sweep().await.unwrap();
        pair.lives.beat(farm).await;
        // Its reservation expires, and then the first in line is served.
        if let Reserved::Slot(got) = farm.reserve(&ask.clone().place(ticket)).await {
            first = Some(got);
        }
        sleep(timing.stale / 8).await;
        assert!(
            back.elapsed() < timing.reservation + Duration::from_secs(20),
            "the first in line is not served"
        );
    }
    assert_eq!(first.and_then(|got| got.number), Some(number));

    let mut stale_after = None;
    loop {
        red.beat(farm).await;
        pair.lives.beat(farm).await;
        farm.registry.sweep().await.unwrap();
        let nodes = farm.registry.nodes().await.unwrap();
        let of = |name: &str| nodes.iter().find(|node| node.id == id(name)).unwrap().availability;
        assert_eq!(of("lives"), Availability::Up);
        match of("dies") {
            Availability::Up => {}
            Availability::Stale => stale_after = stale_after.or(Some(back.elapsed())),
            Availability::Down => break,
        }
        assert!(back.elapsed() < timing.down + Duration::from_secs(20), "a dead node is not seen");
        sleep(timing.stale / 8).await;
    }
    assert!(
        stale_after.is_some_and(|after| after + Duration::from_millis(50) >= timing.stale),
        "{stale_after:?}"
    );
    assert!(back.elapsed() + Duration::from_millis(50) >= timing.down, "{:?}", back.elapsed());

    let events = farm.registry.follow(from_here, Duration::ZERO).await.unwrap().events;
    let silences = [EventKind::NodeStale, EventKind::NodeDown, EventKind::SpawnLost];
    let news: Vec<_> = events.iter().filter(|event| silences.contains(&event.kind)).collect();
    let kinds: Vec<_> = news.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, silences, "once each");
    assert!(news.iter().all(|event| event.node == Some(id("dies"))), "{news:?}");
    assert_eq!(news[2].spawn, Some(pair.spawns[1]));
}

/// A busy machine may be late by so much without being away.
fn timing() -> Timing {
    let ms = Duration::from_millis;
    let forget = Timing::FARM.forget;
    Timing { stale: ms(900), down: ms(1500), place: ms(600), reservation: ms(700), forget, ..TIMING }
}

/// Long enough to have called every node dead.
const AWAY: Duration = Duration::from_millis(2_200);

#[tokio::test(start_paused = true)]
async fn a_registry_without_front_doors_calls_no_node_dead_embedded() {
    let farm = Farm::embedded_with(Timing { reservation: Duration::from_secs(20), ..Timing::FARM });
    judges_fairly(&farm, async || tokio::time::advance(Duration::from_secs(14)).await).await;
}

#[tokio::test]
async fn a_registry_without_front_doors_calls_no_node_dead_redis() {
    let farm = Farm::redis_with(timing()).await;
    judges_fairly(&farm, async || sleep(AWAY).await).await;
}

async fn open(redis: &RedisServer) -> Farm {
    Farm::on_with(&redis.url(), "judged", timing())
}

#[tokio::test]
async fn a_stalled_redis_calls_no_node_dead() {
    let redis = RedisServer::start().await;
    let farm = open(&redis).await;
    judges_fairly(&farm, async || {
        redis.pause();
        // The first that it hears of afterwards is that it should judge.
        let registry = farm.registry.clone();
        let sweep = tokio::spawn(async move { registry.sweep().await });
        sleep(AWAY).await;
        redis.resume();
        sweep.await.unwrap().ok();
        is_back(&farm.registry).await;
    })
    .await;
}

/// A connection that was cut, or waited too long, is made again.
async fn is_back(registry: &Registry) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = registry.nodes().await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_redis_that_is_back_with_its_data_calls_no_node_dead() {
    let mut redis = RedisServer::with_data().await;
    let farm = open(&redis).await;
    judges_fairly(&farm, async || {
        redis.kill();
        sleep(AWAY).await;
        redis.restart().await;
        is_back(&farm.registry).await;
    })
    .await;
}

/// Steps its clock by so many seconds.
async fn steps(ahead: i64) {
    let redis = RedisServer::with_clock().await;
    let farm = open(&redis).await;
    judges_fairly(&farm, async || {
        let before = farm.registry.now().await.unwrap();
        redis.set_clock(ahead);
        let after = farm.registry.now().await.unwrap();
        let step = i128::from(after.millis()) - i128::from(before.millis());
        assert!((step - i128::from(ahead) * 1_000).abs() < 5_000, "the clock was not set: {step} ms");
    })
    .await;
}

#[tokio::test]
async fn a_clock_set_forward_by_a_minute_and_a_half_calls_no_node_dead() {
    steps(90).await;
}

#[tokio::test]
async fn a_clock_set_forward_by_an_hour_calls_no_node_dead() {
    steps(3_600).await;
}

#[tokio::test]
async fn a_clock_set_back_by_a_minute_and_a_half_keeps_no_dead_node_alive() {
    steps(-90).await;
}

#[tokio::test]
async fn a_clock_set_back_by_an_hour_keeps_no_dead_node_alive() {
    steps(-3_600).await;
}

#[tokio::test]
async fn readers_call_no_node_silent_while_the_registry_refuses_writes() {
    let redis = RedisServer::start().await;
    let farm = open(&redis).await;
    let mut pair = Pair::new(&farm).await;
    redis.run("CONFIG SET min-replicas-to-write 1").await;
    sleep(timing().stale / 4).await;
    farm.registry.sweep().await.expect_err("it refuses writes");
    let end = Instant::now() + 2 * timing().down;
    let mut reads = 0;
    while Instant::now() < end {
        for node in farm.registry.nodes().await.unwrap() {
            // The last judgement says so for a moment longer.
            let node = farm.registry.node(&node.id).await.unwrap().unwrap();
            assert_eq!(node.availability, Availability::Up, "{}", node.id);
            reads += 1;
        }
        sleep(timing().stale / 8).await;
    }
    assert!(reads > 4);
    redis.run("CONFIG SET min-replicas-to-write 0").await;
    farm.registry.sweep().await.unwrap();
    pair.lives.beat(&farm).await;
    pair.dies.beat(&farm).await;
    let events = farm.registry.follow(registry::Position::default(), Duration::ZERO).await.unwrap().events;
    assert!(events.iter().all(|event| event.kind != EventKind::NodeStale), "{events:?}");
}
