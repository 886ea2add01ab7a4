//! What strangers, and viewers that were taken over, try with the relay: nothing reaches a wrong server, nothing grows.

use std::time::Duration;

use futures_util::future::join_all;
use hatchery_tests::processes::memory;
use hatchery_tests::raw_viewer::{HANDSHAKE, RawViewer, frame};
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm, Look, Viewer, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Error;
use uuid::Uuid;
use wire::v1;
use wire::v1::attach_reply::Outcome;
use wire::v1::attach_request::Step;
use wire::v1::node_agent_client::NodeAgentClient;

/// Viewers that one front door connects at once.
const MAX_HANDSHAKES: u32 = 1024;
const FINAL: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A farm whose front door relays, and pings its viewers all the time.
async fn farm(slots: u16) -> Farm {
    let flags = ["--public-url", "http://viewers.example.com", "--relay-ping-interval", "200ms"];
    Farm::builder().door_args(&flags).agent(AgentPlan::slots(slots)).start().await
}

/// The memory of the front door that relays, as of the beginning of an attack: without its program, of which the kernel reads in more as it is
/// used.
struct Memory {
    pid: u32,
    before: u64,
}

impl Memory {
    fn of(farm: &Farm) -> Self {
        let pid = farm.doors[0].role.pid();
        Self { pid, before: memory(pid, "RssAnon") }
    }

    /// The attack, which was at its height, has cost no more than so many bytes.
    fn has_grown_by_less_than(&self, bytes: u64, what: &str) {
        let grown = memory(self.pid, "RssAnon").saturating_sub(self.before);
        assert!(grown < bytes, "{what}: {} KiB more", grown >> 10);
    }
}

/// A new spawn: its id, and its URL at the front door itself.
async fn spawn(farm: &Farm) -> (String, String) {
    let answer = farm.door(0).spawned(&json!({})).await;
    let path = answer["endpoint"].as_str().unwrap().strip_prefix("ws://viewers.example.com").unwrap();
    (answer["id"].as_str().unwrap().to_owned(), format!("ws://{}{path}", farm.door(0).addr))
}

async fn viewer_of(farm: &Farm, id: &str) -> Value {
    farm.record(id).await["viewer"].clone()
}

/// The status that a handshake is refused with.
async fn status(url: &str) -> u16 {
    match Viewer::connect(url, None).await {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        other => panic!("{url}: a refusal was expected, not {other:?}"),
    }
}

/// The frame's header alone, masked with zeros, that announces so many bytes.
fn announced(first: u8, payload: u64) -> Vec<u8> {
    [&[first, FINAL | 127][..], &payload.to_be_bytes(), &[0; 4]].concat()
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_no_viewer_but_their_own() {
    // The viewer beside reads, and so answers pings, only between two attacks.
    let flags = ["--public-url", "http://viewers.example.com", "--relay-ping-interval", "5s"];
    let farm = Farm::builder().door_args(&flags).agent(AgentPlan::slots(2)).start().await;
    let (_, url) = spawn(&farm).await;
    let mut beside = Viewer::client_side(&url).await;
    beside.still_watches().await;
    let memory = Memory::of(&farm);
    let long_control = frame(FINAL | PING, &[7; 60_000]);
    let long_pong = frame(FINAL | PONG, &[7; 60_000]);
    for (what, bytes) in [
        ("a frame without a mask", vec![FINAL | BINARY, 2, 1, 2]),
        ("a reserved bit", frame(FINAL | 0x40 | 0x20 | BINARY, b"x")),
        ("a reserved kind of data", frame(FINAL | 0x3, b"x")),
        ("a reserved kind of control", frame(FINAL | 0xb, b"x")),
        ("a ping of 60 000 bytes", long_control),
        ("a pong of 60 000 bytes", long_pong),
        ("a ping in fragments", frame(PING, b"x")),
        ("a continuation of nothing", frame(FINAL | CONTINUATION, b"x")),
        ("a message inside of a message", [frame(TEXT, b"{"), frame(TEXT, b"}")].concat()),
        ("text that is none", frame(FINAL | TEXT, &[0xff, 0xfe])),
        ("a close frame with half a code", frame(FINAL | CLOSE, &[3])),
        ("more bytes than there are", announced(FINAL | BINARY, u64::MAX)),
        ("a pong of more bytes than there are", announced(FINAL | PONG, u64::MAX >> 1)),
        ("no frames at all", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
    ] {
        let (id, url) = spawn(&farm).await;
        let mut viewer = RawViewer::connect(&url).await;
        viewer.stream.write_all(&bytes).await.unwrap();
        // Its own server has seen it and will have none of it.
        viewer.rest().await;
        let exit = farm.ends(&id).await;
        assert_eq!(exit["reason"], "disconnected", "{what}: {exit}");
        beside.still_watches().await;
        memory.has_grown_by_less_than(8 << 20, what);
    }
    beside.leave().await;
    farm.finish().await;
}

#[tokio::test]
async fn a_message_in_single_bytes_between_pings_arrives_whole() {
    let farm = farm(1).await;
    let (id, url) = spawn(&farm).await;
    let memory = Memory::of(&farm);
    let mut viewer = RawViewer::connect(&url).await;
    let open = br#"{"command":"OPEN_MODEL","model_name":"_empty","stream_version":"76","network_version":"1","session_token":""}"#;
    let mut bytes = Vec::new();
    for (index, byte) in open.iter().enumerate() {
        bytes.extend(frame(if index == 0 { BINARY } else { CONTINUATION }, &[*byte]));
        bytes.extend(frame(FINAL | PONG, b"answers nothing"));
    }
    bytes.extend(frame(FINAL | CONTINUATION, b""));
    // Each byte comes by itself: headers are cut, too.
    for byte in bytes {
        viewer.stream.write_all(&[byte]).await.unwrap();
    }
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("OPEN_MODEL_SUCCEEDED") {
        let read = tokio::time::timeout(TIMEOUT, viewer.stream.read_buf(&mut said)).await;
        assert_ne!(read.expect("an answer").unwrap(), 0, "{}", String::from_utf8_lossy(&said));
    }
    memory.has_grown_by_less_than(8 << 20, "a thousand frames");
    drop(viewer);
    farm.ends(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_frame_that_never_ends_grows_nothing_in_the_relay() {
    const SENT: usize = 64 << 20;
    let farm = farm(1).await;
    let memory = Memory::of(&farm);
    for first in [FINAL | BINARY, FINAL | PONG] {
        let (id, url) = spawn(&farm).await;
        let mut viewer = RawViewer::connect(&url).await;
        viewer.stream.write_all(&announced(first, u64::MAX >> 1)).await.unwrap();
        let (chunk, mut sent) = (vec![0; 1 << 20], 0);
        // The server takes part of it, or ends the connection.
        while sent < SENT {
            let write =
                tokio::time::timeout(Duration::from_millis(500), viewer.stream.write_all(&chunk)).await;
            if !matches!(write, Ok(Ok(()))) {
                break;
            }
            sent += chunk.len();
        }
        memory.has_grown_by_less_than(8 << 20, &format!("{sent} bytes of one frame"));
        drop(viewer);
        farm.ends(&id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn what_is_smuggled_behind_a_handshake_reaches_no_other_spawn() {
    let farm = farm(4).await;
    let (other, others) = spawn(&farm).await;
    let path = others.strip_prefix("ws://").unwrap().split_once('/').unwrap().1;
    let smuggled = format!("GET /{path} HTTP/1.1\r\nhost: a\r\n{HANDSHAKE}\r\n");
    let length = format!("content-length: {}\r\n", smuggled.len());
    let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let cases = [
        ("behind the handshake", String::new(), smuggled.clone()),
        ("in its body", length.clone(), smuggled.clone()),
        ("in a chunk of its body", "transfer-encoding: chunked\r\n".to_owned(), chunk.clone()),
        ("by two lengths", format!("content-length: 0\r\n{length}"), smuggled.clone()),
        ("by a length and chunks", format!("{length}transfer-encoding: chunked\r\n"), chunk),
        ("by an unknown coding", "transfer-encoding: xchunked\r\n".to_owned(), smuggled.clone()),
        ("in a folded header", format!("x-a: b\r\n {smuggled}"), String::new()),
        ("after a bare carriage return", format!("x-a: b\rGET /{path} HTTP/1.1\r\n"), String::new()),
        (
            "by another path in a header",
            format!("x-original-url: /{path}\r\nx-rewrite-url: /{path}\r\n"),
            String::new(),
        ),
        ("by another host", "host: other\r\n".to_owned(), smuggled.clone()),
    ];
    let memory = Memory::of(&farm);
    for (how, headers, after) in cases {
        let (id, url) = spawn(&farm).await;
        let mut viewer = RawViewer::send(&url, &format!("{HANDSHAKE}{headers}"), after.as_bytes()).await;
        let answer = viewer.head().await;
        let refused = answer.starts_with("HTTP/1.1 4") || answer.is_empty();
        assert!(refused || answer.starts_with("HTTP/1.1 101 "), "{how}: {answer}");
        // Its own server has no use for what came behind the handshake.
        if !refused && !after.is_empty() {
            viewer.rest().await;
        }
        drop(viewer);
        assert_eq!(viewer_of(&farm, &other).await, "never", "{how}: {answer}");
        memory.has_grown_by_less_than(8 << 20, how);
        // Where the handshake was refused, no viewer was there that could leave.
        farm.door(0).delete(&format!("/v1/spawns/{id}")).send().await;
        farm.ends(&id).await;
    }
    let escaped = path.replace('/', "%2f");
    let base = format!("ws://{}", farm.door(0).addr);
    for wrong in [format!("{base}/{escaped}"), format!("{base}/x/../{path}"), format!("{base}//{path}")] {
        // Below none of the paths of viewers, where pages of other origins have no business.
        assert!(matches!(status(&wrong).await, 403 | 404), "{wrong}");
    }
    let mut own = Viewer::client_side(&others).await;
    own.still_watches().await;
    own.leave().await;
    farm.finish().await;
}

#[tokio::test]
async fn tokens_that_are_guessed_or_cut_get_nowhere() {
    let farm = farm(1).await;
    let (id, url) = spawn(&farm).await;
    let (base, token) = url.rsplit_once('/').unwrap();
    let mut guesses = vec![token.to_ascii_uppercase(), format!("{token}{token}"), format!("%00{token}")];
    for at in 0..token.len() {
        guesses.push(token[..at].to_owned());
        let other = if token.as_bytes()[at] == b'a' { "b" } else { "a" };
        guesses.push([&token[..at], other, &token[at + 1..]].concat());
    }
    guesses.retain(|guess| guess != token);
    let memory = Memory::of(&farm);
    for guess in &guesses {
        assert_eq!(status(&format!("{base}/{guess}")).await, 404, "{guess}");
    }
    memory.has_grown_by_less_than(8 << 20, "tokens that are not the spawn's");
    assert_eq!(viewer_of(&farm, &id).await, "never");
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    viewer.leave().await;
    farm.ends(&id).await;
    // It was good until the spawn ended.
    assert_eq!(status(&url).await, 404);
    farm.finish().await;
}

/// Connections that begin a handshake with the relay and do not end it.
async fn half_handshakes(door: Client, path: &str, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(door.addr).await.unwrap();
        let head = format!("GET /{path} HTTP/1.1\r\nhost: a\r\n{HANDSHAKE}");
        // Cut at many places.
        let cut = 1 + number % (head.len() - 1);
        stream.write_all(&head.as_bytes()[..cut]).await.unwrap();
        held.push(stream);
    }
    held
}

#[tokio::test]
async fn half_handshakes_and_floods_of_headers_keep_no_viewer_out() {
    let farm = farm(2).await;
    let (id, url) = spawn(&farm).await;
    let path = url.strip_prefix("ws://").unwrap().split_once('/').unwrap().1;
    let memory = Memory::of(&farm);
    let held = half_handshakes(farm.door(0), path, 500).await;
    for (what, headers) in [
        ("ten thousand headers", "x-a: b\r\n".repeat(10_000)),
        ("a header of a megabyte", format!("x-a: {}\r\n", "b".repeat(1 << 20))),
    ] {
        let (host, path) = url.strip_prefix("ws://").unwrap().split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let head = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\n{HANDSHAKE}{headers}\r\n");
        // It need not be read to its end.
        stream.write_all(head.as_bytes()).await.ok();
        let mut viewer = RawViewer { stream };
        let answer = viewer.head().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{what}: {answer}");
    }
    assert_eq!(viewer_of(&farm, &id).await, "never");
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    // For each of them what a connection costs (16 KiB), and as much again.
    memory.has_grown_by_less_than(16 << 20, "half handshakes and floods of headers");
    drop(held);
    viewer.still_watches().await;
    viewer.leave().await;
    farm.ends(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn viewers_that_wait_for_a_stopped_agent_are_answered_and_keep_no_other_out() {
    let plan = AgentPlan::slots(2);
    let farm =
        Farm::builder().door_args(&["--public-url", "http://viewers.example.com"]).agent(plan).start().await;
    let (_, watched) = spawn(&farm).await;
    let mut beside = Viewer::client_side(&watched).await;
    beside.still_watches().await;
    let (_, url) = spawn(&farm).await;
    farm.agents[0].role.signal(Signal::STOP);
    let memory = Memory::of(&farm);
    let attempts = (0..MAX_HANDSHAKES + 200).map(|_| RawViewer::send(&url, HANDSHAKE, &[]));
    let mut waiting = join_all(attempts).await;
    // A viewer that is connected does not feel it.
    beside.still_watches().await;
    let refused = "hatchery_frontdoor_relay_refused_total{reason=\"busy\"}";
    until("the front door takes no further handshake", TIMEOUT, async || {
        let now = farm.doors[0].metrics().await;
        let under_way = now.get("hatchery_frontdoor_relay_handshakes").unwrap_or_default();
        assert!(under_way <= f64::from(MAX_HANDSHAKES), "{under_way}");
        Look::when(now.get(refused).is_some_and(|count| count > 0.0), || under_way.to_string())
    })
    .await;
    // For each of them two buffers of a connection and a call under way.
    memory.has_grown_by_less_than(64 << 20, "viewers that wait");
    for viewer in &mut waiting {
        let answer = viewer.head().await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after"), "{answer}");
    }
    beside.still_watches().await;
    farm.agents[0].role.signal(Signal::CONT);
    let mut viewer = Viewer::connected(&url).await;
    viewer.still_watches().await;
    viewer.leave().await;
    beside.leave().await;
    farm.finish().await;
}

#[tokio::test]
async fn strangers_at_a_node_that_hangs_keep_no_viewer_of_another_node_out() {
    let flags = ["--public-url", "http://viewers.example.com"];
    let plans = [AgentPlan::slots(1), AgentPlan::slots(1)];
    let [one, other] = plans;
    let farm = Farm::builder().door_args(&flags).agent(one).agent(other).start().await;
    let (first, _) = spawn(&farm).await;
    let (_, url) = spawn(&farm).await;
    let node = farm.record(&first).await["node"].as_str().unwrap().to_owned();
    let hung = usize::from(node != "node-a");
    farm.agents[hung].role.signal(Signal::STOP);
    let attempts = (0..MAX_HANDSHAKES + 200).map(async |_| {
        let url = format!("ws://{}/s/{node}/{}/{}", farm.door(0).addr, Uuid::new_v4(), "0".repeat(64));
        RawViewer::send(&url, HANDSHAKE, &[]).await
    });
    let mut waiting = join_all(attempts).await;
    until("as many are refused as find no place", TIMEOUT, async || {
        let now = farm.doors[0].metrics().await;
        let refused = now.get("hatchery_frontdoor_relay_refused_total{reason=\"busy\"}").unwrap_or_default();
        Look::when(refused >= 200.0, || format!("{refused}"))
    })
    .await;
    let mut viewer = Viewer::client_side(&url).await;
    viewer.still_watches().await;
    for stranger in &mut waiting {
        let answer = stranger.head().await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    // It is known to hang: nobody waits for it now.
    let refused = Uuid::new_v4();
    let url = format!("ws://{}/s/{node}/{refused}/{}", farm.door(0).addr, "0".repeat(64));
    assert_eq!(status(&url).await, 503);
    viewer.still_watches().await;
    farm.agents[hung].role.signal(Signal::CONT);
    until("the node answers again", TIMEOUT, async || {
        let now = status(&url).await;
        Look::when(now == 404, || format!("{now}"))
    })
    .await;
    viewer.leave().await;
    farm.stop([first.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_relay_that_comes_too_late_for_the_spawn_before_keeps_no_viewer_out() {
    let flags = ["--public-url", "http://viewers.example.com"];
    let farm = Farm::builder().door_args(&flags).agent(AgentPlan::slots(1).ports(1)).start().await;
    let (first, url) = spawn(&farm).await;
    let (steps, mut asked) = mpsc::channel(2);
    let viewer = v1::Viewer {
        node: "node-a".to_owned(),
        spawn_id: first.clone(),
        token: url.rsplit('/').next().unwrap().to_owned(),
        viewer_id: Uuid::new_v4().to_string(),
        ..v1::Viewer::default()
    };
    steps.send(v1::AttachRequest { step: Some(Step::Viewer(viewer)) }).await.unwrap();
    let mut agent =
        NodeAgentClient::connect(format!("http://{}", farm.agents[0].flag("--listen"))).await.unwrap();
    let asked = futures_util::stream::poll_fn(move |cx| asked.poll_recv(cx));
    let mut replies = agent.attach(asked).await.unwrap().into_inner();
    let outcome = async |replies: &mut tonic::Streaming<v1::AttachReply>| {
        tokio::time::timeout(TIMEOUT, replies.message()).await.unwrap().unwrap().unwrap().outcome.unwrap()
    };
    let Outcome::Target(v1::Target { port }) = outcome(&mut replies).await else { panic!("no port") };
    farm.stop([first.as_str()]).await;
    farm.ends(&first).await;

    let (second, url) = spawn(&farm).await;
    let late = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).await.unwrap();
    let comes = tokio::spawn(async move { Viewer::connect(&url, None).await });
    until("the second spawn's viewer is on its way", TIMEOUT, async || {
        let now = farm.doors[0].metrics().await.get("hatchery_frontdoor_relay_handshakes");
        Look::when(now == Some(1.0), || format!("{now:?}"))
    })
    .await;
    assert_eq!(viewer_of(&farm, &second).await, "never");
    steps.send(v1::AttachRequest { step: Some(Step::Connected(v1::Connected {})) }).await.unwrap();
    assert!(matches!(outcome(&mut replies).await, Outcome::Refused(_)));
    drop((late, steps, replies));
    let mut viewer = comes.await.unwrap().expect("its only viewer");
    viewer.still_watches().await;
    viewer.leave().await;
    farm.ends(&second).await;
    farm.finish().await;
}
