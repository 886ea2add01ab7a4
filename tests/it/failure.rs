//! A spawn that fails says why, at once, and leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Problem, binaries::binaries};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

/// Far more than a failure takes to be told, far less than any timeout.
const AT_ONCE: Duration = Duration::from_secs(5);

fn log(problem: &Problem) -> Vec<&str> {
    let lines = problem.json["log"].as_array().unwrap_or_else(|| panic!("no log in {}", problem.json));
    lines.iter().map(|line| line.as_str().unwrap()).collect()
}

/// An executable of this content in a directory of its own.
fn script(content: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("server");
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    (directory, file)
}

/// The one record there is must tell the same story as the answer.
async fn the_only_record(farm: &Farm) -> Value {
    let spawns = farm.door(0).json("/v1/spawns").await;
    let [spawn] = spawns["spawns"].as_array().unwrap().as_slice() else {
        panic!("one was expected: {spawns}")
    };
    farm.ends(spawn["id"].as_str().unwrap()).await
}

#[tokio::test]
async fn an_exit_before_ready_is_decoded_and_answered_at_once() {
    let farm = Farm::small(2).await;
    let asked = Instant::now();
    let answer = farm.door(0).spawn(&json!({"sessionToken": "sim:exit_before_ready=6"})).await;
    let took = asked.elapsed();
    assert!(took < AT_ONCE, "{took:?}");
    let problem = answer.problem(502, "spawn-failed");
    assert_eq!(problem.text("reason"), "invalid license");
    assert_eq!(problem.json["exitCode"], 6);
    assert_eq!(problem.text("node"), "node-a");
    let log = log(&problem);
    assert!(log.iter().any(|line| line.contains("initialization is not going well")), "{log:?}");
    let exit = the_only_record(&farm).await;
    assert_eq!(exit, json!({"reason": "failed", "code": 6, "text": "invalid license"}));
    farm.finish().await;
}

#[tokio::test]
async fn every_exit_code_has_the_vendors_words() {
    let farm = Farm::small(4).await;
    for (code, text) in [
        (1, "unexpected exit"),
        (2, "invalid command line argument"),
        (3, "internal error"),
        (4, "failed to initialize the stream-cache"),
        (5, "failed to initialize the curl library"),
        (7, "invalid license file"),
        (8, "service-respawn failed"),
        (9, "unable to get service-respawn exit-code"),
        (77, "unknown exit-code"),
    ] {
        let body = json!({"sessionToken": format!("sim:exit_before_ready={code}")});
        let problem = farm.door(0).spawn(&body).await.problem(502, "spawn-failed");
        assert_eq!((problem.text("reason"), &problem.json["exitCode"]), (text, &json!(code)));
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_bad_licence_file_is_known_by_its_exit_code() {
    let farm = Farm::small(2).await;
    fs::write(farm.mark().join("license"), "invalid\n").unwrap();
    let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
    assert_eq!(problem.json["exitCode"], 6, "{}", problem.json);
    fs::remove_file(farm.mark().join("license")).unwrap();
    let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
    assert_eq!(problem.json["exitCode"], 7, "{}", problem.json);
    farm.finish().await;
}

#[tokio::test]
async fn an_exit_with_success_before_ready_is_a_failure_too() {
    let (_directory, executable) = script("#!/bin/sh\necho going home\nexit 0\n");
    let farm = Farm::builder().agent(AgentPlan::slots(2).executable(executable)).start().await;
    let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
    assert_eq!(problem.json["exitCode"], 0, "{}", problem.json);
    assert_eq!(log(&problem), ["going home"]);
    farm.finish().await;
}

#[tokio::test]
async fn a_crash_before_ready_names_the_signal() {
    let (_directory, executable) = script("#!/bin/sh\necho last words >&2\nkill -SEGV $$\n");
    let farm = Farm::builder().agent(AgentPlan::slots(2).executable(executable)).start().await;
    let asked = Instant::now();
    let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
    assert!(asked.elapsed() < AT_ONCE);
    assert!(problem.json.to_string().contains("SIGSEGV"), "{}", problem.json);
    assert!(problem.json.get("exitCode").is_none(), "{}", problem.json);
    assert_eq!(problem.text("node"), "node-a");
    assert!(log(&problem).iter().any(|line| line.contains("last words")), "{}", problem.json);
    let exit = the_only_record(&farm).await;
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("signaled"), &json!("SIGSEGV")));
    farm.finish().await;
}

#[tokio::test]
async fn the_last_lines_are_few_and_harmless() {
    let (_directory, executable) = script(
        "#!/bin/sh\ni=0\nwhile [ $i -lt 3000 ]; do echo \"line $i\"; i=$((i+1)); done\n\
         printf 'bell \\007 escape \\033[31m \\377\\n'\nhead -c 10000 /dev/zero | tr '\\0' x\nexit 3\n",
    );
    let farm = Farm::builder().agent(AgentPlan::slots(2).executable(executable)).start().await;
    let answer = farm.door(0).spawn(&json!({})).await;
    assert!(answer.body.len() < 64 << 10, "{} bytes", answer.body.len());
    let problem = answer.problem(502, "spawn-failed");
    let log = log(&problem);
    assert!((3..=200).contains(&log.len()), "{} lines", log.len());
    assert!(log.contains(&"line 2999"), "{log:?}");
    assert!(log.iter().any(|line| line.starts_with("bell ")), "{log:?}");
    farm.finish().await;
}

#[tokio::test]
async fn one_endless_last_line_is_better_than_none() {
    let (_directory, executable) = script("#!/bin/sh\nhead -c 200000 /dev/zero | tr '\\0' x\nexit 3\n");
    let farm = Farm::builder().agent(AgentPlan::slots(2).executable(executable)).start().await;
    let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
    let log = log(&problem);
    assert!(log.len() == 1 && log[0].starts_with("xxx") && log[0].len() < 4096, "{log:?}");
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_is_never_ready_is_ended_in_time() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).args(&["--ready-timeout", "1s"])).start().await;
    let asked = Instant::now();
    let answer = farm.door(0).spawn(&json!({"sessionToken": "sim:never_ready=1"})).await;
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(1) + AT_ONCE, "{took:?}");
    let problem = answer.problem(504, "ready-timeout");
    assert_eq!(problem.text("node"), "node-a");
    assert!(log(&problem).iter().any(|line| line.contains("initialization hangs")), "{}", problem.json);
    assert_eq!(the_only_record(&farm).await["reason"], "ready-timeout");
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_is_never_ready_and_ignores_term_is_killed() {
    let args = ["--ready-timeout", "500ms", "--stop-grace", "500ms"];
    let farm = Farm::builder().agent(AgentPlan::slots(1).args(&args)).start().await;
    let body = json!({"sessionToken": "sim:never_ready=1,ignore_term=1,fork_grandchild=1"});
    farm.door(0).spawn(&body).await.problem(504, "ready-timeout");
    assert_eq!(the_only_record(&farm).await["signal"], "SIGKILL");
    farm.finish().await;
}

#[tokio::test]
async fn a_missing_executable_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let executable = directory.path().join("was-here");
    fs::copy(&binaries().simulator, &executable).unwrap();
    let farm = Farm::builder().agent(AgentPlan::slots(2).executable(&executable)).start().await;
    fs::remove_file(&executable).unwrap();
    for _ in 0..3 {
        let problem = farm.door(0).spawn(&json!({})).await.problem(502, "spawn-failed");
        let path = executable.display().to_string();
        assert!(problem.json.to_string().contains(&path), "{} does not name {path}", problem.json);
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_node_that_cannot_start_anything_does_not_fail_the_farm() {
    let directory = tempfile::tempdir().unwrap();
    let executable = directory.path().join("was-here");
    fs::copy(&binaries().simulator, &executable).unwrap();
    let broken = AgentPlan::slots(4).executable(&executable);
    let farm = Farm::builder().agent(broken).agent(AgentPlan::slots(4)).start().await;
    fs::remove_file(&executable).unwrap();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let answer = farm.door(0).spawned(&json!({})).await;
        assert_eq!(answer["node"], "node-b");
        ids.push(answer["id"].as_str().unwrap().to_owned());
    }
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn failures_at_once_leave_nothing() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(8)).agent(AgentPlan::slots(8)).start().await;
    let body = json!({"sessionToken": "sim:exit_before_ready=3,exit_delay_ms=50"});
    let answers = (0..60).map(|i| farm.door(i % 2).post("/spawn").json(&body).send());
    for answer in futures_util::future::join_all(answers).await {
        match answer.status {
            502 => drop(answer.problem(502, "spawn-failed")),
            _ => drop(answer.problem(503, "no-capacity")),
        }
    }
    farm.finish().await;
}
