//! What the dashboard says of nodes on which starts fail, of nodes that are gone, and of what failed before it was opened.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hatchery_tests::{Browser, Farm};
use model::Timestamp;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

fn node(id: &str, availability: &str, health: &Value) -> Value {
    json!({
        "id": id, "eligibility": "eligible", "availability": availability, "slots": {"total": 16, "used": 0}, "gpus": [],
        "pool": "default", "labels": {}, "version": "0.1.0", "epoch": "01a1fef4-0000-7000-8000-000000000000",
        "advertise": "http://x:7070", "endpoint": "ws://x:{port}", "load": {"cpu": 0.1, "memoryFreeBytes": 1_u64 << 34},
        "lastHeartbeatAt": Timestamp::now().to_string(), "health": health,
    })
}

/// A live feed of three nodes, one well, one failing and one down; twice a second a start fails.
async fn live(stream: TcpStream) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    let say = |value: &Value| Message::text(value.to_string());
    let now = Timestamp::now().to_string();
    let failing = json!({"state": "failing", "reason": "invalid license", "since": now, "failures": 4, "nextProbeAt": now});
    let nodes = json!([
        node("node-a", "up", &json!({"state": "ok"})),
        node("node-b", "up", &failing),
        node("node-c", "down", &json!({"state": "ok"})),
    ]);
    socket.send(say(&json!({"type": "hello", "heartbeatSeconds": 30, "connection": "c"}))).await.ok();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let (mut seq, mut busy) = (1_000_000, false);
    loop {
        tokio::select! {
            said = socket.next() => {
                let Some(Ok(said)) = said else { return };
                let Ok(asked) = serde_json::from_slice::<Value>(&said.into_data()) else { continue };
                let topic = asked["topic"].as_str().unwrap_or_default();
                let snapshot = if topic == "nodes" { nodes.clone() } else { json!([]) };
                busy |= topic == "spawns";
                let answer = json!({"type": "subscribed", "topic": topic, "snapshot": snapshot, "seq": seq});
                socket.send(say(&answer)).await.ok();
            }
            _ = ticks.tick(), if busy => {
                let spawn = format!("01a1fef4-0000-7000-8000-{seq:012x}");
                for (kind, data) in [
                    ("spawn.launching", json!({"rendererType": "csr", "endpoint": "ws://x:1"})),
                    ("spawn.exited", json!({"exit": {"reason": "failed", "code": 6, "text": "invalid license"}})),
                ] {
                    seq += 1;
                    let mut event = json!({"type": "event", "topic": "spawns", "seq": seq, "at": Timestamp::now().to_string(),
                        "kind": kind, "node": "node-b", "spawn": spawn});
                    event.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
                    if socket.send(say(&event)).await.is_err() { return }
                }
            }
        }
    }
}

/// The front door's pages with this feed.
async fn scripted(door: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 13];
                while near.peek(&mut head).await.is_ok_and(|seen| 0 < seen && seen < head.len()) {
                    tokio::task::yield_now().await;
                }
                if head == *b"GET /v1/live " {
                    live(near).await;
                } else if let Ok(mut far) = TcpStream::connect(door).await {
                    copy_bidirectional(&mut near, &mut far).await.ok();
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn failing_nodes_and_a_farm_wide_cause_are_on_the_dashboard_and_nodes_that_are_down_in_no_total() {
    let farm = Farm::builder().start().await;
    let addr = scripted(farm.door(0).addr).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("http://{addr}/")).await;
    browser.sees("#connection", "Live").await;
    browser.sees("#trouble", "Starts fail on 1 node:").await;
    browser.sees("#trouble", "node-b (invalid license, since ").await;
    browser.sees("[data-node=node-b] .c-state", "Failing").await;
    browser.sees("#node-states", "1 failing").await;
    browser.sees("#total", "of 32").await;
    browser
        .sees("#free", "16 free on open nodes, 16 more where starts fail, 16 more on nodes that are down")
        .await;
    browser.click("#nodes-show option[value=failing]").await;
    browser.sees("#nodes-count", "1 of 3").await;
    browser.click("[data-node=node-b] .name").await;
    browser.sees("#detail", "failing: invalid license, since ").await;
    browser.sees("#failures-said", "%, most often: ").await;
    browser.sees("#failures", "invalid license").await;
    // The front door would say so with the list of nodes.
    browser
        .run(
            "const asked = window.fetch;\
             window.fetch = async (address, options) => String(address).endsWith('/v1/nodes')\
               ? new Response(JSON.stringify({nodes: [], farmCause: {reason: 'the licence server is away', since: new Date().toISOString(), requests: 9}}))\
               : asked(address, options);\
             return 1;",
        )
        .await;
    browser.sees("#trouble", "Starts fail on every node alike since").await;
    browser.sees("#trouble", "the licence server is away").await;
    farm.finish().await;
}

#[tokio::test]
async fn what_failed_before_the_page_was_opened_is_counted_with_its_reasons() {
    let farm = Farm::small(2).await;
    for _ in 0..3 {
        let failed = farm.door(0).spawn(&json!({"sessionToken": "sim:exit_before_ready=6"})).await;
        failed.problem(502, "spawn-failed");
    }
    let browser = Browser::start(1440, 1100).await;
    for _ in 0..2 {
        browser.open(&format!("http://{}/", farm.door(0).addr)).await;
        browser.sees("#failures-said", "%, most often: ").await;
        browser.sees("#failures", "license").await;
    }
    farm.finish().await;
}
