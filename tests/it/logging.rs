//! Log lines: what each of them says, and that it costs nothing where nothing reads it.

use hatchery_tests::{AgentPlan, Client, Farm, logs};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::json;

use super::repository::sources;

/// Requests between two looks at what was dropped, and all of them at the most: about four times what the pipe and the buffer take.
const ROUND: usize = 500;
const MAX_REQUESTS: usize = 20_000;

#[tokio::test]
async fn a_log_that_is_not_read_costs_lines_and_no_service() {
    let trace = ["--log", "trace"];
    let plan = AgentPlan::slots(2).args(&trace);
    let builder = Farm::builder().plain_log().unread_log().door_args(&trace).agent(plan);
    let mut farm = builder.start().await;
    let unknown = "/liveliness/01890a5d-ac96-774b-bcce-b302099a8057?liveliness=ping";
    // A long path makes a long line.
    let nothing = format!("/{}", "x-".repeat(2000));
    let dropped = async |role: Client| {
        let text = role.get("/metrics").send().await.text();
        let line = text.lines().find_map(|line| line.strip_prefix("hatchery_log_lines_dropped_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let mut requests = 0;
    while dropped(farm.doors[0].admin).await == 0 {
        assert!(requests < MAX_REQUESTS, "the front door drops nothing");
        for _ in 0..ROUND {
            assert_eq!(farm.door(0).get(&nothing).send().await.status, 404);
            assert_eq!(farm.agents[0].liveliness.post(unknown).send().await.status, 404);
        }
        requests += ROUND;
    }
    let spawn = farm.door(0).spawned(&json!({})).await;
    // An agent says less: all of it waits, and the count is there.
    dropped(farm.agents[0].admin).await;
    // Once somebody reads, one line says how much is missing.
    let said = farm.doors[0].role.read_on("log lines were dropped").await;
    assert!(said.contains("WARN") && said.contains("lines="), "{said}");
    farm.stop([spawn["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn every_line_about_a_spawn_names_its_request_and_its_trace_on_both_sides() {
    let (trace, request) = ("4bf92f3577b34da6a3ce929d0e0e4736", "ours-1");
    let farm = Farm::small(2).await;
    let parent = format!("00-{trace}-00f067aa0ba902b7-00");
    let ask = farm.door(0).post("/spawn").header("x-request-id", request).header("traceparent", &parent);
    let answer = ask.json(&json!({})).send().await;
    let spawn = answer.json()["id"].as_str().unwrap().to_owned();
    farm.stops_one(&spawn).await;
    let (door, agent) = (&farm.doors[0].role, &farm.agents[0].role);
    agent
        .logs_so("the end of the spawn", |log| {
            log.lines().any(|line| line.contains("spawn ended") && line.contains(&spawn))
        })
        .await;
    for role in [door, agent] {
        let log = role.logs(&spawn).await;
        let about =
            logs::lines(&role.name, &log).into_iter().filter(|line| line.to_string().contains(&spawn));
        let about: Vec<_> = about.collect();
        let ours = about.iter().filter(|line| line["requestId"] == request).count();
        assert!(ours >= 2, "{}: {about:#?}", role.name);
        for line in about {
            let id = line["requestId"].as_str().unwrap_or_default();
            assert!(!id.is_empty(), "{} has a line without a request: {line}", role.name);
            assert!(
                id != request || line["traceId"] == trace,
                "{} has a line without the trace: {line}",
                role.name
            );
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn refused_and_failed_spawns_are_warnings_that_say_what_was_asked() {
    let farm = Farm::builder().agent(AgentPlan::slots(1).executable("/bin/false")).start().await;
    assert_eq!(farm.door(0).spawn(&json!({"pool": "nowhere"})).await.status, 503);
    assert_eq!(farm.door(0).spawn(&json!({"rendererType": "ssr"})).await.status, 502);
    let (door, agent) = (&farm.doors[0].role, &farm.agents[0].role);
    let log =
        door.logs_so("both answers", |log| log.matches("request answered with an error").count() == 2).await;
    let lines = logs::lines("frontdoor-0", &log);
    let found = |message: &str, code: &str| {
        let line = lines.iter().find(|line| line["message"] == message && line["code"] == code);
        line.unwrap_or_else(|| panic!("{message} {code}: {lines:#?}")).clone()
    };
    let refused = found("request answered with an error", "no-matching-node");
    assert_eq!(refused["level"], "WARN");
    assert!(refused["asked"].as_str().unwrap().contains("nowhere"), "{refused}");
    for failed in
        [found("start failed", "spawn-failed"), found("request answered with an error", "spawn-failed")]
    {
        assert_eq!((&failed["level"], &failed["node.id"]), (&json!("WARN"), &json!("node-a")));
        assert!(failed["asked"].as_str().unwrap().contains("ssr"), "{failed}");
        assert!(failed["spawn.id"].is_string(), "{failed}");
    }
    assert!(found("request answered with an error", "spawn-failed")["took_us"].is_u64());
    agent.logs("spawn ended").await;
    farm.finish().await;
}

/// The fields of log macros that are given in Rust's debug form: a `?` where a value begins.
fn debug_forms(tokens: TokenStream) -> usize {
    const MACROS: [&str; 10] = [
        "trace",
        "debug",
        "info",
        "warn",
        "error",
        "trace_span",
        "debug_span",
        "info_span",
        "warn_span",
        "error_span",
    ];
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is =
        |at: usize, sign: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign);
    let mut count = 0;
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let called = match at.checked_sub(2).map(|before| &tokens[before]) {
            Some(TokenTree::Ident(name)) => is(at - 1, '!') && MACROS.contains(&name.to_string().as_str()),
            _ => false,
        };
        if called && group.delimiter() == Delimiter::Parenthesis {
            let fields: Vec<TokenTree> = group.stream().into_iter().collect();
            let sign = |at: usize, signs: [char; 2]| matches!(&fields[at], TokenTree::Punct(p) if signs.contains(&p.as_char()));
            let begins = |at: usize| at == 0 || sign(at - 1, [',', '=']);
            count += (0..fields.len()).filter(|at| sign(*at, ['?', '?']) && begins(*at)).count();
        }
        count += debug_forms(group.stream());
    }
    count
}

#[test]
fn no_field_of_a_log_line_is_in_rusts_debug_form() {
    assert_eq!(debug_forms("info!(?a, b = ?c, d = e?, \"text\"); f(g?, warn!(h = i))".parse().unwrap()), 2);
    let mut bad = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("crates/")) {
        let count = debug_forms(text.parse().unwrap_or_else(|error| panic!("{name}: {error}")));
        if count > 0 {
            bad.push(format!("{name}: {count}"));
        }
    }
    assert_eq!(bad, Vec::<String>::new());
}
