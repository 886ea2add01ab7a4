//! What happened last night, and who ordered it: operators' orders, lists of ended spawns, counts of each minute, and how long all of it is
//! kept.

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm, Look, until};
use serde_json::{Value, json};

/// Orders, newest first.
async fn orders(client: Client, query: &str) -> Vec<Value> {
    client.json(&format!("/v1/audit{query}")).await["audit"].as_array().unwrap().clone()
}

/// These members of each.
fn members(orders: &[Value], names: &[&str]) -> Vec<Value> {
    orders.iter().map(|order| names.iter().map(|name| order[name].clone()).collect()).collect()
}

#[tokio::test]
async fn every_order_says_who_gave_it_when_from_where_and_what_came_of_it() {
    let flags = ["--trusted-proxy", "127.0.0.1"];
    let farm = Farm::builder().keys().doors(2).door_args(&flags).agent(AgentPlan::slots(2)).start().await;
    let ann = farm.key(&["--scope", "operate", "--name", "ann"]).await;
    let web = farm.key(&["--scope", "spawn", "--name", "web"]).await;
    let (ann, web) = (farm.door(0).showing(&ann), farm.door(0).showing(&web));
    let order = |path: &str, body: Value| {
        ann.post(path)
            .header("x-forwarded-for", "192.0.2.7")
            .header("x-request-id", "night-1")
            .json(&body)
            .send()
    };
    let (first, second) = (web.spawned(&json!({})).await, web.spawned(&json!({})).await);
    let id = |spawn: &Value| spawn["id"].as_str().unwrap().to_owned();
    assert_eq!(order("/v1/nodes/node-a/cordon", json!({})).await.status, 200);
    let drained =
        order("/v1/nodes/node-a/drain", json!({"deadlineSeconds": 600, "reason": "new kernel"})).await;
    assert_eq!(drained.status, 200, "{drained:?}");
    assert_eq!(order("/v1/nodes/node-a/uncordon", json!({})).await.status, 200);
    order("/v1/nodes/nowhere/cordon", json!({})).await.problem(404, "not-found");
    ann.delete("/v1/nodes/node-a").send().await.problem(409, "node-up");
    let life = ann.request("PATCH", &format!("/v1/spawns/{}", id(&first))).json(&json!({"maxSeconds": 3600}));
    assert_eq!(life.send().await.status, 200);
    assert_eq!(ann.delete(&format!("/v1/spawns/{}", id(&first))).send().await.status, 202);
    // A web client that ends its own spawn gives no order.
    assert_eq!(web.delete(&format!("/v1/spawns/{}", id(&second))).send().await.status, 202);

    // Another front door has them as well.
    let other = farm.door(1).showing(ann.credential.unwrap());
    let all = orders(other, "").await;
    assert_eq!(
        members(&all, &["order", "node", "outcome", "code"]),
        [
            json!(["stop", "node-a", "done", null]),
            json!(["set-life", "node-a", "done", null]),
            json!(["forget", "node-a", "refused", "node-up"]),
            json!(["cordon", "nowhere", "refused", "not-found"]),
            json!(["uncordon", "node-a", "done", null]),
            json!(["drain", "node-a", "done", null]),
            json!(["cordon", "node-a", "done", null]),
        ],
    );
    assert!(
        all.iter().all(|order| order["by"] == "ann" && order["owner"].as_str().unwrap().starts_with("key:"))
    );
    assert_eq!(members(&all[3..], &["from", "requestId"]), vec![json!(["192.0.2.7", "night-1"]); 4]);
    assert_eq!(all[2]["from"], "127.0.0.1");
    assert_eq!(members(&all[5..6], &["deadlineSeconds", "reason"]), [json!([600, "new kernel"])]);
    assert_eq!(members(&all[..2], &["spawn"]), vec![json!([id(&first)]); 2]);
    assert_eq!(all[1]["maxSeconds"], 3600);

    let page = other.json("/v1/audit?limit=5").await;
    let cursor = page["nextCursor"].as_str().unwrap();
    assert_eq!(orders(other, &format!("?limit=5&cursor={cursor}")).await, all[5..]);
    assert_eq!(orders(other, "?node=nowhere&by=ann").await, all[3..4]);
    assert_eq!(orders(other, "?by=web").await, [json!(null); 0]);
    assert_eq!(orders(other, "?order=drain&since=1h&until=0s").await, all[5..6]);
    assert_eq!(orders(other, &format!("?spawn={}", id(&first))).await, all[..2]);
    assert_eq!(orders(other, "?until=1h").await, [json!(null); 0]);
    for wrong in [
        "?order=reboot",
        "?spawn=x",
        "?since=yesterday",
        "?limit=0",
        "?cursor=x",
        "?cursor=0-0",
        "?node=a%20b",
        "?by=",
        "?colour=red",
    ] {
        other.get(&format!("/v1/audit{wrong}")).send().await.problem(400, "invalid-request");
    }
    web.get("/v1/audit").send().await.problem(403, "forbidden");
    let read = farm.key(&["--scope", "read"]).await;
    let reader = farm.door(0).showing(&read);
    reader.get("/v1/audit").send().await.problem(403, "forbidden");
    // Counts are of all owners together: callers that do not operate see slots alone.
    let seen = until("slots are counted", TIMEOUT, async || {
        let history = reader.json("/v1/history").await;
        Look::when(history["minutes"][0].is_object(), || history.to_string()).and(history.clone())
    })
    .await;
    for minute in seen["minutes"].as_array().unwrap() {
        let members: Vec<&str> = minute.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["at", "slots"], "{seen}");
    }
    assert!(ann.json("/v1/history").await["minutes"][0]["started"].is_u64());

    let line = farm.doors[0].role.logs("\"order\":\"drain\"").await;
    for words in ["operator's order", "\"by\":\"ann\"", "\"from\":\"192.0.2.7\"", "\"outcome\":\"done\""] {
        assert!(line.contains(words), "{words}: {line}");
    }
    for id in [id(&first), id(&second)] {
        until("it has ended", TIMEOUT, async || {
            let record = ann.json(&format!("/v1/spawns/{id}")).await;
            Look::when(record["state"] == "exited", || record.to_string())
        })
        .await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_order_that_redis_could_not_take_is_on_record_as_refused_once_redis_is_back() {
    let mut farm = Farm::small(1).await;
    assert_eq!(orders(farm.door(0), "").await.len(), 0);
    farm.redis.kill();
    // From then on it is not asked, so the order cannot have taken hold.
    farm.doors[0].role.logs("registry is away").await;
    farm.door(0).post("/v1/nodes/node-a/cordon").send().await.problem(503, "registry-unavailable");
    farm.doors[0].role.logs("operator's order").await;
    farm.redis.restart().await;
    until("the order is on record", TIMEOUT, async || {
        let answer = farm.door(0).get("/v1/audit").send().await;
        let all = answer.json()["audit"].as_array().cloned().unwrap_or_default();
        let order = json!(["cordon", "refused", "registry-unavailable"]);
        Look::when(members(&all, &["order", "outcome", "code"]) == [order], || answer.text())
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn the_command_line_lists_orders_and_ended_spawns() {
    let farm = Farm::small(3).await;
    let door = farm.door(0);
    assert_eq!(farm.run(&["drain", "node-a", "--deadline", "10m", "--reason", "new kernel"]).await.code, 0);
    assert_eq!(farm.run(&["uncordon", "node-a"]).await.code, 0);
    let listed = farm.run(&["audit"]).await;
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!((listed.code, lines.len()), (0, 3), "{listed:?}");
    assert!(lines[0].starts_with("AT") && lines[1].contains("uncordon"), "{listed:?}");
    for words in ["drain", "node-a", "127.0.0.1", "done", "deadline 10m", "new kernel"] {
        assert!(lines[2].contains(words), "{words}: {listed:?}");
    }
    let one = farm.run(&["audit", "--limit", "1", "--json"]).await.json();
    assert_eq!(members(one["audit"].as_array().unwrap(), &["order"]), [json!(["uncordon"])]);
    assert!(one["nextCursor"].is_string(), "{one}");
    let nothing = farm.run(&["audit", "--node", "nowhere", "--json"]).await.json();
    assert_eq!(nothing, json!({"audit": []}));

    for code in [6, 7] {
        let failed = door.spawn(&json!({"sessionToken": format!("sim:exit_before_ready={code}")})).await;
        failed.problem(502, "spawn-failed");
    }
    let ssr = door.spawned(&json!({"rendererType": "ssr"})).await["id"].as_str().unwrap().to_owned();
    farm.stop([ssr.as_str()]).await;
    let living = door.spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    until("all ends are on record", TIMEOUT, async || {
        let list = door.json("/v1/spawns?state=exited").await;
        Look::when(list["spawns"].as_array().unwrap().len() == 3, || list.to_string())
    })
    .await;
    let ids = async |flags: &[&str]| {
        let ran = farm.run(&[&["spawns", "--json"], flags].concat()).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        let spawns = ran.json()["spawns"].as_array().unwrap().clone();
        spawns.iter().map(|spawn| spawn["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&["--reason", "failed"]).await.len(), 2);
    assert_eq!(ids(&["--reason", "stopped", "--since", "24h"]).await, [ssr.as_str()]);
    assert_eq!(ids(&["--renderer", "ssr"]).await, [ssr.as_str()]);
    assert_eq!(ids(&["--since", "1h"]).await.len(), 3, "those that run have no end");
    assert_eq!(ids(&["--until", "1h"]).await.len(), 0);
    assert_eq!(ids(&["--since", "2020-01-01T00:00:00Z", "--until", "2021-01-01T00:00:00Z"]).await.len(), 0);
    let table = farm.run(&["spawns", "--reason", "failed", "--limit", "1"]).await;
    assert!(table.stdout.contains("and 1 more"), "{table:?}");
    for (query, says) in [
        ("reason=broken", "must be one of disconnected, initial-use-timeout, failed"),
        ("renderer=gpu", "must be one of csr, ssr"),
        ("since=yesterday", "24h"),
        ("until=2026-13-01T00:00:00Z", "24h"),
    ] {
        let problem = door.get(&format!("/v1/spawns?{query}")).send().await.problem(400, "invalid-request");
        assert!(problem.detail.contains(says), "{query}: {}", problem.detail);
    }
    assert_eq!(farm.run(&["spawns", "--reason", "broken"]).await.code, 2);
    assert_eq!(farm.run(&["spawns", "--since", "yesterday"]).await.code, 2);
    farm.stop([living.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_last_minutes_are_counted_through_all_front_doors() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let door = farm.door(0);
    door.spawn(&json!({"sessionToken": "sim:exit_before_ready=6"})).await.problem(502, "spawn-failed");
    let spawned = farm.door(1).spawned(&json!({})).await;
    door.spawn(&json!({})).await.problem(503, "no-capacity");
    farm.door(1).spawn(&json!({})).await.problem(503, "no-capacity");
    // One that is answered as events has the status 200 all the same.
    let watched = door.post("/spawn").header("accept", "text/event-stream").json(&json!({})).send().await;
    assert!(watched.status == 200 && watched.text().contains("no-capacity"), "{watched:?}");
    let expected = json!({
        "started": 2, "ready": 1, "failed": 1, "no-capacity": 3, "spawn-failed": 1,
        "slots": {"total": 1, "used": 1},
    });
    until("everything is counted", TIMEOUT, async || {
        let history = door.json("/v1/history?minutes=10").await;
        let minutes = history["minutes"].as_array().unwrap();
        let sum =
            |read: &dyn Fn(&Value) -> &Value| minutes.iter().filter_map(|m| read(m).as_u64()).sum::<u64>();
        let seen = json!({
            "started": sum(&|m| &m["started"]), "ready": sum(&|m| &m["ready"]),
            "failed": sum(&|m| &m["ended"]["failed"]), "no-capacity": sum(&|m| &m["refused"]["no-capacity"]),
            "spawn-failed": sum(&|m| &m["refused"]["spawn-failed"]),
            "slots": minutes.last().map(|minute| &minute["slots"]),
        });
        Look::when(seen == expected, || history.to_string())
    })
    .await;
    for wrong in ["minutes=0", "minutes=1441", "hours=1"] {
        door.get(&format!("/v1/history?{wrong}")).send().await.problem(400, "invalid-request");
    }
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn how_long_ended_spawns_are_kept_is_checked_by_every_role() {
    let farm = Farm::small(1).await;
    for role in ["frontdoor", "agent", "dev"] {
        for (value, says) in [("59s", "1m"), ("31d", "30days"), ("always", "--keep-ended")] {
            let mut line = vec![role, "--keep-ended", value];
            if role == "agent" {
                line.extend(["--executable", "/bin/true", "--node", "x"]);
            }
            let ran = farm.run(&line).await;
            assert_eq!(ran.code, 2, "{line:?}: {ran:?}");
            assert!(ran.stderr.contains("--keep-ended") && ran.stderr.contains(says), "{line:?}: {ran:?}");
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_record_and_its_log_go_after_the_time_that_was_set() {
    let keep = ["--keep-ended", "1m"];
    let farm = Farm::builder().door_args(&keep).agent(AgentPlan::slots(1).args(&keep)).start().await;
    let door = farm.door(0);
    let id = door.spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    farm.stop([id.as_str()]).await;
    let (record, log) = (format!("/v1/spawns/{id}"), format!("/v1/spawns/{id}/log"));
    assert_eq!((door.get(&record).send().await.status, door.get(&log).send().await.status), (200, 200));
    let file = farm.agent("node-a").state_dir.join(format!("logs/{id}.log"));
    assert!(file.exists());
    // The agent looks for old logs twice a minute.
    until("record and log are gone", 5 * TIMEOUT, async || {
        let status = door.get(&record).send().await.status;
        Look::when(status == 404 && !file.exists(), || {
            format!("{status}, the log is there: {}", file.exists())
        })
    })
    .await;
    assert_eq!(orders(door, "").await.len(), 0, "the order to stop it is as old");
    farm.finish().await;
}
