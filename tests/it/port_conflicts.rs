//! Ports of spawns that other processes listen on: passed over, and named.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use hatchery_tests::binaries::binaries;
use hatchery_tests::users::open_to_all;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, skipped, until};
use serde_json::json;
use tokio::net::TcpStream;

/// Starts the simulator, and a second one that listens on another port and reports to nobody.
fn greedy(dir: &Path, port: u16) -> PathBuf {
    let script = dir.join("greedy");
    let simulator = binaries().simulator.display().to_string();
    let text = format!(
        "#!/bin/sh\nif mkdir \"$0.once\" 2>/dev/null; then\n  \
         {simulator} --id greedy --sc-port {port} --license-file \"$0\" >/dev/null 2>&1 &\n\
         fi\nexec {simulator} \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    open_to_all(&script);
    script
}

#[tokio::test]
async fn a_server_that_takes_the_ports_of_others_is_named() {
    let scratch = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap();
    let block = hatchery_tests::ports::Block::take();
    let ports = block.range(3);
    let taken = ports.start() + 1;
    let plan = AgentPlan::slots(3).port_range(ports.clone()).executable(greedy(scratch.path(), taken));
    let farm = Farm::builder().agent(plan).start().await;
    let (greedy, pid) = farm.starts_one().await;
    let listens = SocketAddr::from(([127, 0, 0, 1], taken));
    until("it has the port", TIMEOUT, async || {
        Look::when(TcpStream::connect(listens).await.is_ok(), || "nobody has".to_owned())
    })
    .await;
    let (second, _) = farm.starts_one().await;
    let named = |farm: &Farm| {
        let log = farm.agents[0].role.log();
        let lines = log.lines().filter(|line| line.contains("a spawn listens on a port that is not its own"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    until("it is named", TIMEOUT, async || Look::when(!named(&farm).is_empty(), || "no".to_owned())).await;
    until("the log of a refusal names it too", TIMEOUT, async || {
        let refused = farm.door(0).spawn(&json!({})).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        let log = farm.agents[0].role.log();
        let told = String::from_utf8_lossy(&refused.body);
        assert!(told.contains("port") && !told.contains(&greedy), "callers learn nothing of others: {told}");
        let line = log.lines().find(|line| line.contains("no port of --ports is free"));
        Look::when(line.is_some_and(|line| line.contains(&greedy)), || format!("{line:?}"))
    })
    .await;
    let lines = named(&farm);
    assert!(
        lines.len() == 1 && lines[0].contains(&greedy) && lines[0].contains(&taken.to_string()),
        "{lines:?}"
    );
    let counted = farm.agents[0].metrics().await.sum("hatchery_agent_ports_of_others_total");
    assert!((counted - 1.0).abs() < 0.5, "{counted}");
    assert!(farm.process(&greedy).unwrap().pid == pid, "it goes on");
    farm.stop([&*greedy, &second]).await;
    farm.ends(&greedy).await;
    farm.ends(&second).await;
    farm.shut_down().await;
}

#[tokio::test]
async fn a_port_that_is_taken_by_ipv6_alone_is_given_to_no_spawn() {
    let Ok(probe) = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return skipped("ports of IPv6", "this machine has none");
    };
    drop(probe);
    let block = hatchery_tests::ports::Block::take();
    let ports = block.range(2);
    let taken = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, *ports.start())).unwrap();
    let farm = Farm::builder().agent(AgentPlan::slots(2).port_range(ports.clone())).start().await;
    let answer = farm.door(0).spawned(&json!({})).await;
    assert!(answer["endpoint"].as_str().unwrap().ends_with(&ports.end().to_string()), "{answer}");
    until("who has it is named", TIMEOUT, async || {
        let log = farm.agents[0].role.log();
        let line = log.lines().find(|line| line.contains("a process that is no spawn's listens on a port"));
        Look::when(line.is_some_and(|l| l.contains(&std::process::id().to_string())), || format!("{line:?}"))
    })
    .await;
    drop(taken);
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
