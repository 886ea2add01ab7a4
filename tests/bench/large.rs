//! The live feed of a large farm: how long the first subscriber waits for the view to be made, and the next for a snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use hatchery_tests::{AgentPlan, Farm};
use model::{AgentEpoch, NodeDescription, NodeKind, SpawnId, SpawnState, Timing};
use registry::{AgentReport, Heartbeat, Registry, SpawnReport};
use tokio::time::Instant;

use crate::live::subscribe;
use crate::table::{Table, ms};

const NODES: u32 = 1000;
const SPAWNS: u32 = 20;

/// One report of every node.
async fn report(registry: &Registry, spawns: &[Vec<SpawnId>], epoch: AgentEpoch) -> anyhow::Result<()> {
    for (n, ids) in spawns.iter().enumerate() {
        let description = NodeDescription {
            advertise: format!("http://10.0.0.1:{n}"),
            endpoint: "ws://{host}:{port}".to_owned(),
            kind: NodeKind { pool: "large".to_owned(), labels: BTreeMap::new(), dedicated: false },
            slots: SPAWNS,
            gpus: 0,
            gpu_slots: 0,
            csr: true,
            ssr: false,
            version: "0.1.0".to_owned(),
            viewer_relay: None,
        };
        let ready = |id: &SpawnId| {
            let (state, ready) = (SpawnState::Ready, Some(Duration::ZERO));
            SpawnReport { state, ready, last_ping: ready, ..SpawnReport::launching(*id, "ws://127.0.0.1:9") }
        };
        let heartbeat = Heartbeat::new(description, ids.iter().map(ready).collect());
        let (node, heartbeat) = (format!("large-{n:04}").parse()?, Some(heartbeat));
        let report = AgentReport {
            node,
            epoch,
            takeover: true,
            identity: registry::Identity::default(),
            accepted: 0,
            agreement: None,
            changes: Vec::new(),
            heartbeat,
        };
        let orders = registry.report(&report).await?;
        ensure!(!orders.superseded && !orders.unknown, "{orders:?}");
    }
    Ok(())
}

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let farm = Farm::builder().plain_log().agent(AgentPlan::slots(1)).start().await;
    let registry = Registry::open(&farm.redis.url(), "test", Timing::FARM)?;
    let ids: Vec<Vec<_>> = (0..NODES).map(|_| (0..SPAWNS).map(|_| SpawnId::mint()).collect()).collect();
    let epoch = AgentEpoch::mint();
    report(&registry, &ids, epoch).await?;
    let began = Instant::now();
    report(&registry, &ids, epoch).await?;
    table.row(
        format!("lists of {NODES} nodes with {SPAWNS} spawns each, one after the other"),
        ms(began.elapsed()),
        "they come after a wipe",
        "",
    );
    let began = Instant::now();
    let _first = subscribe(farm.door(0).addr).await?;
    let first = began.elapsed();
    let began = Instant::now();
    let _next = subscribe(farm.door(0).addr).await?;
    table.row(
        format!("first subscriber to {} spawns, to the snapshot", NODES * SPAWNS),
        ms(first),
        "the next one",
        ms(began.elapsed()),
    );
    farm.shut_down().await;
    Ok(())
}
