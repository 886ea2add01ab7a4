//! A Redis of one test alone.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::guard::MARK;
use crate::ports::Block;
use crate::processes;
use crate::wait::{Look, PATIENCE, until};

/// A Redis server that keeps nothing on disk and its port for ever.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    mark: PathBuf,
    _block: Block,
}

impl RedisServer {
    /// Starts one that answers.
    pub async fn start(mark: &Path) -> Self {
        let block = Block::take();
        let mut server = Self { child: None, port: block.single(), mark: mark.to_owned(), _block: block };
        server.restart().await;
        server
    }

    /// What `--registry` wants.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Sends it a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            processes::signal(child.id(), signal);
        }
    }

    /// Has it forget everything; whether it did.
    pub async fn flush(&self) -> bool {
        let exchange = async {
            let mut stream = TcpStream::connect(self.addr()).await.ok()?;
            let mut ok = [0; 5];
            stream.write_all(b"FLUSHALL\r\n").await.ok()?;
            stream.read_exact(&mut ok).await.ok()?;
            (ok == *b"+OK\r\n").then_some(())
        };
        timeout(PATIENCE, exchange).await.ok().flatten().is_some()
    }

    /// Ends it at once, with all it knows.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts it again, empty, on the same port.
    pub async fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            // Changing its title would overwrite the mark in its environment.
            .args(["--set-proc-title", "no", "--save", "", "--appendonly", "no", "--dir"])
            .arg(&self.mark)
            .env(MARK, &self.mark)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("redis-server is installed (tests/run sees to it)");
        self.child = Some(child);
        until("redis-server answers", PATIENCE, async || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "redis-server ended: {ended:?}");
            Look::when(answers(self.port).await, || "no PONG".to_owned())
        })
        .await;
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut pong = [0; 7];
    stream.write_all(b"PING\r\n").await.is_ok()
        && stream.read_exact(&mut pong).await.is_ok()
        && pong == *b"+PONG\r\n"
}
