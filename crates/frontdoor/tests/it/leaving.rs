//! Shutdown.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::fake_agent::Script;
use crate::farm::{Farm, config};
use crate::http::{begin, get, read, spawn, spawning};
use crate::wait::until;

#[tokio::test]
async fn requests_finish_inside_the_grace() {
    let farm = Farm::start(1, &[Script::ReadyOnGo]).await;
    let request = spawning(farm.http, "");
    until(async || farm.orders(), |orders| *orders == 1).await;
    let (http, admin) = (farm.http, farm.front.admin_addr());
    let leaving = tokio::spawn(farm.front.shutdown());
    until(async || get(admin, "/readyz").await.status, |status| *status == 503).await;
    until(async || TcpStream::connect(http).await.is_err(), |refused| *refused).await;
    assert_eq!(get(admin, "/readyz").await.json()["dependencies"]["registry"]["state"], "up");
    farm.agents[0].go();
    assert_eq!(request.await.unwrap().status, 200);
    leaving.await.unwrap();
    assert!(TcpStream::connect(admin).await.is_err());
}

#[tokio::test]
async fn a_late_caller_is_answered_and_leaves_nothing_behind() {
    let mut settings = config();
    settings.shutdown_grace = Duration::from_millis(100);
    let farm = Farm::with(settings, 1, &[Script::Hang]).await;
    let (registry, agents) = (farm.registry.clone(), farm.agents);
    let mut starting = begin(farm.http, &[], "").await;
    until(async || agents[0].orders().len(), |orders| *orders == 1).await;
    let mut waiting = begin(farm.http, &[], r#"{"waitSeconds":60}"#).await;
    let line = "hatchery_frontdoor_waiting 1\n";
    let admin = farm.front.admin_addr();
    until(async || get(admin, "/metrics").await.body, |text| text.contains(line)).await;
    farm.front.shutdown().await;
    for connection in [&mut starting, &mut waiting] {
        assert_eq!(read(connection).await.code(), "shutting-down");
    }
    until(async || registry.nodes().await.unwrap()[0].used, |used| *used == 0).await;
}

#[tokio::test]
async fn an_idle_front_door_leaves_at_once() {
    let farm = Farm::start(1, &[Script::Ready]).await;
    spawn(farm.http, "").await;
    let idle = TcpStream::connect(farm.http).await.unwrap();
    tokio::time::timeout(Duration::from_secs(2), farm.front.shutdown()).await.unwrap();
    drop(idle);
}
