//! The path of `POST /spawn`.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use wire::v1;
use wire::v1::refused::Reason;

use crate::fake_agent::{Offer, Script};
use crate::farm::{Farm, config};
use crate::http::{begin, get, raw, request, spawn, spawning};
use crate::wait::until;

#[tokio::test]
async fn a_spawn_is_answered_when_it_is_ready() {
    let farm = Farm::start(2, &[Script::Ready]).await;
    let body = br#"{"rendererType":"ssr","model":"a/b.scs","sessionToken":"t","labels":{}}"#;
    let headers = [("content-type", "application/json"), ("x-request-id", "my-request")];
    let answer = raw(farm.http, &request("POST", "/spawn", &headers, body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-request-id"), Some("my-request"));
    let [order] = &farm.agents[0].orders()[..] else { panic!("one order") };
    let id = &order.request.spawn_id;
    assert_eq!(
        answer.json(),
        json!({"id": id, "endpoint": format!("ws://node-0/{id}"), "rendererType": "ssr", "node": "node-0"}),
    );
    assert_eq!(order.request_id, "my-request");
    assert_eq!(order.request.renderer_type(), v1::RendererType::Ssr);
    assert_eq!(order.request.model.as_deref(), Some("a/b.scs"));
    assert_eq!(order.request.session_token.as_deref(), Some("t"));
    assert!((18_000..=20_000).contains(&order.request.deadline_ms), "{order:?}");
    assert!((59_000..=60_000).contains(&order.request.reservation_ms), "{order:?}");
    assert_eq!(farm.used(&farm.agents[0].node).await, 1);
}

#[tokio::test]
async fn a_request_id_that_is_not_sane_is_replaced() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    for bad in ["", "a b", "\"x\"", &"x".repeat(129)] {
        let answer = raw(farm.http, &request("GET", "/healthz", &[("x-request-id", bad)], b"")).await;
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36), "{answer:?}");
    }
}

#[tokio::test]
async fn a_full_farm_and_one_that_does_not_match_are_distinguished() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    assert_eq!(spawn(farm.http, "").await.status, 200);
    assert_eq!(spawn(farm.http, "").await.code(), "no-capacity");
    assert_eq!(
        spawn(farm.http, r#"{"labels":{"sdk":"1"},"waitSeconds":60}"#).await.code(),
        "no-matching-node"
    );
    assert_eq!(spawn(farm.http, r#"{"pool":"other"}"#).await.code(), "no-matching-node");
}

#[tokio::test]
async fn labels_choose_the_node() {
    let mut farm = Farm::start(5, &[Script::Ready]).await;
    farm.add(Offer { slots: 5, labels: &[("sdk", "2025.1")] }, Script::Ready).await;
    for _ in 0..3 {
        let answer = spawn(farm.http, r#"{"labels":{"sdk":"2025.1"}}"#).await;
        assert_eq!(answer.json()["node"], "node-1");
    }
}

#[tokio::test]
async fn a_process_that_ends_early_is_explained() {
    let exit = v1::Exit {
        reason: "failed".into(),
        code: Some(6),
        signal: None,
        text: Some("invalid license".into()),
    };
    let farm = Farm::start(4, &[Script::Ended(exit)]).await;
    let answer = spawn(farm.http, "").await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "spawn-failed"));
    let problem = answer.json();
    assert_eq!(problem["reason"], "invalid license");
    assert_eq!(problem["exitCode"], 6);
    assert_eq!(problem["log"], json!(["one", "two"]));
    assert_eq!(problem["node"], "node-0");
    assert_eq!(problem["spawn"], farm.agents[0].orders()[0].request.spawn_id);
    assert!(problem["detail"].as_str().unwrap().contains("invalid license"));
    assert_eq!(farm.orders(), 1, "there is no other node");
    farm.empty().await;

    let exit = v1::Exit { reason: "signaled".into(), code: None, signal: Some("SIGSEGV".into()), text: None };
    farm.agents[0].script(Script::Ended(exit));
    let problem = spawn(farm.http, "").await.json();
    assert_eq!(problem["reason"], "exited because of signal=SIGSEGV");
    assert_eq!(problem["signal"], "SIGSEGV");
    assert!(problem.get("exitCode").is_none());

    let exit = v1::Exit { reason: "stopped".into(), signal: Some("SIGTERM".into()), ..v1::Exit::default() };
    farm.agents[0].script(Script::Ended(exit));
    assert_eq!(spawn(farm.http, "").await.json()["reason"], "stopped");

    let exit = v1::Exit { reason: "ready-timeout".into(), ..v1::Exit::default() };
    farm.agents[0].script(Script::Ended(exit));
    let answer = spawn(farm.http, "").await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "ready-timeout"));
    assert_eq!(answer.json()["log"], json!(["one", "two"]));
}

fn license() -> Script {
    let text = Some("invalid license".to_owned());
    Script::Ended(v1::Exit { reason: "failed".into(), code: Some(6), signal: None, text })
}

/// Node and code of each attempt, in order.
fn attempts(answer: &crate::http::Answer) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let json = answer.json();
    let attempts = json["attempts"].as_array().unwrap_or_else(|| panic!("no attempts in {json}"));
    attempts.iter().map(|attempt| (text(&attempt["node"]), text(&attempt["code"]))).collect()
}

#[tokio::test]
async fn refusals_cost_no_attempt_and_every_node_is_asked_once() {
    let refuse = Script::Refuse(Reason::LowMemory, "12 MiB left");
    let mut farm = Farm::start(4, &vec![refuse; 5]).await;
    let answer = spawn(farm.http, "").await;
    assert_eq!(answer.code(), "no-capacity");
    assert!(answer.json()["detail"].as_str().unwrap().contains("12 MiB left"), "{answer:?}");
    let tried = attempts(&answer);
    assert_eq!(tried.len(), 5);
    assert!(tried.iter().all(|(_, code)| code == "refused"), "{tried:?}");
    assert!(answer.json()["attempts"][0]["reason"].as_str().unwrap().contains("12 MiB left"));
    assert!(farm.agents.iter().all(|agent| agent.orders().len() == 1), "no node is asked twice");
    farm.empty().await;

    farm.add(Offer { slots: 8, labels: &[] }, Script::Ready).await;
    for _ in 0..8 {
        let answer = spawn(farm.http, "").await;
        assert_eq!(answer.json()["node"], "node-5", "{answer:?}");
    }
    assert_eq!(spawn(farm.http, "").await.code(), "no-capacity");
}

#[tokio::test]
async fn a_start_that_failed_is_tried_on_another_node() {
    let mut farm = Farm::start(100, &[license()]).await;
    // The others are busier, so that the first is chosen first.
    farm.add(Offer { slots: 30, labels: &[("busy", "yes")] }, Script::Ready).await;
    assert_eq!(spawn(farm.http, r#"{"labels":{"busy":"yes"}}"#).await.status, 200);
    for _ in 0..20 {
        let answer = spawn(farm.http, "").await;
        assert_eq!(answer.json()["node"], "node-1", "{answer:?}");
    }
    assert!(!farm.agents[0].orders().is_empty());
    until(async || farm.used(&farm.agents[0].node).await, |used| *used == 0).await;
}

#[tokio::test]
async fn processes_are_started_on_three_nodes_at_the_most_and_the_last_failure_is_the_answer() {
    let farm = Farm::start(4, &vec![license(); 5]).await;
    let answer = spawn(farm.http, "").await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "spawn-failed"));
    let tried = attempts(&answer);
    assert_eq!(tried.len(), 3);
    assert!(tried.iter().all(|(_, code)| code == "spawn-failed"), "{tried:?}");
    assert_eq!(answer.json()["node"], tried[2].0);
    assert_eq!(answer.json()["attempts"][0]["reason"], "invalid license (exit code 6)");
    assert_eq!(farm.orders(), 3);
    farm.empty().await;
}

#[tokio::test]
async fn a_command_line_that_the_server_refuses_is_tried_once() {
    let exit = v1::Exit { reason: "failed".into(), code: Some(2), signal: None, text: None };
    let farm = Farm::start(4, &vec![Script::Ended(exit); 3]).await;
    let answer = spawn(farm.http, "").await;
    assert_eq!((answer.code().as_str(), farm.orders()), ("spawn-failed", 1));
    assert_eq!(answer.json()["reason"], "invalid command line argument");
}

#[tokio::test]
async fn that_a_server_cannot_be_started_anywhere_is_the_answer_when_every_node_was_tried() {
    let cannot = Script::Refuse(Reason::CannotStart, "no such file");
    let mut farm = Farm::start(4, &vec![cannot; 4]).await;
    let answer = spawn(farm.http, r#"{"waitSeconds":30}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "spawn-failed"));
    assert_eq!(attempts(&answer).len(), 4);
    farm.add(Offer { slots: 4, labels: &[] }, Script::Ready).await;
    assert_eq!(spawn(farm.http, "").await.json()["node"], "node-4");
}

#[tokio::test]
async fn a_spawn_gets_through_although_most_nodes_cannot_be_reached() {
    let mut farm = Farm::start(20, &vec![Script::Ready; 16]).await;
    for agent in &mut farm.agents[..12] {
        agent.kill().await;
    }
    for _ in 0..60 {
        let answer = spawn(farm.http, "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_refusal_moves_on_within_the_same_request() {
    let farm = Farm::start(4, &[Script::Refuse(Reason::NotEligible, ""), Script::Ready]).await;
    for _ in 0..8 {
        let answer = spawn(farm.http, "").await;
        if answer.status == 200 {
            assert_eq!(answer.json()["node"], "node-1");
        }
        if !farm.agents[0].orders().is_empty() {
            break;
        }
    }
    assert!(!farm.agents[0].orders().is_empty(), "the refusing node is the emptier one and is chosen first");
}

#[tokio::test]
async fn a_server_that_cannot_be_started_is_reported_with_its_path() {
    let why = "/opt/ts3d_sc_server: No such file or directory";
    let farm = Farm::start(4, &[Script::Refuse(Reason::CannotStart, why)]).await;
    let answer = spawn(farm.http, r#"{"waitSeconds":30}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "spawn-failed"));
    assert_eq!(answer.json()["reason"], why);
    assert!(answer.json()["detail"].as_str().unwrap().contains(why));
    farm.empty().await;
}

#[tokio::test]
async fn a_model_outside_the_directories_is_the_callers_mistake() {
    let farm = Farm::start(4, &vec![Script::Refuse(Reason::BadModel, "link.scs leads out"); 3]).await;
    let answer = spawn(farm.http, r#"{"model":"link.scs"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "invalid-request"));
    assert_eq!(answer.json()["field"], "model");
    assert_eq!(farm.orders(), 1, "no other node is asked");
    farm.empty().await;
}

#[tokio::test]
async fn a_node_that_refuses_the_connection_is_passed_over_at_once() {
    let mut farm = Farm::start(8, &[Script::Ready, Script::Ready]).await;
    farm.agents[0].kill().await;
    let dead = farm.agents[0].node.clone();
    until(
        async || {
            let answer = spawn(farm.http, "").await;
            assert_eq!(answer.json()["node"], "node-1", "{answer:?}");
            farm.registry.node(&dead).await.unwrap().unwrap().availability
        },
        |availability| *availability != model::Availability::Up || farm.agents[1].running().len() >= 6,
    )
    .await;
    until(async || farm.used(&dead).await, |used| *used == 0).await;
}

#[tokio::test]
async fn a_lost_answer_is_abandoned_before_another_node_is_tried() {
    let mut farm = Farm::start(1, &[Script::Die]).await;
    let waiting = spawning(farm.http, r#"{"waitSeconds":20}"#);
    farm.agents[0].die().await;
    let dead = farm.agents[0].node.clone();
    let lost: model::SpawnId = farm.agents[0].orders()[0].request.spawn_id.parse().unwrap();
    farm.add(Offer { slots: 1, labels: &[] }, Script::Ready).await;
    let answer = waiting.await.unwrap();
    assert_eq!(answer.json()["node"], "node-1", "{answer:?}");
    assert_ne!(answer.json()["id"], lost.to_string());

    // The agent that comes back is told to end what it may have started.
    let report = registry::AgentReport {
        node: dead.clone(),
        epoch: model::AgentEpoch::mint(),
        takeover: true,
        identity: registry::AgentIdentity::default(),
        accepted: 0,
        agreement: None,
        changes: Vec::new(),
        heartbeat: Some(registry::Heartbeat::new(
            farm.registry.node(&dead).await.unwrap().unwrap().description,
            Vec::new(),
        )),
    };
    assert_eq!(farm.registry.report(&report).await.unwrap().abandoned, [lost]);
}

#[tokio::test]
async fn a_spawn_that_is_not_ready_by_the_deadline_is_ended() {
    let mut settings = config();
    settings.spawn_deadline = Duration::from_millis(200);
    let farm = Farm::with(settings, 1, &[Script::Hang]).await;
    let answer = spawn(farm.http, "").await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "ready-timeout"));
    assert_eq!(answer.json()["node"], "node-0");
    farm.empty().await;
    until(async || farm.agents[0].cancelled().len(), |n| *n == 1).await;
    assert_eq!(farm.orders(), 1);
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_nothing_behind() {
    let farm = Farm::start(1, &[Script::Hang]).await;
    for round in 1..=5 {
        let connection = begin(farm.http, &[], "").await;
        until(async || farm.orders(), |orders| *orders == round).await;
        drop(connection);
        farm.empty().await;
        until(async || farm.agents[0].cancelled().len(), |n| *n == round).await;
        assert!(farm.agents[0].running().is_empty());
    }
}

#[tokio::test]
async fn bytes_beyond_the_request_do_not_hide_a_hang_up() {
    let farm = Farm::start(1, &[Script::Hang]).await;
    for (round, more) in ["\r\n", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"].into_iter().enumerate()
    {
        let mut connection = begin(farm.http, &[], "").await;
        connection.write_all(more.as_bytes()).await.unwrap();
        until(async || farm.orders(), |orders| *orders == round + 1).await;
        drop(connection);
        farm.empty().await;
        until(async || farm.agents[0].cancelled().len(), |n| *n == round + 1).await;
    }
}

#[tokio::test]
async fn callers_that_hang_up_at_any_moment_leave_nothing_behind() {
    let farm = Farm::start(8, &[Script::Ready, Script::Ready]).await;
    for round in 0..60_u64 {
        let connection = begin(farm.http, &[], r#"{"waitSeconds":5}"#).await;
        // Any moment will do; this is no wait for anything.
        tokio::time::sleep(Duration::from_micros(round * 20)).await;
        drop(connection);
        if round % 10 == 9 {
            // Those whose answer was on its way already are theirs: they end like any other.
            for agent in &farm.agents {
                until(async || agent.running(), |_| true).await.into_iter().for_each(|id| agent.end(id));
            }
        }
    }
    until(
        async || {
            for agent in &farm.agents {
                agent.running().into_iter().for_each(|id| agent.end(id));
            }
            farm.registry.nodes().await.unwrap().iter().map(|n| n.used).sum::<u32>()
        },
        |used| *used == 0,
    )
    .await;
}

#[tokio::test]
async fn figures_tell_what_happened() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    spawn(farm.http, "").await;
    spawn(farm.http, "").await;
    let text = get(farm.front.admin_addr(), "/metrics").await.body;
    for line in [
        r#"hatchery_frontdoor_requests_total{route="/spawn",method="POST",status="200"} 1"#,
        r#"hatchery_frontdoor_requests_total{route="/spawn",method="POST",status="503"} 1"#,
        r#"hatchery_frontdoor_spawns_total{outcome="ready"} 1"#,
        r#"hatchery_frontdoor_spawns_total{outcome="no-capacity"} 1"#,
        r#"hatchery_frontdoor_attempts_total{outcome="ready"} 1"#,
        "hatchery_frontdoor_spawn_total_seconds_count 2",
        "hatchery_frontdoor_spawn_reserve_seconds_count 2",
        "hatchery_frontdoor_spawn_agent_call_seconds_count 1",
        "hatchery_frontdoor_waiting 0",
        "hatchery_frontdoor_requests_in_flight 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
