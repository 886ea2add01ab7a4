//! An agent on ports of its own, and what tests ask it.

use std::future::Future;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use agent::{Agent, Config, Launcher, OnShutdown};
use model::{ExitReason, NodeId, RequestId, SpawnId, SpawnRecord, SpawnState, Timing};
use registry::Registry;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use wire::v1;
use wire::v1::node_agent_client::NodeAgentClient;
use wire::v1::spawn_reply::Outcome;

/// Long enough for a busy machine, short enough for a person.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

/// Says ready, then stays.
pub(crate) const STAY: &str = "say ready; while alive; do sleep 0.2; say ping; done";

pub(crate) fn timing() -> Timing {
    Timing { reservation: Duration::from_secs(60), ..Timing::FARM }
}

/// Waits until `probe` gives something, and fails with `what` when it never does.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(TIMEOUT, wait).await {
        Ok(found) => found,
        Err(_) => panic!("waited in vain until {what}"),
    }
}

/// A running agent and its client.
#[derive(Debug)]
pub(crate) struct Farm {
    pub(crate) agent: Agent,
    pub(crate) registry: Registry,
    pub(crate) client: NodeAgentClient<Channel>,
    pub(crate) dir: TempDir,
    pub(crate) ports: RangeInclusive<u16>,
}

pub(crate) fn config(dir: &TempDir) -> Config {
    let node: NodeId = "node-a".parse().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let server = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/server.sh");
    let first = 20_000 + fastrand::u16(0..200) * 100;
    Config {
        listen: any,
        admin_listen: any,
        liveliness_listen: any,
        slots: 4,
        ports: first..=first + 99,
        ready_timeout: Duration::from_secs(10),
        ping_interval: Duration::from_secs(2),
        stop_grace: Duration::from_millis(300),
        heartbeat: Duration::from_millis(50),
        ..Config::new(node, Launcher::Executable(server), dir.path().to_owned())
    }
}

impl Farm {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// An agent whose registry is not there.
    pub(crate) async fn start_alone() -> Self {
        Self::start_alone_with(|_| {}).await
    }

    /// The same with other settings.
    pub(crate) async fn start_alone_with(change: impl FnOnce(&mut Config)) -> Self {
        let registry = Registry::open("redis://127.0.0.1:1", "default", timing()).unwrap();
        Self::start_at(registry, change).await
    }

    async fn start_at(registry: Registry, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        change(&mut config);
        let ports = config.ports.clone();
        let agent = Agent::start(config, registry.clone()).await.unwrap();
        let client = connect(&agent).await;
        Self { agent, registry, client, dir, ports }
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let farm = Self::start_at(Registry::embedded(timing()), change).await;
        until("the node is registered", async || farm.registry.node(farm.agent.node()).await.unwrap()).await;
        farm
    }

    /// Asks for a client-side rendering spawn that does what `script` says.
    pub(crate) fn ask(&self, script: &str) -> v1::SpawnRequest {
        v1::SpawnRequest {
            spawn_id: SpawnId::mint().to_string(),
            renderer_type: v1::RendererType::Csr.into(),
            session_token: Some(script.to_owned()),
            deadline_ms: 20_000,
            reservation_ms: 60_000,
            ..v1::SpawnRequest::default()
        }
    }

    pub(crate) async fn send(&self, ask: &v1::SpawnRequest) -> Outcome {
        let reply = self.client.clone().spawn(ask.clone()).await.unwrap();
        reply.into_inner().outcome.unwrap()
    }

    /// Starts a spawn that stays.
    pub(crate) async fn spawn(&self) -> (SpawnId, v1::Ready) {
        self.spawn_as(STAY).await
    }

    pub(crate) async fn spawn_as(&self, script: &str) -> (SpawnId, v1::Ready) {
        let ask = self.ask(script);
        match self.send(&ask).await {
            Outcome::Ready(ready) => (ask.spawn_id.parse().unwrap(), ready),
            other => panic!("not ready but {other:?}"),
        }
    }

    pub(crate) async fn stop(&self, id: SpawnId) -> v1::stop_reply::Outcome {
        let ask = v1::StopRequest { spawn_id: id.to_string(), ..Default::default() };
        self.client.clone().stop(ask).await.unwrap().into_inner().outcome()
    }

    pub(crate) async fn set_eligibility(&self, eligibility: v1::Eligibility) -> u32 {
        let ask = v1::SetEligibilityRequest {
            eligibility: eligibility.into(),
            ..v1::SetEligibilityRequest::default()
        };
        self.client.clone().set_eligibility(ask).await.unwrap().into_inner().remaining
    }

    pub(crate) async fn list(&self) -> Vec<v1::SpawnInfo> {
        self.client.clone().list(v1::ListRequest::default()).await.unwrap().into_inner().spawns
    }

    pub(crate) async fn info(&self, id: SpawnId) -> v1::SpawnInfo {
        let id = id.to_string();
        self.list().await.into_iter().find(|info| info.spawn_id == id).unwrap()
    }

    pub(crate) async fn log(&self, id: SpawnId) -> Vec<String> {
        let ask = v1::ReadLogRequest { spawn_id: id.to_string(), ..Default::default() };
        self.client.clone().read_log(ask).await.unwrap().into_inner().lines
    }

    /// Waits until the registry has the spawn in this state.
    pub(crate) async fn until_state(&self, id: SpawnId, state: SpawnState) -> SpawnRecord {
        until(&format!("the registry calls it {state}"), async || {
            self.registry.spawn(id).await.unwrap().filter(|record| record.state == state)
        })
        .await
    }

    pub(crate) async fn until_ended(&self, id: SpawnId, reason: ExitReason) -> SpawnRecord {
        let record = self.until_state(id, SpawnState::Exited).await;
        assert_eq!(record.exit.as_ref().unwrap().reason, reason, "{record:?}");
        record
    }

    /// Waits until nothing runs and nothing is taken, here and in the registry.
    pub(crate) async fn until_empty(&self) {
        until("the registry counts nothing", async || {
            let node = self.registry.node(self.agent.node()).await.unwrap()?;
            (node.used == 0 && node.gpu_used == 0).then_some(())
        })
        .await;
        let metrics = self.metrics().await;
        for gauge in ["slots_used", "ports_used", "gpu_slots_used"] {
            let line = format!("hatchery_agent_{gauge} 0");
            assert!(metrics.lines().any(|l| l == line), "no {line:?} in {metrics}");
        }
    }

    pub(crate) async fn metrics(&self) -> String {
        let answer = http(self.agent.admin_addr(), "GET /metrics HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    }

    pub(crate) async fn shutdown(self, on: OnShutdown) -> TempDir {
        let ended = self.agent.shutdown(on, CancellationToken::new());
        tokio::time::timeout(TIMEOUT, ended).await.unwrap();
        self.dir
    }
}

pub(crate) async fn connect(agent: &Agent) -> NodeAgentClient<Channel> {
    NodeAgentClient::connect(format!("http://{}", agent.grpc_addr())).await.unwrap()
}

/// A spawn call with a request id, as a front door makes it.
pub(crate) fn with_request_id(ask: v1::SpawnRequest, id: &RequestId) -> tonic::Request<v1::SpawnRequest> {
    let mut request = tonic::Request::new(ask);
    request.metadata_mut().insert(wire::REQUEST_ID, id.as_str().parse().unwrap());
    request
}

/// One request without a body, and the whole answer.
pub(crate) async fn http(addr: std::net::SocketAddr, request_line: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request =
        format!("{request_line}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The URL, without `http://` and address, that a spawn was told to report to.
pub(crate) fn reports_to(id: SpawnId) -> String {
    let id = id.to_string();
    let lines = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let urls = lines.filter_map(|line| {
        let line = String::from_utf8(line).ok()?;
        let words: Vec<&str> = line.split('\0').collect();
        let option = |name: &str| words.get(words.iter().position(|word| *word == name)? + 1).copied();
        (option("--id")? == id).then(|| option("--liveliness-endpoint").map(str::to_owned)).flatten()
    });
    let url = urls.last().unwrap_or_else(|| panic!("no process of {id}"));
    url.strip_prefix("http://").unwrap().split_once('/').unwrap().1.to_owned()
}

/// Whether a process runs; one that only waits to be reaped does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

pub(crate) async fn until_gone(pid: u32) {
    until("the process is gone", async || (!runs(pid)).then_some(())).await;
}
