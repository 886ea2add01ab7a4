//! Callers who hold connections and say nothing, or say it too slowly.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hatchery_tests::crowd::allow_files;
use hatchery_tests::{AgentPlan, Client, Farm, Look, Subscriber, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

/// What a caller may have to wait while others hold connections; far more than it takes.
const SOON: Duration = Duration::from_secs(5);

/// So many connections from several addresses of this machine, of which every second has begun a request.
async fn crowd(door: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = async |number: usize| {
        let socket = TcpSocket::new_v4().unwrap();
        let last = u8::try_from(2 + number % 8).unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).unwrap();
        let mut stream = socket.connect(door).await.unwrap();
        if number.is_multiple_of(2) {
            // One that was closed to make room may say so here.
            stream.write_all(b"GET /v1/nodes HTTP/1.1\r\nx-slow: ").await.ok();
        }
        stream
    };
    stream::iter(0..count).map(connect).buffer_unordered(64).collect().await
}

/// Spawns, and lets go of it again.
async fn spawns_soon(farm: &Farm, door: Client) {
    let began = Instant::now();
    let spawned = timeout(SOON, door.spawned(&json!({}))).await.expect("it is answered soon");
    assert!(began.elapsed() < SOON);
    let id = spawned["id"].as_str().unwrap();
    farm.stop([id]).await;
    farm.ends(id).await;
}

fn closed(reason: &str) -> String {
    format!("hatchery_frontdoor_connections_closed_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn ten_thousand_idle_and_slow_connections_delay_no_caller_and_are_closed_in_time() {
    const CROWD: usize = 10_000;
    /// Twice what a connection takes.
    const MAX_EACH: f64 = 48.0 * 1024.0;
    let _crowd = allow_files(12_000).await;
    let farm = Farm::builder().agent(AgentPlan::slots(4)).start().await;
    let resident = async || farm.doors[0].metrics().await.get("process_resident_memory_bytes").unwrap();
    spawns_soon(&farm, farm.door(0)).await;
    let before = resident().await;
    let held = crowd(farm.door(0).addr, CROWD).await;
    for _ in 0..3 {
        spawns_soon(&farm, farm.door(0)).await;
    }
    let each = (resident().await - before) / f64::from(u32::try_from(CROWD).unwrap());
    assert!(each < MAX_EACH, "{each} bytes for each connection");
    until("they are all closed", Duration::from_secs(60), async || {
        let metrics = farm.doors[0].metrics().await;
        let [idle, slow] = ["idle", "slow-head"].map(|reason| metrics.get(&closed(reason)).unwrap());
        let half = f64::from(u32::try_from(CROWD / 2).unwrap());
        let open = metrics.get("hatchery_frontdoor_connections").unwrap();
        Look::when(idle >= half && slow >= half && open < 100.0, || {
            format!("{open} open, {idle} closed idle, {slow} slow")
        })
    })
    .await;
    for mut stream in held.into_iter().step_by(997) {
        let end = timeout(SOON, stream.read(&mut [0; 1024])).await.expect("it is closed");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn callers_who_do_not_read_their_answers_keep_no_other_out() {
    const PLACES: usize = 50;
    let farm =
        Farm::builder().door_args(&["--max-connections", "50"]).agent(AgentPlan::slots(4)).start().await;
    let flood = "GET /client.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(400);
    let mut held = Vec::new();
    for _ in 0..PLACES {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(farm.door(0).addr).await.unwrap();
        // As much of it as is taken.
        timeout(Duration::from_millis(20), stream.write_all(flood.as_bytes())).await.ok();
        held.push(stream);
    }
    for _ in 0..3 {
        spawns_soon(&farm, farm.door(0)).await;
    }
    until("nobody holds a place for long", Duration::from_secs(60), async || {
        let metrics = farm.doors[0].metrics().await;
        let [shed, unread] = ["shed", "unread"].map(|reason| metrics.get(&closed(reason)).unwrap());
        let all = f64::from(u32::try_from(PLACES).unwrap());
        Look::when(shed >= 1.0 && shed + unread >= all, || format!("{shed} shed, {unread} unread"))
    })
    .await;
    drop(held);
    farm.finish().await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused_before_it_is_all_there() {
    let farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    let mut stream = TcpStream::connect(farm.door(0).addr).await.unwrap();
    let head = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-long: {}", "x".repeat(80 * 1024));
    // It may be refused while it is still being sent.
    stream.write_all(head.as_bytes()).await.ok();
    let mut answer = [0; 12];
    timeout(SOON, stream.read_exact(&mut answer)).await.expect("it is answered at once").unwrap();
    assert_eq!(std::str::from_utf8(&answer), Ok("HTTP/1.1 431"));
    farm.finish().await;
}

#[tokio::test]
async fn strangers_on_the_live_feed_make_room_for_newcomers() {
    let farm = Farm::builder()
        .keys()
        .door_args(&["--max-connections", "10"])
        .agent(AgentPlan::slots(1))
        .start()
        .await;
    let addr = farm.door(0).addr;
    let mut known = Subscriber::connect_as(addr, &farm.key(&["--scope", "read"]).await).await;
    known.subscribe("nodes").await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(timeout(SOON, Subscriber::connect(addr)).await.expect("there is room soon"));
    }
    let alive = timeout(SOON, farm.door(0).get("/healthz").send()).await.expect("it is answered soon");
    assert_eq!(alive.status, 200);
    assert_eq!(strangers[0].closed().await, (1013, "no place left".to_owned()));
    // Who has said who it is stays.
    known.subscribe("spawns").await;
    farm.finish().await;
}

#[tokio::test]
async fn when_all_places_are_taken_the_longest_idle_make_room() {
    let _crowd = allow_files(5000).await;
    let farm =
        Farm::builder().door_args(&["--max-connections", "200"]).agent(AgentPlan::slots(4)).start().await;
    // Neither who is served nor who listens has nothing to do.
    let (mut subscriber, _) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let body = json!({"sessionToken": "sim:ready_delay_ms=4000"});
    let patient = tokio::spawn(farm.door(0).post("/spawn").json(&body).send());
    until("a process starts", SOON, async || {
        Look::when(!farm.processes().is_empty(), || "no process".to_owned())
    })
    .await;
    let held = crowd(farm.door(0).addr, 2000).await;
    spawns_soon(&farm, farm.door(0)).await;
    let metrics = farm.doors[0].metrics().await;
    let shed = metrics.get(&closed("shed")).unwrap();
    assert!(shed >= 1700.0, "{shed}");
    assert!(metrics.get("hatchery_frontdoor_connections").unwrap() <= 210.0);
    let answer = patient.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let id = answer["id"].as_str().unwrap();
    farm.stop([id]).await;
    farm.ends(id).await;
    subscriber.event().await;
    drop(held);
    farm.finish().await;
}
