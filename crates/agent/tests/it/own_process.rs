//! An agent in a process of its own, where limits and children are its alone.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent::Agent;
use model::SpawnId;
use registry::Registry;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::transport::Channel;
use wire::v1;
use wire::v1::node_agent_client::NodeAgentClient;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{STAY, config, timing, until};

const STATE_DIR: &str = "AGENT_TEST_STATE_DIR";

/// What the process does: it runs an agent until its standard input ends.
#[test]
#[ignore = "other tests run it in a process of its own"]
fn agent_process() {
    let Some(dir) = std::env::var_os(STATE_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let unused = tempfile::tempdir().unwrap();
        let mut config = config(&unused);
        config.state_dir = dir.into();
        config.inherit_orphans = true;
        config.ping_interval = Duration::from_secs(1);
        config.slots = 8;
        let address = config.state_dir.join("address");
        let agent = Agent::start(config, Registry::embedded(timing())).await.unwrap();
        std::fs::write(address, agent.grpc_addr().to_string()).unwrap();
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
            .await
            .unwrap()
            .unwrap();
        agent.shutdown(agent::OnShutdown::Kill, tokio_util::sync::CancellationToken::new()).await;
    });
}

struct Own {
    process: Child,
    client: NodeAgentClient<Channel>,
    _dir: TempDir,
}

impl Drop for Own {
    fn drop(&mut self) {
        // Its standard input ends, and with it the agent and its spawns.
        drop(self.process.stdin.take());
        self.process.wait().ok();
    }
}

impl Own {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "own_process::agent_process"])
            .env(STATE_DIR, dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let address = dir.path().join("address");
        let address = until("the agent listens", async || {
            std::fs::read_to_string(&address).ok().filter(|text| text.parse::<std::net::SocketAddr>().is_ok())
        })
        .await;
        let client = NodeAgentClient::connect(format!("http://{address}")).await.unwrap();
        Self { process, client, _dir: dir }
    }

    async fn spawn(&self, script: &str) -> Outcome {
        let ask = v1::SpawnRequest {
            spawn_id: SpawnId::mint().to_string(),
            renderer_type: v1::RendererType::Csr.into(),
            session_token: Some(script.to_owned()),
            deadline_ms: 20_000,
            reservation_ms: 60_000,
            ..Default::default()
        };
        self.client.clone().spawn(ask).await.unwrap().into_inner().outcome.unwrap()
    }

    fn proc(&self, what: &str) -> String {
        format!("/proc/{}/{what}", self.process.id())
    }

    /// Time on processors so far, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn limit_files(&self, files: u64) {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap();
    }
}

/// The state and the parent of every process.
fn children_of(parent: u32) -> Vec<(u32, char)> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        (fields.next()?.parse() == Ok(parent)).then_some((pid, state))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_inherits_what_spawns_leave_behind_and_reaps_it() {
    let agent = Own::start().await;
    let before = children_of(agent.process.id()).len();
    let script = format!("for i in {{1..20}}; do setsid -f sleep 0.5; done; {STAY}");
    assert!(matches!(agent.spawn(&script).await, Outcome::Ready(_)));
    until("they are its children", async || {
        (children_of(agent.process.id()).len() >= before + 21).then_some(())
    })
    .await;
    until("they have ended and are reaped", async || {
        (children_of(agent.process.id()).len() == before + 1).then_some(())
    })
    .await;
    // Statuses of the agent's own processes are not stolen meanwhile.
    for _ in 0..50 {
        let Outcome::Ended(ended) = agent.spawn("exit 6").await else { panic!("not ended") };
        assert_eq!(ended.exit.unwrap().code, Some(6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_descriptors_refuses_does_not_spin_and_recovers() {
    let agent = Own::start().await;
    let Outcome::Ready(_) = agent.spawn(STAY).await else { panic!("not ready") };
    agent.limit_files(3);
    // Nothing can be accepted, and somebody wants to be.
    let listed = agent.client.clone().list(v1::ListRequest::default()).await.unwrap().into_inner();
    let address = std::fs::read_to_string(agent._dir.path().join("address")).unwrap();
    let _waits = std::net::TcpStream::connect(&address).unwrap();
    let (ticks, since) = (agent.ticks(), Instant::now());
    for _ in 0..3 {
        let asked = Instant::now();
        let Outcome::Refused(refused) = agent.spawn(STAY).await else { panic!("not refused") };
        assert_eq!(refused.reason(), Reason::CannotStart);
        assert!(refused.detail.contains("Too many open files"), "{refused:?}");
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
    tokio::time::sleep(Duration::from_secs(2).saturating_sub(since.elapsed())).await;
    let busy = Duration::from_millis((agent.ticks() - ticks) * 10);
    assert!(busy < since.elapsed() / 2, "busy for {busy:?} of {:?}", since.elapsed());
    assert_eq!(
        agent.client.clone().list(v1::ListRequest::default()).await.unwrap().into_inner().spawns,
        listed.spawns
    );
    agent.limit_files(1024);
    let Outcome::Ready(_) = agent.spawn(STAY).await else { panic!("not ready") };
    NodeAgentClient::connect(format!("http://{address}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_stopped_while_spawns_race_loses_none() {
    let agent = Own::start().await;
    for _ in 0..2 {
        let Outcome::Ready(_) = agent.spawn(STAY).await else { panic!("not ready") };
    }
    let agent = std::sync::Arc::new(agent);
    let race: Vec<_> = (0..6)
        .map(|i| {
            let agent = std::sync::Arc::clone(&agent);
            tokio::spawn(async move { agent.spawn(&format!("sleep 0.{i}; {STAY}")).await })
        })
        .collect();
    let list =
        async || agent.client.clone().list(v1::ListRequest::default()).await.unwrap().into_inner().spawns;
    until("they are on their way", async || (list().await.len() >= 4).then_some(())).await;
    let signal = |signal| {
        let pid = Pid::from_raw(agent.process.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    signal(rustix::process::Signal::STOP);
    // Longer than any silence that a spawn may keep.
    tokio::time::sleep(Duration::from_secs(7)).await;
    signal(rustix::process::Signal::CONT);
    for call in race {
        let outcome = call.await.unwrap();
        assert!(matches!(outcome, Outcome::Ready(_)), "{outcome:?}");
    }
    // Each is judged by what it says from now on.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let spawns = list().await;
    let states: Vec<&str> = spawns.iter().map(|spawn| spawn.state.as_str()).collect();
    assert_eq!(states, ["ready"; 8]);
}
