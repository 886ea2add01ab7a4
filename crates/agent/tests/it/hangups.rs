//! Callers that hang up while the agent stalls.

use std::sync::mpsc;
use std::time::Duration;

use agent::{Agent, OnShutdown};
use registry::Registry;
use tokio_util::sync::CancellationToken;
use wire::v1;
use wire::v1::node_agent_client::NodeAgentClient;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{STAY, TIMEOUT, config, timing, until};

/// Far more than the library allows by itself.
const CALLERS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_hang_up_while_the_agent_stalls_hurt_no_other_call() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config(&dir);
    let (started, has_started) = tokio::sync::oneshot::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    // A runtime of its own with one thread, so that it can be stalled.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let agent = Agent::start(settings, Registry::embedded(timing())).await.unwrap();
            let handle = tokio::runtime::Handle::current();
            started.send((agent.grpc_addr(), handle)).ok();
            ended.await.ok();
            agent.shutdown(OnShutdown::Kill, CancellationToken::new()).await;
        });
    });
    let (addr, agent) = has_started.await.unwrap();
    let client = NodeAgentClient::connect(format!("http://{addr}")).await.unwrap();
    let ask = |script: String| v1::SpawnRequest {
        spawn_id: model::SpawnId::mint().to_string(),
        renderer_type: v1::RendererType::Csr.into(),
        session_token: Some(script),
        deadline_ms: 20_000,
        reservation_ms: 60_000,
        ..Default::default()
    };

    let go = dir.path().join("go");
    let slow = ask(format!("while [[ ! -e {} ]]; do sleep 0.05; done; {STAY}", go.display()));
    let (mut waiting, sent) = (client.clone(), slow.clone());
    let waiting = tokio::spawn(async move { waiting.spawn(sent).await });
    until("it is being started", async || {
        let list = client.clone().list(v1::ListRequest::default()).await.unwrap().into_inner();
        (list.spawns.len() == 1).then_some(())
    })
    .await;

    let (release, stalled) = mpsc::channel::<()>();
    let (stalls, has_stalled) = mpsc::channel();
    agent.spawn(async move {
        stalls.send(()).ok();
        stalled.recv().ok();
    });
    has_stalled.recv_timeout(TIMEOUT).unwrap();
    let hang_up = (0..CALLERS).map(|_| {
        let mut client = client.clone();
        let call = async move { client.list(v1::ListRequest::default()).await };
        tokio::time::timeout(Duration::from_millis(300), call)
    });
    let gone = futures_util::future::join_all(hang_up).await;
    assert!(gone.iter().all(Result::is_err), "the agent stalls");
    // The farewells are on their way before the agent looks: a call whose time is over goes after them.
    let mut other = client.clone();
    let last = other.list(v1::ListRequest::default());
    assert!(tokio::time::timeout(Duration::from_millis(300), last).await.is_err());
    release.send(()).unwrap();

    std::fs::write(go, "").unwrap();
    let outcome = tokio::time::timeout(TIMEOUT, waiting).await.unwrap().unwrap();
    let outcome = outcome.unwrap().into_inner().outcome.unwrap();
    assert!(matches!(outcome, Outcome::Ready(_)), "{outcome:?}");
    end.send(()).unwrap();
    thread.join().unwrap();
}
