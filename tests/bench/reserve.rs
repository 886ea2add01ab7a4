//! What a reserve costs with few nodes and with many: interleaved call by call, against one Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{
    AgentEpoch, Demand, Eligibility, NodeDescription, NodeId, NodeKind, Placement, RendererType, SpawnId,
    Timing,
};
use registry::{AgentReport, Heartbeat, Registry, Reserve, Reserved};
use tokio::time::Instant;

use crate::table::{Sample, Table, us};

const SIZES: [u32; 3] = [10, 1_000, 10_000];
const ROUNDS: usize = 4_000;

struct Case {
    registry: Registry,
    labels: BTreeMap<String, String>,
    times: Sample,
}

/// Nodes of this farm send no heartbeats while it is measured.
const TIMING: Timing =
    Timing { stale: Duration::from_secs(3600), down: Duration::from_secs(7200), ..Timing::FARM };

async fn farm(url: &str, name: &str, nodes: u32, labels: &[&str], draining: u32) -> anyhow::Result<Registry> {
    let registry = Registry::open(url, name, TIMING)?;
    for n in 0..nodes {
        let node: NodeId = format!("node-{n}").parse()?;
        let mut label = BTreeMap::new();
        if let Some(sdk) = labels.get(n as usize % labels.len().max(1)) {
            label.insert("sdk".to_owned(), (*sdk).to_owned());
        }
        let description = NodeDescription {
            advertise: format!("http://{node}:7070"),
            endpoint: "ws://{host}:{port}".to_owned(),
            kind: NodeKind { pool: "default".to_owned(), labels: label, dedicated: false },
            slots: 32,
            gpus: 0,
            gpu_slots: 0,
            csr: true,
            ssr: true,
            version: "0.1.0".to_owned(),
            viewer_relay: None,
        };
        let report = AgentReport {
            node: node.clone(),
            epoch: AgentEpoch::mint(),
            takeover: true,
            identity: registry::AgentIdentity::default(),
            accepted: 0,
            agreement: None,
            changes: Vec::new(),
            heartbeat: Some(Heartbeat::new(description, Vec::new())),
        };
        registry.report(&report).await?;
        if draining > 0 && n % draining == 0 {
            registry.set_eligibility(&node, Eligibility::Draining, None, None).await?;
        }
    }
    Ok(registry)
}

fn ask(labels: &BTreeMap<String, String>) -> Reserve {
    Reserve {
        spawn: SpawnId::mint(),
        demand: Demand { renderer: RendererType::Csr, pool: None, labels: labels.clone() },
        placement: Placement::Spread,
        avoid: Vec::new(),
        place: None,
        number: None,
        probed: false,
        owner: None,
        most: None,
    }
}

pub(crate) async fn measure(url: &str, table: &mut Table) -> anyhow::Result<()> {
    for (what, labels, draining) in [
        ("plain", &[][..], 0),
        ("asking for a label", &["2024.8", "2025.1"][..], 0),
        ("one node in 20 draining", &[], 20),
    ] {
        let mut cases = Vec::new();
        for nodes in SIZES {
            let name = format!("reserve-{nodes}-{}", what.split(' ').next().unwrap_or_default());
            let wanted = labels.last().map(|sdk| ("sdk".to_owned(), (*sdk).to_owned())).into_iter().collect();
            let registry = farm(url, &name, nodes, labels, draining).await?;
            cases.push(Case { registry, labels: wanted, times: Sample::default() });
        }
        for _ in 0..ROUNDS {
            for case in &mut cases {
                let ask = ask(&case.labels);
                let start = Instant::now();
                let outcome = case.registry.reserve(&ask).await?;
                case.times.add(start.elapsed());
                let Reserved::Slot(slot) = outcome else {
                    anyhow::bail!("no slot among {what} nodes: {outcome:?}")
                };
                case.registry.release(&slot.node, slot.spawn).await?;
            }
        }
        let base = cases[0].times.quantile(0.5);
        for (case, nodes) in cases.iter().zip(SIZES).skip(1) {
            let p50 = case.times.quantile(0.5);
            table.row(
                format!("reserve among {nodes} nodes, {what}, p50"),
                us(p50),
                format!("{} among {}", us(base), SIZES[0]),
                format!("{:.2} ×", p50.as_secs_f64() / base.as_secs_f64()),
            );
        }
    }
    Ok(())
}
