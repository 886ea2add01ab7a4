//! What an agent is told once, at its start, and the checks on it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use access::Hosts;
use model::{NodeId, timing};

use crate::endpoint::EndpointForm;
use crate::ports;
use crate::spawn::args;
use crate::spawn::users::SpawnUsers;

/// Nothing starts with less.
const LEAST_MEMORY: u64 = 1 << 20;

/// What makes a spawn out of an admitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launcher {
    /// Starts this executable, a `ts3d_sc_server` or a stand-in.
    Executable(PathBuf),
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

/// A flag whose value will not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {wants}")]
pub struct ConfigError {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// What it wants, and what it got.
    pub wants: String,
}

impl ConfigError {
    pub(crate) fn new(flag: &'static str, wants: impl Into<String>) -> Self {
        Self { flag, wants: wants.into() }
    }
}

/// Everything an agent is told at its start.
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
    /// Ports for spawns.
    pub ports: RangeInclusive<u16>,
    /// Most spawns at once.
    pub slots: u32,
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
    /// The node's pool.
    pub pool: String,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// Only requests that name the pool are placed on this node.
    pub dedicated: bool,
    /// Where logs of spawns and the agent's own state are kept; absolute.
    pub state_dir: PathBuf,
    /// Who spawns run as, where it is not who the agent runs as.
    pub spawn_users: Option<SpawnUsers>,
    /// Files that no spawn may read, with the flags that name them.
    pub secret_files: Vec<(&'static str, PathBuf)>,
    /// Whether it is known and meant that spawns can do whatever the agent can, so that nobody needs a warning: on a developer's
    /// machine.
    pub trusts_spawns: bool,
    /// Most memory of one spawn, in bytes.
    pub spawn_memory: Option<u64>,
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
    /// A server nobody connects to ends itself after this time; rounded up to whole seconds, 0 for never.
    pub initial_use: Duration,
    /// With less free memory than this many bytes no spawn is admitted; 0 for no limit.
    pub min_free_memory: u64,
    /// What SIGTERM means for running spawns.
    pub on_shutdown: OnShutdown,
    /// Whether the agent is done once an operator has drained the node and nothing is left on it.
    pub exit_when_drained: bool,
    /// How often the registry is told everything.
    pub heartbeat: Duration,
    /// Whether this process becomes the parent of what its spawns leave behind, and reaps it. For a process that has no other
    /// children than the agent's.
    pub inherit_orphans: bool,
    /// The names under which its HTTP ports may be called.
    pub hosts: Hosts,
    /// How its ports are kept from others' eyes and hands.
    pub tls: Tls,
}

/// TLS of an agent; by default there is none.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// For front doors, which must show a certificate of the farm that states their role.
    pub grpc: Option<tls::Server>,
    /// For probes, and for metrics readers, which must show a certificate of the farm that states their role.
    pub admin: Option<tls::Server>,
    /// Flags of ports that others can reach and are not kept as they should be: the operator wants it so.
    pub exposed: Vec<&'static str>,
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
            public_host: None,
            endpoint: EndpointForm::default(),
            launcher,
            model_dirs: Vec::new(),
            license_file: None,
            ports: 55000..=55999,
            slots: 32,
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
            spawn_cpus: None,
            cgroup: None,
            env: Vec::new(),
            args: Vec::new(),
            ready_timeout: timing::READY_TIMEOUT,
            ping_interval: timing::PING_INTERVAL,
            stop_grace: timing::STOP_GRACE,
            initial_use: timing::INITIAL_USE,
            min_free_memory: 0,
            on_shutdown: OnShutdown::Adopt,
            exit_when_drained: false,
            heartbeat: timing::HEARTBEAT,
            inherit_orphans: false,
            hosts: Hosts::default(),
            tls: Tls::default(),
        }
    }

    /// Checks everything that can be checked without touching the machine.
    ///
    /// # Errors
    /// The first flag whose value will not do.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_capacity()?;
        self.check_addresses()?;
        self.check_names()?;
        self.check_durations()?;
        self.check_process()
    }

    fn check_capacity(&self) -> Result<(), ConfigError> {
        if self.slots == 0 {
            return Err(ConfigError::new("--slots", "must be at least 1"));
        }
        if *self.ports.start() == 0 || self.ports.is_empty() {
            let wants = format!("must be FIRST-LAST with 1 <= FIRST <= LAST, not {}", range(&self.ports));
            return Err(ConfigError::new("--ports", wants));
        }
        let usable = ports::usable(&self.ports).count();
        if usable < usize::try_from(self.slots).unwrap_or(usize::MAX) {
            let wants = format!(
                "must hold a port for each of the {} slots, but {} has only {usable} that browsers connect to",
                self.slots,
                range(&self.ports)
            );
            return Err(ConfigError::new("--ports", wants));
        }
        if let Some((users, count)) =
            self.spawn_users.as_ref().and_then(|users| Some((users, users.count()?)))
            && count < u64::from(self.slots)
        {
            let wants = format!(
                "must hold a user for each of the {} slots (--slots), but {users} has only {count}",
                self.slots
            );
            return Err(ConfigError::new("--spawn-user", wants));
        }
        if !self.csr && !self.ssr {
            return Err(ConfigError::new(
                "--csr",
                "and --ssr must not both be false: nothing could be spawned",
            ));
        }
        if self.gpus > 0 && self.gpu_slots == 0 {
            return Err(ConfigError::new("--gpu-slots", "must be at least 1 when --gpus is given"));
        }
        if self.gpus > 1024 {
            return Err(ConfigError::new("--gpus", format!("must be at most 1024, not {}", self.gpus)));
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let listeners = [
            ("--listen", self.listen),
            ("--admin-listen", self.admin_listen),
            ("--liveliness-listen", self.liveliness_listen),
        ];
        for (i, (flag, addr)) in listeners.iter().enumerate() {
            if let Some((other, _)) =
                listeners[..i].iter().find(|(_, taken)| taken == addr && addr.port() != 0)
            {
                return Err(ConfigError::new(flag, format!("must not be the same as {other}, {addr}")));
            }
        }
        if let Some(url) = &self.advertise {
            host_of(url).map_err(|why| {
                ConfigError::new(
                    "--advertise",
                    format!("must be a URL like http://10.0.0.7:7070, not {url:?}: {why}"),
                )
            })?;
        }
        if let Some(host) = &self.public_host
            && !is_host(host)
        {
            return Err(ConfigError::new(
                "--public-host",
                format!("must be a host name or address, not {host:?}"),
            ));
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        model::id::check_name(&self.pool)
            .map_err(|e| ConfigError::new("--pool", format!("{:?} {e}", self.pool)))?;
        for (k, v) in &self.labels {
            model::node::check_label(k, v).map_err(|e| ConfigError::new("--label", e))?;
        }
        Ok(())
    }

    fn check_durations(&self) -> Result<(), ConfigError> {
        for (flag, duration) in [
            ("--ready-timeout", self.ready_timeout),
            ("--ping-interval", self.ping_interval),
            ("--heartbeat", self.heartbeat),
        ] {
            if duration.is_zero() {
                return Err(ConfigError::new(flag, "must be longer than nothing"));
            }
        }
        for (flag, duration) in [
            ("--ready-timeout", self.ready_timeout),
            ("--ping-interval", self.ping_interval),
            ("--stop-grace", self.stop_grace),
            ("--initial-use", self.initial_use),
        ] {
            if duration > Duration::from_secs(7 * 24 * 3600) {
                let given = humantime::format_duration(duration);
                return Err(ConfigError::new(flag, format!("must be at most 7days, not {given}")));
            }
        }
        Ok(())
    }

    fn check_process(&self) -> Result<(), ConfigError> {
        if self.spawn_memory.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            return Err(ConfigError::new("--spawn-memory", "must be at least 1MiB"));
        }
        if let Some(cpus) = self.spawn_cpus.filter(|cpus| !(0.01..=4096.0).contains(cpus)) {
            return Err(ConfigError::new("--spawn-cpus", format!("must be from 0.01 to 4096, not {cpus}")));
        }
        for dir in &self.model_dirs {
            // The server joins directories with `;` and refuses `*`.
            if dir.to_string_lossy().contains([';', '*', '\0']) {
                let wants = format!("must not contain ';' or '*', as {} does", dir.display());
                return Err(ConfigError::new("--model-dir", wants));
            }
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(ConfigError::new("--env", format!("must be NAME=VALUE, not {key:?}={value:?}")));
            }
        }
        for arg in &self.args {
            if let Some(ours) = args::set_by_agent(arg, self.license_file.is_some()) {
                return Err(ConfigError::new("--arg", format!("must not set {ours}: the agent does")));
            }
            if arg.contains('\0') {
                return Err(ConfigError::new("--arg", format!("must not contain NUL, as {arg:?} does")));
            }
        }
        Ok(())
    }
}

fn range(ports: &RangeInclusive<u16>) -> String {
    format!("{}-{}", ports.start(), ports.end())
}

/// The host of an `http://` or `https://` URL, as it is written there.
/// A host name, an IPv4 address, or an IPv6 address with or without brackets; no port.
fn is_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.contains([':', '[', ']']) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !host.is_empty() && !host.contains(|c: char| !c.is_ascii_graphic() || "/{}@?#".contains(c))
}

pub(crate) fn host_of(url: &str) -> Result<String, String> {
    let uri: axum::http::Uri = url.parse().map_err(|e| format!("{e}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => return Err(format!("its scheme is {other}")),
        None => return Err("it has no scheme".to_owned()),
    }
    match uri.host() {
        Some(host) if !host.is_empty() => Ok(host.to_owned()),
        Some(_) | None => Err("it has no host".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config::new(
            "node-a".parse().unwrap(),
            Launcher::Executable("/opt/sc/ts3d_sc_server".into()),
            "/tmp/state".into(),
        )
    }

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(good().check(), Ok(()));
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        type Spoil = fn(&mut Config);
        let cases: &[(&str, Spoil)] = &[
            ("--slots", |c| c.slots = 0),
            ("--ports", |c| c.ports = 0..=10),
            ("--ports", |c| c.ports = 55000..=55030),
            ("--ports", |c| {
                c.ports = 6665..=6670;
                c.slots = 2;
            }),
            ("--spawn-user", |c| c.spawn_users = Some(SpawnUsers::Each((20_000..=20_030).into()))),
            ("--csr", |c| {
                c.csr = false;
                c.ssr = false;
            }),
            ("--gpu-slots", |c| {
                c.gpus = 1;
                c.gpu_slots = 0;
            }),
            ("--admin-listen", |c| c.admin_listen = c.listen),
            ("--liveliness-listen", |c| c.liveliness_listen = c.admin_listen),
            ("--advertise", |c| c.advertise = Some("10.0.0.7:7070".into())),
            ("--advertise", |c| c.advertise = Some("ftp://x".into())),
            ("--public-host", |c| c.public_host = Some("a/b".into())),
            ("--pool", |c| c.pool = "a b".into()),
            ("--label", |c| drop(c.labels.insert("a b".into(), "c".into()))),
            ("--ready-timeout", |c| c.ready_timeout = Duration::ZERO),
            ("--ping-interval", |c| c.ping_interval = Duration::ZERO),
            ("--stop-grace", |c| c.stop_grace = Duration::MAX),
            ("--model-dir", |c| c.model_dirs.push("/a;b".into())),
            ("--env", |c| c.env.push((String::new(), "x".into()))),
            ("--arg", |c| c.args.push("--sc-port=1".into())),
            ("--spawn-memory", |c| c.spawn_memory = Some(4)),
            ("--spawn-cpus", |c| c.spawn_cpus = Some(0.0)),
            ("--spawn-cpus", |c| c.spawn_cpus = Some(f64::NAN)),
        ];
        for (flag, spoil) in cases {
            let mut config = good();
            spoil(&mut config);
            let error = config.check().expect_err(flag);
            assert_eq!(error.flag, *flag, "{error}");
            assert!(error.to_string().starts_with(flag));
        }
    }

    #[test]
    fn a_public_host_is_a_name_or_an_address_without_a_port() {
        for (host, good) in [
            ("farm.example", true),
            ("10.0.0.7", true),
            ("::1", true),
            ("[::1]", true),
            ("", false),
            ("farm.example:80", false),
            ("[farm]", false),
            ("::1::2", false),
            ("a/b", false),
        ] {
            assert_eq!(is_host(host), good, "{host:?}");
        }
    }

    #[test]
    fn the_host_of_a_url_is_what_stands_there() {
        assert_eq!(host_of("http://10.0.0.7:7070"), Ok("10.0.0.7".into()));
        assert_eq!(host_of("https://node-a.example"), Ok("node-a.example".into()));
        assert_eq!(host_of("http://[::1]:7070"), Ok("[::1]".into()));
        assert!(host_of("node-a:7070").is_err());
        assert!(host_of("").is_err());
    }
}
