//! What the HTTP contract says of every request, good or bad.

use std::collections::BTreeSet;

use frontdoor::Origins;

use crate::fake_agent::Script;
use crate::farm::{Farm, config};
use crate::http::{get, raw, request, send, spawn};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn every_kind_of_bad_request_is_answered_in_one_shape() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let large = format!("{{\"model\":\"{}\"}}", "x".repeat(70_000));
    let cases: Vec<(u16, &str, Vec<u8>)> = vec![
        (400, "invalid-request", request("POST", "/spawn", &[JSON], b"{")),
        (400, "invalid-request", request("POST", "/spawn", &[JSON], b"[]")),
        (400, "invalid-request", request("POST", "/spawn", &[JSON], b"{\"x\":1}")),
        (400, "invalid-request", request("POST", "/spawn", &[JSON], b"\xff\xfe")),
        (400, "invalid-request", request("POST", "/spawn?waitSeconds=1", &[JSON], b"{}")),
        (400, "invalid-request", request("POST", "/spawn", &[JSON, ("idempotency-key", "")], b"{}")),
        (400, "invalid-request", request("POST", "/spawn", &[JSON, ("idempotency-key", "a b")], b"{}")),
        (
            400,
            "invalid-request",
            request("POST", "/spawn", &[JSON, ("idempotency-key", &"k".repeat(256))], b"{}"),
        ),
        (
            400,
            "invalid-request",
            request("POST", "/spawn", &[JSON, ("idempotency-key", "a"), ("idempotency-key", "a")], b"{}"),
        ),
        (400, "invalid-request", request("GET", "/v1/spawns?limit=0", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?limit=1001", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?limit=1.5", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?limit=1&limit=2", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?state=Ready", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?node=a%20b", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?cursor=x", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?colour=red", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns/a/log?lines=0", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns/a/log?lines=10001", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/nodes?x=1", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/waiting?limit=0", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/audit?limit=1001", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/audit?cursor=1", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/history?minutes=1441", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?reason=Failed", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?renderer=gpu", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/spawns?since=soon", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/waiting?limit=1001", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/waiting?cursor=1", &[], b"")),
        (400, "invalid-request", request("GET", "/v1/nodes/%ff", &[], b"")),
        (400, "invalid-request", request("GET", &format!("/{}", "x".repeat(9000)), &[], b"")),
        (400, "invalid-request", request("POST", "/v1/nodes/node-0/drain", &[JSON], b"{\"force\":1}")),
        (400, "invalid-request", request("POST", "/v1/nodes/node-0/drain", &[JSON], b"[]")),
        (400, "invalid-request", request("POST", "/v1/nodes/node-0/drain?force=true", &[], b"")),
        (400, "invalid-request", request("POST", "/v1/nodes/node-0/cordon", &[JSON], b"{\"why\":\"x\"}")),
        (
            400,
            "invalid-request",
            request("POST", "/v1/nodes/node-0/uncordon", &[JSON], b"{\"reason\":\"x\"}"),
        ),
        (400, "invalid-request", request("POST", "/v1/nodes/node-0/uncordon", &[JSON], b"{")),
        (
            403,
            "origin-not-allowed",
            request("POST", "/v1/nodes/node-0/cordon", &[("origin", "https://evil.example")], b""),
        ),
        (413, "body-too-large", request("POST", "/v1/nodes/node-0/drain", &[JSON], large.as_bytes())),
        (415, "unsupported-media-type", request("POST", "/v1/nodes/node-0/drain", &[], b"{}")),
        (404, "not-found", request("POST", "/v1/nodes/node-9/drain", &[], b"")),
        (404, "not-found", request("POST", "/v1/nodes/node-9/cordon", &[JSON], b"{}")),
        (404, "not-found", request("POST", "/v1/nodes/a%20b/uncordon", &[], b"")),
        (404, "not-found", request("POST", "/v1/nodes/node-0/reboot", &[], b"")),
        (405, "method-not-allowed", request("GET", "/v1/nodes/node-0/drain", &[], b"")),
        (413, "body-too-large", request("POST", "/spawn", &[JSON], large.as_bytes())),
        (415, "unsupported-media-type", request("POST", "/spawn", &[], b"{}")),
        (415, "unsupported-media-type", request("POST", "/spawn", &[("content-type", "text/plain")], b"{}")),
        (
            415,
            "unsupported-media-type",
            request("POST", "/spawn", &[("content-type", "application/json; charset=latin1")], b"{}"),
        ),
        (404, "not-found", request("GET", "/nothing", &[], b"")),
        (404, "not-found", request("GET", "/nowhere", &[], b"")),
        (404, "not-found", request("GET", "/spawn/", &[], b"")),
        (404, "not-found", request("POST", "/v1/spawns/a/b/c", &[], b"")),
        (405, "method-not-allowed", request("GET", "/spawn", &[], b"")),
        (405, "method-not-allowed", request("PUT", "/v1/spawns/a", &[], b"")),
        (405, "method-not-allowed", request("POST", "/v1/nodes", &[], b"")),
        (405, "method-not-allowed", request("OPTIONS", "/v1/nodes", &[], b"")),
    ];
    for (status, code, request) in cases {
        let answer = raw(farm.http, &request).await;
        let sent = String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{sent}: {answer:?}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{sent}");
    }
    assert_eq!(farm.orders(), 0);
}

#[tokio::test]
async fn a_wrong_parameter_or_header_is_named() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    for (path, field) in [
        ("/v1/spawns?limit=0", "limit"),
        ("/v1/spawns?state=x", "state"),
        ("/v1/spawns?colour=red", "colour"),
        ("/v1/spawns/a/log?tail=1", "tail"),
    ] {
        let problem = get(farm.http, path).await.json();
        assert_eq!(problem["field"], field, "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(field), "{path}");
    }
    let answer = raw(farm.http, &request("POST", "/spawn", &[("idempotency-key", "a b")], b"")).await;
    assert_eq!(answer.json()["field"], "Idempotency-Key");
    assert_eq!(spawn(farm.http, r#"{"labels":{"a":1}}"#).await.json()["field"], "labels.a");
}

#[tokio::test]
async fn a_body_that_never_ends_is_refused_before_it_does() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let mut sent =
        b"POST /spawn HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..9 {
        sent.extend_from_slice(format!("2000\r\n{}\r\n", " ".repeat(0x2000)).as_bytes());
    }
    assert_eq!(raw(farm.http, &sent).await.code(), "body-too-large");
    // An announced length is enough.
    let sent =
        b"POST /spawn HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 65537\r\n\r\n";
    assert_eq!(raw(farm.http, sent).await.code(), "body-too-large");
}

#[tokio::test]
async fn an_empty_body_needs_no_media_type_and_the_largest_is_taken() {
    let farm = Farm::start(9, &[Script::Ready]).await;
    assert_eq!(send(farm.http, "POST", "/spawn").await.status, 200);
    let odd = request("POST", "/spawn", &[("content-type", "text/plain"), ("content-length", "0")], b"");
    assert_eq!(raw(farm.http, &odd).await.status, 200);
    let chunked = b"POST /spawn HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(raw(farm.http, chunked).await.status, 200);
    let spaces = " ".repeat(65_536 - 2);
    assert_eq!(spawn(farm.http, &format!("{{{spaces}}}")).await.status, 200);
}

#[tokio::test]
async fn pages_of_any_origin_may_spawn_but_not_operate() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let origin = ("origin", "https://viewer.example");
    let preflight = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-mine"),
    ];
    for path in ["/spawn", "/v1/spawns/a", "/v1/spawns/a/log", "/openapi.json", "/healthz"] {
        let answer = raw(farm.http, &request("OPTIONS", path, &preflight, b"")).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(answer.header("access-control-allow-headers"), Some("content-type,x-mine"), "{path}");
        assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
    }
    let answer = raw(farm.http, &request("POST", "/spawn", &[origin], b"")).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        answer.header("access-control-expose-headers"),
        Some("x-request-id,retry-after,www-authenticate")
    );
    for bad in [request("POST", "/spawn", &[origin], b"{"), request("GET", "/spawn", &[origin], b"")] {
        let answer = raw(farm.http, &bad).await;
        assert!(answer.status >= 400);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "errors can be read too");
    }
    for path in ["/v1/nodes", "/v1/nodes/node-0", "/v1/nodes/node-0/drain", "/v1/spawns"] {
        for method in ["GET", "POST", "OPTIONS"] {
            let answer = raw(farm.http, &request(method, path, &preflight, b"")).await;
            assert_eq!(answer.header("access-control-allow-origin"), None, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out() {
    let mut settings = config();
    settings.origins = Origins::Only(vec!["https://a.example".parse().unwrap()]);
    let farm = Farm::with(settings, 1, &[Script::Ready]).await;
    for (origin, allowed) in [("https://a.example", Some("https://a.example")), ("https://b.example", None)] {
        let answer = raw(farm.http, &request("GET", "/healthz", &[("origin", origin)], b"")).await;
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
    }
}

#[tokio::test]
async fn the_document_describes_exactly_the_routes_there_are() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    let document = get(farm.http, "/openapi.json").await.json();
    assert_eq!(document, serde_json::to_value(frontdoor::openapi()).unwrap());
    let methods = ["get", "post", "put", "patch", "delete"];
    for (template, item) in document["paths"].as_object().unwrap() {
        let documented: BTreeSet<String> =
            item.as_object().unwrap().keys().filter(|k| methods.contains(&k.as_str())).cloned().collect();
        let address = if template == "/metrics" { farm.front.admin_addr() } else { farm.http };
        let path = template.replace("{id}", "x").replace("{node}", "x");
        let answer = send(address, "TRACE", &path).await;
        assert_eq!(answer.status, 405, "{template} is not served");
        let allowed = answer.header("allow").unwrap().to_lowercase();
        let served: BTreeSet<String> =
            allowed.split(',').filter(|m| methods.contains(m)).map(str::to_owned).collect();
        assert_eq!(documented, served, "{template}");
        for (method, operation) in item.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["headers"]["x-request-id"].is_object(), "{method} {template} {status}");
                if status.as_str() >= "400" {
                    let content = &response["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(content, "#/components/schemas/Problem", "{method} {template} {status}");
                }
            }
        }
    }
    for name in [
        "Problem",
        "SpawnRequest",
        "SpawnAnswer",
        "Spawn",
        "Node",
        "DrainRequest",
        "EligibilityAnswer",
        "ErrorCode",
    ] {
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}
