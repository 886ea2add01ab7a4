//! Servers that do not behave, and what becomes of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, processes, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

async fn spawn(farm: &Farm, misbehaviour: &str) -> String {
    let answer = farm.door(0).spawned(&json!({"sessionToken": format!("sim:{misbehaviour}")})).await;
    answer["id"].as_str().unwrap().to_owned()
}

fn kinds(record: &Value) -> Vec<&str> {
    let events = record["events"].as_array().unwrap();
    events.iter().map(|e| e["kind"].as_str().unwrap()).filter(|kind| *kind != "spawn.ping").collect()
}

#[tokio::test]
async fn a_server_that_ignores_term_is_killed_after_the_grace() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&["--stop-grace", "1s"])).start().await;
    let id = spawn(&farm, "ignore_term=1").await;
    let asked = Instant::now();
    farm.stop([id.as_str()]).await;
    let stopping = farm.reaches(&id, "stopping", TIMEOUT).await;
    assert_eq!(stopping["slots"], Value::Null);
    let exit = farm.ends(&id).await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("stopped"), &json!("SIGKILL")));
    farm.finish().await;
}

/// The process that a server left in its group.
async fn grandchild(farm: &Farm) -> u32 {
    until("there is a grandchild", TIMEOUT, async || {
        match farm.processes().iter().find(|process| process.program() == "sleep") {
            Some(process) => Look::Ready(process.pid),
            None => Look::NotYet("none".to_owned()),
        }
    })
    .await
}

async fn gone(pid: u32) {
    until("the grandchild is gone", TIMEOUT, async || {
        Look::when(!processes::exists(pid), || format!("{pid} is there"))
    })
    .await;
}

#[tokio::test]
async fn a_grandchild_dies_with_its_group() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&["--stop-grace", "500ms"])).start().await;
    for misbehaviour in ["fork_grandchild=1", "fork_grandchild=1,ignore_term=1"] {
        let id = spawn(&farm, misbehaviour).await;
        let grandchild = grandchild(&farm).await;
        farm.stop([id.as_str()]).await;
        farm.ends(&id).await;
        gone(grandchild).await;
    }
    for misbehaviour in
        ["crash_after_ms=100", "crash_after_ms=100,crash_signal=KILL", "disconnect_after_ms=100"]
    {
        let id = spawn(&farm, &format!("fork_grandchild=1,{misbehaviour}")).await;
        farm.ends(&id).await;
        until("nothing is left of it", TIMEOUT, async || {
            Look::when(farm.processes().is_empty(), || format!("{misbehaviour}: {:?}", farm.processes()))
        })
        .await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_grandchild_of_a_server_that_is_never_ready_dies_too() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let body = json!({"sessionToken": "sim:fork_grandchild=1,exit_before_ready=3"});
    farm.door(0).spawn(&body).await.problem(502, "spawn-failed");
    until("nothing is left", TIMEOUT, async || {
        Look::when(farm.processes().is_empty(), || format!("{:?}", farm.processes()))
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_goes_silent_is_suspected_and_then_ended() {
    let args = ["--ping-interval", "1s", "--stop-grace", "1s"];
    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&args)).start().await;
    let started = Instant::now();
    let quiet = spawn(&farm, "silent_after_ms=100").await;
    let well = spawn(&farm, "ready_delay_ms=0").await;
    farm.reaches(&quiet, "suspect", TIMEOUT).await;
    let suspected = started.elapsed();
    let exit = farm.ends(&quiet).await;
    let ended = started.elapsed();
    assert_eq!(exit["reason"], "liveliness-lost", "{exit}");
    let record = farm.record(&quiet).await;
    assert_eq!(
        kinds(&record),
        ["spawn.launching", "spawn.ready", "spawn.suspect", "spawn.stopping", "spawn.exited"]
    );
    // Silent for 2I+2 s it is suspect, for 3I+2 s it is ended.
    let seconds = |s| Duration::from_secs(s);
    assert!(suspected >= seconds(4) && suspected < seconds(7), "{suspected:?}");
    assert!(ended >= seconds(5) && ended < seconds(9), "{ended:?}");
    assert_eq!(farm.record(&well).await["state"], "ready", "one that reports stays");
    farm.stop([well.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_reports_its_disconnect_and_stays_is_ended() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&["--stop-grace", "1s"])).start().await;
    let id = spawn(&farm, "disconnect_after_ms=200,disconnect_no_exit=1").await;
    farm.reaches(&id, "disconnected", TIMEOUT).await;
    let exit = farm.ends(&id).await;
    assert_eq!(exit["reason"], "disconnected", "{exit}");
    let record = farm.record(&id).await;
    let kinds = kinds(&record);
    assert_eq!(kinds[..3], ["spawn.launching", "spawn.ready", "spawn.disconnected"], "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"spawn.exited"));
    farm.finish().await;
}

#[tokio::test]
async fn a_crash_after_ready_is_explained() {
    let farm = Farm::small(4).await;
    for (misbehaviour, wanted) in [
        (
            "crash_after_ms=50,crash_code=9",
            json!({"reason": "failed", "code": 9, "text": "unable to get service-respawn exit-code"}),
        ),
        ("crash_after_ms=50,crash_code=1", json!({"reason": "failed", "code": 1, "text": "unexpected exit"})),
        ("crash_after_ms=50,crash_signal=SEGV", json!({"reason": "signaled", "signal": "SIGSEGV"})),
        ("crash_after_ms=50,crash_signal=KILL", json!({"reason": "signaled", "signal": "SIGKILL"})),
        ("crash_after_ms=50,crash_signal=ABRT", json!({"reason": "signaled", "signal": "SIGABRT"})),
        ("disconnect_after_ms=50", json!({"reason": "disconnected", "code": 0})),
    ] {
        let id = spawn(&farm, misbehaviour).await;
        let exit = farm.ends(&id).await;
        for member in ["reason", "code", "signal"] {
            assert_eq!(exit[member], wanted[member], "{misbehaviour}: {exit}");
        }
        if !wanted["text"].is_null() {
            assert_eq!(exit["text"], wanted["text"], "{misbehaviour}: {exit}");
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_and_its_end_can_be_read() {
    let farm = Farm::small(2).await;
    let id = spawn(&farm, "flood_bytes_per_sec=60000000").await;
    let process = farm.process(&id).unwrap();
    let file = farm.agents[0].output_file(&id);
    let mut most = 0;
    until("it has written 120 MB", TIMEOUT, async || {
        most = most.max(fs::metadata(&file).unwrap().blocks() * 512);
        let io = fs::read_to_string(format!("/proc/{}/io", process.pid)).unwrap();
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse::<u64>().ok()).unwrap();
        Look::when(written > 120_000_000, || format!("{written}"))
    })
    .await;
    // The agent looks now and then; a flood gets some way until then.
    until("the file is cut", TIMEOUT, async || {
        let size = fs::metadata(&file).unwrap().blocks() * 512;
        Look::when(size < 16 << 20, || format!("{size} bytes on the disk"))
    })
    .await;
    let log = farm.door(0).get(&format!("/v1/spawns/{id}/log?lines=50")).send().await;
    assert_eq!(log.status, 200, "{log:?}");
    let text = log.text();
    assert_eq!(text.lines().count(), 50);
    assert!(text.lines().all(|line| line.starts_with("flood: ")), "{text}");
    assert!(most < 100_000_000, "{most} bytes on the disk at a time");
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    assert_eq!(node["availability"], "up", "the agent has time for its heartbeats");
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_at_the_write_while_the_agent_is_stopped() {
    const MOST: u64 = 32 << 20;
    let plan = AgentPlan::slots(2).args(&["--spawn-file-size", "32MiB"]);
    let farm = Farm::builder().agent(plan).start().await;
    let id = spawn(&farm, "flood_bytes_per_sec=0").await;
    let process = farm.process(&id).unwrap();
    let file = farm.agents[0].output_file(&id);
    // Nobody looks at the file from here on.
    farm.agents[0].role.signal(Signal::STOP);
    let size = || fs::metadata(&file).unwrap().len();
    let writes = || {
        let io = fs::read_to_string(format!("/proc/{}/io", process.pid)).unwrap();
        io.lines().find_map(|line| line.strip_prefix("syscw: ")?.parse::<u64>().ok()).unwrap()
    };
    until("the file is as long as it may be", TIMEOUT, async || {
        Look::when(size() == MOST, || format!("{} bytes", size()))
    })
    .await;
    let full = writes();
    until("the server has gone on writing", TIMEOUT, async || {
        assert!(size() <= MOST, "{} bytes", size());
        Look::when(writes() > full + 200, || format!("{} writes", writes() - full))
    })
    .await;
    farm.agents[0].role.signal(Signal::CONT);
    until("the file is cut", TIMEOUT, async || Look::when(size() < MOST, || format!("{} bytes", size())))
        .await;
    let record = farm.record(&id).await;
    assert_eq!(record["state"], "ready", "a write that fails ends nothing: {record}");
    let log = farm.door(0).get(&format!("/v1/spawns/{id}/log?lines=50")).send().await;
    assert!(log.text().lines().any(|line| line.starts_with("flood: ")), "{log:?}");
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_ends_itself_frees_its_slot_for_those_who_wait() {
    let farm = Farm::small(1).await;
    spawn(&farm, "disconnect_after_ms=500").await;
    let next = farm.door(0).spawned(&json!({"waitSeconds": 20})).await;
    farm.stop([next["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_farm_of_unreliable_servers_loses_nothing() {
    let plan =
        || AgentPlan::slots(6).env("SC_SIM_FAIL_RATIO", "0.4").env("SC_SIM_DISCONNECT_AFTER_MS", "300");
    let farm = Farm::builder().doors(2).agent(plan()).agent(plan()).start().await;
    let calls = (0..80).map(|i| farm.door(i % 2).post("/spawn").json(&json!({"waitSeconds": 30})).send());
    let answers = futures_util::future::join_all(calls).await;
    let (mut good, mut bad) = (0, 0);
    for answer in &answers {
        match answer.status {
            200 => good += 1,
            _ => {
                answer.problem(502, "spawn-failed");
                bad += 1;
            }
        }
    }
    // Two of five starts fail, on each of two nodes: all 80 requests go well once in a million runs.
    assert!(good > 20 && bad > 0, "{good} good, {bad} bad");
    farm.finish().await;
}
