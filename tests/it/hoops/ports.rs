//! `--hoops-endpoint port`: for consumers that keep nothing but the port.

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, Viewer, until};
use rustix::process::Signal;
use serde_json::json;

use super::proxy::{handshake, says};
use super::{builder, ends_by_itself, farm, hoops, service, spawns, stopped};

const PORT: [&str; 2] = ["--hoops-endpoint", "port"];

/// The port of an endpoint that is no more than host and port.
fn port(endpoint: &str) -> &str {
    let parts: Vec<&str> = endpoint.split(':').collect();
    let [_, _, port] = parts[..] else { panic!("{endpoint}") };
    assert!(port.bytes().all(|byte| byte.is_ascii_digit()), "{endpoint}");
    port
}

#[tokio::test]
async fn a_port_leads_to_its_spawn_below_every_prefix_through_any_front_door() {
    let farm = builder(&PORT).doors(2).agent(AgentPlan::slots(4)).agent(AgentPlan::slots(4)).start().await;
    for (door, path) in
        [(0, "/wsproxy/"), (1, "/ws/"), (0, "/streaming/"), (1, "/WSPROXY/"), (0, "/ws/")].into_iter()
    {
        let (id, endpoint) = service(farm.doors[0].hoops.unwrap(), json!({})).await;
        let own = farm.process(&id).unwrap().option("--sc-port").unwrap().to_owned();
        assert_eq!(port(&endpoint), own);
        let through = farm.doors[door].hoops.unwrap();
        let mut viewer = Viewer::client_side(&format!("ws://{}{path}{own}", through.addr)).await;
        viewer.still_watches().await;
        assert_eq!(spawns(&farm).await[0]["id"], json!(id), "no other spawn was started");
        viewer.leave().await;
        ends_by_itself(&farm, &id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn the_prefixes_are_those_that_the_operator_names() {
    let farm = farm(2, &[&PORT[..], &["--hoops-port-prefix", "viewers"]].concat()).await;
    let client = hoops(&farm);
    let (id, endpoint) = service(client, json!({})).await;
    let url = format!("ws://{}/viewers/{}/more?and=query", client.addr, port(&endpoint));
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    assert_eq!(spawns(&farm).await.len(), 1);
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_port_without_a_spawn_leads_nowhere_and_starts_none() {
    let farm = farm(2, &PORT).await;
    let client = hoops(&farm);
    for path in ["/ws/1", "/ws/65535", "/ws/0", "/ws/x", "/ws/", "/Streaming/99999", "/wsproxy/-1"] {
        let said = says(client, &handshake(path, "")).await;
        assert!(said.starts_with("HTTP/1.1 404 Not Found"), "{path}: {said}");
    }
    assert_eq!(client.get("/ws/1").send().await.status, 404);
    assert!(spawns(&farm).await.is_empty());
    // A spawn that was not started so has another URL: its port is not for everybody.
    let other = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    stopped(&farm, &other).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_whose_url_has_a_token_cannot_be_reached_by_its_port() {
    let args = [&PORT[..], &["--public-url", "http://farm.example.com"]].concat();
    let farm = farm(2, &args).await;
    let client = hoops(&farm);
    let id = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let own = farm.process(&id).unwrap().option("--sc-port").unwrap().to_owned();
    let said = says(client, &handshake(&format!("/ws/{own}"), "")).await;
    assert!(said.starts_with("HTTP/1.1 404 "), "{said}");
    let (second, endpoint) = service(client, json!({})).await;
    assert_eq!(endpoint, format!("ws://farm.example.com:{}", port(&endpoint)));
    farm.stop([id.as_str(), &second]).await;
    farm.finish().await;
}

#[tokio::test]
async fn without_it_ports_lead_nowhere() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    let (id, endpoint) = service(client, json!({})).await;
    let said = says(client, &handshake(&format!("/wsproxy/{}", port(&endpoint)), "")).await;
    assert!(said.starts_with("HTTP/1.1 404 ") && said.contains("--hoops-endpoint"), "{said}");
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_second_viewer_gets_neither_the_spawn_nor_another() {
    let farm = builder(&PORT).agent(AgentPlan::slots(1).ports(1)).start().await;
    let client = hoops(&farm);
    let (id, endpoint) = service(client, json!({})).await;
    let path = format!("/ws/{}", port(&endpoint));
    let url = format!("ws://{}{path}", client.addr);
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    let second = says(client, &handshake(&path, "")).await;
    assert!(second.starts_with("HTTP/1.1 409 "), "{second}");
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    let stale = says(client, &handshake(&path, "")).await;
    assert!(stale.starts_with("HTTP/1.1 404 "), "{stale}");
    // The same port again, for somebody else: good for one viewer, as ever.
    let (next, again) = service(client, json!({})).await;
    assert_eq!(again, endpoint);
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &next).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_that_has_had_its_viewer_takes_no_other() {
    let plan = AgentPlan::slots(1).env("SC_SIM_IGNORE_TERM", "1");
    let farm = builder(&PORT).agent(plan).start().await;
    let client = hoops(&farm);
    let body = json!({"params": {"sessionToken": "sim:disconnect_no_exit=1"}});
    let (id, endpoint) = service(client, body).await;
    let path = format!("/ws/{}", port(&endpoint));
    let mut viewer = Viewer::client_side(&format!("ws://{}{path}", client.addr)).await;
    viewer.open_model("sim:disconnect_no_exit=1").await;
    viewer.leave().await;
    // Whatever its state is by now, it is nobody else's.
    let stale = says(client, &handshake(&path, "")).await;
    assert!(stale.starts_with("HTTP/1.1 404 "), "{stale}");
    farm.stop([id.as_str()]).await;
    farm.ends(&id).await;
    farm.finish().await;
}

/// Two nodes on one machine whose ranges are the same: the second finds a port taken and uses the next, so one of them has to be
/// made to give up its port while the other still stands in the registry.
#[tokio::test]
async fn two_nodes_with_the_same_port_lead_nowhere_and_the_log_says_so() {
    let block = hatchery_tests::ports::Block::take();
    let range = block.range(1);
    let plan = || AgentPlan::slots(1).port_range(range.clone());
    let mut farm = builder(&PORT).agent(plan()).agent(plan()).start().await;
    let client = hoops(&farm);
    let (first, endpoint) = service(client, json!({})).await;
    let path = format!("/ws/{}", port(&endpoint));
    let node = farm.record(&first).await["node"].as_str().unwrap().to_owned();
    // Its agent and its process are gone at once, and nobody has said so yet.
    farm.agent(&node).role.signal(Signal::STOP);
    let pid = farm.process(&first).unwrap().pid;
    hatchery_tests::processes::signal(pid, Signal::KILL);
    let (second, again) = until("the other node takes the port", TIMEOUT, async || {
        let response = client.post("/service").send().await;
        if response.status == 200 {
            Look::Ready(super::ok(&response))
        } else {
            Look::NotYet(format!("{response:?}"))
        }
    })
    .await;
    assert_eq!(port(&again), port(&endpoint));
    let refused = says(client, &handshake(&path, "")).await;
    assert!(refused.starts_with("HTTP/1.1 409 Conflict: spawns of several nodes"), "{refused}");
    farm.doors[0].role.logs("their --ports overlap").await;
    let metrics = farm.doors[0].metrics().await;
    assert_eq!(metrics.get("hatchery_frontdoor_hoops_overlapping_ports"), Some(1.0));
    assert_eq!(metrics.get("hatchery_frontdoor_hoops_ports_refused_total{reason=\"ambiguous\"}"), Some(1.0));
    farm.agent(&node).role.signal(Signal::CONT);
    farm.reaches(&first, "exited", TIMEOUT).await;
    let mut viewer = Viewer::client_side(&format!("ws://{}{path}", client.addr)).await;
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &second).await;
    farm.agent_mut(&node);
    farm.finish().await;
}

#[tokio::test]
async fn ports_lead_on_while_redis_is_away_and_after_an_agent_was_replaced() {
    let mut farm = farm(2, &PORT).await;
    let client = hoops(&farm);
    let (first, one) = service(client, json!({})).await;
    let (second, other) = service(client, json!({})).await;
    client.json("/api/status").await;
    farm.redis.kill();
    let url = |endpoint: &str| format!("ws://{}/streaming/{}", client.addr, port(endpoint));
    let mut viewer = Viewer::client_side(&url(&one)).await;
    viewer.still_watches().await;
    farm.redis.restart().await;
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &first).await;
    farm.agents[0].role.kill();
    farm.agents[0].restart().await;
    let mut viewer = until("the next agent lets it in", TIMEOUT, async || {
        match Viewer::connect(&url(&other), None).await {
            Ok(viewer) => Look::Ready(viewer),
            Err(error) => Look::NotYet(error.to_string()),
        }
    })
    .await;
    viewer.still_watches().await;
    viewer.leave().await;
    let exit = farm.ends(&second).await;
    assert_eq!(exit["reason"], "disconnected", "{exit}");
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_that_starts_later_knows_the_ports_of_before() {
    let mut farm: Farm = farm(2, &PORT).await;
    let (id, endpoint) = service(hoops(&farm), json!({})).await;
    farm.doors[0].restart().await;
    let url = format!("ws://{}/ws/{}", hoops(&farm).addr, port(&endpoint));
    let mut viewer =
        until("the new one has read the farm", TIMEOUT, async || match Viewer::connect(&url, None).await {
            Ok(viewer) => Look::Ready(viewer),
            Err(error) => Look::NotYet(error.to_string()),
        })
        .await;
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}
