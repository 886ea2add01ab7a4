//! Callers behind load balancers: who they are is what a load balancer that is believed says, and no other peer.

use std::net::{Ipv4Addr, SocketAddr};

use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Client, Farm};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// A connection from this address of this machine.
async fn from(address: Ipv4Addr, door: Client) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    socket.connect(door.addr).await.unwrap()
}

/// Says this, and returns the status of the answer.
async fn status(stream: &mut TcpStream, words: &str) -> String {
    stream.write_all(words.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    timeout(TIMEOUT, stream.read_exact(&mut line)).await.unwrap().unwrap();
    String::from_utf8_lossy(&line[9..]).into_owned()
}

const BALANCER: Ipv4Addr = Ipv4Addr::LOCALHOST;
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn ask(more: &str) -> String {
    format!("GET /v1/nodes HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer wrong\r\n{more}\r\n")
}

#[tokio::test]
async fn the_log_names_the_caller_behind_a_load_balancer_that_is_believed() {
    let flags = ["--trusted-proxy", "127.0.0.1,10.0.0.0/8"];
    let farm = Farm::builder().keys().door_args(&flags).agent(AgentPlan::slots(1)).start().await;
    let door = farm.door(0);
    for (address, words, peer) in [
        (BALANCER, ask("x-forwarded-for: 192.0.2.1\r\n"), "192.0.2.1"),
        (BALANCER, ask("x-forwarded-for: 203.0.113.9, 192.0.2.2, 10.1.1.1\r\n"), "192.0.2.2"),
        (BALANCER, format!("PROXY TCP4 192.0.2.3 10.0.0.1 5555 80\r\n{}", ask("")), "192.0.2.3"),
        (
            BALANCER,
            format!("PROXY TCP4 10.0.0.9 10.0.0.1 5555 80\r\n{}", ask("x-forwarded-for: 192.0.2.4\r\n")),
            "192.0.2.4",
        ),
        (BALANCER, ask(""), "127.0.0.1"),
        (STRANGER, ask("x-forwarded-for: 192.0.2.6\r\n"), "127.0.0.2"),
    ] {
        let answer = status(&mut from(address, door).await, &words).await;
        assert_eq!(answer, "401", "{words}");
        farm.doors[0].role.logs(&format!("\"peer\":\"{peer}\"")).await;
    }
    assert!(!farm.doors[0].role.log().contains("192.0.2.6"), "a stranger is not believed");
    // What a stranger says before its request is part of it, and no request.
    let words = format!("PROXY TCP4 192.0.2.6 10.0.0.1 5555 80\r\n{}", ask(""));
    assert_eq!(status(&mut from(STRANGER, door).await, &words).await, "400");
    farm.finish().await;
}

#[tokio::test]
async fn callers_behind_one_load_balancer_have_limits_of_their_own() {
    let flags = ["--trusted-proxy", "127.0.0.1", "--max-live-per-caller", "1"];
    let farm = Farm::builder().door_args(&flags).agent(AgentPlan::slots(1)).start().await;
    let subscribe = |caller: &str| {
        format!(
            "GET /v1/live HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {caller}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut held = Vec::new();
    for (address, caller, wanted) in [
        (BALANCER, "192.0.2.1", "101"),
        (BALANCER, "192.0.2.2", "101"),
        (BALANCER, "192.0.2.1", "429"),
        // A stranger has one, whatever name it gives.
        (STRANGER, "192.0.2.3", "101"),
        (STRANGER, "192.0.2.4", "429"),
    ] {
        let mut stream = from(address, farm.door(0)).await;
        assert_eq!(status(&mut stream, &subscribe(caller)).await, wanted, "{address} for {caller}");
        held.push(stream);
    }
    drop(held);
    farm.finish().await;
}
