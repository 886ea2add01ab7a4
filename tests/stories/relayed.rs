//! Viewers through the relay while everything around them is replaced, and while ports are used again at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hatchery_tests::crowd::allow_files;
use hatchery_tests::ports::Block;
use hatchery_tests::wait::{TIMEOUT, longer_than};
use hatchery_tests::{AgentPlan, Client, Farm, Look, Viewer, until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use crate::{setting, text};

const PUBLIC: &str = "ws://viewers.example.com";

/// The viewer's URL in this answer, at the front door itself.
fn url_of(answer: &Value, door: Client) -> String {
    format!("ws://{}{}", door.addr, text(answer, "endpoint").strip_prefix(PUBLIC).expect("the public URL"))
}

/// Opens a model again and again, as the one viewer whose session token the server takes, until `over` is set. Returns how
/// often.
async fn goes_on(mut viewer: Viewer, token: String, over: Arc<AtomicBool>) -> u64 {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        viewer.open_model(&token).await;
        assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED", "{token}");
        rounds += 1;
        // Reads meanwhile, which answers pings.
        assert!(!viewer.is_closed_within(Duration::from_secs(1)).await, "{token}");
    }
    viewer.leave().await;
    rounds
}

#[tokio::test]
async fn a_thousand_viewers_outlive_two_upgrades_of_their_relay_and_a_redis_that_is_away() {
    const VIEWERS: usize = 1000;
    const MORE: usize = 20;
    let _files = allow_files(8000).await;
    let slots = u16::try_from(VIEWERS + 3 * MORE).unwrap();
    // Below the blocks that other tests take.
    let plan = AgentPlan::slots(slots).port_range(8000..=8000 + slots + 100);
    let flags = ["--public-url", "http://viewers.example.com", "--relay-ping-interval", "5s"];
    let farm = Farm::builder().plain_log().door_args(&flags).agent(plan);
    let mut farm = farm.start().await;
    let over = Arc::new(AtomicBool::new(false));
    let come = async |farm: &Farm, first: usize, count: usize| -> Vec<_> {
        let door = farm.door(0);
        let one = |number: usize| {
            let over = Arc::clone(&over);
            async move {
                let token = format!("viewer-{number}");
                let answer = door.spawned(&json!({ "sessionToken": token })).await;
                let viewer = Viewer::client_side(&url_of(&answer, door)).await;
                (text(&answer, "id").to_owned(), tokio::spawn(goes_on(viewer, token, over)))
            }
        };
        stream::iter(first..first + count).map(one).buffer_unordered(16).collect().await
    };
    let mut watching = come(&farm, 0, VIEWERS).await;
    let mut old = vec![farm.doors[0].replace().await];
    watching.extend(come(&farm, VIEWERS, MORE).await);
    farm.redis.kill();
    longer_than(Duration::from_secs(10)).await;
    watching.extend(come(&farm, VIEWERS + MORE, MORE).await);
    farm.redis.restart().await;
    old.push(farm.doors[0].replace().await);
    // It has never seen the farm, and Redis has forgotten it.
    until("the node has reported", TIMEOUT, async || {
        let node = farm.door(0).get("/v1/nodes/node-a").send().await;
        let up = node.status == 200 && node.json()["availability"] == "up";
        Look::when(up, || format!("{node:?}"))
    })
    .await;
    watching.extend(come(&farm, VIEWERS + 2 * MORE, MORE).await);
    longer_than(Duration::from_secs(15)).await;
    over.store(true, Ordering::Relaxed);
    let mut rounds = 0;
    for (id, viewer) in watching {
        rounds += viewer.await.unwrap_or_else(|error| panic!("{id} was cut: {error}"));
        assert_eq!(farm.ends(&id).await["reason"], "disconnected", "{id}");
    }
    for role in &mut old {
        until("it ends after its last viewer", TIMEOUT, async || {
            Look::when(role.exited().is_some(), || "it runs".to_owned())
        })
        .await;
    }
    eprintln!("{} viewers, {rounds} models opened, none cut", VIEWERS + 3 * MORE);
    farm.finish().await;
}

/// URLs of spawns that have ended, the last ones.
#[derive(Clone, Default)]
struct Stale(Arc<Mutex<VecDeque<String>>>);

impl Stale {
    fn all(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics with it").iter().cloned().collect()
    }

    fn remember(&self, url: String) {
        let mut urls = self.0.lock().expect("nobody panics with it");
        urls.push_front(url);
        urls.truncate(24);
    }
}

/// Spawns on the same few ports, one after the other, each with its own viewer, while URLs of those before are tried.
async fn uses_ports_again(door: Client, number: usize, stale: Stale, left: Arc<AtomicU64>) -> u64 {
    let (mut refused, mut round) = (0, 0_u64);
    while left.load(Ordering::Relaxed) > 0 {
        round += 1;
        let token = format!("t{number}-{round}");
        let answer = door.spawned(&json!({ "sessionToken": token, "waitSeconds": 30 })).await;
        let url = url_of(&answer, door);
        let tries = stream::iter(stale.all()).map(|url| async move {
            match Viewer::connect(&url, None).await {
                Err(Error::Http(answer)) if answer.status() == 404 => {}
                other => panic!("{url} has ended, and leads to {other:?}"),
            }
        });
        let own = async {
            let mut viewer = Viewer::client_side(&url).await;
            viewer.open_model(&token).await;
            assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED", "{token}");
            viewer
        };
        let (viewer, tried) =
            tokio::join!(own, tries.buffer_unordered(8).fold(0, async |tried, ()| tried + 1));
        let path = format!("/v1/spawns/{}", text(&answer, "id"));
        if round % 2 == 0 {
            viewer.leave().await;
        } else {
            let stopped = door.delete(&path).send().await;
            assert!(matches!(stopped.status, 200 | 202), "{stopped:?}");
        }
        // While it ends, its URL leads to itself or to nothing.
        while door.json(&path).await["state"] != "exited" {
            if let Ok(mut last) = Viewer::connect(&url, None).await {
                let said = last.try_open_model(&token).await;
                assert!(said.as_deref().is_none_or(|said| said == "OPEN_MODEL_SUCCEEDED"), "{url}: {said:?}");
            }
        }
        stale.remember(url);
        refused += tried;
        let step = tried + 1;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(step))).ok();
    }
    refused
}

#[tokio::test]
async fn a_viewers_url_never_leads_to_the_next_spawn_although_ports_are_used_again_at_once() {
    const SLOTS: u16 = 8;
    let connects = setting("HATCHERY_CONNECTS", 100_000);
    let ports = Block::take();
    let plan = AgentPlan::slots(SLOTS).port_range(ports.range(SLOTS));
    let flags = ["--public-url", "http://viewers.example.com"];
    let farm = Farm::builder().plain_log().door_args(&flags).agent(plan).start().await;
    let (stale, left) = (Stale::default(), Arc::new(AtomicU64::new(connects)));
    let users: Vec<_> = (0..usize::from(SLOTS))
        .map(|number| tokio::spawn(uses_ports_again(farm.door(0), number, stale.clone(), Arc::clone(&left))))
        .collect();
    let mut refused = 0;
    for user in users {
        refused += user.await.unwrap();
    }
    eprintln!("{refused} connects with URLs of spawns that had ended were refused");
    assert!(refused > connects / 2, "{refused} of {connects}");
    farm.finish().await;
}
