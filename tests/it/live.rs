//! The live feed as its subscribers meet it.

use std::time::Duration;

use hatchery_tests::live::seq;
use hatchery_tests::{AgentPlan, Farm, Look, Phantom, Subscriber, processes, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::{Value, json};

pub(crate) fn id(answer: &Value) -> &str {
    answer["id"].as_str().unwrap()
}

pub(crate) async fn two_doors() -> Farm {
    Farm::builder().doors(2).agent(AgentPlan::slots(8)).start().await
}

pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

/// Waits until this door's figure is this.
pub(crate) async fn metric(farm: &Farm, door: usize, series: &str, wanted: f64, limit: Duration) {
    until(&format!("{series} is {wanted}"), limit, async || {
        let found = farm.doors[door].metrics().await.get(series);
        let so = found.is_some_and(|found| (found - wanted).abs() < 0.5);
        Look::when(so, || format!("it is {found:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_subscription_is_a_snapshot_and_then_every_change_on_every_front_door() {
    let farm = two_doors().await;
    let first = farm.door(0).spawned(&json!({})).await;
    let mut listeners = Vec::new();
    for door in 0..2 {
        let mut listener = Subscriber::connect(farm.door(door).addr).await;
        assert_eq!(listener.hello["heartbeatSeconds"], 30.0, "{}", listener.hello);
        let nodes = listener.subscribe("nodes").await;
        let listed = farm.door(door).json("/v1/nodes").await;
        for field in ["id", "eligibility", "availability", "slots", "labels", "pool", "endpoint", "epoch"] {
            assert_eq!(nodes["snapshot"][0][field], listed["nodes"][0][field], "{field}: {nodes}");
        }
        let spawns = listener.subscribe("spawns").await;
        let mut told = spawns["snapshot"][0].clone();
        let mut listed = farm.door(door).json("/v1/spawns").await["spawns"][0].clone();
        for spawn in [&mut told, &mut listed] {
            spawn.as_object_mut().unwrap().remove("lastPingAt");
        }
        assert_eq!(told, listed, "the same as in the list");
        listeners.push(listener);
    }
    // Started on one, stopped on the other; the node cordoned meanwhile.
    let second = farm.door(0).spawned(&json!({"labels": {}})).await;
    assert_eq!(farm.door(1).post("/v1/nodes/node-a/cordon").send().await.status, 200);
    assert_eq!(farm.door(1).delete(&format!("/v1/spawns/{}", id(&second))).send().await.status, 202);
    let mut heard = Vec::new();
    for listener in &mut listeners {
        let mut events = Vec::new();
        while events.len() < 5 {
            events.push(listener.news().await);
        }
        assert!(events.windows(2).all(|pair| seq(&pair[0]) < seq(&pair[1])), "{events:?}");
        let [of_nodes, of_spawns]: [Vec<Value>; 2] =
            ["nodes", "spawns"].map(|topic| events.iter().filter(|e| e["topic"] == topic).cloned().collect());
        assert_eq!(kinds(&of_nodes), ["node.cordoned"]);
        assert_eq!(kinds(&of_spawns), ["spawn.launching", "spawn.ready", "spawn.stopping", "spawn.exited"]);
        assert!(of_spawns.iter().all(|event| event["spawn"] == second["id"] && event["node"] == "node-a"));
        assert_eq!(of_spawns[0]["rendererType"], "csr");
        assert_eq!(
            (&of_spawns[0]["endpoint"], &of_spawns[1]["endpoint"]),
            (&second["endpoint"], &second["endpoint"])
        );
        assert_eq!(of_spawns[3]["exit"]["reason"], "stopped");
        heard.push(events);
    }
    assert_eq!(heard[0], heard[1], "the same on both");
    // What is on record is what was told.
    let record = farm.record(id(&second)).await;
    let told = heard[0].iter().filter(|event| event["topic"] == "spawns").map(seq);
    let recorded = record["events"].as_array().unwrap().iter().map(seq);
    assert_eq!(told.collect::<Vec<_>>(), recorded.collect::<Vec<_>>());
    farm.stop([id(&first)]).await;
    farm.ends(id(&first)).await;
    farm.door(0).post("/v1/nodes/node-a/uncordon").send().await;
    farm.finish().await;
}

#[tokio::test]
async fn a_killed_process_is_heard_of_on_all_topics_it_belongs_to_through_another_front_door() {
    let farm = two_doors().await;
    let spawn = farm.door(0).spawned(&json!({})).await;
    let other = farm.door(0).spawned(&json!({})).await;
    let topics = ["spawns".to_owned(), "node:node-a".to_owned(), format!("spawn:{}", id(&spawn))];
    let mut listener = Subscriber::connect(farm.door(1).addr).await;
    for topic in &topics {
        let subscribed = listener.subscribe(topic).await;
        assert!(!subscribed["snapshot"].is_null(), "{subscribed}");
    }
    let (mut elsewhere, unknown) = Subscriber::to(farm.door(1).addr, "node:nowhere").await;
    assert!(
        unknown.as_object().unwrap().contains_key("snapshot") && unknown["snapshot"].is_null(),
        "{unknown}"
    );
    processes::signal(farm.process(id(&spawn)).unwrap().pid, Signal::KILL);
    let mut told = Vec::new();
    for _ in &topics {
        let event = listener.news().await;
        assert_eq!((&event["kind"], &event["spawn"]), (&json!("spawn.exited"), &spawn["id"]), "{event}");
        assert_eq!(event["exit"], json!({"reason": "signaled", "signal": "SIGKILL"}));
        told.push(event["topic"].as_str().unwrap().to_owned());
    }
    told.sort_by_key(|topic| topics.iter().position(|t| t == topic));
    assert_eq!(told, topics);
    // One that has ended can be looked at; it is no more among those that live.
    let ended = listener.subscribe(&topics[2]).await;
    assert_eq!((&ended["snapshot"]["state"], &ended["snapshot"]["id"]), (&json!("exited"), &spawn["id"]));
    assert_eq!(ended["snapshot"]["exit"]["signal"], "SIGKILL");
    let left = listener.subscribe("spawns").await;
    assert_eq!(left["snapshot"].as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left["snapshot"][0]["id"], other["id"]);
    // Nothing is told on a topic that was given up.
    for topic in &topics {
        listener.unsubscribe(topic).await;
    }
    farm.stop([id(&other)]).await;
    farm.ends(id(&other)).await;
    listener.hears_nothing(Duration::from_millis(300)).await;
    elsewhere.hears_nothing(Duration::from_millis(10)).await;
    farm.finish().await;
}

#[tokio::test]
async fn pings_come_together_and_one_by_one_to_subscribers_of_one_spawn() {
    let plan = AgentPlan::slots(4).args(&["--ping-interval", "1s"]);
    let farm = Farm::builder().agent(plan).start().await;
    let mut spawns = Vec::new();
    for _ in 0..3 {
        spawns.push(farm.door(0).spawned(&json!({})).await);
    }
    // Without a subscriber, too, it is known when each last reported.
    let path = format!("/v1/spawns/{}", id(&spawns[0]));
    let pinged = async || farm.door(0).json(&path).await["lastPingAt"].clone();
    for _ in 0..2 {
        let before = pinged().await;
        until("another ping", TIMEOUT, async || Look::when(pinged().await != before, || before.to_string()))
            .await;
    }
    let (mut one, _) = Subscriber::to(farm.door(0).addr, &format!("spawn:{}", id(&spawns[0]))).await;
    let (mut all, _) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let ping = one.event().await;
    assert_eq!((&ping["kind"], &ping["spawn"]), (&json!("spawn.ping"), &spawns[0]["id"]), "{ping}");
    assert!(ping.get("pings").is_none(), "{ping}");
    let mut pinged = std::collections::BTreeSet::new();
    while pinged.len() < 3 {
        let event = all.event().await;
        assert_eq!((&event["kind"], event.get("spawn")), (&json!("spawn.ping"), None), "{event}");
        if seq(&event) == seq(&ping) {
            assert_eq!(event["pings"][id(&spawns[0])], ping["at"], "the same ping");
        }
        pinged.extend(event["pings"].as_object().unwrap().keys().cloned());
    }
    let snapshot = all.subscribe("spawns").await;
    assert!(
        snapshot["snapshot"].as_array().unwrap().iter().all(|s| s["lastPingAt"].is_string()),
        "{snapshot}"
    );
    farm.stop(spawns.iter().map(id)).await;
    for spawn in &spawns {
        farm.ends(id(spawn)).await;
    }
    farm.finish().await;
}

/// Resumes everywhere in a list of events; exactly those after each must follow.
async fn resumes_everywhere(listener: &mut Subscriber, before: u64, events: &[Value]) {
    let positions = std::iter::once(before).chain(events.iter().map(seq));
    for (n, since) in positions.enumerate() {
        let subscribed = listener.resume("spawns", since).await;
        assert!(subscribed.get("snapshot").is_none(), "{subscribed}");
        assert_eq!(seq(&subscribed), since);
        for wanted in &events[n..] {
            assert_eq!(listener.news().await, *wanted);
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_comes_back_gets_exactly_what_it_missed_on_any_front_door() {
    let farm = two_doors().await;
    let (mut listener, subscribed) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let before = seq(&subscribed);
    for _ in 0..4 {
        let spawn = farm.door(0).spawned(&json!({})).await;
        farm.stop([id(&spawn)]).await;
        farm.ends(id(&spawn)).await;
    }
    let mut events = Vec::new();
    while events.len() < 16 {
        events.push(listener.news().await);
    }
    assert_eq!(kinds(&events).iter().filter(|kind| **kind == "spawn.exited").count(), 4);
    resumes_everywhere(&mut listener, before, &events).await;
    // A number that no event here has is of another registry, wherever it lies: nothing can be gone on with.
    let between = seq(&events[3]) - 1;
    if !events.iter().any(|event| seq(event) == between) {
        let begins = listener.resume("spawns", between).await;
        assert!(begins["snapshot"].is_array(), "{begins}");
    }
    // On the other one nobody has listened before.
    let mut other = Subscriber::connect(farm.door(1).addr).await;
    resumes_everywhere(&mut other, before, &events).await;
    // And they go on.
    let spawn = farm.door(0).spawned(&json!({})).await;
    for listener in [&mut listener, &mut other] {
        assert_eq!(listener.news().await["kind"], "spawn.launching");
        assert_eq!(listener.news().await["spawn"], spawn["id"]);
    }
    // What nobody can have heard yet is no place to go on from.
    let future = listener.resume("spawns", seq(&events[0]) + 3_600_000_000).await;
    assert_eq!(future["snapshot"][0]["id"], spawn["id"], "{future}");
    // Nor is what was before everything.
    let past = listener.resume("spawns", 1).await;
    assert_eq!(past["snapshot"][0]["id"], spawn["id"], "{past}");
    farm.stop([id(&spawn)]).await;
    farm.ends(id(&spawn)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_subscriber_that_was_away_for_long_catches_up_from_the_registrys_own_stream() {
    let farm = two_doors().await;
    let mut phantom = Phantom::start(&farm.redis.url(), "phantom").await;
    // One at each, for a front door nobody listens to would have to read it all first.
    let (mut listener, subscribed) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let (mut other, _) = Subscriber::to(farm.door(1).addr, "spawns").await;
    // More than a front door remembers; no faster than its subscriber hears it.
    let (steps, each) = (24, 250);
    let mut seqs = Vec::new();
    for _ in 0..steps {
        phantom.tell(each).await;
        for _ in 0..each * 2 {
            let heard = seq(&listener.news().await);
            assert_eq!(seq(&other.news().await), heard);
            seqs.push(heard);
        }
    }
    let count = seqs.len();
    for door in 0..2 {
        let mut late = Subscriber::connect(farm.door(door).addr).await;
        let resumed = late.resume("spawns", seq(&subscribed)).await;
        assert!(resumed.get("snapshot").is_none(), "{resumed}");
        let mut again = Vec::new();
        while again.len() < count {
            again.push(seq(&late.news().await));
        }
        assert!(again == seqs, "every one, once, in order");
    }
    farm.shut_down().await;
}

#[tokio::test]
async fn when_the_registry_was_wiped_subscriptions_begin_anew() {
    let farm = two_doors().await;
    let spawn = farm.door(0).spawned(&json!({})).await;
    let (mut listener, subscribed) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let before = seq(&subscribed);
    assert!(farm.redis.flush().await);
    let anew = listener.subscribed("spawns").await;
    assert_eq!(anew["snapshot"][0]["id"], spawn["id"], "not before the agents have told it again: {anew}");
    assert_eq!(anew["snapshot"][0]["state"], "ready", "{anew}");
    assert!(seq(&anew) > before);
    for door in 0..2 {
        let mut late = Subscriber::connect(farm.door(door).addr).await;
        let instead = late.resume("spawns", before).await;
        assert_eq!(instead["snapshot"][0]["id"], spawn["id"], "{instead}");
    }
    farm.stop([id(&spawn)]).await;
    let events = listener.until("spawn.exited").await;
    assert!(events.iter().all(|event| seq(event) > seq(&anew)));
    assert_eq!(kinds(&events).last(), Some(&"spawn.exited"));
    farm.ends(id(&spawn)).await;
    farm.finish().await;
}

#[tokio::test]
async fn what_happens_while_redis_hangs_is_reported_afterwards() {
    let farm = two_doors().await;
    let spawn = farm.door(0).spawned(&json!({})).await;
    let stays = farm.door(0).spawned(&json!({})).await;
    let mut listeners = Vec::new();
    for door in 0..2 {
        listeners.push(Subscriber::to(farm.door(door).addr, "spawns").await.0);
    }
    for door in 0..2 {
        metric(&farm, door, "hatchery_frontdoor_snapshot_nodes", 1.0, TIMEOUT).await;
    }
    farm.redis.signal(Signal::STOP);
    processes::signal(farm.process(id(&spawn)).unwrap().pid, Signal::KILL);
    until("the front door has noticed", TIMEOUT, async || {
        let ready = farm.door(0).get("/readyz").send().await;
        Look::when(ready.status == 200 && ready.json()["status"] == "degraded", || format!("{ready:?}"))
    })
    .await;
    // Whoever comes now sees the farm as it was when last heard of.
    let (late, snapshot) = Subscriber::to(farm.door(0).addr, "spawns").await;
    assert_eq!(snapshot["snapshot"].as_array().unwrap().len(), 2, "{snapshot}");
    listeners.push(late);
    farm.redis.signal(Signal::CONT);
    for listener in &mut listeners {
        let event = listener.news().await;
        assert_eq!((&event["kind"], &event["spawn"]), (&json!("spawn.exited"), &spawn["id"]), "{event}");
    }
    farm.stop([id(&stays)]).await;
    for listener in &mut listeners {
        assert_eq!(listener.news().await["spawn"], stays["id"], "the first end was told once");
    }
    farm.ends(id(&stays)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_subscriber_is_not_taken_for_silent_while_its_snapshot_cannot_be_read() {
    // Shorter than a front door waits for the registry.
    let door = ["--live-ping-interval", "1s"];
    let farm = Farm::builder().door_args(&door).agent(AgentPlan::slots(1)).start().await;
    farm.redis.signal(Signal::STOP);
    let mut subscriber = Subscriber::connect(farm.door(0).addr).await;
    subscriber.say(r#"{"type":"subscribe","topic":"spawns"}"#).await;
    assert_eq!(subscriber.closed().await, (1013, "registry unavailable".to_owned()));
    farm.redis.signal(Signal::CONT);
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_that_leaves_says_so_and_another_one_goes_on_without_a_gap() {
    let mut farm = two_doors().await;
    let spawns = [farm.door(1).spawned(&json!({})).await, farm.door(1).spawned(&json!({})).await];
    let (mut listener, _) = Subscriber::to(farm.door(0).addr, "spawns").await;
    // Somebody who does not listen must not keep it from leaving.
    let (deaf, _) = Subscriber::to(farm.door(0).addr, "spawns").await;
    farm.stop([id(&spawns[0])]).await;
    let mut heard = vec![listener.news().await, listener.news().await];
    farm.doors[0].role.signal(Signal::TERM);
    assert_eq!(listener.closed().await, (1001, "server shutting down".to_owned()));
    drop(listener);
    // This happens while nobody listens to whom it was told.
    processes::signal(farm.process(id(&spawns[1])).unwrap().pid, Signal::KILL);
    until("it is on record", TIMEOUT, async || {
        let record = farm.door(1).json(&format!("/v1/spawns/{}", id(&spawns[1]))).await;
        Look::when(record["state"] == "exited", || record.to_string())
    })
    .await;
    let mut other = Subscriber::connect(farm.door(1).addr).await;
    let resumed = other.resume("spawns", seq(&heard[1])).await;
    assert!(resumed.get("snapshot").is_none(), "{resumed}");
    heard.push(other.news().await);
    assert_eq!(kinds(&heard), ["spawn.stopping", "spawn.exited", "spawn.exited"]);
    assert_eq!(heard[2]["spawn"], spawns[1]["id"]);
    let status = farm.doors[0].role.end().await;
    assert!(status.success(), "{status}");
    drop(deaf);
    farm.doors[0].restart().await;
    let mut again = Subscriber::connect(farm.door(0).addr).await;
    let resumed = again.resume("spawns", seq(&heard[0])).await;
    assert!(resumed.get("snapshot").is_none(), "{resumed}");
    assert_eq!([again.news().await, again.news().await], heard[1..]);
    farm.finish().await;
}

#[tokio::test]
async fn a_feed_without_subscribers_is_not_followed() {
    let farm = Farm::small(1).await;
    let log = farm.doors[0].role.log();
    assert!(!log.contains("live feed begins"), "{log}");
    let listener = Subscriber::connect(farm.door(0).addr).await;
    assert!(!farm.doors[0].role.log().contains("live feed begins"), "not for one who does not subscribe");
    drop(listener);
    let (listener, _) = Subscriber::to(farm.door(0).addr, "nodes").await;
    farm.doors[0].role.logs("live feed begins").await;
    drop(listener);
    metric(&farm, 0, "hatchery_frontdoor_live_connections", 0.0, TIMEOUT).await;
    metric(&farm, 0, r#"hatchery_frontdoor_live_subscriptions{topic="nodes"}"#, 0.0, TIMEOUT).await;
    farm.finish().await;
}
