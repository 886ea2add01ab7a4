//! A farm: front doors and agents, the real ones, and how each of them is started, ended and started again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent::simulated::SimulatedMachine;
use agent::simulation::SimulatedAgent;
use agent::{Config, Launcher};
use frontdoor::SimulatedFrontDoor;
use model::{Placement, RendererType, Timing};
use registry::{Registry, Transport};
use tokio_util::sync::CancellationToken;

use crate::ended_calls::EndedCalls;
use crate::events::Events;
use crate::machine::{AgentLife, NodeMachine};
use crate::network::{DoorNetwork, Host, Network, Process};
use crate::promises::Promises;
use crate::registry_way::{Availability, RegistryWay};
use crate::steps::Steps;
use crate::subscriber::View;
use crate::trouble::Trouble;

/// The machines of front doors, and of agents.
pub(crate) const DOORS: [Host; 2] = ["door-0", "door-1"];
pub(crate) const NODES: [Host; 3] = ["node-0", "node-1", "node-2"];
/// Slots of each node.
pub(crate) const SLOTS: u32 = 4;
/// Subscribers of the live feed.
const MAX_SUBSCRIBERS: usize = 3;
/// How often servers report.
const PING: Duration = Duration::from_secs(2);
/// A server may be ended that was silent for so long: three pings and two seconds.
const SILENCE: Duration = Duration::from_secs(8);
/// A server that no viewer ever uses ends itself after this time.
pub(crate) const INITIAL_USE: Duration = Duration::from_secs(20);

/// A farm's intervals, some of them shorter, so that a run is at rest sooner.
const TIMING: Timing = Timing { reservation: Duration::from_secs(20), ..Timing::FARM };

struct Door {
    process: Process,
    front: Option<Arc<SimulatedFrontDoor>>,
}

struct Node {
    machine: Arc<NodeMachine>,
    state: PathBuf,
    life: Option<(Process, Arc<AgentLife>)>,
}

/// See the module's documentation.
pub(crate) struct Farm {
    pub(crate) steps: Arc<Steps>,
    pub(crate) network: Arc<Network>,
    pub(crate) promises: Arc<Promises>,
    /// As it is, not as any process sees it.
    pub(crate) registry: Registry,
    pub(crate) availability: Arc<Availability>,
    pub(crate) trouble: Trouble,
    pub(crate) events: Events,
    /// Calls that ended without a spawn.
    pub(crate) ended_calls: EndedCalls,
    /// What each subscriber of the live feed knows.
    pub(crate) views: Vec<Arc<View>>,
    /// Cancelled when nothing goes wrong any more.
    pub(crate) settled: CancellationToken,
    /// Servers that each node keeps warm.
    warm: u32,
    state: Mutex<State>,
}

struct State {
    random: fastrand::Rng,
    doors: Vec<Door>,
    nodes: Vec<Node>,
}

impl Farm {
    /// Starts everything. `disks` is where the state directories of agents are made.
    pub(crate) async fn start(seed: u64, steps: Arc<Steps>, disks: PathBuf) -> Arc<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let network = Network::new(random.u64(..), Arc::clone(&steps));
        let promises = Promises::new(Arc::clone(&steps), SLOTS, SILENCE);
        let node = |host: &Host, random: &mut fastrand::Rng| Node {
            machine: NodeMachine::new(host, random.u64(..), Arc::clone(&steps), Arc::clone(&promises)),
            state: disks.join(host),
            life: None,
        };
        let nodes = NODES.iter().map(|host| node(host, &mut random)).collect();
        let doors = DOORS.iter().map(|host| Door { process: Process::on(host), front: None }).collect();
        let warm = if random.u32(..3) == 0 { 1 } else { 0 };
        let views = (0..random.usize(1..=MAX_SUBSCRIBERS)).map(|_| Arc::default()).collect();
        let farm = Arc::new(Self {
            steps,
            network,
            promises,
            registry: Registry::embedded(TIMING),
            availability: Arc::default(),
            trouble: Trouble::new(),
            events: Events::default(),
            ended_calls: EndedCalls::default(),
            views,
            settled: CancellationToken::new(),
            warm,
            state: Mutex::new(State { random, doors, nodes }),
        });
        for host in NODES {
            farm.start_agent(host).await;
        }
        for host in DOORS {
            farm.start_door(host);
        }
        farm
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, process: &Process, seed: u64) -> Registry {
        let (network, availability) = (Arc::clone(&self.network), Arc::clone(&self.availability));
        let way: Arc<dyn Transport> = RegistryWay::new(network, process.clone(), availability, seed);
        self.registry.behind(way)
    }

    /// Starts a front door, unless it runs.
    pub(crate) fn start_door(&self, host: Host) {
        let mut state = self.state();
        let seed = state.random.u64(..);
        let Some(door) = state.doors.iter_mut().find(|door| door.process.host == host) else { return };
        if door.front.is_some() {
            return;
        }
        let process = Process::on(host);
        let network = DoorNetwork {
            network: Arc::clone(&self.network),
            process: process.clone(),
            hosts: NODES.to_vec(),
        };
        let front = SimulatedFrontDoor::start(door_config(), self.way(&process, seed), Arc::new(network));
        let front = Arc::new(front);
        let mut callers = self.network.listen(&process, &format!("{host}:8080"));
        let (serving, over) = (Arc::clone(&front), process.over.clone());
        let peer = SocketAddr::from(([10, 0, 0, 1], 40_000));
        tokio::spawn(over.run_until_cancelled_owned(async move {
            while let Some(stream) = callers.recv().await {
                serving.serve(stream, peer);
            }
        }));
        (door.process, door.front) = (process, Some(front));
        drop(state);
        self.steps.note(format_args!("{host} starts"));
    }

    /// Ends a front door at once.
    pub(crate) fn crash_door(&self, host: Host) {
        let mut state = self.state();
        let Some(door) = state.doors.iter_mut().find(|door| door.process.host == host) else { return };
        let Some(front) = door.front.take() else { return };
        door.process.over.cancel();
        drop(state);
        self.steps.note(format_args!("{host} crashes"));
        front.crash();
    }

    pub(crate) fn machine(&self, host: &str) -> Option<Arc<NodeMachine>> {
        let state = self.state();
        let node = state.nodes.iter().find(|node| node.machine.host == host)?;
        Some(Arc::clone(&node.machine))
    }

    /// Starts an agent, unless there is one.
    pub(crate) async fn start_agent(&self, host: Host) {
        let (process, life, machine, config, registry) = {
            let mut state = self.state();
            let seed = state.random.u64(..);
            let Some(node) = state.nodes.iter_mut().find(|node| node.machine.host == host) else { return };
            if node.life.is_some() {
                return;
            }
            let (process, life) = (Process::on(host), AgentLife::begin(&node.machine));
            node.life = Some((process.clone(), Arc::clone(&life)));
            let config = self.agent_config(host, &life, node.state.clone());
            (process.clone(), life, Arc::clone(&node.machine), config, self.way(&process, seed))
        };
        self.steps.note(format_args!("{host} agent starts"));
        machine.agent_begins();
        let connections = self.network.listen(&process, &format!("{host}:7070"));
        let started = tokio::select! {
            biased;
            // It crashes while it starts: nothing of it is left, its lock least of all.
            () = process.over.cancelled() => return,
            started = SimulatedAgent::start(config, registry, connections) => started,
        };
        match started {
            Ok(agent) => {
                machine.set_agent(Some(Arc::new(agent)));
            }
            // The one before has not ended yet: it is started again once that one has ended.
            Err(why) if why.starts_with("Taken") => {
                life.end();
                process.over.cancel();
                self.steps.note(format_args!("{host} agent finds another one"));
                self.forget_life(host, &life);
            }
            Err(why) => {
                life.end();
                self.steps.violate(&format!("the agent of {host} does not start: {why}"));
            }
        }
    }

    /// Ends an agent at once.
    pub(crate) fn crash_agent(&self, host: Host) {
        let Some((process, life, machine)) = self.take_life(host) else { return };
        self.steps.note(format_args!("{host} agent crashes"));
        // First it reaches nothing any more: what its tasks do until they have ended is not seen.
        life.end();
        process.over.cancel();
        if let Some(agent) = machine.set_agent(None) {
            agent.crash();
        }
    }

    /// Ends an agent in good order; what runs is left to the next one.
    pub(crate) async fn stop_agent(&self, host: Host) {
        let Some((process, life, machine)) = self.take_life(host) else { return };
        self.steps.note(format_args!("{host} agent is asked to end"));
        if let Some(agent) = machine.agent() {
            agent.shutdown().await;
        }
        machine.set_agent(None);
        life.end();
        process.over.cancel();
        self.steps.note(format_args!("{host} agent has ended"));
    }

    /// This life of an agent is over, unless another one has begun.
    fn forget_life(&self, host: Host, life: &Arc<AgentLife>) {
        let mut state = self.state();
        let node = state.nodes.iter_mut().find(|node| node.machine.host == host);
        if let Some(node) = node
            && node.life.as_ref().is_some_and(|(_, known)| Arc::ptr_eq(known, life))
        {
            node.life = None;
        }
    }

    fn take_life(&self, host: Host) -> Option<(Process, Arc<AgentLife>, Arc<NodeMachine>)> {
        let mut state = self.state();
        let node = state.nodes.iter_mut().find(|node| node.machine.host == host)?;
        let (process, life) = node.life.take()?;
        Some((process, life, Arc::clone(&node.machine)))
    }

    /// Whether an agent has closed itself, and is to be started anew as a service manager would.
    pub(crate) fn has_closed(&self, host: Host) -> bool {
        self.machine(host).and_then(|machine| machine.agent()).is_some_and(|agent| agent.is_closed())
    }

    fn agent_config(&self, host: Host, life: &Arc<AgentLife>, state: PathBuf) -> Config {
        let machine = SimulatedMachine(Arc::clone(life) as Arc<dyn agent::simulated::Machine>);
        let node = host.parse().unwrap_or_else(|error| panic!("{host}: {error}"));
        let mut config = Config::new(node, Launcher::Simulated(machine), state);
        config.advertise = Some(format!("http://{host}:7070"));
        config.slots = SLOTS;
        config.starts = 3;
        config.ports = 20_000..=20_019;
        config.ready_timeout = Duration::from_secs(10);
        config.ping_interval = PING;
        config.stop_grace = Duration::from_secs(2);
        config.initial_use = INITIAL_USE;
        config.trusts_spawns = true;
        if self.warm > 0 {
            config.warm = [(RendererType::Csr, self.warm)].into();
        }
        config
    }
}

fn door_config() -> frontdoor::Config {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 8080));
    frontdoor::Config {
        tracer: traces::Tracer::off(),
        listen: nowhere,
        admin_listen: nowhere,
        spawn_deadline: Duration::from_secs(15),
        placement: Placement::Spread,
        max_waiting: 100,
        origins: frontdoor::Origins::Any,
        hosts: access::Hosts::default(),
        trusted_proxies: frontdoor::TrustedProxies::default(),
        webhooks: None,
        shutdown_grace: Duration::from_secs(5),
        keep_ended: model::timing::KEEP_ENDED,
        live_ping_interval: Duration::from_secs(30),
        live_buffer: 256,
        lives: frontdoor::Lives::default(),
        viewers: frontdoor::ViewerSettings::default(),
        hoops: None,
        surface: frontdoor::Surface::Whole,
        access: None,
        max_connections: 1000,
        limits: frontdoor::Limits::default(),
        tls: frontdoor::Tls::default(),
        admin_public: false,
    }
}
