//! Callers that mean no good, and those that are merely broken.

use std::time::Duration;

use hatchery_tests::{Client, Response};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::proxy::{handshake, says};
use super::{failure, farm, hoops, nothing_is_left, service, spawns, stopped};

async fn posts(client: Client, media: &str, body: impl Into<Vec<u8>>) -> Response {
    client.post("/service").header("content-type", media).body(body).send().await
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_however_it_comes() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    let padded = |size: usize| format!("{{\"class\":\"{}\"}}", "x".repeat(size - 12));
    let refused = posts(client, "application/json", padded(100 * 1024 + 1)).await;
    assert_eq!(failure(&refused, 413), "request entity too large");
    let chunked = client.post("/service").header("content-type", "application/json");
    let refused = chunked.chunked(padded(300 * 1024)).send().await;
    assert_eq!(failure(&refused, 413), "request entity too large");
    let refused = posts(client, "text/plain", "x".repeat(200 * 1024)).await;
    assert_eq!(failure(&refused, 413), "request entity too large", "nothing that long is read");
    // An announcement alone holds nothing.
    let head = "POST /service HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n";
    assert_eq!(client.raw(head.as_bytes()).await.unwrap().status, 413);
    assert!(farm.processes().is_empty());
    let (id, _) = super::ok(&posts(client, "application/json", padded(100 * 1024)).await);
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_malformed_body_is_refused_with_a_reason_and_starts_nothing() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    for (media, body, status) in [
        ("application/json", "{", 400),
        ("application/json", "null", 400),
        ("application/json", "\"ssr_session\"", 400),
        ("application/json", "{\"class\":\u{0}}", 400),
        ("application/json; charset=utf-16", "{}", 415),
        ("application/x-www-form-urlencoded", "params[model]=a&params[model]=b", 400),
        ("application/x-www-form-urlencoded", "params[model][constructor]=a", 400),
        ("application/json", r#"{"params":{"model":{"__proto__":1}}}"#, 400),
    ] {
        let refused = posts(client, media, body).await;
        assert!(!failure(&refused, status).is_empty(), "{body}");
    }
    let pairs = vec!["a=b"; 5000].join("&");
    failure(&posts(client, "application/x-www-form-urlencoded", pairs).await, 413);
    let deep = "[".repeat(90_000);
    failure(&posts(client, "application/json", deep).await, 400);
    let cut = client.post("/service").header("content-type", "application/json").body("{}".repeat(9)).bytes();
    drop(client.open(&cut[..cut.len() - 3]).await);
    assert!(farm.processes().is_empty());
    assert!(spawns(&farm).await.is_empty());
    farm.finish().await;
}

#[tokio::test]
async fn no_other_path_is_taken_for_one_of_the_interface() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    for path in [
        "//service",
        "/service//",
        "/./service",
        "/api/../service",
        "/%73ervice",
        "/service%2f",
        "/service;x",
        "/api",
        "/api/spawn/x",
        "/service/..",
        "/api//spawn",
        "/spawn",
        "/v1/spawns",
        "/metrics",
        "/s/node-a/x/y",
    ] {
        let response = client.post(path).send().await;
        assert_eq!(response.status, 404, "{path}: {response:?}");
        assert_eq!(response.json(), json!({"result": "error", "reason": "Not Found"}), "{path}");
    }
    let long = client.get(&format!("/{}", "x".repeat(20_000))).send().await;
    assert!(long.status == 400 || long.status == 404, "{long:?}");
    assert!(spawns(&farm).await.is_empty());
    farm.finish().await;
}

#[tokio::test]
async fn nothing_is_smuggled_in_with_an_upgrade() {
    let farm = farm(2, &[]).await;
    let client = hoops(&farm);
    let inner = "POST /service HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    for more in [
        format!("content-length: {}\r\n", inner.len()),
        "transfer-encoding: chunked\r\n".to_owned(),
        "content-length: 0\r\ncontent-length: 5\r\n".to_owned(),
    ] {
        let said = says(client, &format!("{}{inner}", handshake("/", &more))).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{more}: {said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "one answer: {said}");
    }
    for (from, to) in [
        ("GET / HTTP/1.1", "POST / HTTP/1.1"),
        ("GET / HTTP/1.1", "GET / HTTP/1.0"),
        ("upgrade: websocket", "upgrade: websocket\r\nupgrade: h2c"),
    ] {
        let said = says(client, &handshake("/", "").replacen(from, to, 1)).await;
        assert!(said.starts_with("HTTP/1.1 400 ") || said.starts_with("HTTP/1.0 400 "), "{to}: {said}");
    }
    assert!(spawns(&farm).await.is_empty(), "none of it had a spawn started");
    farm.finish().await;
}

#[tokio::test]
async fn a_handshake_that_the_server_refuses_leaves_no_spawn() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    let bad = handshake("/", "").replace("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "");
    for _ in 0..2 {
        let mut socket = client.open(bad.as_bytes()).await;
        let mut said = [0; 12];
        timeout(Duration::from_secs(30), socket.read_exact(&mut said)).await.unwrap().unwrap();
        assert!(said.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&said));
        nothing_is_left(&farm).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_status_line_holds_no_more_than_a_status() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    let (id, _) = service(client, json!({})).await;
    for path in ["/?renderingLocation=ssr%0d%0aset-cookie:x", "/?x=%0d%0a%0d%0aHTTP/1.1%20200%20OK"] {
        let said = says(client, &handshake(path, "")).await;
        assert!(said.starts_with("HTTP/1.1 503 No ports available"), "{said}");
        assert!(!said.to_ascii_lowercase().contains("set-cookie") && !said.contains("200 OK"), "{said}");
    }
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_owner_that_calls_too_fast_is_refused_before_anything_is_started() {
    let args = ["--hoops-owner", "web", "--max-calls-per-second", "20", "--spawns-per-minute", "1"];
    let farm = farm(2, &args).await;
    let client = hoops(&farm);
    let (id, _) = service(client, json!({})).await;
    let reason = failure(&client.post("/service").send().await, 503);
    assert!(reason.starts_with("No ports available: 1 spawns a minute"), "{reason}");
    let calls = (0..100).map(|_| client.get("/api/status").send());
    let answers = futures_util::future::join_all(calls).await;
    let refused = answers.iter().filter(|answer| answer.status == 503).count();
    assert!((1..100).contains(&refused), "{refused} of 100");
    assert_eq!(farm.processes().len(), 1);
    stopped(&farm, &id).await;
    farm.finish().await;
}
