//! An HTTP client of a few lines that keeps its connections: what it costs must not show.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct KeepAlive {
    addr: SocketAddr,
    idle: Mutex<Vec<TcpStream>>,
}

impl KeepAlive {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, idle: Mutex::default() }
    }

    /// One request without a body; its status and JSON.
    pub(crate) async fn call(&self, method: &str, path: &str) -> anyhow::Result<(u16, Value)> {
        self.send(method, path, &[], "").await
    }

    /// One request with these headers and this body; its status and JSON. A kept connection that its server has closed meanwhile, as Node.js
    /// does after five seconds, is replaced by the next one.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<(u16, Value)> {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (length, addr) = (body.len(), self.addr);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {addr}\r\n{headers}content-length: {length}\r\n\r\n{body}"
        );
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let is_kept = idle.is_some();
            let mut stream = match idle {
                Some(stream) => stream,
                None => {
                    let stream = TcpStream::connect(self.addr).await?;
                    stream.set_nodelay(true)?;
                    stream
                }
            };
            let mut answer = Vec::with_capacity(1024);
            let begun = async {
                stream.write_all(request.as_bytes()).await?;
                stream.read_buf(&mut answer).await
            };
            match begun.await {
                Ok(0) | Err(_) if is_kept => continue,
                Ok(0) => bail!("{method} {path}: the connection ended"),
                begun => begun?,
            };
            let answered = read(&mut stream, answer).await.with_context(|| format!("{method} {path}"))?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            return Ok(answered);
        }
    }
}

/// The rest of an answer.
async fn read(stream: &mut TcpStream, mut answer: Vec<u8>) -> anyhow::Result<(u16, Value)> {
    let end = loop {
        if let Some(at) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("the connection ended");
        }
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("a status line")?;
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .context("a length")?
        .trim()
        .parse()?;
    while answer.len() < end + 4 + length {
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("the answer ended early");
        }
    }
    Ok((status, serde_json::from_slice(&answer[end + 4..]).unwrap_or(Value::Null)))
}
