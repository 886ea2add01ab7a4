//! Finding the server that has the farm: Sentinels, clusters, TLS, and failovers.

use std::time::Duration;

use model::Timing;
use registry::{Registry, RegistryError, Reserved};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::servers::{Cluster, RedisServer, Secure};
use crate::support::*;

/// Bounds of one call: to be connected, and to be answered.
const CALL: Duration = Duration::from_millis(1500);
/// What a busy machine adds.
const BUSY: Duration = Duration::from_millis(1000);
/// Who follows must have arrived within this time.
const SOON: Duration = Duration::from_secs(2);

/// Says of a port that the master is there.
struct Sentinel {
    port: u16,
    names: watch::Sender<u16>,
}

impl Sentinel {
    async fn naming(master: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let names = watch::Sender::new(master);
        let master = names.subscribe();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let master = master.clone();
                tokio::spawn(async move {
                    let mut asked = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut asked).await {
                        let text = String::from_utf8_lossy(&asked[..read]);
                        let mut answer = "+PONG\r\n".repeat(text.matches("PING").count());
                        if text.contains("GET-MASTER-ADDR-BY-NAME") {
                            assert!(text.contains("farm"), "{text}");
                            let port = master.borrow().to_string();
                            answer += &format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
                        }
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, names }
    }

    /// One that takes connections and never says a word.
    async fn mute() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }
}

fn sentinels(ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("redis-sentinel://{}/farm", hosts.join(","))
}

/// Waits until it can be reached; how long that took.
async fn reached(registry: &Registry) -> Duration {
    let began = Instant::now();
    while let Err(error) = registry.ping().await {
        assert!(began.elapsed() < Duration::from_secs(20), "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

/// One more, by a node that was heard of just now, however slow the machine is.
async fn runs_one(agent: &mut Agent, farm: &Farm) {
    agent.beat(farm).await;
    let spawn = farm.take(&csr()).await.spawn;
    agent.report(farm, launching(spawn)).await;
}

async fn is_away(call: impl Future<Output = Result<Reserved, RegistryError>>) -> String {
    let began = Instant::now();
    let answer = call.await;
    assert!(began.elapsed() < CALL + BUSY, "{:?}", began.elapsed());
    match answer {
        Err(RegistryError::Away(outage)) => outage.to_string(),
        other => panic!("it should be away: {other:?}"),
    }
}

#[tokio::test]
async fn a_mute_or_mistaken_sentinel_is_not_the_last_word() {
    let (master, replica) = (RedisServer::start().await, RedisServer::start().await);
    replica.run(&format!("REPLICAOF 127.0.0.1 {}", master.port)).await;
    let (_mute, mute) = Sentinel::mute().await;
    let (behind, right) = (Sentinel::naming(replica.port).await, Sentinel::naming(master.port).await);
    let farm = Farm::on(&sentinels(&[mute, behind.port, right.port]));
    assert!(reached(&farm.registry).await < SOON);
    let mut agent = Agent::new("node-a", 1);
    agent.takeover(&farm, Vec::new()).await;
    runs_one(&mut agent, &farm).await;
}

#[tokio::test]
async fn an_old_master_that_does_not_know_it_yet_is_left_for_the_one_that_sentinels_name() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinels_all = [Sentinel::naming(old.port).await, Sentinel::naming(old.port).await];
    let [one, two] = &sentinels_all;
    let registry = Farm::on(&sentinels(&[one.port, two.port])).registry;
    registry.ping().await.unwrap();
    let serves = async |server: &RedisServer| {
        server.run("CONFIG RESETSTAT").await;
        registry.ping().await.unwrap();
        let stats: String = server.query("INFO commandstats").await.unwrap();
        stats.contains("cmdstat_ping")
    };
    assert!(serves(&old).await);
    // One of two may be mistaken.
    one.names.send_replace(new.port);
    sleep(SOON).await;
    assert!(serves(&old).await);
    // The old one is there, and is a master as before.
    two.names.send_replace(new.port);
    let deadline = Instant::now() + SOON;
    while !serves(&new).await {
        assert!(Instant::now() < deadline, "it is still asked");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_demoted_master_counts_as_away_and_is_left_for_the_new_one() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    new.run(&format!("REPLICAOF 127.0.0.1 {}", old.port)).await;
    new.says("INFO replication", "master_link_status:up").await;
    let sentinel = Sentinel::naming(old.port).await;
    let farm = Farm::on(&sentinels(&[sentinel.port]));
    let mut agent = Agent::new("node-a", 2);
    agent.takeover(&farm, Vec::new()).await;
    runs_one(&mut agent, &farm).await;
    new.says("DBSIZE", &old.query::<u64>("DBSIZE").await.unwrap().to_string()).await;
    // A call that waits on a server that has lost the farm ends at once.
    let waiting = tokio::spawn({
        let registry = farm.registry.clone();
        async move { registry.wait_for_wakeup(0, Duration::from_secs(5)).await }
    });
    old.says("INFO clients", "blocked_clients:1").await;

    new.run("REPLICAOF NO ONE").await;
    old.run(&format!("REPLICAOF 127.0.0.1 {}", new.port)).await;
    assert!(is_away(farm.registry.reserve(&csr())).await.contains("READONLY"));
    assert!(matches!(waiting.await.unwrap(), Err(RegistryError::Away(_))));
    // As long as no Sentinel knows the new master, there is none.
    is_away(farm.registry.reserve(&csr())).await;
    sentinel.names.send_replace(new.port);
    assert!(reached(&farm.registry).await < SOON);
    assert_eq!(farm.used("node-a").await, (1, 0));
    runs_one(&mut agent, &farm).await;
    assert_eq!(farm.used("node-a").await, (2, 0));
}

/// A master that is replaced because of this, and does not know.
async fn left_for_the_new_one(because: impl AsyncFnOnce(&RedisServer)) {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let sentinel = Sentinel::naming(old.port).await;
    let farm = Farm::on(&sentinels(&[sentinel.port]));
    let mut agent = Agent::new("node-a", 1);
    agent.takeover(&farm, Vec::new()).await;
    because(&old).await;
    sentinel.names.send_replace(new.port);
    is_away(farm.registry.reserve(&csr())).await;
    assert!(reached(&farm.registry).await < SOON);
    assert_eq!(farm.registry.nodes().await.unwrap(), [], "the new one knows nothing yet");
}

#[tokio::test]
async fn a_master_that_hangs_is_left_for_the_new_one() {
    left_for_the_new_one(async |old| old.pause()).await;
}

#[tokio::test]
async fn a_master_that_is_cut_off_from_its_replicas_is_left_for_the_new_one() {
    left_for_the_new_one(async |old| {
        old.run("CONFIG SET min-replicas-to-write 1").await;
    })
    .await;
}

/// The farm's slot, the node that serves it, and another one.
async fn slot(cluster: &Cluster, farm: &str) -> (u64, usize, usize) {
    let asked = &cluster.nodes[0];
    let slot: u64 = asked.query(&format!("CLUSTER KEYSLOT {{hatchery:{farm}}}")).await.unwrap();
    let count = cluster.nodes.len() as u64;
    let owner = (0..count).find(|index| slot < (index + 1) * 16384 / count).unwrap();
    let owner = usize::try_from(owner).unwrap();
    (slot, owner, (owner + 1) % cluster.nodes.len())
}

#[tokio::test]
async fn a_slot_is_never_used_while_it_moves_and_at_once_when_it_has() {
    let cluster = Cluster::shared().await;
    let (slot, from, to) = slot(cluster, "moves").await;
    let (from, to) = (&cluster.nodes[from], &cluster.nodes[to]);
    let farm = Farm::named(&cluster.url(), "moves");
    let mut agent = Agent::new("node-a", 2);
    agent.takeover(&farm, Vec::new()).await;
    runs_one(&mut agent, &farm).await;
    let (old, new) = (from.run("CLUSTER MYID").await, to.run("CLUSTER MYID").await);
    to.run(&format!("CLUSTER SETSLOT {slot} IMPORTING {old}")).await;
    from.run(&format!("CLUSTER SETSLOT {slot} MIGRATING {new}")).await;
    assert!(is_away(farm.registry.reserve(&csr())).await.contains("ASK"));
    let in_slot = format!("CLUSTER COUNTKEYSINSLOT {slot}");
    assert_eq!(to.query::<u64>(&in_slot).await.unwrap(), 0, "nothing may begin there");
    let keys: Vec<String> = from.query(&format!("CLUSTER GETKEYSINSLOT {slot} 1000")).await.unwrap();
    from.run(&format!("MIGRATE 127.0.0.1 {}  0 5000 KEYS {}", to.port, keys.join(" "))).await;
    for node in [to, from] {
        node.run(&format!("CLUSTER SETSLOT {slot} NODE {new}")).await;
    }
    // What the old node refuses was not done, and is done at the new one within the same call.
    runs_one(&mut agent, &farm).await;
    assert_eq!(farm.used("node-a").await, (2, 0));
    assert_eq!(from.query::<u64>(&in_slot).await.unwrap(), 0);
    // Also for those who wait.
    farm.registry.wait_for_wakeup(0, Duration::from_millis(50)).await.unwrap();
}

#[tokio::test]
async fn a_cluster_outlives_the_node_that_the_url_names() {
    let mut cluster = Cluster::start(1, 1).await;
    let farm = Farm::on(&format!("redis-cluster://127.0.0.1:{}", cluster.nodes[0].port));
    let mut agent = Agent::new("node-a", 2);
    agent.takeover(&farm, Vec::new()).await;
    runs_one(&mut agent, &farm).await;
    let keys: u64 = cluster.nodes[0].query("DBSIZE").await.unwrap();
    cluster.nodes[1].says("DBSIZE", &keys.to_string()).await;
    cluster.nodes[0].kill();
    is_away(farm.registry.reserve(&csr())).await;
    cluster.nodes[1].run("CLUSTER FAILOVER TAKEOVER").await;
    cluster.nodes[1].says("CLUSTER INFO", "cluster_state:ok").await;
    assert!(reached(&farm.registry).await < SOON);
    assert_eq!(farm.used("node-a").await, (1, 0));
    runs_one(&mut agent, &farm).await;
    assert_eq!(farm.used("node-a").await, (2, 0));
}

#[tokio::test]
async fn no_certificate_is_trusted_that_the_given_authority_did_not_sign() {
    let secure = Secure::shared().await;
    let at = format!("localhost:{}", secure.port());
    let [ca, other, cert, key] =
        ["ca.pem", "other-ca.pem", "cert.pem", "key.pem"].map(|name| secure.file(name).display().to_string());
    for (url, complaint) in [
        (format!("rediss://{at}?ca={other}&cert={cert}&key={key}"), "invalid peer certificate"),
        (format!("rediss://{at}?cert={cert}&key={key}"), "invalid peer certificate"),
        (format!("rediss://127.0.0.1:{}?ca={ca}&cert={cert}&key={key}", secure.port()), "not valid for name"),
        (format!("rediss://{at}?ca={ca}"), ""),
        (format!("redis://{at}"), ""),
    ] {
        let registry = Registry::open(&url, "test", Timing::FARM).unwrap();
        let why = is_away(registry.reserve(&csr())).await;
        assert!(why.contains(complaint), "{url}: {why}");
    }
    reached(&Farm::on(&secure.url()).registry).await;
}
