//! Who is let in, and what to: every operation that the front door describes, the live feed, limits, and what is told to whom.

mod limits;
mod live;
mod names;
mod operations;
mod owners;
mod secrets;

use hatchery_tests::{AgentPlan, Client, Farm, FarmBuilder};
use serde_json::{Value, json};

/// What is for everybody, credential or not. A new route is not among them unless somebody puts it there.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

fn plan() -> FarmBuilder {
    Farm::builder().keys().agent(AgentPlan::slots(16))
}

async fn farm() -> Farm {
    plan().start().await
}

/// The front door as somebody with a new key for this.
async fn caller(farm: &Farm, scope: &str) -> Client {
    farm.door(0).showing(&farm.key(&["--scope", scope]).await)
}

fn id(answer: &Value) -> &str {
    answer["id"].as_str().unwrap()
}

/// The id of an API key.
fn key_id(credential: &str) -> &str {
    credential.split('_').nth(1).unwrap()
}

async fn spawned(client: Client) -> String {
    id(&client.spawned(&json!({})).await).to_owned()
}
