//! The configuration of an agent: fixed at its start, and checked before anything is touched ([`Config::check`]).

mod check;
pub(crate) mod reserved;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use access::{Access, Hosts};
use model::{NodeId, RendererType, timing};
use traces::Tracer;

use crate::endpoint::EndpointForm;
use crate::simulated::SimulatedMachine;
use crate::users::SpawnUsers;

/// What makes a spawn out of an admitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launcher {
    /// Starts this executable, a `ts3d_sc_server` or a stand-in.
    Executable(PathBuf),
    /// Has a simulated machine start it.
    Simulated(SimulatedMachine),
    /// Starts nothing: every spawn is ready at once and stays until it is stopped, or until the time for a viewer to
    /// connect is over. For benchmarks of placement.
    Nothing,
}

/// What becomes of running spawns when their agent is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnShutdown {
    /// They go on; the next agent of this node adopts them.
    #[default]
    Adopt,
    /// The agent waits until the last one has ended, as long as a drain lasts.
    Drain,
    /// They are ended: TERM, grace, KILL.
    Kill,
}

impl fmt::Display for OnShutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adopt => "adopt",
            Self::Drain => "drain",
            Self::Kill => "kill",
        })
    }
}

/// A flag whose value will not do. The text names the flag, what was expected and what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {flag}: {problem}")]
pub struct ConfigError {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// A sentence: what was expected and what was given, or what the flag needs.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(flag: &'static str, problem: impl Into<String>) -> Self {
        Self { flag, problem: problem.into() }
    }
}

/// The settings of an agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The operator's name of this node.
    pub node: NodeId,
    /// Where the gRPC service listens; port 0 takes any.
    pub listen: SocketAddr,
    /// Where health and metrics are served; port 0 takes any.
    pub admin_listen: SocketAddr,
    /// Where spawned servers report. Fixed in production, so that adopted spawns still reach it.
    pub liveliness_listen: SocketAddr,
    /// gRPC URL others reach this agent by; made from `listen` when absent.
    pub advertise: Option<String>,
    /// Host and port of the node's relay, if viewers reach the node through it alone.
    pub viewer_relay: Option<String>,
    /// Host in the endpoints of spawns; the host of `advertise` when absent.
    pub public_host: Option<String>,
    /// Form of the endpoints.
    pub endpoint: EndpointForm,
    /// What makes a spawn.
    pub launcher: Launcher,
    /// Where models are; absolute.
    pub model_dirs: Vec<PathBuf>,
    /// The vendor's licence; absolute.
    pub license_file: Option<PathBuf>,
    /// Ports that spawns may listen on, both ends included; each spawn has one.
    pub ports: RangeInclusive<u16>,
    /// Most spawns at once.
    pub slots: u32,
    /// Servers that start at once; others wait for their turn.
    pub starts: u32,
    /// Servers that are kept ready for requests without model and session token, by renderer.
    pub warm: BTreeMap<RendererType, u32>,
    /// For how long one is kept before another one takes its place.
    pub warm_age: Duration,
    /// Whether client-side rendering is offered.
    pub csr: bool,
    /// Whether server-side rendering is offered.
    pub ssr: bool,
    /// GPUs to spread server-side rendering over; 0 leaves the choice to the server.
    pub gpus: u32,
    /// Most server-side rendering spawns per GPU.
    pub gpu_slots: u32,
    /// Whether server-side rendering uses EGL instead of a display.
    pub egl: bool,
    /// The pool that the node belongs to; requests may ask for it.
    pub pool: String,
    /// Labels of the node, which requests may ask for.
    pub labels: BTreeMap<String, String>,
    /// Only requests that name the pool are placed on this node.
    pub dedicated: bool,
    /// Where logs of spawns and the agent's own state are kept; absolute.
    pub state_dir: PathBuf,
    /// The users that spawns run as, where they are not the agent's.
    pub spawn_users: Option<SpawnUsers>,
    /// Files that no spawn may read, with the flags that name them.
    pub secret_files: Vec<(&'static str, PathBuf)>,
    /// Whether it is known and meant that spawns can do whatever the agent can, so that no warning is needed: on a developer's
    /// machine.
    pub trusts_spawns: bool,
    /// Most memory of one spawn, in bytes.
    pub spawn_memory: Option<u64>,
    /// Most bytes of any one file that a spawn writes, its output included; `None` for no limit.
    pub spawn_file_size: Option<u64>,
    /// Most processors of one spawn, parts of them included.
    pub spawn_cpus: Option<f64>,
    /// The cgroup v2 directory in which spawns get groups; absolute. The agent's own when absent and anything is limited.
    pub cgroup: Option<PathBuf>,
    /// Environment given to spawns, whose environment is otherwise replaced.
    pub env: Vec<(String, String)>,
    /// Extra arguments for spawns.
    pub args: Vec<String>,
    /// Without `ready` for this long a spawn is ended.
    pub ready_timeout: Duration,
    /// How often a spawned server reports.
    pub ping_interval: Duration,
    /// Between TERM and KILL.
    pub stop_grace: Duration,
    /// A server without a viewer ends itself after this time; rounded up to whole seconds, 0 for never.
    pub initial_use: Duration,
    /// How long the logs of ended spawns are kept, within a bound of count and bytes.
    pub keep_ended: Duration,
    /// With less free memory than this many bytes no spawn is admitted; 0 for no limit.
    pub min_free_memory: u64,
    /// What SIGTERM means for running spawns.
    pub on_shutdown: OnShutdown,
    /// Whether the agent is done once an operator has drained the node and nothing is left on it.
    pub exit_when_drained: bool,
    /// How often the registry gets a heartbeat.
    pub heartbeat: Duration,
    /// Whether this process becomes the parent of what its spawns leave behind, and reaps it. For a process that has no other
    /// children than the agent's.
    pub inherit_orphans: bool,
    /// The names under which its HTTP ports may be called.
    pub hosts: Hosts,
    /// The keys whose holders may read metrics; without it, those who show a certificate of the farm, or all where there is no TLS.
    pub metrics_keys: Option<Access>,
    /// How its ports are kept from others' eyes and hands.
    pub tls: Tls,
    /// What records traces, if they are recorded.
    pub tracer: Tracer,
}

/// TLS of an agent; by default there is none.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// For front doors and the node's relay, which must show a certificate of the farm that states their role.
    pub grpc: Option<tls::Server>,
    /// For probes, and for metrics readers, which must show a certificate of the farm that states their role.
    pub admin: Option<tls::Server>,
    /// Flags of ports that others can reach and are not kept as they should be: the operator wants it so.
    pub exposed: Vec<&'static str>,
}

/// The most that one file of a spawn may hold unless the operator says otherwise. A spawn's output is cut long before; what else a server
/// writes (its own log file, files of its workspace) is small beside its models, which it only reads.
const SPAWN_FILE_SIZE: u64 = 256 << 20;

/// Twice the processors: a server that starts waits for its disk and its licence half of the time.
fn default_starts() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(processors * 2).unwrap_or(u32::MAX)
}

impl Config {
    /// The defaults; the executable is what remains to be set.
    #[must_use]
    pub fn new(node: NodeId, launcher: Launcher, state_dir: PathBuf) -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            node,
            listen: loopback(7070),
            admin_listen: loopback(9070),
            liveliness_listen: loopback(7071),
            advertise: None,
            viewer_relay: None,
            public_host: None,
            endpoint: EndpointForm::default(),
            launcher,
            model_dirs: Vec::new(),
            license_file: None,
            ports: 55000..=55999,
            slots: 32,
            starts: default_starts(),
            warm: BTreeMap::new(),
            warm_age: Duration::from_secs(600),
            csr: true,
            ssr: true,
            gpus: 0,
            gpu_slots: 4,
            egl: false,
            pool: "default".to_owned(),
            labels: BTreeMap::new(),
            dedicated: false,
            state_dir,
            spawn_users: None,
            secret_files: Vec::new(),
            trusts_spawns: false,
            spawn_memory: None,
            spawn_file_size: Some(SPAWN_FILE_SIZE),
            spawn_cpus: None,
            cgroup: None,
            env: Vec::new(),
            args: Vec::new(),
            ready_timeout: timing::READY_TIMEOUT,
            ping_interval: timing::PING_INTERVAL,
            stop_grace: timing::STOP_GRACE,
            initial_use: timing::INITIAL_USE,
            keep_ended: timing::KEEP_ENDED,
            min_free_memory: 0,
            on_shutdown: OnShutdown::Adopt,
            exit_when_drained: false,
            heartbeat: timing::HEARTBEAT,
            inherit_orphans: false,
            hosts: Hosts::default(),
            metrics_keys: None,
            tls: Tls::default(),
            tracer: Tracer::off(),
        }
    }
}
