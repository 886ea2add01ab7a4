//! Front doors that cannot be reached, are not trusted, refuse, or have nodes that take no spawns.

use std::net::TcpListener;
use std::time::Duration;

use hatchery_tests::command::new_key;
use hatchery_tests::program::Program;
use hatchery_tests::{AgentPlan, Certs, Farm, Look, until, wait::TIMEOUT};
use serde_json::json;
use tokio::time::Instant;

use super::{SECRET, doctor, of_farm};
use crate::tls::another_door;

const DAY: i64 = 24 * 3600;

#[tokio::test]
async fn a_front_door_that_is_not_reached_or_not_trusted_is_said_with_the_step_that_fails() {
    let farm = Farm::small(1).await;
    let (certs, others) = (Certs::two_agents(&[]), Certs::two_agents(&[]));
    let soon = Certs::new(&["--frontdoor", "door=127.0.0.1", "--days", "10"]);
    let (role, door) = another_door(&farm, "by-tls", &certs.public_door("door")).await;
    let (role_of_soon, door_of_soon) = another_door(&farm, "expires", &soon.public_door("door")).await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (here, there) = (certs.path("ca.pem"), others.path("ca.pem"));
    let https = format!("https://{}", door.addr);
    let by_name = format!("https://localhost:{}", door.addr.port());
    let plain = format!("https://{}", farm.door(0).addr);
    let redis = format!("http://{}", farm.redis.addr());
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let soon_url = format!("https://{}", door_of_soon.addr);
    let soon_ca = soon.path("ca.pem");
    for (case, clock, args, expected) in [
        (
            "nothing listens",
            0,
            vec!["--server", "http://127.0.0.1:1"],
            ("front-door-tcp", "problem", "refused"),
        ),
        (
            "no such name",
            0,
            vec!["--server", "http://nowhere.invalid"],
            ("front-door-dns", "problem", "nowhere.invalid"),
        ),
        (
            "it is silent",
            0,
            vec!["--server", &silent_url, "--timeout", "500ms"],
            ("front-door", "problem", "500ms"),
        ),
        (
            "it is no front door",
            0,
            vec!["--server", &redis, "--timeout", "2s"],
            ("front-door", "problem", ""),
        ),
        ("it has no TLS", 0, vec!["--server", &plain], ("front-door-tls", "problem", "TLS")),
        (
            "an authority of its own",
            0,
            vec!["--server", &https],
            ("front-door-tls", "problem", "does not know"),
        ),
        (
            "another CA",
            0,
            vec!["--server", &https, "--ca", &there],
            ("front-door-tls", "problem", "not of the CA"),
        ),
        (
            "another name",
            0,
            vec!["--server", &by_name, "--ca", &here],
            ("front-door-tls", "problem", "not for localhost"),
        ),
        (
            "expired",
            400 * DAY,
            vec!["--server", &https, "--ca", &here],
            ("front-door-tls", "problem", "expired"),
        ),
        (
            "not valid yet",
            -10 * DAY,
            vec!["--server", &https, "--ca", &here],
            ("front-door-tls", "problem", "not valid yet"),
        ),
        (
            "expires soon",
            0,
            vec!["--server", &soon_url, "--ca", &soon_ca],
            ("front-door-tls", "warning", "expires in "),
        ),
        ("good", 0, vec!["--server", &https, "--ca", &here], ("front-door-tls", "ok", "expires in")),
    ] {
        let began = Instant::now();
        let program = Program { clock, ..Program::default() };
        doctor(&program, farm.mark(), &[], &args).await.expect(case, expected);
        assert!(began.elapsed() < Duration::from_secs(30), "{case} takes too long");
    }
    drop((role, role_of_soon));
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_and_a_node_with_another_time_are_noticed() {
    let plans = [AgentPlan::slots(1), AgentPlan::slots(1).clock(-300)];
    let mut farm = plans.into_iter().fold(Farm::builder(), hatchery_tests::FarmBuilder::agent).start().await;
    farm.doors[0].restart_at(240).await;
    let said = of_farm(&farm, &[]).await;
    said.expect("a clock", ("clock", "problem", "the clock of the front door is"));
    said.expect("a node's clock", ("clock", "problem", "the clock of node node-b is"));
    said.expect("the other node's", ("clock", "ok", "the clocks of 1 node"));
    assert!(said.has("clock", "ok", "the registry"), "Redis has this machine's: {:#?}", said.findings);
    farm.finish().await;
}

#[tokio::test]
async fn a_credential_is_said_to_be_good_with_its_scopes_or_not() {
    let farm = Farm::builder().agent(AgentPlan::slots(1)).keys().start().await;
    let keys = farm.mark().join("keys");
    let server = format!("http://{}", farm.door(0).addr);
    let expected = [
        ("", ("credential", "problem", "no credential")),
        ("hatchery_x_hush", ("credential", "problem", "refused")),
        ("spawn", ("credential", "warning", "its scopes: spawn")),
        ("read", ("credential", "ok", "its scopes: read")),
        ("spawn,read", ("credential", "ok", "its scopes: spawn, read")),
        ("operate", ("credential", "ok", "its scopes: read, operate")),
    ];
    for (scopes, expected) in expected {
        let token = match scopes {
            "" => String::new(),
            other if other.contains(SECRET) => other.to_owned(),
            scopes => new_key(farm.mark(), &keys, &["--scope", scopes]),
        };
        let program = Program::default();
        // A front door reads its keys again within a second or two.
        let said = until(&format!("doctor says {expected:?}"), TIMEOUT, async || {
            let env = [("HATCHERY_SERVER", server.as_str()), ("HATCHERY_TOKEN", token.as_str())];
            let said = doctor(&program, farm.mark(), &env, &[]).await;
            if said.has(expected.0, expected.1, expected.2) {
                Look::Ready(said)
            } else {
                Look::NotYet(format!("{said:?}"))
            }
        })
        .await;
        let shown = format!("{:?}", said.ran);
        assert!(token.is_empty() || !shown.contains(&token), "{shown}");
    }
    assert!(farm.processes().is_empty(), "nothing was started to find out");
    farm.finish().await;
}

#[tokio::test]
async fn nodes_that_take_no_spawns_are_named_and_a_farm_without_room_is_a_problem() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(1)).agent(AgentPlan::slots(1)).start().await;
    let order = async |farm: &Farm, path: &str| {
        let answer = farm.door(0).post(path).json(&json!({})).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    order(&farm, "/v1/nodes/node-b/cordon").await;
    let said = of_farm(&farm, &[]).await;
    said.expect("a cordon", ("nodes", "warning", "node-b is cordoned"));
    assert_eq!(said.ran.code, 0, "a warning alone");
    let spawn = farm.door(0).spawned(&json!({})).await;
    let said = of_farm(&farm, &[]).await;
    said.expect("full", ("capacity", "problem", "every node is full: 1 of 1 slot"));
    farm.stop([spawn["id"].as_str().unwrap()]).await;
    order(&farm, "/v1/nodes/node-a/cordon").await;
    of_farm(&farm, &[]).await.expect("all closed", ("capacity", "problem", "none of 2 nodes"));
    order(&farm, "/v1/nodes/node-a/uncordon").await;
    farm.agent_mut("node-b").role.kill();
    for (level, words) in [("warning", "node-b is stale"), ("problem", "node-b is down")] {
        until(&format!("doctor says that {words}"), TIMEOUT, async || {
            let said = of_farm(&farm, &[]).await;
            Look::when(said.has("nodes", level, words), || format!("{said:?}"))
        })
        .await;
    }
    farm.redis.kill();
    until("doctor says that the registry is away", TIMEOUT, async || {
        let said = of_farm(&farm, &[]).await;
        Look::when(said.has("front-door", "problem", "its registry is away"), || format!("{said:?}"))
    })
    .await;
}
