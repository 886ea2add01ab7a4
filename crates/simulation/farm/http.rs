//! A client that makes one request on one connection.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::network::{Host, Network, Process};

/// What was sent before the front door knew that its caller had hung up arrives within this time.
const LATE: Duration = Duration::from_secs(5);

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

/// What became of a request whose caller may have hung up.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Answer),
    /// The connection broke before there was an answer.
    Broken,
    /// The caller hung up before its answer.
    HungUp,
    /// The caller hung up while its answer was on the way.
    TooLate(Answer),
}

/// Makes a request of a front door. `None` when the connection broke before there was an answer. Dropping it hangs up.
pub(crate) async fn request(
    (network, client): (&Arc<Network>, &Process),
    door: Host,
    call: (&str, &str),
    key: Option<&str>,
    body: &Value,
) -> Option<Answer> {
    let mut stream = send((network, client), door, call, key, body).await?;
    answer(&mut stream).await
}

/// The same, and hangs up after some time. It then reads on, to see whether the answer had been sent before.
pub(crate) async fn request_until(
    (network, client): (&Arc<Network>, &Process),
    door: Host,
    call: (&str, &str),
    (key, body): (Option<&str>, &Value),
    hangs_up: Duration,
) -> Outcome {
    let hang_up = Instant::now() + hangs_up;
    let stream = timeout_at(hang_up, send((network, client), door, call, key, body)).await;
    let mut stream = match stream {
        Ok(Some(stream)) => stream,
        Ok(None) => return Outcome::Broken,
        Err(_) => return Outcome::HungUp,
    };
    let mut bytes = Vec::new();
    if timeout_at(hang_up, stream.read_to_end(&mut bytes)).await.is_ok() {
        return parsed(bytes).map_or(Outcome::Broken, Outcome::Answered);
    }
    stream.shutdown().await.ok();
    timeout(LATE, stream.read_to_end(&mut bytes)).await.ok();
    parsed(bytes).map_or(Outcome::HungUp, Outcome::TooLate)
}

async fn send(
    (network, client): (&Arc<Network>, &Process),
    door: Host,
    (method, path): (&str, &str),
    key: Option<&str>,
    body: &Value,
) -> Option<DuplexStream> {
    let mut stream = network.connect(client, door, &format!("{door}:8080")).await.ok()?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let key = key.map(|key| format!("idempotency-key: {key}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{key}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    Some(stream)
}

async fn answer(stream: &mut DuplexStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.ok()?;
    parsed(bytes)
}

/// The answer in all that came. A body that is cut short is no answer.
fn parsed(bytes: Vec<u8>) -> Option<Answer> {
    let text = String::from_utf8(bytes).ok()?;
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if length.is_some_and(|length| rest.len() < length) {
        return None;
    }
    Some(Answer { status, body: serde_json::from_str(rest).unwrap_or(Value::Null) })
}
