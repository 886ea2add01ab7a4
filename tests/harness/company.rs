//! Those who must not notice that Redis is in a bad mood: viewers, a caller who spawns and spawns, and a subscriber to everything
//! that happens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::farm::Farm;
use crate::http::Client;
use crate::live::Subscriber;
use crate::moods::Mood;
use crate::plan::AgentPlan;
use crate::viewer::Viewer;
use crate::wait::{Look, until};

/// Everything is true again within this time of the end of a mood.
pub const TRUE_AGAIN: Duration = Duration::from_secs(2);
/// What a machine that is busy with other tests may add to that.
pub const BUSY_MACHINE: Duration = Duration::from_secs(4);
/// Between two spawns of the caller, where nothing lasts long.
const QUICK: Duration = Duration::from_millis(200);
/// So many spawns the caller makes in a time that is known, and less than a farm has slots.
const SPAWNS: u32 = 50;

/// On a machine that is slow a test lasts longer, and the caller asks for no more than this: a farm has slots for it.
const MAX_SPAWNS: usize = 64;

/// A caller who spawns one after the other and notes every answer that is none.
#[derive(Debug)]
struct Caller {
    going: Arc<AtomicBool>,
    task: JoinHandle<(Vec<String>, Vec<String>)>,
}

impl Caller {
    fn start(doors: Vec<Client>, pace: Duration) -> Self {
        let going = Arc::new(AtomicBool::new(true));
        let goes_on = Arc::clone(&going);
        let task = tokio::spawn(async move {
            let (mut ids, mut refused) = (Vec::new(), Vec::new());
            for index in 0.. {
                if !goes_on.load(Ordering::Relaxed) {
                    break;
                }
                if ids.len() == MAX_SPAWNS {
                    tokio::time::sleep(pace).await;
                    continue;
                }
                let door = doors[index % doors.len()];
                let asked = Instant::now();
                let answer = door.spawn(&json!({})).await;
                if answer.status == 200 {
                    ids.push(answer.json()["id"].as_str().expect("the contract has it").to_owned());
                } else {
                    refused.push(format!("after {:?}: {answer:?}", asked.elapsed()));
                }
                tokio::time::sleep(pace).await;
            }
            (ids, refused)
        });
        Self { going, task }
    }

    /// What it was given, and what it was refused.
    async fn stop(self) -> (Vec<String>, Vec<String>) {
        self.going.store(false, Ordering::Relaxed);
        self.task.await.expect("the contract has it")
    }
}

/// Two viewers, a caller, and a subscriber to everything.
#[derive(Debug)]
pub struct Company {
    viewers: Vec<(String, Viewer)>,
    /// Reads all the time, as a page does: whoever answers no ping is not there.
    subscriber: (oneshot::Sender<()>, JoinHandle<Vec<Value>>),
    caller: Caller,
}

impl Company {
    /// Comes in.
    pub async fn of(farm: &Farm) -> Self {
        Self::at_pace(farm, QUICK).await
    }

    /// The same with a caller who waits so long between two spawns.
    pub async fn at_pace(farm: &Farm, pace: Duration) -> Self {
        let mut viewers = Vec::new();
        for index in 0..2 {
            let answer = farm.door(index).spawned(&json!({})).await;
            let mut viewer =
                Viewer::client_side(answer["endpoint"].as_str().expect("the contract has it")).await;
            viewer.open_model("").await;
            assert_eq!(viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
            viewers.push((answer["id"].as_str().expect("the contract has it").to_owned(), viewer));
        }
        let mut subscriber = Subscriber::connect(farm.door(0).addr).await;
        for topic in ["nodes", "spawns"] {
            subscriber.subscribe(topic).await;
        }
        for door in &farm.doors {
            until("the front door has seen both nodes", TRUE_AGAIN * 5, async || {
                let nodes = door.metrics().await.sum("hatchery_frontdoor_snapshot_nodes");
                Look::when(nodes > 1.5, || format!("{nodes} nodes in its snapshot"))
            })
            .await;
        }
        let (over, stop) = oneshot::channel();
        let subscriber = (over, tokio::spawn(listen(subscriber, stop)));
        Self {
            viewers,
            subscriber,
            caller: Caller::start(farm.doors.iter().map(|door| door.http).collect(), pace),
        }
    }

    /// Nothing was lost, nothing was refused, and nobody heard what is not so.
    ///
    /// # Panics
    /// Something was.
    pub async fn all_is_well(self, farm: &Farm, mood: &str) {
        let Self { mut viewers, subscriber: (over, heard), caller } = self;
        let (mut ids, refused) = caller.stop().await;
        assert!(refused.is_empty(), "{mood}: {} were refused: {refused:#?}", refused.len());
        assert!(!ids.is_empty(), "{mood}: somebody was served");
        for (id, viewer) in &mut viewers {
            assert!(!viewer.is_closed().await, "{mood}: a viewer was cut off");
            ids.push(id.clone());
        }
        let all: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        until("everything is on record", TRUE_AGAIN + BUSY_MACHINE, async || {
            for door in &farm.doors {
                let answer = door.http.get("/v1/spawns?state=ready&limit=500").send().await;
                if answer.status != 200 {
                    return Look::NotYet(format!("{answer:?}"));
                }
                let list = answer.json();
                let known: BTreeSet<&str> = list["spawns"]
                    .as_array()
                    .expect("the contract has it")
                    .iter()
                    .filter_map(|s| s["id"].as_str())
                    .collect();
                if known != all {
                    return Look::NotYet(format!("{} of {} are ready", known.len(), all.len()));
                }
            }
            Look::Ready(())
        })
        .await;
        for door in &farm.doors {
            let nodes = door.http.json("/v1/nodes").await;
            for node in nodes["nodes"].as_array().expect("the contract has it") {
                assert_eq!(
                    (&node["availability"], &node["health"]["state"]),
                    (&json!("up"), &json!("ok")),
                    "{mood}"
                );
            }
        }
        // What is said of it may come a moment later.
        crate::wait::longer_than(Duration::from_secs(1)).await;
        over.send(()).ok();
        let heard = heard.await.expect("a subscriber is kept");
        assert!(heard.is_empty(), "{mood}: false events: {heard:#?}");
        farm.audit().await;
        farm.stop(ids.iter().map(String::as_str)).await;
    }
}

/// Reads everything that is said until it is told to stop; gives what says a node's or a spawn's loss.
async fn listen(mut subscriber: Subscriber, mut over: oneshot::Receiver<()>) -> Vec<Value> {
    let wrong = ["node.stale", "node.down", "spawn.lost", "spawn.exited", "node.failing"];
    let mut heard = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = subscriber.anything() => frame,
            _ = &mut over => return heard,
        };
        // What a test stops ends.
        if wrong.contains(&frame["kind"].as_str().unwrap_or_default()) && frame["exit"]["reason"] != "stopped"
        {
            heard.push(frame);
        }
    }
}

/// Two front doors and two nodes with room for everything a caller asks for meanwhile.
pub async fn farm() -> Farm {
    // Nobody looks at what the caller spawns.
    let plan = || AgentPlan::slots(46).ports(48).args(&["--initial-use", "30m"]);
    // A subscriber that hears nothing for half a minute is cut off: heartbeats come more often.
    let doors = ["--live-ping-interval", "10s"];
    Farm::builder().doors(2).door_args(&doors).agent(plan()).agent(plan()).start().await
}

/// A farm goes through a mood of its Redis, and nobody notices.
///
/// # Panics
/// Somebody does.
pub async fn through(mood: Mood, time: Duration) {
    let mut farm = farm().await;
    let company = Company::at_pace(&farm, QUICK.max(time / SPAWNS)).await;
    farm.redis.falls_into(mood).await;
    farm.redis.stays_in(mood, time).await;
    farm.redis.gets_over(mood).await;
    company.all_is_well(&farm, &mood.to_string()).await;
    farm.finish().await;
}
