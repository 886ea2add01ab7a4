//! The receiver that spawned servers report to.

use hatchery_tests::{AgentPlan, Farm, Look, until, wait::TIMEOUT};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn reports_are_answered_as_the_vendors_server_expects() {
    let farm = Farm::small(2).await;
    let answer = farm.door(0).spawned(&json!({})).await;
    let id = answer["id"].as_str().unwrap();
    let receiver = farm.agents[0].liveliness;
    let own = farm.process(id).unwrap().reports_to();
    for path in [format!("{own}/{id}?liveliness=ping"), format!("{own}//{id}?liveliness=ping")] {
        let answer = receiver.post(&path).send().await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}: {answer:?}");
    }
    for unknown in [Uuid::nil().to_string(), "nope".to_owned(), "%00".to_owned(), "..%2f".to_owned()] {
        let answer = receiver.post(&format!("{own}/{unknown}?liveliness=ping")).send().await;
        assert_eq!((answer.status, answer.json()), (404, json!({"error": "invalid spawnId."})), "{unknown}");
    }
    for query in ["?liveliness=dead", "?liveliness=", "?liveliness=PING", "?other=ping", ""] {
        let answer = receiver.post(&format!("{own}/{id}{query}")).send().await;
        assert_eq!(
            (answer.status, answer.json()),
            (400, json!({"error": "invalid liveliness value"})),
            "{query}"
        );
    }
    let answer = receiver.get(&format!("{own}/{id}?liveliness=ping")).send().await;
    assert!([404, 405].contains(&answer.status), "{answer:?}");
    assert_eq!(farm.record(id).await["state"], "ready", "none of this hurts");
    farm.stop([id]).await;
    farm.ends(id).await;
    let late = receiver.post(&format!("{own}/{id}?liveliness=ping")).send().await;
    assert_eq!(late.status, 404, "an ended spawn is unknown: {late:?}");
    farm.finish().await;
}

#[tokio::test]
async fn rude_reports_disturb_no_other_node() {
    let farm = Farm::small(2).await;
    let receiver = farm.agents[0].liveliness;
    let answer = farm.door(0).spawned(&json!({})).await;
    let id = answer["id"].as_str().unwrap();
    for garbage in [&b"\0\0\0\0\r\n\r\n"[..], b"POST /liveliness/x HTTP/1.1\r\n", b"POST", b"\r\n\r\n\r\n"] {
        drop(receiver.open(garbage).await);
    }
    let half: Vec<_> =
        futures_util::future::join_all((0..50).map(|_| receiver.open(b"POST /liveliness/"))).await;
    let own = farm.process(id).unwrap().reports_to();
    let big =
        receiver.post(&format!("{own}/{id}?liveliness=ping")).body("x".repeat(1 << 20)).try_send().await;
    assert!(big.as_ref().is_err() || big.as_ref().is_ok_and(|a| [200, 413].contains(&a.status)), "{big:?}");
    let ping = receiver.post(&format!("{own}/{id}?liveliness=ping")).send().await;
    assert_eq!(ping.status, 200);
    let second = farm.door(0).spawned(&json!({})).await;
    drop(half);
    farm.stop([id, second["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn pings_show_in_the_record() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&["--ping-interval", "200ms"])).start().await;
    let answer = farm.door(0).spawned(&json!({})).await;
    let id = answer["id"].as_str().unwrap();
    let first =
        until("a ping is on record", TIMEOUT, async || match farm.record(id).await["lastPingAt"].as_str() {
            Some(at) => Look::Ready(at.to_owned()),
            None => Look::NotYet("none".to_owned()),
        })
        .await;
    until("a later one is", TIMEOUT, async || {
        let record = farm.record(id).await;
        Look::when(record["lastPingAt"].as_str().is_some_and(|at| *at > *first), || record.to_string())
    })
    .await;
    farm.stop([id]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_writes_a_slash_too_many_is_understood() {
    let farm = Farm::small(2).await;
    let answer = farm.door(0).spawned(&json!({"sessionToken": "sim:liveliness_double_slash=1"})).await;
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
