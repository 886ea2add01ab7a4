//! The beginning and the end of an agent.

use std::net::TcpListener;

use agent::{Agent, Closed, OnShutdown, StartError};
use model::{ExitReason, SpawnState};
use registry::Registry;
use tokio_util::sync::CancellationToken;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, TIMEOUT, config, runs, timing, until, until_gone};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    config.admin_listen = taken.local_addr().unwrap();
    let error = Agent::start(config, Registry::embedded(timing())).await.unwrap_err();
    let StartError::Bind { flag, addr, .. } = error else { panic!("{error:?}") };
    assert_eq!((flag, addr), ("--admin-listen", taken.local_addr().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_kills_leaves_nothing() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    let (stubborn, _) = farm.spawn_as(&format!("trap '' TERM; {STAY}")).await;
    let pids = [farm.info(id).await.pid, farm.info(stubborn).await.pid];
    let registry = farm.registry.clone();
    farm.shutdown(OnShutdown::Kill).await;
    for pid in pids {
        until_gone(pid).await;
    }
    for (id, signal) in [(id, "SIGTERM"), (stubborn, "SIGKILL")] {
        let record = registry.spawn(id).await.unwrap().unwrap();
        assert_eq!(record.state, SpawnState::Exited, "the registry was told before the agent ended");
        let exit = record.exit.unwrap();
        assert_eq!((exit.reason, exit.signal.as_deref()), (ExitReason::Drained, Some(signal)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_its_spawns_to_the_next_touches_none() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    let pid = farm.info(id).await.pid;
    // One that is being started gets its answer before.
    let slow = farm.ask(&format!("sleep 0.3; {STAY}"));
    let (mut client, ask) = (farm.client.clone(), slow.clone());
    let call = tokio::spawn(async move { client.spawn(ask).await });
    farm.until_state(slow.spawn_id.parse().unwrap(), SpawnState::Launching).await;
    let slow_pid = farm.info(slow.spawn_id.parse().unwrap()).await.pid;
    let registry = farm.registry.clone();
    let dir = farm.shutdown(OnShutdown::Adopt).await;
    let reply = call.await.unwrap().unwrap().into_inner();
    assert!(matches!(reply.outcome, Some(Outcome::Ready(_))), "{reply:?}");
    assert!(runs(pid) && runs(slow_pid));
    assert_eq!(registry.spawn(id).await.unwrap().unwrap().state, SpawnState::Ready);
    for pid in [pid, slow_pid] {
        let group = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        until_gone(pid).await;
    }
    drop(dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_drains_waits_for_the_last_one_or_is_hurried() {
    for hurried in [false, true] {
        let farm = Farm::start().await;
        let (id, _) = farm.spawn().await;
        let (mut client, ask) = (farm.client.clone(), farm.ask(STAY));
        let registry = farm.registry.clone();
        let mut stopper = farm.client.clone();
        let admin = farm.agent.admin_addr();
        let hurry = CancellationToken::new();
        let ended = tokio::spawn(farm.agent.shutdown(OnShutdown::Drain, hurry.clone()));
        until("it is not ready any more", async || {
            let answer = crate::harness::http(admin, "GET /readyz HTTP/1.1").await;
            answer.starts_with("HTTP/1.1 503").then_some(())
        })
        .await;
        let reply = client.spawn(ask).await.unwrap().into_inner().outcome;
        let Some(Outcome::Refused(refused)) = reply else { panic!("{reply:?}") };
        assert_eq!(refused.reason(), Reason::ShuttingDown);
        assert!(!ended.is_finished());
        if hurried {
            hurry.cancel();
        } else {
            let stop = wire::v1::StopRequest { spawn_id: id.to_string(), ..Default::default() };
            stopper.stop(stop).await.unwrap();
        }
        tokio::time::timeout(TIMEOUT, ended).await.unwrap().unwrap();
        let record = registry.spawn(id).await.unwrap().unwrap();
        let want = if hurried { ExitReason::Drained } else { ExitReason::Stopped };
        assert_eq!(record.exit.unwrap().reason, want);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_with_the_name_of_one_that_lives_is_refused() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    let dir = tempfile::tempdir().unwrap();
    let second = Agent::start(config(&dir), farm.registry.clone()).await.unwrap();
    let admin = second.admin_addr();
    let first = farm.agent.advertise().to_owned();
    until("it says that the node is another one's", async || {
        let ready = crate::harness::http(admin, "GET /readyz HTTP/1.1").await;
        (ready.starts_with("HTTP/1.1 503") && ready.contains("\"otherAgent\":true")).then_some(())
    })
    .await;
    let mut client = crate::harness::connect(&second).await;
    let reply = client.spawn(farm.ask(STAY)).await.unwrap().into_inner().outcome;
    let Some(Outcome::Refused(refused)) = reply else { panic!("{reply:?}") };
    assert_eq!(refused.reason(), Reason::ShuttingDown);
    assert!(refused.detail.contains(&first), "{refused:?}");
    assert_eq!(tokio::time::timeout(TIMEOUT, second.closed()).await.unwrap(), Closed::Taken);
    assert_eq!(second.other_agent(), Some(first));
    second.shutdown(OnShutdown::Adopt, CancellationToken::new()).await;
    assert_eq!(farm.info(id).await.state, "ready", "the first one goes on");
    farm.spawn().await;
    farm.shutdown(OnShutdown::Kill).await;
}
