//! Lists that look at every record that is kept, asked for in a loop by the holder of one key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use hatchery_tests::{AgentPlan, Farm};
use serde_json::json;

/// As many as one list looks at.
const RECORDS: usize = 5000;
/// Lists that are asked for at once.
const LISTS: usize = 100;
/// Starts of the other key.
const STARTS: usize = 20;

/// Records of spawns of this owner that have ended.
async fn with_a_past(farm: &Farm, owner: &str) {
    let seed = format!(
        "for n = 1, {RECORDS} do \
            local id = string.format('00000000-0000-7000-8000-%012d', n) \
            redis.call('ZADD', KEYS[1] .. ':spawns', n, id) \
            redis.call('ZADD', KEYS[1] .. ':spawns-of:{owner}', n, id) \
            redis.call('HSET', KEYS[1] .. ':spawn:' .. id, 'node', 'node-a', 'endpoint', 'ws://a:1', 'renderer', 'csr', \
                'state', 'exited', 'started', 1, 'ended', 2, 'pool', 'default', 'labels', '{{}}', 'tags', '{{}}', \
                'owner', '{owner}', 'events', 0) \
        end return 'seeded'"
    );
    let said = farm.redis.says(&format!("EVAL \"{seed}\" 1 {{hatchery:test}}")).await.unwrap();
    assert_eq!(said.trim_end().lines().last(), Some("seeded"), "{said}");
}

#[tokio::test]
async fn lists_that_look_at_every_record_in_a_loop_refuse_no_start_of_another_key() {
    const PATH: &str = "/v1/spawns?tag=none=1";
    let farm = Farm::builder().keys().plain_log().agent(AgentPlan::slots(2)).start().await;
    let key = farm.key(&["--scope", "spawn"]).await;
    let owner = format!("key:{}", key.split('_').nth(1).unwrap());
    with_a_past(&farm, &owner).await;
    let greedy = farm.door(0).showing(&key);
    let other = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let page = greedy.get(PATH).send().await;
    assert_eq!((page.status, &page.json()["spawns"]), (200, &json!([])), "{page:?}");
    assert_eq!(greedy.get("/v1/spawns").send().await.json()["spawns"].as_array().unwrap().len(), 100);
    let over = Arc::new(AtomicBool::new(false));
    let loops: Vec<_> = (0..LISTS)
        .map(|_| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    statuses.push(greedy.get(PATH).send().await.status);
                }
                statuses
            })
        })
        .collect();
    for number in 0..STARTS {
        let request = other.post("/spawn").header("idempotency-key", &number.to_string());
        let answer = request.json(&json!({})).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        farm.stop([id.as_str()]).await;
        farm.ends(&id).await;
    }
    over.store(true, Ordering::Relaxed);
    let statuses: Vec<u16> = join_all(loops).await.into_iter().flat_map(Result::unwrap).collect();
    assert!(
        statuses.contains(&200) && statuses.iter().all(|status| matches!(status, 200 | 429)),
        "{statuses:?}"
    );
    let failures = farm.doors[0].metrics().await.get("hatchery_frontdoor_registry_failures_total");
    assert_eq!(failures, Some(0.0), "no call to the registry was late");
    farm.finish().await;
}
