//! The agent's command line. Every flag is also an environment variable: `HATCHERY_` and the flag in capitals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use access::host::{ALLOWED_HOST, HostError};
use access::{Access, HostOptions, Hosts, MetricsOptions};
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use model::{NodeId, RendererType, parse_bytes};

use crate::address::{host_name, host_of};
use crate::config::{Config, ConfigError, Launcher, OnShutdown};
use crate::endpoint::EndpointForm;
use crate::exposure::{self, Reachable};
use crate::users::SpawnUsers;

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("expected a duration like 30s or 5m: {e}"))
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wants = || format!("expected FIRST-LAST, for example 55000-55999, got {text:?}");
    let (first, last) = text.split_once('-').ok_or_else(wants)?;
    let number = |t: &str| t.trim().parse::<u16>().map_err(|_| wants());
    Ok(number(first)?..=number(last)?)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("expected NAME=VALUE, got {text:?}")),
    }
}

/// Reads a renderer and a count: `csr=2`.
///
/// # Errors
/// What it must be.
pub fn warm_count(text: &str) -> Result<(RendererType, u32), String> {
    let wants = || format!("expected RENDERER=COUNT, for example csr=2, got {text:?}");
    let (renderer, count) = text.split_once('=').ok_or_else(wants)?;
    Ok((renderer.parse().map_err(|_| wants())?, count.parse().map_err(|_| wants())?))
}

fn collect_warm(given: &[(RendererType, u32)]) -> Result<BTreeMap<RendererType, u32>, ConfigError> {
    let mut warm = BTreeMap::new();
    for (renderer, count) in given {
        if warm.insert(*renderer, *count).is_some() {
            return Err(ConfigError::new("--warm", format!("it must name {renderer} once")));
        }
    }
    Ok(warm)
}

/// The flags of `hatchery agent`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Name of this node, unique in the farm [default: the host name]
    #[arg(long, env = "HATCHERY_NODE", value_name = "NAME")]
    pub node: Option<String>,

    /// Address and port of the gRPC service that front doors call
    #[arg(long, env = "HATCHERY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// URL under which front doors reach this agent [default: http:// or https:// and the address it listens on]
    #[arg(long, env = "HATCHERY_ADVERTISE", value_name = "URL")]
    pub advertise: Option<String>,

    /// Host and port of the relay on this node (`hatchery relay --node`): viewers reach this node through it and no other way
    #[arg(long, env = "HATCHERY_VIEWER_RELAY", value_name = "HOST:PORT")]
    pub viewer_relay: Option<String>,

    /// Address and port of /healthz, /readyz and /metrics
    #[arg(long, env = "HATCHERY_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9070")]
    pub admin_listen: SocketAddr,

    /// Address and port that spawned servers report to; keep it, so that adopted spawns still reach it
    #[arg(long, env = "HATCHERY_LIVELINESS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7071")]
    pub liveliness_listen: SocketAddr,

    /// Host in the endpoints that viewers get [default: the host of --advertise]
    #[arg(long, env = "HATCHERY_PUBLIC_HOST", value_name = "HOST")]
    pub public_host: Option<String>,

    /// Form of the endpoints that viewers get; may use {host}, {port}, {node} and {id}
    #[arg(long, env = "HATCHERY_ENDPOINT", value_name = "URL", default_value = "ws://{host}:{port}")]
    pub endpoint: String,

    /// The ts3d_sc_server to start
    #[arg(long, env = "HATCHERY_EXECUTABLE", value_name = "FILE")]
    pub executable: Option<PathBuf>,

    /// Directory with models; repeat it, or separate several by commas
    #[arg(long = "model-dir", env = "HATCHERY_MODEL_DIR", value_name = "DIR", value_delimiter = ',')]
    pub model_dirs: Vec<PathBuf>,

    /// File with the vendor's licence key
    #[arg(long, env = "HATCHERY_LICENSE_FILE", value_name = "FILE")]
    pub license_file: Option<PathBuf>,

    /// Ports for spawns; those that browsers refuse are left out
    #[arg(long, env = "HATCHERY_PORTS", value_name = "FIRST-LAST", value_parser = ports, default_value = "55000-55999")]
    pub ports: RangeInclusive<u16>,

    /// Most spawns at once
    #[arg(
        long,
        env = "HATCHERY_SLOTS",
        value_name = "COUNT",
        allow_negative_numbers = true,
        default_value_t = 32
    )]
    pub slots: u32,

    /// Servers that start at once; others wait for their turn, within their deadlines [default: twice the processors]
    #[arg(long, env = "HATCHERY_STARTS", value_name = "COUNT", allow_negative_numbers = true)]
    pub starts: Option<u32>,

    /// Servers to keep ready for requests without model and session token, for example csr=2,ssr=1; each may take a licence
    #[arg(long, env = "HATCHERY_WARM", value_name = "RENDERER=COUNT", value_parser = warm_count, value_delimiter = ',')]
    pub warm: Vec<(RendererType, u32)>,

    /// How long a server is kept ready before another one takes its place
    #[arg(long, env = "HATCHERY_WARM_AGE", value_name = "DURATION", value_parser = duration, default_value = "10m")]
    pub warm_age: Duration,

    /// Offer client-side rendering
    #[arg(long, env = "HATCHERY_CSR", value_name = "BOOL", action = ArgAction::Set, default_value_t = true)]
    pub csr: bool,

    /// Offer server-side rendering
    #[arg(long, env = "HATCHERY_SSR", value_name = "BOOL", action = ArgAction::Set, default_value_t = true)]
    pub ssr: bool,

    /// GPUs to spread server-side rendering over; 0 leaves the choice to the server
    #[arg(
        long,
        env = "HATCHERY_GPUS",
        value_name = "COUNT",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub gpus: u32,

    /// Most server-side rendering spawns per GPU
    #[arg(
        long,
        env = "HATCHERY_GPU_SLOTS",
        value_name = "COUNT",
        allow_negative_numbers = true,
        default_value_t = 4
    )]
    pub gpu_slots: u32,

    /// Render without a display, through EGL
    #[arg(long, env = "HATCHERY_EGL", value_parser = BoolishValueParser::new())]
    pub egl: bool,

    /// Pool this node belongs to
    #[arg(long, env = "HATCHERY_POOL", value_name = "NAME", default_value = "default")]
    pub pool: String,

    /// Label of this node, for example sdk=2025.1; repeat it, or separate several by commas
    #[arg(long = "label", env = "HATCHERY_LABEL", value_name = "K=V", value_delimiter = ',')]
    pub labels: Vec<String>,

    /// Take only requests that name this node's pool, so that it meets no others' viewers
    #[arg(long, env = "HATCHERY_DEDICATED", value_parser = BoolishValueParser::new())]
    pub dedicated: bool,

    /// Directory for logs of spawns and the agent's state
    /// [default: /var/lib/hatchery/NODE for root, else hatchery/NODE in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, env = "HATCHERY_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Environment variable for spawns, whose environment is otherwise replaced; repeat it, or separate by commas
    #[arg(long = "env", env = "HATCHERY_ENV", value_name = "K=V", value_parser = key_value, value_delimiter = ',')]
    pub env: Vec<(String, String)>,

    /// Extra argument for spawns; repeat it (commas do not separate here, they may be part of the argument)
    #[arg(long = "arg", env = "HATCHERY_ARG", value_name = "ARG", allow_hyphen_values = true)]
    pub args: Vec<String>,

    /// A spawn that is not ready within this time is ended
    #[arg(long, env = "HATCHERY_READY_TIMEOUT", value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub ready_timeout: Duration,

    /// How often spawned servers report; silent for 2 of these and 2s they are suspect, for 3 and 2s they are ended
    #[arg(long, env = "HATCHERY_PING_INTERVAL", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub ping_interval: Duration,

    /// Between asking a spawn to end (TERM) and ending it (KILL)
    #[arg(long, env = "HATCHERY_STOP_GRACE", value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub stop_grace: Duration,

    /// A spawn whose viewer never connects ends itself after this time; 0s for never
    #[arg(long, env = "HATCHERY_INITIAL_USE", value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub initial_use: Duration,

    /// How long the logs of ended spawns are kept, within a bound of count and bytes
    #[arg(long, env = "HATCHERY_KEEP_ENDED", value_name = "DURATION", value_parser = duration, default_value = "24h")]
    pub keep_ended: Duration,

    /// With less free memory no spawn is admitted; bytes, or for example 512MiB
    #[arg(long, env = "HATCHERY_MIN_FREE_MEMORY", value_name = "BYTES", value_parser = parse_bytes, default_value = "0")]
    pub min_free_memory: u64,

    /// What SIGTERM means for running spawns
    #[arg(long, env = "HATCHERY_ON_SHUTDOWN", value_enum, default_value_t = OnShutdown::Adopt)]
    pub on_shutdown: OnShutdown,

    /// Exit once an operator has drained the node and the last spawn has ended
    #[arg(long, env = "HATCHERY_EXIT_WHEN_DRAINED", value_parser = BoolishValueParser::new())]
    pub exit_when_drained: bool,

    /// Who spawns run as: one user for all, names or numbers, or a range of numbers, FIRST-LAST, of which each slot has its own,
    /// each with a group of its number, or all with the one group GROUP. The agent must run as root. They have no other groups.
    /// Nothing else may run as the numbers of a range: it is ended before a spawn gets that number
    #[arg(long, env = "HATCHERY_SPAWN_USER", value_name = "USER[:GROUP]|FIRST-LAST[:GROUP]")]
    pub spawn_user: Option<String>,

    /// Most memory of one spawn, for example 4GiB: it is ended if it takes more. Needs cgroup v2
    #[arg(long, env = "HATCHERY_SPAWN_MEMORY", value_name = "BYTES", value_parser = parse_bytes)]
    pub spawn_memory: Option<u64>,

    /// Most bytes of any one file that a spawn writes, its output included; a write beyond that fails. 0 for no limit
    #[arg(long, env = "HATCHERY_SPAWN_FILE_SIZE", value_name = "BYTES", value_parser = parse_bytes, default_value = "256MiB")]
    pub spawn_file_size: u64,

    /// Most processors of one spawn, for example 1.5. Needs cgroup v2
    #[arg(long, env = "HATCHERY_SPAWN_CPUS", value_name = "COUNT", allow_negative_numbers = true)]
    pub spawn_cpus: Option<f64>,

    /// Directory of cgroup v2 in which each spawn gets a group of its own [default: the agent's own, if anything is limited]
    #[arg(long, env = "HATCHERY_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Start no processes, every spawn is ready at once (for benchmarks)
    #[arg(long, env = "HATCHERY_START_NOTHING", hide = true)]
    pub start_nothing: bool,

    /// With which keys its metrics are read.
    #[command(flatten)]
    pub metrics: MetricsOptions,

    /// Under which names its HTTP ports may be called.
    #[command(flatten)]
    pub hosts: HostOptions,

    /// What front doors are shown, and must show.
    #[command(flatten)]
    pub tls: tls::Options,
}

impl Options {
    /// Checks everything and makes the configuration of it.
    ///
    /// # Errors
    /// The first flag whose value will not do.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let node = node(self.node.clone())?;
        let ports = Reachable {
            listen: self.listen,
            admin_listen: self.admin_listen,
            liveliness_listen: self.liveliness_listen,
            advertise: self.advertise.as_deref(),
        };
        let tls = exposure::check(&self.tls, ports, &node)?;
        let hosts = hosts(&self)?;
        let metrics_keys = Access::of_metrics(&self.metrics)
            .map_err(|e| ConfigError::new(e.flag, format!("{}: {}", e.path.display(), e.why)))?;
        let launcher = match (self.start_nothing, self.executable) {
            (true, _) => Launcher::Nothing,
            (false, Some(path)) => Launcher::Executable(absolute("--executable", &path)?),
            (false, None) => {
                return Err(ConfigError::new(
                    "--executable",
                    "it must be given: the ts3d_sc_server to start",
                ));
            }
        };
        let state_dir = match self.state_dir {
            Some(dir) => absolute("--state-dir", &dir)?,
            None => default_state_dir(&node)?,
        };
        let endpoint: EndpointForm =
            self.endpoint.parse().map_err(|why: String| ConfigError::new("--endpoint", why))?;
        let labels = model::node::collect_labels(self.labels.iter().map(String::as_str))
            .map_err(|why| ConfigError::new("--label", why))?;
        let model_dirs =
            self.model_dirs.iter().map(|dir| absolute("--model-dir", dir)).collect::<Result<_, _>>()?;
        let resolve =
            |users: &str| SpawnUsers::resolve(users).map_err(|e| ConfigError::new("--spawn-user", e));
        let spawn_users = self.spawn_user.as_deref().map(resolve).transpose()?;
        let secret_files = self.tls.tls_key.iter().map(|key| ("--tls-key", key.clone())).collect();
        let cgroup = self.cgroup.map(|dir| absolute("--cgroup", &dir)).transpose()?;
        let license_file = self.license_file.map(|file| absolute("--license-file", &file)).transpose()?;
        let defaults = Config::new(node, launcher, state_dir);
        let config = Config {
            tls,
            hosts,
            metrics_keys,
            listen: self.listen,
            admin_listen: self.admin_listen,
            liveliness_listen: self.liveliness_listen,
            advertise: self.advertise,
            viewer_relay: self.viewer_relay,
            public_host: self.public_host,
            endpoint,
            model_dirs,
            license_file,
            ports: self.ports,
            slots: self.slots,
            warm: collect_warm(&self.warm)?,
            warm_age: self.warm_age,
            starts: self.starts.unwrap_or(defaults.starts),
            csr: self.csr,
            ssr: self.ssr,
            gpus: self.gpus,
            gpu_slots: self.gpu_slots,
            egl: self.egl,
            pool: self.pool,
            labels,
            dedicated: self.dedicated,
            env: self.env,
            args: self.args,
            ready_timeout: self.ready_timeout,
            ping_interval: self.ping_interval,
            stop_grace: self.stop_grace,
            initial_use: self.initial_use,
            keep_ended: self.keep_ended,
            min_free_memory: self.min_free_memory,
            on_shutdown: self.on_shutdown,
            exit_when_drained: self.exit_when_drained,
            spawn_users,
            secret_files,
            spawn_memory: self.spawn_memory,
            spawn_file_size: (self.spawn_file_size > 0).then_some(self.spawn_file_size),
            spawn_cpus: self.spawn_cpus,
            cgroup,
            ..defaults
        };
        config.check()?;
        Ok(config)
    }
}

fn node(given: Option<String>) -> Result<NodeId, ConfigError> {
    match given {
        Some(name) => name.parse().map_err(|e| ConfigError::new("--node", format!("it {e}"))),
        None => {
            let host = host_name();
            host.parse().map_err(|e| {
                ConfigError::new(
                    "--node",
                    format!("it must be given, the host name {host:?} will not do: it {e}"),
                )
            })
        }
    }
}

/// The names of `--allowed-host`, and those that the agent is reached by.
fn hosts(options: &Options) -> Result<Hosts, ConfigError> {
    let mut hosts = Hosts::of(&options.hosts).map_err(|HostError(found)| {
        let problem = format!("expected a host name without scheme and port, or `*`, got {found:?}");
        ConfigError::new(ALLOWED_HOST, problem)
    })?;
    let advertised = options.advertise.as_deref().and_then(|url| host_of(url).ok());
    for name in advertised.iter().chain(&options.public_host).chain(&options.node) {
        hosts.add(name);
    }
    Ok(hosts)
}

fn absolute(flag: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path)
        .map_err(|e| ConfigError::new(flag, format!("expected a path, got {path:?}: {e}")))
}

fn default_state_dir(node: &NodeId) -> Result<PathBuf, ConfigError> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/hatchery").join(node.as_str()));
    }
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let base = base.ok_or_else(|| ConfigError::new("--state-dir", "it must be given, there is no $HOME"))?;
    Ok(base.join("hatchery").join(node.as_str()))
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
