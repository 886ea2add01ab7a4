//! The clients that are known, as they build requests and rewrite endpoints.

use hatchery_tests::{AgentPlan, Client, Farm, Response, Viewer};
use serde_json::{Value, json};

use super::{builder, ends_by_itself, farm, hoops, nothing_is_left, stopped};

const PUBLIC: [&str; 2] = ["--public-url", "https://farm.example.com"];
const PORT: [&str; 2] = ["--hoops-endpoint", "port"];

/// Where a consumer's own proxy passes this URL on to: it stands before the listener, under another name and port.
fn behind_its_proxy(listener: Client, url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    format!("ws://{}{path}", listener.addr)
}

/// A viewer gets through to its spawn, which ends with it.
async fn is_watched(farm: &Farm, id: &str, url: &str) {
    let mut viewer = Viewer::client_side(url).await;
    viewer.still_watches().await;
    viewer.leave().await;
    ends_by_itself(farm, id).await;
}

/// Whether a browser lets a page send these headers after this answer to its preflight.
fn lets_send(preflight: &Response, headers: &[&str]) -> bool {
    let value = |name| preflight.header(name).unwrap_or_default().to_ascii_lowercase();
    let allowed = value("access-control-allow-headers");
    let allows = |name: &&str| allowed.split(',').any(|one| one.trim() == *name || one.trim() == "*");
    (200..300).contains(&preflight.status)
        && ["*", "https://app.example"].contains(&value("access-control-allow-origin").as_str())
        && headers.iter().all(allows)
}

/// The vendor's helper in JavaScript: a preflight, an XHR, and endpoints by their keys in capitals.
async fn vendors_helper(listener: Client, class: &str) -> Result<(String, String), String> {
    let sent = [
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "content-type",
    ];
    let preflight = listener
        .request("OPTIONS", "/service")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", &sent.join(","))
        .send()
        .await;
    assert!(lets_send(&preflight, &sent), "{preflight:?}");
    let answer = listener
        .post("/service")
        .header("origin", "https://app.example")
        .header("Access-Control-Allow-Origin", "*")
        .header("Access-Control-Allow-Methods", "POST")
        .header("Access-Control-Allow-Headers", "Content-Type")
        .json(&json!({"class": class, "params": {}}))
        .send()
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    if answer.status != 200 {
        return Err("Server error encountered when trying to connect".to_owned());
    }
    let body = answer.json();
    if body["result"] != "ok" {
        return Err(body["reason"].as_str().unwrap_or_default().to_owned());
    }
    let endpoints = body["endpoints"].as_object().expect("without it the helper hangs for ever");
    for key in endpoints.keys() {
        let known = ["WS", "WSS", "HTTP", "HTTPS"].contains(&key.to_ascii_uppercase().as_str());
        assert!(known, "the Java helper throws at {key}");
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Ok((text(&body["serviceId"]), text(endpoints.get("ws").or_else(|| endpoints.get("wss")).unwrap())))
}

#[tokio::test]
async fn the_vendors_helper_gets_a_viewer_and_learns_of_a_failure() {
    let farm = farm(1, &[]).await;
    let (id, url) = vendors_helper(hoops(&farm), "csr_session").await.unwrap();
    let refused = vendors_helper(hoops(&farm), "ssr_session").await.unwrap_err();
    assert!(refused.starts_with("Server error"), "{refused}");
    is_watched(&farm, &id, &url).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_tutorials_client_gets_its_endpoint() {
    let farm = farm(1, &[]).await;
    let body = json!({"class": "csr_session", "params": {}});
    for path in ["/api/spawn", "/service"] {
        let answer = hoops(&farm).post(path).json(&body).send().await.json();
        let url = answer["endpoints"]["ws"].as_str().unwrap();
        is_watched(&farm, answer["serviceId"].as_str().unwrap(), url).await;
    }
    farm.finish().await;
}

/// CONTACT: `reason` must not be there; an endpoint is split at colons into exactly three parts, of which the third is the port, with
/// whatever follows it; the host is its own.
fn contact(answer: &Value) -> String {
    assert_eq!(answer.get("reason"), None, "it raises: {answer}");
    let endpoints = answer["endpoints"].as_object().unwrap();
    let url = endpoints.iter().find(|(key, _)| key.starts_with("ws")).unwrap().1.as_str().unwrap();
    let parts: Vec<&str> = url.split(':').collect();
    assert_eq!(parts.len(), 3, "{url} is passed on raw");
    format!("wss://plm.example/ws/{}", parts[2])
}

#[tokio::test]
async fn contact_keeps_what_follows_the_second_colon() {
    for args in [&PUBLIC[..], &PORT[..], &[&PUBLIC[..], &PORT[..]].concat()] {
        let farm = farm(2, args).await;
        let client = hoops(&farm);
        let answer = client.post("/api/spawn").json(&json!({"class": "csr_session"})).send().await.json();
        let url = behind_its_proxy(client, &contact(&answer));
        is_watched(&farm, answer["serviceId"].as_str().unwrap(), &url).await;
        assert_eq!(client.json("/api/status").await["dead"], 0);
        farm.finish().await;
    }
}

/// The NestJS application: in its secure mode nothing but the port is kept; a URL without one would become 11000.
fn nest(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    let port = authority.rsplit_once(':').map_or("11000", |(_, port)| port);
    format!("wss://app.example/streaming/{port}")
}

#[tokio::test]
async fn the_nestjs_application_keeps_the_port_and_nothing_else() {
    for args in [&PORT[..], &[&PUBLIC[..], &PORT[..]].concat()] {
        let farm = builder(args).agent(AgentPlan::slots(2)).agent(AgentPlan::slots(2)).start().await;
        let client = hoops(&farm);
        for _ in 0..2 {
            let answer = client.post("/service").json(&json!({"class": "csr_session"})).send().await.json();
            assert_eq!((&answer["result"], answer.get("reason")), (&json!("ok"), None), "{answer}");
            let url = behind_its_proxy(client, &nest(answer["endpoints"]["ws"].as_str().unwrap()));
            is_watched(&farm, answer["serviceId"].as_str().unwrap(), &url).await;
        }
        farm.finish().await;
    }
}

#[tokio::test]
async fn the_nestjs_application_recognizes_a_server_that_is_missing() {
    let farm = builder(&[]).agent(AgentPlan::slots(1).executable("/nowhere/ts3d_sc_server")).start().await;
    let answer = hoops(&farm).post("/service").json(&json!({"class": "csr_session"})).send().await.json();
    assert!(answer["reason"].as_str().unwrap().contains("ENOENT"), "{answer}");
    farm.finish().await;
}

/// The vendor's docker demos: port and path of the URL, below `/wsproxy/` of the page's host.
fn docker_demo(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    let path = if path.is_empty() { "/" } else { path };
    format!("wss://page.example/wsproxy/{port}{path}")
}

#[tokio::test]
async fn the_docker_demos_keep_port_and_path() {
    for args in [&PUBLIC[..], &PORT[..], &[&PUBLIC[..], &PORT[..]].concat()] {
        let farm = farm(2, args).await;
        let client = hoops(&farm);
        let answer = client.post("/api/spawn").json(&json!({"class": "csr_session"})).send().await.json();
        let url = behind_its_proxy(client, &docker_demo(answer["endpoints"]["ws"].as_str().unwrap()));
        is_watched(&farm, answer["serviceId"].as_str().unwrap(), &url).await;
        farm.finish().await;
    }
}

/// The vendor's sample with `?proxy`: `([ws]+)://(.*):([0-9]+)` becomes `ws://host/wsproxy/<port>`.
#[tokio::test]
async fn the_vendors_sample_behind_a_proxy_keeps_the_port() {
    let farm = farm(2, &PORT).await;
    let client = hoops(&farm);
    let (id, url) = vendors_helper(client, "ssr_session").await.unwrap();
    let digits = url.rsplit(':').next().unwrap();
    let url = format!("ws://{}/wsproxy/{digits}", client.addr);
    let mut viewer = Viewer::server_side(&url).await;
    assert_eq!(viewer.protocol(), Some("binary"));
    viewer.render(None).await;
    assert_eq!(viewer.receive().await[0], 0x7b, "an event");
    viewer.leave().await;
    ends_by_itself(&farm, &id).await;
    farm.finish().await;
}

/// The EC2 set-up, the sample without `?broker`, and the web components: every upgrade goes to the listener as it came.
#[tokio::test]
async fn pages_that_open_a_websocket_at_once_get_a_viewer() {
    let farm = farm(2, &[]).await;
    let base = format!("ws://{}", hoops(&farm).addr);
    // Without a path, a browser asks for `/`.
    for path in ["/?renderingLocation=csr", "/hoops_server/?renderingLocation=csr"] {
        let mut viewer = Viewer::client_side(&format!("{base}{path}")).await;
        viewer.still_watches().await;
        viewer.leave().await;
        nothing_is_left(&farm).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_call_that_offers_another_protocol_or_came_through_a_careless_proxy_is_a_call() {
    let farm = farm(1, &[]).await;
    // Java's own client without TLS, and a proxy that sends the same header with every request.
    let offer =
        [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAEAAEAA")];
    for headers in [&offer[..], &[("connection", "upgrade")]] {
        let call = hoops(&farm).post("/service").json(&json!({"class": "ssr_session"}));
        let call = headers.iter().fold(call, |call, (name, value)| call.header(name, value));
        let (id, _) = super::ok(&call.send().await);
        assert_eq!(farm.record(&id).await["rendererType"], "ssr");
        stopped(&farm, &id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_java_client_that_posts_to_its_endpoint_as_given_gets_a_viewer() {
    let farm = farm(1, &[]).await;
    let answer = hoops(&farm).post("/service").header("content-type", "application/json; charset=UTF-8");
    let answer = answer.body(r#"{"class":"csr_session","params":{"sessionToken":""}}"#).send().await;
    let (id, _) = super::ok(&answer);
    stopped(&farm, &id).await;
    farm.finish().await;
}
