//! What owners are called, and what is theirs by name.

use std::fs;

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm, Look, Subscriber, until};
use serde_json::json;

use super::{farm, key_id, spawned};

async fn found(client: Client, query: &str) -> Vec<String> {
    let list = client.json(&format!("/v1/spawns?{query}")).await;
    list["spawns"].as_array().unwrap().iter().map(|spawn| spawn["id"].as_str().unwrap().to_owned()).collect()
}

/// Changes a key with these flags.
async fn set(farm: &Farm, credential: &str, flags: &[&str]) {
    let file = farm.keys();
    let args = [&["key", "set", key_id(credential), "--file", file.to_str().unwrap()], flags].concat();
    let ran = farm.run(&args).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test]
async fn owners_go_by_the_names_of_their_keys_and_are_found_by_name_and_by_id() {
    let farm = farm().await;
    let named = farm.key(&["--scope", "spawn", "--name", "web shop"]).await;
    let plain = farm.key(&["--scope", "spawn"]).await;
    let operator = farm.door(0).showing(&farm.key(&["--scope", "operate", "--name", "ops"]).await);
    let [shop, other] = [&named, &plain].map(|key| farm.door(0).showing(key));
    let mut listener = Subscriber::connect_as(farm.door(0).addr, operator.credential.unwrap()).await;
    listener.subscribe("spawns").await;
    let [theirs, others] = [spawned(shop).await, spawned(other).await];
    let events = listener.until("spawn.ready").await;
    assert_eq!(events[0]["owner"], "web shop", "{events:?}");
    let plain_owner = format!("key:{}", key_id(&plain));
    for (id, owner) in [(&theirs, "web shop"), (&others, plain_owner.as_str())] {
        let record = operator.json(&format!("/v1/spawns/{id}")).await;
        assert_eq!(
            (&record["owner"], &record["events"][0]["owner"]),
            (&json!(owner), &json!(owner)),
            "{record}"
        );
    }
    let mut late = Subscriber::connect_as(farm.door(0).addr, operator.credential.unwrap()).await;
    let snapshot = late.subscribe("spawns").await["snapshot"].clone();
    let owners: Vec<&str> =
        snapshot.as_array().unwrap().iter().map(|s| s["owner"].as_str().unwrap()).collect();
    assert_eq!(owners, [plain_owner.as_str(), "web shop"], "{snapshot}");
    let id = key_id(&named);
    for by in ["web%20shop", id, &format!("key:{id}")] {
        assert_eq!(found(operator, &format!("owner={by}")).await, [theirs.as_str()], "{by}");
        assert_eq!(found(shop, &format!("owner={by}")).await, [theirs.as_str()], "{by}");
        // A caller that may not see it learns nothing.
        assert_eq!(found(other, &format!("owner={by}")).await, [""; 0], "{by}");
    }
    assert_eq!(found(operator, "owner=nobody").await, [""; 0]);
    // A new name counts at once, for what runs, too.
    set(&farm, &named, &["--name", "shop 2"]).await;
    until("the spawn is shown with the new name", TIMEOUT, async || {
        let record = operator.json(&format!("/v1/spawns/{theirs}")).await;
        Look::when(record["owner"] == "shop 2", || record.to_string())
    })
    .await;
    assert_eq!(found(operator, "owner=shop%202").await, [theirs.as_str()]);
    assert_eq!(found(operator, "owner=web%20shop").await, [""; 0]);
    farm.stop([theirs.as_str(), others.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn limits_of_a_key_are_changed_while_its_holder_calls() {
    let farm = farm().await;
    let key = farm.key(&["--scope", "spawn", "--concurrent-spawns", "1"]).await;
    let client = farm.door(0).showing(&key);
    let mut ids = vec![spawned(client).await];
    client.spawn(&json!({})).await.problem(429, "quota-exceeded");
    set(&farm, &key, &["--concurrent-spawns", "2"]).await;
    let second = until("the new limit counts", TIMEOUT, async || {
        let answer = client.spawn(&json!({})).await;
        Look::when(answer.status == 200, || format!("{answer:?}")).and(answer)
    })
    .await;
    ids.push(second.json()["id"].as_str().unwrap().to_owned());
    client.spawn(&json!({})).await.problem(429, "quota-exceeded");
    // A lower one ends nothing.
    set(&farm, &key, &["--concurrent-spawns", "1"]).await;
    set(&farm, &key, &["--scope", "read"]).await;
    until("the scope is gone", TIMEOUT, async || {
        let answer = client.spawn(&json!({})).await;
        Look::when(answer.status == 403, || format!("{answer:?}"))
    })
    .await;
    for id in &ids {
        assert_eq!(client.json(&format!("/v1/spawns/{id}")).await["state"], "ready");
    }
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_token_carries_the_limits_of_its_subject() {
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("jwt");
    fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let file = secret.to_str().unwrap();
    let plan = Farm::builder().keys().door_args(&["--jwt-keys", file]).agent(AgentPlan::slots(8));
    let farm = plan.start().await;
    let token = async |flags: &[&str]| {
        let new = ["token", "new", "--key-file", file, "--subject", "ann", "--for", "10m"];
        let ran = farm.run(&[&new[..], flags].concat()).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout.trim_end().to_owned()
    };
    let one = token(&["--concurrent-spawns", "1"]).await;
    let client = farm.door(0).showing(&one);
    let first = spawned(client).await;
    client.spawn(&json!({})).await.problem(429, "quota-exceeded");
    // Another token of the same subject: each call goes by the limit that its token states.
    let two = token(&["--concurrent-spawns", "2"]).await;
    let second = spawned(farm.door(0).showing(&two)).await;
    client.spawn(&json!({})).await.problem(429, "quota-exceeded");
    let free = token(&[]).await;
    let third = spawned(farm.door(0).showing(&free)).await;
    let slow = token(&["--spawns-per-minute", "1"]).await;
    let slow = farm.door(0).showing(&slow);
    let fourth = spawned(slow).await;
    slow.spawn(&json!({})).await.problem(429, "rate-limited");
    farm.stop([first.as_str(), second.as_str(), third.as_str(), fourth.as_str()]).await;
    farm.finish().await;
}
