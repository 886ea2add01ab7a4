//! Traces: one for each request that is sampled, from its caller to the agent, and none that costs anything else.

use std::os::unix::fs::symlink;
use std::time::Duration;

use hatchery_tests::role::hatchery;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Collector, Farm, FarmBuilder, Look, Mood, Moody, Traced, until};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

/// Exports there, and soon.
fn exporting(builder: FarmBuilder, url: &str) -> FarmBuilder {
    builder.env("OTEL_EXPORTER_OTLP_ENDPOINT", url).env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

async fn small(collector: &Collector, variables: &[(&str, &str)]) -> Farm {
    let mut builder = exporting(Farm::builder().agent(AgentPlan::slots(4)), &collector.url());
    for (name, value) in variables {
        builder = builder.env(name, value);
    }
    builder.start().await
}

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

fn named<'a>(spans: &'a [Traced], name: &str) -> Vec<&'a Traced> {
    let mut found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    found.sort_by_key(|span| span.times.0);
    found
}

fn one<'a>(spans: &'a [Traced], name: &str) -> &'a Traced {
    let found = named(spans, name);
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

fn are(spans: &[Traced], names: &[(&str, usize)]) -> bool {
    names.iter().all(|(name, count)| named(spans, name).len() == *count)
}

#[tokio::test]
async fn one_trace_leads_from_the_caller_through_the_line_and_two_attempts_to_ready() {
    let scratch = tempfile::tempdir().unwrap();
    let (collector, moody) = (Collector::start().await, Moody::new(scratch.path()));
    let builder =
        Farm::builder().agent(AgentPlan::slots(1).executable(moody.executable())).agent(AgentPlan::slots(1));
    let farm = exporting(builder, &collector.url()).start().await;
    let mut first = Vec::new();
    for _ in 0..2 {
        first.push(farm.door(0).spawned(&json!({})).await);
    }
    let on = |node: &str| id(first.iter().find(|answer| answer["node"] == node).unwrap());
    moody.becomes(Mood::ExitsAtOnce);
    let request = farm.door(0).post("/spawn").header("traceparent", &traceparent("01"));
    let request = request.header("tracestate", "vendor=x").json(&json!({"waitSeconds": 60}));
    let answer = tokio::spawn(request.send());
    farm.waiting(1).await;
    farm.stops_one(&on("node-a")).await;
    // It fails there, and is in line again for the other node.
    farm.agent("node-a").role.logs("invalid license").await;
    farm.waiting(1).await;
    farm.stops_one(&on("node-b")).await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let spawn = id(&answer.json());

    let counts =
        [("POST /spawn", 1), ("reserve", 2), ("line", 2), ("attempt", 2), ("start", 2), ("ready", 2)];
    let spans = collector.trace(TRACE, |spans| are(spans, &counts)).await;
    assert_eq!(spans.len(), 11, "{spans:#?}");
    let server = one(&spans, "POST /spawn");
    assert_eq!((server.parent.as_str(), server.kind, server.error.as_ref()), (SPAN, 2, None));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/spawn"),
        ("url.path", "/spawn"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
        ("hatchery.spawn.id", &spawn),
        ("hatchery.node.id", "node-b"),
        ("hatchery.request.id", answer.header("x-request-id").unwrap()),
    ] {
        assert_eq!(server.attribute(key), value, "{key}: {server:#?}");
    }
    for name in ["reserve", "line", "attempt"] {
        assert!(named(&spans, name).iter().all(|span| span.parent == server.id), "{name}: {spans:#?}");
    }
    for (at, (node, outcome)) in [("node-a", "spawn-failed"), ("node-b", "ready")].into_iter().enumerate() {
        let attempt = named(&spans, "attempt")[at];
        let (start, ready) = (named(&spans, "start")[at], named(&spans, "ready")[at]);
        assert_eq!(attempt.kind, 3, "{attempt:#?}");
        for (key, value) in
            [("hatchery.node.id", node), ("hatchery.attempt", ["1", "2"][at]), ("hatchery.outcome", outcome)]
        {
            assert_eq!(attempt.attribute(key), value, "{key}: {attempt:#?}");
        }
        for part in [start, ready] {
            assert_eq!(
                (part.parent.as_str(), part.service.as_str()),
                (attempt.id.as_str(), "hatchery-agent")
            );
            let spawn = attempt.attribute("hatchery.spawn.id");
            assert_eq!(
                (part.attribute("hatchery.spawn.id"), part.attribute("hatchery.node.id")),
                (spawn, node)
            );
            assert!(
                part.times.0 >= attempt.times.0 && part.times.1 <= attempt.times.1,
                "{part:#?} {attempt:#?}"
            );
        }
        assert!(start.error.is_none() && start.times.1 <= ready.times.0 + 1_000_000, "{start:#?} {ready:#?}");
        assert_eq!(attempt.error.is_some(), node == "node-a", "{attempt:#?}");
        assert_eq!(ready.error.is_some(), node == "node-a", "{ready:#?}");
    }
    let failed = named(&spans, "ready")[0];
    assert_eq!(
        (failed.attribute("hatchery.exit.reason"), failed.attribute("hatchery.exit.code")),
        ("failed", "6")
    );
    assert!(spans.iter().all(|span| span.state == "vendor=x"), "{spans:#?}");
    let door = spans.iter().filter(|span| !["start", "ready"].contains(&span.name.as_str()));
    assert!(door.into_iter().all(|span| span.service == "hatchery-frontdoor"), "{spans:#?}");
    farm.stop([spawn.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_while_in_line_has_a_trace_that_is_cut_short() {
    let collector = Collector::start().await;
    let builder = Farm::builder().agent(AgentPlan::slots(1));
    let farm = exporting(builder, &collector.url()).start().await;
    let first = id(&farm.door(0).spawned(&json!({})).await);
    for (digit, accept) in [("a", "application/json"), ("b", "text/event-stream")] {
        let trace = digit.repeat(32);
        let request = farm.door(0).post("/spawn").header("traceparent", &format!("00-{trace}-{SPAN}-01"));
        let connection = request.header("accept", accept).json(&json!({"waitSeconds": 60})).start().await;
        farm.waiting(1).await;
        drop(connection);
        let spans = collector.trace(&trace, |spans| are(spans, &[("POST /spawn", 1), ("line", 1)])).await;
        for name in ["POST /spawn", "line"] {
            let span = one(&spans, name);
            assert_eq!(span.attribute("error.type"), "cancelled", "{accept}: {span:#?}");
            assert!(span.error.is_some(), "{accept}: {span:#?}");
        }
        farm.waiting(0).await;
    }
    farm.stops_one(&first).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_refused_request_and_a_failed_start_have_error_status() {
    let scratch = tempfile::tempdir().unwrap();
    let (collector, moody) = (Collector::start().await, Moody::new(scratch.path()));
    let builder = Farm::builder().agent(AgentPlan::slots(1).executable(moody.executable()));
    let farm = exporting(builder, &collector.url()).start().await;
    moody.becomes(Mood::ExitsAtOnce);
    // The front door sees nothing wrong with the name.
    symlink("/etc/passwd", farm.mark().join("models/outside.scs")).unwrap();
    let ask = |trace: &str, body: Value| {
        let parent = format!("00-{trace}-{SPAN}-01");
        farm.door(0).post("/spawn").header("traceparent", &parent).json(&body).send()
    };
    let [failed, refused, model] = ["a", "b", "c"].map(|digit| digit.repeat(32));
    assert_eq!(ask(&failed, json!({})).await.status, 502);
    assert_eq!(ask(&refused, json!({"pool": "none"})).await.status, 503);
    assert_eq!(ask(&model, json!({"model": "outside.scs"})).await.status, 400);

    let spans = collector.trace(&failed, |spans| are(spans, &[("POST /spawn", 1), ("ready", 1)])).await;
    for name in ["POST /spawn", "attempt", "ready"] {
        let span = one(&spans, name);
        assert!(span.error.as_ref().is_some_and(|why| why.contains("license")), "{span:#?}");
    }
    assert_eq!(one(&spans, "POST /spawn").attribute("error.type"), "spawn-failed");
    assert_eq!(one(&spans, "ready").attribute("error.type"), "failed");
    let spans = collector.trace(&refused, |spans| are(spans, &[("POST /spawn", 1), ("reserve", 1)])).await;
    assert_eq!(one(&spans, "reserve").attribute("hatchery.outcome"), "no-match");
    let server = one(&spans, "POST /spawn");
    assert!(server.error.is_some(), "{server:#?}");
    assert_eq!(server.attribute("hatchery.code"), "no-matching-node");
    // The agent's refusal; the request itself is to blame, so the front door has done nothing wrong.
    let spans = collector.trace(&model, |spans| are(spans, &[("POST /spawn", 1), ("start", 1)])).await;
    assert_eq!(one(&spans, "start").attribute("error.type"), "bad-model");
    assert_eq!(one(&spans, "POST /spawn").error, None);
    farm.finish().await;
}

#[tokio::test]
async fn a_request_whose_traceparent_is_malformed_begins_a_trace_of_its_own() {
    let collector = Collector::start().await;
    let farm =
        small(&collector, &[("OTEL_SERVICE_NAME", "ours"), ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a%20b")])
            .await;
    let parent = format!("00-{}-{SPAN}-01", TRACE.to_uppercase());
    let answer = farm.door(0).post("/spawn").header("traceparent", &parent).json(&json!({})).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let spawn = id(&answer.json());
    let trace = until("a trace begins", TIMEOUT, async || {
        let spans = collector.spans();
        let server = spans.iter().find(|span| span.attribute("hatchery.spawn.id") == spawn && span.kind == 2);
        match server {
            Some(span) => Look::Ready(span.trace.clone()),
            None => Look::NotYet(format!("{spans:#?}")),
        }
    })
    .await;
    let spans = collector.trace(&trace, |spans| are(spans, &[("POST /spawn", 1), ("ready", 1)])).await;
    let server = one(&spans, "POST /spawn");
    assert!(server.parent.is_empty() && server.trace.to_uppercase() != TRACE.to_uppercase(), "{server:#?}");
    assert!(spans.iter().all(|span| span.service == "ours"), "{spans:#?}");
    assert!(collector.teams().iter().all(|team| team == "a b"), "{:?}", collector.teams());
    farm.stop([spawn.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn other_calls_have_a_span_and_probes_have_none_unless_their_caller_has() {
    let collector = Collector::start().await;
    let farm = small(&collector, &[]).await;
    assert_eq!(farm.door(0).get("/healthz").send().await.status, 200);
    let request = |path: &str| farm.door(0).get(path).header("traceparent", &traceparent("01"));
    assert_eq!(request("/healthz").send().await.status, 200);
    assert_eq!(request("/v1/nodes/nowhere").send().await.status, 404);
    let counts = [("GET /healthz", 1), ("GET /v1/nodes/{node}", 1)];
    let spans = collector.trace(TRACE, |spans| are(spans, &counts)).await;
    let shown = one(&spans, "GET /v1/nodes/{node}");
    assert_eq!((shown.attribute("http.response.status_code"), shown.error.as_ref()), ("404", None));
    let probes = collector.spans().iter().filter(|span| span.name == "GET /healthz").count();
    assert_eq!(probes, 1, "{:#?}", collector.spans());
    farm.finish().await;
}

#[tokio::test]
async fn a_ratio_of_0_exports_nothing_and_a_callers_decision_counts_before_it() {
    let collector = Collector::start().await;
    let variables = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    let farm = small(&collector, &variables).await;
    let mut spawns = vec![id(&farm.door(0).spawned(&json!({})).await)];
    for flags in ["00", "01"] {
        let request = farm.door(0).post("/spawn").header("traceparent", &traceparent(flags));
        let answer = request.json(&json!({})).send().await;
        spawns.push(id(&answer.json()));
    }
    let spans = collector.trace(TRACE, |spans| are(spans, &[("POST /spawn", 1), ("ready", 1)])).await;
    assert_eq!(one(&spans, "POST /spawn").attribute("hatchery.spawn.id"), spawns[2]);
    // What came before would be there by now.
    assert!(collector.spans().iter().all(|span| span.trace == TRACE), "{:#?}", collector.spans());
    assert_eq!(named(&collector.spans(), "POST /spawn").len(), 1);
    farm.stop(spawns.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_request_with_the_key_of_another_one_names_the_spawn_and_has_no_attempt() {
    let collector = Collector::start().await;
    let farm = small(&collector, &[]).await;
    let mut spawn = String::new();
    for digit in ["a", "b"] {
        let parent = format!("00-{}-{SPAN}-01", digit.repeat(32));
        let request =
            farm.door(0).post("/spawn").header("idempotency-key", "once").header("traceparent", &parent);
        spawn = id(&request.json(&json!({})).send().await.json());
    }
    let [first, second] = ["a", "b"].map(|digit| digit.repeat(32));
    let first = collector.trace(&first, |spans| are(spans, &[("POST /spawn", 1), ("ready", 1)])).await;
    let second = collector.trace(&second, |spans| are(spans, &[("POST /spawn", 1)])).await;
    assert_eq!(second.len(), 1, "{second:#?}");
    for spans in [&first, &second] {
        assert_eq!(one(spans, "POST /spawn").attribute("hatchery.spawn.id"), spawn);
    }
    farm.stop([spawn.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn spans_are_exported_over_http_too() {
    let collector = Collector::start().await;
    let variables =
        [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a%20b")];
    let farm = small(&collector, &variables).await;
    let request = farm.door(0).post("/spawn").header("traceparent", &traceparent("01"));
    let spawn = id(&request.json(&json!({})).send().await.json());
    let names = [("POST /spawn", 1), ("reserve", 1), ("attempt", 1), ("start", 1), ("ready", 1)];
    let spans = collector.trace(TRACE, |spans| are(spans, &names)).await;
    let service = |name: &str| one(&spans, name).service.as_str();
    assert_eq!((service("POST /spawn"), service("ready")), ("hatchery-frontdoor", "hatchery-agent"));
    assert!(collector.teams().iter().all(|team| team == "a b"), "{:?}", collector.teams());
    assert!(farm.doors[0].metrics().await.sum("hatchery_trace_spans_exported_total") > 0.0);
    farm.stop([spawn.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_collector_that_hangs_costs_spans_that_are_counted_and_no_request() {
    let collector = Collector::hanging().await;
    let variables = [("OTEL_BSP_MAX_QUEUE_SIZE", "4"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")];
    let farm = small(&collector, &variables).await;
    for _ in 0..10 {
        let began = Instant::now();
        let spawn = id(&farm.door(0).spawned(&json!({})).await);
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
        farm.stops_one(&spawn).await;
    }
    for metrics in [farm.doors[0].metrics().await, farm.agents[0].metrics().await] {
        let lost = metrics.sum("hatchery_trace_spans_lost_total");
        assert!(lost > 0.0, "nothing was counted");
    }
    farm.doors[0].role.logs("spans of traces were lost").await;
    let began = Instant::now();
    farm.finish().await;
    assert!(began.elapsed() < Duration::from_secs(20), "the end took {:?}", began.elapsed());
}

#[tokio::test]
async fn the_last_spans_are_sent_when_a_role_ends() {
    let collector = Collector::start().await;
    let farm = Farm::builder().agent(AgentPlan::slots(4));
    let farm = farm.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &collector.url());
    let farm = farm.env("OTEL_BSP_SCHEDULE_DELAY", "3600000").start().await;
    let request = farm.door(0).post("/spawn").header("traceparent", &traceparent("01"));
    let spawn = id(&request.json(&json!({})).send().await.json());
    farm.stops_one(&spawn).await;
    assert!(collector.spans().is_empty(), "it is not time yet");
    farm.finish().await;
    collector
        .trace(TRACE, |spans| are(spans, &[("POST /spawn", 1), ("attempt", 1), ("start", 1), ("ready", 1)]))
        .await;
}

#[tokio::test]
async fn a_spawns_record_leads_to_its_request_and_its_trace_also_under_the_next_agent() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    let first = id(&farm.door(0).spawned(&json!({})).await);
    let request = farm.door(0).post("/spawn").header("traceparent", &traceparent("00"));
    let request = request.header("x-request-id", "ours-2").json(&json!({"waitSeconds": 60}));
    let answer = tokio::spawn(request.send());
    farm.waiting(1).await;
    farm.stops_one(&first).await;
    let spawn = id(&answer.await.unwrap().json());
    let is_whole = |record: &Value| {
        let phases = &record["phases"];
        let [waited, reserved, sent] =
            ["waitedMs", "reservedMs", "sentMs"].map(|phase| phases[phase].as_u64().unwrap());
        assert!(waited > 0 && waited <= reserved && reserved <= sent, "{record}");
        assert_eq!((&record["requestId"], &record["traceId"]), (&json!("ours-2"), &json!(TRACE)), "{record}");
    };
    is_whole(&farm.record(&spawn).await);
    let shown = farm.run(&["show", &spawn]).await.stdout;
    for word in ["ours-2", TRACE, "asked", "in line", "reserved", "launching", "ready"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    farm.agent_mut("node-a").restart().await;
    assert!(farm.redis.flush().await, "it takes the order");
    let record = farm.reaches(&spawn, "ready", TIMEOUT).await;
    is_whole(&record);
    let first = farm.door(0).get("/v1/spawns").send().await.json();
    assert!(first["spawns"][0].get("requestId").is_none(), "{first}");
    farm.stops_one(&spawn).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_histogram_names_a_trace_of_its_bucket_to_scrapers_that_accept_it() {
    let collector = Collector::start().await;
    let farm = small(&collector, &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")]).await;
    let request = farm.door(0).post("/spawn").header("traceparent", &traceparent("01"));
    let traced = id(&request.json(&json!({})).send().await.json());
    let other = id(&farm.door(0).spawned(&json!({})).await);
    let exemplar = format!("# {{trace_id=\"{TRACE}\"}}");
    for (admin, histogram) in [
        (farm.doors[0].admin, "hatchery_frontdoor_spawn_total_seconds_bucket"),
        (farm.agents[0].admin, "hatchery_agent_start_to_ready_seconds_bucket"),
    ] {
        let open = admin.get("/metrics").header("accept", "application/openmetrics-text;version=1.0.0");
        let text = open.send().await.text();
        let found = text.lines().filter(|line| line.contains(" # {")).collect::<Vec<_>>();
        assert!(found.iter().any(|line| line.starts_with(histogram)), "{found:#?}");
        assert!(found.iter().all(|line| line.contains(&exemplar)), "{found:#?}");
        let plain = admin.get("/metrics").send().await.text();
        assert!(plain.contains(histogram) && !plain.contains(TRACE), "{plain}");
    }
    farm.stop([traced.as_str(), other.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn traces_are_off_unless_a_collector_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    for variables in [
        &[("OTEL_SERVICE_NAME", "x")][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_SDK_DISABLED", "true")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url), ("OTEL_TRACES_EXPORTER", "none")],
    ] {
        let mut builder = Farm::builder().agent(AgentPlan::slots(1));
        for (name, value) in variables {
            builder = builder.env(name, value);
        }
        let farm = builder.start().await;
        let request = farm.door(0).post("/spawn").header("traceparent", &traceparent("01"));
        let spawn = id(&request.json(&json!({})).send().await.json());
        farm.stops_one(&spawn).await;
        farm.finish().await;
    }
    let called = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(called.is_err(), "something has connected: {called:?}");
}

#[tokio::test]
async fn a_variable_that_is_not_understood_is_named_before_any_port_is_bound() {
    let scratch = tempfile::tempdir().unwrap();
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    for role in ["frontdoor", "agent", "dev"] {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317"),
        ] {
            let mut command = hatchery(scratch.path());
            command.arg(role).current_dir(scratch.path()).env(collector.0, collector.1);
            command.env("OTEL_TRACES_SAMPLER", "traceidratio").env(name, value);
            if role == "agent" {
                command.args(["--executable", "/bin/true", "--node", "a", "--state-dir", "state"]);
            }
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{role} {name}: {said}");
            assert!(said.contains(&format!("invalid {name}: expected ")), "{role}: {said}");
            assert!(output.stdout.is_empty(), "{role}: {output:?}");
        }
    }
}
