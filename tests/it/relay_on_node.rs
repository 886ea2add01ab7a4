//! Viewers reach the servers of a node through its own relay, by mutual TLS, and no other way.

use std::process::{Command, Stdio};

use hatchery_tests::certs::{Certs, curl};
use hatchery_tests::node_relay::{NodeRelay, NodeRelayPorts};
use hatchery_tests::role::{Role, clients};
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, Viewer, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::relay::{ends_by_itself, is_refused, refusal, spawn, through};
use crate::tls::words;

/// Asks for a WebSocket, and hangs up after a moment.
const HANDSHAKE: [&str; 11] = [
    "--http1.1",
    "-H",
    "connection: upgrade",
    "-H",
    "upgrade: websocket",
    "-H",
    "sec-websocket-version: 13",
    "-H",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    "--max-time",
    "2",
];
const REFUSED: &str = "a connection was refused (logged once)";

fn certs() -> Certs {
    Certs::two_agents(&["--relay", "node-a=127.0.0.1", "--relay", "node-b=127.0.0.1"])
}

/// A farm whose node is reached through its relay, which does not run yet.
async fn farm_of(certs: &Certs, ports: &NodeRelayPorts, door_args: &[&str]) -> Farm {
    let flags = [certs.agent("node-a"), vec!["--viewer-relay".to_owned(), ports.address()]].concat();
    let plan = AgentPlan::slots(4).args(&words(&flags));
    let door = certs.door("door");
    let door = [&["--public-url", "http://viewers.example.com"], &words(&door)[..], door_args].concat();
    Farm::builder().door_args(&door).agent(plan).start().await
}

/// The same with the relay, which knows its agent from the registry.
async fn farm(certs: &Certs, door_args: &[&str]) -> (Farm, NodeRelay) {
    let ports = NodeRelayPorts::take();
    let farm = farm_of(certs, &ports, door_args).await;
    let url = farm.redis.url();
    let relay = ports.start(farm.mark(), certs, "node-a", &["--farm", "test", "--registry", &url]).await;
    (farm, relay)
}

/// The same with a relay that needs no registry.
async fn farm_without_registry_at_the_relay(certs: &Certs) -> (Farm, NodeRelay) {
    let ports = NodeRelayPorts::take();
    let farm = farm_of(certs, &ports, &[]).await;
    let agent = format!("https://{}", farm.agent("node-a").flag("--listen"));
    let relay = ports.start(farm.mark(), certs, "node-a", &["--agent", &agent]).await;
    (farm, relay)
}

#[tokio::test]
async fn a_viewer_sees_moving_pictures_through_the_relay_of_its_node() {
    let certs = certs();
    let (farm, relay) = farm(&certs, &[]).await;
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    assert_eq!(node["viewerRelay"], relay.address(), "{node}");
    let (id, endpoint) = spawn(&farm, json!({"rendererType": "ssr", "sessionToken": "tok-9f3"})).await;
    let url = through(farm.door(0), &endpoint);
    is_refused(&format!("{url}0"), 404, "not-found").await;
    let mut viewer = Viewer::server_side(&format!("{url}?and=query")).await;
    assert_eq!(viewer.protocol(), Some("binary"), "the server's own answer");
    let own = ["upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol"];
    let strange = viewer.response.headers().keys().find(|name| name.as_str().starts_with("hatchery"));
    assert!(strange.is_none() && own.iter().all(|name| viewer.response.headers().contains_key(*name)));
    viewer.render(Some("tok-9f3")).await;
    assert_eq!(viewer.receive().await[0], 0x7b, "an event");
    let first = viewer.receive_picture().await;
    assert_ne!(viewer.receive_picture().await, first, "it moves");
    is_refused(&url, 409, "already-connected").await;
    let record = farm.reaches(&id, "ready", TIMEOUT).await;
    until("the viewer is known", TIMEOUT, async || {
        let record = farm.record(&id).await;
        Look::when(record["viewer"] == "connected" && record["connectedAt"].is_string(), || {
            record.to_string()
        })
    })
    .await;
    assert_eq!(record["endpoint"], endpoint);
    let output = std::fs::read_to_string(farm.agents[0].output_file(&id)).unwrap_or_default();
    assert!(!output.contains("hatchery-relay"), "the server has seen what is between the relays: {output}");
    for metrics in [farm.doors[0].metrics().await, relay.metrics().await] {
        assert_eq!(metrics.get("hatchery_frontdoor_relay_viewers"), Some(1.0));
        for reason in ["not-found", "already-connected"] {
            let series = format!("hatchery_frontdoor_relay_refused_total{{reason=\"{reason}\"}}");
            assert_eq!(metrics.get(&series), Some(1.0), "{reason}");
        }
    }
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    let token = endpoint.rsplit('/').next().unwrap();
    for log in [farm.doors[0].role.log(), relay.role.log(), farm.agents[0].role.log()] {
        assert!(!log.contains(token), "{log}");
    }
    relay.stop().await;
    farm.finish().await;
}

#[tokio::test]
async fn frames_of_many_megabytes_pass_two_relays_and_a_viewer_that_leaves_frees_its_slot() {
    let certs = certs();
    let (farm, relay) = farm(&certs, &[]).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.send(Message::binary(vec![b' '; 6 << 20])).await;
    viewer.still_watches().await;
    until("it is counted at both", TIMEOUT, async || {
        let series = "hatchery_frontdoor_relay_passed_bytes_total{direction=\"up\"}";
        let [door, node] = [farm.doors[0].metrics().await, relay.metrics().await].map(|m| m.get(series));
        let all = [door, node].iter().all(|up| up.is_some_and(|up| up > f64::from(6 << 20)));
        Look::when(all, || format!("{door:?} {node:?}"))
    })
    .await;
    drop(viewer);
    ends_by_itself(&farm, &id).await;
    relay.stop().await;
    farm.finish().await;
}

#[tokio::test]
async fn strangers_get_nothing_from_the_relay_of_a_node_and_it_knows_its_own_node_alone() {
    let certs = certs();
    let others = Certs::new(&["--frontdoor", "door=127.0.0.1"]);
    let (farm, relay) = farm(&certs, &[]).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let base = format!("https://{}", relay.address());
    let path = &through(farm.door(0), &endpoint)[format!("ws://{}", farm.door(0).addr).len()..];
    let ca = certs.file("ca.pem");
    let call = async |pair: Option<(&Certs, &str)>, path: &str| {
        let pair = pair.map(|(certs, name)| ["pem", "key"].map(|end| certs.path(&format!("{name}.{end}"))));
        let mut args = HANDSHAKE.to_vec();
        if let Some([pem, key]) = &pair {
            args.extend(["--cert", pem, "--key", key]);
        }
        curl(&format!("{base}{path}"), Some(&ca), &args).await
    };
    for (what, pair) in [
        ("nothing", None),
        ("a front door's of another farm", Some((&others, "door"))),
        ("an agent's", Some((&certs, "node-a"))),
        ("another agent's", Some((&certs, "node-b"))),
    ] {
        for path in [path, "/healthz"] {
            let refused = call(pair, path).await;
            assert_eq!(refused.status, 0, "{what}: {refused:?}");
        }
    }
    let metrics = relay.metrics().await;
    assert_eq!(metrics.get("hatchery_frontdoor_relay_viewers"), Some(0.0));
    for pair in ["door", "node-b.relay"] {
        let other = path.replace("/s/node-a/", "/s/node-b/");
        let refused = call(Some((&certs, pair)), &other).await;
        assert_eq!(refused.status, 404, "{pair}: {refused:?}");
    }
    let met = call(Some((&certs, "door")), path).await;
    assert_eq!(met.status, 101, "{met:?}");
    ends_by_itself(&farm, &id).await;
    relay.stop().await;
    farm.finish().await;
}

/// A relay that could not be reached rests for a moment; then it is tried again.
async fn is_tried(url: &str) -> Value {
    until("the relay is tried again", TIMEOUT, async || {
        let problem = refusal(url).await;
        let rests = problem["detail"].as_str().unwrap().contains("a moment ago");
        Look::when(!rests, || problem.to_string()).and(problem)
    })
    .await
}

/// A viewer, once the relay does not rest any more.
#[tokio::test]
async fn a_node_with_a_relay_is_reached_through_that_relay_alone() {
    let certs = certs();
    let ports = NodeRelayPorts::take();
    let farm = farm_of(&certs, &ports, &[]).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let url = through(farm.door(0), &endpoint);
    let registry = ["--farm", "test", "--registry", &farm.redis.url()].map(str::to_owned);
    let registry = words(&registry);
    // Nothing listens there; a relay without TLS; one that shows a front door's certificate; the relay of another node.
    is_refused(&url, 503, "node-unreachable").await;
    let (door, other) = (certs.public_door("door")[..4].to_vec(), certs.agent("node-b.relay"));
    for (name, flags) in [
        ("plain", Vec::new()),
        ("door", words(&door)),
        ("other", [&["--node", "node-b"], &words(&other)[..]].concat()),
    ] {
        let args = ports.args(&[&flags[..], &registry[..]].concat());
        let mut impostor = Role::start(name, farm.mark(), &args);
        impostor.announcement().await;
        let problem = is_tried(&url).await;
        assert_eq!(problem["code"], "node-unreachable", "{problem}");
        let metrics = clients(impostor.said().trim_end())[1].get("/metrics").send().await.text();
        assert!(!metrics.contains("hatchery_frontdoor_relay_refused_total{"), "{name} was asked: {metrics}");
    }
    let log = farm.doors[0].role.logs("spiffe://hatchery/relay/node-b").await;
    assert!(log.contains("spiffe://hatchery/frontdoor") && log.contains(REFUSED), "{log}");
    let refused = "hatchery_tls_peers_refused_total{peer=\"relay\",reason=\"other-node\"}";
    assert_eq!(farm.doors[0].metrics().await.get(refused), Some(1.0));
    let all = farm.doors[0].metrics().await.get("hatchery_frontdoor_relay_refused_total{reason=\"relay\"}");
    assert!(all.is_some_and(|all| all >= 4.0), "{all:?}");

    // A relay without a certificate of its own says what it lacks, once.
    let args = ["relay", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let args: Vec<String> = args.iter().chain(&registry).map(|arg| (*arg).to_owned()).collect();
    let mut bare = Role::start("bare", farm.mark(), &args);
    let bare_http = clients(&bare.announcement().await)[0];
    for _ in 0..3 {
        let problem = refusal(&through(bare_http, &endpoint)).await;
        assert_eq!(problem["code"], "node-unreachable", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("--tls-client-ca"), "{problem}");
    }
    let log = bare.logs("takes --tls-client-ca").await;
    assert_eq!(log.matches("takes --tls-client-ca").count(), 1, "{log}");
    drop(bare);

    // None of it has cost the spawn its only viewer.
    let relay = ports.start(farm.mark(), &certs, "node-a", &registry).await;
    let mut viewer = Viewer::connected(&url).await;
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    relay.stop().await;
    farm.finish().await;
}

#[tokio::test]
async fn certificates_of_both_relays_are_renewed_under_a_viewer() {
    let certs = certs();
    let (farm, relay) = farm(&certs, &[]).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.still_watches().await;
    let renewed = certs.more(&["--relay", "node-a=127.0.0.1", "--frontdoor", "door=127.0.0.1", "--renew"]);
    assert!(renewed.status.success(), "{renewed:?}");
    for role in [&relay.role, &farm.doors[0].role] {
        // For calls to agents, and for the other relay.
        let again = "certificates were read again";
        role.logs_so("both of its uses", |log| log.matches(again).count() >= 2).await;
    }
    viewer.still_watches().await;
    let (other, others) = spawn(&farm, json!({})).await;
    let mut second = Viewer::client_side(&through(farm.door(0), &others)).await;
    second.still_watches().await;
    viewer.leave().await;
    second.leave().await;
    ends_by_itself(&farm, &id).await;
    ends_by_itself(&farm, &other).await;
    relay.stop().await;
    farm.finish().await;
}

#[tokio::test]
async fn the_relay_of_a_node_is_replaced_while_redis_is_away_and_cuts_no_viewer() {
    let certs = certs();
    let (mut farm, mut relay) = farm_without_registry_at_the_relay(&certs).await;
    let (first, endpoint) = spawn(&farm, json!({})).await;
    let (second, later) = spawn(&farm, json!({})).await;
    let mut stays = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    stays.still_watches().await;
    farm.redis.kill();
    let mut old = relay.replace().await;
    let mut comes = Viewer::client_side(&through(farm.door(0), &later)).await;
    comes.still_watches().await;
    stays.still_watches().await;
    assert!(old.exited().is_none(), "it has a viewer");
    is_refused(&through(farm.door(0), &later), 409, "already-connected").await;
    farm.redis.restart().await;
    stays.leave().await;
    comes.leave().await;
    for id in [first, second] {
        ends_by_itself(&farm, &id).await;
    }
    until("the old process ends after its last viewer", TIMEOUT, async || {
        Look::when(old.exited().is_some(), || "it runs".to_owned())
    })
    .await;
    relay.stop().await;
    farm.finish().await;
}

#[tokio::test]
async fn the_relay_of_a_node_is_ready_while_its_agent_can_be_asked() {
    let certs = certs();
    let (mut farm, relay) = farm_without_registry_at_the_relay(&certs).await;
    let is = async |status: u16, state: &str| {
        until(&format!("/readyz answers {status}"), TIMEOUT, async || {
            let ready = relay.admin().get("/readyz").send().await;
            let dependencies = ready.json()["dependencies"].clone();
            let as_it_is = ready.status == status && dependencies["agent"]["state"] == state;
            Look::when(as_it_is && dependencies.get("registry").is_none(), || format!("{ready:?}"))
        })
        .await;
    };
    is(200, "up").await;
    // It asks no registry, so it does not mind.
    farm.redis.kill();
    is(200, "up").await;
    farm.redis.restart().await;
    farm.agents[0].role.kill();
    is(503, "away").await;
    let problem = relay.admin().get("/readyz").send().await.json();
    assert_eq!(problem["code"], "node-unreachable", "{problem}");
    assert!(problem["dependencies"]["agent"]["detail"].is_string(), "{problem}");
    farm.agents[0].restart().await;
    is(200, "up").await;
    relay.stop().await;
    farm.finish().await;
}

#[tokio::test]
async fn whatever_of_the_two_relays_is_killed_the_slot_comes_back_and_a_server_that_ends_closes_its_viewer() {
    let certs = certs();
    let (mut farm, mut relay) = farm(&certs, &[]).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.still_watches().await;
    farm.stop([id.as_str()]).await;
    viewer.closed().await;
    farm.ends(&id).await;

    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.still_watches().await;
    farm.doors[0].role.kill();
    farm.doors[0].restart().await;
    ends_by_itself(&farm, &id).await;

    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.still_watches().await;
    relay.role.kill();
    viewer.closed().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_viewer_of_two_relays_that_vanishes_is_noticed_and_an_idle_one_stays() {
    let certs = certs();
    let (farm, relay) = farm(&certs, &["--relay-ping-interval", "200ms"]).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.greet().await;
    // Reading is what answers pings here.
    assert!(!viewer.is_closed_within(std::time::Duration::from_secs(4)).await);
    viewer.still_watches().await;
    // From here on nothing is read, and so no ping answered.
    ends_by_itself(&farm, &id).await;
    until("it is counted", TIMEOUT, async || {
        let series = "hatchery_frontdoor_relay_ended_total{reason=\"vanished\"}";
        let metrics = farm.doors[0].metrics().await;
        Look::when(metrics.get(series) == Some(1.0), || format!("{:?}", metrics.get(series)))
    })
    .await;
    drop(viewer);
    relay.stop().await;
    farm.finish().await;
}

#[tokio::test]
async fn the_relay_of_a_node_notices_a_front_door_that_stands_still() {
    let certs = certs();
    let (farm, relay) = farm(&certs, &["--relay-ping-interval", "200ms"]).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.still_watches().await;
    farm.doors[0].role.signal(Signal::STOP);
    until("it is noticed", TIMEOUT, async || {
        let series = "hatchery_frontdoor_relay_ended_total{reason=\"vanished\"}";
        let metrics = relay.metrics().await;
        Look::when(metrics.get(series) == Some(1.0), || format!("{:?}", metrics.get(series)))
    })
    .await;
    farm.doors[0].role.signal(Signal::CONT);
    ends_by_itself(&farm, &id).await;
    viewer.closed().await;
    relay.stop().await;
    farm.finish().await;
}

/// The certificate that is shown at this address, in PEM.
fn shown_at(address: &str) -> String {
    let args = ["s_client", "-connect", address, "-servername", "door"];
    let ran = Command::new("openssl").args(args).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let begin = said.find("-----BEGIN").unwrap_or_else(|| panic!("{said}"));
    said[begin..].split_inclusive("-----END CERTIFICATE-----").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_relay_serves_viewers_by_tls_and_takes_up_a_new_certificate_at_once() {
    let certs = certs();
    let plan = AgentPlan::slots(2).args(&["--endpoint", "ws://viewers.example.com/s/{node}/{id}/{token}"]);
    let farm = Farm::builder().agent(plan).start().await;
    let pair = certs.public_door("door");
    let args = ["relay", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--farm", "test"];
    let url = farm.redis.url();
    let args = [&args[..], &words(&pair)[..4], &["--registry", &url]].concat();
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let mut relay = Role::start("relay", farm.mark(), &args);
    let line = relay.announcement().await;
    assert!(line.starts_with("relay listening on https://"), "{line}");
    let address = clients(&line)[0].addr.to_string();
    let ca = certs.file("ca.pem");
    for renewed in [false, true] {
        if renewed {
            assert!(certs.more(&["--frontdoor", "door=127.0.0.1", "--renew"]).status.success());
            relay.logs("certificates were read again").await;
        }
        let own = std::fs::read_to_string(certs.file("door.pem")).unwrap();
        assert_eq!(shown_at(&address), own.trim_end());
        let (id, endpoint) = spawn(&farm, json!({})).await;
        let path = endpoint.strip_prefix("ws://viewers.example.com").unwrap();
        let met = curl(&format!("https://{address}{path}"), Some(&ca), &HANDSHAKE).await;
        assert_eq!(met.status, 101, "{met:?}");
        ends_by_itself(&farm, &id).await;
    }
    relay.signal(Signal::TERM);
    assert!(relay.end().await.success());
    farm.finish().await;
}
