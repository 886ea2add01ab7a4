//! A running front door: its ports and its background tasks.
//!
//! Owns the listeners and every task; dropping it ends them all at once. Ports are opened before anything is promised, so a front
//! door that starts can serve. [`StartError`] leaves nothing behind.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::field::display;
use tracing::{Instrument, info, info_span, warn};

use super::parts::Parts;
use crate::hoops::{self, Hoops};
use crate::listen::{self, Places};
use crate::registry_access::refresher::Refresher;
use crate::registry_access::{circuit, follower, sweeper, tally};
use crate::settings::{Config, OwnNode, Surface, Tls};
use crate::spawning::reachability::Reachability;
use crate::{http, live, webhooks};

/// Connections at once to the admin port.
const MAX_ADMIN_CONNECTIONS: usize = 1024;
/// Bytes for connections to the admin port that have no request.
const ADMIN_MEMORY: usize = 16 << 20;

/// A running front door. Dropping it ends it at once; [`FrontDoor::shutdown`] ends it in good order.
///
/// ```
/// use frontdoor::{Config, FrontDoor, StartError};
/// use registry::Registry;
///
/// async fn serve(config: Config, registry: Registry, enough: impl Future<Output = ()>) -> Result<(), StartError> {
///     let door = FrontDoor::start(config, registry).await?;
///     println!("callers are served on {}", door.http_addr());
///     enough.await;
///     door.shutdown().await;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct FrontDoor {
    pub(super) parts: Parts,
    pub(super) http_addr: SocketAddr,
    pub(super) admin_addr: SocketAddr,
    pub(super) hoops_addr: Option<SocketAddr>,
    /// One task per connection of callers.
    pub(super) connections: TaskTracker,
    /// Listeners, follower, sweeper and the like, and connections to the admin port.
    pub(super) background: TaskTracker,
    pub(super) over: DropGuard,
}

/// Why a front door did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be had.
    #[error("failed to listen on {address} ({flag})")]
    Bind {
        /// The flag that named the address.
        flag: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

impl FrontDoor {
    /// Binds both ports and starts to serve. The registry need not be there yet.
    ///
    /// # Errors
    /// A port could not be bound.
    pub async fn start(config: Config, registry: Registry) -> Result<Self, StartError> {
        let places = listen::allow(config.max_connections);
        for flag in &config.tls.exposed {
            warn!(flag, "other machines can reach this port, and --insecure lets them: nothing keeps it");
        }
        if let Some(client) = &config.tls.agents {
            client.warn_without_role();
        }
        let tls = config.tls.clone();
        let public = bind("--listen", config.listen)?;
        let admin = bind("--admin-listen", config.admin_listen)?;
        let (http_addr, admin_addr) = (public.1, admin.1);
        let hoops_listener = match &config.hoops {
            Some(hoops) => Some(bind("--hoops-listen", hoops.listen)?),
            None => None,
        };
        let hoops_addr = hoops_listener.as_ref().map(|(_, address)| *address);

        let parts = Parts::new(Config { listen: http_addr, ..config }, registry);
        let over = parts.edge.stages.over.clone().drop_guard();
        let (connections, background) = (TaskTracker::new(), TaskTracker::new());
        let tasks = Tasks { tracker: background.clone(), over: parts.edge.stages.over.clone() };
        let reception = listen_on(&parts, &tasks, (public.0, admin.0), places, &connections);
        if let Some(listener) = hoops_listener {
            listen_as_vendor(&parts, &tasks, listener, reception, &connections);
        }
        keep_certificates(&tasks, tls);
        follow_registry(&parts, &tasks);
        let own_node = parts.edge.config.viewers.own_node.as_ref();
        let registry = own_node.is_none_or(OwnNode::asks_registry).then(|| parts.edge.registry.backend());
        let (hoops, node) = (hoops_addr.map(display), own_node.map(|own| display(&own.node)));
        info!(http = %http_addr, admin = %admin_addr, hoops, registry, node.id = node, "front door open");
        Ok(Self { parts, http_addr, admin_addr, hoops_addr, connections, background, over })
    }

    /// Where callers and operators are served.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where the vendor's HOOPS Server interface is served, if it is.
    #[must_use]
    pub fn hoops_addr(&self) -> Option<SocketAddr> {
        self.hoops_addr
    }

    /// Where metrics and probes are served.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// What `/readyz` says now, in a few words: whether requests can be served, or why not.
    ///
    /// # Errors
    /// No request can be served.
    pub async fn readiness(&self) -> Result<String, String> {
        let checked = http::check(&self.parts.edge).await;
        let status = checked.outcome.map_err(|problem| problem.to_string())?;
        Ok(checked.warnings.first().map_or_else(|| status.to_owned(), |why| format!("{status}: {why}")))
    }
}

fn bind(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let wrong = |source| StartError::Bind { flag, address, source };
    let listener = listen::bind(address).map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}

/// Runs background tasks, each in a span of its own, until the front door is over.
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) over: CancellationToken,
}

impl Tasks {
    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (over, span) = (self.over.clone(), info_span!("task", name));
        // Boxed, because some of these futures are large.
        let work: BoxFuture<'static, ()> = Box::pin(work);
        self.tracker
            .spawn(async move { over.run_until_cancelled(work).await.unwrap_or_default() }.instrument(span));
    }
}

/// Accepts connections on both ports, and returns how callers are received.
fn listen_on(
    parts: &Parts,
    tasks: &Tasks,
    (public, admin): (TcpListener, TcpListener),
    max_connections: usize,
    connections: &TaskTracker,
) -> listen::Reception {
    let edge = &parts.edge;
    let (metrics, stages) = (&edge.metrics.connections, &edge.stages);
    // Where credentials are required, known callers have places of their own.
    let share = if edge.authenticator.is_some() { max_connections / 8 } else { 0 };
    let memory = edge.config.limits.unauthenticated_memory;
    let public_places = Places::new(max_connections, share, memory, metrics.clone());
    let tls = edge.config.tls.http.clone();
    let reception = listen::Reception::new(tls, max_connections, public_places, metrics.clone())
        .behind(edge.config.trusted_proxies.clone());
    let admins = MAX_ADMIN_CONNECTIONS.min(max_connections);
    let admin_places = Places::new(admins, 0, ADMIN_MEMORY, metrics.clone());
    tasks.spawn(
        "http",
        listen::serve(
            public,
            http::router(edge),
            reception.clone(),
            connections.clone(),
            listen::Ends { accepting: stages.leaving.clone(), connections: stages.closed.clone() },
        ),
    );
    tasks.spawn(
        "admin",
        listen::serve(
            admin,
            http::admin_router(edge),
            listen::Reception::new(edge.config.tls.admin.clone(), admins, admin_places, metrics.clone()),
            tasks.tracker.clone(),
            listen::Ends { accepting: stages.handed_over.clone(), connections: stages.over.clone() },
        ),
    );
    reception
}

/// Accepts connections of consumers of the vendor's server. They share the places of all callers.
fn listen_as_vendor(
    parts: &Parts,
    tasks: &Tasks,
    (listener, address): (TcpListener, SocketAddr),
    reception: listen::Reception,
    connections: &TaskTracker,
) {
    let (edge, stages) = (&parts.edge, &parts.edge.stages);
    let Some(settings) = edge.config.hoops.clone() else { return };
    if tls::is_beyond_this_machine(address) && edge.config.tls.http.is_none() {
        warn!(
            flag = "--hoops-listen",
            "other machines can reach this port without TLS: what keeps viewers apart can be read on the way"
        );
    }
    let hoops = Arc::new(Hoops::new(edge, settings, address));
    tasks.spawn("hoops spawns", Arc::clone(&hoops).follow());
    tasks.spawn(
        "hoops",
        listen::serve(
            listener,
            hoops::router(hoops),
            reception,
            connections.clone(),
            listen::Ends { accepting: stages.leaving.clone(), connections: stages.closed.clone() },
        ),
    );
}

/// Reads certificates again when their files change.
fn keep_certificates(tasks: &Tasks, tls: Tls) {
    // Without the farm's CA, the admin port shows what the other one does.
    let admin = tls.admin.filter(|_| tls.agents.is_some());
    for server in tls.http.into_iter().chain(admin) {
        tasks.spawn("certificate", async move { server.keep_fresh().await });
    }
    for client in tls.agents.into_iter().chain(tls.relays) {
        tasks.spawn("agent certificate", async move { client.keep_fresh().await });
    }
}

/// Everything that runs beside the requests.
pub(super) fn follow_registry(parts: &Parts, tasks: &Tasks) {
    let Parts { edge, line, live, desired_states, .. } = parts;
    let registry = &edge.registry;
    tasks.spawn("probe", circuit::probe(Arc::clone(registry)));
    let refresher = Refresher {
        registry: Arc::clone(registry),
        snapshot: Arc::clone(&edge.snapshot),
        desired_states: Arc::clone(desired_states),
        metrics: edge.metrics.farm.clone(),
    };
    let subscribers = Arc::clone(live);
    tasks.spawn("snapshot", refresher.run(move |nodes| subscribers.refresh(nodes)));
    if edge.config.surface == Surface::Relay {
        return;
    }
    let wake = {
        let (edge, line) = (Arc::clone(edge), Arc::clone(line));
        move || {
            edge.idempotency.wake();
            line.wake();
            edge.positions.wake();
        }
    };
    tasks.spawn("follower", follower::follow(Arc::clone(registry), wake));
    tasks.spawn("live", live::keep(Arc::clone(live)));
    if let Some(settings) = edge.config.webhooks.clone() {
        let around = webhooks::Around {
            registry: Arc::clone(registry),
            names: edge.names.clone(),
            metrics: edge.metrics.webhooks.clone(),
            leaving: edge.stages.leaving.clone(),
        };
        tasks.spawn("webhooks", webhooks::deliver(settings, around));
    }
    let counts = (Arc::clone(registry), Arc::clone(&edge.snapshot), Arc::clone(&edge.tally));
    tasks.spawn("tally", tally::report(counts.0, counts.1, counts.2));
    let reachability = Reachability {
        agents: Arc::clone(&edge.agents),
        snapshot: Arc::clone(&edge.snapshot),
        metrics: edge.metrics.farm.clone(),
    };
    tasks.spawn("reachability", reachability.keep());
    tasks.spawn("sweeper", sweeper::sweep(Arc::clone(registry)));
    tasks.spawn("line", Arc::clone(line).keep_places());
    tasks.spawn("positions", Arc::clone(&edge.positions).keep());
    if let Some(access) = edge.config.access.clone() {
        tasks.spawn("access", access.keep());
    }
}
