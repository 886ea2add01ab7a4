//! A client that sends exactly what it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// Checks everything that is true of every error, and gives its code.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        assert_eq!(problem["requestId"].as_str(), self.header("x-request-id"), "{self:?}");
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("urn:hatchery:problem:{code}"));
        assert!(
            !problem["title"].as_str().unwrap().is_empty() && !problem["detail"].as_str().unwrap().is_empty()
        );
        let retry = self.header("retry-after").map(|r| r.parse::<u32>().unwrap());
        assert_eq!(retry.is_some(), matches!(self.status, 429 | 503), "{self:?}");
        assert!(retry.is_none_or(|seconds| (1..=5).contains(&seconds)), "{self:?}");
        code
    }
}

/// Sends raw bytes and reads one answer.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    read(&mut stream).await
}

pub(crate) async fn read(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes))
        .await
        .expect("an answer in time")
        .unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer in {text:?}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers =
        lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    Answer { status, headers, body: body.to_owned() }
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

pub(crate) async fn send(address: SocketAddr, method: &str, path: &str) -> Answer {
    raw(address, &request(method, path, &[], b"")).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, "GET", path).await
}

const JSON: (&str, &str) = ("content-type", "application/json");

pub(crate) async fn spawn(address: SocketAddr, body: &str) -> Answer {
    raw(address, &request("POST", "/spawn", &[JSON], body.as_bytes())).await
}

pub(crate) async fn spawn_keyed(address: SocketAddr, key: &str, body: &str) -> Answer {
    raw(address, &request("POST", "/spawn", &[JSON, ("idempotency-key", key)], body.as_bytes())).await
}

/// A spawn request under way.
pub(crate) fn spawning(address: SocketAddr, body: &str) -> JoinHandle<Answer> {
    let body = body.to_owned();
    tokio::spawn(async move { spawn(address, &body).await })
}

/// Sends a spawn request and keeps the connection, to hang up by dropping it.
pub(crate) async fn begin(address: SocketAddr, headers: &[(&str, &str)], body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let headers: Vec<_> = headers.iter().copied().chain([JSON]).collect();
    stream.write_all(&request("POST", "/spawn", &headers, body.as_bytes())).await.unwrap();
    stream
}
