//! The machine of one node: its processes, which outlive the agent, and its disk, whose writes are lost that were not made when the agent ended.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent::simulated::{Ended, Job, Machine, Server};
use agent::simulation::SimulatedAgent;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use crate::network::Host;
use crate::promises::Promises;
use crate::server::{Script, SimulatedServer};
use crate::steps::Steps;

/// Jobs that wait for the disk; an agent gives up on a disk long before.
const MAX_QUEUED: usize = 4096;

/// See the module's documentation.
pub(crate) struct NodeMachine {
    pub(crate) host: Host,
    steps: Arc<Steps>,
    promises: Arc<Promises>,
    /// A server is started.
    starts: Notify,
    state: Mutex<State>,
}

struct State {
    random: fastrand::Rng,
    boot: u32,
    booted: Instant,
    next_pid: u32,
    servers: BTreeMap<u32, Arc<SimulatedServer>>,
    /// The agent that reports reach.
    agent: Option<Arc<SimulatedAgent>>,
    /// When the agent was started: before that nobody heard any server.
    agent_began: Instant,
    /// So many of a hundred servers fail.
    failing: u32,
    /// The disk takes this much longer.
    slow_disk: Duration,
}

impl std::fmt::Debug for NodeMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeMachine").field("host", &self.host).finish_non_exhaustive()
    }
}

impl NodeMachine {
    pub(crate) fn new(host: Host, seed: u64, steps: Arc<Steps>, promises: Arc<Promises>) -> Arc<Self> {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            boot: 1,
            booted: Instant::now(),
            next_pid: 100,
            servers: BTreeMap::new(),
            agent: None,
            agent_began: Instant::now(),
            failing: 0,
            slow_disk: Duration::ZERO,
        };
        Arc::new(Self { host, steps, promises, starts: Notify::new(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that run.
    pub(crate) fn running(&self) -> Vec<Arc<SimulatedServer>> {
        let mut state = self.state();
        state.servers.retain(|_, server| !server.is_over());
        state.servers.values().cloned().collect()
    }

    /// The agent whose receiver reports reach; none while there is none.
    pub(crate) fn set_agent(&self, agent: Option<Arc<SimulatedAgent>>) -> Option<Arc<SimulatedAgent>> {
        std::mem::replace(&mut self.state().agent, agent)
    }

    /// An agent begins.
    pub(crate) fn agent_begins(&self) {
        self.state().agent_began = Instant::now();
    }

    /// Waits until the next server is started.
    pub(crate) async fn next_start(&self) {
        self.starts.notified().await;
    }

    pub(crate) fn agent(&self) -> Option<Arc<SimulatedAgent>> {
        self.state().agent.clone()
    }

    /// So many of a hundred servers that are started from now on fail.
    pub(crate) fn set_failing(&self, failing: u32) {
        self.state().failing = failing;
    }

    /// The disk takes this much longer.
    pub(crate) fn set_slow_disk(&self, by: Duration) {
        self.state().slow_disk = by;
    }

    /// The machine loses its power: every process is gone, and the next run of it has another name.
    pub(crate) fn lose_power(&self) {
        let servers = std::mem::take(&mut self.state().servers);
        for server in servers.into_values() {
            server.end(Ended::Signal(9));
        }
        let mut state = self.state();
        state.boot += 1;
        state.booted = Instant::now();
    }

    fn disk_delay(&self) -> Duration {
        let mut state = self.state();
        let usual = Duration::from_micros(state.random.u64(50..1500));
        let rare = if state.random.u32(..100) == 0 {
            Duration::from_millis(state.random.u64(5..150))
        } else {
            Duration::ZERO
        };
        usual + rare + state.slow_disk
    }
}

/// The machine as one life of its agent sees it.
#[derive(Debug)]
pub(crate) struct AgentLife {
    machine: Arc<NodeMachine>,
    is_over: Arc<AtomicBool>,
    lanes: Mutex<BTreeMap<&'static str, mpsc::Sender<Job>>>,
}

impl AgentLife {
    pub(crate) fn begin(machine: &Arc<NodeMachine>) -> Arc<Self> {
        Arc::new(Self { machine: Arc::clone(machine), is_over: Arc::default(), lanes: Mutex::default() })
    }

    /// The agent has ended: what it has not written is lost, and nothing is started any more.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }
}

impl Machine for AgentLife {
    fn boot(&self) -> String {
        format!("{}-{}", self.machine.host, self.machine.state().boot)
    }

    fn since_boot(&self) -> Duration {
        // A machine has been up for an hour before its first agent starts.
        Duration::from_secs(3600) + self.machine.state().booted.elapsed()
    }

    fn run(&self, lane: &'static str, job: Job) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = lanes.entry(lane).or_insert_with(|| {
            let (sender, mut jobs) = mpsc::channel::<Job>(MAX_QUEUED);
            let (machine, is_over) = (Arc::clone(&self.machine), Arc::clone(&self.is_over));
            tokio::spawn(async move {
                while let Some(job) = jobs.recv().await {
                    sleep(machine.disk_delay()).await;
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    machine.steps.tick();
                    job();
                }
            });
            sender
        });
        // Its task may have ended with the agent.
        sender.try_send(job).ok();
    }

    fn start(&self, arguments: Vec<String>, log: &Path) -> io::Result<Arc<dyn Server>> {
        if self.is_over() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let machine = &self.machine;
        let (pid, script) = {
            let mut state = machine.state();
            state.next_pid += 1;
            let failing = state.failing;
            (state.next_pid, Script::random(&mut state.random, failing))
        };
        let started = u64::try_from(self.since_boot().as_millis() / 10).unwrap_or(u64::MAX);
        let receiver = {
            let machine = Arc::clone(machine);
            Arc::new(move |target: &str| machine.agent().is_some_and(|agent| agent.report(target)))
        };
        let observer = {
            let machine = Arc::clone(machine);
            Box::new(move |server: &SimulatedServer, moment| {
                let agent_began = machine.state().agent_began;
                machine.promises.happened((machine.host, agent_began), server, moment);
            })
        };
        let server =
            SimulatedServer::start((pid, started), (arguments, log.to_owned()), script, receiver, observer);
        machine.steps.note(format_args!(
            "{} starts server {} (pid {pid}, port {}, {script:?})",
            machine.host,
            server.id(),
            server.option("--sc-port").unwrap_or_default(),
        ));
        let is_over =
            |agent: Arc<SimulatedAgent>| server.id().parse().is_ok_and(|id| agent.must_not_start(id));
        if machine.agent().is_some_and(is_over) {
            machine.steps.violate(&format!(
                "{} starts on {}, whose agent has acknowledged that it must not",
                server.id(),
                machine.host
            ));
        }
        let others = machine.running();
        machine.promises.started(machine.host, &server, &others);
        machine.state().servers.insert(pid, Arc::clone(&server));
        machine.starts.notify_waiters();
        Ok(server)
    }

    fn servers(&self) -> Vec<Arc<dyn Server>> {
        self.machine.running().into_iter().map(|server| server as Arc<dyn Server>).collect()
    }
}
