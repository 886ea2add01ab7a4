//! Secrets are shown to whoever they are for, and to nobody else.

use std::fs;

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Subscriber};
use serde_json::json;

use super::{farm, id, key_id};

#[tokio::test]
async fn a_credential_is_in_no_log_no_answer_no_event_and_no_command_line() {
    let farm = farm().await;
    let door = farm.door(0);
    let nobody = door.showing_nothing();
    let key = farm.key(&["--scope", "spawn,operate", "--name", "web"]).await;
    let wrong = format!("hatchery_{}_{}", key_id(&key), "WRONG".repeat(9).get(..43).unwrap());
    let client = door.showing(&key);
    let secrets = [&key[22..], &wrong[22..]];
    let spawned = client.spawned(&json!({})).await;
    let mut said = String::new();
    for client in [client, nobody.showing(&wrong), nobody.showing(&key[..30])] {
        for path in [
            "/v1/spawns",
            "/v1/nodes",
            "/v1/waiting",
            "/v1/audit",
            "/v1/history",
            "/v1/nodes/node-a",
            &format!("/v1/spawns/{}", id(&spawned)),
            "/nothing",
        ] {
            said += &format!("{:?}\n", client.get(path).send().await);
        }
        let order = client.post("/v1/nodes/node-a/cordon").send().await;
        said += &format!("{order:?}\n");
    }
    client.post("/v1/nodes/node-a/uncordon").send().await;
    let mut listener = Subscriber::connect(door.addr).await;
    listener.authenticate(&key).await;
    listener.authenticated().await;
    said += &listener.subscribe("spawns").await.to_string();
    let mut rejected = Subscriber::connect(door.addr).await;
    rejected.authenticate(&wrong).await;
    said += &rejected.refused("unauthenticated").await.to_string();
    for process in farm.processes() {
        assert!(secrets.iter().all(|secret| !format!("{process:?}").contains(secret)), "a spawn");
    }
    farm.stop([id(&spawned)]).await;
    said += &format!("{:?}", listener.until("spawn.exited").await);
    said += &farm.doors[0].admin.get("/metrics").send().await.text();
    for secret in secrets {
        assert_eq!(secret.len(), 43);
        for role in
            farm.doors.iter().map(|door| &door.role).chain(farm.agents.iter().map(|agent| &agent.role))
        {
            assert!(!role.log().contains(secret), "the log of {}", role.name);
            let arguments = fs::read(format!("/proc/{}/cmdline", role.pid())).unwrap();
            assert!(!String::from_utf8_lossy(&arguments).contains(secret), "the arguments of {}", role.name);
        }
        assert!(!said.contains(secret), "an answer");
        assert!(!fs::read_to_string(farm.keys()).unwrap().contains(secret), "the file of keys");
    }
    // What went wrong is told, with where it came from.
    let both = |log: &str| log.contains("wrong-secret") && log.contains("malformed");
    let log = farm.doors[0].role.logs_so("both failures", both).await;
    let failures: Vec<serde_json::Value> = hatchery_tests::logs::lines("frontdoor-0", &log)
        .into_iter()
        .filter(|line| line["message"] == "authentication failed")
        .collect();
    let told = |reason: &str| {
        failures
            .iter()
            .any(|line| line["reason"] == reason && line["peer"] == "127.0.0.1" && line["level"] == "WARN")
    };
    assert!(told("wrong-secret") && told("malformed"), "{failures:?}");
    let named = failures.iter().any(|line| line["key.id"] == key_id(&key));
    assert!(named, "{failures:?}");
    let metrics = farm.doors[0].metrics().await;
    let wrong = metrics.get("hatchery_frontdoor_authentication_failures_total{reason=\"wrong-secret\"}");
    assert!(wrong.is_some_and(|count| count >= 6.0), "{wrong:?}");
    farm.finish().await;
}

#[tokio::test]
async fn tokens_are_good_beside_keys_and_what_they_spawn_is_their_subjects() {
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("jwt");
    fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let file = secret.display().to_string();
    let args =
        ["--jwt-keys", &file, "--jwt-issuer", "us", "--jwt-audience", "hatchery", "--concurrent-spawns", "1"];
    let farm = Farm::builder().keys().door_args(&args).agent(AgentPlan::slots(4)).start().await;
    let nobody = farm.door(0).showing_nothing();
    let token = async |flags: &[&str]| {
        let new = ["token", "new", "--key-file", file.as_str(), "--subject", "ci", "--scope", "spawn"];
        let ran = farm.run(&[&new[..], flags].concat()).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        nobody.showing(ran.stdout.trim_end())
    };
    let client = token(&["--issuer", "us", "--audience", "hatchery"]).await;
    let spawned = client.spawned(&json!({})).await;
    let record = client.json(&format!("/v1/spawns/{}", id(&spawned))).await;
    assert_eq!(record["owner"], "jwt:ci", "{record}");
    client.post("/spawn").send().await.problem(429, "quota-exceeded");
    for flags in [
        &["--issuer", "them", "--audience", "hatchery"][..],
        &["--issuer", "us", "--audience", "other"],
        &["--issuer", "us"],
        &["--audience", "hatchery"],
    ] {
        let answer = token(flags).await.post("/spawn").send().await;
        answer.problem(401, "unauthenticated");
    }
    // Another token of the same subject is the same caller.
    let again = token(&["--issuer", "us", "--audience", "hatchery", "--for", "1h"]).await;
    assert_eq!(again.delete(&format!("/v1/spawns/{}", id(&spawned))).send().await.status, 202);
    farm.reaches(id(&spawned), "exited", TIMEOUT).await;
    farm.finish().await;
}
