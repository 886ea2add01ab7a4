//! Redis goes away, comes back, and was wiped meanwhile.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, Viewer, until, wait::TIMEOUT};
use serde_json::json;

/// Waits until every front door says that it can serve again.
pub(crate) async fn ready_again(farm: &Farm) {
    for door in &farm.doors {
        until("the front door is ready again", TIMEOUT, async || {
            let ready = door.http.get("/readyz").send().await;
            let so = ready.status == 200 && ready.json()["status"] == "ready";
            Look::when(so, || format!("{ready:?}"))
        })
        .await;
    }
}

#[tokio::test]
async fn spawns_do_not_care_whether_redis_is_there() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(3)).start().await;
    let mut spawns = Vec::new();
    for _ in 0..3 {
        spawns.push(farm.door(0).spawned(&json!({})).await);
    }
    farm.audit().await;
    farm.redis.kill();
    // One viewer comes and goes, one stays, one process dies, all without a registry.
    let endpoint = |index: usize| spawns[index]["endpoint"].as_str().unwrap();
    let mut stays = Viewer::client_side(endpoint(0)).await;
    let mut goes = Viewer::client_side(endpoint(1)).await;
    for viewer in [&mut stays, &mut goes] {
        viewer.open_model("").await;
        assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
    }
    goes.leave().await;
    let id = |index: usize| spawns[index]["id"].as_str().unwrap();
    let dies = farm.process(id(2)).unwrap();
    hatchery_tests::processes::signal(dies.pid, rustix::process::Signal::KILL);
    until("one is left", TIMEOUT, async || {
        let left = farm.processes().len();
        Look::when(left == 1, || format!("{left} are"))
    })
    .await;
    farm.redis.restart().await;
    ready_again(&farm).await;
    // What happened meanwhile is on record, although the record was wiped.
    assert_eq!(farm.ends(id(1)).await["reason"], "disconnected");
    let exit = farm.ends(id(2)).await;
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("signaled"), &json!("SIGKILL")), "{exit}");
    let audit = farm.audit().await;
    assert_eq!(audit.total(), 1, "{audit:?}");
    stays.leave().await;
    farm.ends(id(0)).await;
    farm.finish().await;
}

#[tokio::test]
async fn spawns_start_while_redis_is_away_and_are_all_on_record_afterwards() {
    let plan = || AgentPlan::slots(3);
    let mut farm = Farm::builder().doors(2).agent(plan()).agent(plan()).start().await;
    for door in &farm.doors {
        until("the front door has seen both nodes", TIMEOUT, async || {
            let nodes = door.metrics().await.sum("hatchery_frontdoor_snapshot_nodes");
            Look::when(nodes > 1.5, || format!("{nodes} nodes in its snapshot"))
        })
        .await;
    }
    farm.redis.kill();
    let mut ids = Vec::new();
    for index in 0..6 {
        let answer = farm.door(index % 2).spawned(&json!({})).await;
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    farm.door(0).spawn(&json!({"waitSeconds": 60})).await.problem(503, "no-capacity");
    assert_eq!(farm.processes().len(), 6);
    farm.redis.restart().await;
    ready_again(&farm).await;
    until("every spawn is on record", TIMEOUT, async || {
        let list = farm.door(1).json("/v1/spawns?state=ready").await;
        let count = list["spawns"].as_array().unwrap().len();
        Look::when(count == 6, || format!("{count} are"))
    })
    .await;
    assert_eq!(farm.audit().await.total(), 6);
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_start_that_began_before_redis_went_is_answered() {
    let mut farm = Farm::small(2).await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=1500"});
    let caller = tokio::spawn(farm.door(0).post("/spawn").json(&body).send());
    until("a process starts", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "none".to_owned())
    })
    .await;
    farm.redis.kill();
    let answer = caller.await.unwrap();
    farm.redis.restart().await;
    ready_again(&farm).await;
    if answer.status == 200 {
        assert_eq!(farm.audit().await.total(), 1);
        farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    } else {
        // Whoever got an error has nothing left within ten seconds.
        until("nothing is left of it", Duration::from_secs(10), async || {
            Look::when(farm.processes().is_empty(), || format!("{:?}", farm.processes()))
        })
        .await;
        panic!("the agent had it started, nothing of this needs Redis: {answer:?}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn those_who_wait_when_redis_goes_are_answered() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let waiters: Vec<_> = (0..2)
        .map(|i| tokio::spawn(farm.door(i).post("/spawn").json(&json!({"waitSeconds": 30})).send()))
        .collect();
    farm.waiting(2).await;
    farm.redis.kill();
    farm.redis.restart().await;
    ready_again(&farm).await;
    farm.audit().await;
    farm.stop([first["id"].as_str().unwrap()]).await;
    let mut served = 0;
    for waiter in waiters {
        let answer = waiter.await.unwrap();
        match answer.status {
            200 => {
                served += 1;
                farm.stop([answer.json()["id"].as_str().unwrap()]).await;
            }
            _ => assert_eq!(answer.status, 503, "{answer:?}"),
        }
    }
    assert!(served > 0, "a place in line outlives the registry");
    farm.finish().await;
}
