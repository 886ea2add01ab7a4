//! A node whose servers are ready, and end a second later: callers have been answered by then.

use hatchery_tests::{AgentPlan, Farm, Look, Mood, Moody, until};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::sick_nodes::{MAX_FAILED, SEEN, SPAWNS, farm, health, it_is_well_again};

/// One caller after another. A server on `node-c` is waited for until it has ended; the others are stopped at once.
struct Callers<'a> {
    farm: &'a Farm,
    asked: usize,
    lost: usize,
    /// When the first server of `node-c` had ended, and when the node was shown as failing.
    first: Option<Instant>,
    shown: Option<Value>,
}

impl<'a> Callers<'a> {
    fn of(farm: &'a Farm) -> Self {
        Self { farm, asked: 0, lost: 0, first: None, shown: None }
    }

    async fn one(&mut self) {
        let answer = self.farm.door(self.asked % 2).spawned(&json!({})).await;
        self.asked += 1;
        let (id, node) = (answer["id"].as_str().unwrap(), answer["node"].as_str().unwrap());
        if node == "node-c" {
            assert_eq!(self.farm.ends(id).await["reason"], "signaled");
            self.lost += 1;
            self.first.get_or_insert_with(Instant::now);
        } else {
            self.farm.stop([id]).await;
        }
        self.look().await;
    }

    async fn look(&mut self) {
        if self.shown.is_some() {
            return;
        }
        let health = health(self.farm, "node-c").await;
        let late = self.first.is_some_and(|first| first.elapsed() > SEEN);
        assert!(!late, "{SEEN:?} after its first failure node-c does not show as failing: {health}");
        self.shown = (health["state"] == "failing").then_some(health);
    }

    fn shown(&self) -> &Value {
        let shown = self.shown.as_ref().expect("it is failing");
        assert!(shown["reason"].as_str().unwrap().contains("SIGSEGV"), "{shown}");
        shown
    }
}

#[tokio::test]
async fn a_node_whose_servers_die_a_second_after_they_were_ready_loses_one_caller_at_the_most() {
    let directory = TempDir::new().unwrap();
    let moody = Moody::new(directory.path());
    let farm = farm(AgentPlan::slots(8).executable(moody.executable())).await;
    moody.becomes(Mood::DiesSoon);
    let mut callers = Callers::of(&farm);
    while callers.asked < SPAWNS || callers.shown.is_none() {
        callers.one().await;
        assert!(callers.asked < SPAWNS * 100, "node-c has failed no spawn");
    }
    assert!(callers.lost <= MAX_FAILED, "{} of {} callers lost their servers", callers.lost, callers.asked);
    callers.shown();
    moody.becomes(Mood::Well);
    it_is_well_again(&farm).await;
    farm.finish().await;
}

#[tokio::test]
async fn callers_at_once_lose_what_such_a_node_was_given_before_its_first_server_died_and_none_later() {
    const AT_ONCE: usize = 12;
    let directory = TempDir::new().unwrap();
    let moody = Moody::new(directory.path());
    let farm = farm(AgentPlan::slots(8).executable(moody.executable())).await;
    moody.becomes(Mood::DiesSoon);
    let calls = (0..AT_ONCE).map(|n| tokio::spawn(farm.door(n % 2).post("/spawn").json(&json!({})).send()));
    let (mut on_c, mut elsewhere) = (Vec::new(), Vec::new());
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        let to = if answer["node"] == "node-c" { &mut on_c } else { &mut elsewhere };
        to.push(answer["id"].as_str().unwrap().to_owned());
    }
    // Nobody can know before the first one has died, and each node has its share.
    assert!(on_c.len() <= AT_ONCE / 3 + 1, "{} on node-c", on_c.len());
    let mut callers = Callers::of(&farm);
    for id in &on_c {
        farm.ends(id).await;
        callers.first.get_or_insert_with(Instant::now);
    }
    farm.stop(elsewhere.iter().map(String::as_str)).await;
    for _ in 0..SPAWNS {
        callers.one().await;
    }
    assert_eq!(callers.lost, 0, "it is known by now");
    until("node-c is failing", SEEN, async || {
        let health = health(&farm, "node-c").await;
        Look::when(health["state"] == "failing", || health.to_string())
    })
    .await;
    farm.finish().await;
}
