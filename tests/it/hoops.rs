//! Consumers of the vendor's HOOPS Server find all that they rely on at a farm: row by row of what a drop-in must match, and in the
//! words of the clients that are known.

mod attacks;
mod consumers;
mod operating;
mod ports;
mod proxy;
mod spawning;

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm, FarmBuilder, Look, Response, until};
use serde_json::{Value, json};

/// Consumers' pages come from other machines: where neither an owner nor their origins are given, those of every origin may call.
fn builder(args: &[&str]) -> FarmBuilder {
    let says_who = args.iter().any(|arg| ["--hoops-owner", "--cors-origin"].contains(arg));
    let pages: &[&str] = if says_who { &[] } else { &["--cors-origin", "*"] };
    Farm::builder().door_args(&["--hoops-listen", "127.0.0.1:0"]).door_args(pages).door_args(args)
}

/// A farm of one node that answers as the vendor's server.
async fn farm(slots: u16, args: &[&str]) -> Farm {
    builder(args).agent(AgentPlan::slots(slots)).start().await
}

/// Where the first front door answers as the vendor's server.
fn hoops(farm: &Farm) -> Client {
    farm.doors[0].hoops.expect("it listens")
}

/// A spawn by `POST /service`: its id and its endpoint.
async fn service(client: Client, body: Value) -> (String, String) {
    ok(&client.post("/service").json(&body).send().await)
}

/// The id and the endpoint in a good answer.
fn ok(response: &Response) -> (String, String) {
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    assert_eq!(answer["result"], "ok", "{answer}");
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (text(&answer["serviceId"]), text(&answer["endpoints"]["ws"]))
}

/// The reason in a failure, which has both of the vendor's shapes.
fn failure(response: &Response, status: u16) -> String {
    let answer = response.json();
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!((&answer["status"], &answer["result"]), (&json!("failed"), &json!("error")), "{answer}");
    assert_eq!(answer.get("endpoints"), None, "{answer}");
    answer["reason"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn stopped(farm: &Farm, id: &str) {
    farm.stop([id]).await;
    farm.ends(id).await;
}

/// The viewer has left, and the spawn ends by itself.
async fn ends_by_itself(farm: &Farm, id: &str) {
    let exit = farm.ends(id).await;
    assert_eq!((&exit["reason"], &exit["code"]), (&json!("disconnected"), &json!(0)), "{exit}");
}

/// The spawns of the farm, the newest first.
async fn spawns(farm: &Farm) -> Vec<Value> {
    farm.door(0).json("/v1/spawns").await["spawns"].as_array().unwrap().clone()
}

/// Nothing that was started for nobody is left.
async fn nothing_is_left(farm: &Farm) {
    until("nothing is left", TIMEOUT, async || {
        let nodes = farm.door(0).json("/v1/nodes").await;
        let used = nodes["nodes"].as_array().unwrap().iter().map(|n| n["slots"]["used"].as_u64().unwrap());
        let (processes, used) = (farm.processes().len(), used.sum::<u64>());
        Look::when((processes, used) == (0, 0), || format!("{processes} processes, {used} slots"))
    })
    .await;
}
