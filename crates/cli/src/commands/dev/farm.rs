//! The parts of the farm of `hatchery dev`, from start to end, in one process.
//!
//! Owns the agents and the front door. They start from the bottom up, so that the first spawn finds a node, and end from the top
//! down, so that no spawn is promised any more.

use std::net::SocketAddr;
use std::time::Duration;

use agent::{Agent, OnShutdown};
use frontdoor::{FrontDoor, StartError};
use model::{Availability, NodeId};
use registry::Registry;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::settings::Settings;
use crate::commands::role;
use crate::failure::Failure;

/// Nodes that have not reported by then are not waited for.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at what has reported.
const LOOK: Duration = Duration::from_millis(10);

/// Opens the front door; where something else has the port of its metrics, they get another.
async fn open(settings: &Settings) -> Result<FrontDoor, StartError> {
    let config = settings.door.clone();
    match FrontDoor::start(config.clone(), settings.registry.clone()).await {
        Err(StartError::Bind { flag: "--admin-listen", .. }) => {
            let admin_listen = SocketAddr::new(config.admin_listen.ip(), 0);
            FrontDoor::start(frontdoor::Config { admin_listen, ..config }, settings.registry.clone()).await
        }
        started => started,
    }
}

#[derive(Debug)]
pub(crate) struct Farm {
    pub(crate) door: FrontDoor,
    /// The nodes, by name.
    pub(crate) agents: Vec<(NodeId, Agent)>,
}

impl Farm {
    /// Starts the nodes, then the front door, and waits until a spawn would find a node.
    pub(crate) async fn start(settings: &Settings) -> Result<Self, Failure> {
        let mut agents = Vec::new();
        for config in &settings.agents {
            let agent = Agent::start(config.clone(), settings.registry.clone())
                .await
                .map_err(|e| role::not_started(&e))?;
            agents.push((config.node.clone(), agent));
        }
        let door = open(settings).await.map_err(|e| role::not_started(&e))?;
        let farm = Self { door, agents };
        if timeout(REGISTER_TIMEOUT, farm.registered(&settings.registry)).await.is_err() {
            warn!("not every node has registered yet");
        }
        Ok(farm)
    }

    async fn registered(&self, registry: &Registry) {
        let mut look = interval(LOOK);
        loop {
            look.tick().await;
            let Ok(nodes) = registry.nodes().await else { continue };
            let up = |id: &NodeId| nodes.iter().any(|n| n.id == *id && n.availability == Availability::Up);
            if self.agents.iter().all(|(id, _)| up(id)) {
                return;
            }
        }
    }

    /// Ends the front door first, so that no spawn is promised any more, then the nodes with all their spawns.
    pub(crate) async fn end(self, hurry: &CancellationToken) {
        tokio::select! {
            () = self.door.shutdown() => {}
            () = hurry.cancelled() => {}
        }
        let mut ends = JoinSet::new();
        for (_, agent) in self.agents {
            let hurry = hurry.clone();
            ends.spawn(async move { agent.shutdown(OnShutdown::Kill, hurry).await });
        }
        while let Some(end) = ends.join_next().await {
            if let Err(e) = end {
                error!("an agent did not end in order: {e}");
            }
        }
    }
}
