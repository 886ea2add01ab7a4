//! From a viewer's request to a session: the handshake, step by step, and why there is none.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use model::RequestId;
use relay::PingTag;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error_span, info};
use uuid::Uuid;

use super::attach::{Attached, Refused, Wanted};
use super::node_relay::{HopHeader, NodeRelays};
use super::not_connected::NotConnected;
use super::per_node::{NodeHandshakes, NotBegun};
use super::reach::{Reach, Unknown};
use super::server::{self, Upgraded};
use super::session::{Session, Shared};
use crate::agent_client::AgentError;
use crate::listen::ConnectionPlace;
use crate::metrics::RelayMetrics;
use crate::registry_access::snapshot::Addresses;
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
    /// Those with agents.
    agents: NodeHandshakes,
    sessions: TaskTracker,
    shared: Shared,
}

impl Viewers {
    pub(crate) fn new(
        settings: ViewerSettings,
        reach: Reach,
        relays: NodeRelays,
        metrics: RelayMetrics,
    ) -> Self {
        let ping_interval = settings.ping_interval;
        Self {
            settings,
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            agents: NodeHandshakes::default(),
            sessions: TaskTracker::new(),
            shared: Shared { reach, relays, ping_interval, cut: CancellationToken::new(), metrics },
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether the agent of the relay's own node can be asked, or why not; `None` where it has no node of its own.
    pub(crate) async fn check_own_agent(&self, within: Duration) -> Option<Result<(), String>> {
        self.shared.reach.check_own_agent(within).await
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
            // A URL that names no node takes no place.
            let addresses = self.shared.reach.find(&wanted.node).await.map_err(|why| match why {
                Unknown::Node => NotConnected::NotFound,
                Unknown::Registry(error) => NotConnected::Registry(error),
            })?;
            let _permit = self.handshakes.try_acquire().map_err(|_| NotConnected::Busy)?;
            let _counted = metrics.handshake();
            let shaken = timeout(CONNECT_TIMEOUT, self.shake_hands(&wanted, addresses, request, id));
            shaken.await.unwrap_or_else(|_| {
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
        addresses: Addresses,
        mut request: Request,
        id: &RequestId,
    ) -> Result<Response, NotConnected> {
        let Shared { reach, relays, ping_interval, .. } = &self.shared;
        let upgrade: OnUpgrade = hyper::upgrade::on(&mut request);
        let (mut head, _) = request.into_parts();
        let before = if reach.is_on_a_node() { HopHeader::take(&mut head.headers) } else { None };
        let id = before.as_ref().map_or(id, |hop| &hop.request);
        let place = head.extensions.get::<ConnectionPlace>().cloned();
        let viewer = Uuid::new_v4();
        // Its level is that of the least that a log may show: lines of every level name the viewer.
        let span = error_span!(
            "viewer", viewer.id = %viewer, spawn.id = %wanted.spawn, node.id = %wanted.node, requestId = %id
        );
        let (response, server, attached, settings) = match addresses.viewer_relay {
            Some(relay) => {
                let hop =
                    HopHeader { tag: PingTag::mint(), ping_interval: *ping_interval, request: id.clone() };
                let (response, server) =
                    relays.upgrade((&relay, reach.is_down(&wanted.node)), wanted, &head, &hop).await?;
                let settings =
                    relay::Settings { ping_interval: *ping_interval, hop: relay::Hop::InFront(hop.tag) };
                (response, server, None, settings)
            }
            None => {
                if !reach.is_on_a_node() {
                    relays.note_without_relay(&wanted.node, &addresses.advertise);
                }
                let (attached, response, server) =
                    self.through(&addresses.advertise, wanted, &head, viewer, id).await?;
                let settings = match before {
                    Some(hop) => {
                        relay::Settings { ping_interval: hop.ping_interval, hop: relay::Hop::Behind(hop.tag) }
                    }
                    None => relay::Settings { ping_interval: *ping_interval, hop: relay::Hop::Alone },
                };
                (response, server, Some(attached), settings)
            }
        };
        let Some(server) = server else { return Ok(response) };
        // It has shown the spawn's token.
        place.iter().for_each(ConnectionPlace::known);
        let session = Session { shared: self.shared.clone(), attached, upgrade, server, settings, place };
        self.sessions.spawn(session.run().instrument(span));
        Ok(response.map(|_| Body::empty()))
    }

    /// Shows the token to the agent, which names the port.
    async fn ask(
        &self,
        advertise: &str,
        wanted: &Wanted,
        viewer: Uuid,
        id: &RequestId,
    ) -> Result<(Attached, u16), NotConnected> {
        let reach = &self.shared.reach;
        let no_agent = |error| NotConnected::Agent(wanted.node.clone(), error);
        // The relay of a node has no other node that it could keep out.
        let is_down = !reach.is_on_a_node() && reach.is_down(&wanted.node);
        let handshake = self.agents.begin(&wanted.node, is_down).map_err(|why| match why {
            NotBegun::Resting => {
                let why = "it did not answer a moment ago".to_owned();
                no_agent(AgentError::NotSent { why, connecting: true })
            }
            NotBegun::Busy => NotConnected::Busy,
        })?;
        let asked = Attached::ask(reach, wanted, advertise, viewer, id).await;
        match &asked {
            Err(Refused::Agent(AgentError::NotSent { .. } | AgentError::Unknown { .. })) => {
                handshake.failed()
            }
            _ => handshake.answered(),
        }
        asked.map_err(|why| match why {
            Refused::NotFound => NotConnected::NotFound,
            Refused::Taken => NotConnected::Taken,
            Refused::Agent(error) => no_agent(error),
        })
    }

    /// Connects to the server's own port, which the agent names.
    async fn through(
        &self,
        advertise: &str,
        wanted: &Wanted,
        head: &Parts,
        viewer: Uuid,
        id: &RequestId,
    ) -> Result<(Attached, Response, Option<Upgraded>), NotConnected> {
        let (mut attached, port) = self.ask(advertise, wanted, viewer, id).await?;
        // It has shown the spawn's token.
        head.extensions.get::<ConnectionPlace>().iter().for_each(|place| place.known());
        let no_server = |why: String| NotConnected::Server(wanted.node.clone(), why);
        let host = server::host_of(advertise).map_err(no_server)?;
        let socket = server::connect(&host, port, "server").await.map_err(no_server)?;
        match attached.confirm().await {
            Ok(()) => {}
            Err(Refused::Agent(error)) => return Err(NotConnected::Agent(wanted.node.clone(), error)),
            Err(Refused::NotFound | Refused::Taken) => return Err(NotConnected::NotFound),
        }
        let upgraded = server::upgrade(socket, ("/", &head.uri), &head.headers, "server").await;
        let (response, server) = upgraded.map_err(no_server)?;
        Ok((attached, response.map(Body::new), server))
    }
}
