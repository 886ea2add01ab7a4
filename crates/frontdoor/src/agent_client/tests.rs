//! Connections over links that are slow, or lead nowhere.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair, SanType,
};
use tls::{Callers, HTTP2, Identity, Named, Roots};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::metadata::MetadataValue;

use super::error::NODE;
use super::*;

/// Certificates of a farm: for the agent at `127.0.0.1`, and for a front door.
fn farm() -> (tempfile::TempDir, tls::Server, tls::Client) {
    let dir = tempfile::tempdir().unwrap();
    let file = |flag, name: &str| Named::new(flag, dir.path().join(name));
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(dir.path().join("ca.pem"), ca.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, key);
    let sign = |name: &str, purposes: &[Purpose], role: &str| {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let uri = format!("spiffe://hatchery/{role}");
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages = purposes.to_vec();
        let key = KeyPair::generate().unwrap();
        let (certificate, secret) =
            (file("--tls-cert", &format!("{name}.pem")), file("--tls-key", &format!("{name}.key")));
        fs::write(&certificate.path, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(&secret.path, key.serialize_pem()).unwrap();
        Identity::new(certificate, secret)
    };
    let agent = sign("127.0.0.1", &[Purpose::ServerAuth], "agent/node-a");
    let door = sign("door", &[Purpose::ServerAuth, Purpose::ClientAuth], "frontdoor");
    let callers = Callers::FrontDoors(file("--tls-client-ca", "ca.pem"));
    let server = tls::Server::open(agent, callers, HTTP2).unwrap();
    let client =
        tls::Client::open(Roots::File(file("--tls-client-ca", "ca.pem")), Some(door), HTTP2).unwrap();
    (dir, server, client)
}

/// An agent's end: it accepts, says that it speaks HTTP/2, and nothing else. Its address.
async fn serve(server: tls::Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = server.accept(stream).await else { continue };
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            stream.flush().await.unwrap();
            open.push(stream);
        }
    });
    address
}

/// Carries bytes in one direction, each `delay` later.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (send, mut late) = mpsc::channel::<(Instant, Vec<u8>)>(1000);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length) = from.read(&mut buffer).await {
            if length == 0 || send.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = late.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}

/// A way to `address` that takes so long there and back, also for the TCP connection itself.
async fn far(address: String, round_trip: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertise = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let address = address.clone();
            tokio::spawn(async move {
                sleep(round_trip).await;
                let far = TcpStream::connect(address).await.unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                tokio::join!(carry(near.0, far.1, round_trip / 2), carry(far.0, near.1, round_trip / 2));
            });
        }
    });
    advertise
}

fn node() -> NodeId {
    "node-a".parse().unwrap()
}

#[test]
fn a_request_waits_for_a_connection_as_long_as_its_deadline_allows() {
    for (left, expected) in [(45_000, 2_812), (16_000, 1_000), (5_000, 1_000), (300, 300), (600_000, 5_000)] {
        assert_eq!(connect_timeout(Duration::from_millis(left)).as_millis(), expected, "{left}");
    }
}

#[tokio::test]
async fn an_agent_that_is_400_ms_away_is_reached_by_tls() {
    let (_dir, server, client) = farm();
    let advertise = far(serve(server).await, Duration::from_millis(400)).await;
    let agents = Agents::new(Some(client), Dialer::Tcp);
    let began = Instant::now();
    agents.link(&node(), &advertise, connect_timeout(Duration::from_secs(45))).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1100), "{:?}: the way was not slow", began.elapsed());
}

#[tokio::test]
async fn an_attempt_to_connect_goes_on_when_the_request_has_moved_on() {
    let (_dir, server, client) = farm();
    let advertise = far(serve(server).await, Duration::from_millis(400)).await;
    let agents = Agents::new(Some(client), Dialer::Tcp);
    let error = agents.link(&node(), &advertise, FURTHER_CONNECT).await.unwrap_err();
    assert!(matches!(error, AgentError::NotSent { connecting: true, .. }), "{error}");
    assert_eq!(agents.unreachable(), [node()]);
    let began = Instant::now();
    agents.link(&node(), &advertise, Duration::from_secs(5)).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(1100), "{:?}: a new attempt", began.elapsed());
    assert!(agents.unreachable().is_empty(), "it can be reached after all");
    agents.link(&node(), &advertise, Duration::ZERO).await.unwrap();
}

/// The holder of the key of one node may have an address recorded for another, and answer there as it likes.
#[tokio::test]
async fn nothing_is_sent_to_an_agent_with_the_certificate_of_another_node() {
    let (_dir, server, client) = farm();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertise = format!("https://{}", listener.local_addr().unwrap());
    let received = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = server.accept(stream).await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        stream.flush().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.ok();
        received
    });
    let agents = Agents::new(Some(client), Dialer::Tcp);
    let node_b: NodeId = "node-b".parse().unwrap();
    let error = agents.link(&node_b, &advertise, Duration::from_secs(5)).await.unwrap_err();
    let AgentError::NotSent { why, connecting: false } = error else { panic!("{error}") };
    assert_eq!(why, "its certificate is not that of its node", "a caller may read this");
    assert_eq!(received.await.unwrap(), b"", "no request, and no preface of HTTP/2");
    assert_eq!(agents.unreachable(), [node_b], "other nodes come first");
    assert!(agents.link(&node(), &advertise, Duration::ZERO).await.is_err(), "an address is not a node's");
}

#[test]
fn an_agent_of_another_node_was_not_reached() {
    let mut status = Status::failed_precondition("this is node-b");
    assert!(matches!(failure(&status), AgentError::Unknown { .. }));
    status.metadata_mut().insert(NODE, MetadataValue::from_static("node-b"));
    match failure(&status) {
        AgentError::NotSent { why, connecting: false } => assert!(why.contains("node-b"), "{why}"),
        other => panic!("{other:?}"),
    }
}
