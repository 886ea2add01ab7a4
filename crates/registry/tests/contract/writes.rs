//! A Redis that answers and does not serve: it counts as away, with its own word for why.

use std::time::Duration;

use model::{Availability, ExitReason};
use registry::{Counts, OutageKind, RegistryError, Reserved, SpawnFilter};

use crate::on_all;
use crate::servers::RedisServer;
use crate::support::*;

on_all! {
    async fn a_registry_that_takes_writes_passes_the_check(farm: &Farm) {
        farm.registry.check().await.unwrap();
        Agent::new("a", 1).beat(farm).await;
    }
}

/// Brings the server into a state in which every write is refused with this word, and reads are not.
async fn refuses(word: &'static str, damage: impl AsyncFnOnce(&RedisServer)) {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 2);
    agent.beat(&farm).await;
    damage(farm.server()).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(farm.registry.check().await);
        answers.push(farm.registry.reserve(&csr()).await.map(|_: Reserved| ()));
    }
    for answer in answers {
        match answer {
            Err(RegistryError::Away(outage)) if outage.kind() == OutageKind::Refused(word) => {}
            other => panic!("{word}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn too_few_replicas() {
    refuses("NOREPLICAS", async |server| {
        server.run("CONFIG SET min-replicas-to-write 1").await;
    })
    .await;
}

#[tokio::test]
async fn no_memory() {
    refuses("OOM", async |server| {
        server.run("CONFIG SET maxmemory 1").await;
    })
    .await;
}

async fn ended(farm: &Farm) -> usize {
    let page = farm.registry.spawns(&SpawnFilter { limit: 2000, ..SpawnFilter::default() }).await;
    page.unwrap().spawns.len()
}

#[tokio::test]
async fn a_full_registry_drops_what_has_ended_and_calls_no_node_silent() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 2);
    agent.beat(&farm).await;
    for _ in 0..600 {
        agent.report(&farm, exited(csr().spawn, ExitReason::Stopped)).await;
    }
    farm.server().run("CONFIG SET maxmemory 1").await;
    assert!(farm.registry.check().await.unwrap_err().is_full());
    assert_eq!(ended(&farm).await, 600);
    farm.registry.sweep().await.unwrap();
    assert_eq!(ended(&farm).await, 500, "each step is bounded");
    // Heartbeats are refused all the while.
    farm.pass(TIMING.down * 2).await;
    assert_eq!(ended(&farm).await, 0);
    let node = farm.registry.node(&id("a")).await.unwrap().unwrap();
    assert_eq!(node.availability, Availability::Up);
    farm.server().run("CONFIG SET maxmemory 0").await;
    farm.registry.check().await.unwrap();
    agent.report(&farm, exited(csr().spawn, ExitReason::Stopped)).await;
    farm.registry.sweep().await.unwrap();
    assert_eq!(ended(&farm).await, 1, "with room, the past stays");
}

#[tokio::test]
async fn counts_that_a_full_registry_cannot_keep_are_refused() {
    let farm = Farm::redis().await;
    farm.registry.check().await.unwrap();
    farm.server().run("CONFIG SET maxmemory 1").await;
    let counts = Counts { refused: [("no-capacity", 2)].into(), slots: None };
    assert!(farm.registry.add_counts(&counts).await.unwrap_err().is_full());
    farm.server().run("CONFIG SET maxmemory 0").await;
    assert_eq!(farm.registry.minutes(5).await.unwrap(), []);
    farm.registry.add_counts(&counts).await.unwrap();
    let minutes = farm.registry.minutes(5).await.unwrap();
    assert_eq!(minutes[0].refused, [("no-capacity".to_owned(), 2)].into());
}

#[tokio::test]
async fn a_replica() {
    let master = RedisServer::start().await;
    refuses("READONLY", async |server| {
        server.run(&format!("REPLICAOF 127.0.0.1 {}", master.port)).await;
        server.says("INFO replication", "master_link_status:up").await;
    })
    .await;
}

#[tokio::test]
async fn no_disk() {
    refuses("MISCONF", async |server| {
        std::fs::remove_dir_all(server.dir()).unwrap();
        let mut connection = server.connection().await;
        let mut save = redis::cmd("CONFIG");
        let () = save.arg(&["SET", "save", "3600 1"]).query_async(&mut connection).await.unwrap();
        server.run("BGSAVE").await;
        server.says("INFO persistence", "rdb_last_bgsave_status:err").await;
    })
    .await;
}

#[tokio::test]
async fn a_script_that_does_not_end() {
    refuses("BUSY", async |server| {
        server.run("CONFIG SET busy-reply-threshold 10").await;
        let mut connection = server.connection().await;
        tokio::spawn(async move {
            let mut script = redis::cmd("EVAL");
            script.arg("while true do end").arg(0).query_async::<()>(&mut connection).await.ok();
        });
        let mut connection = server.connection().await;
        while redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
