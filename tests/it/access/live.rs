//! The live feed: who may connect, what they hear, and when they have to go.

use std::fs;
use std::time::Duration;

use hatchery_tests::live::seq;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, Subscriber, command, until};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Error;

use super::{farm, key_id, plan, spawned};

const REQUIRED: (u16, &str) = (1008, "authentication required");
const EXPIRED: (u16, &str) = (1008, "credential expired");

async fn ends(subscriber: &mut Subscriber, wanted: (u16, &str)) {
    subscriber.refused("unauthenticated").await;
    let (code, reason) = subscriber.closed().await;
    assert_eq!((code, reason.as_str()), wanted);
}

#[tokio::test]
async fn a_credential_is_shown_with_the_handshake_or_in_the_first_message() {
    let farm = farm().await;
    let door = farm.door(0).addr;
    let key = farm.key(&["--scope", "spawn"]).await;
    let mut by_header = Subscriber::connect_as(door, &key).await;
    by_header.subscribe("spawns").await;
    // Once is enough.
    by_header.authenticate(&key).await;
    by_header.violation().await;
    let mut by_message = Subscriber::connect(door).await;
    by_message.authenticate(&key).await;
    by_message.authenticated().await;
    by_message.subscribe("spawns").await;
    for wrong in ["garbage", &key[..key.len() - 1]] {
        match Subscriber::try_connect_as(door, Some(wrong)).await {
            Err(Error::Http(answer)) => {
                assert_eq!(answer.status().as_u16(), 401);
                assert!(answer.headers().contains_key("www-authenticate"), "{answer:?}");
            }
            other => panic!("a refusal was expected, not {other:?}"),
        }
        let mut listener = Subscriber::connect(door).await;
        listener.authenticate(wrong).await;
        ends(&mut listener, REQUIRED).await;
    }
    for first in [r#"{"type":"subscribe","topic":"spawns"}"#, "garbage", r#"{"type":"authenticate"}"#] {
        let mut listener = Subscriber::connect(door).await;
        listener.say(first).await;
        ends(&mut listener, REQUIRED).await;
    }
    let failures = farm.doors[0].metrics().await.sum("hatchery_frontdoor_authentication_failures_total");
    assert!(failures >= 7.0, "{failures}");
    farm.finish().await;
}

#[tokio::test]
async fn a_subscriber_that_says_nothing_is_closed_after_ten_seconds() {
    let farm = farm().await;
    let began = Instant::now();
    let mut silent = Subscriber::connect(farm.door(0).addr).await;
    ends(&mut silent, REQUIRED).await;
    let took = began.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(15)).contains(&took), "{took:?}");
    farm.finish().await;
}

#[tokio::test]
async fn a_topic_wants_its_scope_and_asking_for_it_is_no_violation() {
    let farm = farm().await;
    let door = farm.door(0).addr;
    let nil = format!("spawn:{}", uuid::Uuid::nil());
    let topics = ["nodes", "node:node-a", "spawns", nil.as_str()];
    for (scope, allowed) in [("spawn", &topics[2..]), ("read", &topics[..]), ("operate", &topics[..])] {
        let mut listener = Subscriber::connect_as(door, &farm.key(&["--scope", scope]).await).await;
        for topic in topics {
            if allowed.contains(&topic) {
                listener.subscribe(topic).await;
                continue;
            }
            // More often than violations are put up with.
            for _ in 0..12 {
                listener.say(&json!({"type": "subscribe", "topic": topic}).to_string()).await;
                let refused = listener.refused("forbidden").await;
                assert!(refused["message"].as_str().unwrap().contains("read"), "{refused}");
                assert_eq!(refused["topic"], topic, "{refused}");
            }
        }
    }
    farm.finish().await;
}

/// All that is said until a spawn of this listener's own has ended.
async fn said_until_end(listener: &mut Subscriber, own: &str) -> Vec<Value> {
    let mut said = Vec::new();
    loop {
        let event = listener.event().await;
        let over = event["kind"] == "spawn.exited" && event["spawn"] == own;
        said.push(event);
        if over {
            return said;
        }
    }
}

#[tokio::test]
async fn only_operators_get_events_of_the_spawns_of_others() {
    let farm = Farm::builder()
        .keys()
        .doors(2)
        .agent(AgentPlan::slots(16).args(&["--ping-interval", "1s"]))
        .start()
        .await;
    let keys = [farm.key(&["--scope", "spawn,read"]).await, farm.key(&["--scope", "spawn,read"]).await];
    let [alice, bob] = keys.clone().map(|key| farm.door(0).showing(&key));
    let door = farm.door(1).addr;
    let [hers, his] = [spawned(alice).await, spawned(bob).await];
    let mut listener = Subscriber::connect_as(door, &keys[0]).await;
    let operator = farm.door(1).credential.unwrap();
    let mut all = Subscriber::connect_as(door, operator).await;
    let snapshot = listener.subscribe("spawns").await;
    let ids = |snapshot: &Value| -> Vec<String> {
        snapshot["snapshot"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&snapshot), std::slice::from_ref(&hers), "{snapshot}");
    let whole = all.subscribe("spawns").await;
    assert_eq!(ids(&whole).len(), 2, "{whole}");
    listener.subscribe("node:node-a").await;
    assert_eq!(listener.subscribe(&format!("spawn:{his}")).await["snapshot"], Value::Null);
    assert_eq!(listener.subscribe(&format!("spawn:{hers}")).await["snapshot"]["id"], hers.as_str());
    // Pings of both come with one heartbeat; what is said has hers alone.
    let mut pings = 0;
    while pings < 3 {
        let event = listener.event().await;
        assert!(!event.to_string().contains(&his), "{event}");
        if event["kind"] == "spawn.ping" && event["topic"] != format!("spawn:{hers}") {
            assert!(event["pings"].get(&hers).is_some(), "{event}");
            pings += 1;
        }
    }
    let both = timeout(Duration::from_secs(10), async {
        loop {
            let event = all.event().await;
            if event["kind"] == "spawn.ping" && event["pings"].as_object().unwrap().len() == 2 {
                return event;
            }
        }
    });
    both.await.expect("an operator hears of both");
    // Whole lives of others pass unheard: his first, then one more of his, then hers.
    assert_eq!(bob.delete(&format!("/v1/spawns/{his}")).send().await.status, 202);
    let second = spawned(bob).await;
    assert_eq!(bob.delete(&format!("/v1/spawns/{second}")).send().await.status, 202);
    for id in [&his, &second] {
        farm.reaches(id, "exited", TIMEOUT).await;
    }
    assert_eq!(alice.delete(&format!("/v1/spawns/{hers}")).send().await.status, 202);
    let said = said_until_end(&mut listener, &hers).await;
    for event in &said {
        let text = event.to_string();
        assert!(
            !text.contains(&his) && !text.contains(&second) && !text.contains(key_id(&keys[1])),
            "{event}"
        );
    }
    // Nor of what was missed.
    let mut back = Subscriber::connect_as(door, &keys[0]).await;
    let resumed = back.resume("spawns", seq(&snapshot)).await;
    assert_eq!(resumed.get("snapshot"), None, "{resumed}");
    let said = said_until_end(&mut back, &hers).await;
    assert!(
        said.iter().all(|event| !event.to_string().contains(&his) && !event.to_string().contains(&second)),
        "{said:?}"
    );
    let mut operator = Subscriber::connect_as(door, operator).await;
    operator.resume("spawns", seq(&snapshot)).await;
    let said = said_until_end(&mut operator, &hers).await;
    assert!(said.iter().any(|event| event["spawn"] == second.as_str()), "{said:?}");
    // What has ended is no less hers.
    let mut late = Subscriber::connect_as(door, &keys[1]).await;
    assert_eq!(late.subscribe(&format!("spawn:{hers}")).await["snapshot"], Value::Null);
    assert_eq!(late.subscribe(&format!("spawn:{his}")).await["snapshot"]["state"], "exited");
    farm.finish().await;
}

#[tokio::test]
async fn a_subscriber_whose_key_is_removed_loses_the_feed_within_two_seconds() {
    let farm = plan().doors(2).start().await;
    let (kept, lost) = (farm.key(&["--scope", "read"]).await, farm.key(&["--scope", "read"]).await);
    let expiring = farm.key(&["--scope", "read", "--expires", "6s"]).await;
    let mut all = Vec::new();
    for door in 0..2 {
        for key in [&kept, &lost, &expiring] {
            let mut listener = Subscriber::connect_as(farm.door(door).addr, key).await;
            listener.subscribe("nodes").await;
            all.push(listener);
        }
    }
    let began = Instant::now();
    let keys = farm.keys().display().to_string();
    let revoked = farm.run(&["key", "revoke", key_id(&lost), "--file", &keys]).await;
    assert_eq!(revoked.code, 0, "{revoked:?}");
    for at in [1, 4] {
        ends(&mut all[at], EXPIRED).await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    for door in 0..2 {
        farm.door(door).showing(&lost).get("/v1/nodes").send().await.problem(401, "unauthenticated");
    }
    for at in [2, 5] {
        ends(&mut all[at], EXPIRED).await;
    }
    // A file that is broken by hand takes nothing away at once.
    let good = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, format!("{good}{{\"id\":")).unwrap();
    for door in &farm.doors {
        until("the front door tells of the bad file", TIMEOUT, async || {
            Look::when(door.role.log().contains("keys not read"), || "it does not".to_owned())
        })
        .await;
    }
    for at in [0, 3] {
        all[at].subscribe("spawns").await;
    }
    assert_eq!(farm.door(0).showing(&kept).get("/v1/nodes").send().await.status, 200);
    fs::write(&keys, good).unwrap();
    let new = command::new_key(farm.mark(), &farm.keys(), &["--scope", "read"]);
    let began = Instant::now();
    until("the front door knows the new key", Duration::from_secs(2), async || {
        let status = farm.door(0).showing(&new).get("/v1/nodes").send().await.status;
        Look::when(status == 200, || format!("{status} after {:?}", began.elapsed()))
    })
    .await;
    // Its log has errors, as it should: the farm does not end like others.
    drop(farm);
}
