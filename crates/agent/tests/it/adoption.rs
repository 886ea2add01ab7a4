//! What the next agent finds, within one process: here even exit codes of adopted spawns are known.

use std::time::Duration;

use agent::{Agent, Config, OnShutdown, StartError};
use model::{ExitReason, SpawnState};
use registry::Registry;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use wire::v1::spawn_reply::Outcome;
use wire::v1::{Eligibility, SetEligibilityRequest, SpawnRequest};

use crate::harness::{Farm, STAY, config, connect, runs, timing, until};

/// The next agent, with the same state and the same addresses.
pub(crate) async fn next(farm: Farm, on: OnShutdown, change: impl FnOnce(&mut Config)) -> Farm {
    let registry = farm.registry.clone();
    let liveliness = farm.agent.liveliness_addr();
    let ports = farm.ports.clone();
    let dir = farm.shutdown(on).await;
    start(dir, registry, |config| {
        config.liveliness_listen = liveliness;
        config.ports = ports;
        change(config);
    })
    .await
}

async fn start(dir: TempDir, registry: Registry, change: impl FnOnce(&mut Config)) -> Farm {
    let mut config = config(&dir);
    change(&mut config);
    let ports = config.ports.clone();
    let agent = Agent::start(config, registry.clone()).await.unwrap();
    let client = connect(&agent).await;
    Farm { agent, registry, client, dir, ports }
}

async fn drain(farm: &Farm, deadline: Option<Duration>) {
    let mut ask = SetEligibilityRequest {
        eligibility: Eligibility::Draining.into(),
        deadline_ms: deadline.map(|time| u64::try_from(time.as_millis()).unwrap()),
        reason: Some("kernel".to_owned()),
        by: None,
        ..Default::default()
    };
    // As a front door does: first the registry, then the agent.
    let now = model::Timestamp::now();
    let record = model::Drain {
        deadline: model::Timestamp::from_millis(now.millis() + ask.deadline_ms.unwrap_or(3_600_000)),
        reason: ask.reason.clone(),
        by: None,
        started_at: now,
    };
    let node = farm.agent.node();
    let ordered =
        farm.registry.set_eligibility(node, model::Eligibility::Draining, Some(&record), None).await;
    ask.generation = ordered.unwrap().unwrap();
    farm.client.clone().set_eligibility(ask).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_do_not_share_their_state() {
    let farm = Farm::start().await;
    let error = Agent::start(config(&farm.dir), farm.registry.clone()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, StartError::StateTaken { pid: Some(pid), .. } if pid == std::process::id()),
        "{text}"
    );
    assert!(text.contains("--state-dir"), "{text}");
    next(farm, OnShutdown::Adopt, |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lost_its_first_port_is_taken_over_at_its_second() {
    let farm = Farm::start().await;
    let mark = farm.dir.path().join("mark");
    let lose = "echo \"Can't create lws context.\"; exit 4";
    let script = format!("if [[ ! -e {0} ]]; then touch {0}; {lose}; fi; {STAY}", mark.display());
    let (id, ready) = farm.spawn_as(&script).await;
    let before = farm.info(id).await;
    let farm = next(farm, OnShutdown::Adopt, |_| ()).await;
    let after = farm.info(id).await;
    assert!(mark.exists());
    assert_eq!((after.port, after.pid, &after.endpoint), (before.port, before.pid, &ready.endpoint));
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_the_next_agent_again_gets_the_same_answer() {
    let farm = Farm::start().await;
    let ask = SpawnRequest { labels: [("sdk".to_owned(), "1".to_owned())].into(), ..farm.ask(STAY) };
    let Outcome::Ready(first) = farm.send(&ask).await else { panic!("not ready") };
    let id = ask.spawn_id.parse().unwrap();
    let before = farm.until_state(id, SpawnState::Ready).await;
    let pid = farm.info(id).await.pid;
    // Its endpoint has another form by now, and it keeps its own.
    let farm = next(farm, OnShutdown::Adopt, |config| {
        config.public_host = Some("other.example".to_owned());
        config.slots = 1;
    })
    .await;
    let Outcome::Ready(again) = farm.send(&ask).await else { panic!("not ready") };
    assert_eq!(again.endpoint, first.endpoint);
    let info = farm.info(id).await;
    assert_eq!((info.pid, info.state.as_str(), runs(pid)), (pid, "ready", true));
    assert!(matches!(farm.send(&farm.ask(STAY)).await, Outcome::Refused(_)), "one slot, and it is taken");
    let after = farm.until_state(id, SpawnState::Ready).await;
    assert_eq!(
        (after.started_at, after.ready_at, after.labels),
        (before.started_at, before.ready_at, before.labels)
    );
    assert_eq!(after.events, before.events);
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_reports_as_often_as_its_flags_say() {
    let farm = Farm::start_with(|c| c.ping_interval = Duration::from_secs(4)).await;
    let (id, _) = farm.spawn_as("say ready; while alive; do sleep 4; say ping; done").await;
    // By these rules it would be lost after 2.3 s of silence.
    let farm = next(farm, OnShutdown::Adopt, |c| c.ping_interval = Duration::from_millis(100)).await;
    tokio::time::sleep(Duration::from_millis(3200)).await;
    assert_eq!(farm.info(id).await.state, "ready");
    farm.stop(id).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_begun_is_gone_through_with() {
    let farm = Farm::start_with(|c| c.stop_grace = Duration::from_secs(60)).await;
    let (id, _) = farm.spawn_as(&format!("trap '' TERM; {STAY}")).await;
    farm.stop(id).await;
    farm.until_state(id, SpawnState::Stopping).await;
    let farm = next(farm, OnShutdown::Adopt, |_| ()).await;
    farm.until_ended(id, ExitReason::Stopped).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_never_reported_is_reported_by_the_next_agent() {
    let farm = Farm::start_alone().await;
    let (id, _) = farm.spawn_as("say ready; sleep 0.2; exit 3").await;
    until("it has ended", async || (farm.info(id).await.state == "exited").then_some(())).await;
    let dir = farm.shutdown(OnShutdown::Adopt).await;
    let written = |dir: &TempDir| std::fs::read_to_string(dir.path().join("spawns")).unwrap();
    assert!(written(&dir).contains("ended"));
    let farm = start(dir, Registry::embedded(timing()), |_| ()).await;
    let exit = farm.until_ended(id, ExitReason::Failed).await.exit.unwrap();
    assert_eq!((exit.code, exit.text.as_deref()), (Some(3), Some("internal error")));
    until("its record is gone", async || written(&farm.dir).contains("gone").then_some(())).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_what_runs_when_its_deadline_comes() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    drain(&farm, Some(Duration::from_millis(700))).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(farm.info(id).await.state, "ready", "not before");
    farm.until_ended(id, ExitReason::Drained).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_drain_ends_it_at_once_and_an_undone_one_never() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    drain(&farm, Some(Duration::from_millis(700))).await;
    farm.registry.set_eligibility(farm.agent.node(), model::Eligibility::Cordoned, None, None).await.unwrap();
    farm.set_eligibility(Eligibility::Cordoned).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(farm.info(id).await.state, "ready");
    drain(&farm, None).await;
    drain(&farm, Some(Duration::ZERO)).await;
    farm.until_ended(id, ExitReason::Drained).await;
    tokio::time::timeout(Duration::from_secs(10), farm.agent.drained()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_remembered_by_the_next_agent_until_it_hears_otherwise() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    drain(&farm, Some(Duration::from_millis(1500))).await;
    let registry = farm.registry.clone();
    let node = farm.agent.node().clone();
    let (liveliness, dir) = (farm.agent.liveliness_addr(), farm.shutdown(OnShutdown::Adopt).await);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Undone while no agent listened.
    registry.set_eligibility(&node, model::Eligibility::Eligible, None, None).await.unwrap();
    let farm = start(dir, registry, |c| c.liveliness_listen = liveliness).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(farm.info(id).await.state, "ready", "the deadline has passed, and counts no more");
    farm.spawn().await;
    let hurry = CancellationToken::new();
    hurry.cancel();
    farm.agent.shutdown(OnShutdown::Kill, hurry).await;
}
