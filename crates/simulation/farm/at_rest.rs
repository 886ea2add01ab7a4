//! What must hold once nothing goes wrong any more and nobody asks for anything: processes, agents and the registry agree, and what callers
//! have got is what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::farm::{Farm, NODES};
use crate::server::SimulatedServer;

/// A farm must be at rest after this time: longer than a reservation, and than a server waits for its first viewer.
const WITHIN: Duration = Duration::from_secs(60);

/// Waits until the farm is at rest; a farm that does not come to rest has broken a promise.
pub(crate) async fn wait(farm: &Arc<Farm>) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let wrong = look(farm).await;
        match wrong {
            None => return farm.steps.note(format_args!("the farm is at rest")),
            Some(why) if Instant::now() >= deadline => return farm.steps.violate(&why),
            Some(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

/// What is wrong, if anything is.
async fn look(farm: &Arc<Farm>) -> Option<String> {
    let nodes = farm.registry.nodes().await.ok()?;
    let mut all: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for host in NODES {
        let machine = farm.machine(host)?;
        let Some(agent) = machine.agent() else { return Some(format!("{host} has no agent")) };
        let agents: BTreeSet<String> = agent.spawns().iter().map(ToString::to_string).collect();
        let running = machine.running();
        let kept = agent.kept_warm().len();
        if running.len() != agents.len() + kept {
            let (count, pids) = (running.len(), pids(&running));
            return Some(format!(
                "{host} runs {count} processes ({pids}), {kept} of them warm, for {agents:?}"
            ));
        }
        let Some(node) = nodes.iter().find(|node| node.id.as_str() == host) else {
            return Some(format!("the registry does not know {host}"));
        };
        let living = farm.registry.living(std::slice::from_ref(&node.id)).await.ok()?;
        let living: BTreeSet<String> = living.iter().map(|record| record.id.to_string()).collect();
        if living != agents {
            return Some(format!("of {host} the registry has {living:?}, its agent {agents:?}"));
        }
        if usize::try_from(node.used).ok()? != agents.len() {
            return Some(format!("{host} has {} slots in use for {agents:?}", node.used));
        }
        all.insert(host, agents);
    }
    let wanted = farm.promises.wanted();
    for (host, agents) in &all {
        if let Some(leaked) = agents.iter().find(|id| !farm.promises.was_answered(id)) {
            return Some(format!("{leaked} runs on {host}, and no caller has got it"));
        }
    }
    let living: BTreeSet<String> = all.values().flatten().cloned().collect();
    for (number, view) in farm.views.iter().map(|view| view.living()).enumerate() {
        if view != living {
            return Some(format!("subscriber {number} knows of {view:?}, and what lives is {living:?}"));
        }
    }
    for (id, answered) in wanted {
        let lives = all.get(answered.node.as_str()).is_some_and(|agents| agents.contains(&id));
        if !lives {
            return Some(format!("{id} on {} is wanted and does not run", answered.node));
        }
    }
    None
}

fn pids(servers: &[Arc<SimulatedServer>]) -> String {
    servers
        .iter()
        .map(|server| format!("{} {}", server.id(), server.option("--sc-port").unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(", ")
}
