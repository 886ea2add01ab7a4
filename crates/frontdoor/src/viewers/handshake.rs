//! From a viewer's request to a session: the handshake, step by step, and why there is none.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use model::{NodeId, RequestId};
use registry::RegistryError;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span};
use uuid::Uuid;

use super::attach::{Attached, Refused, Wanted};
use super::reach::{Reach, Unknown};
use super::server;
use super::session::{Session, Shared};
use crate::agent_client::AgentError;
use crate::listen::Place;
use crate::metrics::RelayMetrics;
use crate::settings::ViewerSettings;

/// Most viewers that are connecting at once.
const MAX_HANDSHAKES: usize = 1024;
/// How long a viewer may take to get connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The sessions of this front door.
#[derive(Debug)]
pub(crate) struct Viewers {
    settings: ViewerSettings,
    handshakes: Semaphore,
    sessions: TaskTracker,
    shared: Shared,
}

/// Why a viewer is not connected.
#[derive(Debug)]
pub(crate) enum NotConnected {
    /// There is nothing that this URL may reach.
    NotFound,
    /// The spawn has a viewer.
    Taken,
    /// Too many are connecting.
    Busy,
    /// Nobody can say whether there is such a node.
    Registry(RegistryError),
    /// The node's agent cannot be asked.
    Agent(NodeId, AgentError),
    /// The spawn's server cannot be reached, or did not answer like one.
    Server(NodeId, String),
}

impl NotConnected {
    fn word(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Taken => "already-connected",
            Self::Busy => "busy",
            Self::Registry(_) => "registry",
            Self::Agent(..) => "agent",
            Self::Server(..) => "server",
        }
    }
}

impl Viewers {
    pub(crate) fn new(settings: ViewerSettings, reach: Reach, metrics: RelayMetrics) -> Self {
        let ping_interval = settings.ping_interval;
        Self {
            settings,
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            sessions: TaskTracker::new(),
            shared: Shared { reach, ping_interval, cut: CancellationToken::new(), metrics },
        }
    }

    /// Sessions under way.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Waits until the last viewer has gone, up to `--relay-drain`; then cuts those that are left.
    pub(crate) async fn drain(&self) {
        self.sessions.close();
        if timeout(self.settings.drain, self.sessions.wait()).await.is_err() {
            info!(viewers = self.sessions.len(), "viewers still connected after --relay-drain are cut");
            self.shared.cut.cancel();
            self.sessions.wait().await;
        }
    }

    /// Connects a viewer to its spawn. The answer is the server's own; with 101, a session has begun.
    pub(crate) async fn connect(
        &self,
        wanted: Wanted,
        request: Request,
        id: &RequestId,
    ) -> Result<Response, NotConnected> {
        let began = Instant::now();
        let metrics = &self.shared.metrics;
        let handshake = async {
            let _permit = self.handshakes.try_acquire().map_err(|_| NotConnected::Busy)?;
            let _counted = metrics.handshake();
            timeout(CONNECT_TIMEOUT, self.shake_hands(&wanted, request, id)).await.unwrap_or_else(|_| {
                let why = format!("no connection within {CONNECT_TIMEOUT:?}");
                Err(NotConnected::Server(wanted.node.clone(), why))
            })
        };
        let connected = handshake.await;
        match &connected {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                metrics.connected(began.elapsed());
            }
            Ok(_) => metrics.refused("server"),
            Err(why) => metrics.refused(why.word()),
        }
        connected
    }

    async fn shake_hands(
        &self,
        wanted: &Wanted,
        mut request: Request,
        id: &RequestId,
    ) -> Result<Response, NotConnected> {
        let reach = &self.shared.reach;
        let advertise = reach.find(&wanted.node).await.map_err(|why| match why {
            Unknown::Node => NotConnected::NotFound,
            Unknown::Registry(error) => NotConnected::Registry(error),
        })?;
        let viewer = Uuid::new_v4();
        let (mut attached, port) =
            Attached::ask(reach, wanted, &advertise, viewer, id).await.map_err(|why| match why {
                Refused::NotFound => NotConnected::NotFound,
                Refused::Taken => NotConnected::Taken,
                Refused::Agent(error) => NotConnected::Agent(wanted.node.clone(), error),
            })?;
        let place = request.extensions().get::<Place>().cloned();
        // It has shown the spawn's token.
        place.iter().for_each(Place::known);
        let no_server = |why: String| NotConnected::Server(wanted.node.clone(), why);
        let socket = server::connect(&advertise, port).await.map_err(no_server)?;
        match attached.confirm().await {
            Ok(()) => {}
            Err(Refused::Agent(error)) => return Err(NotConnected::Agent(wanted.node.clone(), error)),
            Err(Refused::NotFound | Refused::Taken) => return Err(NotConnected::NotFound),
        }
        let upgrade: OnUpgrade = hyper::upgrade::on(&mut request);
        let (response, server) =
            server::upgrade(socket, request.uri(), request.headers()).await.map_err(no_server)?;
        let Some(server) = server else { return Ok(response.map(Body::new)) };
        let span = info_span!(
            "viewer", viewer.id = %viewer, spawn.id = %wanted.spawn, node.id = %wanted.node, request.id = %id
        );
        let session = Session { shared: self.shared.clone(), attached, upgrade, server, place };
        self.sessions.spawn(session.run().instrument(span));
        Ok(response.map(|_| Body::empty()))
    }
}
