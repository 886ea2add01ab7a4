//! A node that is up and has room, and still fails whatever it is given: callers hardly notice, operators see it at once.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, Mood, Moody, Share, skipped, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

/// Spawns asked for one after the other while one of three nodes is sick.
pub(crate) const SPAWNS: usize = 30;
/// So many of them may fail.
pub(crate) const MAX_FAILED: usize = 1;
/// A sick node shows as failing within this time of its first failures.
pub(crate) const SEEN: Duration = Duration::from_secs(5);
/// A node that was mended is well again within this time.
const WELL_AGAIN: Duration = Duration::from_secs(65);

/// Two good nodes and `node-c`, with short timeouts for what never becomes ready.
pub(crate) async fn farm(plan: AgentPlan) -> Farm {
    let args = ["--ready-timeout", "2s", "--stop-grace", "500ms"];
    let good = || AgentPlan::slots(8).args(&args);
    Farm::builder().doors(2).agent(good()).agent(good()).agent(plan.args(&args)).start().await
}

pub(crate) async fn health(farm: &Farm, node: &str) -> Value {
    let door = farm.doors.last().unwrap().http;
    door.json(&format!("/v1/nodes/{node}")).await["health"].clone()
}

/// One spawn that ends again at once; whether it was given.
pub(crate) async fn one(farm: &Farm, door: usize) -> Result<String, String> {
    let answer = farm.door(door).spawn(&json!({})).await;
    if answer.status != 200 {
        return Err(format!("{answer:?}"));
    }
    let answer = answer.json();
    farm.door(door).delete(&format!("/v1/spawns/{}", answer["id"].as_str().unwrap())).send().await;
    Ok(answer["node"].as_str().unwrap().to_owned())
}

/// Tries on nodes that did not end with a spawn, at all front doors.
async fn failed_attempts(farm: &Farm) -> f64 {
    let mut failed = 0.0;
    for door in &farm.doors {
        let metrics = door.metrics().await;
        let ready = metrics.get("hatchery_frontdoor_attempts_total{outcome=\"ready\"}").unwrap_or(0.0);
        failed += metrics.sum("hatchery_frontdoor_attempts_total") - ready;
    }
    failed
}

/// Callers hardly notice that `node-c` is sick, and everybody sees why it is.
pub(crate) async fn hardly_anybody_notices(farm: &Farm, reason: &str) {
    let (mut failed, mut asked) = (Vec::new(), 0);
    let (before, mut first, mut shown) = (failed_attempts(farm).await, None, None);
    while asked < SPAWNS || shown.is_none() {
        let given = one(farm, asked % 2).await;
        asked += 1;
        if asked <= SPAWNS {
            failed.extend(given.err());
        }
        if first.is_none() && failed_attempts(farm).await > before {
            first = Some(Instant::now());
        }
        if shown.is_none() {
            let health = health(farm, "node-c").await;
            let late = first.is_some_and(|first: Instant| first.elapsed() > SEEN);
            assert!(!late, "{SEEN:?} after its first failure node-c does not show as failing: {health}");
            shown = (health["state"] == "failing").then_some(health);
        }
        assert!(asked < SPAWNS * 10, "node-c has failed no spawn");
    }
    assert!(failed.len() <= MAX_FAILED, "{} of {SPAWNS} spawns failed: {failed:#?}", failed.len());
    let shown = shown.unwrap();
    assert!(shown["reason"].as_str().unwrap().contains(reason), "{shown}");
    assert!(shown["failures"].as_u64().unwrap() >= 1, "{shown}");
    for member in ["since", "nextProbeAt"] {
        assert!(shown[member].is_string(), "{shown}");
    }
    for node in ["node-a", "node-b"] {
        assert_eq!(health(farm, node).await, json!({"state": "ok"}), "{node}");
    }
}

/// Real requests find out that `node-c` was mended.
pub(crate) async fn it_is_well_again(farm: &Farm) {
    until("node-c is well again", WELL_AGAIN, async || {
        let given = one(farm, 0).await;
        assert!(given.is_ok(), "a mended farm serves everybody: {given:?}");
        let health = health(farm, "node-c").await;
        Look::when(health == json!({"state": "ok"}), || health.to_string())
    })
    .await;
    until("node-c gets spawns as before", SEEN, async || {
        let node = one(farm, 1).await.unwrap();
        Look::when(node == "node-c", || format!("{node} got it"))
    })
    .await;
}

/// A spawn on each node: all are equally loaded then.
pub(crate) async fn one_on_each(farm: &Farm) -> Vec<String> {
    let (mut nodes, mut ids) = (BTreeSet::new(), Vec::new());
    for _ in 0..3 {
        let answer = farm.door(0).spawned(&json!({})).await;
        nodes.insert(answer["node"].as_str().unwrap().to_owned());
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(nodes.len(), 3, "equal nodes share");
    ids
}

pub(crate) async fn still_live(farm: &Farm, living: &[String]) {
    for id in living {
        assert_eq!(farm.record(id).await["state"], "ready");
    }
}

/// Sick in this mood, then well.
async fn with_a_mood(mood: Mood, reason: &str) {
    let directory = TempDir::new().unwrap();
    let moody = Moody::new(directory.path());
    let farm = farm(AgentPlan::slots(8).executable(moody.executable())).await;
    moody.becomes(mood);
    hardly_anybody_notices(&farm, reason).await;
    moody.becomes(Mood::Well);
    it_is_well_again(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_node_whose_servers_exit_at_once_fails_hardly_any_caller() {
    with_a_mood(Mood::ExitsAtOnce, "invalid license").await;
}

#[tokio::test]
async fn a_node_whose_servers_are_never_ready_fails_hardly_any_caller() {
    with_a_mood(Mood::NeverReady, "ready").await;
}

#[tokio::test]
async fn a_node_that_refuses_every_start_fails_hardly_any_caller() {
    let directory = TempDir::new().unwrap();
    let moody = Moody::new(directory.path());
    let farm = farm(AgentPlan::slots(8).executable(moody.executable())).await;
    moody.is_there(false);
    hardly_anybody_notices(&farm, "moody").await;
    moody.is_there(true);
    it_is_well_again(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_node_whose_executable_is_on_a_share_that_hangs_fails_hardly_any_caller() {
    let directory = TempDir::new().unwrap();
    let (behind, mount) = (directory.path().join("behind"), directory.path().join("share"));
    let Some(share) = Share::of(&behind, &mount).await else { return };
    fs::copy(&hatchery_tests::binaries::binaries().simulator, behind.join("server")).unwrap();
    let farm = farm(AgentPlan::slots(8).executable(mount.join("server"))).await;
    let living = one_on_each(&farm).await;
    share.hangs();
    hardly_anybody_notices(&farm, "server").await;
    let node = farm.door(0).json("/v1/nodes/node-c").await;
    assert_eq!(node["availability"], "up", "heartbeats go on: {node}");
    still_live(&farm, &living).await;
    share.answers();
    it_is_well_again(&farm).await;
    farm.stop(living.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_node_whose_ports_are_all_taken_fails_hardly_any_caller() {
    let farm = farm(AgentPlan::slots(4).ports(4)).await;
    let ports = farm.agent("node-c").ports.clone();
    let taken: Vec<TcpListener> = ports.map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()).collect();
    hardly_anybody_notices(&farm, "port").await;
    drop(taken);
    it_is_well_again(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_node_that_is_short_of_memory_fails_hardly_any_caller() {
    let mut farm = farm(AgentPlan::slots(8).args(&["--min-free-memory", "900TB"])).await;
    hardly_anybody_notices(&farm, "memory").await;
    let agent = farm.agent_mut("node-c");
    agent.set("--min-free-memory", "0");
    agent.restart().await;
    it_is_well_again(&farm).await;
    farm.finish().await;
}

/// A file system that is full, mounted where an agent keeps its state.
struct FullDisk<'a>(&'a Path);

impl<'a> FullDisk<'a> {
    fn over(directory: &'a Path) -> Option<Self> {
        fs::create_dir_all(directory).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"])
            .arg(directory)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            skipped("a full disk", "only a user that may mount one has it");
            return None;
        }
        Some(Self(directory))
    }

    fn fill(&self) {
        fs::write(self.0.join("ballast"), vec![0; 256 << 10]).ok();
        // The last block, too.
        fs::write(self.0.join("crumbs"), vec![0; 4 << 10]).ok();
        assert!(fs::write(self.0.join("one-more"), [0; 1]).is_err(), "there is room left");
    }

    fn make_room(&self) {
        for name in ["ballast", "crumbs", "one-more"] {
            fs::remove_file(self.0.join(name)).ok();
        }
    }
}

impl Drop for FullDisk<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

#[tokio::test]
async fn a_node_whose_disk_is_full_fails_hardly_any_caller() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().join("state");
    let Some(disk) = FullDisk::over(&state) else { return };
    let mut farm = farm(AgentPlan::slots(8)).await;
    let agent = farm.agent_mut("node-c");
    agent.set("--state-dir", state.to_str().unwrap());
    agent.restart().await;
    let living = one_on_each(&farm).await;
    disk.fill();
    hardly_anybody_notices(&farm, "o space").await;
    still_live(&farm, &living).await;
    disk.make_room();
    it_is_well_again(&farm).await;
    farm.stop(living.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn when_all_nodes_are_sick_the_answer_says_why_and_no_node_is_left_out() {
    let directory = TempDir::new().unwrap();
    let moody = Moody::new(directory.path());
    let plan = || AgentPlan::slots(4).executable(moody.executable());
    let farm = Farm::builder().agent(plan()).agent(plan()).agent(plan()).start().await;
    moody.becomes(Mood::ExitsAtOnce);
    for _ in 0..6 {
        let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
        assert_eq!(problem.text("reason"), "invalid license");
        let attempts = problem.json["attempts"].as_array().unwrap();
        let mut nodes: Vec<&str> = attempts.iter().map(|a| a["node"].as_str().unwrap()).collect();
        nodes.sort_unstable();
        assert_eq!(nodes, ["node-a", "node-b", "node-c"], "{}", problem.json);
        for attempt in attempts {
            assert_eq!(attempt["code"], "spawn-failed", "{attempt}");
            assert!(attempt["reason"].as_str().unwrap().contains("invalid license"), "{attempt}");
        }
    }
    until("the farm's cause is shown", SEEN, async || {
        let nodes = farm.door(0).json("/v1/nodes").await;
        let reason = nodes["farmCause"]["reason"].as_str().unwrap_or_default();
        Look::when(reason.contains("invalid license"), || nodes.to_string())
    })
    .await;
    until("the answer says that it is the farm's", SEEN, async || {
        let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
        Look::when(problem.text("detail").contains("every node"), || problem.json.to_string())
    })
    .await;
    moody.becomes(Mood::Well);
    let mut served = BTreeSet::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = farm.door(0).spawned(&json!({})).await;
        served.insert(answer["node"].as_str().unwrap().to_owned());
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(served.len(), 3, "no node was left out: {served:?}");
    let nodes = farm.door(0).json("/v1/nodes").await;
    assert!(nodes.get("farmCause").is_none(), "a success ends it: {nodes}");
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_request_that_fails_everywhere_in_the_same_way_is_at_fault_itself() {
    let plan = || AgentPlan::slots(4);
    let farm = Farm::builder().agent(plan()).agent(plan()).agent(plan()).start().await;
    for _ in 0..4 {
        let body = json!({"sessionToken": "sim:exit_before_ready=3"});
        let problem = farm.door(0).spawn(&body).await.problem(502, "spawn-failed");
        assert_eq!(problem.json["attempts"].as_array().unwrap().len(), 3, "{}", problem.json);
        one(&farm, 0).await.unwrap();
    }
    // The vendor's code for a command line that is not valid needs no second node to be believed.
    let body = json!({"sessionToken": "sim:exit_before_ready=2"});
    let problem = farm.door(0).spawn(&body).await.problem(502, "spawn-failed");
    assert_eq!(problem.json["attempts"].as_array().unwrap().len(), 1, "{}", problem.json);
    for node in ["node-a", "node-b", "node-c"] {
        assert_eq!(health(&farm, node).await, json!({"state": "ok"}), "{node}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn five_nodes_that_refuse_leave_every_slot_of_the_good_one_to_callers() {
    let refusing = || AgentPlan::slots(4).args(&["--min-free-memory", "900TB"]);
    let mut builder = Farm::builder().doors(2).agent(AgentPlan::slots(6));
    for _ in 0..5 {
        builder = builder.agent(refusing());
    }
    let farm = builder.start().await;
    let mut ids = Vec::new();
    for index in 0..6 {
        let answer = farm.door(index % 2).spawned(&json!({})).await;
        assert_eq!(answer["node"], "node-a");
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    let problem = farm.door(0).spawn(&json!({})).await.problem(503, "no-capacity");
    let attempts = problem.json["attempts"].as_array().unwrap();
    assert!(attempts.iter().all(|attempt| attempt["code"] == "refused"), "{}", problem.json);
    // Whoever waits gets the first slot of the good one that comes free.
    let waits = tokio::spawn(farm.door(1).post("/spawn").json(&json!({"waitSeconds": 30})).send());
    farm.waiting(1).await;
    farm.stop([ids.pop().unwrap().as_str()]).await;
    let answer = waits.await.unwrap();
    assert_eq!((answer.status, &answer.json()["node"]), (200, &json!("node-a")), "{answer:?}");
    ids.push(answer.json()["id"].as_str().unwrap().to_owned());
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn health_is_learned_while_redis_is_away_too() {
    let directory = TempDir::new().unwrap();
    let moody = Moody::new(directory.path());
    let mut farm = farm(AgentPlan::slots(8).executable(moody.executable())).await;
    moody.becomes(Mood::ExitsAtOnce);
    farm.redis.kill();
    let mut ids = Vec::new();
    for _ in 0..12 {
        let answer = farm.door(0).spawned(&json!({})).await;
        assert_ne!(answer["node"], "node-c");
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    let started = farm.agent("node-c").metrics().await.sum("hatchery_agent_spawns_started_total");
    assert!(started <= 4.0, "{started} starts on a node that was known to fail");
    farm.redis.restart().await;
    crate::outage::ready_again(&farm).await;
    moody.becomes(Mood::Well);
    farm.audit().await;
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}
