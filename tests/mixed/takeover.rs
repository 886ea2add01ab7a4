//! An agent follows one of the other release on the same state directory.

use std::collections::BTreeSet;

use hatchery_tests::{AgentPlan, Farm, Look, Release, until, wait::TIMEOUT};
use serde_json::{Value, json};

fn pids(farm: &Farm) -> BTreeSet<u32> {
    farm.processes().iter().map(|process| process.pid).collect()
}

async fn is_up(farm: &Farm) -> Value {
    until("the node is up", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        Look::when(node["availability"] == "up", || node.to_string()).and(node)
    })
    .await
}

/// Viewers stay when an agent of this release follows one of the release before, however each of them ends.
async fn viewers_stay_with(door: Release) {
    let plan = AgentPlan::slots(8).release(Release::Previous).args(&["--ping-interval", "500ms"]);
    let mut farm = Farm::builder().doors_of(&[door]).agent(plan).start().await;
    let mut watching = Vec::new();
    let lives = [(Release::Previous, true), (Release::Current, true), (Release::Current, false)];
    for (release, killed) in lives {
        watching.push(farm.watched().await);
        let (stopped, viewer) = farm.watched().await;
        let before = pids(&farm);
        if killed {
            farm.agents[0].role.kill();
        } else {
            farm.agents[0].role.signal(rustix::process::Signal::TERM);
            let status = farm.agents[0].role.end().await;
            assert!(status.success(), "{status}");
        }
        farm.agents[0].program.release = release;
        farm.agents[0].restart().await;
        is_up(&farm).await;
        assert_eq!(pids(&farm), before, "{release:?} adopts");
        for (id, viewer) in &mut watching {
            viewer.still_watches().await;
            assert_eq!(farm.record(id).await["state"], "ready", "{release:?}");
        }
        // What another release started can be stopped, and its slot is free then.
        farm.stop([stopped.as_str()]).await;
        assert_eq!(farm.ends(&stopped).await["reason"], "stopped");
        drop(viewer);
        let audit = farm.audit().await;
        assert_eq!(audit.total(), u64::try_from(watching.len()).unwrap());
    }
    for (id, viewer) in watching {
        viewer.leave().await;
        assert_eq!(farm.ends(&id).await["reason"], "disconnected");
    }
    farm.finish().await;
}

#[tokio::test]
async fn viewers_stay_when_an_agent_follows_one_of_the_release_before() {
    viewers_stay_with(Release::Current).await;
}

#[tokio::test]
async fn viewers_stay_when_agents_are_upgraded_below_a_front_door_of_the_release_before() {
    viewers_stay_with(Release::Previous).await;
}

/// They report to URLs that it does not know. What it started itself stays.
#[tokio::test]
async fn an_agent_that_is_taken_back_ends_what_this_release_started_and_leaves_nothing() {
    let plan = AgentPlan::slots(8).release(Release::Previous).args(&["--ping-interval", "500ms"]);
    let mut farm = Farm::builder().doors_of(&[Release::Current]).agent(plan).start().await;
    let (older, mut viewer) = farm.watched().await;
    farm.agents[0].role.kill();
    farm.agents[0].program.release = Release::Current;
    farm.agents[0].restart().await;
    is_up(&farm).await;
    let (newer, _) = farm.watched().await;
    farm.agents[0].role.kill();
    farm.agents[0].program.release = Release::Previous;
    farm.agents[0].restart().await;
    is_up(&farm).await;
    farm.ends(&newer).await;
    viewer.still_watches().await;
    assert_eq!(farm.record(&older).await["state"], "ready");
    assert_eq!(farm.audit().await.total(), 1);
    viewer.leave().await;
    farm.ends(&older).await;
    farm.finish().await;
}

#[tokio::test]
async fn what_operators_want_outlives_an_upgrade_and_the_way_back() {
    let plan = AgentPlan::slots(2).release(Release::Previous);
    let mut farm = Farm::builder().doors_of(&[Release::Current, Release::Previous]).agent(plan).start().await;
    let order = async |farm: &Farm, door: usize, verb: &str| {
        let answer = farm.door(door).post(&format!("/v1/nodes/node-a/{verb}")).json(&json!({})).send().await;
        assert_eq!((answer.status, &answer.json()["agentAcknowledged"]), (200, &json!(true)), "{answer:?}");
    };
    for (round, release) in
        [Release::Current, Release::Previous, Release::Current, Release::Previous].into_iter().enumerate()
    {
        order(&farm, round % 2, "cordon").await;
        farm.agents[0].program.release = release;
        farm.agents[0].restart().await;
        let node = is_up(&farm).await;
        assert_eq!(node["eligibility"], "cordoned", "{release:?}: {node}");
        // Also when the registry has forgotten it.
        assert!(farm.redis.flush().await);
        until("the registry has learned it from the agent", TIMEOUT, async || {
            let answer = farm.door(0).get("/v1/nodes/node-a").send().await;
            let so = answer.status == 200 && answer.json()["availability"] == "up";
            Look::when(so, || format!("{answer:?}")).and(answer)
        })
        .await;
        let node = farm.door(0).json("/v1/nodes/node-a").await;
        assert_eq!(node["eligibility"], "cordoned", "{release:?}: {node}");
        if round % 2 == 0 {
            // A front door of this release gives the registry the number of its order again, within a second or two. What one of
            // the release before orders in that moment has no number, and would be taken for older.
            until("the registry has the order's number again", TIMEOUT, async || {
                let said = farm.redis.says("HGET {hatchery:test}:node:node-a gen").await.unwrap_or_default();
                Look::when(said.lines().nth(1).is_some_and(|number| number != "0"), || said)
            })
            .await;
        }
        order(&farm, (round / 2 + round) % 2, "uncordon").await;
        farm.agents[0].role.kill();
        farm.agents[0].restart().await;
        let node = is_up(&farm).await;
        assert_eq!(node["eligibility"], "eligible", "{release:?}: {node}");
    }
    farm.finish().await;
}
