//! The live feed of a large farm: one snapshot for many subscribers, in parts, of the spawns that are asked for and no others.

use std::time::Duration;

use futures_util::future::join_all;
use hatchery_tests::live::seq;
use hatchery_tests::{AgentPlan, Farm, Look, Phantom, Subscriber, until, wait::TIMEOUT};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use super::live::{id, kinds};

fn ids(snapshot: &Value) -> Vec<Value> {
    snapshot.as_array().unwrap().iter().map(|spawn| spawn["id"].clone()).collect()
}

/// A subscription that takes a long snapshot in parts: all frames of it.
async fn in_parts(subscriber: &mut Subscriber, topic: &str) -> Vec<Value> {
    subscriber.say(&json!({"type": "subscribe", "topic": topic, "parts": true}).to_string()).await;
    let mut frames = vec![subscriber.subscribed(topic).await];
    let count = frames[0]["parts"].as_u64().unwrap();
    for part in 2..=count {
        let frame = subscriber.anything().await;
        assert_eq!((&frame["type"], &frame["part"]), (&json!("part"), &json!(part)));
        frames.push(frame);
    }
    frames
}

#[tokio::test]
async fn a_snapshot_of_many_spawns_is_one_message_or_parts_that_add_up_to_it() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let mut phantom = Phantom::start(&farm.redis.url(), "phantom").await.wordy(200);
    for _ in 0..8 {
        phantom.hold(250).await;
    }
    let mut subscriber = Subscriber::connect(farm.door(0).addr).await;
    assert_eq!(subscriber.hello["features"], json!(["parts", "narrowed"]));
    let whole = subscriber.subscribe("spawns").await;
    assert_eq!(ids(&whole["snapshot"]).len(), 2000);
    assert!(whole.get("parts").is_none(), "who does not ask for parts gets one message");
    let parts = in_parts(&mut subscriber, "spawns").await;
    assert!(parts.len() > 1, "{} parts", parts.len());
    assert!(parts.iter().all(|part| seq(part) == seq(&parts[0]) && part["topic"] == "spawns"));
    let all: Vec<Value> = parts.iter().flat_map(|part| ids(&part["snapshot"])).collect();
    assert_eq!(all, ids(&whole["snapshot"]));
    // What happens next comes after the last part, once.
    let spawn = farm.door(0).spawned(&json!({})).await;
    let events = subscriber.until("spawn.ready").await;
    assert!(events.iter().all(|event| seq(event) > seq(&parts[0])));
    assert_eq!(events.last().unwrap()["spawn"], spawn["id"]);
    farm.stop([id(&spawn)]).await;
    farm.ends(id(&spawn)).await;
    farm.shut_down().await;
}

#[tokio::test]
async fn subscribers_that_come_at_once_share_a_snapshot_also_on_a_front_door_that_has_just_begun() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let spawn = farm.door(0).spawned(&json!({})).await;
    farm.doors[0].restart().await;
    let door = farm.door(0).addr;
    let crowd = join_all((0..100).map(|_| Subscriber::to(door, "spawns"))).await;
    assert!(crowd.iter().all(|(_, subscribed)| subscribed["snapshot"][0]["id"] == spawn["id"]));
    let series = r#"hatchery_frontdoor_live_snapshots_encoded_total{topic="spawns"}"#;
    let encoded = farm.doors[0].metrics().await.get(series).unwrap();
    // One for those of each quarter of a second.
    assert!((1.0..=20.0).contains(&encoded), "{encoded} for {} subscribers", crowd.len());
    drop(crowd);
    farm.stop([id(&spawn)]).await;
    farm.ends(id(&spawn)).await;
    farm.finish().await;
}

/// What Redis is asked by its clients, scripts aside.
struct Monitor(Lines<BufReader<TcpStream>>);

impl Monitor {
    async fn begin(farm: &Farm) -> Self {
        let mut stream = TcpStream::connect(farm.redis.addr()).await.unwrap();
        stream.write_all(b"MONITOR\r\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "+OK");
        Self(lines)
    }

    /// Reads up to a command that has these words in it; the reads of spawns, and of what a node holds, up to there.
    async fn reads_until(&mut self, words: &str) -> Vec<String> {
        let mut reads = Vec::new();
        loop {
            let line = tokio::time::timeout(TIMEOUT, self.0.next_line()).await.expect("a command in time");
            let line = line.unwrap().unwrap();
            if line.contains(words) {
                return reads;
            }
            let is_read = line.contains("\"HGETALL\"") || line.contains("\"HMGET\"");
            if is_read && !line.contains(" lua]") && (line.contains(":held:") || line.contains(":spawn:")) {
                reads.push(line);
            }
        }
    }
}

#[tokio::test]
async fn a_front_door_reads_no_spawns_for_a_subscriber_to_nodes_and_those_of_one_node_for_one_who_asks_for_them()
 {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(2)).start().await;
    let mut spawns = Vec::new();
    for _ in 0..4 {
        spawns.push(farm.door(0).spawned(&json!({})).await);
    }
    let mut monitor = Monitor::begin(&farm).await;
    let mut subscriber = Subscriber::connect(farm.door(0).addr).await;
    let mark = async |word: &str| assert!(farm.redis.says(&format!("ECHO {word}")).await.is_some());
    let nodes = subscriber.subscribe("nodes").await;
    assert_eq!(nodes["snapshot"].as_array().unwrap().len(), 2);
    mark("first").await;
    assert_eq!(monitor.reads_until("first").await, Vec::<String>::new(), "nobody asked for spawns");

    let on_a = subscriber.subscribe("spawns?node=node-a").await;
    let mut wanted: Vec<Value> = spawns
        .iter()
        .filter(|spawn| spawn["node"] == "node-a")
        .rev()
        .map(|spawn| spawn["id"].clone())
        .collect();
    wanted.sort_by_key(|id| std::cmp::Reverse(id.to_string()));
    assert_eq!(ids(&on_a["snapshot"]), wanted);
    mark("second").await;
    let reads = monitor.reads_until("second").await;
    assert!(!reads.is_empty() && reads.iter().all(|read| !read.contains(":held:node-b")), "{reads:?}");

    let all = subscriber.subscribe("spawns").await;
    assert_eq!(ids(&all["snapshot"]).len(), 4);
    mark("third").await;
    let reads = monitor.reads_until("third").await;
    let held = |node: &str| reads.iter().filter(|read| read.contains(&format!(":held:{node}"))).count();
    assert_eq!((held("node-a"), held("node-b")), (0, 1), "what is here is not read again: {reads:?}");
    farm.stop(spawns.iter().map(id)).await;
    for spawn in &spawns {
        farm.ends(id(spawn)).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_part_of_all_spawns_is_a_topic_of_its_own_by_node_owner_and_tag() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(4)).start().await;
    let ann = farm.door(0).spawned(&json!({"tags": {"user": "ann"}})).await;
    let topics = ["spawns?tag=user=ann", "spawns?node=node-a&tag=user=bob", "spawns?node=nowhere"];
    let mut subscribers = Vec::new();
    for door in 0..2 {
        let mut subscriber = Subscriber::connect(farm.door(door).addr).await;
        for (topic, wanted) in topics.iter().zip([vec![ann["id"].clone()], vec![], vec![]]) {
            assert_eq!(ids(&subscriber.subscribe(topic).await["snapshot"]), wanted, "{topic}");
        }
        subscribers.push(subscriber);
    }
    let bob = farm.door(1).spawned(&json!({"tags": {"user": "bob"}})).await;
    farm.stop([id(&ann), id(&bob)]).await;
    for spawn in [&ann, &bob] {
        farm.ends(id(spawn)).await;
    }
    for subscriber in &mut subscribers {
        let mut told = Vec::new();
        while told.iter().filter(|event: &&Value| event["kind"] == "spawn.exited").count() < 2 {
            told.push(subscriber.news().await);
        }
        for (topic, spawn, wanted) in [
            (topics[0], &ann, &["spawn.stopping", "spawn.exited"][..]),
            (topics[1], &bob, &["spawn.launching", "spawn.ready", "spawn.stopping", "spawn.exited"]),
        ] {
            let of: Vec<Value> = told.iter().filter(|event| event["topic"] == topic).cloned().collect();
            assert_eq!(kinds(&of), wanted, "{topic}");
            assert!(of.iter().all(|event| event["spawn"] == spawn["id"]), "{of:?}");
        }
        // It is resumed as any other topic.
        let since = told.iter().filter(|event| event["topic"] == topics[1]).map(seq).min().unwrap();
        let resumed = subscriber.resume(topics[1], since).await;
        assert!(resumed.get("snapshot").is_none(), "{resumed}");
        for kind in ["spawn.ready", "spawn.stopping", "spawn.exited"] {
            assert_eq!(subscriber.news().await["kind"], kind);
        }
        subscriber.say(r#"{"type":"subscribe","topic":"spawns?state=ready"}"#).await;
        assert!(subscriber.violation().await.contains("node, owner and tag"));
        subscriber.unsubscribe(topics[0]).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn nodes_are_listed_page_by_page_by_what_they_are_and_whole_without_parameters() {
    let farm = Farm::builder()
        .agent(AgentPlan::slots(1))
        .agent(AgentPlan::slots(1))
        .agent(AgentPlan::slots(1))
        .start()
        .await;
    let door = farm.door(0);
    let names = |list: &Value| -> Vec<String> {
        list["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = door.json("/v1/nodes").await;
    assert_eq!(
        (names(&all), all.get("nextCursor")),
        (vec!["node-a".into(), "node-b".into(), "node-c".into()], None)
    );
    let first = door.json("/v1/nodes?limit=2").await;
    assert_eq!(
        (names(&first), &first["nextCursor"]),
        (vec!["node-a".into(), "node-b".into()], &json!("node-b"))
    );
    let next = door.json("/v1/nodes?limit=2&cursor=node-b").await;
    assert_eq!((names(&next), next.get("nextCursor")), (vec!["node-c".to_owned()], None));
    assert_eq!(door.post("/v1/nodes/node-b/cordon").send().await.status, 200);
    until("the order is seen", Duration::from_secs(5), async || {
        let cordoned = names(&door.json("/v1/nodes?eligibility=cordoned&pool=default").await);
        Look::when(cordoned == ["node-b"], || format!("{cordoned:?}"))
    })
    .await;
    assert_eq!(names(&door.json("/v1/nodes?health=failing").await), Vec::<String>::new());
    for wrong in [
        "limit=0",
        "limit=1001",
        "pool=",
        "state=up",
        "label=x",
        "health=fine",
        "cursor=a%20b",
        "pool=a&pool=b",
    ] {
        let refused = door.get(&format!("/v1/nodes?{wrong}")).send().await;
        assert_eq!(refused.status, 400, "{wrong}");
    }
    let ran = farm.run(&["nodes", "--eligibility", "cordoned", "-q"]).await;
    assert_eq!(ran.stdout.trim(), "node-b");
    assert_eq!(door.post("/v1/nodes/node-b/uncordon").send().await.status, 200);
    farm.finish().await;
}
