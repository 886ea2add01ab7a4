//! Whose spawns they are: told by the call, kept for as long as there is anything to tell, and never shown to the process.

use agent::{Agent, OnShutdown};
use model::{ExitReason, SpawnState};
use registry::Registry;
use tonic::Code;
use wire::v1::SpawnRequest;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, config, connect, timing};

const ANN: &str = r#"jwt:ann|"x""#;

fn owned(farm: &Farm, owner: &str) -> SpawnRequest {
    SpawnRequest { owner: Some(owner.to_owned()), ..farm.ask(STAY) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_spawn_is_shown_everywhere_but_to_its_process() {
    let farm = Farm::start().await;
    let ask = owned(&farm, ANN);
    let Outcome::Ready(_) = farm.send(&ask).await else { panic!("not ready") };
    let id = ask.spawn_id.parse().unwrap();
    let record = farm.registry.spawn(id).await.unwrap().unwrap();
    assert_eq!(record.owner, Some(ANN.parse().unwrap()));
    let info = farm.info(id).await;
    assert_eq!(info.owner.as_deref(), Some(ANN));
    for file in ["cmdline", "environ"] {
        let shown = std::fs::read(format!("/proc/{}/{file}", info.pid)).unwrap();
        assert!(!shown.is_empty());
        assert!(!String::from_utf8_lossy(&shown).contains("jwt:ann"), "{file}");
    }
    let (nobodys, _) = farm.spawn().await;
    assert_eq!(farm.info(nobodys).await.owner, None);
    assert_eq!(farm.registry.spawn(nobodys).await.unwrap().unwrap().owner, None);
    for spawn in [id, nobodys] {
        farm.stop(spawn).await;
        farm.until_ended(spawn, ExitReason::Stopped).await;
    }
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_no_name_is_refused_before_anything_starts() {
    let farm = Farm::start().await;
    for bad in ["", "ann smith", "ann\n", "änn", &"x".repeat(256)] {
        let status = farm.client.clone().spawn(owned(&farm, bad)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad:?}");
        assert!(status.message().starts_with("owner must "), "{}", status.message());
    }
    assert!(farm.list().await.is_empty());
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_knows_whose_spawns_it_takes_over() {
    let farm = Farm::start().await;
    let [stays, ends] = [owned(&farm, ANN), owned(&farm, ANN)];
    for ask in [&stays, &ends] {
        let Outcome::Ready(_) = farm.send(ask).await else { panic!("not ready") };
    }
    let [stays, ends] = [stays, ends].map(|ask| ask.spawn_id.parse().unwrap());
    let pid = i32::try_from(farm.info(ends).await.pid).unwrap();
    let (liveliness, ports) = (farm.agent.liveliness_addr(), farm.ports.clone());
    let dir = farm.shutdown(OnShutdown::Adopt).await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    // This registry has never heard of them.
    let registry = Registry::embedded(timing());
    let mut config = config(&dir);
    (config.liveliness_listen, config.ports) = (liveliness, ports.clone());
    let agent = Agent::start(config, registry.clone()).await.unwrap();
    let client = connect(&agent).await;
    let farm = Farm { agent, registry, client, dir, ports };
    let ann = Some(ANN.parse().unwrap());
    assert_eq!(farm.until_state(stays, SpawnState::Ready).await.owner, ann);
    assert_eq!(farm.until_state(ends, SpawnState::Exited).await.owner, ann);
    assert_eq!(farm.info(stays).await.owner.as_deref(), Some(ANN));
    farm.stop(stays).await;
    farm.until_ended(stays, ExitReason::Stopped).await;
    farm.until_empty().await;
}
