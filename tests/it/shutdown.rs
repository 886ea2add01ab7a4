//! Ending a front door or an agent in order, and the deadlines that end what nobody ends.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, audit::all_spawns, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::Instant;

async fn a_process_starts(farm: &Farm) {
    until("a process starts", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "none".to_owned())
    })
    .await;
}

#[tokio::test]
async fn a_front_door_that_is_asked_to_end_answers_what_it_has_begun() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(2)).start().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=1500"});
    let caller = tokio::spawn(farm.door(0).post("/spawn").json(&body).send());
    a_process_starts(&farm).await;
    farm.doors[0].role.signal(Signal::TERM);
    let addr = farm.door(0).addr;
    until("no new caller is let in", TIMEOUT, async || {
        Look::when(TcpStream::connect(addr).await.is_err(), || "it accepts".to_owned())
    })
    .await;
    let answer = caller.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let status = farm.doors[0].role.end().await;
    assert!(status.success(), "{status}");
    farm.doors[0].role.killed = true;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(farm.audit().await.total(), 1, "its spawn lives on");
    assert_eq!(farm.door(1).delete(&format!("/v1/spawns/{id}")).send().await.status, 202);
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_whose_grace_is_over_leaves_nothing_behind() {
    let builder = Farm::builder().doors(2).door_args(&["--shutdown-grace", "500ms"]);
    let mut farm = builder.agent(AgentPlan::slots(2)).start().await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=20000"});
    let caller = tokio::spawn(farm.door(0).post("/spawn").json(&body).try_send());
    a_process_starts(&farm).await;
    farm.doors[0].role.signal(Signal::TERM);
    let asked = Instant::now();
    farm.doors[0].role.end().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    farm.doors[0].role.killed = true;
    if let Ok(answer) = caller.await.unwrap() {
        assert_ne!(answer.status, 200, "{answer:?}");
    }
    until("nothing is left of it", Duration::from_secs(10), async || {
        let node = farm.door(1).json("/v1/nodes/node-a").await;
        let so = farm.processes().is_empty() && node["slots"]["used"] == 0;
        Look::when(so, || format!("{node} {:?}", farm.processes()))
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn a_start_beyond_the_spawn_deadline_is_given_up_and_ended() {
    let builder = Farm::builder().door_args(&["--spawn-deadline", "1s"]).agent(AgentPlan::slots(2));
    let farm = builder.start().await;
    let asked = Instant::now();
    let answer = farm.door(0).spawn(&json!({"sessionToken": "sim:ready_delay_ms=20000"})).await;
    let took = asked.elapsed();
    answer.problem(504, "ready-timeout");
    // A little less than the deadline, so that the verdict is there in time.
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(4), "{took:?}");
    until("nothing is left of it", Duration::from_secs(10), async || {
        Look::when(farm.processes().is_empty(), || format!("{:?}", farm.processes()))
    })
    .await;
    let spawns = all_spawns(farm.door(0), "").await;
    assert_eq!(spawns.len(), 1, "one try only: {spawns:?}");
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_with_kill_on_exit_ends_its_spawns_with_it() {
    let plan = AgentPlan::slots(4).args(&["--on-shutdown", "kill", "--stop-grace", "500ms"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let mut ids = Vec::new();
    for misbehaviour in ["sim:", "sim:ignore_term=1,fork_grandchild=1"] {
        let answer = farm.door(0).spawned(&json!({"sessionToken": misbehaviour})).await;
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    farm.agents[0].role.signal(Signal::TERM);
    let status = farm.agents[0].role.end().await;
    assert!(status.success(), "{status}");
    farm.agents[0].role.killed = true;
    assert!(farm.processes().is_empty(), "{:?}", farm.processes());
    for id in &ids {
        farm.ends(id).await;
    }
    farm.shut_down().await;
}

#[tokio::test]
async fn an_agent_with_drain_on_exit_waits_for_its_spawns() {
    let plan = AgentPlan::slots(4).args(&["--on-shutdown", "drain"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let answer = farm.door(0).spawned(&json!({})).await;
    let id = answer["id"].as_str().unwrap().to_owned();
    farm.agents[0].role.signal(Signal::TERM);
    until("it takes no more", TIMEOUT, async || {
        let answer = farm.door(0).spawn(&json!({})).await;
        Look::when(answer.status == 503, || format!("{answer:?}"))
    })
    .await;
    assert_eq!(farm.agents[0].role.exited(), None, "it waits for its spawn");
    assert!(farm.process(&id).is_some());
    until("no request comes any more", TIMEOUT, async || {
        let slots = farm.door(0).json("/v1/nodes/node-a").await["slots"].clone();
        Look::when(slots["total"] == slots["used"] && slots["used"] != 0, || slots.to_string())
    })
    .await;
    let refused = farm.door(0).spawn(&json!({})).await;
    assert_eq!(refused.json()["code"], "no-capacity", "{refused:?}");
    for process in farm.processes() {
        let id = process.option("--id").unwrap().to_owned();
        farm.stop([id.as_str()]).await;
    }
    let status = farm.agents[0].role.end().await;
    assert!(status.success(), "{status}");
    farm.agents[0].role.killed = true;
    assert_eq!(farm.ends(&id).await["reason"], "stopped");
    // Nobody has to undo anything.
    farm.agents[0].restart().await;
    let answer = farm.door(0).spawned(&json!({"waitSeconds": 20})).await;
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_second_signal_hurries_an_agent() {
    let plan = AgentPlan::slots(4).args(&["--on-shutdown", "drain"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    farm.door(0).spawned(&json!({})).await;
    farm.agents[0].role.signal(Signal::TERM);
    until("it takes no more", TIMEOUT, async || {
        let answer = farm.door(0).spawn(&json!({})).await;
        Look::when(answer.status == 503, || format!("{answer:?}"))
    })
    .await;
    farm.agents[0].role.signal(Signal::TERM);
    let asked = Instant::now();
    farm.agents[0].role.end().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    farm.agents[0].role.killed = true;
    assert!(farm.processes().is_empty(), "{:?}", farm.processes());
    farm.shut_down().await;
}

#[tokio::test]
async fn an_agent_leaves_its_spawns_running_by_default() {
    let mut farm = Farm::small(2).await;
    let answer = farm.door(0).spawned(&json!({})).await;
    let id = answer["id"].as_str().unwrap().to_owned();
    farm.agents[0].role.signal(Signal::TERM);
    let status = farm.agents[0].role.end().await;
    assert!(status.success(), "{status}");
    farm.agents[0].role.killed = true;
    let process = farm.process(&id).expect("the spawn goes on");
    let mut viewer = hatchery_tests::Viewer::client_side(answer["endpoint"].as_str().unwrap()).await;
    viewer.open_model("").await;
    assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
    assert_eq!(farm.process(&id).map(|now| now.pid), Some(process.pid));
    farm.shut_down().await;
}
