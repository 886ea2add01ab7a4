//! Servers start in order, and no more of them at once than the agent is to start.

use model::{ExitReason, SpawnId, SpawnState};
use wire::v1;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, until};

async fn waiting(farm: &Farm, count: u32) {
    until("so many starts wait", async || {
        let line = format!("hatchery_agent_starts_waiting {count}");
        farm.metrics().await.lines().any(|found| found == line).then_some(())
    })
    .await;
}

/// Sends it, and goes on when the agent has it.
async fn begin(farm: &Farm, ask: &v1::SpawnRequest, waits: u32) -> tokio::task::JoinHandle<Outcome> {
    let (mut client, sent) = (farm.client.clone(), ask.clone());
    let call = tokio::spawn(async move { client.spawn(sent).await.unwrap().into_inner().outcome.unwrap() });
    waiting(farm, waits).await;
    call
}

fn refused(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::Refused(refused) => refused.reason(),
        other => panic!("not refused but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_wait_for_each_other_in_their_order_and_cost_nothing_meanwhile() {
    let farm = Farm::start_with(|config| config.starts = 1).await;
    let open = farm.dir.path().join("open");
    let first = farm.ask(&format!("until [[ -e {} ]]; do sleep 0.02; done; {STAY}", open.display()));
    let id: SpawnId = first.spawn_id.parse().unwrap();
    let first = begin(&farm, &first, 0).await;
    farm.until_state(id, SpawnState::Launching).await;
    let second = farm.ask(STAY);
    let (second_id, second) = (second.spawn_id.parse().unwrap(), begin(&farm, &second, 1).await);
    let third = begin(&farm, &farm.ask(STAY), 2).await;
    // One whose caller leaves makes no process, and no room for others before their turn.
    let leaves = begin(&farm, &farm.ask(STAY), 3).await;
    leaves.abort();
    waiting(&farm, 2).await;
    // One that has no more time is refused, as a server that was not ready in time.
    let mut hurried = farm.ask(STAY);
    hurried.deadline_ms = 300;
    assert_eq!(refused(farm.send(&hurried).await), Reason::StartsBusy);
    let seen = farm.registry.node(farm.agent.node()).await.unwrap().unwrap();
    assert_eq!(seen.supply.starts.unwrap().limit, 1);
    assert_eq!(farm.registry.spawn(second_id).await.unwrap(), None, "nothing was started");
    std::fs::write(&open, "").unwrap();
    for call in [first, second, third] {
        assert!(matches!(call.await.unwrap(), Outcome::Ready(_)));
    }
    let started = farm.metrics().await;
    assert!(started.contains("hatchery_agent_spawns_started_total 3"), "{started}");
    let ready = farm.registry.spawn(id).await.unwrap().unwrap().ready_at;
    let launched = farm.registry.spawn(second_id).await.unwrap().unwrap().events[0].at;
    assert!(Some(launched) >= ready, "it began before the first one was ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_the_node_is_closed_starts_no_more() {
    let farm = Farm::start_with(|config| config.starts = 1).await;
    let first = farm.ask("rest");
    let id: SpawnId = first.spawn_id.parse().unwrap();
    let first = begin(&farm, &first, 0).await;
    farm.until_state(id, SpawnState::Launching).await;
    let second = begin(&farm, &farm.ask(STAY), 1).await;
    assert_eq!(farm.set_eligibility(v1::Eligibility::Cordoned).await, 1);
    assert_eq!(refused(second.await.unwrap()), Reason::NotEligible);
    farm.set_eligibility(v1::Eligibility::Eligible).await;
    let third = begin(&farm, &farm.ask(STAY), 1).await;
    first.abort();
    farm.until_ended(id, ExitReason::Cancelled).await;
    assert!(matches!(third.await.unwrap(), Outcome::Ready(_)), "a start that fails lets the next one start");
}
