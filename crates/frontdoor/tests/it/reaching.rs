//! Nodes that cannot be reached, or are not who they were.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use futures_util::future::join_all;
use model::SpawnId;
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::time::{Instant, timeout};

use crate::fake_agent::{FakeAgent, Offer, Script};
use crate::farm::Farm;
use crate::http::{get, raw, request, send, spawn, spawning};
use crate::wait::until;

/// An address where connections are neither accepted nor refused: its queue is full and stays so.
struct BlackHole {
    address: SocketAddr,
    _queue: (Socket, Vec<TcpStream>),
}

impl BlackHole {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queue.push(stream);
        }
        Self { address, _queue: (socket, queue) }
    }
}

const OFFER: Offer = Offer { slots: 40, labels: &[] };

#[tokio::test]
async fn requests_get_through_although_most_nodes_do_not_answer_connections() {
    let mut farm = Farm::start(40, &[Script::Ready, Script::Ready]).await;
    let hole = tokio::task::spawn_blocking(BlackHole::new).await.unwrap();
    for i in 0..6 {
        let advertise = Some(format!("http://{}", hole.address));
        let name = format!("hole-{i}");
        let agent = FakeAgent::start_at(&farm.registry, &name, OFFER, Script::Ready, advertise).await;
        farm.agents.push(agent);
    }
    let began = Instant::now();
    let spawns = join_all((0..20).map(|_| timeout(Duration::from_secs(10), spawn(farm.http, ""))));
    for answer in spawns.await {
        let answer = answer.expect("an answer well inside the deadline");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    // What is known by now costs nothing.
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(spawn(farm.http, "").await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_with_room_that_cannot_be_reached_leaves_the_lines_order_alone() {
    let mut farm = Farm::start(1, &[Script::Ready]).await;
    let mut current: SpawnId = spawn(farm.http, "").await.json()["id"].as_str().unwrap().parse().unwrap();
    let hole = tokio::task::spawn_blocking(BlackHole::new).await.unwrap();
    let advertise = Some(format!("http://{}", hole.address));
    let agent = FakeAgent::start_at(&farm.registry, "hole", OFFER, Script::Ready, advertise).await;
    farm.agents.push(agent);
    let admin = farm.front.admin_addr();
    let mut line = Vec::new();
    for place in 1..=5 {
        line.push(spawning(farm.http, r#"{"waitSeconds":30}"#));
        let waiting = format!("hatchery_frontdoor_waiting {place}\n");
        until(async || get(admin, "/metrics").await.body, |text| text.contains(&waiting)).await;
    }
    for place in 1..=5 {
        farm.agents[0].end(current);
        let answer = line.remove(0).await.unwrap().json();
        assert_eq!(answer["node"], "node-0", "{answer}");
        current = answer["id"].as_str().unwrap().parse().unwrap();
        assert!(line.iter().all(|later| !later.is_finished()), "place {place} was overtaken");
    }
}

#[tokio::test]
async fn a_node_that_is_up_and_cannot_be_reached_is_said_to_be_so_everywhere() {
    let mut farm = Farm::start(1, &[Script::Ready]).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let advertise = Some(format!("http://{}", closed.local_addr().unwrap()));
    drop(closed);
    let labels = &[("gpu", "yes")];
    let offer = Offer { slots: 4, labels };
    let agent = FakeAgent::start_at(&farm.registry, "lost", offer, Script::Ready, advertise).await;
    farm.agents.push(agent);
    // No request has met the node yet.
    let is_known = |node: &serde_json::Value| node["unreachable"]["reason"] == "connection refused";
    until(async || get(farm.http, "/v1/nodes/lost").await.json(), is_known).await;
    let nodes = get(farm.http, "/v1/nodes").await.json()["nodes"].as_array().unwrap().clone();
    let unreachable: Vec<_> = nodes.iter().filter(|node| is_known(node)).map(|node| &node["id"]).collect();
    assert_eq!(unreachable, ["lost"], "{nodes:?}");
    let gauge = "hatchery_frontdoor_unreachable_nodes 1\n";
    until(async || get(farm.front.admin_addr(), "/metrics").await.body, |text| text.contains(gauge)).await;

    let ready = get(farm.http, "/readyz").await.json();
    let warning = "this front door cannot reach the agents of 1 node that is up: `hatchery nodes` names them";
    assert_eq!((&ready["status"], &ready["warnings"]), (&json!("ready"), &json!([warning])));

    let wanted = r#"{"labels":{"gpu":"yes"}}"#;
    let refused = spawn(farm.http, wanted).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "node-unreachable"), "{refused:?}");
    let refused = refused.json();
    let detail = "no node that offers what was asked for could be reached; last tried was lost: the agent could not be reached: connection refused";
    assert_eq!((&refused["detail"], &refused["node"]), (&json!(detail), &json!("lost")));
    assert_eq!(refused["reasons"], json!({"unreachable": 1, "label gpu": 1}));
    let explain = request("POST", "/v1/explain", &[("content-type", "application/json")], wanted.as_bytes());
    let explained = raw(farm.http, &explain).await.json();
    let said = (explained.get("chosen"), &explained["code"], &explained["reasons"]);
    assert_eq!(said, (None, &json!("node-unreachable"), &refused["reasons"]), "{explained}");
    assert_eq!(explained["nodes"][0]["verdict"], "unreachable", "{explained}");

    // The other node is full: both stand against a request.
    assert_eq!(spawn(farm.http, "").await.status, 200);
    let refused = spawn(farm.http, "").await;
    assert_eq!(refused.code(), "no-capacity");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("every node that offers what was asked for is full or could not"), "{detail}");
}

#[tokio::test]
async fn a_spawn_goes_elsewhere_when_another_node_is_at_the_address() {
    let farm = Farm::start(40, &[Script::Ready, Script::Ready]).await;
    farm.agents[0].stand_for("node-9");
    for _ in 0..10 {
        let answer = spawn(farm.http, "").await;
        assert_eq!(answer.json()["node"], "node-1", "{answer:?}");
    }
    assert!(farm.agents[0].admitted().is_empty());
    assert!(farm.agents[0].orders().len() <= 2, "it is not asked again at once");
}

#[tokio::test]
async fn nothing_is_done_to_the_node_that_has_taken_anothers_address() {
    let farm = Farm::start(4, &[Script::Ready]).await;
    let spawned = spawn(farm.http, "").await.json();
    let path = format!("/v1/spawns/{}", spawned["id"].as_str().unwrap());
    until(async || get(farm.http, &path).await.status, |status| *status == 200).await;
    farm.agents[0].stand_for("node-9");

    let log = get(farm.http, &format!("{path}/log")).await;
    assert_eq!(log.code(), "node-unreachable");
    assert!(log.json()["detail"].as_str().unwrap().contains("node-9"), "{log:?}");
    let drained = send(farm.http, "POST", "/v1/nodes/node-0/drain").await;
    assert_eq!((drained.status, &drained.json()["agentAcknowledged"]), (200, &json!(false)));
    assert!(farm.agents[0].eligibility_orders().is_empty());
    assert_eq!(send(farm.http, "DELETE", &path).await.status, 202);
    assert!(farm.agents[0].stopped().is_empty());
}
