//! Traces and log lines at their edges: whose word on sampling counts, failures that would hide their cause, and the end of a role.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Client, Collector, Farm, FarmBuilder, Mood, Moody, Traced};
use rustix::process::Signal;
use serde_json::{Value, json};
use uuid::Uuid;
use wire::v1;
use wire::v1::node_agent_client::NodeAgentClient;

const SPAN: &str = "00f067aa0ba902b7";
const WARN: [&str; 4] = ["--log-format", "json", "--log", "warn"];

fn trace(digit: &str) -> String {
    digit.repeat(32)
}

fn exporting(builder: FarmBuilder, collector: &Collector) -> FarmBuilder {
    let builder = builder.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url());
    builder.env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

/// A request of a caller that records its trace.
async fn recorded(client: Client, (method, path): (&str, &str), digit: &str, body: Option<&Value>) -> u16 {
    let parent = format!("00-{}-{SPAN}-01", trace(digit));
    let request = client.request(method, path).header("traceparent", &parent);
    let request = if let Some(body) = body { request.json(body) } else { request };
    request.send().await.status
}

fn has(spans: &[Traced], name: &str) -> bool {
    spans.iter().any(|span| span.name == name)
}

fn one<'a>(spans: &'a [Traced], name: &str) -> &'a Traced {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {spans:#?}"))
}

#[tokio::test]
async fn strangers_do_not_decide_what_is_recorded_and_their_ids_are_in_the_log() {
    let collector = Collector::start().await;
    let builder = Farm::builder().keys().agent(AgentPlan::slots(1));
    let farm =
        exporting(builder, &collector).env("OTEL_TRACES_SAMPLER", "parentbased_always_off").start().await;
    let reader = farm.key(&["--scope", "read"]).await;
    let (known, stranger) = (farm.door(0), farm.door(0).showing_nothing());
    let spawn = ("POST", "/spawn");
    for (client, call, digit, status) in [
        (stranger, spawn, "1", 401),
        (stranger.showing("hush"), spawn, "2", 401),
        (stranger.showing(&reader), spawn, "3", 403),
        (stranger.showing("hush"), ("PUT", "/spawn"), "8", 405),
        (stranger, ("GET", "/healthz"), "4", 200),
        (known, ("GET", "/healthz"), "5", 200),
        (known, ("GET", "/nowhere"), "6", 404),
        (known, ("GET", "/v1/nodes/nowhere"), "7", 404),
    ] {
        let body = json!({});
        let body = (call == spawn).then_some(&body);
        assert_eq!(recorded(client, call, digit, body).await, status, "{call:?} {digit}");
    }
    collector.trace(&trace("7"), |spans| has(spans, "GET /v1/nodes/{node}")).await;
    // What came before would be there by now.
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == trace("7")), "{spans:#?}");
    for digit in ["1", "2", "3"] {
        farm.doors[0].role.logs(&trace(digit)).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_log_of_warnings_names_the_request_and_the_spawn_on_both_sides() {
    let scratch = tempfile::tempdir().unwrap();
    let moody = Moody::new(scratch.path());
    let plan = AgentPlan::slots(1).executable(moody.executable()).args(&WARN);
    let farm = Farm::builder().plain_log().door_args(&WARN).agent(plan).start().await;
    moody.is_there(false);
    let request = farm.door(0).post("/spawn").header("x-request-id", "ours-1").json(&json!({}));
    assert!(request.send().await.status >= 500);
    for (role, message) in [(&farm.doors[0].role, "start failed"), (&farm.agents[0].role, "spawn refused")] {
        let log = role.logs(message).await;
        let line = log.lines().find(|line| line.contains(message)).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["level"], &line["requestId"]), (&json!("WARN"), &json!("ours-1")), "{line}");
        assert!(line["spawn.id"].is_string(), "{line}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_start_whose_answer_is_missing_is_unanswered_in_its_trace() {
    let collector = Collector::start().await;
    let builder = Farm::builder().door_args(&["--spawn-deadline", "3s"]).agent(AgentPlan::slots(2));
    let farm = exporting(builder, &collector).start().await;
    // The connection is there.
    let first = farm.door(0).spawned(&json!({})).await;
    farm.agents[0].role.signal(Signal::STOP);
    let status = recorded(farm.door(0), ("POST", "/spawn"), "a", Some(&json!({}))).await;
    farm.agents[0].role.signal(Signal::CONT);
    assert!(status >= 500, "{status}");
    let spans =
        collector.trace(&trace("a"), |spans| has(spans, "attempt") && has(spans, "POST /spawn")).await;
    let attempt = one(&spans, "attempt");
    assert_eq!(attempt.attribute("hatchery.outcome"), "unanswered", "{attempt:#?}");
    assert!(attempt.error.is_some() && attempt.attribute("error.type") != "cancelled", "{attempt:#?}");
    farm.stops_one(first["id"].as_str().unwrap()).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_call_that_joins_a_start_is_not_cut_short() {
    let collector = Collector::start().await;
    let farm = exporting(Farm::builder().agent(AgentPlan::slots(2)), &collector).start().await;
    let spawn = Uuid::now_v7().to_string();
    let mut agent =
        NodeAgentClient::connect(format!("http://{}", farm.agents[0].flag("--listen"))).await.unwrap();
    for digit in ["a", "b"] {
        let mut request = tonic::Request::new(v1::SpawnRequest {
            spawn_id: spawn.clone(),
            renderer_type: v1::RendererType::Csr.into(),
            deadline_ms: 20_000,
            reservation_ms: 20_000,
            node: "node-a".to_owned(),
            ..v1::SpawnRequest::default()
        });
        let parent = format!("00-{}-{SPAN}-01", trace(digit));
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        let outcome = agent.spawn(request).await.unwrap().into_inner().outcome;
        assert!(matches!(outcome, Some(v1::spawn_reply::Outcome::Ready(_))), "{outcome:?}");
    }
    for (digit, outcome) in [("a", ""), ("b", "joined")] {
        let spans = collector.trace(&trace(digit), |spans| has(spans, "start")).await;
        let start = one(&spans, "start");
        assert_eq!(
            (start.attribute("hatchery.outcome"), start.error.as_ref()),
            (outcome, None),
            "{start:#?}"
        );
    }
    farm.stops_one(&spawn).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_failure_of_the_hoops_server_interface_has_its_code_in_its_trace() {
    let scratch = tempfile::tempdir().unwrap();
    let (collector, moody) = (Collector::start().await, Moody::new(scratch.path()));
    let plan = AgentPlan::slots(1).executable(moody.executable());
    let builder = Farm::builder().door_args(&["--hoops-listen", "127.0.0.1:0"]).agent(plan);
    let farm = exporting(builder, &collector).start().await;
    moody.becomes(Mood::ExitsAtOnce);
    let hoops = farm.doors[0].hoops.expect("it listens");
    let body = json!({"class": "csr_session"});
    assert_eq!(recorded(hoops, ("POST", "/service"), "a", Some(&body)).await, 500);
    let spans = collector.trace(&trace("a"), |spans| spans.iter().any(|span| span.parent == SPAN)).await;
    let server = spans.iter().find(|span| span.parent == SPAN).unwrap();
    assert_eq!(
        (server.attribute("hatchery.code"), server.attribute("error.type")),
        ("spawn-failed", "spawn-failed"),
        "{server:#?}"
    );
    assert!(server.error.as_ref().is_some_and(|why| why.contains("license")), "{server:#?}");
    farm.finish().await;
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_a_collector_that_hangs() {
    let collector = Collector::hanging().await;
    let mut farm = exporting(Farm::builder().agent(AgentPlan::slots(1)), &collector).start().await;
    let first = farm.door(0).spawned(&json!({})).await;
    farm.stops_one(first["id"].as_str().unwrap()).await;
    let role = &mut farm.doors[0].role;
    role.signal(Signal::TERM);
    role.logs("\"message\":\"ended\"").await;
    role.signal(Signal::TERM);
    role.logs("the last spans are not waited for").await;
    let ended = tokio::time::timeout(Duration::from_secs(20), role.end()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
}
