//! The same key, the same answer: at once, later, through another front door.

use std::time::Duration;

use futures_util::future::join_all;
use hatchery_tests::http::Request;
use hatchery_tests::wait::{self, TIMEOUT};
use hatchery_tests::{AgentPlan, Farm, Look, Response, audit::all_spawns, until};
use serde_json::{Value, json};

fn keyed(farm: &Farm, door: usize, key: &str, body: &Value) -> Request {
    farm.door(door).post("/spawn").header("idempotency-key", key).json(body)
}

async fn two_doors(slots: u16) -> Farm {
    Farm::builder().doors(2).agent(AgentPlan::slots(slots)).start().await
}

#[tokio::test]
async fn the_same_key_twenty_times_at_once_is_one_spawn() {
    let farm = two_doors(8).await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=300"});
    let answers = join_all((0..20).map(|i| keyed(&farm, i % 2, "order-1", &body).send())).await;
    let first = &answers[0];
    assert_eq!(first.status, 200, "{first:?}");
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &first.body), "{answer:?} is not {first:?}");
    }
    assert_eq!(farm.audit().await.total(), 1);

    for door in [0, 1] {
        let later = keyed(&farm, door, "order-1", &body).send().await;
        assert_eq!((later.status, &later.body), (200, &first.body));
        keyed(&farm, door, "order-1", &json!({})).send().await.problem(409, "idempotency-conflict");
        keyed(&farm, door, "order-1", &json!({"rendererType": "ssr"}))
            .send()
            .await
            .problem(409, "idempotency-conflict");
    }
    assert_eq!(farm.audit().await.total(), 1);
    assert_eq!(all_spawns(farm.door(0), "").await.len(), 1);

    let id = first.json()["id"].as_str().unwrap().to_owned();
    farm.stop([id.as_str()]).await;
    farm.ends(&id).await;
    let ended = keyed(&farm, 1, "order-1", &body).send().await;
    let problem = ended.problem(410, "spawn-ended");
    assert_eq!(
        problem.json["exit"]["reason"], "stopped",
        "its port may be somebody else's by now: {ended:?}"
    );
    farm.finish().await;
}

#[tokio::test]
async fn other_keys_and_no_key_are_spawns_of_their_own() {
    let farm = two_doors(8).await;
    let a = keyed(&farm, 0, "a", &json!({})).send().await.json();
    let b = keyed(&farm, 1, "b", &json!({})).send().await.json();
    let c = farm.door(0).spawned(&json!({})).await;
    let d = farm.door(0).spawned(&json!({})).await;
    assert_eq!(farm.audit().await.total(), 4);
    let ids = [a, b, c, d].map(|answer| answer["id"].as_str().unwrap().to_owned());
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_failure_is_replayed_like_a_success() {
    let farm = two_doors(4).await;
    let body = json!({"sessionToken": "sim:exit_before_ready=6,exit_delay_ms=200"});
    let mut answers = join_all((0..6).map(|i| keyed(&farm, i % 2, "bad", &body).send())).await;
    for door in [0, 1] {
        answers.push(keyed(&farm, door, "bad", &body).send().await);
    }
    let same = |answer: &Response| {
        let mut json = answer.problem(502, "spawn-failed").json;
        // Ties the answer to its own request.
        json.as_object_mut().unwrap().remove("requestId");
        json
    };
    let first = same(&answers[0]);
    assert_eq!(first["exitCode"], 6);
    for answer in &answers {
        assert_eq!(same(answer), first);
    }
    assert_eq!(all_spawns(farm.door(0), "").await.len(), 1, "it was tried once");
    keyed(&farm, 0, "bad", &json!({})).send().await.problem(409, "idempotency-conflict");
    farm.finish().await;
}

#[tokio::test]
async fn a_key_that_met_a_full_farm_can_be_used_again() {
    let farm = two_doors(1).await;
    let first = farm.door(0).spawned(&json!({})).await;
    let refused = keyed(&farm, 0, "later", &json!({})).send().await;
    refused.problem(503, "no-capacity");
    farm.stop([first["id"].as_str().unwrap()]).await;
    farm.assert_empty().await;
    // The client does as it is told.
    tokio::time::sleep(Duration::from_secs(refused.retry_after())).await;
    let again = keyed(&farm, 1, "later", &json!({})).send().await;
    assert_eq!(again.status, 200, "{again:?}");
    let replay = keyed(&farm, 0, "later", &json!({})).send().await;
    assert_eq!(replay.body, again.body);
    farm.stop([again.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_caller_that_shares_a_key_with_one_that_hung_up_gets_one_spawn() {
    let farm = two_doors(4).await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=1500"});
    let first = keyed(&farm, 0, "shared", &body).start().await;
    until("the first call has started its spawn", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "no process".to_owned())
    })
    .await;
    let request = keyed(&farm, 1, "shared", &body);
    let second = tokio::spawn(request.send());
    drop(first);
    let answer = second.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let audit = farm.audit().await;
    assert_eq!(audit.total(), 1, "{audit:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert!(audit.spawns["node-a"].contains(&id), "{audit:?}");
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_claim_that_is_lost_on_the_way_does_not_make_a_call_twice_as_long() {
    const DEADLINE: Duration = Duration::from_secs(10);
    let doors = ["--spawn-deadline", "10s"];
    let plan = AgentPlan::slots(2).args(&["--ready-timeout", "9s"]);
    let farm = Farm::builder().door_args(&doors).agent(plan).start().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=60000"});
    let asked = tokio::time::Instant::now();
    let call = tokio::spawn(keyed(&farm, 0, "late", &body).send());
    let key = until("the key is claimed", TIMEOUT, async || {
        let keys = farm.redis.says("KEYS *:idem:late").await.unwrap_or_default();
        keys.lines()
            .find(|line| line.contains(":idem:"))
            .map_or_else(|| Look::NotYet(keys.clone()), |key| Look::Ready(key.trim().to_owned()))
    })
    .await;
    wait::longer_than(DEADLINE / 2).await;
    // As if another front door had taken it over, which never answers: the claim lapses, and the call may claim it again.
    farm.redis.says(&format!("HSET {key} claimant another")).await.unwrap();
    let answer = call.await.unwrap();
    assert!(answer.status >= 500, "{answer:?}");
    // Begun anew with a deadline of its own it would take 20 s.
    assert!(asked.elapsed() < DEADLINE + DEADLINE / 2, "{:?}", asked.elapsed());
    farm.finish().await;
}
