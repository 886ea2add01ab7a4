//! Viewers that reach their spawns through this front door: one public port for all of them.
//!
//! A viewer's URL names a node, a spawn there and the spawn's token. The node's agent knows the token and decides; this front door
//! holds nothing of it, so every replica serves every viewer, and the registry is needed only to learn where a node is that was
//! never heard of.
//!
//! ```text
//!   viewer            front door                      agent                 server
//!     │  GET /s/… ───────▶│── Viewer(token) ───────────▶│                     │
//!     │                   │◀─────────────── Target(port)│                     │
//!     │                   │── connects ─────────────────┼────────────────────▶│
//!     │                   │── Connected ───────────────▶│                     │
//!     │                   │◀─────────────────── Confirmed: it is that spawn   │
//!     │                   │── the same GET, for / ──────┼────────────────────▶│
//!     │◀─────────── 101 ──│◀────────────────────────────┼──────────────── 101 │
//!     │◀══════════════ frames, both ways ═══════════════╪════════════════════▶│
//! ```
//!
//! Owns: the sessions of this process. Invariants: no byte of a viewer reaches a server before the agent has confirmed that the
//! connection is to the viewer's spawn; the agent knows the viewer as connected for as long as the session lasts.
//! Failure: an agent that goes away (it is replaced, or cut off) costs no session; the viewer is attached again when the agent
//! is back. A server that cannot be connected to is tried again for a moment, but never once it has answered.

mod attach;
mod server;
mod session;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use model::{NodeId, RequestId, SpawnId};
use registry::RegistryError;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span};
use uuid::Uuid;

use self::attach::{Attached, Refused};
use self::session::Session;
use crate::agent_client::{AgentError, Agents};
use crate::callers::Rate;
use crate::listen::Place;
use crate::metrics::RelayMetrics;
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::snapshot::Snapshot;
use crate::settings::ViewerSettings;

/// Most viewers that are connecting at once.
const MAX_HANDSHAKES: usize = 1024;
/// Nodes that the registry is asked for in a second: those that have come since the last snapshot, which is a second old at most. URLs
/// that name no node cost no more than that, however many there are.
const LOOKUPS_PER_SECOND: u32 = 20;
/// How long a viewer may take to get connected.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The sessions of this front door.
#[derive(Debug)]
pub(crate) struct Viewers {
    settings: ViewerSettings,
    registry: Arc<RegistryClient>,
    snapshot: Arc<Snapshot>,
    agents: Arc<Agents>,
    handshakes: Semaphore,
    lookups: Mutex<Rate>,
    sessions: TaskTracker,
    /// Sessions that are left are cut.
    cut: CancellationToken,
    metrics: RelayMetrics,
}

/// What a viewer's URL names.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) node: NodeId,
    pub(crate) spawn: SpawnId,
    pub(crate) shown: Shown,
}

/// What a viewer's URL shows the agent, so that it may connect.
#[derive(Debug, Clone)]
pub(crate) enum Shown {
    /// The spawn's token.
    Token(String),
    /// The spawn's port, where its endpoint is no more than that.
    Port(u16),
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
    pub(crate) fn new(
        settings: ViewerSettings,
        registry: Arc<RegistryClient>,
        snapshot: Arc<Snapshot>,
        agents: Arc<Agents>,
        metrics: RelayMetrics,
    ) -> Self {
        Self {
            settings,
            registry,
            snapshot,
            agents,
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            lookups: Mutex::default(),
            sessions: TaskTracker::new(),
            cut: CancellationToken::new(),
            metrics,
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
            self.cut.cancel();
            self.sessions.wait().await;
        }
    }

    /// Connects a viewer to its spawn. The answer is the server's own; with 101, a session has begun.
    pub(crate) async fn connect(
        viewers: &Arc<Self>,
        wanted: Wanted,
        request: Request,
        id: &RequestId,
    ) -> Result<Response, NotConnected> {
        let began = Instant::now();
        let metrics = &viewers.metrics;
        let handshake = async {
            let _permit = viewers.handshakes.try_acquire().map_err(|_| NotConnected::Busy)?;
            let _counted = metrics.handshake();
            timeout(CONNECT_TIMEOUT, Self::shake_hands(viewers, &wanted, request, id)).await.unwrap_or_else(
                |_| {
                    let why = format!("no connection within {CONNECT_TIMEOUT:?}");
                    Err(NotConnected::Server(wanted.node.clone(), why))
                },
            )
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
        viewers: &Arc<Self>,
        wanted: &Wanted,
        mut request: Request,
        id: &RequestId,
    ) -> Result<Response, NotConnected> {
        let advertise = viewers.find(&wanted.node).await?;
        let viewer = Uuid::new_v4();
        let (mut attached, port) =
            Attached::ask(viewers, wanted, &advertise, viewer, id).await.map_err(|why| match why {
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
        let session = Session { viewers: Arc::clone(viewers), attached, upgrade, server, place };
        viewers.sessions.spawn(session.run().instrument(span));
        Ok(response.map(|_| Body::empty()))
    }

    fn may_look_up(&self) -> bool {
        let second = Duration::from_secs(1);
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.take(Instant::now(), second / LOOKUPS_PER_SECOND, second).is_ok()
    }

    /// Where the node's agent is: as it was last seen, or as the registry knows it.
    async fn find(&self, node: &NodeId) -> Result<String, NotConnected> {
        if let Some(advertise) = self.snapshot.advertise_of(node) {
            return Ok(advertise);
        }
        if !self.may_look_up() {
            return Err(NotConnected::NotFound);
        }
        match self.registry.node(node).await {
            Ok(Some(record)) => Ok(record.description.advertise),
            Ok(None) => Err(NotConnected::NotFound),
            Err(error) => Err(NotConnected::Registry(error)),
        }
    }
}
