//! What is revoked, missing, weak or open by mistake lets nobody in, and what is said of it leads nobody further.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hatchery_tests::role::hatchery;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Certs, Farm, FarmBuilder, Look, Role, until};
use rustix::process::Signal;
use serde_json::json;

fn plan(slots: u16) -> FarmBuilder {
    Farm::builder().keys().agent(AgentPlan::slots(slots))
}

/// The id of an API key.
fn key_id(credential: &str) -> String {
    credential.split('_').nth(1).unwrap().to_owned()
}

fn revoke(farm: &Farm, credential: &str) {
    let output = hatchery(farm.mark())
        .args(["key", "revoke", "--file"])
        .arg(farm.keys())
        .arg(key_id(credential))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_request_in_line_is_refused_once_its_key_is_revoked() {
    let farm = plan(1).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let credential = farm.key(&["--scope", "spawn"]).await;
    let other = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let client = farm.door(0).showing(&credential);
    let body = json!({"waitSeconds": 60});
    let waits = {
        let body = body.clone();
        tokio::spawn(async move { client.spawn(&body).await })
    };
    // One that waits by its idempotency key, and one that waits for that.
    let keyed: Vec<_> = [(); 2]
        .map(|()| {
            let body = body.clone();
            let request = client.post("/spawn").header("idempotency-key", "k").json(&body);
            tokio::spawn(async move { request.send().await })
        })
        .into_iter()
        .collect();
    farm.waiting(2).await;
    let stays = tokio::spawn(async move { other.spawn(&body).await });
    farm.waiting(3).await;
    revoke(&farm, &credential);
    for answer in std::iter::once(waits).chain(keyed) {
        let answer = answer.await.unwrap();
        let problem = answer.problem(401, "unauthenticated");
        assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
        assert!(problem.detail.contains("not valid"), "{}", problem.detail);
    }
    // Whoever still has a good key is served.
    farm.waiting(1).await;
    farm.stop([first["id"].as_str().unwrap()]).await;
    let served = stays.await.unwrap();
    assert_eq!(served.status, 200, "{served:?}");
    farm.stop([served.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_file_of_keys_that_is_gone_is_reported_until_it_is_back() {
    let farm = plan(1).start().await;
    let good = fs::read(farm.keys()).unwrap();
    let reported = async |gone: bool| {
        until("it is reported", TIMEOUT, async || {
            let ready = farm.door(0).get("/readyz").send().await;
            let metrics = farm.doors[0].metrics().await;
            let files = metrics.get("hatchery_frontdoor_key_files_unread{keys=\"grace\"}");
            let warned = ready.text().contains("--api-keys");
            let so = ready.status == 200 && warned == gone && files == Some(f64::from(u8::from(gone)));
            Look::when(so, || format!("{ready:?} {files:?}"))
        })
        .await;
    };
    reported(false).await;
    fs::remove_file(farm.keys()).unwrap();
    reported(true).await;
    let ready = farm.door(0).get("/readyz").send().await;
    assert!(!ready.text().contains(farm.mark().to_str().unwrap()), "a path: {ready:?}");
    farm.doors[0].role.logs("keys not read").await;
    fs::write(farm.keys(), good).unwrap();
    reported(false).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_flood_of_wrong_credentials_is_counted_and_not_logged_line_by_line() {
    const TRIES: usize = 300;
    let farm = plan(1).start().await;
    let wrong = farm.door(0).showing(&format!("hatchery_aaaaaaaaaaaa_{}", "A".repeat(43)));
    for _ in 0..TRIES {
        wrong.get("/v1/spawns").send().await.problem(401, "unauthenticated");
    }
    let counted = farm.doors[0].metrics().await;
    let counted = counted.get("hatchery_frontdoor_authentication_failures_total{reason=\"unknown-key\"}");
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let wanted = TRIES as f64;
    assert!(counted >= Some(wanted), "{counted:?}");
    let log = farm.doors[0].role.logs("unknown-key").await;
    let lines = log.lines().filter(|line| line.contains("unknown-key")).count();
    assert!((1..TRIES / 2).contains(&lines), "{lines} lines");
    farm.finish().await;
}

#[tokio::test]
async fn no_answer_says_where_anything_inside_the_farm_is() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let spawned = farm.door(0).spawned(&json!({})).await;
    let id = spawned["id"].as_str().unwrap().to_owned();
    let redis = farm.redis.addr().port().to_string();
    let grpc = farm.door(0).json("/v1/nodes/node-a").await["advertise"].as_str().unwrap().to_owned();
    let grpc = grpc.rsplit(':').next().unwrap().to_owned();
    // The agent is away: what only it could answer, and a spawn.
    farm.agents[0].role.kill();
    let log = farm.door(0).get(&format!("/v1/spawns/{id}/log")).send().await;
    log.problem(503, "node-unreachable");
    let refused = farm.door(0).spawn(&json!({})).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    // Redis is away.
    farm.redis.kill();
    until("the front door says that it is degraded", TIMEOUT, async || {
        let ready = farm.door(0).get("/readyz").send().await;
        Look::when(ready.status != 200 || ready.json()["status"] == "degraded", || format!("{ready:?}"))
    })
    .await;
    let ready = farm.door(0).get("/readyz").send().await;
    let keyed = farm.door(0).post("/spawn").header("idempotency-key", "k").json(&json!({})).send().await;
    let shown = farm.door(0).get(&format!("/v1/spawns/{id}")).send().await;
    for answer in [&log, &refused, &ready, &keyed, &shown] {
        let text = answer.text();
        for inside in [&redis, &grpc] {
            assert!(!text.contains(&format!(":{inside}")), "{text}");
        }
        assert!(!text.contains("127.0.0.1"), "{text}");
    }
    assert!(ready.json()["dependencies"]["registry"]["detail"].is_string(), "{ready:?}");
    // The log has it, under the request's id.
    let request = keyed.header("x-request-id").unwrap();
    let told = |log: &str| {
        log.lines().any(|l| l.contains(request) && l.contains("could not answer") && l.contains(&redis))
    };
    farm.doors[0].role.logs_so("where the registry is", told).await;
    farm.redis.restart().await;
    farm.agents[0].restart().await;
    until("the farm is whole again", TIMEOUT, async || {
        let record = farm.door(0).get(&format!("/v1/spawns/{id}")).send().await;
        let so = record.status == 200 && record.json()["state"] == "ready";
        Look::when(so, || format!("{record:?}"))
    })
    .await;
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_reason_that_would_steer_a_terminal_is_refused_by_name() {
    let farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    let drain = async |reason: &str| {
        let request = farm.door(0).post("/v1/nodes/node-a/drain").json(&json!({ "reason": reason }));
        request.send().await
    };
    for reason in ["a\u{1b}[2Jb", "a\u{9b}2Jb", "a\u{202e}b", "a\u{2066}b", "a\nb"] {
        assert!(drain(reason).await.problem(400, "invalid-request").names("reason"), "{reason:?}");
    }
    assert_eq!(drain("Wartung, 保守").await.status, 200);
    assert_eq!(farm.door(0).post("/v1/nodes/node-a/uncordon").send().await.status, 200);
    farm.finish().await;
}

/// A role that must not start: its exit code and what it says.
async fn refused(mark: &Path, args: &[&str]) -> (i32, String) {
    let mut command = hatchery(mark);
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_farm_with_tls_and_keys_refuses_a_bare_redis_on_another_machine() {
    let certs = Certs::new(&["--frontdoor", "door=127.0.0.1", "--agent", "node-a=127.0.0.1"]);
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().to_str().unwrap();
    let keys = certs.path("keys");
    fs::write(&keys, "").unwrap();
    let door = ["frontdoor", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--api-keys", &keys];
    let door: Vec<&str> = door.into_iter().chain(["--registry"]).collect();
    let door_flags = certs.public_door("door");
    let agent =
        ["agent", "--start-nothing", "--node", "node-a", "--state-dir", state, "--listen", "127.0.0.1:0"];
    let more = ["--admin-listen", "127.0.0.1:0", "--liveliness-listen", "127.0.0.1:0", "--registry"];
    let agent: Vec<&str> = agent.into_iter().chain(more).collect();
    let agent_flags = certs.agent("node-a");
    for (role, flags) in [(&door, &door_flags), (&agent, &agent_flags)] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for (url, lacks) in [
            // Nobody is asked: the addresses are for documentation (RFC 5737).
            ("redis://192.0.2.1", "without TLS and a password"),
            ("redis://:hunter2@192.0.2.1:6379", "without TLS"),
            ("rediss://redis.example", "without a password"),
            ("redis-sentinel://127.0.0.1:1,192.0.2.1:1/farm", "without TLS and a password"),
        ] {
            let line = [&role[..], &[url], &flags].concat();
            let (code, said) = refused(scratch.path(), &line).await;
            assert_eq!(code, 2, "{line:?}: {said}");
            for word in ["--registry", lacks, "rediss://", "--registry-password-file", "--insecure"] {
                assert!(said.contains(word), "{url} does not name {word}: {said}");
            }
            assert!(!said.contains("hunter2"), "{said}");
        }
        // On this machine it needs neither, and an operator may want it so.
        for more in [&["redis://127.0.0.1:1"][..], &["redis://192.0.2.1", "--insecure"]] {
            let line = [&role[..], more, &flags].concat();
            let line: Vec<String> = line.into_iter().map(str::to_owned).collect();
            let name = format!("{}-{}", role[0], more.len());
            let mut started = Role::start(&name, scratch.path(), &line);
            started.announcement().await;
            const WORDS: &str = "a process that reaches it owns the farm";
            if more.len() == 2 {
                started.logs(WORDS).await;
            }
            started.signal(Signal::TERM);
            started.end().await;
            let log = started.log();
            assert_eq!(log.contains(WORDS), more.len() == 2, "{more:?}: {log}");
        }
    }
}

#[tokio::test]
async fn weak_secrets_are_refused_at_the_start_and_readable_ones_are_warned_of() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("jwt");
    let path = file.to_str().unwrap();
    let role =
        ["frontdoor", "--registry", "embedded", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let line = [&role[..], &["--jwt-keys", path]].concat();
    let modulus = format!("{}w", "_".repeat(341));
    let exponent_1 = json!({"keys": [{"kty": "RSA", "n": modulus, "e": "AQ"}]}).to_string();
    for (text, word) in
        [("a".repeat(32), "openssl rand"), ("secret".repeat(9), "openssl rand"), (exponent_1, "exponent")]
    {
        fs::write(&file, text).unwrap();
        let (code, said) = refused(scratch.path(), &line).await;
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("--jwt-keys") && said.contains(path) && said.contains(word), "{said}");
    }
    fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    for (mode, told) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let line: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        let mut started = Role::start(&format!("mode-{mode:o}"), scratch.path(), &line);
        started.announcement().await;
        let warned = |log: &str| {
            log.lines().any(|line| line.contains("WARN") && line.contains(path) && line.contains("0640"))
        };
        if told {
            started.logs_so("who can read its file", warned).await;
        }
        started.signal(Signal::TERM);
        started.end().await;
        let log = started.log();
        let warned = warned(&log);
        assert_eq!(warned, told, "{mode:o}: {log}");
    }
}
