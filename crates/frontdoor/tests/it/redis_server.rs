//! A Redis server that a test can take away and bring back.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use registry::Registry;

use crate::farm::TIMING;
use crate::ports::Block;

pub(crate) struct RedisServer {
    child: Option<Child>,
    dir: tempfile::TempDir,
    port: u16,
    /// The port is its own while it is away, too.
    _ports: Block,
}

impl RedisServer {
    /// On a port of its own. A program that takes no block may be at it, so a failed start is tried again on another.
    pub(crate) async fn start() -> Self {
        for _ in 0..20 {
            let ports = Block::take();
            let port = ports.single();
            let mut redis = Self { child: None, dir: tempfile::tempdir().unwrap(), port, _ports: ports };
            if redis.serve().await {
                return redis;
            }
        }
        panic!("no port for redis-server in 20 tries");
    }

    pub(crate) fn registry(&self) -> Registry {
        Registry::open(&format!("redis://127.0.0.1:{}", self.port), "farm", TIMING).unwrap()
    }

    /// Gone from one moment to the next, with everything it knew.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// On the same port again, and empty.
    pub(crate) async fn restart(&mut self) {
        assert!(self.serve().await, "the port is still free");
    }

    /// Connections stay, and nothing answers any more.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Answers again, and knows everything.
    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    /// Sends it a command that it answers with `OK`.
    pub(crate) fn command(&self, arguments: &[&str]) {
        let text = self.ask(arguments);
        assert!(text.starts_with("OK"), "{arguments:?}: {text}");
    }

    /// Cuts every connection to it.
    pub(crate) fn cut(&self) {
        self.ask(&["client", "kill", "type", "normal"]);
    }

    /// Sends it a command, and returns its answer as it prints it.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    async fn serve(&mut self) -> bool {
        let port = self.port.to_string();
        let child = Command::new("redis-server")
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        let child = self.child.insert(child);
        let registry = Registry::open(&format!("redis://127.0.0.1:{port}"), "probe", TIMING).unwrap();
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if registry.ping().await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
