//! How spawns end, asked for or not. Supervision is row 13 of `docs/operator/hoops-server.md`.

use std::time::Duration;

use model::{ExitReason, SpawnId, SpawnState};
use wire::v1;
use wire::v1::set_life_reply::Outcome as Set;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, until_gone};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_says_ready_is_ended() {
    let farm = Farm::start_with(|c| c.ready_timeout = Duration::from_millis(300)).await;
    let ask = farm.ask("echo thinking; trap '' TERM; rest");
    let Outcome::Ended(ended) = farm.send(&ask).await else { panic!("not ended") };
    let exit = ended.exit.unwrap();
    assert_eq!(exit.reason, "ready-timeout");
    assert_eq!(exit.signal.as_deref(), Some("SIGKILL"), "it ignored TERM");
    assert_eq!(ended.log, ["thinking"]);
    farm.until_ended(ask.spawn_id.parse().unwrap(), ExitReason::ReadyTimeout).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impatient_caller_is_answered_before_it_gives_up() {
    let farm = Farm::start_with(|c| c.stop_grace = Duration::from_secs(2)).await;
    let mut ask = farm.ask("trap '' TERM; rest");
    ask.deadline_ms = 500;
    let answer = tokio::time::timeout(Duration::from_millis(500), farm.send(&ask)).await;
    let Ok(Outcome::Ended(ended)) = answer else { panic!("{answer:?}") };
    assert_eq!(ended.exit.unwrap().reason, "ready-timeout");
    farm.until_ended(ask.spawn_id.parse().unwrap(), ExitReason::ReadyTimeout).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_becomes_suspect_and_then_is_ended() {
    let farm = Farm::start_with(|c| c.ping_interval = Duration::from_millis(100)).await;
    let (id, _) = farm.spawn_as("say ready; trap '' TERM; rest").await;
    let pid = farm.info(id).await.pid;
    let record = farm.until_ended(id, ExitReason::LivelinessLost).await;
    let kinds: Vec<_> = record.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["spawn.launching", "spawn.ready", "spawn.suspect", "spawn.stopping", "spawn.exited"]);
    assert_eq!(record.exit.unwrap().signal.as_deref(), Some("SIGKILL"));
    until_gone(pid).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_that_reports_again_is_ready_again() {
    // Suspect after 4 s of silence, ended after 5 s.
    let farm = Farm::start_with(|c| c.ping_interval = Duration::from_secs(1)).await;
    let (id, _) = farm.spawn_as("say ready; sleep 4.4; while alive; do say ping; sleep 0.3; done").await;
    farm.until_state(id, SpawnState::Suspect).await;
    let record = farm.until_state(id, SpawnState::Ready).await;
    assert!(record.last_ping_at > record.ready_at, "{record:?}");
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reports_its_disconnect_ends_as_disconnected() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn_as("say ready; say disconnect; exit 0").await;
    let exit = farm.until_ended(id, ExitReason::Disconnected).await.exit.unwrap();
    assert_eq!(exit.code, Some(0));

    // One that does not go is helped.
    let (id, _) = farm.spawn_as("say ready; say disconnect; trap '' TERM; rest").await;
    let record = farm.until_ended(id, ExitReason::Disconnected).await;
    assert_eq!(record.exit.unwrap().signal.as_deref(), Some("SIGKILL"));
    let kinds: Vec<_> = record.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        ["spawn.launching", "spawn.ready", "spawn.disconnected", "spawn.stopping", "spawn.exited"]
    );
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unexpected_ends_are_distinguished() {
    let farm = Farm::start().await;
    for (script, reason) in [
        (
            "echo 'ScServer: exiting due to initial-use timeout'; say disconnect; exit 0",
            ExitReason::InitialUseTimeout,
        ),
        ("exit 0", ExitReason::Disconnected),
        ("exit 3", ExitReason::Failed),
        ("kill -KILL $$", ExitReason::Signaled),
    ] {
        let ask = farm.ask(&format!("say ready; {script}"));
        // Whether the answer came before the end is up to the race.
        farm.send(&ask).await;
        farm.until_ended(ask.spawn_id.parse().unwrap(), reason).await;
    }
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_hurries() {
    let farm = Farm::start_with(|c| c.stop_grace = Duration::from_secs(3600)).await;
    let (id, _) = farm.spawn_as(&format!("trap '' TERM; {STAY}")).await;
    farm.stop(id).await;
    farm.until_state(id, SpawnState::Stopping).await;
    farm.stop(id).await;
    let exit = farm.until_ended(id, ExitReason::Stopped).await.exit.unwrap();
    assert_eq!(exit.signal.as_deref(), Some("SIGKILL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_group_goes_with_its_leader() {
    let farm = Farm::start().await;
    let script = "(trap '' TERM; rest) & echo child $!; say ready; wait";
    let (id, _) = farm.spawn_as(script).await;
    let log = farm.log(id).await;
    let child: u32 = log.iter().find_map(|line| line.strip_prefix("child ")).unwrap().parse().unwrap();
    assert!(crate::harness::runs(child));
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
    until_gone(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_ready_answers_the_caller() {
    let farm = Farm::start().await;
    let ask = farm.ask("rest");
    let id: SpawnId = ask.spawn_id.parse().unwrap();
    let (answer, ()) = tokio::join!(farm.send(&ask), async {
        farm.until_state(id, SpawnState::Launching).await;
        farm.stop(id).await;
    });
    let Outcome::Ended(ended) = answer else { panic!("{answer:?}") };
    assert_eq!(ended.exit.unwrap().reason, "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_can_be_set_as_long_as_it_lasts_however_long_it_is_said_to_be() {
    let farm = Farm::start().await;
    let longest =
        v1::SpawnRequest { max_life_ms: Some(u64::MAX), max_idle_ms: Some(u64::MAX), ..farm.ask(STAY) };
    assert!(matches!(farm.send(&longest).await, Outcome::Ready(_)));
    let id: SpawnId = longest.spawn_id.parse().unwrap();
    let set = async |id: SpawnId, max_life_ms| {
        let ask = v1::SetLifeRequest { spawn_id: id.to_string(), max_life_ms, node: String::new() };
        farm.client.clone().set_life(ask).await.unwrap().into_inner().outcome()
    };
    for life in [u64::MAX, 3_600_000, 60_000] {
        assert_eq!(set(id, life).await, Set::Set, "{life}");
    }
    let expires = farm.registry.spawn(id).await.unwrap().unwrap().expires_at.unwrap();
    assert!(expires.since(model::Timestamp::now()) <= Duration::from_secs(60), "{expires}");
    assert_eq!(set(SpawnId::mint(), 60_000).await, Set::Unknown);
    assert_eq!(set(id, 0).await, Set::Set);
    farm.until_ended(id, ExitReason::Expired).await;
    assert_eq!(set(id, 60_000).await, Set::Ended);
    farm.until_empty().await;
}
