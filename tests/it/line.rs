//! Waiting in line for a slot, across front doors.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hatchery_tests::{AgentPlan, Farm};
use serde_json::json;
use tokio::time::Instant;

#[tokio::test]
async fn those_who_wait_are_served_in_their_order_whatever_front_door_they_wait_at() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(2)).start().await;
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned());
    }
    let mut waiters = FuturesUnordered::new();
    for number in 0..6 {
        let request = farm.door(number % 2).post("/spawn").json(&json!({"waitSeconds": 20}));
        let waiter = tokio::spawn(async move { (number, request.send().await) });
        waiters.push(waiter);
        farm.waiting(number + 1).await;
    }
    // Whoever does not wait does not jump the line either.
    farm.door(1).spawn(&json!({})).await.problem(503, "no-capacity");
    for expected in 0..6 {
        farm.stop([running.remove(0).as_str()]).await;
        let (number, answer) = waiters.next().await.unwrap().unwrap();
        assert_eq!(number, expected, "{answer:?}");
        assert_eq!(answer.status, 200, "{answer:?}");
        running.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    farm.waiting(0).await;
    farm.stop(running.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_newcomer_does_not_overtake_those_who_wait() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let waiter = tokio::spawn(farm.door(0).post("/spawn").json(&json!({"waitSeconds": 20})).send());
    farm.waiting(1).await;
    let pushing = tokio::spawn({
        let door = farm.door(1);
        async move {
            let mut pushed_in = Vec::new();
            for _ in 0..200 {
                let answer = door.spawn(&json!({})).await;
                if answer.status == 200 {
                    pushed_in.push(answer.json());
                }
            }
            pushed_in
        }
    });
    farm.stop([first["id"].as_str().unwrap()]).await;
    let answer = waiter.await.unwrap();
    let pushed_in = pushing.await.unwrap();
    assert!(pushed_in.is_empty(), "{pushed_in:?} came before {answer:?}");
    assert_eq!(answer.status, 200, "{answer:?}");
    farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_wait_that_is_over_is_answered_in_time() {
    let farm = Farm::small(1).await;
    let first = farm.door(0).spawned(&json!({})).await;
    for seconds in [1, 2] {
        let asked = Instant::now();
        let answer = farm.door(0).spawn(&json!({"waitSeconds": seconds})).await;
        let took = asked.elapsed();
        answer.problem(503, "no-capacity");
        let wanted = Duration::from_secs(seconds);
        assert!(took >= wanted && took < wanted + Duration::from_secs(2), "{took:?} for {seconds} s");
    }
    farm.waiting(0).await;
    farm.stop([first["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_place_that_was_given_up_holds_no_other_up() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    farm.door(0).spawn(&json!({"waitSeconds": 1})).await.problem(503, "no-capacity");
    farm.stop([first["id"].as_str().unwrap()]).await;
    farm.assert_empty().await;
    let asked = Instant::now();
    let second = farm.door(1).spawned(&json!({"waitSeconds": 20})).await;
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    farm.stop([second["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_same_request_with_its_key_takes_its_place_up_again_also_at_another_front_door() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let request = farm.door(0).post("/spawn").header("idempotency-key", "place-1");
    let waits = tokio::spawn(request.json(&json!({"waitSeconds": 3})).send());
    farm.waiting(1).await;
    let second = tokio::spawn(farm.door(0).post("/spawn").json(&json!({"waitSeconds": 40})).send());
    farm.waiting(2).await;
    let refused = waits.await.unwrap();
    assert!(refused.retry_after() <= 2, "before the place lapses: {refused:?}");
    refused.problem(503, "no-capacity");

    // For a second the key has that answer.
    let again = tokio::spawn({
        let door = farm.door(1);
        async move {
            loop {
                let request = door.post("/spawn").header("idempotency-key", "place-1");
                let answer = request.json(&json!({"waitSeconds": 3})).send().await;
                if answer.status != 503 {
                    break answer;
                }
            }
        }
    });
    farm.waiting(2).await;
    farm.stop([first["id"].as_str().unwrap()]).await;
    let answer = again.await.unwrap();
    assert_eq!(answer.status, 200, "it was first: {answer:?}");
    farm.waiting(1).await;
    farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    let answer = second.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_place_whose_request_does_not_come_again_lapses() {
    let farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let request =
        farm.door(0).post("/spawn").header("idempotency-key", "gone").json(&json!({"waitSeconds": 1}));
    request.send().await.problem(503, "no-capacity");
    farm.stop([first["id"].as_str().unwrap()]).await;
    let asked = Instant::now();
    let second = farm.door(0).spawned(&json!({"waitSeconds": 20})).await;
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    farm.stop([second["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_line_is_bounded() {
    let builder = Farm::builder().door_args(&["--max-waiting", "2"]).agent(AgentPlan::slots(1));
    let farm = builder.start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let body = json!({"waitSeconds": 30});
    let mut waiters = Vec::new();
    for number in 1..=2 {
        waiters.push(farm.door(0).post("/spawn").json(&body).start().await);
        farm.waiting(number).await;
    }
    let asked = Instant::now();
    farm.door(0).spawn(&body).await.problem(503, "no-capacity");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    drop(waiters);
    farm.waiting(0).await;
    farm.stop([first["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn no_caller_waits_for_a_node_that_does_not_exist() {
    let farm = Farm::small(1).await;
    let asked = Instant::now();
    let body = json!({"waitSeconds": 30, "labels": {"sdk": "1999"}});
    farm.door(0).spawn(&body).await.problem(503, "no-matching-node");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    farm.finish().await;
}

#[tokio::test]
async fn those_who_wait_for_something_else_are_not_held_up() {
    let plan = |zone: &str| AgentPlan::slots(1).args(&["--label", &format!("zone={zone}")]);
    let farm = Farm::builder().agent(plan("a")).agent(plan("b")).start().await;
    let body = |zone: &str| json!({"waitSeconds": 20, "labels": {"zone": zone}});
    let a = farm.door(0).spawned(&body("a")).await;
    let b = farm.door(0).spawned(&body("b")).await;
    let waits_for_a = tokio::spawn(farm.door(0).post("/spawn").json(&body("a")).send());
    farm.waiting(1).await;
    let waits_for_b = tokio::spawn(farm.door(0).post("/spawn").json(&body("b")).send());
    farm.waiting(2).await;
    farm.stop([b["id"].as_str().unwrap()]).await;
    let second = waits_for_b.await.unwrap();
    assert_eq!((second.status, &second.json()["node"]), (200, &json!("node-b")), "{second:?}");
    farm.stop([a["id"].as_str().unwrap(), second.json()["id"].as_str().unwrap()]).await;
    let first = waits_for_a.await.unwrap();
    assert_eq!((first.status, &first.json()["node"]), (200, &json!("node-a")), "{first:?}");
    farm.stop([first.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
