//! What is somebody else's is not there.

use hatchery_tests::{AgentPlan, Client, Farm, Look, until, wait::TIMEOUT};
use serde_json::{Value, json};

use super::{caller, farm, key_id, spawned};

async fn listed(client: Client) -> Vec<String> {
    let spawns = client.json("/v1/spawns").await["spawns"].as_array().unwrap().clone();
    spawns.iter().map(|spawn| spawn["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn only_operators_see_read_and_end_the_spawns_of_others() {
    let farm = farm().await;
    let keys = [farm.key(&["--scope", "spawn"]).await, farm.key(&["--scope", "spawn,read"]).await];
    let [alice, bob] = keys.clone().map(|key| farm.door(0).showing(&key));
    let (reader, operator) = (caller(&farm, "read").await, caller(&farm, "operate").await);
    let [hers, his] = [spawned(alice).await, spawned(bob).await];
    for (client, wanted) in
        [(alice, vec![&hers]), (bob, vec![&his]), (reader, vec![]), (operator, vec![&his, &hers])]
    {
        assert_eq!(listed(client).await.iter().collect::<Vec<_>>(), wanted);
    }
    let record = alice.json(&format!("/v1/spawns/{hers}")).await;
    assert_eq!(record["owner"], format!("key:{}", key_id(&keys[0])), "{record}");
    assert_eq!(
        operator.json(&format!("/v1/spawns/{his}")).await["owner"],
        format!("key:{}", key_id(&keys[1]))
    );
    // To the letter the answer for a spawn that there never was.
    let normal = |problem: Value, id: &str| {
        let mut problem = problem;
        problem.as_object_mut().unwrap().remove("requestId");
        serde_json::from_str::<Value>(&problem.to_string().replace(id, "ID")).unwrap()
    };
    let never = uuid::Uuid::now_v7().to_string();
    for (method, tail) in [("GET", ""), ("GET", "/log"), ("PATCH", ""), ("DELETE", "")] {
        for client in
            [bob, reader].into_iter().filter(|client| method == "GET" || client.credential == bob.credential)
        {
            let ask = async |id: &str| {
                let mut call = client.request(method, &format!("/v1/spawns/{id}{tail}"));
                if method == "PATCH" {
                    call = call.json(&json!({"maxSeconds": 1}));
                }
                let answer = call.send().await;
                normal(answer.problem(404, "not-found").json, id)
            };
            assert_eq!(ask(&hers).await, ask(&never).await, "{method} {tail}");
        }
    }
    let record = farm.record(&hers).await;
    assert_eq!((&record["state"], record.get("expiresAt")), (&json!("ready"), None), "it runs on: {record}");
    assert_eq!(alice.get(&format!("/v1/spawns/{hers}/log")).send().await.status, 200);
    // Everybody may end what is theirs, and operators everything; also when it has ended.
    assert_eq!(alice.delete(&format!("/v1/spawns/{hers}")).send().await.status, 202);
    assert_eq!(operator.delete(&format!("/v1/spawns/{his}")).send().await.status, 202);
    for id in [&hers, &his] {
        farm.reaches(id, "exited", TIMEOUT).await;
    }
    bob.get(&format!("/v1/spawns/{hers}")).send().await.problem(404, "not-found");
    assert_eq!(alice.json(&format!("/v1/spawns/{hers}")).await["state"], "exited");
    assert_eq!(listed(alice).await, [hers]);
    farm.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_is_its_owners_own() {
    let farm = farm().await;
    let [alice, bob] = [caller(&farm, "spawn").await, caller(&farm, "spawn").await];
    let keyed = async |client: Client, body: Value| {
        client.post("/spawn").header("idempotency-key", "the-same").json(&body).send().await
    };
    let hers = keyed(alice, json!({})).await.json();
    // Neither the other's answer nor a conflict with the other's request.
    let his = keyed(bob, json!({"rendererType": "ssr"})).await.json();
    assert_ne!(hers["id"], his["id"]);
    assert_eq!(keyed(alice, json!({})).await.json(), hers);
    assert_eq!(keyed(bob, json!({"rendererType": "ssr"})).await.json(), his);
    keyed(bob, json!({})).await.problem(409, "idempotency-conflict");
    farm.stop([hers["id"].as_str().unwrap(), his["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_order_goes_by_the_name_of_its_operator() {
    let farm = Farm::builder().keys().doors(2).agent(AgentPlan::slots(2)).start().await;
    let key = farm.key(&["--scope", "operate"]).await;
    let operator = farm.door(1).showing(&key);
    let drained = operator.post("/v1/nodes/node-a/drain").json(&json!({"reason": "new disks"})).send().await;
    assert_eq!(drained.status, 200, "{drained:?}");
    let by = format!("key:{}", key_id(&key));
    until("the other front door tells who drains the node", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        Look::when(node["drain"]["by"] == by.as_str(), || node.to_string())
    })
    .await;
    assert_eq!(operator.post("/v1/nodes/node-a/uncordon").send().await.status, 200);
    farm.finish().await;
}
