//! What the handlers of the HOOPS Server interface have at hand: the edge, the index of spawns, files, and the bound of upgrades that
//! wait. Made once at start and shared; the index is written by [`Hoops::follow`] alone.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use access::CallerLimits;
use axum::http::Extensions;
use model::api::ErrorCode;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use traces::attribute::{CODE, NODE_ID, SPAWN_ID};

use super::endpoint::Forms;
use super::failure::Failure;
use super::files::Files;
use super::follow::Spawns;
use super::request::Wanted;
use crate::callers::{Account, AccountHolder, Share};
use crate::http::{ApiError, CallersFlag, Edge, Observed, OpenTo, start};
use crate::listen::Peer;
use crate::metrics::HoopsMetrics;
use crate::request_context::RequestContext;
use crate::settings::HoopsSettings;
use crate::spawning::held_slot::HeldSlot;
use crate::spawning::order::{Accounted, EndpointChoice, SpawnOrder};
use crate::spawning::progress::Progress;

/// The vendor's client gives up after 60 s. An answer that is under way by then is of no use.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(55);
const _: () = assert!(ANSWER_WITHIN.as_secs() < 60);
/// Upgrades that may wait for their spawn at once.
const MAX_HELD: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Hoops {
    pub(super) edge: Arc<Edge>,
    pub(super) settings: HoopsSettings,
    /// Where it listens.
    pub(super) listener: SocketAddr,
    pub(super) forms: Forms,
    pub(super) spawns: Arc<Spawns>,
    pub(super) files: Option<Files>,
    /// A part of all connections, so that these are not all taken by upgrades that wait.
    pub(super) held: Semaphore,
    pub(super) metrics: HoopsMetrics,
}

/// A caller's turn, for as long as its request is answered.
#[derive(Debug)]
pub(super) struct Turn {
    account: Arc<Account>,
    _call: Share,
}

impl Hoops {
    /// `listener`: where it listens.
    pub(crate) fn new(edge: &Arc<Edge>, settings: HoopsSettings, listener: SocketAddr) -> Self {
        let metrics = edge.metrics.hoops.clone();
        let registry = Arc::clone(&edge.registry);
        Self {
            forms: Forms::new(&edge.config, &settings, listener),
            spawns: Arc::new(Spawns::new(registry, settings.owner.clone(), metrics.clone())),
            files: settings.files.as_deref().map(Files::new),
            held: Semaphore::new((edge.config.max_connections / 4).clamp(1, MAX_HELD)),
            edge: Arc::clone(edge),
            settings,
            listener,
            metrics,
        }
    }

    /// What observes the requests of a route.
    pub(super) fn observed(&self, route: &'static str) -> Observed {
        let config = &self.edge.config;
        let scheme = if config.tls.http.is_some() { "https" } else { "http" };
        let (metrics, tally) = (self.edge.metrics.requests.clone(), Arc::clone(&self.edge.tally));
        let callers_flag = CallersFlag::on(OpenTo::Everybody, self.edge.authenticator.is_some());
        Observed { metrics, tracer: config.tracer.clone(), scheme, route, callers_flag, tally }
    }

    /// Keeps the index of spawns, for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        Arc::clone(&self.spawns).keep().await;
    }

    /// The limits of the owner's spawns; `None` when the owner's key does not count any more.
    pub(super) fn limits(&self) -> Option<CallerLimits> {
        match (&self.settings.owner, &self.edge.config.access) {
            (None, _) => Some(CallerLimits::default()),
            (Some(_), None) => Some(self.settings.limits),
            (Some(owner), Some(access)) => access.limits_of(owner),
        }
    }

    /// Lets a caller in: as the owner, or as the address that it comes from.
    pub(super) fn admit(&self, extensions: &Extensions) -> Result<Turn, Failure> {
        let peer = || extensions.get::<Peer>().map(|Peer(address)| AccountHolder::at(address.ip()));
        let caller = self.settings.owner.clone().map(AccountHolder::Owner).or_else(peer);
        let account = self.edge.callers.of(caller.unwrap_or(AccountHolder::Peer([0, 0, 0, 0].into())));
        match account.call() {
            Ok(call) => Ok(Turn { account, _call: call }),
            Err(limit) => Err(Failure::of(&limit.into(), None)),
        }
    }

    /// Counts a request for a spawn that was refused.
    pub(super) fn refused(&self, failure: &Failure) {
        if let Some(code) = failure.code() {
            self.edge.tally.count(code);
        }
    }

    /// What is ordered for the owner.
    pub(super) fn order(
        &self,
        wanted: &Wanted,
        form: EndpointChoice,
        turn: &Turn,
    ) -> Result<SpawnOrder, Failure> {
        let order = wanted.order().map_err(|bad| Failure::new(bad.status, bad.reason))?;
        let limits = self.limits().ok_or_else(Failure::barred)?;
        Ok(SpawnOrder {
            owner: self.settings.owner.clone(),
            max_spawns: limits.concurrent.map(NonZeroU32::get),
            account: Some(Accounted(Arc::clone(&turn.account))),
            endpoint: form,
            ..order
        })
    }

    /// Starts a spawn, and waits until it is ready. Dropping the slot, or this future, ends it.
    pub(super) async fn spawn(
        &self,
        order: &SpawnOrder,
        context: &RequestContext,
        deadline: Instant,
    ) -> Result<(model::api::SpawnAnswer, HeldSlot), Failure> {
        let unwatched = Progress::default();
        let per_minute = self.limits().ok_or_else(Failure::barred)?.per_minute;
        let started = start(&self.edge, order, per_minute, context, None, &unwatched);
        let outcome = tokio::select! {
            biased;
            outcome = timeout_at(deadline, started) => outcome.map_err(|_| {
                let code = ErrorCode::ReadyTimeout.as_str();
                context.trace.note(CODE, code);
                context.trace.fail(code, "an answer would be too late for the caller");
                Failure::late()
            })?,
            () = self.edge.stages.cut.cancelled() => Err(ApiError::leaving()),
        };
        if let Ok((spawned, _)) = &outcome {
            context.trace.note(SPAWN_ID, spawned.id);
            context.trace.note(NODE_ID, &spawned.node);
        }
        outcome.map_err(|error| {
            let failure = Failure::of(&error, self.edge.snapshot.offers(order.demand.renderer));
            let (asked, detail, reason) = (order, &error.0.detail, failure.reason.as_str());
            let node = error.0.node.as_ref().map(ToString::to_string);
            let code = error.0.code.as_str();
            context.trace.note(CODE, code);
            if failure.status.is_server_error() {
                context.trace.fail(code, detail);
            }
            tracing::warn!(%asked, reason, detail, node.id = node, "a spawn of the HOOPS Server interface failed");
            failure
        })
    }
}
