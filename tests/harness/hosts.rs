//! Several machines for one test: network namespaces on one switch, each with an address of its own.
//!
//! A test cannot be in two places, but its threads can: what [`Host::inside`] runs has the host's network, and so has every
//! process that is started there. The switch is a namespace too, so nothing of it is seen on the machine itself, and the same
//! addresses serve any number of tests at once.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::guard::{MARK, outliving};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// Waits for the end of whoever started it, then ends what is left on these hosts and takes them away.
const KEEPER: &str = r#"
cat >/dev/null
for host in "$@"; do
    for pid in $(ip netns pids "$host" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
done
for host in "$@"; do ip netns del "$host" 2>/dev/null; done
"#;

/// Hosts on a switch. Dropping it ends what runs there, and removes all of it; so does the end of the test process, however
/// it comes.
#[derive(Debug)]
pub struct Network {
    switch: String,
    hosts: Vec<Host>,
    keeper: Child,
}

/// A machine, as far as the network goes.
#[derive(Debug)]
pub struct Host {
    /// What the test calls it.
    pub name: String,
    /// Its address; that of the switch's other hosts begins with the same three numbers.
    pub addr: Ipv4Addr,
    namespace: String,
    /// Its end of the cable, in the switch.
    port: String,
}

impl Network {
    /// Sets hosts up, with the last number of their address.
    ///
    /// # Errors
    /// Why this machine does not let us.
    pub fn of(hosts: &[(&str, u8)]) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("hatchery-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let switch = format!("{prefix}-switch");
        let hosts: Vec<Host> = hosts
            .iter()
            .enumerate()
            .map(|(at, (name, last))| Host {
                name: (*name).to_owned(),
                addr: Ipv4Addr::new(10, 77, 0, *last),
                namespace: format!("{prefix}-{name}"),
                port: format!("port{at}"),
            })
            .collect();
        let all = hosts.iter().map(|host| host.namespace.as_str()).chain([switch.as_str()]);
        let keeper = outliving(KEEPER, all).map_err(|error| format!("there is no shell: {error}"))?;
        let network = Self { switch, hosts, keeper };
        network.connect()?;
        Ok(network)
    }

    fn connect(&self) -> Result<(), String> {
        let switch = self.switch.as_str();
        ip(&["netns", "add", switch])?;
        ip(&["-n", switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", switch, "link", "set", "bridge", "up"])?;
        for Host { addr, namespace, port, .. } in &self.hosts {
            let on = |words: &[&str]| ip(&[&["-n", namespace.as_str()], words].concat());
            ip(&["netns", "add", namespace])?;
            let cable = ["link", "add", "eth0", "netns", namespace, "type", "veth"];
            ip(&[cable.as_slice(), &["peer", "name", port, "netns", switch]].concat())?;
            ip(&["-n", switch, "link", "set", port, "master", "bridge", "up"])?;
            on(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"])?;
            on(&["link", "set", "lo", "up"])?;
            on(&["link", "set", "eth0", "up"])?;
        }
        Ok(())
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> &Host {
        let found = self.hosts.iter().find(|host| host.name == name);
        found.unwrap_or_else(|| panic!("there is no host {name}"))
    }

    /// Pulls a host's cable out.
    pub fn cut(&self, name: &str) {
        self.cable(name, "down");
    }

    /// Plugs it in again.
    pub fn heal(&self, name: &str) {
        self.cable(name, "up");
    }

    fn cable(&self, name: &str, state: &str) {
        let port = &self.host(name).port;
        ip(&["-n", &self.switch, "link", "set", port, state]).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Where its namespaces are named while it lives.
    pub fn names(&self) -> Vec<PathBuf> {
        let hosts = self.hosts.iter().map(|host| host.namespace.as_str());
        hosts.chain([self.switch.as_str()]).map(|name| Path::new(NAMES).join(name)).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // It does its work now, and ends.
        drop(self.keeper.stdin.take());
        self.keeper.wait().ok();
    }
}

impl Host {
    /// Does something on this host: what is bound and connected, and every process that is started, is there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter().unwrap_or_else(|error| panic!("{}: {error}", self.namespace));
                work()
            });
            thread.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn enter(&self) -> io::Result<()> {
        let namespace = File::open(Path::new(NAMES).join(&self.namespace))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Whether a process runs here.
    pub fn holds(&self, pid: u32) -> bool {
        let ours = fs::metadata(Path::new(NAMES).join(&self.namespace)).map(|meta| meta.ino());
        let its = fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino());
        matches!((ours, its), (Ok(ours), Ok(its)) if ours == its)
    }

    /// Starts a program here that says nothing and stays.
    pub fn start(&self, mark: &Path, program: &str, args: &[&str]) -> Daemon {
        let child = self.inside(|| {
            Command::new(program)
                .args(args)
                .env(MARK, mark)
                .current_dir(mark)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(mark.join(format!("{}.log", self.name))).expect("a file can be made"))
                .process_group(0)
                .spawn()
        });
        Daemon(child.unwrap_or_else(|error| panic!("{program} is installed (tests/run sees to it): {error}")))
    }
}

/// A program that was started on a host. It goes with this value.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Whether a process has no network any more, because it has ended.
pub fn is_gone(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_err()
}

fn ip(words: &[&str]) -> Result<(), String> {
    let what = words.join(" ");
    let ran = Command::new("ip").args(words).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("there is no ip (Debian's iproute2): {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("ip {what}: {}", String::from_utf8_lossy(&ran.stderr).trim()))
}
