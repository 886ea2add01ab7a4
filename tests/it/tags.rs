//! Whose a spawn is and what it is for: the pairs of text that its caller gave it.

use hatchery_tests::live::Subscriber;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, until};
use serde_json::{Value, json};

async fn spawn(farm: &Farm, tags: Value) -> String {
    let answer = farm.door(0).spawned(&json!({ "tags": tags })).await;
    answer["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tags_are_in_the_record_the_lists_the_feed_and_the_command_line_and_in_no_log() {
    let farm = Farm::small(2).await;
    let (mut listener, _) = Subscriber::to(farm.door(0).addr, "spawns").await;
    let tags = json!({"user": "ann@example.com", "visit": "a b=\"ü\""});
    let id = spawn(&farm, tags.clone()).await;
    let record = farm.record(&id).await;
    assert_eq!(record["tags"], tags, "{record}");
    assert_eq!(record["events"][0]["tags"], tags, "{record}");
    assert_eq!(farm.door(0).json("/v1/spawns").await["spawns"][0]["tags"], tags);
    let events = listener.until("spawn.ready").await;
    assert_eq!(events[0]["tags"], tags, "{events:?}");
    let (_, snapshot) = Subscriber::to(farm.door(0).addr, "spawns").await;
    assert_eq!(snapshot["snapshot"][0]["tags"], tags, "{snapshot:?}");
    let shown = farm.run(&["show", &id]).await;
    assert!(shown.stdout.contains("user=ann@example.com,visit=a b=\"ü\""), "{shown:?}");
    let by_command = farm.run(&["spawn", "--tag", "user=bob,x", "--tag", "visit=7", "--json"]).await;
    assert_eq!(by_command.code, 0, "{by_command:?}");
    let second = by_command.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(farm.record(&second).await["tags"], json!({"user": "bob,x", "visit": "7"}));
    let full = farm.door(0).spawn(&json!({"tags": {"user": "carl@example.com"}})).await;
    full.problem(503, "no-capacity");
    let plain = farm.run(&["spawn", "--tag", "user"]).await;
    assert_eq!(plain.code, 2, "{plain:?}");
    assert!(plain.stderr.contains("--tag") && plain.stderr.contains("key=value"), "{plain:?}");
    farm.stop([id.as_str(), second.as_str()]).await;
    assert_eq!(farm.record(&id).await["tags"], tags, "also when it has ended");
    for role in [&farm.doors[0].role, &farm.agents[0].role] {
        let log = role.log();
        assert!(log.contains(&id) || log.contains("listening"), "{} writes a log", role.name);
        for secret in ["ann@example.com", "carl@example.com", "bob,x"] {
            assert!(!log.contains(secret), "the log of {} has {secret}", role.name);
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn tags_survive_the_agent_and_the_registry() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(2)).start().await;
    let tags = json!({"user": "ann", "visit": "|{\\}"});
    let id = spawn(&farm, tags.clone()).await;
    // Killed, its successor finds the spawn in the journal; the registry has forgotten everything meanwhile.
    farm.agents[0].role.kill();
    farm.redis.says("FLUSHALL").await.unwrap();
    farm.agents[0].restart().await;
    for door in 0..2 {
        let record = until("the registry knows the spawn again", TIMEOUT, async || {
            let answer = farm.door(door).get(&format!("/v1/spawns/{id}")).send().await;
            Look::when(answer.status == 200, || format!("{answer:?}")).and(answer)
        })
        .await
        .json();
        assert_eq!((&record["tags"], &record["state"]), (&tags, &json!("ready")), "{record}");
        assert_eq!(record["events"][0]["tags"], tags, "the event that tells of it has them: {record}");
    }
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_bad_tag_is_refused_by_name_and_starts_nothing() {
    let farm = Farm::small(1).await;
    let many: serde_json::Map<String, Value> = (0..17).map(|n| (format!("k{n}"), json!("v"))).collect();
    for (tags, says) in [
        (json!({"user": "a\u{1b}[2J"}), "tag \"user\" has a value"),
        (json!({"user": "x".repeat(256)}), "tag \"user\" has a value"),
        (json!({"a=b": "c"}), "tag key \"a=b\""),
        (json!({"": "c"}), "tag key \"\""),
        (json!({"user": 7}), "tags.user"),
        (json!(["user"]), "tags"),
        (Value::Object(many), "at most 16"),
    ] {
        let answer = farm.door(0).spawn(&json!({ "tags": tags })).await;
        let problem = answer.problem(400, "invalid-request");
        assert!(problem.detail.contains(says) && problem.detail.contains("tags"), "{problem:?}");
    }
    assert!(farm.processes().is_empty());
    farm.finish().await;
}

#[tokio::test]
async fn a_repeated_call_with_other_tags_is_another_call() {
    let farm = Farm::small(2).await;
    let ask = async |tags: Value| {
        let call = farm.door(0).post("/spawn").header("idempotency-key", "one");
        call.json(&json!({ "tags": tags })).send().await
    };
    let first = ask(json!({"user": "ann", "visit": "7"})).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(
        ask(json!({"visit": "7", "user": "ann"})).await.json(),
        first.json(),
        "their order is nothing"
    );
    ask(json!({"user": "bob"})).await.problem(409, "idempotency-conflict");
    ask(json!({})).await.problem(409, "idempotency-conflict");
    farm.stop([first.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

async fn found(farm: &Farm, query: &str) -> Vec<String> {
    let list = farm.door(0).json(&format!("/v1/spawns?{query}")).await;
    list["spawns"].as_array().unwrap().iter().map(|spawn| spawn["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_list_has_those_that_are_as_every_parameter_says() {
    let farm = Farm::builder().agent(AgentPlan::slots(4)).agent(AgentPlan::slots(4)).start().await;
    let mut ids = Vec::new();
    for (user, visit) in [("ann", "1"), ("ann", "2"), ("bob=b", "1"), ("", "a b&c")] {
        ids.push(spawn(&farm, json!({"user": user, "visit": visit})).await);
    }
    let all: Vec<&str> = ids.iter().rev().map(String::as_str).collect();
    let nodes: Vec<String> = {
        let list = farm.door(0).json("/v1/spawns").await;
        let spawns = list["spawns"].as_array().unwrap();
        spawns.iter().map(|spawn| spawn["node"].as_str().unwrap().to_owned()).collect()
    };
    let on_a: Vec<&str> =
        all.iter().zip(&nodes).filter(|(_, node)| *node == "node-a").map(|(id, _)| *id).collect();
    for (query, wanted) in [
        ("tag=user=ann", vec![all[2], all[3]]),
        ("tag=user%3Dann&tag=visit=2", vec![all[2]]),
        ("tag=user=bob=b", vec![all[1]]),
        ("tag=user=&tag=visit=a+b%26c", vec![all[0]]),
        ("tag=user=an", vec![]),
        ("tag=visit=1&tag=visit=2", vec![]),
        ("tag=visit=1&state=exited", vec![]),
        ("tag=visit=1&state=ready", vec![all[1], all[3]]),
        ("node=node-a&state=ready", on_a),
        ("owner=nobody", vec![]),
    ] {
        assert_eq!(found(&farm, query).await, wanted, "{query}");
    }
    let first = farm.door(0).json("/v1/spawns?tag=user=ann&limit=1").await;
    let cursor = first["nextCursor"].as_str().unwrap();
    assert_eq!(found(&farm, &format!("tag=user=ann&limit=1&cursor={cursor}")).await, [all[3]]);
    let tag = "tag=a=b&".repeat(17);
    for (query, names) in [
        ("tag=user", "tag"),
        ("tag=", "tag"),
        ("tag=%3Dv", "tag"),
        ("tag=a=%07", "tag"),
        (tag.as_str(), "tag"),
        ("owner=", "owner"),
        ("owner=a&owner=b", "owner"),
        ("owner=%1B", "owner"),
        ("tags=a=b", "tags"),
        ("state=gone", "state"),
    ] {
        let refused = farm.door(0).get(&format!("/v1/spawns?{query}")).send().await;
        let problem = refused.problem(400, "invalid-request");
        assert!(problem.detail.starts_with(names), "{query}: {problem:?}");
    }
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn what_a_filter_names_is_listed_and_stopped_and_nothing_else() {
    let farm = Farm::small(4).await;
    let [ann, bob] = [spawn(&farm, json!({"user": "ann"})).await, spawn(&farm, json!({"user": "bob"})).await];
    let also = spawn(&farm, json!({"user": "ann", "visit": "2"})).await;
    let listed = farm.run(&["spawns", "--tag", "user=ann"]).await;
    assert!(listed.stdout.contains(&ann) && listed.stdout.contains(&also), "{listed:?}");
    assert!(!listed.stdout.contains(&bob) && listed.stdout.contains("TAGS"), "{listed:?}");
    let nothing = farm.run(&["stop"]).await;
    assert_eq!(nothing.code, 2, "{nothing:?}");
    let stopped = farm.run(&["stop", "--tag", "user=ann", "--state", "ready", "--wait"]).await;
    assert_eq!((stopped.code, stopped.stdout.lines().count()), (0, 2), "{stopped:?}");
    assert!(stopped.stderr.contains("stopping 2 spawns with tag user=ann, in state ready"), "{stopped:?}");
    for id in [&ann, &also] {
        assert_eq!(farm.ends(id).await["reason"], "stopped");
    }
    assert_eq!(farm.record(&bob).await["state"], "ready");
    let rest = farm.run(&["stop", "--all", "--node", "node-a", "--wait", "--json"]).await;
    assert_eq!((rest.code, rest.json()["id"].as_str()), (0, Some(bob.as_str())), "{rest:?}");
    farm.finish().await;
}
