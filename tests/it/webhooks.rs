//! Webhooks: each event reaches its receiver at least once, in order for each spawn, signed, whatever fails between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hatchery_tests::metrics::Metrics;
use hatchery_tests::{AgentPlan, Farm, FarmBuilder, Look, Posted, Receiver, until, wait::TIMEOUT};
use ring::hmac;
use serde_json::json;
use tokio::time::Instant;

const KEY: [u8; 32] = [7; 32];

/// A farm whose front doors post to this URL.
fn posting(directory: &Path, url: &str) -> FarmBuilder {
    let secret = directory.join("secret");
    fs::write(&secret, format!("whsec_{}\n", STANDARD.encode(KEY))).unwrap();
    Farm::builder().door_args(&["--webhook", url, "--webhook-secret-file", secret.to_str().unwrap()])
}

/// Checks a post as its receiver would.
fn check_signature(posted: &Posted) {
    let [id, timestamp, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| posted.header(name));
    let signed = [format!("{id}.{timestamp}.").as_bytes(), &posted.body].concat();
    let signature = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &KEY), &signed, &signature).unwrap();
    assert!(timestamp.parse::<u64>().unwrap() > 1_700_000_000, "{posted:?}");
    assert_eq!(posted.header("content-type"), "application/json");
}

/// The front door that delivers.
async fn deliverer(farm: &Farm) -> usize {
    until("a front door delivers", TIMEOUT, async || {
        for (index, door) in farm.doors.iter().enumerate() {
            if Metrics::of(&door.admin).await.sum("hatchery_frontdoor_webhook_delivers") > 0.0 {
                return Look::Ready(index);
            }
        }
        Look::NotYet("none".to_owned())
    })
    .await
}

/// The numbers of the events that a spawn's record has, pings left out.
async fn recorded(farm: &Farm, door: usize, id: &str) -> Vec<u64> {
    let record = farm.door(door).json(&format!("/v1/spawns/{id}")).await;
    let events = record["events"].as_array().unwrap().iter();
    events.filter(|event| event["kind"] != "spawn.ping").map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_receiver_that_fails_at_random_gets_each_event_in_order_although_a_front_door_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let seed = fastrand::u64(..);
    let receiver = Receiver::start(seed, 30).await;
    let url = format!("http://us%40er:SECRET@{}/in/TOKEN?key=KEY", receiver.addr);
    let mut farm = posting(directory.path(), &url).doors(2).agent(AgentPlan::slots(8)).start().await;
    let first = deliverer(&farm).await;
    let other = 1 - first;
    let mut ids = Vec::new();
    let mut round = async |farm: &Farm| {
        for _ in 0..4 {
            let id = farm.door(other).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
            farm.door(other).delete(&format!("/v1/spawns/{id}")).send().await;
            ids.push(id);
        }
    };
    round(&farm).await;
    until("something was delivered", TIMEOUT, async || {
        Look::when(receiver.taken().len() > 4, || receiver.taken().len().to_string())
    })
    .await;
    farm.doors[first].role.kill();
    round(&farm).await;
    farm.doors[first].restart().await;
    round(&farm).await;
    let mut expected = BTreeSet::new();
    for id in &ids {
        farm.ends(id).await;
        expected.extend(recorded(&farm, other, id).await);
    }
    assert!(expected.len() >= 3 * ids.len(), "seed {seed}: {expected:?}");
    let arrived = until("every event has arrived", TIMEOUT * 2, async || {
        let taken = receiver.taken();
        let seqs: BTreeSet<u64> = taken.iter().map(|post| post.event()["seq"].as_u64().unwrap()).collect();
        let missing: Vec<&u64> = expected.difference(&seqs).collect();
        if missing.is_empty() {
            Look::Ready(taken)
        } else {
            Look::NotYet(format!("seed {seed}: {missing:?}"))
        }
    })
    .await;
    assert!(receiver.refused() > 0, "seed {seed}: nothing failed");

    let mut of_spawn: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for post in &arrived {
        check_signature(post);
        assert_eq!(post.path, "/in/TOKEN?key=KEY");
        assert_eq!(post.header("authorization"), format!("Basic {}", STANDARD.encode("us@er:SECRET")));
        let event = post.event();
        let seq = event["seq"].as_u64().unwrap();
        assert_eq!(post.header("webhook-id"), format!("evt_{seq}"), "it is the same for each attempt");
        let Some(spawn) = event["spawn"].as_str() else { continue };
        let seqs = of_spawn.entry(spawn.to_owned()).or_default();
        if !seqs.contains(&seq) {
            seqs.push(seq);
        }
    }
    for (spawn, seqs) in &of_spawn {
        assert!(seqs.is_sorted(), "seed {seed}: {spawn} has {seqs:?}");
    }
    // The cursor has moved over everything, and no secret of the URL is in a log or a metric.
    let second = deliverer(&farm).await;
    receiver.fail(0);
    until("nothing is left to be delivered", TIMEOUT, async || {
        let lag = Metrics::of(&farm.doors[second].admin).await.sum("hatchery_frontdoor_webhook_lag_seconds");
        Look::when(lag == 0.0, || lag.to_string())
    })
    .await;
    for door in &farm.doors {
        let said = door.role.log() + &door.admin.get("/metrics").send().await.text();
        for secret in ["SECRET", "TOKEN", "KEY", "whsec", &STANDARD.encode(KEY)] {
            assert!(!said.contains(secret), "{secret} is shown by {}", door.role.name);
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_receiver_that_is_away_delays_no_spawn_and_learns_what_was_lost_with_the_registry() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(1, 100).await;
    let url = format!("http://{}/", receiver.addr);
    let farm = posting(directory.path(), &url).agent(AgentPlan::slots(2)).start().await;
    deliverer(&farm).await;
    let began = Instant::now();
    let lost = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    farm.stops_one(&lost).await;
    assert!(began.elapsed() < TIMEOUT / 3, "a spawn waits for webhooks: {:?}", began.elapsed());
    farm.doors[0].role.logs("a webhook does not take an event").await;
    let metrics = Metrics::of(&farm.doors[0].admin).await;
    let series = |name: &str, more: &str| {
        format!("hatchery_frontdoor_webhook_{name}{{webhook=\"http://{}\"{more}}}", receiver.addr)
    };
    assert!(metrics.get(&series("attempts_total", ",outcome=\"failed\"")).unwrap() > 0.0);
    assert_eq!(metrics.get(&series("gaps_total", "")), Some(0.0));

    // The stream is gone, with what was not read; what had been read is delivered all the same.
    assert!(farm.redis.flush().await);
    farm.doors[0].role.logs("events were dropped before they were delivered").await;
    receiver.fail(0);
    let next = until("a spawn after the wipe", TIMEOUT, async || {
        let answer = farm.door(0).spawn(&json!({})).await;
        if answer.status == 200 { Look::Ready(answer.json()) } else { Look::NotYet(format!("{answer:?}")) }
    })
    .await["id"]
        .clone();
    until("the gap, and what came before and after it", TIMEOUT, async || {
        let events: Vec<_> = receiver.taken().iter().map(Posted::event).collect();
        let has = |kind: &str, spawn: &serde_json::Value| {
            events.iter().any(|event| event["kind"] == kind && event["spawn"] == *spawn)
        };
        let all = has("webhook.gap", &serde_json::Value::Null)
            && has("spawn.exited", &lost.clone().into())
            && has("spawn.ready", &next);
        Look::when(all, || format!("{events:#?}"))
    })
    .await;
    receiver.taken().iter().for_each(check_signature);
    assert_eq!(Metrics::of(&farm.doors[0].admin).await.get(&series("gaps_total", "")), Some(1.0));
    farm.stop([next.as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_event_that_a_receiver_refuses_for_ever_is_set_aside_with_a_notice_and_the_others_go_on_in_order()
{
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(1, 0).await;
    receiver.reject("spawn.ready");
    let url = format!("http://{}/", receiver.addr);
    let farm = posting(directory.path(), &url)
        .door_args(&["--webhook-refused-for", "1s"])
        .agent(AgentPlan::slots(2))
        .start()
        .await;
    deliverer(&farm).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
        farm.stops_one(&id).await;
        ids.push(id);
    }
    // Other spawns' events show that the receiver is there.
    let told = until("each end has arrived after the notice of what was refused", TIMEOUT * 2, async || {
        let id = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
        farm.stops_one(&id).await;
        let taken = receiver.taken();
        let of = |id: &str| -> Vec<serde_json::Value> {
            taken.iter().map(Posted::event).filter(|event| event["spawn"] == id).collect()
        };
        let ended = |id: &String| of(id).iter().any(|event| event["kind"] == "spawn.exited");
        if ids.iter().all(ended) { Look::Ready(taken.clone()) } else { Look::NotYet(format!("{taken:#?}")) }
    })
    .await;
    told.iter().for_each(check_signature);
    for id in &ids {
        let kinds: Vec<String> = told
            .iter()
            .map(Posted::event)
            .filter(|event| event["spawn"] == *id.as_str())
            .map(|event| event["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(kinds, ["spawn.launching", "webhook.set-aside", "spawn.stopping", "spawn.exited"]);
    }
    let notice = told.iter().map(Posted::event).find(|event| event["kind"] == "webhook.set-aside").unwrap();
    assert_eq!((&notice["event"]["kind"], &notice["why"]), (&json!("spawn.ready"), &json!("it answers 422")));
    farm.doors[0].role.logs("an event is set aside").await;
    let metrics = Metrics::of(&farm.doors[0].admin).await;
    assert!(metrics.sum("hatchery_frontdoor_webhook_set_aside_total") >= 2.0);
    farm.finish().await;
}
