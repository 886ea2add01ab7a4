//! `POST /spawn` as a stream of events.

use std::net::SocketAddr;
use std::time::Duration;

use frontdoor::Config;
use model::{SpawnId, Timing};
use registry::Registry;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fake_agent::Script;
use crate::farm::{Farm, TIMING, config};
use crate::http::{Answer, begin, raw, request, spawn, spawn_keyed};

const PATIENT: &str = r#"{"waitSeconds":30}"#;
const EVENTS: (&str, &str) = ("accept", "text/event-stream");

/// A stream that is read as it comes.
struct Stream {
    connection: TcpStream,
    text: String,
    /// How much of the text has been looked at.
    at: usize,
}

impl Stream {
    async fn begin(address: SocketAddr, headers: &[(&str, &str)], body: &str) -> Self {
        let headers: Vec<_> = headers.iter().copied().chain([EVENTS]).collect();
        let mut stream =
            Self { connection: begin(address, &headers, body).await, text: String::new(), at: 0 };
        while !stream.text.contains("\r\n\r\n") {
            assert!(stream.read().await, "{}", stream.text);
        }
        stream.at = stream.text.find("\r\n\r\n").unwrap() + 4;
        stream
    }

    async fn read(&mut self) -> bool {
        let mut some = [0; 4096];
        let read = timeout(Duration::from_secs(20), self.connection.read(&mut some));
        let length = read.await.unwrap_or_else(|_| panic!("no more of {:?}", self.text)).unwrap();
        self.text.push_str(std::str::from_utf8(&some[..length]).unwrap());
        length > 0
    }

    fn head(&self) -> String {
        self.text.split("\r\n\r\n").next().unwrap().to_ascii_lowercase()
    }

    /// The next event; `None` at the end.
    async fn event(&mut self) -> Option<(String, Value)> {
        loop {
            let rest = &self.text[self.at..];
            if let Some(from) = rest.find("event: ")
                && let Some(length) = rest[from..].find("\n\n")
            {
                let event = rest[from..from + length].to_owned();
                self.at += from + length;
                let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
                return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The event after those that say something else.
    async fn until(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.event().await.unwrap_or_else(|| panic!("no {wanted} in {}", self.text));
            if name == wanted {
                return data;
            }
        }
    }

    /// Waits for this position.
    async fn stands_at(&mut self, position: u64) {
        while self.until("queued").await["position"] != position {}
    }
}

fn id(answer: &Value) -> SpawnId {
    answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

#[tokio::test]
async fn a_caller_that_watches_sees_its_position_its_node_and_the_answer() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let mut current = id(&spawn(farm.http, "").await.json());
    let mut line = Vec::new();
    for position in 1..=3 {
        let mut stream = Stream::begin(farm.http, &[], PATIENT).await;
        stream.stands_at(position).await;
        line.push(stream);
    }
    let head = line[0].head();
    for expected in [
        "200 ok",
        "content-type: text/event-stream",
        "cache-control: no-store",
        "x-accel-buffering: no",
        "x-request-id: ",
    ] {
        assert!(head.contains(expected), "{expected}: {head}");
    }
    for turn in 0..3 {
        farm.agents[0].end(current);
        let stream = &mut line[turn];
        assert_eq!(stream.until("starting").await, json!({"node": "node-0"}));
        let (name, ready) = stream.event().await.unwrap();
        assert_eq!(
            (name.as_str(), &ready["node"], &ready["rendererType"]),
            ("ready", &json!("node-0"), &json!("csr"))
        );
        assert!(ready["endpoint"].as_str().unwrap().starts_with("ws://"), "{ready}");
        assert_eq!(stream.event().await, None, "the answer is the end");
        current = id(&ready);
        for (behind, later) in line[turn + 1..].iter_mut().enumerate() {
            later.stands_at(behind as u64 + 1).await;
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_an_ordinary_answer_and_what_comes_later_is_an_event() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let watched = async |headers: &[(&str, &str)], body: &str| -> Answer {
        let json = ("content-type", "application/json");
        let headers: Vec<_> = headers.iter().copied().chain([EVENTS, json]).collect();
        raw(farm.http, &request("POST", "/spawn", &headers, body.as_bytes())).await
    };
    assert_eq!(watched(&[], r#"{"colour":"red"}"#).await.code(), "invalid-request");
    assert_eq!(watched(&[("idempotency-key", "not one")], "{}").await.code(), "invalid-request");
    spawn(farm.http, "").await;
    for (body, status, code) in [
        ("", 503, "no-capacity"),
        (r#"{"waitSeconds":1}"#, 503, "no-capacity"),
        (r#"{"pool":"none"}"#, 503, "no-matching-node"),
    ] {
        let answer = watched(&[], body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let (_, problem) = answer.body.split_once("event: problem\ndata: ").unwrap();
        assert!(answer.body.contains("retry: "), "{answer:?}");
        let problem: Value = serde_json::from_str(problem.lines().next().unwrap()).unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)));
        assert_eq!(problem["requestId"].as_str(), answer.header("x-request-id"), "{answer:?}");
        assert!(!answer.body.contains("event: ready"), "{answer:?}");
    }
    // A caller that takes either gets what it always got.
    for accept in ["*/*", "application/json, text/event-stream", "text/event-stream;q=0.5, */*"] {
        let answer = raw(farm.http, &request("POST", "/spawn", &[("accept", accept)], b"")).await;
        assert_eq!(answer.code(), "no-capacity", "{accept}");
    }
}

#[tokio::test]
async fn a_start_that_fails_is_seen_to_go_on_elsewhere() {
    let ended = Script::Ended(wire::v1::Exit { reason: "failed".into(), ..Default::default() });
    let farm = Farm::start(20, &[ended, Script::Ready]).await;
    // Which node comes first is left to chance.
    for _ in 0..20 {
        let mut stream = Stream::begin(farm.http, &[], "").await;
        let first = stream.until("starting").await;
        if first["node"] == "node-1" {
            continue;
        }
        assert_eq!(stream.event().await, Some(("starting".to_owned(), json!({"node": "node-1"}))));
        assert_eq!(stream.until("ready").await["node"], "node-1");
        return;
    }
    panic!("never on the node that fails");
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_the_line_or_ends_its_start() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let current = id(&spawn(farm.http, "").await.json());
    let mut first = Stream::begin(farm.http, &[], PATIENT).await;
    first.stands_at(1).await;
    let mut second = Stream::begin(farm.http, &[], PATIENT).await;
    second.stands_at(2).await;
    drop(first);
    second.stands_at(1).await;
    farm.agents[0].script(Script::Hang);
    farm.agents[0].end(current);
    second.until("starting").await;
    drop(second);
    farm.empty().await;
}

#[tokio::test]
async fn the_same_key_is_the_same_spawn_however_and_wherever_it_is_watched() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let other = farm.another_front_door().await;
    let current = id(&spawn(farm.http, "").await.json());
    let key = [("idempotency-key", "one-key")];
    let plain = tokio::spawn(spawn_keyed(farm.http, "one-key", PATIENT));
    let mut here = Stream::begin(farm.http, &key, PATIENT).await;
    here.stands_at(1).await;
    let mut elsewhere = Stream::begin(other.http_addr(), &key, PATIENT).await;
    elsewhere.stands_at(1).await;
    farm.agents[0].end(current);
    assert_eq!(here.until("starting").await["node"], "node-0");
    let answer = plain.await.unwrap().json();
    assert_eq!(here.until("ready").await, answer);
    assert_eq!(elsewhere.until("ready").await, answer);
    let mut later = Stream::begin(other.http_addr(), &key, PATIENT).await;
    assert_eq!(later.event().await, Some(("ready".to_owned(), answer)));
    assert_eq!(farm.orders(), 2);
    let mut conflict = Stream::begin(farm.http, &key, r#"{"model":"b"}"#).await;
    assert_eq!(conflict.until("problem").await["status"], 409);
}

#[tokio::test]
async fn a_place_is_taken_up_again_with_its_key_before_those_that_came_meanwhile() {
    let timing = Timing { place: Duration::from_secs(5), ..TIMING };
    let farm = Farm::over(Registry::embedded(timing), config(), 1, &[Script::Ready]).await;
    let current = id(&spawn(farm.http, "").await.json());
    let key = [("idempotency-key", "patient")];
    let body = r#"{"waitSeconds":1}"#;
    let mut first = Stream::begin(farm.http, &key, body).await;
    first.stands_at(1).await;
    let mut second = Stream::begin(farm.http, &[], PATIENT).await;
    second.stands_at(2).await;
    assert_eq!(first.until("problem").await["code"], "no-capacity");
    assert!(first.text.contains("retry: 2000\n"), "{}", first.text);
    // The kept answer is given again for a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut again = Stream::begin(farm.http, &key, body).await;
    let (name, queued) = again.event().await.unwrap();
    assert_eq!((name.as_str(), &queued["position"]), ("queued", &json!(1)), "its place was kept");
    farm.agents[0].end(current);
    again.until("ready").await;
    second.stands_at(1).await;
}

#[tokio::test]
async fn a_front_door_that_leaves_says_so_in_the_stream() {
    let settings = Config { shutdown_grace: Duration::from_millis(100), ..config() };
    let Farm { front, http, agents: _agents, .. } = Farm::with(settings, 1, &[Script::Ready]).await;
    spawn(http, "").await;
    let mut stream = Stream::begin(http, &[], PATIENT).await;
    stream.stands_at(1).await;
    let leaving = tokio::spawn(front.shutdown());
    assert_eq!(stream.until("problem").await["code"], "shutting-down");
    assert_eq!(stream.event().await, None);
    leaving.await.unwrap();
}
