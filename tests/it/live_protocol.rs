//! The live feed against subscribers that do not keep to its protocol, say too much, or do not read.

use std::time::Duration;

use futures_util::future::join_all;
use hatchery_tests::live::seq;
use hatchery_tests::{AgentPlan, Farm, Phantom, Subscriber, wait::TIMEOUT};
use serde_json::json;
use tokio::sync::Barrier;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::live::{id, metric, two_doors};

#[tokio::test]
async fn a_message_that_is_not_of_the_protocol_is_refused_and_the_connection_stays() {
    let farm = two_doors().await;
    let mut listener = Subscriber::connect(farm.door(0).addr).await;
    let table = [
        (Message::text(""), "EOF"),
        (Message::text("{"), "EOF"),
        (Message::text("[]"), "type"),
        (Message::text("null"), "invalid"),
        (Message::text(r#"{"type":"hello"}"#), "hello"),
        (Message::text(r#"{"topic":"nodes"}"#), "type"),
        (Message::text(r#"{"type":"subscribe"}"#), "topic"),
        (Message::text(r#"{"type":"subscribe","topic":"everything"}"#), "topic is"),
        (Message::text(r#"{"type":"subscribe","topic":"node:a b"}"#), "node's name"),
        (Message::text(r#"{"type":"subscribe","topic":"spawn:7"}"#), "UUID"),
        (Message::text(r#"{"type":"subscribe","topic":"nodes","sinse":1}"#), "sinse"),
        (Message::text(r#"{"type":"subscribe","topic":"nodes","since":-1}"#), "u64"),
        (Message::text(r#"{"type":"unsubscribe","topic":"nodes"}"#), "no subscription"),
        (Message::text(r#"{"type":"unsubscribe","topic":"nodes","since":1}"#), "since"),
        (Message::text(" ".repeat(4097)), "4096"),
        (Message::binary(br#"{"type":"subscribe","topic":"nodes"}"#.as_slice()), "text"),
    ];
    for (message, names) in &table {
        listener.send(message.clone()).await;
        let said = listener.violation().await;
        assert!(said.contains(names), "{message:?}: {said}");
        // What is right in between keeps it from being ten in a row.
        listener.subscribe("node:a").await;
        listener.unsubscribe("node:a").await;
    }
    for _ in 0..9 {
        listener.say("no").await;
        listener.violation().await;
    }
    listener.subscribe("nodes").await;
    for _ in 0..10 {
        listener.say("no").await;
        listener.violation().await;
    }
    assert_eq!(listener.closed().await, (1008, "too many protocol violations".to_owned()));
    metric(&farm, 0, r#"hatchery_frontdoor_live_closes_total{code="1008"}"#, 1.0, TIMEOUT).await;
    let violations = r#"hatchery_frontdoor_live_messages_total{direction="in",type="violation"}"#;
    assert!(farm.doors[0].metrics().await.get(violations) >= Some(34.0));
    farm.finish().await;
}

#[tokio::test]
async fn a_handshake_that_is_none_is_answered_with_what_is_missing() {
    let farm = Farm::builder()
        .agent(AgentPlan::slots(1))
        .door_args(&["--cors-origin", "https://app.example"])
        .start()
        .await;
    let door = farm.door(0);
    let plain = door.get("/v1/live").send().await;
    assert!(plain.problem(426, "upgrade-required").detail.contains("Connection"), "{plain:?}");
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    door.post("/v1/live").send().await.problem(405, "method-not-allowed");
    let shake = async |headers: &[&str]| {
        let request = format!("GET /v1/live HTTP/1.1\r\nhost: localhost\r\n{}\r\n\r\n", headers.join("\r\n"));
        door.raw(request.as_bytes()).await.unwrap()
    };
    let end = "x-last: 1";
    let upgrade = ["connection: close, upgrade", "upgrade: websocket"];
    let keyless = shake(&[upgrade[0], upgrade[1], "sec-websocket-version: 13", end]).await;
    assert!(keyless.problem(400, "invalid-request").names("Sec-WebSocket-Key"), "{keyless:?}");
    let old =
        shake(&[upgrade[0], upgrade[1], "sec-websocket-version: 8", "sec-websocket-key: MDEyMw==", end])
            .await;
    old.problem(426, "upgrade-required");
    assert_eq!(old.header("sec-websocket-version"), Some("13"));
    let foreign = shake(&["connection: close", "origin: https://evil.example"]).await;
    assert!(foreign.problem(403, "origin-not-allowed").names("Origin"), "{foreign:?}");
    shake(&["connection: close", "origin: https://app.example"]).await.problem(426, "upgrade-required");
    door.get("/v1/live?topic=nodes").send().await.problem(400, "invalid-request");
    farm.finish().await;
}

#[tokio::test]
async fn a_flood_ends_the_connection_that_makes_it_and_no_other() {
    let farm = two_doors().await;
    let (mut quiet, _) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let mut flood = Subscriber::connect(farm.door(0).addr).await;
    for _ in 0..5_000 {
        if flood.try_send(Message::text("x".repeat(2000))).await.is_err() {
            break;
        }
    }
    assert!([1006, 1008].contains(&flood.closed().await.0), "with a close frame if it listens");
    metric(&farm, 0, "hatchery_frontdoor_live_connections", 1.0, TIMEOUT).await;
    let spawn = farm.door(0).spawned(&json!({})).await;
    assert_eq!(quiet.news().await["spawn"], spawn["id"]);
    farm.stop([id(&spawn)]).await;
    farm.ends(id(&spawn)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_close_frame_is_noticed_within_two_intervals() {
    let interval = Duration::from_millis(1500);
    let builder = Farm::builder().door_args(&["--live-ping-interval", "1500ms"]);
    let farm = builder.agent(AgentPlan::slots(1)).start().await;
    let (mut alive, _) = Subscriber::to(farm.door(0).addr, "nodes").await;
    assert_eq!(alive.hello["heartbeatSeconds"], 1.5);
    let listening = tokio::spawn(async move {
        while alive.heartbeats < 4 {
            alive.hears_nothing(interval / 4).await;
        }
        alive
    });
    // It does not read, so it does not answer pings either.
    let (gone, _) = Subscriber::to(farm.door(0).addr, "nodes").await;
    let since = Instant::now();
    metric(&farm, 0, "hatchery_frontdoor_live_connections", 2.0, interval).await;
    let limit = interval * 2 + Duration::from_millis(750);
    metric(&farm, 0, "hatchery_frontdoor_live_connections", 1.0, limit).await;
    assert!(since.elapsed() > interval, "not before a ping was missed: {:?}", since.elapsed());
    metric(&farm, 0, r#"hatchery_frontdoor_live_subscriptions{topic="nodes"}"#, 1.0, TIMEOUT).await;
    metric(&farm, 0, r#"hatchery_frontdoor_live_closes_total{code="1006"}"#, 1.0, TIMEOUT).await;
    drop(gone);
    let alive = listening.await.unwrap();
    metric(&farm, 0, "hatchery_frontdoor_live_connections", 1.0, TIMEOUT).await;
    drop(alive);
    farm.finish().await;
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_no_other_misses_anything() {
    let builder = Farm::builder().door_args(&["--live-buffer", "700"]);
    let farm = builder.agent(AgentPlan::slots(1)).start().await;
    let mut phantom = Phantom::start(&farm.redis.url(), "phantom").await.wordy(1000);
    let (mut slow, from) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(Subscriber::to(farm.door(0).addr, "spawns").await.0);
    }
    // Far more than the queue and what the system keeps for a connection.
    let (steps, each) = (60, 100);
    // As fast as those that read can follow, and not faster.
    let in_step = Barrier::new(others.len() + 1);
    let ((), heard, ()) = tokio::join!(
        async {
            for _ in 0..steps {
                phantom.tell(each).await;
                in_step.wait().await;
            }
        },
        join_all(others.iter_mut().map(async |listener| {
            let mut last = 0;
            for _ in 0..steps {
                for _ in 0..each * 2 {
                    let event = listener.news().await;
                    assert!(seq(&event) > last, "{event}");
                    last = seq(&event);
                }
                in_step.wait().await;
            }
            last
        })),
        async {
            // It does not read before it was sent away.
            metric(&farm, 0, "hatchery_frontdoor_live_connections", 5.0, TIMEOUT * 2).await;
            assert_eq!(slow.closed().await, (1008, "back-pressure threshold exceeded".to_owned()));
        }
    );
    assert!(heard.iter().all(|last| *last == heard[0]), "{heard:?}");
    // It comes back, goes on where it was, and is not sent away for what it has to catch up with.
    let mut back = Subscriber::connect(farm.door(0).addr).await;
    let resumed = back.resume("spawns", seq(&from)).await;
    let mut last = seq(&resumed);
    for _ in 0..steps * each * 2 {
        last = seq(&back.news().await);
    }
    assert_eq!(last, heard[0]);
    farm.shut_down().await;
}
