//! A viewer that writes its own bytes: handshakes and frames that no library would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::TIMEOUT;

/// The headers of a handshake that a server takes, without the blank line.
pub const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The connection of such a viewer.
#[derive(Debug)]
pub struct RawViewer {
    /// What the bytes go through.
    pub stream: TcpStream,
}

impl RawViewer {
    /// Sends the head of a handshake for this `ws://` URL, with these headers (each with its line's end), and what comes after it.
    pub async fn send(url: &str, headers: &str, after: &[u8]) -> Self {
        let (host, path) =
            url.strip_prefix("ws://").and_then(|url| url.split_once('/')).expect("a ws:// URL");
        let mut stream = TcpStream::connect(host).await.expect("a server listens");
        let head = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n");
        stream.write_all(&[head.as_bytes(), after].concat()).await.expect("the head is taken");
        Self { stream }
    }

    /// A viewer whose handshake was answered with 101.
    pub async fn connect(url: &str) -> Self {
        let mut viewer = Self::send(url, HANDSHAKE, &[]).await;
        let answer = viewer.head().await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        viewer
    }

    /// The head of the answer; empty when the connection ends without one.
    pub async fn head(&mut self) -> String {
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                match self.stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
        };
        timeout(TIMEOUT, read).await.expect("an answer, or the end");
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Reads on until the other side has closed the connection. Returns what came.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end, too.
        timeout(TIMEOUT, self.stream.read_to_end(&mut rest)).await.expect("the connection is ended").ok();
        rest
    }
}

/// A frame of a viewer with these first bits and opcode, masked, as a whole.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x5a, 0xa5, 0x3c, 0xc3];
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..126), _) => frame.push(0x80 | short),
        (_, Ok(middle)) => {
            frame.push(0x80 | 126);
            frame.extend(middle.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend(u64::try_from(payload.len()).expect("a length").to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
