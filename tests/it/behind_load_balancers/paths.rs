//! The shipped load balancers let through what web clients call, and keep from strangers what operators call.
//!
//! What web clients call is read from the files that say it: the client library, the front door's table of pages, and the links
//! and endpoints of the documents.

use std::collections::BTreeSet;
use std::fs;

use hatchery_tests::Farm;
use hatchery_tests::balancer::Kind;

use super::EXAMPLES;
use super::site::{HANDSHAKE, Site, ask, ask_from_inside};
use crate::repository::{files, read};

/// A method and a path.
type Call = (String, String);

/// What `client.js` calls: `call(at, PATH, {… method: 'METHOD' …})`, and `new URL(PATH, base)` for WebSockets.
fn calls_of_the_library() -> BTreeSet<Call> {
    let mut parts = files();
    parts.retain(|(name, _)| name.starts_with("crates/frontdoor/pages/client/"));
    let source: String = parts.into_iter().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
    let mut calls = BTreeSet::new();
    for rest in source.split("call(at, ").skip(1) {
        let quote = rest.chars().next().unwrap();
        let path = rest[1..].split(quote).next().unwrap();
        let method = rest.split("method: '").nth(1).unwrap().split('\'').next().unwrap();
        // What a placeholder stands for is an id.
        let path: String = path.split("${").enumerate().fold(String::new(), |path, (at, part)| match at {
            0 => part.to_owned(),
            _ => format!("{path}some-id{}", part.split_once('}').unwrap().1),
        });
        calls.insert((method.to_owned(), format!("/{path}")));
    }
    for rest in source.split("new URL('v1").skip(1) {
        calls.insert(("GET".to_owned(), format!("/v1{}", rest.split('\'').next().unwrap())));
    }
    calls
}

/// The files that a front door serves to browsers.
fn pages() -> BTreeSet<Call> {
    let source = read("crates/frontdoor/src/pages/mod.rs");
    let (_, table) = source.split_once("pages! {").unwrap();
    let rows = table.split_once("\n}").unwrap().0.lines().filter_map(|row| row.trim().strip_prefix('"'));
    rows.map(|row| ("GET".to_owned(), row.split('"').next().unwrap().to_owned())).collect()
}

/// What the examples of the documents import.
fn imports() -> BTreeSet<Call> {
    let mut calls = BTreeSet::new();
    for page in EXAMPLES {
        for rest in read(page).split(" from '").skip(1) {
            let url = rest.split('\'').next().unwrap();
            let (_, path) = url.split_once("://").unwrap().1.split_once('/').unwrap();
            calls.insert(("GET".to_owned(), format!("/{path}")));
        }
    }
    calls
}

#[test]
fn the_calls_that_are_read_from_files_are_those_that_are_meant() {
    let call = |method: &str, path: &str| (method.to_owned(), path.to_owned());
    let library = [call("DELETE", "/v1/spawns/some-id"), call("GET", "/v1/live"), call("POST", "/spawn")];
    let found = calls_of_the_library();
    assert!(library.iter().all(|call| found.contains(call)), "{found:?}");
    assert!(found.len() <= 5, "{found:?}");
    assert_eq!(imports(), [call("GET", "/client.js")].into());
    assert!(pages().len() > 20 && pages().contains(&call("GET", "/demo")), "{:?}", pages());
}

#[tokio::test]
async fn load_balancers_let_through_what_web_clients_call_and_keep_what_operators_call_from_strangers() {
    let farm = Farm::small(1).await;
    for kind in Kind::ALL {
        let site = Site::start(&farm, kind, &["--cors-origin", "*"], None).await;
        // Front doors put it on every answer, the balancers on none of their own.
        let from_door = |answer: &str| answer.to_lowercase().contains("\nx-request-id: ");
        let mut calls: BTreeSet<Call> =
            calls_of_the_library().into_iter().chain(pages()).chain(imports()).collect();
        for (method, path) in calls.clone() {
            // A browser asks first where the page is of another origin.
            if ["POST", "DELETE"].contains(&method.as_str()) {
                calls.insert(("OPTIONS".to_owned(), path));
            }
        }
        calls.insert(("PATCH".to_owned(), "/v1/spawns/some-id".to_owned()));
        calls.insert(("GET".to_owned(), "/s/node/spawn/token".to_owned()));
        for (method, path) in &calls {
            let preflight =
                ["-H", "Origin: https://app.example", "-H", "Access-Control-Request-Method: POST"];
            let body = ["-H", "Content-Type: application/json", "-d", r#"{"no":1}"#];
            let args: &[&str] = match method.as_str() {
                "OPTIONS" => &preflight,
                "GET" if path == "/v1/live" || path.starts_with("/s/") => &HANDSHAKE,
                "POST" | "PATCH" => &body,
                _ => &[],
            };
            let (status, answer) = ask(&site, method, path, args).await;
            assert!(from_door(&answer), "{kind:?} {method} {path}: {status} {answer}");
        }
        for (method, path) in [
            ("GET", "/v1/nodes"),
            ("GET", "/v1/waiting"),
            ("GET", "/v1/audit"),
            ("GET", "/v1/history"),
            ("GET", "/v1/spawns"),
            ("POST", "/v1/nodes/node-b/drain"),
            ("POST", "/v1/nodes/node-b/cordon"),
            ("GET", "/v1/spawns/some-id/log/more"),
            ("GET", "/openapi.json"),
            ("GET", "/spawn/"),
            ("GET", "/metrics"),
        ] {
            let (status, answer) = ask(&site, method, path, &[]).await;
            assert!(status == 403 && !from_door(&answer), "{kind:?} {method} {path}: {status} {answer}");
            let (status, answer) = ask_from_inside(&site, method, path, &[]).await;
            assert!(from_door(&answer), "{kind:?} {method} {path} from inside: {status} {answer}");
        }
    }
    farm.finish().await;
}
