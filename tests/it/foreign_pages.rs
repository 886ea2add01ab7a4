//! What pages of other origins can make a browser send, and names that lead to a farm without being its own.

use hatchery_tests::{
    AgentPlan, Browser, Client, Farm, FarmBuilder, Look, Response, Subscriber, until, wait::TIMEOUT,
};
use serde_json::{Value, json};

const EVIL: &str = "https://evil.example";
const LISTED: &str = "https://app.example";

fn open_farm() -> FarmBuilder {
    Farm::builder().agent(AgentPlan::slots(4))
}

/// Sends a whole head as it is.
async fn sent(client: Client, method: &str, path: &str, lines: &[&str]) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n");
    for line in lines {
        head += &format!("{line}\r\n");
    }
    client.raw(format!("{head}\r\n").as_bytes()).await.expect("it answers")
}

async fn from_page(client: Client, method: &str, path: &str, origin: &str) -> Response {
    sent(client, method, path, &["host: localhost", &format!("origin: {origin}")]).await
}

/// Nothing was started, stopped or closed.
async fn untouched(farm: &Farm) {
    assert!(farm.processes().is_empty(), "a page has started something");
    for node in farm.door(0).json("/v1/nodes").await["nodes"].as_array().unwrap() {
        assert_eq!(node["eligibility"], "eligible", "{node}");
    }
}

/// Every route of a front door with each of its methods.
async fn operations(farm: &Farm) -> Vec<(String, String)> {
    let document = farm.door(0).json("/openapi.json").await;
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", &uuid::Uuid::nil().to_string()).replace("{node}", "node-a");
        for (method, described) in item.as_object().unwrap() {
            for status in ["403", "421"] {
                assert!(
                    described["responses"].get(status).is_some(),
                    "{method} {path} does not describe {status}"
                );
            }
            all.push((method.to_uppercase(), path.clone()));
        }
    }
    assert!(all.len() >= 15, "{all:?}");
    all
}

#[tokio::test]
async fn a_page_of_a_foreign_origin_is_refused_on_every_route_of_every_port_and_nothing_happens() {
    let farm = open_farm().start().await;
    for (method, path) in operations(&farm).await {
        let port = if path == "/metrics" { farm.doors[0].admin } else { farm.door(0) };
        for origin in [EVIL, "null", "http://localhost.evil.example"] {
            let answer = from_page(port, &method, &path, origin).await;
            let problem = answer.problem(403, "origin-not-allowed");
            assert!(problem.names("Origin"), "{method} {path}");
            assert_eq!(answer.header("access-control-allow-origin"), None, "{method} {path}: {answer:?}");
        }
        let preflight = from_page(port, "OPTIONS", &path, EVIL).await;
        preflight.problem(403, "origin-not-allowed");
    }
    from_page(farm.door(0), "GET", "/nothing", EVIL).await.problem(403, "origin-not-allowed");
    for admin in [farm.doors[0].admin, farm.agents[0].admin] {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(from_page(admin, "GET", path, EVIL).await.status, 403, "{path}");
            assert_eq!(admin.get(path).send().await.status, 200, "{path}");
        }
    }
    untouched(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn without_keys_pages_on_this_machine_spawn_and_no_others_do() {
    let farm = open_farm().start().await;
    let door = farm.door(0);
    for origin in ["http://localhost:5173", "http://127.0.0.1:3000", "https://app.localhost"] {
        let answer = from_page(door, "POST", "/spawn", origin).await;
        assert_eq!(answer.status, 200, "{origin}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer:?}");
        farm.stop([answer.json()["id"].as_str().unwrap()]).await;
        from_page(door, "POST", "/v1/nodes/node-a/cordon", origin).await.problem(403, "origin-not-allowed");
    }
    // A page of the front door itself, behind a proxy that ends TLS.
    let own = ["host: localhost", "origin: https://localhost"];
    let cordoned = sent(door, "POST", "/v1/nodes/node-a/cordon", &own).await;
    assert_eq!(cordoned.status, 200, "{cordoned:?}");
    assert_eq!(sent(door, "POST", "/v1/nodes/node-a/uncordon", &own).await.status, 200);
    // A program says nothing of pages, and needs no body.
    let program = sent(door, "POST", "/spawn", &["host: localhost"]).await;
    farm.stop([program.json()["id"].as_str().unwrap()]).await;
    untouched(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn with_keys_or_by_its_flag_pages_of_other_origins_may_ask() {
    let farm = open_farm().keys().start().await;
    let door = farm.door(0).showing_nothing();
    from_page(door, "POST", "/spawn", EVIL).await.problem(401, "unauthenticated");
    from_page(door, "POST", "/v1/nodes/node-a/cordon", EVIL).await.problem(403, "origin-not-allowed");
    farm.finish().await;
    let farm = open_farm().door_args(&["--cors-origin", LISTED]).start().await;
    for origin in [EVIL, "http://localhost:5173", "null"] {
        from_page(farm.door(0), "POST", "/spawn", origin).await.problem(403, "origin-not-allowed");
    }
    let answer = from_page(farm.door(0), "POST", "/spawn", LISTED).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_name_that_was_pointed_at_the_farm_leads_nowhere() {
    let farm = open_farm().door_args(&["--allowed-host", "farm.example.com,other.example"]).start().await;
    let (door, agent) = (farm.door(0), &farm.agents[0]);
    for (method, path) in operations(&farm).await {
        if path == "/metrics" {
            continue;
        }
        // The browser takes it for the page's own host.
        let lines =
            ["host: evil.example:8080", "origin: http://evil.example:8080", "sec-fetch-site: same-origin"];
        let problem = sent(door, &method, &path, &lines).await.problem(421, "host-not-allowed");
        assert!(
            problem.detail.contains("evil.example") && problem.detail.contains("--allowed-host"),
            "{}",
            problem.detail
        );
    }
    for (line, status) in [
        ("host: localhost", 200),
        ("host: farm.localhost:1", 200),
        ("host: 127.0.0.1", 200),
        ("host: [::1]:8080", 200),
        ("host: farm.example.com", 200),
        ("host: Other.Example.:443", 200),
        ("x-none: 1", 200),
        ("host: evil.example", 421),
        ("host: farm.example.com.evil.example", 421),
        ("host: localhost\r\nhost: localhost", 421),
        ("host: ", 421),
    ] {
        for path in ["/healthz", "/", "/readyz"] {
            assert_eq!(sent(door, "GET", path, &[line]).await.status, status, "{line:?} {path}");
        }
    }
    assert_eq!(sent(door, "GET", "http://evil.example/healthz", &["host: localhost"]).await.status, 421);
    for port in [farm.doors[0].admin, agent.admin] {
        assert_eq!(sent(port, "GET", "/metrics", &["host: evil.example"]).await.status, 421);
    }
    untouched(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_page_cannot_report_for_a_server() {
    let farm = open_farm().start().await;
    let spawned = farm.door(0).spawned(&json!({})).await;
    let id = spawned["id"].as_str().unwrap();
    let path = format!("/liveliness/{id}?liveliness=disconnect");
    let receiver = farm.agents[0].liveliness;
    for (lines, status) in [
        (&["host: localhost", "origin: https://evil.example"][..], 403),
        (&["host: localhost", "origin: null"], 403),
        (&["host: localhost", "sec-fetch-site: cross-site"], 403),
        (&["host: evil.example"], 421),
    ] {
        assert_eq!(sent(receiver, "POST", &path, lines).await.status, status, "{lines:?}");
    }
    let record = farm.record(id).await;
    let kinds = record["events"].as_array().unwrap().iter().map(|event| &event["kind"]);
    assert!(kinds.clone().all(|kind| kind != "spawn.disconnected"), "{record}");
    farm.stop([id]).await;
    farm.finish().await;
}

#[tokio::test]
async fn programs_listen_and_pages_of_foreign_origins_do_not() {
    let farm = open_farm().start().await;
    Subscriber::connect(farm.door(0).addr).await.subscribe("nodes").await;
    let upgrade = [
        "host: localhost",
        "origin: https://evil.example",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    sent(farm.door(0), "GET", "/v1/live", &upgrade).await.problem(403, "origin-not-allowed");
    farm.finish().await;
}

/// What a hostile page tries without asking first. A sandboxed frame has no origin that anybody allows.
const ATTACK: &str = r#"
    const [door, agent] = arguments;
    const frame = document.createElement('iframe');
    frame.sandbox = 'allow-scripts allow-forms';
    frame.srcdoc = `<form id=f method=post action="${door}spawn"></form><iframe name=t></iframe><script>
        const said = {};
        const simple = (name, url) => fetch(url, { method: 'POST', mode: 'no-cors' }).then(() => 0, () => 0);
        const typed = (url) => fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })
            .then((answer) => answer.status, () => 'kept from it');
        const socket = new Promise((done) => {
            const live = new WebSocket('${door}v1/live'.replace('http', 'ws'));
            live.onopen = () => done('open');
            live.onerror = () => done('refused');
        });
        (async () => {
            await simple('spawn', '${door}spawn');
            await simple('cordon', '${door}v1/nodes/node-a/cordon');
            await simple('liveliness', '${agent}healthz');
            navigator.sendBeacon('${door}spawn');
            navigator.sendBeacon('${door}v1/nodes/node-a/drain');
            document.getElementById('f').target = 't';
            document.getElementById('f').submit();
            parent.postMessage({ typed: await typed('${door}spawn'), live: await socket }, '*');
        })();
    </scr` + `ipt>`;
    addEventListener('message', (event) => { window.said = event.data; });
    document.body.append(frame);
"#;

#[tokio::test]
async fn a_hostile_page_in_a_real_browser_starts_closes_and_hears_nothing() {
    let farm = open_farm().start().await;
    let browser = Browser::start(800, 600).await;
    browser.open(&format!("http://{}/healthz", farm.doors[0].admin.addr)).await;
    let door = format!("http://{}/", farm.door(0).addr);
    let agent = format!("http://{}/", farm.agents[0].admin.addr);
    browser.run_with(ATTACK, &json!([door, agent])).await;
    browser.holds("window.said !== undefined").await;
    let said: Value = browser.run("return window.said;").await;
    assert_eq!(said, json!({"typed": "kept from it", "live": "refused"}));
    // fetch without and with a question first, the beacon, the form.
    until("every attempt has come and was refused", TIMEOUT, async || {
        let metrics = farm.doors[0].metrics().await;
        let refused = |route: &str, method: &str| {
            let series = format!(
                "hatchery_frontdoor_requests_total{{route=\"{route}\",method=\"{method}\",status=\"403\"}}"
            );
            metrics.get(&series).unwrap_or_default()
        };
        let counts = [
            refused("/spawn", "POST"),
            refused("/spawn", "OPTIONS"),
            refused("/v1/nodes/{node}/cordon", "POST"),
            refused("/v1/nodes/{node}/drain", "POST"),
            refused("/v1/live", "GET"),
        ];
        let wanted = [3.0, 1.0, 1.0, 1.0, 1.0];
        Look::when(counts.iter().zip(wanted).all(|(count, wanted)| *count >= wanted), || {
            format!("{counts:?}")
        })
    })
    .await;
    untouched(&farm).await;
    farm.finish().await;
}
