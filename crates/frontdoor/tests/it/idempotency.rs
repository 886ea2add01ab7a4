//! One key, one answer.

use futures_util::future::join_all;

use crate::fake_agent::Script;
use crate::farm::{Farm, config};
use crate::http::{Answer, begin, get, spawn_keyed};
use crate::redis_server::RedisServer;
use crate::wait::until;

#[tokio::test]
async fn twenty_callers_with_one_key_get_one_spawn_through_two_front_doors() {
    let farm = Farm::start(40, &[Script::ReadyOnGo, Script::ReadyOnGo]).await;
    let other = farm.another_front_door().await;
    let doors = [farm.http, other.http_addr()];
    let calls = (0..20).map(|i| tokio::spawn(spawn_keyed(doors[i % 2], "one-key", r#"{"model":"a"}"#)));
    let calls = join_all(calls.collect::<Vec<_>>());
    let go = async {
        until(async || farm.orders(), |orders| *orders > 0).await;
        farm.agents.iter().for_each(|agent| agent.go());
    };
    let (answers, ()) = tokio::join!(calls, go);
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }
    assert_eq!(farm.orders(), 1);
    let again = spawn_keyed(other.http_addr(), "one-key", r#"{ "model": "a", "waitSeconds": 0 }"#).await;
    assert_eq!(again.body, answers[0].body, "and later");
    assert_eq!(farm.orders(), 1);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_a_conflict() {
    let farm = Farm::start(4, &[Script::Ready]).await;
    assert_eq!(spawn_keyed(farm.http, "k", r#"{"model":"a"}"#).await.status, 200);
    let answer = spawn_keyed(farm.http, "k", r#"{"model":"b"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "idempotency-conflict"));
    assert_eq!(spawn_keyed(farm.http, "l", r#"{"model":"b"}"#).await.status, 200);
}

#[tokio::test]
async fn a_failure_is_repeated_with_the_id_of_the_request_that_asks() {
    let farm =
        Farm::start(4, &[Script::Ended(wire::v1::Exit { reason: "failed".into(), ..Default::default() })])
            .await;
    let first = spawn_keyed(farm.http, "k", "").await;
    farm.agents[0].script(Script::Ready);
    let second = spawn_keyed(farm.http, "k", "").await;
    assert_eq!((first.code(), second.code()), ("spawn-failed".into(), "spawn-failed".into()));
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    assert_eq!(first.json()["spawn"], second.json()["spawn"]);
}

#[tokio::test]
async fn a_full_farm_is_tried_afresh_with_the_same_key() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    spawn_keyed(farm.http, "a", "").await;
    assert_eq!(spawn_keyed(farm.http, "b", "").await.code(), "no-capacity");
    farm.agents[0].end(farm.agents[0].running()[0]);
    until(async || spawn_keyed(farm.http, "b", "").await.status, |status| *status == 200).await;
}

#[tokio::test]
async fn who_waits_for_a_caller_that_hung_up_takes_over() {
    let farm = Farm::start(4, &[Script::Hang]).await;
    let first = begin(farm.http, &[("idempotency-key", "k")], "").await;
    until(async || farm.orders(), |orders| *orders == 1).await;
    let second = tokio::spawn(spawn_keyed(farm.http, "k", ""));
    farm.agents[0].script(Script::Ready);
    drop(first);
    assert_eq!(second.await.unwrap().status, 200);
    assert_eq!(farm.orders(), 2);
    until(async || farm.agents[0].running().len(), |n| *n == 1).await;
}

#[tokio::test]
async fn a_claim_is_kept_while_its_work_takes_long() {
    let farm = Farm::start(4, &[Script::ReadyOnGo]).await;
    let first = tokio::spawn(spawn_keyed(farm.http, "k", ""));
    until(async || farm.orders(), |orders| *orders == 1).await;
    let second = tokio::spawn(spawn_keyed(farm.http, "k", ""));
    // Twice as long as a claim lasts that nobody renews.
    tokio::time::sleep(crate::farm::TIMING.claim * 2).await;
    assert_eq!(farm.orders(), 1);
    farm.agents[0].go();
    assert_eq!(first.await.unwrap().body, second.await.unwrap().body);
}

#[tokio::test]
async fn a_key_whose_spawn_has_ended_says_so_and_how() {
    let farm = Farm::start(4, &[Script::Ready]).await;
    let first = spawn_keyed(farm.http, "k", "").await;
    assert_eq!(first.status, 200);
    let id = first.json()["id"].as_str().unwrap().to_owned();
    until(async || get(farm.http, &format!("/v1/spawns/{id}")).await.status, |status| *status == 200).await;
    assert_eq!(spawn_keyed(farm.http, "k", "").await.body, first.body, "it runs");
    farm.agents[0].end(id.parse().unwrap());
    let again = until(async || spawn_keyed(farm.http, "k", "").await, |again| again.status != 200).await;
    assert_eq!((again.status, again.code().as_str()), (410, "spawn-ended"));
    let problem = again.json();
    assert_eq!(problem["exit"]["reason"], "disconnected");
    assert_eq!((&problem["spawn"], &problem["node"]), (&first.json()["id"], &first.json()["node"]));
    assert_eq!(farm.orders(), 1);
}

/// The fingerprints of an empty body in the release before this one and in the one after it, as a test of the front door pins
/// them.
const EMPTY: [(&str, u128); 2] = [
    ("before", 0x64d4_a2c0_79de_515e_a65c_4c26_c147_e3c4),
    ("after", 0x294b_3a24_000f_51db_ae2b_59bb_fc19_42ad),
];

#[tokio::test]
async fn a_key_that_another_release_claimed_gives_its_answer() {
    let farm = Farm::start(4, &[Script::Ready]).await;
    for (name, fingerprint) in EMPTY {
        let key: registry::IdempotencyKey = name.parse().unwrap();
        let claimant = uuid::Uuid::now_v7();
        farm.registry.claim(&key, uuid::Uuid::from_u128(fingerprint), claimant).await.unwrap();
        let id = model::SpawnId::mint();
        let kept = serde_json::json!({
            "status": 200,
            "body": {"id": id, "endpoint": "ws://node-0:55000", "rendererType": "csr", "node": "node-0"},
        });
        let answer = Some((kept.to_string(), std::time::Duration::from_secs(60)));
        farm.registry
            .settle(&key, claimant, answer.as_ref().map(|(text, keep)| (text.as_str(), *keep)))
            .await
            .unwrap();
        assert_eq!(spawn_keyed(farm.http, name, "").await.json()["id"], id.to_string());
        assert_eq!(spawn_keyed(farm.http, name, r#"{"model":"a"}"#).await.status, 409);
    }
    assert_eq!(farm.orders(), 0);
}

#[tokio::test]
async fn a_key_is_claimed_in_the_form_that_the_release_before_compares() {
    let farm = Farm::start(4, &[Script::Ready]).await;
    assert_eq!(spawn_keyed(farm.http, "new", "").await.status, 200);
    let before = uuid::Uuid::from_u128(EMPTY[0].1);
    let seen = farm.registry.claim(&"new".parse().unwrap(), before, uuid::Uuid::now_v7()).await.unwrap();
    assert!(matches!(seen, registry::ask::Claim::Settled(_)), "{seen:?}");
}

/// A spawn with a key that is ready while the registry hangs.
async fn ready_without_registry(deadline: u64) -> (RedisServer, Farm, tokio::task::JoinHandle<Answer>) {
    let redis = RedisServer::start().await;
    let mut settings = config();
    settings.spawn_deadline = std::time::Duration::from_secs(deadline);
    let farm = Farm::over(redis.registry(), settings, 4, &[Script::ReadyOnGo]).await;
    let first = tokio::spawn(spawn_keyed(farm.http, "k", ""));
    until(async || farm.orders(), |orders| *orders == 1).await;
    redis.pause();
    let admin = farm.front.admin_addr();
    let away = "hatchery_frontdoor_registry_up 0\n";
    until(async || get(admin, "/metrics").await.body, |text| text.contains(away)).await;
    farm.agents[0].go();
    (redis, farm, first)
}

#[tokio::test]
async fn a_spawn_whose_key_cannot_be_settled_is_ended_and_a_retry_starts_the_only_one() {
    let (redis, farm, first) = ready_without_registry(3).await;
    let first = first.await.unwrap();
    assert_eq!((first.status, first.code().as_str()), (503, "registry-unavailable"));
    until(async || farm.agents[0].running(), Vec::is_empty).await;
    redis.go_on();
    farm.agents[0].script(Script::Ready);
    until(async || spawn_keyed(farm.http, "k", "").await.status, |status| *status == 200).await;
    assert_eq!(farm.agents[0].running().len(), 1);
}

#[tokio::test]
async fn a_key_is_settled_when_the_registry_is_back_within_the_deadline() {
    let (redis, farm, first) = ready_without_registry(20).await;
    // Longer than a front door waits for one call.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(!first.is_finished(), "what is not settled is not answered");
    redis.go_on();
    let first = first.await.unwrap();
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(spawn_keyed(farm.http, "k", "").await.body, first.body);
    assert_eq!((farm.orders(), farm.agents[0].running().len()), (1, 1));
}
