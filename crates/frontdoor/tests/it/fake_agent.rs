//! An agent without processes: the generated trait, a script, and heartbeats to the registry.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{AgentEpoch, Exit, ExitReason, NodeDescription, NodeId, NodeKind, SpawnId, SpawnState};
use registry::{AgentReport, Change, Heartbeat, Registry, SpawnReport};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use wire::v1;
use wire::v1::node_agent_server::{NodeAgent, NodeAgentServer};
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::wait::until;

/// What the agent does with a spawn.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    Ready,
    /// Ready when [`FakeAgent::go`] is called.
    ReadyOnGo,
    Ended(v1::Exit),
    Refuse(Reason, &'static str),
    /// Starts it, and answers with an error that says nothing about that.
    Lose,
    /// Never answers.
    Hang,
    /// The whole agent goes away without a word.
    Die,
}

#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) request: v1::SpawnRequest,
    pub(crate) request_id: String,
}

#[derive(Debug)]
struct State {
    node: NodeId,
    endpoint: String,
    slots: usize,
    script: Script,
    orders: Vec<Order>,
    stopped: Vec<(SpawnId, String)>,
    running: HashMap<SpawnId, SpawnReport>,
    cancelled: Vec<SpawnId>,
    changes: Vec<Change>,
    serial: u64,
    abandoned: HashSet<SpawnId>,
    /// What it was told last, and every time before.
    wishes: Vec<v1::SetEligibilityRequest>,
    /// Spawns let in, in order.
    admitted: Vec<SpawnId>,
    /// It reports nothing to the registry.
    silent: bool,
    /// Whose agent it says it is when it is asked for another node's.
    stands_for: Option<&'static str>,
}

impl State {
    fn closed(&self) -> bool {
        self.wishes.last().is_some_and(|wish| wish.eligibility() != v1::Eligibility::Eligible)
    }

    fn note(&mut self, mut spawn: SpawnReport, state: SpawnState, reason: Option<ExitReason>) {
        spawn.state = state;
        spawn.exit = reason.map(|reason| Exit { reason, code: None, signal: None, text: None });
        if reason.is_some() {
            spawn.ended = Some(Duration::ZERO);
            self.running.remove(&spawn.id);
        } else {
            self.running.insert(spawn.id, spawn.clone());
        }
        self.serial += 1;
        self.changes.push(Change { serial: self.serial, spawn, age: Duration::ZERO });
    }

    fn end(&mut self, id: SpawnId, reason: ExitReason) {
        if let Some(spawn) = self.running.get(&id).cloned() {
            self.note(spawn, SpawnState::Exited, Some(reason));
        }
    }
}

#[derive(Debug, Clone)]
struct Agent {
    state: Arc<Mutex<State>>,
    go: Arc<Notify>,
    die: Arc<Notify>,
    news: Arc<Notify>,
}

pub(crate) struct FakeAgent {
    agent: Agent,
    pub(crate) node: NodeId,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

/// What a node offers, beyond its name.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) slots: u32,
    pub(crate) labels: &'static [(&'static str, &'static str)],
}

impl FakeAgent {
    /// Starts an agent and waits until the registry knows it.
    pub(crate) async fn start(registry: &Registry, name: &str, offer: Offer, script: Script) -> Self {
        Self::start_at(registry, name, offer, script, None).await
    }

    /// The same with another address to be reached by.
    pub(crate) async fn start_at(
        registry: &Registry,
        name: &str,
        offer: Offer,
        script: Script,
        advertise: Option<String>,
    ) -> Self {
        let node: NodeId = name.parse().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let agent = Agent {
            state: Arc::new(Mutex::new(State {
                node: node.clone(),
                endpoint: format!("ws://{name}"),
                slots: offer.slots as usize,
                script,
                orders: Vec::new(),
                stopped: Vec::new(),
                running: HashMap::new(),
                cancelled: Vec::new(),
                changes: Vec::new(),
                serial: 0,
                abandoned: HashSet::new(),
                wishes: Vec::new(),
                admitted: Vec::new(),
                silent: false,
                stands_for: None,
            })),
            go: Arc::default(),
            die: Arc::default(),
            news: Arc::default(),
        };
        let serving = agent.clone();
        let bound = runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_service(NodeAgentServer::new(serving))
                    .serve_with_incoming(TcpListenerStream::new(listener)),
            );
            address
        });
        let address = bound.await.unwrap();
        let description = NodeDescription {
            advertise: advertise.unwrap_or_else(|| format!("http://{address}")),
            endpoint: "ws://{host}:{port}".into(),
            kind: NodeKind {
                pool: "default".into(),
                labels: offer.labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                dedicated: false,
            },
            slots: offer.slots,
            gpus: 0,
            gpu_slots: 0,
            csr: true,
            ssr: true,
            version: "0".into(),
        };
        let (known, first) = tokio::sync::oneshot::channel();
        runtime.spawn(heartbeats(registry.clone(), agent.clone(), description, known));
        first.await.unwrap();
        Self { agent, node, address, runtime: Some(runtime) }
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.agent.state.lock().unwrap())
    }

    /// Whether it reports to the registry.
    pub(crate) fn silence(&self, silent: bool) {
        self.state(|s| s.silent = silent);
    }

    /// It is this other node's agent from now on, and says so.
    pub(crate) fn stand_for(&self, node: &'static str) {
        self.state(|s| s.stands_for = Some(node));
    }

    pub(crate) fn script(&self, script: Script) {
        self.state(|s| s.script = script);
    }

    pub(crate) fn orders(&self) -> Vec<Order> {
        self.state(|s| s.orders.clone())
    }

    /// Spawns let in, in order.
    pub(crate) fn admitted(&self) -> Vec<SpawnId> {
        self.state(|s| s.admitted.clone())
    }

    /// Tells it something, as a front door would.
    pub(crate) fn wish(&self, wish: v1::SetEligibilityRequest) {
        self.state(|s| s.wishes.push(wish));
    }

    /// What front doors said the operator wants of the node.
    pub(crate) fn wishes(&self) -> Vec<v1::SetEligibilityRequest> {
        self.state(|s| s.wishes.clone())
    }

    pub(crate) fn running(&self) -> Vec<SpawnId> {
        self.state(|s| s.running.keys().copied().collect())
    }

    /// Spawns whose caller went away, or that were asked to end before they were ready.
    pub(crate) fn cancelled(&self) -> Vec<SpawnId> {
        self.state(|s| s.cancelled.clone())
    }

    pub(crate) fn stopped(&self) -> Vec<(SpawnId, String)> {
        self.state(|s| s.stopped.clone())
    }

    /// One spawn that waits for it becomes ready.
    pub(crate) fn go(&self) {
        self.agent.go.notify_one();
    }

    /// Ends a spawn as a viewer that leaves does.
    pub(crate) fn end(&self, id: SpawnId) {
        self.state(|s| s.end(id, ExitReason::Disconnected));
        self.agent.news.notify_one();
    }

    /// The agent is gone from one moment to the next, its connections with it, and its port refuses new ones.
    pub(crate) async fn kill(&mut self) {
        self.cut();
        until(async || TcpStream::connect(self.address).await.is_err(), |refused| *refused).await;
    }

    /// Waits until the script says that the agent dies, and has it die.
    pub(crate) async fn die(&mut self) {
        self.agent.die.notified().await;
        self.kill().await;
    }

    fn cut(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn heartbeats(
    registry: Registry,
    agent: Agent,
    description: NodeDescription,
    known: tokio::sync::oneshot::Sender<()>,
) {
    let (epoch, mut known) = (AgentEpoch::mint(), Some(known));
    loop {
        if agent.state.lock().unwrap().silent {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let (report, sent) = {
            let state = agent.state.lock().unwrap();
            let report = AgentReport {
                node: state.node.clone(),
                epoch,
                takeover: known.is_some(),
                identity: registry::Identity::default(),
                accepted: 0,
                changes: state.changes.clone(),
                heartbeat: Some(Heartbeat {
                    forgotten: state.abandoned.iter().copied().collect(),
                    ..Heartbeat::new(description.clone(), state.running.values().cloned().collect())
                }),
            };
            (report, state.serial)
        };
        let Ok(orders) = registry.report(&report).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        {
            let mut state = agent.state.lock().unwrap();
            state.changes.retain(|change| change.serial > sent);
            for id in &orders.abandoned {
                state.end(*id, ExitReason::Cancelled);
            }
            state.abandoned = orders.abandoned.into_iter().collect();
        }
        if let Some(known) = known.take() {
            known.send(()).unwrap();
        }
        tokio::select! {
            () = agent.news.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Ends the spawn when the call is dropped before its answer, as an agent must.
struct Call {
    agent: Agent,
    id: SpawnId,
    answered: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            let mut state = self.agent.state.lock().unwrap();
            state.cancelled.push(self.id);
            state.end(self.id, ExitReason::Cancelled);
            drop(state);
            self.agent.news.notify_one();
        }
    }
}

/// What an agent answers that is asked for another node's.
fn stranger(found: &str) -> Status {
    let mut status = Status::failed_precondition("this is another node");
    status.metadata_mut().insert("x-hatchery-node", found.parse().unwrap());
    status
}

fn refused(reason: Reason, detail: &str) -> Outcome {
    Outcome::Refused(v1::Refused { reason: reason.into(), detail: detail.into() })
}

#[tonic::async_trait]
impl NodeAgent for Agent {
    type AttachStream = tokio_stream::Empty<Result<v1::AttachReply, Status>>;

    async fn attach(
        &self,
        _: Request<tonic::Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("of the release before viewers"))
    }

    async fn spawn(&self, call: Request<v1::SpawnRequest>) -> Result<Response<v1::SpawnReply>, Status> {
        let request_id =
            call.metadata().get(wire::REQUEST_ID).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let request = call.into_inner();
        let id: SpawnId = request.spawn_id.parse().unwrap();
        let script = {
            let mut state = self.state.lock().unwrap();
            state.orders.push(Order { request, request_id });
            if state.stands_for.is_some() {
                let outcome = refused(Reason::WrongNode, "");
                return Ok(Response::new(v1::SpawnReply { outcome: Some(outcome) }));
            }
            let script = state.script.clone();
            if state.abandoned.contains(&id) || state.stopped.iter().any(|(stopped, _)| *stopped == id) {
                return Ok(Response::new(v1::SpawnReply { outcome: Some(refused(Reason::Abandoned, "")) }));
            }
            if state.closed() {
                let outcome = refused(Reason::NotEligible, "");
                return Ok(Response::new(v1::SpawnReply { outcome: Some(outcome) }));
            }
            if !matches!(script, Script::Refuse(..)) {
                if state.running.len() >= state.slots {
                    return Ok(Response::new(v1::SpawnReply { outcome: Some(refused(Reason::Full, "")) }));
                }
                let spawn = SpawnReport::launching(id, format!("{}/{id}", state.endpoint));
                state.admitted.push(id);
                state.note(spawn, SpawnState::Launching, None);
            }
            script
        };
        self.news.notify_one();
        let mut guard = Call { agent: self.clone(), id, answered: false };
        if matches!(script, Script::ReadyOnGo) {
            self.go.notified().await;
        }
        let outcome = match script {
            Script::Ready | Script::ReadyOnGo => {
                let mut state = self.state.lock().unwrap();
                match state.running.get(&id).cloned() {
                    Some(spawn) => {
                        let endpoint = spawn.endpoint.clone();
                        state.note(spawn, SpawnState::Ready, None);
                        Outcome::Ready(v1::Ready { endpoint, gpu: None, start_to_ready_us: 100 })
                    }
                    None => refused(Reason::Abandoned, ""),
                }
            }
            Script::Ended(exit) => {
                self.state.lock().unwrap().end(id, ExitReason::Failed);
                Outcome::Ended(v1::Ended { exit: Some(exit), log: vec!["one".into(), "two".into()] })
            }
            Script::Refuse(reason, detail) => refused(reason, detail),
            Script::Die => {
                self.die.notify_one();
                std::future::pending().await
            }
            Script::Lose => return Err(Status::unavailable("something is in the way")),
            Script::Hang => std::future::pending().await,
        };
        guard.answered = true;
        self.news.notify_one();
        Ok(Response::new(v1::SpawnReply { outcome: Some(outcome) }))
    }

    async fn stop(&self, call: Request<v1::StopRequest>) -> Result<Response<v1::StopReply>, Status> {
        let stop = call.into_inner();
        let id: SpawnId = stop.spawn_id.parse().unwrap();
        let mut state = self.state.lock().unwrap();
        if let Some(found) = state.stands_for {
            return Err(stranger(found));
        }
        state.stopped.push((id, stop.reason.clone()));
        let outcome = if state.running.contains_key(&id) {
            state.end(id, stop.reason.parse().unwrap());
            v1::stop_reply::Outcome::Stopping
        } else {
            v1::stop_reply::Outcome::Unknown
        };
        drop(state);
        self.news.notify_one();
        Ok(Response::new(v1::StopReply { outcome: outcome.into() }))
    }

    async fn set_eligibility(
        &self,
        call: Request<v1::SetEligibilityRequest>,
    ) -> Result<Response<v1::SetEligibilityReply>, Status> {
        let mut state = self.state.lock().unwrap();
        if let Some(found) = state.stands_for {
            return Err(stranger(found));
        }
        let call = call.into_inner();
        let generation = call.generation;
        state.wishes.push(call);
        let remaining = u32::try_from(state.running.len()).unwrap();
        Ok(Response::new(v1::SetEligibilityReply { remaining, generation }))
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn read_log(
        &self,
        call: Request<v1::ReadLogRequest>,
    ) -> Result<Response<v1::ReadLogReply>, Status> {
        if let Some(found) = self.state.lock().unwrap().stands_for {
            return Err(stranger(found));
        }
        let v1::ReadLogRequest { spawn_id, lines, .. } = call.into_inner();
        if !self.state.lock().unwrap().running.contains_key(&spawn_id.parse().unwrap()) {
            return Err(Status::not_found("no such spawn"));
        }
        let lines = (0..lines.min(3)).map(|i| format!("line {i} é")).collect();
        Ok(Response::new(v1::ReadLogReply { lines }))
    }
}
