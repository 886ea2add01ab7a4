//! The load balancers that `deploy/load-balancer` ships, in front of front doors of this machine.
//!
//! A balancer runs the shipped file. Only what belongs to a machine is replaced: addresses, ports, paths, the size of tables, and
//! the idle time where a test wants a shorter one. A file that has lost what is to be replaced is a panic. Dropping a balancer ends
//! all its processes; so does the end of the test process, however it comes.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::certs::Certs;
use crate::guard::outliving;
use crate::ports::Block;
use crate::processes;
use crate::wait::{Look, TIMEOUT, until};

/// Waits for the end of the test process, and then ends a process group. Both programs overwrite the memory that their environment
/// is read from, so a mark in it would find nothing.
const KEEPER: &str = r#"cat >/dev/null; kill -KILL -- "-$1" 2>/dev/null"#;
/// The name of a front door's certificate that the samples ask for.
pub const DOOR_NAME: &str = "frontdoor.farm";

/// The address of an internal network: callers who come from here may call what operators call.
pub const INSIDE: &str = "127.0.0.2";

/// Which of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `haproxy.cfg`.
    Haproxy,
    /// `nginx.conf`.
    Nginx,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Haproxy, Self::Nginx];

    /// The shipped file.
    pub fn sample(self) -> PathBuf {
        let name = match self {
            Self::Haproxy => "haproxy.cfg",
            Self::Nginx => "nginx.conf",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/load-balancer").join(name)
    }

    fn program(self) -> Command {
        // Not in the path of every user.
        let program = match self {
            Self::Haproxy => "/usr/sbin/haproxy",
            Self::Nginx => "/usr/sbin/nginx",
        };
        Command::new(program)
    }
}

/// The ports of a balancer that is not there yet: front doors must know its address before it can know theirs.
#[derive(Debug)]
pub struct Ports {
    block: Block,
}

impl Ports {
    /// Free ones.
    pub fn take() -> Self {
        Self { block: Block::take() }
    }

    /// Where https will be served.
    pub fn https(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, *self.block.range(2).start()).into()
    }

    fn http(&self) -> u16 {
        *self.block.range(2).end()
    }
}

/// A running load balancer.
#[derive(Debug)]
pub struct Balancer {
    kind: Kind,
    child: Child,
    keeper: Child,
    dir: TempDir,
    ports: Ports,
}

impl Balancer {
    /// Starts one in front of two front doors (one is named twice), with a certificate of this CA for `localhost`. Connections that
    /// are idle for `idle` are cut, instead of for the time in the sample.
    pub async fn start(
        kind: Kind,
        ports: Ports,
        certs: &Certs,
        doors: [SocketAddr; 2],
        idle: Option<u64>,
    ) -> Self {
        let dir =
            tempfile::Builder::new().prefix("hatchery-balancer-").tempdir().expect("a scratch directory");
        // Its workers may be of another user.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        if !certs.file("public.pem").exists() {
            certs.sign("public", "DNS:localhost,IP:127.0.0.1", "serverAuth");
        }
        let text = |name: &str| fs::read_to_string(certs.file(name)).expect("a certificate's file");
        let (public, key) = (text("public.pem"), text("public.key"));
        for (name, text) in [
            ("farm.pem", format!("{public}{key}")),
            ("farm.crt", public),
            ("farm.key", key),
            ("farm-ca.pem", text("ca.pem")),
        ] {
            fs::write(dir.path().join(name), text).expect("a file can be written");
        }
        let config = dir.path().join("balancer.conf");
        fs::write(&config, configured(kind, &ports, dir.path(), doors, idle)).expect("a file can be written");
        let checked = kind.program().args(check(kind, dir.path(), &config)).output();
        let checked =
            checked.unwrap_or_else(|error| panic!("{kind:?} is installed (tests/run sees to it): {error}"));
        assert!(checked.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&checked.stderr));
        let output = || File::options().append(true).create(true).open(dir.path().join("output.log"));
        let child = kind
            .program()
            .args(run(kind, dir.path(), &config))
            .stdin(Stdio::null())
            .stdout(output().expect("a file can be made"))
            .stderr(output().expect("a file can be made"))
            .process_group(0)
            .spawn()
            .expect("the program can be started");
        let keeper = outliving(KEEPER, [child.id().to_string()]).expect("there is a shell");
        let balancer = Self { kind, child, keeper, dir, ports };
        let addr = balancer.ports.https();
        until(&format!("{kind:?} listens"), TIMEOUT, async || match TcpStream::connect(addr).await {
            Ok(_) => Look::Ready(()),
            Err(error) => Look::NotYet(format!("{error}; it says {}", balancer.logs())),
        })
        .await;
        balancer
    }

    /// Where https is served.
    pub fn addr(&self) -> SocketAddr {
        self.ports.https()
    }

    /// Has it read its configuration again, as an operator does for a new certificate, and waits until new connections are served by
    /// processes that were not there before.
    pub async fn reload(&self) {
        let before = self.workers();
        let signal = if self.kind == Kind::Nginx { Signal::HUP } else { Signal::USR2 };
        processes::signal(self.child.id(), signal);
        until("there are new workers", TIMEOUT, async || {
            let now = self.workers();
            Look::when(now.iter().any(|pid| !before.contains(pid)), || format!("{before:?}, then {now:?}"))
        })
        .await;
        let addr = self.ports.https();
        until("it still listens", TIMEOUT, async || match TcpStream::connect(addr).await {
            Ok(_) => Look::Ready(()),
            Err(error) => Look::NotYet(error.to_string()),
        })
        .await;
    }

    /// The children of the process that was started.
    fn workers(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// All that it has logged: accesses, errors, and what it says on its terminal.
    pub fn logs(&self) -> String {
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir.path())
            .expect("its directory")
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .collect();
        files.sort();
        files
            .iter()
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned())
            .collect()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL).ok();
        }
        self.child.wait().ok();
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

/// The sample with what belongs to this machine.
fn configured(kind: Kind, ports: &Ports, dir: &Path, doors: [SocketAddr; 2], idle: Option<u64>) -> String {
    let (dir, https, http) = (dir.display().to_string(), ports.https().port(), ports.http());
    let mut text = fs::read_to_string(kind.sample()).expect("the sample is there");
    let mut replace = |old: &str, new: &str| {
        assert!(text.contains(old), "{}: there is no {old}", kind.sample().display());
        text = text.replace(old, new);
    };
    replace("10.0.0.5:8080", &doors[0].to_string());
    replace("10.0.0.7:8080", &doors[1].to_string());
    replace("10.0.0.0/8", &format!("{INSIDE}/32"));
    match kind {
        Kind::Haproxy => {
            replace("bind :443 ", &format!("bind 127.0.0.1:{https} "));
            replace("bind :80\n", &format!("bind 127.0.0.1:{http}\n"));
            replace("/etc/haproxy/", &format!("{dir}/"));
            replace("log /dev/log local0", "log stdout format raw local0");
            replace("maxconn 20000", "maxconn 500");
        }
        Kind::Nginx => {
            replace("listen 443 ", &format!("listen 127.0.0.1:{https} "));
            replace("listen 80 ", &format!("listen 127.0.0.1:{http} "));
            replace("/etc/nginx/", &format!("{dir}/"));
            replace("/var/log/nginx/", &format!("{dir}/"));
            replace("/run/nginx.pid", &format!("{dir}/nginx.pid"));
            replace("worker_rlimit_nofile 65536;", "");
            replace("worker_connections 16384", "worker_connections 500");
            let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths = kinds.map(|kind| format!("{kind}_temp_path {dir}/{kind};")).concat();
            replace("server_tokens off;", &format!("server_tokens off; {paths}"));
        }
    }
    if let Some(idle) = idle.map(Duration::from_secs) {
        for line in match kind {
            Kind::Haproxy => &["timeout tunnel 90s"][..],
            Kind::Nginx => &["proxy_read_timeout 90s", "proxy_send_timeout 90s"],
        } {
            replace(line, &line.replace("90s", &format!("{}s", idle.as_secs())));
        }
    }
    text
}

/// The program's own check of its configuration.
fn check(kind: Kind, dir: &Path, config: &Path) -> Vec<String> {
    command_line(kind, dir, config, if kind == Kind::Nginx { &["-t", "-q"] } else { &["-c", "-q"] })
}

/// In the foreground, with a master that reloads on a signal.
fn run(kind: Kind, dir: &Path, config: &Path) -> Vec<String> {
    command_line(kind, dir, config, if kind == Kind::Nginx { &["-g", "daemon off;"] } else { &["-W", "-db"] })
}

fn command_line(kind: Kind, dir: &Path, config: &Path, more: &[&str]) -> Vec<String> {
    let (dir, config) = (dir.display().to_string(), config.display().to_string());
    let file = match kind {
        Kind::Haproxy => vec!["-f".to_owned(), config],
        Kind::Nginx => vec!["-p".to_owned(), dir, "-c".to_owned(), config],
    };
    file.into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect()
}
