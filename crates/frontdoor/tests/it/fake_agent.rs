//! An agent without processes: the generated trait, a script, and heartbeats to the registry.

mod calls;

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
use wire::v1;
use wire::v1::node_agent_server::NodeAgentServer;
use wire::v1::refused::Reason;

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
    /// Every order about its eligibility.
    eligibility_orders: Vec<v1::SetEligibilityRequest>,
    /// Spawns admitted, in order.
    admitted: Vec<SpawnId>,
    /// It reports nothing to the registry.
    silent: bool,
    /// The node that it claims to be the agent of, when a call is for another one.
    stands_for: Option<&'static str>,
}

impl State {
    fn closed(&self) -> bool {
        self.eligibility_orders.last().is_some_and(|order| order.eligibility() != v1::Eligibility::Eligible)
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
                eligibility_orders: Vec::new(),
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
            viewer_relay: None,
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

    /// Spawns admitted, in order.
    pub(crate) fn admitted(&self) -> Vec<SpawnId> {
        self.state(|s| s.admitted.clone())
    }

    /// Gives it an order, as a front door would.
    pub(crate) fn order_eligibility(&self, order: v1::SetEligibilityRequest) {
        self.state(|s| s.eligibility_orders.push(order));
    }

    /// What front doors said the operator wants of the node.
    pub(crate) fn eligibility_orders(&self) -> Vec<v1::SetEligibilityRequest> {
        self.state(|s| s.eligibility_orders.clone())
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
        self.end_as(id, ExitReason::Disconnected);
    }

    pub(crate) fn end_as(&self, id: SpawnId, reason: ExitReason) {
        self.state(|s| s.end(id, reason));
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
                identity: registry::AgentIdentity::default(),
                accepted: 0,
                agreement: None,
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
