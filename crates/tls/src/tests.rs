//! Both ends of a connection, with certificates made for it.

mod roles;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use crate::{Callers, Client, HTTP2, Identity, Named, Roots, Server, TlsError};

const FOR_SERVERS: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];
const FOR_BOTH: &[ExtendedKeyUsagePurpose] =
    &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// A CA, and a directory for what it signs.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ca(&self) -> Named {
        Named::new("--tls-client-ca", self.path().join("ca.pem"))
    }

    fn identity(&self, name: &str) -> Identity {
        let file = |flag, end| Named::new(flag, self.path().join(format!("{name}.{end}")));
        Identity::new(file("--tls-cert", "pem"), file("--tls-key", "key"))
    }

    fn sign(&self, name: &str, purposes: &[ExtendedKeyUsagePurpose]) -> Identity {
        self.sign_until(name, purposes, 2101)
    }

    fn sign_until(&self, name: &str, purposes: &[ExtendedKeyUsagePurpose], year: i32) -> Identity {
        self.sign_with(name, purposes, year, &[])
    }

    fn sign_with(
        &self,
        name: &str,
        purposes: &[ExtendedKeyUsagePurpose],
        year: i32,
        uris: &[&str],
    ) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.extended_key_usages = purposes.to_vec();
        params.not_after = date_time_ymd(year, 2, 1);
        let key = KeyPair::generate().unwrap();
        let identity = self.identity(name);
        fs::write(&identity.certificate.path, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&identity.key.path, key.serialize_pem()).unwrap();
        identity
    }
}

/// What each end says to a connection on which one byte goes each way.
async fn meet(server: &Server, client: &Client, host: &str) -> (Result<(), String>, Result<(), String>) {
    let (near, far) = duplex(16 * 1024);
    let serve = async {
        let mut stream = server.accept(far).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    let call = async {
        let mut stream = client.connect(host, near).await?;
        stream.read_u8().await?;
        stream.write_all(b"y").await?;
        stream.flush().await
    };
    let (served, called) = tokio::join!(serve, call);
    (served.map(drop).map_err(|e| e.to_string()), called.map_err(|e| e.to_string()))
}

fn agent_of(ca: &Authority, identity: Identity) -> Server {
    Server::open(identity, Callers::FrontDoors(ca.ca()), HTTP2).unwrap()
}

fn front_door_of(ca: &Authority, identity: Option<Identity>) -> Client {
    Client::open(Roots::File(ca.ca()), identity, HTTP2).unwrap()
}

#[tokio::test]
async fn two_of_one_farm_talk() {
    let farm = Authority::new("farm");
    let agent = agent_of(&farm, farm.sign("node-a", FOR_SERVERS));
    let door = front_door_of(&farm, Some(farm.sign("door", FOR_BOTH)));
    assert_eq!(meet(&agent, &door, "node-a").await, (Ok(()), Ok(())));
}

#[tokio::test]
async fn an_agent_refuses_every_caller_but_front_doors_of_its_farm() {
    let (farm, other) = (Authority::new("farm"), Authority::new("other"));
    let agent = agent_of(&farm, farm.sign("node-a", FOR_SERVERS));
    for (what, shown) in [
        ("nothing", None),
        ("an agent's certificate", Some(farm.sign("node-b", FOR_SERVERS))),
        ("a certificate for no purpose", Some(farm.sign("any", &[]))),
        ("another farm's", Some(other.sign("door", FOR_BOTH))),
        ("an expired one", Some(farm.sign_until("late", FOR_BOTH, 2020))),
    ] {
        let (served, called) = meet(&agent, &front_door_of(&farm, shown), "node-a").await;
        assert!(served.is_err(), "{what} was taken");
        assert!(called.is_err(), "{what}: who was refused learns it");
    }
}

#[tokio::test]
async fn a_front_door_refuses_agents_of_other_names_and_farms() {
    let (farm, other) = (Authority::new("farm"), Authority::new("other"));
    let door = front_door_of(&farm, Some(farm.sign("door", FOR_BOTH)));
    let agent = agent_of(&farm, farm.sign("node-a", FOR_SERVERS));
    let (_, called) = meet(&agent, &door, "node-b").await;
    assert!(called.unwrap_err().contains("not valid for name"), "the name matters");
    let (_, called) = meet(&agent_of(&farm, other.sign("node-a", FOR_SERVERS)), &door, "node-a").await;
    assert!(called.unwrap_err().contains("UnknownIssuer"), "the CA matters");
}

#[tokio::test]
async fn each_connection_shows_its_certificate_again() {
    let farm = Authority::new("farm");
    let agent = agent_of(&farm, farm.sign("node-a", FOR_SERVERS));
    let open = Server::open(farm.sign("door-a", FOR_SERVERS), Callers::Anyone, HTTP2).unwrap();
    let door = front_door_of(&farm, Some(farm.sign("door", FOR_BOTH)));
    for (server, host, again) in
        [(&agent, "node-a", HandshakeKind::Full), (&open, "door-a", HandshakeKind::Resumed)]
    {
        let mut last = None;
        for _ in 0..2 {
            let (near, far) = duplex(16 * 1024);
            let serve = async {
                let mut stream = server.accept(far).await.unwrap();
                stream.write_all(b"x").await.unwrap();
                stream.shutdown().await.ok();
            };
            let call = async {
                let mut stream = door.connect(host, near).await.unwrap();
                stream.read_u8().await.unwrap();
                stream.get_ref().1.handshake_kind()
            };
            last = tokio::join!(serve, call).1;
        }
        assert_eq!(last, Some(again), "{host}");
    }
}

#[tokio::test]
async fn who_may_show_a_certificate_need_not() {
    let farm = Authority::new("farm");
    let server =
        Server::open(farm.sign("a", FOR_SERVERS), Callers::MayReadMetrics(farm.ca()), HTTP2).unwrap();
    assert_eq!(meet(&server, &front_door_of(&farm, None), "a").await, (Ok(()), Ok(())));
    let agent = front_door_of(&farm, Some(farm.sign("b", FOR_SERVERS)));
    assert!(meet(&server, &agent, "a").await.0.is_err(), "a wrong one is worse than none");
}

#[tokio::test]
async fn what_is_no_tls_is_sent_away_at_once() {
    let farm = Authority::new("farm");
    let server = agent_of(&farm, farm.sign("node-a", FOR_SERVERS));
    let (mut near, far): (DuplexStream, _) = duplex(16 * 1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let began = Instant::now();
    assert!(server.accept(far).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_is_given_up() {
    let farm = Authority::new("farm");
    let server = agent_of(&farm, farm.sign("node-a", FOR_SERVERS));
    let (_near, far) = duplex(16 * 1024);
    let began = Instant::now();
    assert_eq!(server.accept(far).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[test]
fn a_pair_that_will_not_do_names_the_flag_and_the_file() {
    let farm = Authority::new("farm");
    let good = farm.sign("good", FOR_BOTH);
    let other = farm.sign("other", FOR_BOTH);
    let none = Named::new("--tls-cert", farm.path().join("missing.pem"));
    fs::write(farm.path().join("empty.pem"), "nothing\n").unwrap();
    let empty = |flag| Named::new(flag, farm.path().join("empty.pem"));
    let pair = |certificate: &Named, key: &Named| Identity::new(certificate.clone(), key.clone());
    for (identity, flag, file) in [
        (pair(&none, &good.key), "--tls-cert", "missing.pem"),
        (pair(&empty("--tls-cert"), &good.key), "--tls-cert", "empty.pem"),
        (pair(&good.certificate, &empty("--tls-key")), "--tls-key", "empty.pem"),
        (pair(&good.certificate, &other.key), "--tls-key", "other.key"),
    ] {
        let error: TlsError = Server::open(identity.clone(), Callers::Anyone, HTTP2).unwrap_err();
        assert_eq!(error.flag, flag, "{error}");
        assert!(error.to_string().contains(file), "{error}");
        let error = Client::open(Roots::File(farm.ca()), Some(identity), HTTP2).unwrap_err();
        assert_eq!(error.flag, flag, "{error}");
    }
    let ca = Callers::FrontDoors(empty("--tls-client-ca"));
    assert_eq!(Server::open(good, ca, HTTP2).unwrap_err().flag, "--tls-client-ca");
}

/// Waits until the certificate that the server shows is that of this name, or is not.
async fn shows(server: &Server, client: &Client, host: &str, wanted: bool) {
    let began = Instant::now();
    while meet(server, client, host).await.1.is_ok() != wanted {
        assert!(began.elapsed() < Duration::from_secs(10), "{host} is shown: {}", !wanted);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_certificate_that_was_replaced_is_shown_to_new_connections_and_a_bad_one_is_not() {
    let farm = Authority::new("farm");
    let (before, after) = (farm.sign("before", FOR_BOTH), farm.sign("after", FOR_BOTH));
    let live = farm.identity("live");
    let install = |certificate: &Named, key: &Named| {
        for (from, to) in [(certificate, &live.certificate), (key, &live.key)] {
            let new = to.path.with_extension("new");
            fs::copy(&from.path, &new).unwrap();
            fs::rename(&new, &to.path).unwrap();
        }
    };
    install(&before.certificate, &before.key);
    let server = Server::open(live.clone(), Callers::Anyone, HTTP2).unwrap();
    let client = Client::open(Roots::File(farm.ca()), None, HTTP2).unwrap();
    let keeping = tokio::spawn({
        let server = server.clone();
        async move { server.keep_fresh().await }
    });

    let (near, far) = duplex(16 * 1024);
    let (old, call) = tokio::join!(server.accept(far), client.connect("before", near));
    let (mut old, mut call) = (old.unwrap(), call.unwrap());

    install(&after.certificate, &after.key);
    shows(&server, &client, "after", true).await;
    shows(&server, &client, "before", false).await;
    call.write_all(b"still here").await.unwrap();
    call.flush().await.unwrap();
    let mut said = [0; 10];
    old.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"still here", "a connection stays when its certificate is replaced");

    install(&before.certificate, &after.key);
    sleep(Duration::from_millis(2500)).await;
    shows(&server, &client, "after", true).await;
    keeping.abort();
}

#[test]
fn the_end_of_a_certificate_is_reported() {
    let farm = Authority::new("farm");
    for (year, seconds) in [(2040, 2_211_667_200), (2101, 4_136_659_200_u64)] {
        let server = Server::open(farm.sign_until("a", FOR_BOTH, year), Callers::Anyone, HTTP2).unwrap();
        assert_eq!(server.not_after(), Some(seconds));
    }
}

#[test]
fn the_names_of_a_certificate_are_reported() {
    let farm = Authority::new("farm");
    for (name, host, good) in [
        ("node-a", "node-a", true),
        ("node-a", "node-b", false),
        ("10.0.0.7", "10.0.0.7", true),
        ("10.0.0.7", "10.0.0.8", false),
        ("::1", "[::1]", true),
        ("node-a", "a b", false),
    ] {
        let server = Server::open(farm.sign(name, FOR_BOTH), Callers::Anyone, HTTP2).unwrap();
        assert_eq!(server.is_for(host), good, "{name} {host}");
    }
}

#[test]
fn the_names_of_a_certificate_are_known_without_a_look_at_the_disk() {
    let farm = Authority::new("farm");
    let identity = farm.sign("node-a", FOR_BOTH);
    let file = identity.certificate.path.clone();
    let server = Server::open(identity, Callers::Anyone, HTTP2).unwrap();
    fs::remove_file(file).unwrap();
    assert!(server.is_for("node-a") && !server.is_for("node-b"));
    assert!(server.not_after().is_some());
}

#[test]
fn a_byte_order_mark_before_a_certificate_or_a_key_does_not_count() {
    let farm = Authority::new("farm");
    let identity = farm.sign("a", FOR_SERVERS);
    for file in [&identity.certificate.path, &identity.key.path, &farm.path().join("ca.pem")] {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    }
    Server::open(identity, Callers::FrontDoors(farm.ca()), HTTP2).unwrap();
}
