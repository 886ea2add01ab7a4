//! What operators and browsers see: rows 5 to 7, 9, 10 and 15, and where the listener may be reached from.

use std::process::Command;

use hatchery_tests::certs::{Certs, curl};
use hatchery_tests::role::{Role, hatchery};
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, until};
use serde_json::{Value, json};

use super::proxy::says;
use super::{builder, farm, hoops, service, stopped};

#[tokio::test]
async fn every_answer_is_for_pages_of_any_origin_and_a_preflight_allows_what_the_helper_sends() {
    let farm = farm(1, &["--hoops-owner", "web"]).await;
    let client = hoops(&farm);
    let page = |request: hatchery_tests::http::Request| request.header("origin", "https://app.example");
    for path in ["/service", "/api/spawn", "/API/SPAWN/"] {
        let preflight = page(client.request("OPTIONS", path))
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,access-control-allow-origin")
            .send()
            .await;
        assert_eq!((preflight.status, preflight.text().as_str()), (200, "POST"), "{preflight:?}");
        assert_eq!(preflight.header("allow"), Some("POST"));
    }
    assert_eq!(client.request("OPTIONS", "/api/status").send().await.header("allow"), Some("GET,HEAD"));
    for (method, path, status) in [
        ("OPTIONS", "/service", 200),
        ("OPTIONS", "/unknown", 404),
        ("GET", "/api/help", 200),
        ("POST", "/api/gc", 403),
        ("GET", "/service", 404),
        ("DELETE", "/api/spawn", 404),
        ("GET", "/", 404),
        ("POST", "/api/spawns/x?liveliness=ready", 500),
    ] {
        let response = page(client.request(method, path)).send().await;
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(response.header("access-control-allow-methods"), Some("POST"), "{path}");
        let allowed = response.header("access-control-allow-headers").unwrap();
        for name in [
            "Content-Type",
            "Access-Control-Allow-Origin",
            "Access-Control-Allow-Methods",
            "Access-Control-Allow-Headers",
        ] {
            assert!(allowed.split(", ").any(|one| one == name), "{allowed}");
        }
    }
    let nowhere = client.get("/api/nowhere").send().await;
    assert_eq!(nowhere.json(), json!({"result": "error", "reason": "Not Found"}));
    farm.finish().await;
}

#[tokio::test]
async fn pages_that_cors_origin_does_not_name_start_nothing() {
    let farm = farm(1, &["--cors-origin", "https://app.example"]).await;
    let client = hoops(&farm);
    let refused = client.post("/service").header("origin", "https://evil.example").send().await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None), "{refused:?}");
    assert!(farm.processes().is_empty());
    let good = client.post("/service").header("origin", "https://app.example").send().await;
    assert_eq!(good.header("access-control-allow-origin"), Some("https://app.example"));
    let (id, _) = super::ok(&good);
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn without_an_owner_pages_of_other_machines_start_nothing_and_read_nothing() {
    let alone = Farm::builder().door_args(&["--hoops-listen", "127.0.0.1:0"]);
    let farm = alone.agent(AgentPlan::slots(1)).start().await;
    let client = hoops(&farm);
    for origin in ["https://evil.example", "null"] {
        let refused = client.post("/service").header("origin", origin).send().await;
        assert_eq!(
            (refused.status, refused.header("access-control-allow-origin")),
            (403, None),
            "{refused:?}"
        );
    }
    let form = client.post("/service").header("sec-fetch-site", "cross-site").send().await;
    assert_eq!(form.status, 403, "a form without an origin: {form:?}");
    let upgrade = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let refused = says(client, &format!("{upgrade}origin: https://evil.example\r\n\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    // A name that was pointed at this machine makes the page the listener's own.
    let evil = "host: evil.example\r\norigin: http://evil.example\r\n";
    for (method, path) in [("POST", "/service"), ("GET", "/api/status"), ("GET", "/api/spawns"), ("GET", "/")]
    {
        let head =
            format!("{method} {path} HTTP/1.1\r\n{evil}content-length: 0\r\nconnection: close\r\n\r\n");
        let refused = says(client, &head).await;
        assert!(refused.starts_with("HTTP/1.1 421 "), "{method} {path}: {refused}");
    }
    let rebound = upgrade.replace("host: localhost\r\n", evil);
    let refused = says(client, &format!("{rebound}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 421 "), "{refused}");
    assert!(farm.processes().is_empty(), "nothing was started");
    for origin in ["http://localhost:3000", "http://127.0.0.1:11180"] {
        let good = client.post("/service").header("origin", origin).send().await;
        assert_eq!(good.header("access-control-allow-origin"), Some(origin), "{good:?}");
        let (id, _) = super::ok(&good);
        stopped(&farm, &id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn the_status_has_every_counter_and_neither_paths_nor_secrets() {
    let farm = farm(3, &[]).await;
    let client = hoops(&farm);
    let counters =
        ["launching", "ready", "suspect", "disconnected", "nice-killed", "killed", "zombie", "dead"];
    let status = client.json("/api/status").await;
    for counter in counters {
        assert_eq!(status[counter], 0, "{status}");
    }
    assert_eq!(status["status"], "ok");
    assert!(status["timestamp"].as_str().unwrap().ends_with('Z'), "{status}");
    assert!(status["memory"]["rss"].as_str().unwrap().ends_with(" MB"), "{status}");
    assert_eq!((&status["usedSpawnPorts"], &status["availableSpawnPorts"]), (&json!(0), &json!(3)));
    let config = &status["config"];
    assert_eq!(config["spawnServerPort"], client.addr.port());
    assert_eq!(
        (&config["spawnMaxSpawnCount"], &config["csrEnabled"], &config["ssrEnabled"], &config["license"]),
        (&json!(3), &json!(true), &json!(true), &json!("<hidden>")),
        "{config}"
    );
    let mark = farm.mark().to_str().unwrap();
    assert!(!status.to_string().contains(mark) && !status.to_string().contains("redis:"), "{status}");

    // What was answered a moment ago is counted, also what came another way: it is all of the farm's.
    let (id, _) = service(client, json!({})).await;
    assert_eq!(client.json("/api/status").await["ready"], 1);
    let other = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    assert_eq!(client.json("/api/status").await["ready"], 2);
    let listed = client.json("/api/spawns").await;
    assert!(listed["timestamp"].is_string(), "{listed}");
    let spawns = listed["spawns"].as_array().unwrap();
    assert_eq!(spawns.len(), 2, "{listed}");
    for (spawn, id) in spawns.iter().zip([&id, &other]) {
        let members: Vec<&String> = spawn.as_object().unwrap().keys().collect();
        assert_eq!(members, ["id", "lastUpdateTime", "spawnTime", "state"], "{spawn}");
        assert_eq!((&spawn["id"], &spawn["state"]), (&json!(id), &json!("ready")));
    }
    farm.stop([id.as_str(), &other]).await;
    farm.ends(&id).await;
    farm.ends(&other).await;
    let status = client.json("/api/status").await;
    assert_eq!(
        (&status["ready"], &status["dead"], &status["usedSpawnPorts"]),
        (&json!(0), &json!(0), &json!(0))
    );
    farm.finish().await;
}

#[tokio::test]
async fn answers_for_operators_are_indented_unless_they_are_wanted_raw() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    for path in ["/api/status", "/api/spawns", "/api/help", "/Api/HELP/"] {
        let pretty = client.get(path).send().await;
        assert!(pretty.text().starts_with("{\n  \""), "{pretty:?}");
        let raw = client.get(&format!("{path}?raw=true")).send().await;
        assert!(!raw.text().contains('\n'), "{raw:?}");
        let head = format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let head = says(client, &head).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }
    let help = client.json("/api/help").await;
    assert_eq!(help["status"], "ok");
    for (name, method) in
        [("help", "GET"), ("shutdown", "POST"), ("status", "GET"), ("spawns", "GET"), ("gc", "POST")]
    {
        let command = &help["rest-commands"][name];
        assert_eq!(
            (&command["http-command"], &command["endpoint"]),
            (&json!(method), &json!(format!("api/{name}")))
        );
        assert!(command["description:"].is_string() && command["curl"].is_string(), "{command}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn the_farm_cannot_be_ended_from_here() {
    let mut farm = farm(1, &[]).await;
    let client = hoops(&farm);
    for path in ["/api/shutdown", "/api/gc"] {
        let refused = client.post(path).send().await;
        assert_eq!((refused.status, &refused.json()["status"]), (403, &json!("failed")), "{refused:?}");
        assert!(refused.json()["reason"].is_string());
    }
    assert_eq!(client.get("/api/status").send().await.status, 200);
    assert!(farm.doors[0].role.exited().is_none());
    farm.finish().await;
}

#[tokio::test]
async fn reports_of_servers_have_the_vendors_answers_and_change_nothing() {
    let farm = farm(1, &[]).await;
    let client = hoops(&farm);
    let (id, _) = service(client, json!({})).await;
    let report = async |id: &str, query: &str| {
        let response = client.post(&format!("/api/spawns/{id}{query}")).send().await;
        (response.status, response.text())
    };
    let unknown = json!({"result": "error", "reason": "Reported spawn doesn't exist"}).to_string();
    for other in ["00000000-0000-4000-8000-000000000000", "x", "%00"] {
        let (status, body) = report(other, "?liveliness=ready").await;
        assert_eq!(status, 500);
        let wanted: Value = serde_json::from_str(&unknown).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), wanted);
    }
    for value in ["ready", "ping", "disconnect"] {
        assert_eq!(report(&id, &format!("?liveliness={value}")).await, (200, String::new()));
    }
    let (status, body) = report(&id, "?liveliness=dead").await;
    assert!(status == 500 && body.contains("Invalid liveliness settings"), "{body}");
    assert_eq!(farm.record(&id).await["state"], "ready", "its agent knows better than a stranger");
    stopped(&farm, &id).await;
    farm.finish().await;
}

#[tokio::test]
async fn files_of_the_directory_are_served_beside_the_interface() {
    let files = tempfile::tempdir().unwrap();
    let public = files.path().join("public");
    std::fs::create_dir_all(public.join("api")).unwrap();
    for (name, text) in
        [("index.html", "page"), ("engine.wasm", "wasm"), ("api/status", "file"), (".env", "secret")]
    {
        std::fs::write(public.join(name), text).unwrap();
    }
    std::fs::write(files.path().join("outside"), "secret").unwrap();
    let farm = farm(1, &["--hoops-files", public.to_str().unwrap()]).await;
    let client = hoops(&farm);
    let wasm = client.get("/engine.wasm").header("origin", "https://app.example").send().await;
    assert_eq!((wasm.status, wasm.header("content-type")), (200, Some("application/wasm")), "{wasm:?}");
    assert_eq!(wasm.header("access-control-allow-origin"), Some("*"));
    assert_eq!(client.get("/").send().await.text(), "page");
    assert_eq!(client.json("/api/status").await["status"], "ok", "the interface comes first");
    for path in ["/api", "/api/", "/../outside", "/%2e%2e/outside", "/.env", "/%2eenv", "/missing"] {
        let response = client.get(path).send().await;
        assert!(!response.text().contains("secret"), "{path}: {response:?}");
        assert!([404, 307, 400].contains(&response.status), "{path}: {response:?}");
    }
    assert_eq!(client.request("OPTIONS", "/index.html").send().await.status, 404);
    farm.finish().await;
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_urls_are_wss_under_the_key_ws() {
    let certs = Certs::two_agents(&[]);
    let door: Vec<String> = certs.public_door("door");
    let door: Vec<&str> = door.iter().map(String::as_str).collect();
    let agent: Vec<String> = certs.agent("node-a");
    let plan = AgentPlan::slots(1).args(&agent.iter().map(String::as_str).collect::<Vec<_>>());
    let farm = Farm::builder().door_args(&certs.door("door").iter().map(String::as_str).collect::<Vec<_>>());
    let farm = farm.agent(plan).start().await;
    let url = farm.redis.url();
    let mut args = vec!["frontdoor", "--registry", &url, "--farm", "test", "--listen", "127.0.0.1:0"];
    args.extend(["--admin-listen", "127.0.0.1:0", "--hoops-listen", "127.0.0.1:0"]);
    args.extend(["--public-url", "https://farm.example.com"]);
    args.extend(door);
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let mut role = Role::start("secure", farm.mark(), &args);
    let line = role.announcement().await;
    let hoops = line.rsplit("hoops on ").next().unwrap();
    assert!(hoops.starts_with("https://"), "{line}");
    role.logs("front door open").await;
    let ca = certs.file("ca.pem");
    let answer = curl(&format!("{hoops}/service"), Some(&ca), &["-X", "POST"]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let (id, ws) = (body["serviceId"].as_str().unwrap(), body["endpoints"]["ws"].as_str().unwrap());
    assert!(ws.starts_with(&format!("wss://farm.example.com:443/s/node-a/{id}/")), "{ws}");
    stopped(&farm, id).await;
    drop(role);
    farm.finish().await;
}

#[test]
fn the_listener_stays_on_this_machine_unless_it_has_an_owner() {
    let scratch = tempfile::tempdir().unwrap();
    let refused = |flags: &[&str]| {
        let mut command: Command = hatchery(scratch.path());
        let output = command.args(["frontdoor", "--registry", "embedded"]).args(flags).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (flags, words) in [
        (&["--hoops-listen", "0.0.0.0:0"][..], &["--hoops-listen", "--hoops-owner", "--insecure"][..]),
        (&["--hoops-listen", "[::]:0"], &["--hoops-listen", "--hoops-owner"]),
        (&["--hoops-owner", "web"], &["--hoops-owner", "--hoops-listen"]),
        (&["--hoops-endpoint", "port"], &["--hoops-endpoint", "--hoops-listen"]),
        (&["--hoops-files", "/tmp"], &["--hoops-files", "--hoops-listen"]),
        (&["--hoops-port-prefix", "ws"], &["--hoops-port-prefix", "--hoops-listen"]),
        (&["--hoops-listen", "127.0.0.1:0", "--hoops-files", "/nowhere"], &["--hoops-files", "/nowhere"]),
        (
            &["--hoops-listen", "127.0.0.1:0", "--hoops-endpoint", "relay"],
            &["--hoops-endpoint", "--public-url"],
        ),
    ] {
        let (code, said) = refused(flags);
        assert_eq!(code, Some(2), "{flags:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{flags:?}: {said}");
    }
}

#[tokio::test]
async fn nothing_is_spawned_for_an_owner_whose_key_is_revoked() {
    let mut farm = builder(&[]).keys().agent(AgentPlan::slots(4)).start().await;
    let credential = farm.key(&["--scope", "spawn", "--name", "hoops", "--concurrent-spawns", "2"]).await;
    let door = &mut farm.doors[0];
    door.set("--hoops-owner", "hoops");
    door.restart().await;
    let id = credential.split('_').nth(1).unwrap();
    let client = hoops(&farm);
    let (spawn, _) = service(client, json!({})).await;
    assert_eq!(client.json("/api/status").await["availableSpawnPorts"], 1, "the key allows one more");

    let ran = farm.run(&["key", "revoke", id, "--file", &farm.keys().display().to_string()]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    until("the owner may start none", TIMEOUT, async || {
        let status = client.json("/api/status").await;
        Look::when(status["availableSpawnPorts"] == 0, || status.to_string())
    })
    .await;
    let why = super::failure(&client.post("/service").send().await, 503);
    assert!(why.contains("owner"), "{why}");
    assert_eq!(farm.processes().len(), 1, "what runs goes on");
    farm.stop([spawn.as_str()]).await;
    farm.finish().await;
}
