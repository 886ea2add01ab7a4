//! The gRPC service: what front doors ask of the agent.
//!
//! The only place that makes a [`Status`]. A status means that a request could not be understood, is for another node, or that its time is over;
//! everything that can happen to a spawn is a reply.

use std::sync::Arc;
use std::time::Duration;

use model::{Eligibility, Origin, Owner, Phases, RequestId, SpawnId};
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};
use traces::{Context, TRACEPARENT, TRACESTATE, Trace};
use wire::v1;
use wire::v1::attach_request::Step;
use wire::v1::node_agent_server::NodeAgent;

use crate::accept::IsRelay;
use crate::admission::{self, Reply};
use crate::desired_state::EligibilityOrder;
use crate::endpoint::EndpointForm;
use crate::node::Node;
use crate::spawn::exit::Cause;
use crate::spawn::{Refusal, RefusalKind, output};
use crate::state::record::JournalEvent;
use crate::supervision::start::StartRequest;
use crate::table::entrance::SpawnSpec;
use crate::table::viewer::Shown;
use crate::table::{Again, Ending, Entry};
use crate::viewers;

/// Lines of output in one reply.
const MAX_LINES: usize = 10_000;
const DEFAULT_LINES: usize = 100;
/// Labels in one request.
const MAX_LABELS: usize = 64;
/// How long the answer to a drain waits for starts that were under way. Each takes a millisecond.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a relay may take to name its viewer.
const FIRST_STEP: Duration = Duration::from_secs(5);
/// How long the disk may take to give the output of a spawn.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// The metadata key of a refusal that names the node that the agent serves.
const NODE_KEY: &str = "x-hatchery-node";

#[derive(Debug)]
pub(crate) struct Service {
    node: Arc<Node>,
}

impl Service {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Whether a request is for this node. Front doors of the release before this one do not name the node.
    fn is_for_me(&self, named: &str) -> bool {
        named.is_empty() || named == self.node.config.node.as_str()
    }

    /// Refuses a request that names another node: an address may have passed from one machine to another.
    fn check_node(&self, named: &str) -> Result<(), Status> {
        if self.is_for_me(named) {
            return Ok(());
        }
        let mine = &self.node.config.node;
        tracing::warn!(named, "a call for another node was refused");
        let mut status = Status::failed_precondition(wrong_node(named, mine.as_str()));
        if let Ok(value) = MetadataValue::try_from(mine.as_str()) {
            status.metadata_mut().insert(NODE_KEY, value);
        }
        Err(status)
    }
}

fn is_relay<T>(request: &Request<T>) -> bool {
    request.extensions().get::<IsRelay>().is_some_and(|IsRelay(is_relay)| *is_relay)
}

/// Refuses a call that only front doors may make. The relay of the node brings viewers, and orders nothing.
fn check_front_door<T>(request: &Request<T>) -> Result<(), Status> {
    if !is_relay(request) {
        return Ok(());
    }
    tracing::warn!("a call of the node's relay was refused that only front doors may make");
    Err(Status::permission_denied("this call takes the certificate of a front door"))
}

fn wrong_node(named: &str, mine: &str) -> String {
    format!("the call is for node {named:?}, this agent serves node {mine:?}")
}

fn spawn_id(text: &str) -> Result<SpawnId, Status> {
    text.parse().map_err(|e| Status::invalid_argument(format!("spawn_id {e}")))
}

/// A time of a spawn's life. More than anything lives is cut off: the registry's numbers do not reach as far as 64 bits do.
fn life(ms: u64) -> Duration {
    const MAX_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Duration::from_millis(ms).min(MAX_LIFE)
}

/// An absent or unusable request id is replaced: it only ties log lines together.
fn request_id<T>(request: &Request<T>) -> RequestId {
    let given = request.metadata().get(wire::REQUEST_ID).and_then(|value| value.to_str().ok());
    given.and_then(|text| text.parse().ok()).unwrap_or_else(RequestId::mint)
}

/// The place of the call in its caller's trace. An agent begins no traces.
fn trace<T>(node: &Node, request: &Request<T>) -> Trace {
    let values = |name| request.metadata().get_all(name).into_iter().map(|value| value.as_bytes());
    let caller = Context::read(values(TRACEPARENT), values(TRACESTATE));
    caller.map(|caller| node.config.tracer.join(caller)).unwrap_or_default()
}

/// How far the request had come at the front door. Front doors of the release before this one do not say.
fn phases<T>(request: &Request<T>) -> Option<Phases> {
    serde_json::from_slice(request.metadata().get(wire::PHASES)?.as_bytes()).ok()
}

fn understand(
    node: &Node,
    request: Request<v1::SpawnRequest>,
) -> Result<admission::AdmissionRequest, Status> {
    let (request_id, trace, phases) = (request_id(&request), trace(node, &request), phases(&request));
    let request = request.into_inner();
    let id = spawn_id(&request.spawn_id)?;
    if request.session_token.as_ref().is_some_and(|token| token.contains('\0')) {
        return Err(Status::invalid_argument("session_token contains NUL"));
    }
    if request.labels.len() > MAX_LABELS {
        return Err(Status::invalid_argument(format!("labels must be at most {MAX_LABELS}")));
    }
    for (key, value) in &request.labels {
        model::node::check_label(key, value).map_err(Status::invalid_argument)?;
    }
    let owner = request.owner.as_deref().map(str::parse::<Owner>).transpose();
    let owner = owner.map_err(|e| Status::invalid_argument(format!("owner {e}")))?;
    let origin = Origin { request_id: Some(request_id.clone()), trace_id: trace.id(), phases };
    let renderer = request.renderer_type().into();
    let form = request.endpoint.as_deref().map(str::parse::<EndpointForm>).transpose();
    let form = form.map_err(|why| Status::invalid_argument(format!("endpoint {why}")))?;
    let endpoint_form = form.map(|form| form.on(&node.config.node, &node.host));
    let tags = request.tags.into_iter().collect();
    model::tags::check_tags(&tags).map_err(|why| Status::invalid_argument(format!("tags {why}")))?;
    Ok(admission::AdmissionRequest {
        spec: SpawnSpec {
            id,
            renderer,
            labels: request.labels.into_iter().collect(),
            tags,
            owner,
            origin,
            endpoint_form,
            max_life: request.max_life_ms.map(life),
            max_idle: request.max_idle_ms.map(life),
        },
        order: StartRequest { model: request.model, session_token: request.session_token, request_id, trace },
        timeout: (request.deadline_ms > 0).then(|| Duration::from_millis(request.deadline_ms)),
        reservation: Duration::from_millis(request.reservation_ms),
    })
}

fn reply(reply: Reply) -> Result<v1::SpawnReply, Status> {
    use v1::spawn_reply::Outcome;
    let outcome = match reply {
        Reply::Ready { facts, start_to_ready } => Outcome::Ready(v1::Ready {
            endpoint: facts.endpoint.clone(),
            gpu: facts.gpu,
            start_to_ready_us: u64::try_from(start_to_ready.as_micros()).unwrap_or(u64::MAX),
        }),
        Reply::Ended { exit, log } => Outcome::Ended(v1::Ended { exit: Some(exit.into()), log }),
        Reply::Refused(Refusal { kind, detail }) => {
            Outcome::Refused(v1::Refused { reason: reason(kind).into(), detail })
        }
        Reply::Late => return Err(Status::deadline_exceeded("the spawn is not ready yet")),
    };
    Ok(v1::SpawnReply { outcome: Some(outcome) })
}

fn reason(kind: RefusalKind) -> v1::refused::Reason {
    use v1::refused::Reason;
    match kind {
        RefusalKind::Full => Reason::Full,
        RefusalKind::GpusFull => Reason::GpusFull,
        RefusalKind::NoPort => Reason::NoPort,
        RefusalKind::NotEligible => Reason::NotEligible,
        RefusalKind::RendererOff => Reason::RendererOff,
        RefusalKind::Abandoned => Reason::Abandoned,
        RefusalKind::LowMemory => Reason::LowMemory,
        RefusalKind::CannotStart => Reason::CannotStart,
        RefusalKind::BadModel => Reason::BadModel,
        RefusalKind::ShuttingDown => Reason::ShuttingDown,
        RefusalKind::WrongNode => Reason::WrongNode,
        RefusalKind::StartsBusy => Reason::StartsBusy,
    }
}

fn info(entry: &Entry) -> v1::SpawnInfo {
    let facts = &entry.spawn.facts;
    v1::SpawnInfo {
        spawn_id: facts.id.to_string(),
        state: entry.spawn.state.as_str().to_owned(),
        renderer_type: v1::RendererType::from(facts.renderer).into(),
        port: facts.port.into(),
        endpoint: facts.endpoint.clone(),
        pid: entry.pid,
        gpu: facts.gpu,
        exit: entry.spawn.exit.clone().map(Into::into),
        owner: facts.owner.clone().map(Into::into),
        tags: facts.tags.clone().into_iter().collect(),
    }
}

#[tonic::async_trait]
impl NodeAgent for Service {
    async fn spawn(&self, request: Request<v1::SpawnRequest>) -> Result<Response<v1::SpawnReply>, Status> {
        check_front_door(&request)?;
        let named = &request.get_ref().node;
        if !self.is_for_me(named) {
            let detail = wrong_node(named, self.node.config.node.as_str());
            self.node.metrics.refused(RefusalKind::WrongNode);
            tracing::warn!(named, "a spawn for another node was refused");
            return reply(Reply::Refused(RefusalKind::WrongNode.because(detail))).map(Response::new);
        }
        let request = understand(&self.node, request)?;
        let answer = match admission::spawn(&self.node, &request).await {
            Ok(caller) => caller.answer().await,
            Err(refusal) => Reply::Refused(refusal),
        };
        reply(answer).map(Response::new)
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::StopReply>, Status> {
        check_front_door(&request)?;
        let request = request.into_inner();
        self.check_node(&request.node)?;
        let id = spawn_id(&request.spawn_id)?;
        let cause = match request.reason.as_str() {
            "" | "stopped" => Cause::Stopped,
            "cancelled" => Cause::Cancelled,
            other => {
                return Err(Status::invalid_argument(format!(
                    "reason must be stopped or cancelled, not {other:?}"
                )));
            }
        };
        let ending = self.node.table().end(id, cause, Again::Hurries, Instant::now());
        let outcome = match ending {
            Ending::Stopping => v1::stop_reply::Outcome::Stopping,
            Ending::Ended => v1::stop_reply::Outcome::Ended,
            Ending::Unknown => v1::stop_reply::Outcome::Unknown,
        };
        Ok(Response::new(v1::StopReply { outcome: outcome.into() }))
    }

    async fn set_eligibility(
        &self,
        request: Request<v1::SetEligibilityRequest>,
    ) -> Result<Response<v1::SetEligibilityReply>, Status> {
        check_front_door(&request)?;
        let request = request.into_inner();
        self.check_node(&request.node)?;
        let eligibility = match request.eligibility() {
            v1::Eligibility::Eligible => Eligibility::Eligible,
            v1::Eligibility::Cordoned => Eligibility::Cordoned,
            v1::Eligibility::Draining => Eligibility::Draining,
            v1::Eligibility::Unspecified => {
                return Err(Status::invalid_argument("eligibility must be given"));
            }
        };
        let order = EligibilityOrder {
            generation: request.generation,
            eligibility,
            within: request.deadline_ms.map(Duration::from_millis),
            reason: request.reason.clone(),
            by: request.by.clone(),
        };
        let (followed, generation, settled) = {
            let mut table = self.node.table();
            let followed = table.order(order, Instant::now());
            (followed, table.desired().generation, table.settled())
        };
        tracing::info!(
            %eligibility,
            generation,
            asked_generation = request.generation,
            followed,
            deadline_ms = request.deadline_ms,
            reason = request.reason,
            by = request.by,
            "eligibility ordered"
        );
        if eligibility != Eligibility::Eligible {
            self.node.starts.turn_away();
        }
        if followed {
            self.node.store_desired().await;
        }
        // What began to start before the order is started before this answers, so that nothing starts after the answer.
        let all_started = async {
            loop {
                let settling = settled.notified();
                if self.node.table().starting() == 0 {
                    return;
                }
                settling.await;
            }
        };
        if tokio::time::timeout(SETTLE, all_started).await.is_err() {
            // A disk hangs. What it starts after all is ended at once.
            self.node.table().give_up_starts();
        }
        let remaining = u32::try_from(self.node.table().running()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::SetEligibilityReply { remaining, generation }))
    }

    async fn set_life(
        &self,
        request: Request<v1::SetLifeRequest>,
    ) -> Result<Response<v1::SetLifeReply>, Status> {
        check_front_door(&request)?;
        use v1::set_life_reply::Outcome;
        let by = request_id(&request);
        let request = request.into_inner();
        self.check_node(&request.node)?;
        let id = spawn_id(&request.spawn_id)?;
        let set = self.node.table().set_life(id, life(request.max_life_ms), Instant::now());
        let outcome = match set {
            Ok((expires, serial)) => {
                let at = self.node.state.clock.moment(expires);
                self.node.state.journal.happened(id, JournalEvent::Expires(at));
                tracing::info!(spawn.id = %id, requestId = %by, max_life_ms = request.max_life_ms, "the life of a spawn was set");
                admission::await_registry(&self.node, serial).await;
                Outcome::Set
            }
            Err(Ending::Unknown) => Outcome::Unknown,
            Err(Ending::Ended | Ending::Stopping) => Outcome::Ended,
        };
        Ok(Response::new(v1::SetLifeReply { outcome: outcome.into() }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListReply>, Status> {
        check_front_door(&request)?;
        self.check_node(&request.get_ref().node)?;
        let spawns = self.node.table().all(Instant::now()).map(info).collect();
        Ok(Response::new(v1::ListReply {
            node: self.node.config.node.to_string(),
            epoch: self.node.epoch.to_string(),
            spawns,
        }))
    }

    type AttachStream = viewers::Replies;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<viewers::Replies>, Status> {
        let is_relay = is_relay(&request);
        let mut steps = request.into_inner();
        let first = timeout(FIRST_STEP, steps.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no viewer was named"))??;
        let Some(v1::AttachRequest { step: Some(Step::Viewer(viewer)) }) = first else {
            return Err(Status::invalid_argument("a viewer must be named first"));
        };
        self.check_node(&viewer.node)?;
        // A viewer that is connected stays so when the node gets a relay.
        if self.node.description.viewer_relay.is_some() && !is_relay && !viewer.resumed {
            return Err(Status::failed_precondition("viewers reach this node through its relay alone"));
        }
        let ask = viewers::Ask {
            spawn: spawn_id(&viewer.spawn_id)?,
            viewer: viewer
                .viewer_id
                .parse()
                .map_err(|e| Status::invalid_argument(format!("viewer_id {e}")))?,
            shown: match u16::try_from(viewer.port) {
                Ok(0) => Shown::Token(viewer.token),
                Ok(port) => Shown::Port(port),
                Err(_) => return Err(Status::invalid_argument("port must be at most 65535")),
            },
            resumed: viewer.resumed,
        };
        Ok(Response::new(viewers::serve(Arc::clone(&self.node), ask, steps)))
    }

    async fn read_log(
        &self,
        request: Request<v1::ReadLogRequest>,
    ) -> Result<Response<v1::ReadLogReply>, Status> {
        check_front_door(&request)?;
        let request = request.into_inner();
        self.check_node(&request.node)?;
        let id = spawn_id(&request.spawn_id)?;
        let lines = match usize::try_from(request.lines).unwrap_or(MAX_LINES) {
            0 => DEFAULT_LINES,
            n => n.min(MAX_LINES),
        };
        let path = output::path(self.node.state.logs(), id);
        let read = self.node.disk.logs.call(READ_TIMEOUT, move || output::tail(&path, lines)).await;
        match read {
            Ok(Ok(lines)) => Ok(Response::new(v1::ReadLogReply { lines })),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Status::not_found(format!("there is no log of spawn {id}")))
            }
            Ok(Err(error)) => Err(Status::internal(format!("failed to read the log of spawn {id}: {error}"))),
            Err(error) => Err(Status::unavailable(format!("failed to read the log of spawn {id}: {error}"))),
        }
    }
}
