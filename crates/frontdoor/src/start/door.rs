//! The parts of a front door, and how they start.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use model::{Demand, NodeId, RequestId, SpawnId};
use registry::{Permits, Registry, RegistryError, Reservation, Reserve, Reserved};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span, warn};

use crate::agent_client::Agents;
use crate::callers::Callers;
use crate::http::ApiError;
use crate::http::Coalesced;
use crate::listen::Places;
use crate::live::{self, Live};
use crate::metrics::{CleanupKind, Metrics, Phase, Source};
use crate::registry_access::circuit::{self, Watched};
use crate::registry_access::cleanup::{Cleanups, persist};
use crate::registry_access::desired_state::Orders;
use crate::registry_access::snapshot::{Choice, Snapshot};
use crate::registry_access::{follower, refresher, sweeper};
use crate::settings::Config;
use crate::spawning::held_slot::Held;
use crate::spawning::line::{Line, Ticket};
use crate::spawning::order::Order;
use crate::spawning::single_flight::SingleFlight;
use crate::{http, listen};

/// Most connections at once to the admin port.
const ADMIN_CONNECTIONS: usize = 1024;
/// Bytes for connections to the admin port that have no request.
const ADMIN_MEMORY: usize = 16 << 20;

/// What all requests of a front door share.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) config: Config,
    pub(crate) registry: Watched,
    /// The farm as it was when the registry was last seen.
    pub(crate) snapshot: Snapshot,
    /// What operators want of nodes, in case the registry forgets it.
    pub(crate) orders: Orders,
    pub(crate) agents: Agents,
    /// What each caller takes of this front door.
    pub(crate) callers: Callers,
    pub(crate) line: Line,
    pub(crate) cleanups: Cleanups,
    pub(crate) live: Live,
    pub(crate) metrics: Metrics,
    /// How often callers may spawn while the registry cannot be asked. Never held across an await.
    pub(crate) permits: Mutex<Permits>,
    /// When the front door began.
    pub(crate) began: Instant,
    /// Answers that are dear to make.
    pub(crate) shared: Answers,
    /// What is being done for idempotency keys here.
    pub(crate) single_flight: SingleFlight,
    /// Changes whenever those who wait for somebody else should ask again.
    pub(crate) nudges: watch::Sender<u64>,
    pub(crate) stages: Stages,
}

/// See [`Coalesced`].
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// All nodes, as JSON.
    pub(crate) nodes: Coalesced<Result<Bytes, ApiError>>,
    /// Whether the registry takes writes.
    pub(crate) well: Coalesced<Result<(), RegistryError>>,
}

/// How far shutdown has come. Each is cancelled after the one before it.
#[derive(Debug)]
pub(crate) struct Stages {
    /// Not ready any more; no new connections.
    pub(crate) leaving: CancellationToken,
    /// The grace is over: requests answer that they were cut.
    pub(crate) cut: CancellationToken,
    /// Connections are closed, answered or not.
    pub(crate) closed: CancellationToken,
    /// Nothing runs any more.
    pub(crate) over: CancellationToken,
}

impl Stages {
    /// Ending an outer stage ends all inner ones, so that a dropped front door leaves nothing running.
    fn new() -> Self {
        let over = CancellationToken::new();
        let (closed, leaving) = (over.child_token(), over.child_token());
        Self { cut: closed.child_token(), leaving, closed, over }
    }
}

/// What came of asking for a slot.
#[derive(Debug)]
pub(crate) enum Got {
    Slot(Held),
    Full,
    NoMatch { known: bool },
    OverQuota,
}

impl Door {
    /// To be called inside the runtime that will serve it.
    pub(crate) fn new(config: Config, registry: Registry) -> Self {
        let metrics = Metrics::new(config.tls.clone());
        Self {
            registry: Watched::new(registry, metrics.registry_figures()),
            snapshot: Snapshot::default(),
            orders: Orders::default(),
            agents: Agents::new(config.tls.agents.clone()),
            callers: Callers::new(config.limits.clone(), metrics.callers_refused()),
            line: Line::new(config.max_waiting),
            cleanups: Cleanups::new(),
            live: Live::new(config.live_ping_interval, config.live_buffer, metrics.live_figures()),
            metrics,
            permits: Mutex::new(Permits::new()),
            began: Instant::now(),
            shared: Answers::default(),
            single_flight: SingleFlight::default(),
            nudges: watch::Sender::new(0),
            stages: Stages::new(),
            config,
        }
    }

    /// Asks the registry for a slot on a node that is not excluded. Nodes that could not be reached a moment ago are avoided;
    /// a request that does not wait in line gets one of them when there is no other. When the caller goes away meanwhile, the
    /// answer is awaited all the same, and a slot that was taken is released.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        order: &Order,
        excluded: &[NodeId],
        probed: bool,
        place: Option<(Ticket, Arc<AsyncMutex<()>>)>,
        request: &RequestId,
    ) -> Result<Got, RegistryError> {
        let (door, request, mut excluded) = (Arc::clone(self), request.clone(), excluded.to_vec());
        let (ticket, asking) = place.unzip();
        let mut ask = Reserve {
            spawn: SpawnId::mint(),
            demand: order.demand.clone(),
            placement: self.config.placement,
            avoid: Vec::new(),
            place: ticket.map(|ticket| ticket.id),
            number: ticket.and_then(|ticket| ticket.number),
            probed,
            owner: order.owner.clone(),
            most: order.most,
        };
        let work = async move {
            let _asking = match &asking {
                Some(asking) => Some(asking.lock().await),
                None => None,
            };
            let since = Instant::now();
            excluded.append(&mut door.orders.closed());
            let mut unreachable = door.agents.unreachable();
            unreachable.retain(|node| !excluded.contains(node));
            ask.avoid = excluded.iter().chain(&unreachable).cloned().collect();
            let asked = door.registry.outage().is_none();
            let mut reserved = door.registry.reserve(&ask).await;
            let short = matches!(reserved, Ok(Reserved::Full | Reserved::NoMatch { .. }));
            if short && ask.place.is_none() && !unreachable.is_empty() {
                // Better a node that could not be reached a moment ago than none.
                ask.avoid = excluded;
                reserved = door.registry.reserve(&ask).await;
            }
            door.metrics.phase(Phase::Reserve, since.elapsed());
            match reserved {
                Ok(Reserved::Slot(slot)) => {
                    door.metrics.placement(Source::Registry);
                    Ok(Got::Slot(Held::new(&door, slot, request, since)))
                }
                Ok(Reserved::Full) => Ok(Got::Full),
                Ok(Reserved::NoMatch { known, fresh }) => {
                    if fresh {
                        door.registry.wiped();
                    }
                    Ok(Got::NoMatch { known })
                }
                Ok(Reserved::OverQuota) => Ok(Got::OverQuota),
                Err(error) => {
                    if asked {
                        door.renounce(ask.spawn);
                    }
                    Err(error)
                }
            }
        };
        self.cleanups.finish(work).await
    }

    /// Gives back what a reserve took whose answer was lost. A registry that hung may do it only when it is back, but does
    /// it before what it is asked from then on.
    fn renounce(self: &Arc<Self>, spawn: SpawnId) {
        let door = Arc::clone(self);
        self.metrics.cleanup(CleanupKind::Renounce);
        self.cleanups.spawn(async move {
            persist(&door.registry, "renounce", || door.registry.renounce(spawn)).await;
        });
    }

    /// Chooses a node that is not excluded from the last snapshot of the farm; `None` when there is none of use. The registry
    /// holds nothing for it: the agent decides.
    pub(crate) fn place_from_snapshot(
        self: &Arc<Self>,
        demand: &Demand,
        excluded: &[NodeId],
        request: &RequestId,
    ) -> Option<Got> {
        let mut excluded = excluded.to_vec();
        excluded.append(&mut self.orders.closed());
        match self.snapshot.choose(demand, &excluded, &self.agents.unreachable()) {
            Choice::Node { node, advertise, standing } => {
                self.metrics.placement(Source::Snapshot);
                let chosen = Reservation { spawn: SpawnId::mint(), node, advertise, standing, number: None };
                Some(Got::Slot(Held::from_snapshot(self, chosen, request.clone(), demand.renderer)))
            }
            Choice::Full => Some(Got::Full),
            Choice::NoMatch { known } => Some(Got::NoMatch { known }),
            Choice::Nothing => None,
        }
    }
}

/// A running front door. Dropping it ends it at once; [`FrontDoor::shutdown`] ends it in good order.
#[derive(Debug)]
pub struct FrontDoor {
    pub(crate) door: Arc<Door>,
    http_addr: SocketAddr,
    admin_addr: SocketAddr,
    /// One task per connection of clients.
    pub(crate) connections: TaskTracker,
    /// Listeners, follower, sweeper and the like, and connections to the admin port.
    pub(crate) background: TaskTracker,
    pub(crate) over: DropGuard,
}

/// Why a front door did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port could not be had.
    #[error("{flag} {address} cannot be bound")]
    Bind {
        /// The flag that named the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
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
        let public = bind("--listen", config.listen).await?;
        let admin = bind("--admin-listen", config.admin_listen).await?;
        let (http_addr, admin_addr) = (public.1, admin.1);
        let door = Arc::new(Door::new(config, registry));
        let over = door.stages.over.clone().drop_guard();

        let figures = door.metrics.connection_figures();
        // Where callers have to say who they are, those who have keep places of their own.
        let share = if door.config.access.is_some() { places / 8 } else { 0 };
        let memory = door.config.limits.unauthenticated_memory;
        let public_places = Places::new(places, share, memory, figures.clone());
        let admins = ADMIN_CONNECTIONS.min(places);
        let admin_places = Places::new(admins, 0, ADMIN_MEMORY, figures.clone());

        let (connections, background) = (TaskTracker::new(), TaskTracker::new());
        let (stages, spawn) =
            (&door.stages, |name: &'static str, work: futures_util::future::BoxFuture<'static, ()>| {
                let over = door.stages.over.clone();
                let span = info_span!("task", name);
                background.spawn(
                    async move { over.run_until_cancelled(work).await.unwrap_or_default() }.instrument(span),
                );
            });
        spawn(
            "http",
            Box::pin(listen::serve(
                public.0,
                http::router(&door),
                listen::Reception::new(tls.http.clone(), places, public_places, figures.clone()),
                connections.clone(),
                listen::Ends { accepting: stages.leaving.clone(), connections: stages.closed.clone() },
            )),
        );
        spawn(
            "admin",
            Box::pin(listen::serve(
                admin.0,
                http::admin_router(&door),
                listen::Reception::new(tls.admin.clone(), admins, admin_places, figures),
                background.clone(),
                listen::Ends { accepting: stages.over.clone(), connections: stages.over.clone() },
            )),
        );
        // Without the farm's CA, the admin port shows what the other one does.
        let admin = tls.admin.filter(|_| tls.agents.is_some());
        for server in tls.http.into_iter().chain(admin) {
            spawn("certificate", Box::pin(async move { server.keep_fresh().await }));
        }
        if let Some(client) = tls.agents {
            spawn("agent certificate", Box::pin(async move { client.keep_fresh().await }));
        }
        spawn("follower", Box::pin(follower::follow(Arc::clone(&door))));
        spawn("probe", Box::pin(circuit::probe(Arc::clone(&door))));
        spawn("snapshot", Box::pin(refresher::keep(Arc::clone(&door))));
        spawn("live", Box::pin(live::follow::keep(Arc::clone(&door))));
        spawn("sweeper", Box::pin(sweeper::sweep(Arc::clone(&door))));
        spawn("line", Box::pin(Line::keep_places(Arc::clone(&door))));
        if let Some(access) = door.config.access.clone() {
            spawn("access", Box::pin(access.keep()));
        }
        info!(http = %http_addr, admin = %admin_addr, registry = door.registry.backend(), "front door open");
        Ok(Self { http_addr, admin_addr, connections, background, over, door })
    }

    /// Where clients and operators are served.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where metrics and probes are served.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let wrong = |source| StartError::Bind { flag, address, source };
    let listener = TcpListener::bind(address).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}
