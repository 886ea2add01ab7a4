//! A front door on the network of a simulation: every part is the real one but for listeners and sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use registry::Registry;
use tokio::io::DuplexStream;
use tokio_util::task::TaskTracker;

use super::front_door::{FrontDoor, Tasks, follow_registry};
use super::parts::Parts;
use crate::agent_client::{Dial, Dialer};
use crate::http;
use crate::listen::simulated::serve_stream;
use crate::listen::{Ends, Places, Reception};
use crate::settings::Config;

/// See the module's documentation.
#[derive(Debug)]
pub struct SimulatedFrontDoor {
    front: FrontDoor,
    router: Router,
    reception: Reception,
}

impl SimulatedFrontDoor {
    /// Starts one, which reaches agents through `network`. Nothing connects to its `listen` address by itself: see [`Self::serve`].
    #[must_use]
    pub fn start(config: Config, registry: Registry, network: Arc<dyn Dial>) -> Self {
        let address = config.listen;
        let max = config.max_connections;
        let parts = Parts::over(config, registry, Dialer::Simulated(network));
        let (edge, stages) = (&parts.edge, &parts.edge.stages);
        let over = stages.over.clone().drop_guard();
        let (connections, background) = (TaskTracker::new(), TaskTracker::new());
        let metrics = edge.metrics.connections.clone();
        let places = Places::new(max, 0, edge.config.limits.unauthenticated_memory, metrics.clone());
        let reception = Reception::new(None, max, places, metrics);
        let router = http::router(edge);
        let tasks = Tasks { tracker: background.clone(), over: stages.over.clone() };
        follow_registry(&parts, &tasks);
        let front = FrontDoor {
            parts,
            http_addr: address,
            admin_addr: address,
            hoops_addr: None,
            connections,
            background,
            over,
        };
        Self { front, router, reception }
    }

    /// Serves a caller that has connected.
    pub fn serve(&self, stream: DuplexStream, peer: SocketAddr) {
        let stages = &self.front.parts.edge.stages;
        let ends = Ends { accepting: stages.leaving.clone(), connections: stages.closed.clone() };
        let served = serve_stream(stream, peer, self.router.clone(), self.reception.clone(), ends);
        self.front.connections.spawn(served);
    }

    /// Ends it at once. Its connections are the network's to cut.
    pub fn crash(&self) {
        let stages = &self.front.parts.edge.stages;
        stages.leaving.cancel();
        stages.closed.cancel();
        stages.over.cancel();
    }
}
