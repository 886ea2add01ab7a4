//! What surrounds the calls themselves: CORS, the description of the surface, probes, figures.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Client, Farm, Look, Response, until, wait::TIMEOUT};
use serde_json::json;

use crate::outage::ready_again;

const PAGE: &str = "http://app.example";

fn cors(answer: &Response) -> Vec<&str> {
    let names = answer.headers.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.starts_with("access-control-")).collect()
}

async fn preflight(door: Client, path: &str, origin: &str) -> Response {
    let request = door.request("OPTIONS", path).header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "content-type,idempotency-key,x-request-id").send().await
}

#[tokio::test]
async fn a_page_from_anywhere_may_spawn_and_nothing_else() {
    let farm = Farm::builder().door_args(&["--cors-origin", "*"]).agent(AgentPlan::slots(1)).start().await;
    let door = farm.door(0);
    let answer = preflight(door, "/spawn", PAGE).await;
    assert!([200, 204].contains(&answer.status), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{answer:?}");
    assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"), "{answer:?}");
    let allowed = answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    for header in ["content-type", "idempotency-key", "x-request-id"] {
        assert!(allowed == "*" || allowed.contains(header), "{allowed}");
    }
    let spawned = door.post("/spawn").header("origin", PAGE).json(&json!({})).send().await;
    assert_eq!((spawned.status, spawned.header("access-control-allow-origin")), (200, Some("*")));
    // A page wants to read errors too, and when to come again.
    let full = door.post("/spawn").header("origin", PAGE).json(&json!({})).send().await;
    full.problem(503, "no-capacity");
    assert_eq!(full.header("access-control-allow-origin"), Some("*"), "{full:?}");
    let exposed = full.header("access-control-expose-headers").unwrap_or_default().to_ascii_lowercase();
    assert!(exposed == "*" || exposed.contains("retry-after"), "{full:?}");
    let bad = door
        .post("/spawn")
        .header("origin", PAGE)
        .header("content-type", "application/json")
        .body("{")
        .send();
    assert_eq!(bad.await.header("access-control-allow-origin"), Some("*"));

    let id = spawned.json()["id"].as_str().unwrap().to_owned();
    for path in ["/v1/nodes", "/v1/nodes/node-a", "/v1/spawns"] {
        for answer in [preflight(door, path, PAGE).await, door.get(path).header("origin", PAGE).send().await]
        {
            assert_eq!(cors(&answer), Vec::<&str>::new(), "{path}: {answer:?}");
        }
    }
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn only_pages_of_the_named_origins_may_spawn() {
    let args = ["--cors-origin", "http://app.example,https://other.example:8443"];
    let farm = Farm::builder().door_args(&args).agent(AgentPlan::slots(1)).start().await;
    for origin in [PAGE, "https://other.example:8443"] {
        let answer = preflight(farm.door(0), "/spawn", origin).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer:?}");
        assert!(
            answer.header("vary").unwrap_or_default().to_ascii_lowercase().contains("origin"),
            "{answer:?}"
        );
    }
    for origin in ["http://evil.example", "http://app.example.evil.example", "https://app.example", "null"] {
        let answer = preflight(farm.door(0), "/spawn", origin).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}: {answer:?}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn the_surface_describes_itself() {
    let farm = Farm::small(1).await;
    let door = farm.door(0);
    let described = door.json("/openapi.json").await;
    assert!(described["openapi"].as_str().unwrap().starts_with("3."), "{}", described["openapi"]);
    let paths = described["paths"].as_object().unwrap();
    for (path, methods) in [
        ("/spawn", &["post"][..]),
        ("/v1/spawns", &["get"]),
        ("/v1/spawns/{id}", &["get", "delete"]),
        ("/v1/spawns/{id}/log", &["get"]),
        ("/v1/waiting", &["get"]),
        ("/v1/audit", &["get"]),
        ("/v1/history", &["get"]),
        ("/v1/nodes", &["get"]),
        ("/v1/nodes/{node}", &["get"]),
        ("/v1/nodes/{node}/cordon", &["post"]),
        ("/v1/nodes/{node}/uncordon", &["post"]),
        ("/v1/nodes/{node}/drain", &["post"]),
        ("/v1/live", &["get"]),
        ("/healthz", &["get"]),
        ("/readyz", &["get"]),
    ] {
        let path_item = paths.get(path).unwrap_or_else(|| panic!("{path} is missing in {:?}", paths.keys()));
        for method in methods {
            let operation = &path_item[method];
            assert!(
                operation["responses"].as_object().is_some_and(|r| !r.is_empty()),
                "{method} {path}: {operation}"
            );
        }
    }
    let codes = ["409", "413", "415", "502", "503", "504", "400", "200"];
    for code in codes {
        assert!(
            paths["/spawn"]["post"]["responses"].get(code).is_some(),
            "POST /spawn does not describe {code}"
        );
    }
    // What is described is there.
    for (path, item) in paths {
        let path = path.replace("{id}", "00000000-0000-0000-0000-000000000000").replace("{node}", "nowhere");
        for method in item
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| ["get", "post", "delete", "put"].contains(&key.as_str()))
        {
            let at = if path == "/metrics" { farm.doors[0].admin } else { door };
            let request =
                at.request(&method.to_uppercase(), &path).header("content-type", "application/json");
            let answer = request.body("[]").send().await;
            assert_ne!(answer.status, 405, "{method} {path}: {answer:?}");
            if answer.status == 404 {
                let detail = answer.problem(404, "not-found").detail;
                assert!(path.contains("00000000") || path.contains("nowhere"), "{method} {path}: {detail}");
            }
        }
    }
    assert!(farm.processes().is_empty());
    farm.finish().await;
}

#[tokio::test]
async fn figures_are_on_the_admin_address_alone() {
    let farm = Farm::small(1).await;
    let answer = farm.door(0).spawned(&json!({})).await;
    farm.door(0).spawn(&json!({})).await.problem(503, "no-capacity");
    farm.door(0).get("/metrics").send().await.problem(404, "not-found");
    let door = farm.doors[0].metrics().await;
    for phase in ["queue", "reserve", "agent_call", "start_to_ready", "total"] {
        let count = format!("hatchery_frontdoor_spawn_{phase}_seconds_count");
        assert!(door.get(&count).is_some(), "{count} is missing in {:?}", door.names());
    }
    assert_eq!(door.get("hatchery_frontdoor_spawn_start_to_ready_seconds_count"), Some(1.0));
    let agent = farm.agents[0].metrics().await;
    assert_eq!(agent.get("hatchery_agent_slots_used"), Some(1.0));
    assert_eq!(agent.get("hatchery_agent_ports_used"), Some(1.0));
    for metrics in [&door, &agent] {
        let memory = metrics.get("process_resident_memory_bytes");
        assert!(memory.is_some_and(|bytes| bytes > 1e6), "{memory:?}");
    }
    for name in door.names().into_iter().chain(agent.names()) {
        assert!(name.starts_with("hatchery_") || name.starts_with("process_"), "{name}");
    }
    let raw = farm.doors[0].admin.get("/metrics").send().await;
    let id = answer["id"].as_str().unwrap();
    assert!(!raw.text().contains(id), "an id is no label");
    farm.stop([id]).await;
    farm.finish().await;
}

#[tokio::test]
async fn probes_tell_a_living_process_from_one_that_can_serve() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(2)).start().await;
    let answer = farm.door(0).spawned(&json!({})).await;
    let id = answer["id"].as_str().unwrap().to_owned();
    farm.audit().await;
    for door in &farm.doors {
        assert_eq!(door.http.get("/healthz").send().await.status, 200);
        let ready = door.http.get("/readyz").send().await;
        assert_eq!(ready.status, 200, "{ready:?}");
        assert!(ready.text().contains("registry") || ready.text().contains("redis"), "{ready:?}");
        until("the front door has a snapshot of the farm", TIMEOUT, async || {
            let nodes = door.metrics().await.sum("hatchery_frontdoor_snapshot_nodes");
            Look::when(nodes > 0.0, || format!("{nodes} nodes in it"))
        })
        .await;
    }
    farm.redis.kill();
    for index in [0, 1] {
        let door = farm.door(index);
        // It can do without for a while, and says so.
        until("the front door says that it is degraded", TIMEOUT, async || {
            let ready = door.get("/readyz").send().await;
            let so = ready.status == 200 && ready.json()["status"] == "degraded";
            Look::when(so, || format!("{ready:?}"))
        })
        .await;
        assert_eq!(door.get("/healthz").send().await.status, 200);
        let keyed = door.post("/spawn").header("idempotency-key", "k").json(&json!({})).send().await;
        keyed.problem(503, "registry-unavailable");
        door.get(&format!("/v1/spawns/{}", uuid::Uuid::nil()))
            .send()
            .await
            .problem(503, "registry-unavailable");
    }
    assert!(farm.process(&id).is_some(), "a running spawn does not care");

    farm.redis.restart().await;
    ready_again(&farm).await;
    // It forgot everything, and holds the full truth again soon.
    until("the truth is back", Duration::from_secs(10), async || {
        let answer = farm.door(1).get(&format!("/v1/spawns/{id}")).send().await;
        let node = farm.door(1).get("/v1/nodes/node-a").send().await;
        let so = answer.status == 200
            && answer.json()["state"] == "ready"
            && node.status == 200
            && node.json()["slots"]["used"] == 1;
        Look::when(so, || format!("{answer:?} {node:?}"))
    })
    .await;
    assert_eq!(farm.record(&id).await["endpoint"], answer["endpoint"]);
    assert_eq!(farm.audit().await.total(), 1);
    let second = farm.door(1).spawned(&json!({})).await;
    farm.stop([id.as_str(), second["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
