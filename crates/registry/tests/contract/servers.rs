//! Redis servers for tests: one alone, one behind TLS, and clusters.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redis::{Client, FromRedisValue, RedisResult, Value};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::ports::Block;

/// How long a server may take to change its role or its state.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A Redis server that keeps nothing and ends with its owner.
pub(crate) struct RedisServer {
    child: Child,
    dir: TempDir,
    settings: Vec<String>,
    /// Where the file with its users is, if it has one.
    users: Option<TempDir>,
    /// Its time of day is another one, and can be set.
    has_clock: bool,
    pub(crate) port: u16,
    /// The port is its own while it is away, too.
    _ports: Block,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::with(|port, _| vec!["--port".to_owned(), port.to_string()]).await
    }

    /// One that still has its data when it is started again.
    pub(crate) async fn with_data() -> Self {
        Self::with(|port, _| {
            let keep = ["--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned);
            [vec!["--port".to_owned(), port.to_string()], keep.to_vec()].concat()
        })
        .await
    }

    /// One whose clock can be set.
    pub(crate) async fn with_clock() -> Self {
        Self::clocked(|port, _| vec!["--port".to_owned(), port.to_string()], true).await
    }

    /// With settings made from two free ports, the first for its clients.
    pub(crate) async fn with(settings: impl Fn(u16, u16) -> Vec<String>) -> Self {
        Self::clocked(settings, false).await
    }

    async fn clocked(settings: impl Fn(u16, u16) -> Vec<String>, has_clock: bool) -> Self {
        // A program that takes no block may be at a port of it, so a failed start is tried again in another.
        for _ in 0..20 {
            let ports = Block::take();
            let (port, other) = (*ports.range(1).start(), ports.single());
            let dir = tempfile::tempdir().expect("a scratch directory");
            set_clock(&dir, 0);
            let settings = settings(port, other);
            let child = command(&dir, &settings, has_clock)
                .spawn()
                .expect("redis-server is installed (apt-get install redis-server)");
            let mut server = Self { child, dir, settings, users: None, has_clock, port, _ports: ports };
            while server.child.try_wait().expect("it is our child").is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return server;
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        panic!("no port for redis-server in 20 tries");
    }

    /// One with the users of the sample that operators are given, for a farm called `test`, and the default user besides.
    pub(crate) async fn with_users() -> Self {
        let users = include_str!("../../../../deploy/redis/users.acl")
            .replace("{hatchery:default}", "{hatchery:test}")
            .replace("user default off\n", "");
        let directory = tempfile::tempdir().expect("a scratch directory");
        let file = directory.path().join("users.acl");
        std::fs::write(&file, users).expect("a file in it");
        let file = file.to_str().expect("a plain name").to_owned();
        let mut server = Self::with(|port, _| {
            ["--port", &port.to_string(), "--include", &file].map(str::to_owned).to_vec()
        })
        .await;
        server.users = Some(directory);
        server
    }

    /// For one of the sample's users.
    pub(crate) fn url_as(&self, user: &str) -> String {
        format!("redis://{user}:CHANGE-{user}-password@127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends a command and parses the answer.
    pub(crate) async fn query<T: FromRedisValue>(&self, words: &str) -> RedisResult<T> {
        // The machine may be busy.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(TIMEOUT));
        let client = Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        command.arg(words.collect::<Vec<_>>()).query_async(&mut connection).await
    }

    /// Sends a command that must succeed.
    pub(crate) async fn run(&self, words: &str) -> String {
        self.query(words).await.unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    /// Everything that it holds now.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let mut connection = self.connection().await;
        let keys: Vec<Vec<u8>> =
            redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("keys");
        let mut snapshot = Vec::new();
        for key in keys {
            let dump = redis::cmd("DUMP").arg(&key).query_async(&mut connection).await.expect("a dump");
            snapshot.push((key, dump));
        }
        Snapshot(snapshot)
    }

    /// Goes back to what it held then, as a server does that starts with an old file.
    pub(crate) async fn go_back(&self, snapshot: &Snapshot) {
        let mut connection = self.connection().await;
        let mut all = redis::pipe();
        all.atomic().cmd("FLUSHALL").ignore();
        for (key, dump) in &snapshot.0 {
            all.cmd("RESTORE").arg(key).arg(0).arg(dump).ignore();
        }
        let () = all.query_async(&mut connection).await.expect("what it held then");
    }

    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = Client::open(self.url()).expect("a good URL");
        client.get_multiplexed_async_connection().await.expect("the server is there")
    }

    /// Its directory, which it writes its files to.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Waits until what it says to this has these words in it.
    pub(crate) async fn says(&self, words: &str, answer: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let said = self.query::<Value>(words).await.map(|said| format!("{said:?}"));
            if said.as_ref().is_ok_and(|said| said.contains(answer)) {
                return;
            }
            assert!(Instant::now() < deadline, "{words} does not say {answer}: {said:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops it in the middle of whatever it does.
    pub(crate) fn pause(&self) {
        let pid = self.child.id().to_string();
        let paused = Command::new("kill").args(["-STOP", &pid]).status();
        assert!(paused.expect("there is kill").success());
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        let pid = self.child.id().to_string();
        let resumed = Command::new("kill").args(["-CONT", &pid]).status();
        assert!(resumed.expect("there is kill").success());
    }

    /// Starts it again where it was, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child =
            command(&self.dir, &self.settings, self.has_clock).spawn().expect("it was started before");
        self.says("PING", "PONG").await;
    }

    /// Sets its clock so many seconds ahead of the machine's.
    pub(crate) fn set_clock(&self, ahead: i64) {
        assert!(self.has_clock, "it has the machine's");
        set_clock(&self.dir, ahead);
    }

    /// Has its clock stand still, so many seconds after a time that is always the same.
    pub(crate) fn freeze_clock(&self, seconds: u64) {
        assert!(self.has_clock, "it has the machine's");
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        assert!(days < 28, "that long no test lasts");
        let time = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
        write_clock(&self.dir, &format!("2026-07-{:02} {time}", days + 1));
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(dir: &TempDir, settings: &[String], has_clock: bool) -> Command {
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--repl-diskless-sync-delay", "0"])
        .args(settings)
        .arg("--dir")
        .arg(dir.path())
        .stdout(Stdio::null());
    if has_clock {
        let libraries = std::fs::read_dir("/usr/lib").expect("there is /usr/lib").flatten();
        let library = libraries
            .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
            .find(|library| library.exists())
            .expect("libfaketime is installed (apt-get install libfaketime)");
        // Redis' own allocator asks for the time before the library is ready to answer; the C library's does not.
        command
            .env("LD_PRELOAD", format!("{} libc.so.6", library.display()))
            .env("FAKETIME_TIMESTAMP_FILE", clock_file(dir))
            .env("FAKETIME_NO_CACHE", "1")
            .env("TZ", "UTC")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }
    command
}

fn clock_file(dir: &TempDir) -> PathBuf {
    dir.path().join("clock")
}

/// It reads the file whenever it asks for the time, so the file is replaced at once.
fn set_clock(dir: &TempDir, ahead: i64) {
    write_clock(dir, &format!("{ahead:+}s"));
}

/// The file is read whenever the server asks for the time, so it is replaced at once.
fn write_clock(dir: &TempDir, time: &str) {
    let next = dir.path().join("clock.next");
    std::fs::write(&next, format!("{time}\n")).expect("a scratch file");
    std::fs::rename(next, clock_file(dir)).expect("a scratch file");
}

/// All keys of a server, each with its dump.
pub(crate) struct Snapshot(Vec<(Vec<u8>, Vec<u8>)>);

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Servers that all tests of this process share; nobody drops what is static, so a shell ends them when the process does.
struct Shared {
    servers: Vec<RedisServer>,
    _keeper: Child,
}

impl Shared {
    fn keep(servers: Vec<RedisServer>) -> Self {
        let keeper = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -KILL \"$@\"", "keeper"])
            .args(servers.iter().map(|server| server.child.id().to_string()))
            .stdin(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        Self { servers, _keeper: keeper }
    }
}

/// A server that speaks TLS only, with those only who have a certificate, and the files for it.
pub(crate) struct Secure {
    shared: Shared,
    dir: TempDir,
}

impl Secure {
    pub(crate) async fn shared() -> &'static Self {
        static SERVER: OnceCell<Secure> = OnceCell::const_new();
        SERVER.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let write =
            |name: &str, text: String| std::fs::write(dir.path().join(name), text).expect("it is ours");
        let authority = || {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
        };
        let (ca, other) = (authority(), authority());
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a good name");
        // Another name than its issuer's, or it would pass for self-signed.
        params.distinguished_name.push(DnType::CommonName, "localhost");
        write("ca.pem", ca.pem());
        write("other-ca.pem", other.pem());
        write("cert.pem", params.signed_by(&key, &ca).expect("a certificate").pem());
        write("key.pem", key.serialize_pem());
        let file = |name: &str| dir.path().join(name).display().to_string();
        let server = RedisServer::with(|port, _| {
            let (port, none) = (port.to_string(), "0".to_owned());
            let [port, ca, cert, key] = [
                ["--tls-port", &port],
                ["--tls-ca-cert-file", &file("ca.pem")],
                ["--tls-cert-file", &file("cert.pem")],
                ["--tls-key-file", &file("key.pem")],
            ]
            .map(|pair| pair.map(str::to_owned));
            [["--port".to_owned(), none], port, ca, cert, key].concat()
        });
        let shared = Shared::keep(vec![server.await]);
        Self { shared, dir }
    }

    pub(crate) fn port(&self) -> u16 {
        self.shared.servers[0].port
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A URL with all that is needed.
    pub(crate) fn url(&self) -> String {
        let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| self.file(name));
        let (ca, cert, key) = (ca.display(), cert.display(), key.display());
        format!("rediss://localhost:{}?ca={ca}&cert={cert}&key={key}", self.port())
    }
}

/// A cluster: its masters share the slots evenly.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<RedisServer>,
}

impl Cluster {
    /// Three masters that all tests share.
    pub(crate) async fn shared() -> &'static Self {
        static CLUSTER: OnceCell<(Cluster, Child)> = OnceCell::const_new();
        let start = async || {
            let shared = Shared::keep(Self::start(3, 0).await.nodes);
            (Self { nodes: shared.servers }, shared._keeper)
        };
        &CLUSTER.get_or_init(start).await.0
    }

    /// So many masters, and replicas of the first one.
    pub(crate) async fn start(masters: usize, replicas: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..masters + replicas {
            let settings = |port: u16, bus: u16| {
                let (port, bus) = (port.to_string(), bus.to_string());
                let pairs = [["--port", &port], ["--cluster-port", &bus], ["--cluster-enabled", "yes"]];
                pairs.concat().into_iter().map(str::to_owned).collect()
            };
            nodes.push(RedisServer::with(settings).await);
        }
        let bus =
            nodes[0].query::<Vec<String>>("CONFIG GET cluster-port").await.expect("it is set")[1].clone();
        for (index, node) in nodes.iter().enumerate() {
            node.run(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)).await;
            if index < masters {
                let (first, last) = (index * 16384 / masters, (index + 1) * 16384 / masters - 1);
                node.run(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")).await;
            }
            if index > 0 {
                node.run(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", nodes[0].port)).await;
            }
        }
        for node in &nodes {
            node.says("CLUSTER INFO", &format!("cluster_known_nodes:{}", nodes.len())).await;
        }
        let first = nodes[0].run("CLUSTER MYID").await;
        for replica in &nodes[masters..] {
            replica.says("CLUSTER NODES", &first).await;
            replica.run(&format!("CLUSTER REPLICATE {first}")).await;
            replica.says("INFO replication", "master_link_status:up").await;
            nodes[0].says("CLUSTER SLOTS", &replica.port.to_string()).await;
        }
        for node in &nodes {
            node.says("CLUSTER INFO", "cluster_state:ok").await;
            node.says("CLUSTER INFO", "cluster_slots_assigned:16384").await;
        }
        Self { nodes }
    }

    /// A URL that names all nodes.
    pub(crate) fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }
}
