//! A client that makes one request on one connection.

use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::network::{Host, Network, Process};

/// An answer; its body is null where it is no JSON.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The word for programs of a problem.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("-")
    }
}

/// Makes a request of a front door. `None` when the connection broke before there was an answer. Dropping it hangs up.
pub(crate) async fn request(
    (network, client): (&Arc<Network>, &Process),
    door: Host,
    (method, path): (&str, &str),
    key: Option<&str>,
    body: &Value,
) -> Option<Answer> {
    let mut stream = network.connect(client, door, &format!("{door}:8080")).await.ok()?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    // A body that is cut short is no answer.
    if length.is_some_and(|length| rest.len() < length) {
        return None;
    }
    Some(Answer { status, body: serde_json::from_str(rest).unwrap_or(Value::Null) })
}
