//! The relay of a node: a process on ports that it keeps when another one takes them over.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::certs::Certs;
use crate::http::Client;
use crate::metrics::Metrics;
use crate::ports::Block;
use crate::role::{Role, clients};
use crate::wait::{Look, TIMEOUT, until};

/// The ports of a node's relay, which its agent has to know before it runs.
#[derive(Debug)]
pub struct NodeRelayPorts {
    block: Block,
}

impl NodeRelayPorts {
    /// Ports that no other test uses.
    pub fn take() -> Self {
        Self { block: Block::take() }
    }

    /// Where the relay listens: the agent's `--viewer-relay`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.block.range(2).start())
    }

    /// Arguments of a `hatchery relay` on them, with these more.
    pub fn args(&self, more: &[&str]) -> Vec<String> {
        let admin = format!("127.0.0.1:{}", self.block.range(2).end());
        let args = ["relay", "--listen", &self.address(), "--admin-listen", &admin];
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    /// Starts the relay of this node with the node's certificate, and these arguments more.
    pub async fn start(self, mark: &Path, certs: &Certs, node: &str, more: &[&str]) -> NodeRelay {
        let pair = certs.agent(&format!("{node}.relay"));
        let pair: Vec<&str> = pair.iter().map(String::as_str).collect();
        let args = self.args(&[&["--node", node], &pair[..], more].concat());
        let mark = mark.to_owned();
        let role = Role::start("node-relay", &mark, &args);
        let mut relay = NodeRelay { role, ports: self, mark, args };
        relay.role.announcement().await;
        relay
    }
}

/// The relay of a node.
#[derive(Debug)]
pub struct NodeRelay {
    /// The process.
    pub role: Role,
    ports: NodeRelayPorts,
    mark: PathBuf,
    args: Vec<String>,
}

impl NodeRelay {
    /// Where it listens.
    pub fn address(&self) -> String {
        self.ports.address()
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::of(&self.admin()).await
    }

    /// Its admin port.
    pub fn admin(&self) -> Client {
        clients(self.role.said().trim_end())[1]
    }

    /// Tells it to leave and starts another process on the same ports at once. Returns the old one, which may still be there.
    pub async fn replace(&mut self) -> Role {
        self.role.signal(Signal::TERM);
        self.leaves_its_ports().await;
        let next = Role::start("node-relay-next", &self.mark, &self.args);
        let old = std::mem::replace(&mut self.role, next);
        self.role.announcement().await;
        old
    }

    /// Ends it and gives its ports back.
    pub async fn stop(mut self) -> NodeRelayPorts {
        self.role.signal(Signal::TERM);
        assert!(self.role.end().await.success());
        self.ports
    }

    async fn leaves_its_ports(&self) {
        let address = self.address();
        until("its port is free", TIMEOUT, async || {
            Look::when(TcpStream::connect(&address).await.is_err(), || "it listens".to_owned())
        })
        .await;
    }
}
