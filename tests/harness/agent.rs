//! One agent of a farm: a process with ports and a state directory that it keeps when it is started again.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::binaries::binaries;
use crate::guard::MARK;
use crate::http::Client;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::plan::AgentPlan;
use crate::ports::Block;
use crate::program::Program;
use crate::role::{self, Role};

/// One agent.
#[derive(Debug)]
pub struct Agent {
    /// Its node's name.
    pub node: String,
    /// The process.
    pub role: Role,
    /// Where spawned servers report.
    pub liveliness: Client,
    /// Where figures are.
    pub admin: Client,
    /// The ports it may give to spawns.
    pub ports: RangeInclusive<u16>,
    /// Where it keeps what it keeps.
    pub state_dir: PathBuf,
    /// What it runs, in its next life.
    pub program: Program,
    pub(crate) mark: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) link: Option<Link>,
    pub(crate) _blocks: [Block; 2],
}

impl Agent {
    pub(crate) async fn new(
        mark: &Path,
        common: &[String],
        node: String,
        plan: &AgentPlan,
        linked: bool,
        unread_log: bool,
    ) -> Self {
        let (block, own) = (Block::take(), Block::take());
        // The same in its next life.
        let mut own_ports = own.range(3).map(|port| format!("127.0.0.1:{port}"));
        let mut listen = || own_ports.next().expect("there are three");
        let ports =
            plan.port_range.clone().unwrap_or_else(|| block.range(plan.ports.unwrap_or(plan.slots * 2)));
        let state_dir = mark.join(&node);
        let path = |path: &Path| path.to_str().expect("a scratch directory has a plain name").to_owned();
        let pairs = [
            ("--node", node.clone()),
            ("--listen", listen()),
            ("--admin-listen", listen()),
            ("--liveliness-listen", listen()),
            ("--public-host", "127.0.0.1".to_owned()),
            ("--executable", path(plan.executable.as_deref().unwrap_or(&binaries().simulator))),
            ("--license-file", path(&mark.join("license"))),
            ("--model-dir", path(&mark.join("models"))),
            ("--ports", format!("{}-{}", ports.start(), ports.end())),
            ("--slots", plan.slots.to_string()),
            ("--state-dir", path(&state_dir)),
            ("--env", format!("{MARK}={}", path(mark))),
        ];
        let mut args = vec!["agent".to_owned()];
        args.extend(pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        let mut link = None;
        if linked {
            let grpc = SocketAddr::from(([127, 0, 0, 1], *own.range(3).start()));
            let before = link.insert(Link::to(grpc, format!("front doors to {node}")).await);
            args.extend(["--advertise".to_owned(), format!("http://{}", before.addr)]);
        }
        let args = [args.as_slice(), common, &plan.args].concat();
        let role = if unread_log {
            Role::start_unread(&node, mark, &args)
        } else {
            Role::start_as(&plan.program, &node, mark, &args)
        };
        let nowhere = Client::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        Self {
            node,
            role,
            liveliness: nowhere,
            admin: nowhere,
            ports,
            state_dir,
            program: plan.program.clone(),
            mark: mark.to_owned(),
            args,
            link,
            _blocks: [block, own],
        }
    }

    /// Gives a flag another value, for its next life.
    pub fn set(&mut self, flag: &str, value: &str) {
        match self.args.iter().position(|arg| arg == flag) {
            Some(at) => value.clone_into(&mut self.args[at + 1]),
            None => self.args.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    /// The value of a flag.
    pub fn flag(&self, flag: &str) -> &str {
        let at = self.args.iter().position(|arg| arg == flag);
        at.and_then(|at| self.args.get(at + 1)).unwrap_or_else(|| panic!("there is no {flag}"))
    }

    /// Starts it again, on the same ports and with the same state directory, after it has ended or was killed.
    pub async fn restart(&mut self) {
        self.begin();
        self.comes_up().await;
    }

    /// The same without waiting until it listens.
    pub fn begin(&mut self) {
        self.role.kill();
        self.role = Role::start_as(&self.program, &self.role.name, &self.mark, &self.args);
    }

    pub(crate) async fn comes_up(&mut self) {
        let line = self.role.announcement().await;
        let [grpc, liveliness, admin] = role::clients(&line)[..] else {
            panic!("three addresses were expected: {line}")
        };
        let scheme = if self.args.iter().any(|arg| arg == "--tls-cert") { "https" } else { "http" };
        assert_eq!(
            line,
            format!(
                "agent {} listening on {scheme}://{}, liveliness on http://{}, admin on http://{}",
                self.node, grpc.addr, liveliness.addr, admin.addr
            )
        );
        (self.liveliness, self.admin) = (liveliness, admin);
    }

    /// Its figures.
    pub async fn metrics(&self) -> Metrics {
        Metrics::of(&self.admin).await
    }
}
