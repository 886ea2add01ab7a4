//! `hatchery watch`, and tables that follow the farm.

use std::process::Stdio;

use hatchery_tests::{AgentPlan, Farm, Look, processes, role, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// A command that goes on until it is interrupted.
struct Running {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(farm: &Farm, args: &[&str]) -> Self {
        let mut command = Command::from(role::hatchery(farm.mark()));
        command.args(["--server", &format!("http://{}", farm.door(0).addr)]).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { child, out: BufReader::new(out).lines(), err: BufReader::new(err).lines() }
    }

    /// Reads on until a line holds all of these.
    async fn says(&mut self, words: &[&str]) -> String {
        let look = async {
            while let Some(line) = self.out.next_line().await.unwrap() {
                if words.iter().all(|word| line.contains(word)) {
                    return line;
                }
            }
            panic!("it ended without {words:?}");
        };
        timeout(TIMEOUT, look).await.unwrap_or_else(|_| panic!("no line with {words:?}"))
    }

    async fn complains(&mut self) -> String {
        timeout(TIMEOUT, self.err.next_line()).await.unwrap().unwrap().unwrap()
    }

    /// As Ctrl-C does.
    async fn interrupt(mut self) {
        processes::signal(self.child.id().unwrap(), Signal::INT);
        let status = timeout(TIMEOUT, self.child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

async fn listened_to(farm: &Farm, topic: &str, count: f64) {
    let series = format!("hatchery_frontdoor_live_subscriptions{{topic=\"{topic}\"}}");
    until(&format!("{series} is {count}"), TIMEOUT, async || {
        let found = farm.doors[0].metrics().await.get(&series);
        Look::when(found == Some(count), || format!("{found:?}"))
    })
    .await;
}

#[tokio::test]
async fn watch_prints_events_and_goes_on_when_its_front_door_was_restarted() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(4)).start().await;
    let mut lines = Running::start(&farm, &["watch"]);
    let mut programs = Running::start(&farm, &["watch", "--json", "spawns"]);
    listened_to(&farm, "spawns", 2.0).await;
    let spawn = farm.door(0).spawned(&json!({})).await;
    let id = spawn["id"].as_str().unwrap();
    lines.says(&["spawn.launching", "node-a", id, "rendererType=csr"]).await;
    lines.says(&["spawn.ready", id, spawn["endpoint"].as_str().unwrap()]).await;
    let event: Value = serde_json::from_str(&programs.says(&["spawn.ready"]).await).unwrap();
    assert_eq!((&event["type"], &event["spawn"]), (&json!("event"), &spawn["id"]));

    farm.doors[0].role.kill();
    assert!(lines.complains().await.contains("reconnecting"));
    // Nobody is told of this as it happens.
    processes::signal(farm.process(id).unwrap().pid, Signal::KILL);
    until("it is on record", TIMEOUT, async || {
        let record = farm.door(1).json(&format!("/v1/spawns/{id}")).await;
        Look::when(record["state"] == "exited", || record.to_string())
    })
    .await;
    farm.doors[0].restart().await;
    assert!(lines.complains().await.contains("again"));
    lines.says(&["spawn.exited", id, "reason=signaled", "signal=SIGKILL"]).await;
    let event: Value = serde_json::from_str(&programs.says(&["spawn.exited"]).await).unwrap();
    assert_eq!(event["exit"]["signal"], "SIGKILL");
    lines.interrupt().await;
    programs.interrupt().await;
    farm.finish().await;
}

#[tokio::test]
async fn tables_are_printed_again_when_something_has_changed() {
    let farm = Farm::small(2).await;
    let mut nodes = Running::start(&farm, &["nodes", "--watch"]);
    let mut spawns = Running::start(&farm, &["spawns", "--watch"]);
    nodes.says(&["node-a", "eligible", "up"]).await;
    spawns.says(&["no spawns"]).await;
    let spawn = farm.door(0).spawned(&json!({})).await;
    let id = spawn["id"].as_str().unwrap();
    spawns.says(&[id, "ready"]).await;
    assert_eq!(farm.door(0).post("/v1/nodes/node-a/cordon").send().await.status, 200);
    nodes.says(&["node-a", "cordoned"]).await;
    farm.stop([id]).await;
    spawns.says(&["no spawns"]).await;
    nodes.interrupt().await;
    spawns.interrupt().await;
    farm.ends(id).await;
    farm.finish().await;
}

#[tokio::test]
async fn what_cannot_be_watched_is_said_at_once() {
    let farm = Farm::small(1).await;
    let wrong = farm.run(&["watch", "everything"]).await;
    assert_eq!(wrong.code, 2, "{wrong:?}");
    let nowhere = farm.run(&["--server", "http://127.0.0.1:9", "watch"]).await;
    assert_eq!(nowhere.code, 1, "{nowhere:?}");
    farm.finish().await;
}
