//! Bad paths, queries, methods and headers: refused with the right code and a word that names what is wrong.

use hatchery_tests::{Farm, Response};
use serde_json::json;
use uuid::Uuid;

use crate::input::{invalid, unharmed};

/// A 400 or a 404, whichever: there can be no such thing.
fn no_such_thing(what: &str, answer: &Response) {
    match answer.status {
        400 => answer.problem(400, "invalid-request"),
        404 => answer.problem(404, "not-found"),
        _ => panic!("{what}: {answer:?}"),
    };
}

#[tokio::test]
async fn an_id_that_names_nothing_is_not_found() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    for id in [Uuid::nil(), Uuid::max(), Uuid::from_u128(0x0198_7a5e_2f30_7c41_9d5c_0123_4567_89ab)] {
        for (method, path) in [("GET", ""), ("DELETE", ""), ("GET", "/log")] {
            door.request(method, &format!("/v1/spawns/{id}{path}")).send().await.problem(404, "not-found");
        }
    }
    for node in ["node-z", "NODE-A", "node-a.", "node"] {
        door.get(&format!("/v1/nodes/{node}")).send().await.problem(404, "not-found");
    }
    for junk in [
        "nope",
        "1",
        "%00",
        "%ff%fe",
        "%2e%2e",
        "..%2f..%2fetc",
        "a%2fb",
        "%0d%0aSet-Cookie:x",
        "%",
        "%zz",
        "{}",
        "*",
        "%20",
        "-",
    ] {
        for (method, path) in [
            ("GET", format!("/v1/spawns/{junk}")),
            ("DELETE", format!("/v1/spawns/{junk}")),
            ("GET", format!("/v1/spawns/{junk}/log")),
            ("GET", format!("/v1/nodes/{junk}")),
        ] {
            no_such_thing(&path, &door.request(method, &path).send().await);
        }
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn a_bad_query_is_refused_by_the_name_of_its_parameter() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=abc", "limit"),
        ("limit=", "limit"),
        ("limit=1.5", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=%00", "limit"),
        ("state=bogus", "state"),
        ("state=", "state"),
        ("state=READY", "state"),
        ("cursor=garbage", "cursor"),
        ("cursor=%ff", "cursor"),
        ("cursor=", "cursor"),
        ("foo=bar", "foo"),
        ("Limit=1", "Limit"),
        ("limit=1&foo=2", "foo"),
        ("node=%00", "node"),
        ("node=a%20b", "node"),
        ("limit=1&limit=2", "limit"),
    ] {
        invalid(door.get(&format!("/v1/spawns?{query}")), name).await;
    }
    invalid(door.get("/v1/nodes?foo=1"), "foo").await;
    invalid(door.post("/spawn?rendererType=ssr"), "rendererType").await;
    let none = door.json("/v1/spawns?node=nowhere&state=ready").await;
    assert_eq!(none, json!({"spawns": []}));

    let answer = door.spawned(&json!({})).await;
    let id = answer["id"].as_str().unwrap();
    for (query, name) in [
        ("lines=abc", "lines"),
        ("lines=-1", "lines"),
        ("lines=99999999999999999999", "lines"),
        ("foo=1", "foo"),
    ] {
        invalid(door.get(&format!("/v1/spawns/{id}/log?{query}")), name).await;
    }
    farm.stop([id]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_wrong_method_is_answered_with_the_right_ones() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    let id = Uuid::nil();
    for (path, right) in [
        ("/spawn".to_owned(), &["POST"][..]),
        ("/v1/spawns".to_owned(), &["GET"]),
        (format!("/v1/spawns/{id}"), &["GET", "PATCH", "DELETE"]),
        (format!("/v1/spawns/{id}/log"), &["GET"]),
        ("/v1/nodes".to_owned(), &["GET"]),
        ("/v1/waiting".to_owned(), &["GET"]),
        ("/v1/audit".to_owned(), &["GET"]),
        ("/v1/history".to_owned(), &["GET"]),
        ("/v1/explain".to_owned(), &["POST"]),
        ("/v1/nodes/node-a".to_owned(), &["GET", "DELETE"]),
        ("/v1/nodes/node-a/drain".to_owned(), &["POST"]),
        ("/healthz".to_owned(), &["GET"]),
        ("/readyz".to_owned(), &["GET"]),
        ("/openapi.json".to_owned(), &["GET"]),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "BREW"] {
            if right.contains(&method) {
                continue;
            }
            let answer = door.request(method, &path).send().await;
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            answer.problem(405, "method-not-allowed");
            let allow =
                answer.header("allow").unwrap_or_else(|| panic!("no Allow: {method} {path} {answer:?}"));
            let allowed: Vec<&str> = allow.split(',').map(str::trim).collect();
            for method in right {
                assert!(allowed.contains(method), "{path}: {allow}");
            }
            assert!(!allowed.contains(&method), "{method} {path}: {allow}");
        }
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn an_unknown_route_is_not_found() {
    let farm = Farm::small(2).await;
    for path in [
        "/nope",
        "/spawn/",
        "//spawn",
        "/SPAWN",
        "/spawn/x",
        "/v1",
        "/v1/",
        "/v2/spawns",
        "/v1/spawn",
        "/metrics",
        "/v1/nodes/node-a/nope",
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/.git/config",
        "/spawn%00",
        "/spawn%2f",
    ] {
        for method in ["GET", "POST"] {
            let answer = farm.door(0).request(method, path).send().await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
            answer.problem(404, "not-found");
        }
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn a_bad_idempotency_key_is_refused() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    let long = "k".repeat(256);
    for key in ["", " ", "a b", "a\tb", "\u{e9}", "k\u{301}", &long, &"k".repeat(8000)] {
        invalid(door.post("/spawn").header("idempotency-key", key), "Idempotency-Key").await;
    }
    let twice = door.post("/spawn").header("idempotency-key", "a").header("idempotency-key", "b");
    invalid(twice, "Idempotency-Key").await;
    assert!(farm.processes().is_empty());
    for key in ["!", "~", &"k".repeat(255), "{}\"'\\,;"] {
        let answer = door.post("/spawn").header("idempotency-key", key).send().await;
        assert_eq!(answer.status, 200, "{key}: {answer:?}");
        farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_sane_and_replaced_if_not() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    for id in ["req-1:abc/def=", "a", &"x".repeat(128)] {
        let answer = door.get("/v1/nodes").header("x-request-id", id).send().await;
        assert_eq!(answer.header("x-request-id"), Some(id));
        let answer = door.get("/nope").header("x-request-id", id).send().await;
        assert_eq!(answer.problem(404, "not-found").text("requestId"), id);
    }
    for id in ["", "a b", "a\"b", "\u{e9}", &"x".repeat(129), &"x".repeat(10_000)] {
        let answer = door.get("/nope").header("x-request-id", id).send().await;
        assert_ne!(answer.problem(404, "not-found").text("requestId"), id);
    }
    unharmed(farm).await;
}
