//! A Redis that changes its credentials, cuts connections, is busy, or is set up to forget.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model::Timing;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use registry::{Counts, Registry, RegistryError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::servers::RedisServer;

/// A farm has its registry back within this time after a change is complete.
const SOON: Duration = Duration::from_secs(2);

fn open(url: &str, password: Option<&Path>) -> Registry {
    Registry::open_with(url, password, "test", Timing::FARM).unwrap()
}

/// Why a call fails.
async fn refused(registry: &Registry) -> String {
    match registry.ping().await {
        Err(RegistryError::Away(outage)) => outage.to_string(),
        other => panic!("it must be away, not {other:?}"),
    }
}

/// Waits until calls succeed again.
async fn recovers(registry: &Registry) {
    let deadline = Instant::now() + SOON;
    while let Err(error) = registry.ping().await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(registry.trouble().is_none());
}

#[tokio::test]
async fn a_renewed_password_is_read_for_the_next_connection() {
    let redis = RedisServer::start().await;
    redis.run("ACL SETUSER farm on >one ~* &* +@all").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "one\n").unwrap();
    let registry = open(&format!("redis://farm@127.0.0.1:{}", redis.port), Some(file.path()));
    registry.ping().await.unwrap();

    // Redis first, then the file: between them the word of the server is known.
    redis.run("ACL SETUSER farm resetpass >two").await;
    redis.query::<i64>("CLIENT KILL USER farm").await.unwrap();
    assert!(refused(&registry).await.contains("WRONGPASS"));
    assert!(registry.trouble().unwrap().to_string().contains("WRONGPASS"));
    fs::write(&file, "two\n").unwrap();
    recovers(&registry).await;

    // The file first, then Redis.
    fs::write(&file, "three\n").unwrap();
    redis.run("ACL SETUSER farm resetpass >three").await;
    redis.query::<i64>("CLIENT KILL USER farm").await.unwrap();
    registry.ping().await.unwrap();

    // A file that is gone takes nothing away: the password of before is still right.
    fs::remove_file(&file).unwrap();
    redis.query::<i64>("CLIENT KILL USER farm").await.unwrap();
    registry.ping().await.unwrap();
}

#[tokio::test]
async fn a_connection_counts_only_when_the_server_knows_who_asks() {
    let redis = RedisServer::start().await;
    redis.run("ACL SETUSER default resetpass >secret").await;
    let none = open(&redis.url(), None);
    assert!(refused(&none).await.contains("NOAUTH"));
    let wrong = open(&format!("redis://:wrong@127.0.0.1:{}", redis.port), None);
    assert!(refused(&wrong).await.contains("WRONGPASS"));
    let right = open(&format!("redis://:secret@127.0.0.1:{}/3", redis.port), None);
    right.ping().await.unwrap();
    right.nodes().await.unwrap();
}

/// What a farm and its Redis need to trust each other.
struct Pair {
    ca: String,
    cert: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let cert = params.signed_by(&key, &ca).unwrap().pem();
        Self { ca: ca.pem(), cert, key: key.serialize_pem() }
    }

    fn write(&self, dir: &Path) {
        fs::write(dir.join("ca.pem"), &self.ca).unwrap();
        fs::write(dir.join("cert.pem"), &self.cert).unwrap();
        fs::write(dir.join("key.pem"), &self.key).unwrap();
    }
}

#[tokio::test]
async fn renewed_certificates_are_read_for_the_next_connection() {
    let dir = tempfile::tempdir().unwrap();
    Pair::new().write(dir.path());
    let [ca, cert, key] =
        ["ca.pem", "cert.pem", "key.pem"].map(|name| dir.path().join(name).display().to_string());
    let secure = Cell::new(0);
    let redis = RedisServer::with(|port, other| {
        secure.set(other);
        let (port, other) = (port.to_string(), other.to_string());
        [
            ["--port", &port],
            ["--tls-port", &other],
            ["--tls-ca-cert-file", &ca],
            ["--tls-cert-file", &cert],
            ["--tls-key-file", &key],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
    })
    .await;
    let url = format!("rediss://localhost:{}?ca={ca}&cert={cert}&key={key}", secure.get());
    let registry = open(&url, None);
    recovers(&registry).await;

    // Another authority: with the old files no new connection comes about, on either side.
    Pair::new().write(dir.path());
    redis.run(&format!("CONFIG SET tls-ca-cert-file {ca} tls-cert-file {cert} tls-key-file {key}")).await;
    redis.query::<i64>("CLIENT KILL TYPE normal SKIPME yes").await.unwrap();
    recovers(&registry).await;
}

#[tokio::test]
async fn a_call_whose_connection_is_cut_is_made_again() {
    let redis = RedisServer::start().await;
    let registry = open(&redis.url(), None);
    for _ in 0..20 {
        registry.nodes().await.unwrap();
        redis.query::<i64>("CLIENT KILL TYPE normal SKIPME yes").await.unwrap();
    }
}

/// Passes bytes on to a server and back. Once armed, it loses the answer to the next call about refusals, and the connection.
struct Lossy {
    port: u16,
    armed: Arc<AtomicBool>,
}

impl Lossy {
    async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, Arc::clone(&is_armed)));
            }
        });
        Self { port, armed }
    }
}

async fn pass(mut client: TcpStream, server: u16, armed: Arc<AtomicBool>) {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_lost = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let is_meant = String::from_utf8_lossy(&asked[..read]).contains("no-capacity");
                is_lost |= is_meant && armed.swap(false, Ordering::Relaxed);
                if server.write_all(&asked[..read]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if is_lost || client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn counts_whose_answer_is_lost_are_not_sent_again() {
    let redis = RedisServer::start().await;
    let lossy = Lossy::before(redis.port).await;
    let registry = open(&format!("redis://127.0.0.1:{}", lossy.port), None);
    let counts = Counts { refused: [("no-capacity", 1)].into(), slots: None };
    registry.add_counts(&counts).await.unwrap();
    lossy.armed.store(true, Ordering::Relaxed);
    registry.add_counts(&counts).await.unwrap_err();
    recovers(&registry).await;
    let minutes = registry.minutes(5).await.unwrap();
    let counted: u64 = minutes.iter().filter_map(|minute| minute.refused.get("no-capacity")).sum();
    assert_eq!(counted, 2);
}

#[tokio::test]
async fn a_busy_server_is_away_and_meets_no_storm_of_connections() {
    let redis = RedisServer::start().await;
    redis.run("CONFIG SET busy-reply-threshold 1").await;
    let registry = open(&redis.url(), None);
    registry.ping().await.unwrap();
    let connections = async || {
        let stats: String = redis.query("INFO stats").await.unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = connections().await;
    let url = redis.url();
    let script = tokio::spawn(async move {
        let mut connection =
            redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
        let endless = redis::cmd("EVAL").arg("while true do end").arg(0).to_owned();
        endless.exec_async(&mut connection).await
    });
    let deadline = Instant::now() + SOON;
    while registry.ping().await.is_ok() {
        assert!(Instant::now() < deadline, "it is never busy");
    }
    for _ in 0..100 {
        assert!(refused(&registry).await.starts_with("BUSY"));
    }
    let late = open(&redis.url(), None);
    assert!(refused(&late).await.starts_with("BUSY"));
    assert!(registry.trouble().unwrap().outward().ends_with(": BUSY"));
    redis.run("SCRIPT KILL").await;
    script.abort();
    recovers(&registry).await;
    recovers(&late).await;
    // The script's, the late one's, the one that kills, and that of this question.
    let made = connections().await - before;
    assert!(made <= 5, "{made} connections were made");
}

#[tokio::test]
async fn a_server_that_evicts_is_warned_of_as_long_as_it_does() {
    let redis = RedisServer::start().await;
    redis.run("CONFIG SET maxmemory 100mb maxmemory-policy allkeys-lru").await;
    redis.run("ACL SETUSER blind on nopass ~* &* +@all -info").await;
    let registry = open(&redis.url(), None);
    registry.ping().await.unwrap();
    let warned = async |expected: bool| {
        let deadline = Instant::now() + SOON;
        while registry.warnings().is_empty() == expected {
            assert!(Instant::now() < deadline, "{:?}", registry.warnings());
            sleep(Duration::from_millis(10)).await;
        }
    };
    warned(true).await;
    assert!(registry.warnings()[0].contains("allkeys-lru"), "{:?}", registry.warnings());
    redis.run("CONFIG SET maxmemory-policy noeviction").await;
    redis.query::<i64>("CLIENT KILL TYPE normal SKIPME yes").await.unwrap();
    registry.ping().await.unwrap();
    warned(false).await;

    // Nobody must be allowed to ask for its settings.
    let blind = open(&format!("redis://blind:x@127.0.0.1:{}", redis.port), None);
    blind.ping().await.unwrap();
    assert!(blind.warnings().is_empty());
}
