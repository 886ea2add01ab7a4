//! Every operation of the served description, tried by everybody who should not get through.

use std::collections::BTreeSet;

use hatchery_tests::keys::EXPIRED;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{Client, Look, Response, Subscriber, until};
use serde_json::Value;

use super::{OPEN, caller, farm, plan};

/// An operation, and the scopes of which it needs one; none: it is for everybody.
struct Operation {
    method: String,
    path: String,
    scopes: BTreeSet<String>,
    described: Value,
}

async fn operations(door: Client) -> Vec<Operation> {
    let document = door.json("/openapi.json").await;
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&"http".into(), &"bearer".into()), "{scheme}");
    let mut all = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        let path = template.replace("{id}", &uuid::Uuid::nil().to_string()).replace("{node}", "node-a");
        for (method, described) in item.as_object().unwrap() {
            let scopes = described["security"].as_array().into_iter().flatten();
            let scopes = scopes.filter_map(|one| one["bearer"][0].as_str().map(str::to_owned)).collect();
            let (method, path) = (method.to_uppercase(), path.clone());
            all.push(Operation { method, path, scopes, described: described.clone() });
        }
    }
    assert!(all.len() >= 15, "the description lost operations: {}", all.len());
    all
}

impl Operation {
    async fn tried(&self, client: Client) -> Response {
        client.request(&self.method, &self.path).send().await
    }

    fn is_open(&self) -> bool {
        // Figures are on the admin port, which is on this machine alone here.
        OPEN.contains(&self.path.as_str()) || self.path == "/metrics"
    }
}

fn challenge(answer: &Response) -> &str {
    answer.header("www-authenticate").unwrap_or_else(|| panic!("no challenge: {answer:?}"))
}

#[tokio::test]
async fn every_operation_wants_a_good_credential_that_is_good_for_it() {
    let farm = farm().await;
    let nobody = farm.door(0).showing_nothing();
    let good = farm.key(&["--scope", "spawn"]).await;
    let (head, tail) = good.split_at(good.len() - 1);
    let wrong = nobody.showing(&format!("{head}{}", if tail == "A" { "B" } else { "A" }));
    let unknown = nobody.showing(&format!("hatchery_aaaaaaaaaaaa_{}", "A".repeat(43)));
    let expired = nobody.showing(&farm.key(&["--scope", "spawn,operate", "--expires", "3s"]).await);
    until("the key has expired", TIMEOUT, async || {
        let answer = expired.get("/v1/spawns").send().await;
        Look::when(answer.status == 401 && answer.json()["detail"] == EXPIRED, || format!("{answer:?}"))
    })
    .await;
    for operation in operations(nobody).await {
        let what = format!("{} {}", operation.method, operation.path);
        if operation.is_open() {
            assert!(operation.path == "/metrics" || operation.described.get("security").is_none(), "{what}");
            continue;
        }
        assert!(!operation.scopes.is_empty(), "{what} is for everybody, and not on the list of what is");
        for status in ["401", "403"] {
            assert!(
                operation.described["responses"].get(status).is_some(),
                "{what} does not describe {status}"
            );
        }
        if operation.path == "/v1/live" {
            continue;
        }
        let missing = operation.tried(nobody).await;
        let problem = missing.problem(401, "unauthenticated");
        assert_eq!(challenge(&missing), "Bearer realm=\"hatchery\"", "{what}");
        assert!(problem.detail.contains("missing"), "{what}: {}", problem.detail);
        for (client, words) in [
            (wrong, "not valid"),
            (unknown, "not valid"),
            (nobody.showing("garbage"), "not valid"),
            (nobody.showing("a.b.c"), "not valid"),
            (expired, "expired"),
        ] {
            let answer = operation.tried(client).await;
            let problem = answer.problem(401, "unauthenticated");
            assert_eq!(challenge(&answer), "Bearer realm=\"hatchery\", error=\"invalid_token\"", "{what}");
            assert!(problem.detail.contains(words), "{what}: {}", problem.detail);
        }
        let basic = nobody.request(&operation.method, &operation.path).header("authorization", "Basic YTpi");
        basic.send().await.problem(401, "unauthenticated");
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_credential_is_good_for_what_the_description_says_and_nothing_else() {
    let farm = farm().await;
    let nobody = farm.door(0).showing_nothing();
    let all = operations(nobody).await;
    for scope in ["spawn", "read", "operate"] {
        let client = caller(&farm, scope).await;
        for operation in all.iter().filter(|operation| !operation.is_open() && operation.path != "/v1/live") {
            let what = format!("{} {} with {scope}", operation.method, operation.path);
            let implied = scope == "operate" && operation.scopes.contains("read");
            let answer = operation.tried(client).await;
            if implied || operation.scopes.contains(scope) {
                assert!(![401, 403].contains(&answer.status), "{what}: {answer:?}");
            } else {
                let problem = answer.problem(403, "forbidden");
                let named = operation.scopes.iter().all(|scope| problem.detail.contains(scope.as_str()));
                assert!(named, "{what}: {}", problem.detail);
            }
        }
    }
    // What was spawned by that is somebody's; the node is open again.
    let door = farm.door(0);
    let listed = door.json("/v1/spawns").await;
    let ids: Vec<&str> =
        listed["spawns"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    farm.stop(ids).await;
    farm.finish().await;
}

#[tokio::test]
async fn pages_and_probes_are_for_everybody_and_an_address_is_no_place_for_a_credential() {
    let farm = farm().await;
    let nobody = farm.door(0).showing_nothing();
    for path in ["/", "/demo", "/client.js", "/client.d.ts"].iter().chain(&OPEN) {
        assert_eq!(nobody.get(path).send().await.status, 200, "{path}");
    }
    assert_eq!(farm.doors[0].admin.get("/metrics").send().await.status, 200);
    // What is there is not told before somebody is known, what is not there is.
    nobody.get("/nothing").send().await.problem(404, "not-found");
    nobody.request("PUT", "/spawn").send().await.problem(405, "method-not-allowed");
    let key = farm.key(&["--scope", "read"]).await;
    for name in ["token", "access_token", "key"] {
        nobody.get(&format!("/v1/nodes?{name}={key}")).send().await.problem(401, "unauthenticated");
        let shown = nobody.showing(&key).get(&format!("/v1/nodes?{name}=x")).send().await;
        shown.problem(400, "invalid-request");
    }
    let twice = nobody.showing(&key).get("/v1/nodes").header("authorization", &format!("Bearer {key}"));
    twice.send().await.problem(401, "unauthenticated");
    farm.finish().await;
}

#[tokio::test]
async fn a_page_can_ask_first_and_read_why_it_was_refused() {
    const PAGE: &str = "https://app.example";
    let farm = plan().door_args(&["--cors-origin", PAGE]).start().await;
    let nobody = farm.door(0).showing_nothing();
    let reader = caller(&farm, "read").await;
    let limited = nobody.showing(&farm.key(&["--scope", "spawn", "--spawns-per-minute", "1"]).await);
    let preflight = nobody.request("OPTIONS", "/spawn").header("origin", PAGE);
    let preflight = preflight.header("access-control-request-method", "POST");
    let preflight =
        preflight.header("access-control-request-headers", "authorization,content-type").send().await;
    assert!([200, 204].contains(&preflight.status), "{preflight:?}");
    let allowed = preflight.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    assert!(allowed.contains("authorization"), "{allowed}");
    let spawn = async |client: Client| client.post("/spawn").header("origin", PAGE).send().await;
    let first = spawn(limited).await;
    assert_eq!(first.status, 200, "{first:?}");
    for (answer, status) in
        [(spawn(nobody).await, 401), (spawn(reader).await, 403), (spawn(limited).await, 429)]
    {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE), "{answer:?}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in ["retry-after", "www-authenticate", "x-request-id"] {
            assert!(exposed.contains(name), "{exposed}");
        }
    }
    farm.stop([first.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn without_keys_no_credential_is_wanted_and_none_is_wrong() {
    let farm = hatchery_tests::Farm::small(1).await;
    let answer = farm.door(0).showing("garbage").spawned(&serde_json::json!({})).await;
    let id = answer["id"].as_str().unwrap();
    let record = farm.door(0).json(&format!("/v1/spawns/{id}")).await;
    assert_eq!(record.get("owner"), None, "{record}");
    let mut listener = Subscriber::connect_as(farm.door(0).addr, "garbage").await;
    listener.authenticate("garbage").await;
    listener.authenticated().await;
    listener.subscribe("nodes").await;
    farm.stop([id]).await;
    farm.finish().await;
}
