//! A Redis of one test alone: a server, a replica of one, or a Sentinel.

use std::fs;
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
use crate::wait::{Look, TIMEOUT, until};

/// A Redis server that keeps its port for ever, and on disk only what it is asked to save.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    mark: PathBuf,
    /// Where its dump is.
    dir: PathBuf,
    /// What its clock is off by, as libfaketime reads it; absent when it has the machine's clock.
    clock: Option<PathBuf>,
    /// What is said before its settings.
    first: Vec<String>,
    _block: Block,
}

impl RedisServer {
    /// Has a user named `farm`, with this password and no other, that may do everything.
    pub async fn has_user(&self, password: &str) {
        let said = self.says(&format!("ACL SETUSER farm reset on >{password} ~* &* +@all")).await;
        assert_eq!(said.as_deref(), Some("+OK\r\n"));
    }

    /// Has it listen for TLS as well, or read the files of this directory anew: `ca.pem`, `redis.pem` and `redis.key`. Peers must show a
    /// certificate of the same authority. Returns what `--registry` wants of peers that show the same one.
    pub async fn speaks_tls(&self, dir: &Path) -> String {
        let [ca, cert, key] =
            ["ca.pem", "redis.pem", "redis.key"].map(|name| dir.join(name).display().to_string());
        let port = self.port - 1;
        let files = format!("tls-ca-cert-file {ca} tls-cert-file {cert} tls-key-file {key}");
        let said = self.says(&format!("CONFIG SET {files} tls-port {port}")).await;
        assert_eq!(said.as_deref(), Some("+OK\r\n"));
        format!("rediss://127.0.0.1:{port}?ca={ca}&cert={cert}&key={key}")
    }

    /// Starts one that answers.
    pub async fn start(mark: &Path) -> Self {
        Self::start_as(mark, Vec::new(), false).await
    }

    /// Starts one whose clock can be stepped.
    pub async fn with_a_clock_of_its_own(mark: &Path) -> Self {
        Self::start_as(mark, Vec::new(), true).await
    }

    /// Starts a Sentinel with this file of settings, which it writes to.
    pub async fn sentinel(mark: &Path, settings: &Path) -> Self {
        let file = settings.to_str().expect("a scratch directory has a plain name").to_owned();
        Self::start_as(mark, vec![file, "--sentinel".to_owned()], false).await
    }

    async fn start_as(mark: &Path, first: Vec<String>, own_clock: bool) -> Self {
        let block = Block::take();
        let (port, mark) = (block.single(), mark.to_owned());
        let dir = mark.join(format!("redis-{port}"));
        fs::create_dir_all(&dir).expect("a directory can be made");
        let clock = own_clock.then(|| dir.join("clock"));
        let mut server = Self { child: None, port, mark, dir, clock, first, _block: block };
        server.step_clock(0);
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

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Sends it a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            processes::signal(child.id(), signal);
        }
    }

    /// Has it forget everything; whether it did.
    pub async fn flush(&self) -> bool {
        self.says("FLUSHALL").await.is_some_and(|said| said.starts_with("+OK"))
    }

    /// What it answers to these words, as it goes over the wire.
    pub async fn says(&self, words: &str) -> Option<String> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.addr()).await.ok()?;
            let mut said = String::new();
            stream.write_all(format!("{words}\r\n").as_bytes()).await.ok()?;
            // A Sentinel knows no QUIT; either answers what it was asked before it closes, too.
            stream.shutdown().await.ok()?;
            stream.read_to_string(&mut said).await.ok()?;
            Some(said)
        };
        timeout(TIMEOUT, exchange).await.ok().flatten()
    }

    /// Ends it at once, with all it knows.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Sets its clock off by so many seconds from now on.
    pub fn step_clock(&self, seconds: i64) {
        if let Some(file) = &self.clock {
            // It is read whenever somebody asks for the time, so it is replaced at once.
            let fresh = file.with_extension("next");
            fs::write(&fresh, format!("{seconds:+}s\n")).expect("a file can be written");
            fs::rename(fresh, file).expect("it is ours");
        }
    }

    /// Writes everything it knows to its dump; whether it did.
    pub async fn save(&self) -> bool {
        self.says("SAVE").await.is_some_and(|said| said.starts_with("+OK"))
    }

    /// What it saves itself to.
    pub(crate) fn dump(&self) -> PathBuf {
        self.dir.join("dump.rdb")
    }

    /// Starts it again, empty, on the same port.
    pub async fn restart(&mut self) {
        self.kill();
        fs::remove_file(self.dump()).ok();
        self.restart_with_its_dump(&[]).await;
    }

    /// Starts it again on the same port, with what it has saved and with these settings more.
    pub async fn restart_with_its_dump(&mut self, settings: &[&str]) {
        self.begin(settings);
        until("redis-server answers", TIMEOUT, async || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "redis-server ended: {ended:?}");
            Look::when(answers(self.port).await, || "no PONG".to_owned())
        })
        .await;
    }

    /// The same without waiting until it answers.
    pub fn begin(&mut self, settings: &[&str]) {
        self.kill();
        let clock = self.clock.iter().flat_map(|file| crate::role::own_clock(file));
        let child = Command::new("redis-server")
            .args(&self.first)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            // Changing its title would overwrite the mark in its environment.
            .args(["--set-proc-title", "no", "--save", "", "--appendonly", "no"])
            .args(["--repl-diskless-sync-delay", "0", "--dir"])
            .arg(&self.dir)
            .args(settings)
            .env(MARK, &self.mark)
            .envs(clock)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("redis-server is installed (tests/run sees to it)");
        self.child = Some(child);
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
