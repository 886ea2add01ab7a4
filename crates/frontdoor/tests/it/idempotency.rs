//! One key, one answer.

use futures_util::future::join_all;

use crate::fake_agent::Script;
use crate::farm::Farm;
use crate::http::{begin, spawn_keyed};
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
