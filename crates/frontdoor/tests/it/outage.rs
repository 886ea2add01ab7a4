//! A registry that is away.

use std::time::Duration;

use frontdoor::FrontDoor;
use registry::Registry;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use crate::farm::{TIMING, config};
use crate::http::{get, send, spawn, spawn_keyed};

/// A front door whose Redis is a port that nobody listens on.
async fn alone() -> FrontDoor {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let registry = Registry::open(&format!("redis://{unused}"), "farm", TIMING).unwrap();
    FrontDoor::start(config(), registry).await.unwrap()
}

#[tokio::test]
async fn calls_that_need_the_registry_are_refused_promptly() {
    let front = alone().await;
    let http = front.http_addr();
    let began = Instant::now();
    let answers = [
        spawn(http, "").await,
        spawn(http, r#"{"waitSeconds":60}"#).await,
        spawn_keyed(http, "key", "").await,
        get(http, "/v1/nodes").await,
        get(http, "/v1/waiting").await,
        get(http, "/v1/audit").await,
        get(http, "/v1/history").await,
        get(http, "/v1/nodes/node-a").await,
        get(http, "/v1/spawns").await,
        get(http, &format!("/v1/spawns/{}", model::SpawnId::mint())).await,
        send(http, "DELETE", &format!("/v1/spawns/{}", model::SpawnId::mint())).await,
    ];
    for answer in answers {
        assert_eq!(answer.code(), "registry-unavailable", "{answer:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(spawn(http, "{").await.status, 400, "what is wrong is told all the same");
}

#[tokio::test]
async fn it_says_so_where_probes_look() {
    let front = alone().await;
    for address in [front.http_addr(), front.admin_addr()] {
        let answer = get(address, "/readyz").await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "registry-unavailable"));
        assert_eq!(answer.json()["dependencies"]["registry"]["state"], "away");
        assert_eq!(get(address, "/healthz").await.status, 200);
    }
    let text = get(front.admin_addr(), "/metrics").await.body;
    assert!(text.contains("hatchery_frontdoor_registry_failures_total"), "{text}");
    timeout(Duration::from_secs(5), front.shutdown())
        .await
        .expect("nothing waits for a registry that is away");
}
