//! Viewers reach their spawns through the front doors: one port, and the way back to no spawn but their own.

use std::time::Duration;

use hatchery_tests::role::{Role, clients};
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm, FarmBuilder, Look, Viewer, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

/// Where the farm is reached from outside; the tests go to a front door directly.
pub(crate) const PUBLIC: &str = "ws://viewers.example.com";
const PING: Duration = Duration::from_millis(200);

fn builder() -> FarmBuilder {
    Farm::builder().door_args(&["--public-url", "http://viewers.example.com"])
}

async fn farm(doors: usize) -> Farm {
    builder().doors(doors).agent(AgentPlan::slots(4)).start().await
}

/// A farm that pings its viewers all the time.
async fn pinging() -> Farm {
    let interval = format!("{}ms", PING.as_millis());
    let flags = ["--public-url", "http://viewers.example.com", "--relay-ping-interval", &interval];
    Farm::builder().door_args(&flags).agent(AgentPlan::slots(4)).start().await
}

/// A new spawn: its id, and its endpoint.
pub(crate) async fn spawn(farm: &Farm, body: Value) -> (String, String) {
    let answer = farm.door(0).spawned(&body).await;
    let text = |member: &str| answer[member].as_str().unwrap().to_owned();
    (text("id"), text("endpoint"))
}

/// The same endpoint through this front door or relay.
pub(crate) fn through(door: Client, endpoint: &str) -> String {
    let path =
        endpoint.strip_prefix(PUBLIC).unwrap_or_else(|| panic!("{endpoint} does not begin with {PUBLIC}"));
    format!("ws://{}{path}", door.addr)
}

/// The problem that answers a handshake.
pub(crate) async fn refusal(endpoint: &str) -> Value {
    match Viewer::connect(endpoint, None).await {
        Err(Error::Http(answer)) => serde_json::from_slice(answer.body().as_ref().unwrap()).unwrap(),
        other => panic!("{endpoint}: a refusal was expected, not {other:?}"),
    }
}

pub(crate) async fn is_refused(endpoint: &str, status: u16, code: &str) {
    let problem = refusal(endpoint).await;
    assert_eq!(
        (&problem["status"], &problem["code"]),
        (&json!(status), &json!(code)),
        "{endpoint}: {problem}"
    );
}

/// The viewer has left, or is taken to have, and the spawn ends by itself.
pub(crate) async fn ends_by_itself(farm: &Farm, id: &str) {
    let exit = farm.ends(id).await;
    assert_eq!((&exit["reason"], &exit["code"]), (&json!("disconnected"), &json!(0)), "{exit}");
}

/// How many viewers a front door relays.
async fn relays(farm: &Farm, door: usize, viewers: f64) {
    until("viewers are counted", TIMEOUT, async || {
        let now = farm.doors[door].metrics().await.get("hatchery_frontdoor_relay_viewers").unwrap();
        #[expect(clippy::float_cmp, reason = "whole numbers")]
        Look::when(now == viewers, || format!("{now} viewers"))
    })
    .await;
}

#[tokio::test]
async fn a_viewer_reaches_its_spawn_through_any_front_door() {
    let farm = farm(2).await;
    for door in [farm.door(0), farm.door(1)] {
        let (id, endpoint) = spawn(&farm, json!({"rendererType": "csr", "sessionToken": "tok-9f3"})).await;
        let record = farm.record(&id).await;
        assert_eq!(record["endpoint"], endpoint, "{record}");
        let named = format!("{PUBLIC}/s/{}/{id}/", record["node"].as_str().unwrap());
        let token = endpoint.strip_prefix(&named).unwrap_or_else(|| panic!("{endpoint}"));
        assert!(token.len() >= 32 && token.bytes().all(|b| b.is_ascii_alphanumeric()), "{token}");
        // Queries are the viewer's, and pass through.
        let mut viewer = Viewer::client_side(&format!("{}?and=query", through(door, &endpoint))).await;
        assert_eq!(viewer.protocol(), None);
        viewer.open_model("tok-9f3").await;
        assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
        viewer.leave().await;
        ends_by_itself(&farm, &id).await;

        let (id, endpoint) = spawn(&farm, json!({"rendererType": "ssr", "sessionToken": "tok-9f3"})).await;
        let mut viewer = Viewer::server_side(&through(door, &endpoint)).await;
        assert_eq!(viewer.protocol(), Some("binary"), "the server's own answer");
        viewer.render(Some("tok-9f3")).await;
        assert_eq!(viewer.receive().await[0], 0x7b, "an event");
        assert_eq!(viewer.receive().await[0], 0, "a picture");
        viewer.leave().await;
        ends_by_itself(&farm, &id).await;
    }
    farm.assert_empty().await;
    relays(&farm, 0, 0.0).await;
    let metrics = farm.doors[1].metrics().await;
    assert_eq!(metrics.sum("hatchery_frontdoor_relay_ended_total"), 2.0);
    assert!(metrics.get("hatchery_frontdoor_relay_passed_bytes_total{direction=\"down\"}").unwrap() > 0.0);
    assert_eq!(metrics.get("hatchery_frontdoor_relay_connect_seconds_count"), Some(2.0));
    farm.finish().await;
}

#[tokio::test]
async fn a_url_with_anything_wrong_in_it_is_the_same_not_found() {
    let farm = farm(1).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let (other, others) = spawn(&farm, json!({})).await;
    let door = farm.door(0);
    let url = through(door, &endpoint);
    let token = url.rsplit('/').next().unwrap();
    let node = farm.record(&id).await["node"].as_str().unwrap().to_owned();
    let (ended, gone) = spawn(&farm, json!({})).await;
    farm.stop([ended.as_str()]).await;
    farm.ends(&ended).await;
    let base = format!("ws://{}/s", door.addr);
    let wrong = [
        format!("{base}/{node}/{other}/{token}"),
        format!("{base}/{node}/{id}/{}", others.rsplit('/').next().unwrap()),
        format!("{base}/{node}/{id}/{}", &token[1..]),
        format!("{base}/{node}/{id}/{token}0"),
        format!("{base}/{node}/{id}/{}", "0".repeat(token.len())),
        format!("{base}/{node}/{id}/{}", "x".repeat(5000)),
        format!("{base}/nowhere/{id}/{token}"),
        format!("{base}/NO%20NODE/{id}/{token}"),
        format!("{base}/{node}/{}/{token}", &id[1..]),
        format!("{base}/{node}/00000000-0000-4000-8000-000000000000/{token}"),
        through(door, &gone),
    ];
    let mut answers = Vec::new();
    for url in &wrong {
        let mut problem = refusal(url).await;
        problem.as_object_mut().unwrap().remove("requestId").unwrap();
        answers.push(problem);
    }
    assert_eq!(answers[0]["code"], "not-found");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    // What is no WebSocket is told so, whatever it names.
    let path = url.strip_prefix(&format!("ws://{}", door.addr)).unwrap();
    door.get(path).send().await.problem(426, "upgrade-required");
    door.get(&format!("/s/{node}/{id}/0")).send().await.problem(426, "upgrade-required");
    // None of it has cost the spawn its only viewer.
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    farm.stop([id.as_str(), other.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_second_viewer_is_refused_and_the_first_stays() {
    let farm = farm(2).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut first = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    first.greet().await;
    for door in [farm.door(0), farm.door(1)] {
        is_refused(&through(door, &endpoint), 409, "already-connected").await;
    }
    first.still_watches().await;
    first.leave().await;
    ends_by_itself(&farm, &id).await;
    is_refused(&through(farm.door(1), &endpoint), 404, "not-found").await;
    // One that came without a relay is known from the kernel.
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let port = farm.process(&id).unwrap().option("--sc-port").unwrap().to_owned();
    let mut direct = Viewer::client_side(&format!("ws://127.0.0.1:{port}")).await;
    is_refused(&through(farm.door(0), &endpoint), 409, "already-connected").await;
    direct.still_watches().await;
    direct.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_url_never_leads_to_the_next_spawn_on_the_same_port() {
    let plan = AgentPlan::slots(1).ports(1);
    let farm = builder().agent(plan).start().await;
    let (old, stale) = spawn(&farm, json!({})).await;
    let port = |id: &str| farm.process(id).unwrap().option("--sc-port").unwrap().to_owned();
    let had = port(&old);
    farm.stop([old.as_str()]).await;
    farm.ends(&old).await;
    let (new, endpoint) = spawn(&farm, json!({})).await;
    assert_eq!(port(&new), had);
    is_refused(&through(farm.door(0), &stale), 404, "not-found").await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    is_refused(&through(farm.door(0), &stale), 404, "not-found").await;
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &new).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_viewers_token_is_in_no_log() {
    let farm = farm(1).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let url = through(farm.door(0), &endpoint);
    let token = endpoint.rsplit('/').next().unwrap();
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    is_refused(&url, 409, "already-connected").await;
    for wrong in [format!("{url}/"), format!("{url}/more"), url.replace("/s/", "/t/")] {
        assert!(Viewer::connect(&wrong, None).await.is_err(), "{wrong}");
    }
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    let output = std::fs::read_to_string(farm.agents[0].output_file(&id)).unwrap();
    for told in [farm.doors[0].role.log(), farm.agents[0].role.log(), output] {
        assert!(!told.contains(token), "{told}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_idle_viewer_stays_as_long_as_it_answers_pings() {
    let farm = pinging().await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    viewer.greet().await;
    // Reading is what answers pings here; nothing else is sent for twenty of them.
    assert!(!viewer.is_closed_within(PING * 20).await);
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_viewer_that_vanished_without_a_word_gives_its_slot_back() {
    let farm = pinging().await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let url = through(farm.door(0), &endpoint);
    let (host, path) = url.strip_prefix("ws://").unwrap().split_once('/').unwrap();
    let mut socket = TcpStream::connect(host).await.unwrap();
    let handshake = format!(
        "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(handshake.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    // Its connection stays open, as through a proxy, but nobody answers on it.
    ends_by_itself(&farm, &id).await;
    until("it is counted", TIMEOUT, async || {
        let metrics = farm.doors[0].metrics().await;
        let vanished = metrics.get("hatchery_frontdoor_relay_ended_total{reason=\"vanished\"}");
        Look::when(vanished == Some(1.0), || format!("{vanished:?}"))
    })
    .await;
    farm.assert_empty().await;
    drop(socket);
    farm.finish().await;
}

#[tokio::test]
async fn viewers_stay_and_new_ones_get_through_while_redis_is_away() {
    let mut farm = farm(1).await;
    let (first, endpoint) = spawn(&farm, json!({})).await;
    let (second, later) = spawn(&farm, json!({})).await;
    let mut stays = Viewer::client_side(&through(farm.door(0), &endpoint)).await;
    stays.still_watches().await;
    farm.redis.kill();
    let mut comes = Viewer::client_side(&through(farm.door(0), &later)).await;
    comes.still_watches().await;
    stays.still_watches().await;
    is_refused(&through(farm.door(0), &later), 409, "already-connected").await;
    let wrong = format!("{}0", through(farm.door(0), &later));
    is_refused(&wrong, 404, "not-found").await;
    farm.redis.restart().await;
    stays.still_watches().await;
    comes.still_watches().await;
    stays.leave().await;
    comes.leave().await;
    for id in [first, second] {
        ends_by_itself(&farm, &id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn viewers_stay_when_an_agent_is_replaced_or_killed_and_no_other_takes_their_place() {
    let mut farm = farm(1).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let url = through(farm.door(0), &endpoint);
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    for kill in [false, true] {
        if kill {
            farm.agents[0].role.kill();
        } else {
            farm.agents[0].role.signal(Signal::TERM);
            farm.agents[0].role.end().await;
        }
        viewer.still_watches().await;
        farm.agents[0].restart().await;
        viewer.still_watches().await;
        until("the next agent knows", TIMEOUT, async || {
            let problem = refusal(&url).await;
            Look::when(problem["code"] == "already-connected", || problem.to_string())
        })
        .await;
    }
    viewer.still_watches().await;
    viewer.leave().await;
    // Only its parent, the first agent, would have seen its exit code.
    assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_that_leaves_cuts_no_viewer_and_the_next_one_has_its_ports_at_once() {
    let mut farm = farm(1).await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let url = through(farm.door(0), &endpoint);
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    let mut old = farm.doors[0].replace().await;
    // Through the new process, on the same port.
    assert_eq!(through(farm.door(0), &endpoint), url);
    is_refused(&url, 409, "already-connected").await;
    let (other, others) = spawn(&farm, json!({})).await;
    let mut second = Viewer::client_side(&through(farm.door(0), &others)).await;
    second.still_watches().await;
    viewer.still_watches().await;
    assert!(old.exited().is_none(), "it has a viewer");
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    until("the old process ends after its last viewer", TIMEOUT, async || {
        Look::when(old.exited().is_some(), || "it runs".to_owned())
    })
    .await;
    // A second signal does not wait for viewers.
    let mut old = farm.doors[0].replace().await;
    second.still_watches().await;
    old.signal(Signal::TERM);
    second.closed().await;
    ends_by_itself(&farm, &other).await;
    until("it ends", TIMEOUT, async || Look::when(old.exited().is_some(), || "it runs".to_owned())).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_relay_alone_serves_viewers_and_nothing_else() {
    let plan = AgentPlan::slots(2).args(&["--endpoint", "ws://viewers.example.com/s/{node}/{id}/{token}"]);
    let farm = Farm::builder().agent(plan).start().await;
    let args =
        ["relay", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--farm", "test", "--registry"];
    let args = args.map(str::to_owned).into_iter().chain([farm.redis.url()]).collect::<Vec<_>>();
    let mut relay = Role::start("relay", farm.mark(), &args);
    let line = relay.announcement().await;
    assert!(line.starts_with("relay listening on http://"), "{line}");
    let [http, admin] = clients(&line)[..] else { panic!("two addresses were expected: {line}") };
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let mut viewer = Viewer::client_side(&through(http, &endpoint)).await;
    viewer.still_watches().await;
    for (method, path) in [("POST", "/spawn"), ("GET", "/v1/spawns"), ("GET", "/v1/live"), ("GET", "/")] {
        http.request(method, path).send().await.problem(404, "not-found");
    }
    assert_eq!(http.get("/healthz").send().await.status, 200);
    assert!(admin.get("/metrics").send().await.text().contains("hatchery_frontdoor_relay_viewers 1"));
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    relay.signal(Signal::TERM);
    assert!(relay.end().await.success());
    farm.finish().await;
}

#[tokio::test]
async fn a_viewer_that_hangs_up_during_its_handshake_leaves_the_spawn_to_the_next() {
    let farm = pinging().await;
    let (id, endpoint) = spawn(&farm, json!({})).await;
    let url = through(farm.door(0), &endpoint);
    let (host, path) = url.strip_prefix("ws://").unwrap().split_once('/').unwrap();
    for _ in 0..20 {
        let mut socket = TcpStream::connect(host).await.unwrap();
        let head = format!(
            "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
    }
    // What those handshakes lack, the server says; none of them is its viewer.
    let mut viewer = Viewer::connected(&url).await;
    viewer.still_watches().await;
    assert!(!viewer.is_closed_within(PING * 3).await);
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}
