//! The dashboard of a farm of a thousand nodes and twenty thousand spawns on which a lot happens.
//!
//! The pages are the front door's; the live feed is told by the test, so that only the page is measured.

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

const NODES: usize = 1000;
const SPAWNS_EACH: usize = 20;
/// Events come in gusts, so many a second, each of [`GUST`].
const GUSTS: u64 = 20;
const GUST: usize = 30;
/// As long as a page may not answer to anybody; on a machine that has nothing else to do it is a twentieth of that.
const FREEZE: Duration = Duration::from_secs(2);

fn node(n: usize) -> String {
    format!("render-{n:04}")
}

fn spawn_id(node: usize, n: usize) -> String {
    format!("01a1fef4-{node:04x}-7000-8000-{n:012x}")
}

fn nodes() -> Value {
    let now = Timestamp::now().to_string();
    let node = |n: usize| {
        let mut node = json!({
            "id": node(n), "eligibility": "eligible", "availability": if n % 200 == 9 { "stale" } else { "up" },
            "slots": {"total": if n.is_multiple_of(7) { 20 } else { 32 }, "used": SPAWNS_EACH},
            "gpus": [{"index": 0, "total": 8, "used": 5}, {"index": 1, "total": 8, "used": 0}],
            "pool": "default", "labels": {"sdk": if n.is_multiple_of(2) { "2024.8" } else { "2025.1" }},
            "version": "0.1.0", "epoch": spawn_id(n, 0), "advertise": format!("http://{}:7070", node(n)),
            "endpoint": format!("ws://{}:{{port}}", node(n)),
            "load": {"cpu": 0.42, "memoryFreeBytes": 1_u64 << 34}, "lastHeartbeatAt": now,
        });
        if n == 3 {
            let deadline = Timestamp::now().after(Duration::from_secs(840)).to_string();
            node["eligibility"] = json!("draining");
            node["drain"] = json!({"deadline": deadline, "remaining": SPAWNS_EACH, "reason": "new kernel", "startedAt": now});
        }
        node
    };
    (0..NODES).map(node).collect()
}

fn spawn(node_number: usize, n: usize) -> Value {
    let at = |seconds: u64| Timestamp::now().before(Duration::from_secs(seconds)).to_string();
    json!({
        "id": spawn_id(node_number, n), "node": node(node_number), "endpoint": format!("ws://{}:{}", node(node_number), 55_000 + n),
        "rendererType": if n.is_multiple_of(4) { "ssr" } else { "csr" }, "state": "ready",
        "startedAt": at(60 + n as u64 * 30), "readyAt": at(59 + n as u64 * 30), "lastPingAt": at(2), "pool": "default",
        "gpu": n.is_multiple_of(4).then_some(n / 4 % 2),
    })
}

fn spawns() -> Value {
    (0..NODES).flat_map(|node| (0..SPAWNS_EACH).map(move |n| spawn(node, n))).collect()
}

/// What happens: a spawn is left by its viewer and ends, another one takes its place, and a node's spawns report.
fn events(seq: &mut u64) -> Vec<Value> {
    let mut tell = |kind: &str, of: usize, data: Value| {
        *seq += 1;
        let mut event = json!({"type": "event", "topic": "spawns", "seq": *seq, "at": Timestamp::now().to_string(),
            "kind": kind, "node": node(of)});
        event.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        event
    };
    let mut all = Vec::new();
    for _ in 0..GUST / 3 {
        let of = fastrand::usize(..NODES);
        let id = spawn_id(of, SPAWNS_EACH + 1);
        let launch = json!({"spawn": id, "rendererType": "csr", "endpoint": "ws://render:1"});
        all.push(tell("spawn.launching", of, launch));
        all.push(tell("spawn.exited", of, json!({"spawn": id, "exit": {"reason": "disconnected"}})));
        let at = Timestamp::now().to_string();
        let pings: serde_json::Map<String, Value> =
            (0..SPAWNS_EACH).map(|n| (spawn_id(of, n), json!(at))).collect();
        all.push(tell("spawn.ping", of, json!({"pings": pings})));
    }
    all
}

async fn live(stream: TcpStream) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    let say = |value: &Value| Message::text(value.to_string());
    let mut seq = 1_000_000;
    let mut busy = false;
    socket.send(say(&json!({"type": "hello", "heartbeatSeconds": 30, "connection": "c"}))).await.ok();
    let mut gusts = tokio::time::interval(Duration::from_millis(1000 / GUSTS));
    loop {
        tokio::select! {
            said = socket.next() => {
                let Some(Ok(said)) = said else { return };
                let Ok(asked) = serde_json::from_slice::<Value>(&said.into_data()) else { continue };
                let topic = asked["topic"].as_str().unwrap_or_default();
                let snapshot = if topic == "nodes" { nodes() } else { spawns() };
                busy |= topic == "spawns";
                let answer = json!({"type": "subscribed", "topic": topic, "snapshot": snapshot, "seq": seq});
                socket.send(say(&answer)).await.ok();
            }
            _ = gusts.tick(), if busy => {
                for event in events(&mut seq) {
                    if socket.feed(say(&event)).await.is_err() { return }
                }
                socket.flush().await.ok();
            }
        }
    }
}

/// The front door's pages with this feed.
async fn crowd(door: SocketAddr) -> SocketAddr {
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

/// The longest time for which the page drew nothing while a script worked on it.
async fn longest_freeze(browser: &Browser, script: &str) -> Duration {
    let watched = format!(
        "let longest = 0, last = performance.now(), on = true;\
         const frame = (now) => {{ longest = Math.max(longest, now - last); last = now; if (on) requestAnimationFrame(frame); }};\
         requestAnimationFrame(frame);\
         const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));\
         {script}\
         await pause(100); on = false; return longest;"
    );
    let longest = browser.run(&watched).await;
    Duration::from_secs_f64(longest.as_f64().unwrap() / 1000.0)
}

#[tokio::test]
async fn a_thousand_nodes_and_twenty_thousand_spawns_do_not_freeze_the_dashboard() {
    let farm = Farm::builder().start().await;
    let addr = crowd(farm.door(0).addr).await;
    let browser = Browser::start(1440, 1100).await;
    browser.set_timeout(Duration::from_secs(60)).await;
    browser.open(&format!("http://{addr}/")).await;
    browser.sees("#of-nodes", "of 1,000").await;
    browser.sees("#used", "20,0").await;
    // What is not in sight does not exist.
    let rows = browser.run("return document.querySelectorAll('tr').length;").await;
    assert!(rows.as_u64() < Some(300), "{rows}");
    let all = browser.run("return Number(document.querySelector('#spawns-frame table').ariaRowCount);").await;
    assert!(all.as_u64() > Some(20_000), "{all}");

    let watching = longest_freeze(&browser, "await pause(3000);").await;
    let events = browser.text("#events-count").await;
    let told: u64 = events.replace(',', "").parse().unwrap();
    assert!(told > 200, "{events} events were told");
    let scrolling = longest_freeze(
        &browser,
        "for (const id of ['nodes-frame', 'spawns-frame']) {\
           const frame = document.getElementById(id);\
           for (let i = 1; i <= 20; i += 1) { frame.scrollTop = frame.scrollHeight * i / 20; await pause(25); }\
         }",
    )
    .await;
    browser.sees("#nodes-frame", "render-0999").await;
    let searching = longest_freeze(
        &browser,
        "const field = document.getElementById('spawns-search');\
         for (const text of ['r', 're', 'render-07', 'render-0777']) {\
           field.value = text; field.dispatchEvent(new Event('input')); await pause(100);\
         }",
    )
    .await;
    browser.sees("#spawns-frame", "render-0777").await;
    for (what, longest) in [("watched", watching), ("scrolled", scrolling), ("searched", searching)] {
        assert!(longest < FREEZE, "nothing was drawn for {longest:?} while it was {what}");
    }

    // A person asks which are full, looks at one of them, and at the one that is being emptied.
    browser.fill("#spawns-search", "").await;
    browser.click("#nodes-show option[value=full]").await;
    browser.holds("parseInt(document.getElementById('nodes-count').innerText) >= 142").await;
    browser.fill("#nodes-search", "0994").await;
    browser.click("[data-node=render-0994] .name").await;
    browser.sees("#detail", "of 20 in use").await;
    browser.sees("[data-node=render-0994] .c-state", "Full").await;
    browser.fill("#nodes-search", "").await;
    browser.click("#nodes-show option[value='']").await;
    browser.click("[data-node=render-0003] .name").await;
    browser.sees("#drain-story", "20 spawns left").await;
    browser.sees("[data-node=render-0003] .c-state", "left, 14 min at most").await;
    for scheme in ["light", "dark"] {
        browser.prefers(scheme).await;
        browser.picture(&format!("dashboard-{scheme}")).await;
    }
    browser.screen(390, 844, true).await;
    browser.holds("innerWidth === 390 && document.documentElement.scrollWidth <= 390").await;
    browser.run("scrollTo(0, document.querySelector('.nodes').offsetTop - 8);").await;
    browser.picture("dashboard-phone").await;
    farm.finish().await;
}
