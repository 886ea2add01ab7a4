//! One name, one node: orders reach the node that they name or nobody, and the agent that lives keeps its node.

use std::time::Duration;

use hatchery_tests::{AgentPlan, Farm, Look, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long an agent whose name is taken tries before it gives up, and a little more.
const GIVES_UP: Duration = Duration::from_secs(25);
/// Without a heartbeat for this long a node is gone, and a little more.
const GONE: Duration = Duration::from_secs(20);

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

async fn is(farm: &Farm, node: &str, availability: &str) -> Value {
    until(&format!("{node} is {availability}"), GONE, async || {
        let answer = farm.door(0).get(&format!("/v1/nodes/{node}")).send().await;
        let so = answer.status == 200 && answer.json()["availability"] == availability;
        Look::when(so, || format!("{answer:?}")).and(answer)
    })
    .await
    .json()
}

#[tokio::test]
async fn a_second_machine_with_a_nodes_name_is_refused_while_the_first_lives() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(2)).start().await;
    let (id, mut viewer) = farm.watched_on("node-a").await;
    let first = is(&farm, "node-a", "up").await;
    farm.agents[1].role.kill();
    farm.agents[1].set("--node", "node-a");
    farm.agents[1].node = "node-a".to_owned();
    farm.agents[1].restart().await;
    let status = until("the second one gives up", GIVES_UP, async || match farm.agents[1].role.exited() {
        Some(status) => Look::Ready(status),
        None => {
            let node = farm.door(0).json("/v1/nodes/node-a").await;
            for member in ["epoch", "advertise"] {
                assert_eq!(node[member], first[member], "the first one keeps its node");
            }
            assert_eq!(node["slots"]["used"], 1, "{node}");
            Look::NotYet("it runs".to_owned())
        }
    })
    .await;
    assert_eq!(status.code(), Some(4), "{status}");
    let log = farm.agents[1].role.log();
    assert!(log.contains(text(&first, "advertise")), "it says who has the name: {log}");
    farm.agents[1].role.killed = true;
    viewer.still_watches().await;
    assert_eq!(farm.record(&id).await["state"], "ready");
    viewer.leave().await;
    farm.ends(&id).await;
    farm.shut_down().await;
}

/// Another machine takes the name of `node-a` while its agent is held up; then that one runs on.
async fn takes_over(farm: &mut Farm) {
    let first = is(farm, "node-a", "up").await;
    farm.agents[0].role.signal(Signal::STOP);
    farm.agents[1].role.kill();
    farm.agents[1].set("--node", "node-a");
    farm.agents[1].node = "node-a".to_owned();
    farm.agents[1].restart().await;
    until("the second one has the node", GONE, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        let so = node["advertise"] != first["advertise"] && node["availability"] == "up";
        Look::when(so, || node.to_string())
    })
    .await;
    farm.agents[0].role.signal(Signal::CONT);
}

#[tokio::test]
async fn a_machine_that_is_gone_leaves_its_name_to_another_one_and_never_takes_it_back() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(2)).start().await;
    let (id, mut viewer) = farm.watched_on("node-a").await;
    takes_over(&mut farm).await;
    // It admits nothing more, and sees its own spawn off.
    viewer.still_watches().await;
    assert_eq!(farm.agents[0].role.exited(), None, "its viewer is still there");
    viewer.leave().await;
    let status = farm.agents[0].role.end().await;
    assert_eq!(status.code(), Some(4), "{status}");
    assert!(farm.agents[0].role.log().contains("--node must be unique in the farm"));
    farm.agents[0].role.killed = true;
    farm.ends(&id).await;
    let (id, viewer) = farm.watched_on("node-a").await;
    viewer.leave().await;
    farm.ends(&id).await;
    farm.shut_down().await;
}

/// The agent of `node-a` loses its node to another machine while it is held up, and runs on with a viewer.
async fn lost_node(on_shutdown: &str) -> (Farm, String, hatchery_tests::Viewer) {
    let plan = AgentPlan::slots(2).args(&["--on-shutdown", on_shutdown, "--stop-grace", "500ms"]);
    let mut farm = Farm::builder().agent(plan).agent(AgentPlan::slots(2)).start().await;
    let (id, viewer) = farm.watched_on("node-a").await;
    takes_over(&mut farm).await;
    farm.agents[0].role.logs("spawns go on here").await;
    (farm, id, viewer)
}

#[tokio::test]
async fn an_agent_that_has_lost_its_node_ends_no_spawn_on_sigterm() {
    let (mut farm, id, mut viewer) = lost_node("kill").await;
    farm.agents[0].role.signal(Signal::TERM);
    let status = farm.agents[0].role.end().await;
    assert_eq!(status.code(), Some(4), "{status}");
    farm.agents[0].role.killed = true;
    viewer.still_watches().await;
    assert!(farm.process(&id).is_some(), "its server goes on");
    viewer.leave().await;
    until("it has ended by itself", TIMEOUT, async || {
        Look::when(farm.process(&id).is_none(), || "it runs".to_owned())
    })
    .await;
    farm.shut_down().await;
}

#[tokio::test]
async fn an_agent_that_has_lost_its_node_and_drains_stays_until_its_viewers_have_left() {
    let (mut farm, id, mut viewer) = lost_node("drain").await;
    farm.agents[0].role.signal(Signal::TERM);
    farm.agents[0].role.logs("no spawn is ended").await;
    viewer.still_watches().await;
    assert_eq!(farm.agents[0].role.exited(), None, "its viewer is still there");
    viewer.leave().await;
    let status = farm.agents[0].role.end().await;
    assert_eq!(status.code(), Some(4), "{status}");
    farm.agents[0].role.killed = true;
    farm.ends(&id).await;
    farm.shut_down().await;
}

#[tokio::test]
async fn orders_for_a_node_that_was_replaced_at_its_address_touch_nothing_of_the_new_one() {
    let plan = || AgentPlan::slots(2).args(&["--stop-grace", "500ms"]);
    let mut farm = Farm::builder().agent(plan()).agent(plan()).start().await;
    let (old, _) = farm.watched_on("node-a").await;
    farm.agents[0].role.kill();
    hatchery_tests::processes::end_all_of(&farm, "node-a");
    // Another machine at the same address, with another name and a state directory of its own.
    let state = farm.agents[0].state_dir.with_file_name("node-new");
    farm.agents[0].set("--node", "node-new");
    farm.agents[0].set("--state-dir", state.to_str().unwrap());
    farm.agents[0].node = "node-new".to_owned();
    farm.agents[0].state_dir = state;
    farm.agents[0].restart().await;
    is(&farm, "node-new", "up").await;
    let (id, mut viewer) = farm.watched_on("node-new").await;
    // The old one may still count as up: what is ordered of it is ordered of nobody.
    let drained = farm.door(0).post("/v1/nodes/node-a/drain").json(&json!({"force": true})).send().await;
    assert_eq!((drained.status, &drained.json()["agentAcknowledged"]), (200, &json!(false)), "{drained:?}");
    let stopped = farm.door(0).delete(&format!("/v1/spawns/{old}")).send().await;
    assert!([200, 202, 503].contains(&stopped.status), "{stopped:?}");
    viewer.still_watches().await;
    let new = farm.door(0).json("/v1/nodes/node-new").await;
    assert_eq!((&new["eligibility"], &new["slots"]["used"]), (&json!("eligible"), &json!(1)), "{new}");
    // Asked for by its name, it starts nothing either.
    is(&farm, "node-a", "down").await;
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    assert_eq!(node["slots"]["used"], 0, "what is gone takes no slot: {node}");
    viewer.leave().await;
    farm.ends(&id).await;
    farm.shut_down().await;
}

#[tokio::test]
async fn a_drain_of_a_node_that_is_gone_ends_at_once_and_says_what_is_true() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(2)).start().await;
    let (id, viewer) = farm.watched_on("node-a").await;
    farm.agents[0].role.kill();
    is(&farm, "node-a", "down").await;
    assert_eq!(farm.record(&id).await["state"], "lost");
    let asked = Instant::now();
    let ran = farm.run(&["drain", "node-a", "--force", "--wait", "--json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let node = farm.door(0).json("/v1/nodes/node-a").await;
    assert_eq!((&node["slots"]["used"], &node["drain"]["remaining"]), (&json!(0), &json!(0)), "{node}");
    // It comes back with what lives there, and the drain goes on where it stands.
    farm.agents[0].restart().await;
    is(&farm, "node-a", "up").await;
    assert_eq!(farm.ends(&id).await["reason"], "drained");
    drop(viewer);
    assert_eq!(farm.door(0).post("/v1/nodes/node-a/uncordon").send().await.status, 200);
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_that_was_started_without_its_state_finds_its_spawns_again() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(4)).start().await;
    let mut watching = Vec::new();
    for _ in 0..3 {
        watching.push(farm.watched_on("node-a").await);
    }
    let right = farm.agents[0].state_dir.clone();
    let empty = right.with_file_name("not-mounted-yet");
    farm.agents[0].role.kill();
    farm.agents[0].set("--state-dir", empty.to_str().unwrap());
    farm.agents[0].restart().await;
    until("the registry believes that they are gone", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        Look::when(node["slots"]["used"] == 0, || node.to_string())
    })
    .await;
    farm.agents[0].role.kill();
    farm.agents[0].set("--state-dir", right.to_str().unwrap());
    farm.agents[0].restart().await;
    for (id, viewer) in &mut watching {
        farm.reaches(id, "ready", TIMEOUT).await;
        viewer.still_watches().await;
    }
    assert_eq!(farm.audit().await.total(), 3);
    // They can be stopped like any other.
    for (id, viewer) in watching {
        drop(viewer);
        farm.stop([id.as_str()]).await;
        farm.ends(&id).await;
    }
    farm.finish().await;
}
