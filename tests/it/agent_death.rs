//! Agents that die, hang or are replaced under running spawns: nobody is hurt, and the next one goes on.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, Viewer, until, wait::TIMEOUT};
use model::{Drain, Eligibility, Timestamp, Timing};
use registry::Registry;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

/// What happened to a spawn, apart from its viewer's coming, which an agent that was killed may not have seen.
fn kinds(record: &Value) -> Vec<&str> {
    let kinds = record["events"].as_array().unwrap().iter().map(|event| text(event, "kind"));
    kinds.filter(|kind| *kind != "spawn.connected").collect()
}

async fn node_is_up(farm: &Farm) {
    until("the node is up", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        Look::when(node["availability"] == "up", || node.to_string())
    })
    .await;
}

/// What the next agent would find written down.
fn records(farm: &Farm) -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for line in fs::read_to_string(farm.agents[0].state_dir.join("spawns")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(started) = line.get("started") {
            left.insert(text(started, "id").to_owned());
        } else if let Some(gone) = line["gone"].as_str() {
            left.remove(gone);
        }
    }
    left
}

async fn no_records(farm: &Farm) {
    until("no record is left", TIMEOUT, async || {
        let left = records(farm);
        Look::when(left.is_empty(), || format!("{left:?}"))
    })
    .await;
}

/// The registry, as an operator's front door has it.
fn registry(farm: &Farm) -> Registry {
    Registry::open(&farm.redis.url(), "test", Timing::FARM).unwrap()
}

async fn drain(farm: &Farm, within: Duration) {
    let now = Timestamp::now();
    let drain = Drain {
        deadline: Timestamp::from_millis(now.millis() + u64::try_from(within.as_millis()).unwrap()),
        reason: Some("new kernel".to_owned()),
        by: Some("ann".to_owned()),
        started_at: now,
    };
    let node = "node-a".parse().unwrap();
    assert!(
        registry(farm)
            .set_eligibility(&node, Eligibility::Draining, Some(&drain), None)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn twenty_viewers_do_not_notice_that_their_agent_was_killed() {
    let plan = AgentPlan::slots(20).ports(40).args(&["--ping-interval", "500ms"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let mut watching = Vec::new();
    for _ in 0..20 {
        watching.push(farm.watched().await);
    }
    let processes: BTreeSet<u32> = farm.processes().iter().map(|process| process.pid).collect();
    let mut before = Vec::new();
    for (id, _) in &watching {
        let record = farm.reaches(id, "ready", TIMEOUT).await;
        before.push((record["startedAt"].clone(), record["readyAt"].clone()));
    }
    farm.agents[0].role.kill();
    let killed = Timestamp::now();
    for (_, viewer) in &mut watching {
        viewer.still_watches().await;
    }
    farm.agents[0].restart().await;
    node_is_up(&farm).await;
    for (_, viewer) in &mut watching {
        viewer.still_watches().await;
    }
    assert_eq!(farm.audit().await.total(), 20);
    assert_eq!(processes, farm.processes().iter().map(|process| process.pid).collect());
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    assert_eq!(node["slots"], json!({"total": 20, "used": 20}));
    let metrics = farm.agents[0].metrics().await;
    assert_eq!(metrics.get("hatchery_agent_spawns_adopted_total"), Some(20.0));
    assert_eq!(metrics.get("hatchery_agent_ports_used"), Some(20.0));
    for ((id, _), (started, ready)) in watching.iter().zip(before) {
        let record = until("it is heard of again", TIMEOUT, async || {
            let record = farm.record(id).await;
            let ping = text(&record, "lastPingAt").to_owned();
            Look::when(ping > killed.to_string(), || record.to_string()).and(record)
        })
        .await;
        assert_eq!((&record["startedAt"], &record["readyAt"]), (&started, &ready));
        assert_eq!(kinds(&record), ["spawn.launching", "spawn.ready"]);
    }
    // It is full, and says so; what one leaves another gets.
    let full = farm.door(0).spawn(&json!({})).await;
    assert_eq!(full.status, 503, "{full:?}");
    let (stopped, viewer) = watching.pop().unwrap();
    farm.stop([stopped.as_str()]).await;
    assert_eq!(farm.ends(&stopped).await["reason"], "stopped");
    drop(viewer);
    let (id, viewer) = farm.watched().await;
    watching.push((id, viewer));
    let endpoints: BTreeSet<String> =
        farm.processes().iter().map(|p| p.option("--sc-port").unwrap().to_owned()).collect();
    assert_eq!(endpoints.len(), 20, "no port was given out twice: {endpoints:?}");
    for (id, viewer) in watching {
        still_watches_then_leaves(viewer).await;
        assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    }
    no_records(&farm).await;
    farm.finish().await;
}

async fn still_watches_then_leaves(mut viewer: Viewer) {
    viewer.still_watches().await;
    viewer.leave().await;
}

#[tokio::test]
async fn a_second_agent_with_the_same_state_is_refused() {
    let farm = Farm::small(1).await;
    let agent = &farm.agents[0];
    let dir = agent.state_dir.to_str().unwrap();
    let executable = agent.flag("--executable");
    let any = "127.0.0.1:0";
    let args = ["agent", "--node", "other", "--state-dir", dir, "--executable", executable, "--listen", any];
    let more = ["--admin-listen", any, "--liveliness-listen", any, "--registry", "embedded"];
    let ran = farm.run(&[args.as_slice(), &more].concat()).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    for word in ["--state-dir", dir, &agent.role.pid().to_string()] {
        assert!(ran.stderr.contains(word), "no {word} in {ran:?}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn what_happened_while_no_agent_ran_is_reported_as_far_as_it_is_known() {
    let mut farm =
        Farm::builder().agent(AgentPlan::slots(4).args(&["--ping-interval", "500ms"])).start().await;
    let (left, viewer) = farm.watched().await;
    let (killed, killed_viewer) = farm.watched().await;
    let (stays, mut stays_viewer) = farm.watched().await;
    for id in [&left, &killed, &stays] {
        farm.reaches(id, "ready", TIMEOUT).await;
    }
    farm.agents[0].role.kill();
    viewer.leave().await;
    let process = farm.process(&killed).unwrap();
    hatchery_tests::processes::signal(process.pid, Signal::KILL);
    until("both are gone", TIMEOUT, async || {
        let left = farm.processes();
        Look::when(left.len() == 1, || format!("{left:?}"))
    })
    .await;
    farm.agents[0].restart().await;
    assert_eq!(farm.ends(&left).await, json!({"reason": "disconnected"}));
    assert_eq!(
        farm.ends(&killed).await,
        json!({"reason": "failed", "text": "ended while its agent was away"})
    );
    stays_viewer.still_watches().await;
    assert_eq!(farm.audit().await.total(), 1);
    // Ended by a signal under an agent that is not its parent: nobody can know how.
    let process = farm.process(&stays).unwrap();
    hatchery_tests::processes::signal(process.pid, Signal::KILL);
    let exit = farm.ends(&stays).await;
    assert_eq!((&exit["reason"], &exit["code"]), (&json!("failed"), &Value::Null), "{exit}");
    drop((killed_viewer, stays_viewer));
    no_records(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_that_cannot_reach_the_next_agent_is_ended() {
    let plan = AgentPlan::slots(2).args(&["--stop-grace", "500ms"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let body = json!({"sessionToken": "sim:ignore_term=1,fork_grandchild=1"});
    let id = text(&farm.door(0).spawned(&body).await, "id").to_owned();
    farm.reaches(&id, "ready", TIMEOUT).await;
    farm.agents[0].role.kill();
    farm.agents[0].set("--liveliness-listen", "127.0.0.1:0");
    farm.agents[0].restart().await;
    let exit = farm.ends(&id).await;
    assert_eq!(exit["reason"], "liveliness-lost", "{exit}");
    assert!(text(&exit, "text").contains("address"), "{exit}");
    no_records(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_without_a_record_is_found_all_the_same() {
    let plan = AgentPlan::slots(2).args(&["--ping-interval", "300ms"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let (id, viewer) = farm.watched().await;
    farm.reaches(&id, "ready", TIMEOUT).await;
    farm.agents[0].role.kill();
    fs::remove_file(farm.agents[0].state_dir.join("spawns")).unwrap();
    farm.agents[0].restart().await;
    assert_eq!(farm.audit().await.total(), 1);
    farm.reaches(&id, "ready", TIMEOUT).await;
    assert_eq!(records(&farm), BTreeSet::from([id.clone()]), "and has one now");
    still_watches_then_leaves(viewer).await;
    assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    farm.finish().await;
}

#[tokio::test]
async fn a_start_that_its_agent_did_not_live_to_answer_leaves_nothing() {
    let mut farm = Farm::small(2).await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=3000"});
    let call = tokio::spawn(farm.door(0).post("/spawn").json(&body).send());
    until("a process starts", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "none".to_owned())
    })
    .await;
    farm.agents[0].role.kill();
    farm.agents[0].restart().await;
    let answer = call.await.unwrap();
    let answered = Instant::now();
    if answer.status == 200 {
        // Asked again, the next agent has answered for it.
        assert_eq!(farm.audit().await.total(), 1);
        farm.stop([text(&answer.json(), "id")]).await;
    }
    until("nothing is left of it", TIMEOUT, async || {
        let left = farm.processes();
        Look::when(left.is_empty(), || format!("{left:?}"))
    })
    .await;
    assert!(answered.elapsed() < Duration::from_secs(10), "{:?}", answered.elapsed());
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_that_was_paused_blames_no_spawn() {
    // Silent for 2.5 s is lost.
    let plan = AgentPlan::slots(8).args(&["--ping-interval", "500ms"]);
    let farm = Farm::builder().agent(plan).start().await;
    let mut watching = Vec::new();
    for _ in 0..8 {
        watching.push(farm.watched().await);
    }
    for (id, _) in &watching {
        farm.reaches(id, "ready", TIMEOUT).await;
    }
    farm.agents[0].role.signal(Signal::STOP);
    sleep(Duration::from_secs(6)).await;
    farm.agents[0].role.signal(Signal::CONT);
    sleep(Duration::from_secs(3)).await;
    for (id, viewer) in &mut watching {
        viewer.still_watches().await;
        let record = farm.record(id).await;
        assert_eq!(kinds(&record), ["spawn.launching", "spawn.ready"], "{record}");
    }
    assert_eq!(farm.audit().await.total(), 8);
    for (id, viewer) in watching {
        viewer.leave().await;
        farm.ends(&id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_with_less_room_than_its_heritage_is_just_full() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(4)).start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(text(&farm.door(0).spawned(&json!({})).await, "id").to_owned());
    }
    farm.agents[0].role.signal(Signal::TERM);
    assert!(farm.agents[0].role.end().await.success());
    farm.agents[0].set("--slots", "1");
    farm.agents[0].restart().await;
    until("it has one slot", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        Look::when(node["slots"] == json!({"total": 1, "used": 3}), || node.to_string())
    })
    .await;
    assert_eq!(farm.door(0).spawn(&json!({})).await.status, 503);
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.assert_empty().await;
    let id = text(&farm.door(0).spawned(&json!({})).await, "id").to_owned();
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_drain_survives_agent_and_registry_and_keeps_its_deadline() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(4).args(&["--stop-grace", "1s"])).start().await;
    let (id, viewer) = farm.watched().await;
    farm.reaches(&id, "ready", TIMEOUT).await;
    drain(&farm, Duration::from_secs(12)).await;
    let asked = Instant::now();
    let operator = farm.agents[0].state_dir.join("operator");
    until("the agent remembers it", TIMEOUT, async || {
        let kept = fs::read_to_string(&operator).unwrap_or_default();
        Look::when(kept.contains("draining"), || kept)
    })
    .await;
    farm.agents[0].role.kill();
    farm.redis.restart().await;
    farm.agents[0].restart().await;
    let node = until("the registry knows it again", TIMEOUT, async || {
        let node = farm.door(0).get("/v1/nodes/node-a").send().await;
        Look::when(node.status == 200, || format!("{node:?}")).and(node)
    })
    .await
    .json();
    assert_eq!(node["eligibility"], "draining", "{node}");
    assert_eq!((&node["drain"]["reason"], &node["drain"]["by"]), (&json!("new kernel"), &json!("ann")));
    assert_eq!(farm.door(0).spawn(&json!({})).await.status, 503);
    farm.reaches(&id, "ready", TIMEOUT).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "too slow to tell: {:?}", asked.elapsed());
    assert_eq!(farm.ends(&id).await["reason"], "drained");
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(11) && took < Duration::from_secs(20), "{took:?}");
    drop(viewer);
    farm.finish().await;
}

#[tokio::test]
async fn a_drain_that_was_undone_ends_no_spawn() {
    let farm = Farm::small(2).await;
    let (id, mut viewer) = farm.watched().await;
    drain(&farm, Duration::from_secs(3)).await;
    sleep(Duration::from_millis(1500)).await;
    let node = "node-a".parse().unwrap();
    assert!(
        registry(&farm).set_eligibility(&node, Eligibility::Eligible, None, None).await.unwrap().is_some()
    );
    sleep(Duration::from_secs(3)).await;
    viewer.still_watches().await;
    assert_eq!(text(&farm.record(&id).await, "state"), "ready");
    let other = text(&farm.door(0).spawned(&json!({})).await, "id").to_owned();
    drain(&farm, Duration::ZERO).await;
    for id in [&id, &other] {
        assert_eq!(farm.ends(id).await["reason"], "drained");
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_that_is_to_go_once_drained_goes() {
    let plan = AgentPlan::slots(2).args(&["--exit-when-drained"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let (id, viewer) = farm.watched().await;
    drain(&farm, Duration::from_secs(60)).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(farm.agents[0].role.exited(), None, "somebody is still there");
    viewer.leave().await;
    let status = farm.agents[0].role.end().await;
    assert_eq!(status.code(), Some(0), "{status}");
    farm.agents[0].role.killed = true;
    assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    farm.shut_down().await;
}

/// Whatever an agent was doing when it was killed: who got an answer has a spawn, who did not has none, nothing is lost.
#[tokio::test]
async fn an_agent_that_is_killed_again_and_again_under_load_leaks_nothing() {
    let plan = AgentPlan::slots(8).args(&["--ping-interval", "500ms", "--stop-grace", "500ms"]);
    let mut farm = Farm::builder().doors(2).agent(plan).start().await;
    let mut promised = BTreeSet::new();
    for round in 0..6_u64 {
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..6 {
            let body = json!({"sessionToken": format!("sim:ready_delay_ms={}", n * 40)});
            calls.spawn(farm.door(n % 2).post("/spawn").json(&body).send());
        }
        sleep(Duration::from_millis(20 + 35 * round)).await;
        farm.agents[0].role.kill();
        farm.agents[0].restart().await;
        while let Some(answer) = calls.join_next().await {
            let answer = answer.unwrap();
            if answer.status == 200 {
                promised.insert(text(&answer.json(), "id").to_owned());
            }
        }
        node_is_up(&farm).await;
        until("nobody runs who was not promised", Duration::from_secs(20), async || {
            let runs: BTreeSet<String> =
                farm.processes().iter().filter_map(|p| Some(p.option("--id")?.to_owned())).collect();
            Look::when(runs == promised, || format!("{runs:?} of {promised:?}"))
        })
        .await;
        assert_eq!(farm.audit().await.total(), promised.len() as u64);
        while promised.len() > 4 {
            let id = promised.pop_first().unwrap();
            farm.stop([id.as_str()]).await;
            assert_eq!(farm.ends(&id).await["reason"], "stopped");
        }
    }
    farm.stop(promised.iter().map(String::as_str)).await;
    farm.assert_empty().await;
    no_records(&farm).await;
    farm.finish().await;
}
