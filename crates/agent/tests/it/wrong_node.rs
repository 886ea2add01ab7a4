//! Calls that name a node: an agent that is not that node does nothing.

use model::SpawnId;
use tonic::{Code, Status};
use wire::v1;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY};

fn is_refused<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert_eq!(status.metadata().get("x-hatchery-node").unwrap(), "node-a");
    assert!(status.message().contains("node-b"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_another_node_changes_nothing() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    let other = || "node-b".to_owned();
    let mut client = farm.client.clone();

    let ask = v1::SpawnRequest { node: other(), ..farm.ask(STAY) };
    let Outcome::Refused(refused) = farm.send(&ask).await else { panic!("not refused") };
    assert_eq!(refused.reason(), Reason::WrongNode, "{refused:?}");
    assert!(refused.detail.contains("node-b") && refused.detail.contains("node-a"), "{refused:?}");

    let stop = v1::StopRequest { spawn_id: id.to_string(), node: other(), ..Default::default() };
    is_refused(client.stop(stop).await);
    let drain = v1::SetEligibilityRequest {
        eligibility: v1::Eligibility::Draining.into(),
        deadline_ms: Some(0),
        node: other(),
        generation: 9,
        ..Default::default()
    };
    is_refused(client.set_eligibility(drain).await);
    let expire = v1::SetLifeRequest { spawn_id: id.to_string(), node: other(), max_life_ms: 0 };
    is_refused(client.set_life(expire).await);
    is_refused(client.list(v1::ListRequest { node: other() }).await);
    let log = v1::ReadLogRequest { spawn_id: id.to_string(), lines: 1, node: other() };
    is_refused(client.read_log(log).await);

    assert_eq!(farm.list().await.len(), 1);
    assert_eq!(farm.info(id).await.state, "ready", "neither stopped nor drained");
    farm.spawn().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_names_this_node_or_none_is_served() {
    let farm = Farm::start().await;
    for node in ["node-a", ""] {
        let node = || node.to_owned();
        let mut client = farm.client.clone();
        let ask = v1::SpawnRequest { node: node(), ..farm.ask(STAY) };
        assert!(matches!(farm.send(&ask).await, Outcome::Ready(_)));
        let id: SpawnId = ask.spawn_id.parse().unwrap();
        client.list(v1::ListRequest { node: node() }).await.unwrap();
        let life = v1::SetLifeRequest { spawn_id: id.to_string(), node: node(), max_life_ms: 3_600_000 };
        client.set_life(life).await.unwrap();
        let log = v1::ReadLogRequest { spawn_id: id.to_string(), lines: 1, node: node() };
        client.read_log(log).await.unwrap();
        let cordon = v1::SetEligibilityRequest {
            eligibility: v1::Eligibility::Eligible.into(),
            node: node(),
            ..Default::default()
        };
        client.set_eligibility(cordon).await.unwrap();
        let stop = v1::StopRequest { spawn_id: id.to_string(), node: node(), ..Default::default() };
        assert_eq!(
            client.stop(stop).await.unwrap().into_inner().outcome(),
            v1::stop_reply::Outcome::Stopping
        );
    }
    farm.until_empty().await;
}
