//! A receiver of webhooks that fails at random, by a seed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wait::longer_than;

/// One post that the receiver has taken in, whatever it answered.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The path and query that it was sent to.
    pub path: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Posted {
    /// The first header of this name, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// The event.
    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a post is JSON")
    }
}

/// How a receiver treats what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    TakesSlowly,
    /// It takes the post in and closes the connection.
    TakesWithoutAnswer,
    Refuses,
    /// It has understood the event and does not take it.
    Rejects,
    /// It closes the connection.
    HangsUp,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    /// Of a hundred posts so many go wrong.
    wrong: u32,
    /// Events of this kind are answered with 422.
    unwanted: Option<String>,
    taken: Vec<Posted>,
    refused: usize,
}

/// A running receiver.
#[derive(Debug)]
pub struct Receiver {
    /// Where it listens.
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts one for which so many of a hundred posts go wrong.
    pub async fn start(seed: u64, wrong: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let addr = listener.local_addr().expect("it is bound");
        let random = fastrand::Rng::with_seed(seed);
        let state =
            Arc::new(Mutex::new(State { random, wrong, unwanted: None, taken: Vec::new(), refused: 0 }));
        let ours = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&ours)));
            }
        });
        Self { addr, state, task }
    }

    /// From now on so many of a hundred posts go wrong.
    pub fn fail(&self, wrong: u32) {
        self.state().wrong = wrong;
    }

    /// From now on it rejects events of this kind (422).
    pub fn reject(&self, kind: &str) {
        self.state().unwanted = Some(kind.to_owned());
    }

    /// What it has taken in, in order, repetitions included.
    pub fn taken(&self) -> Vec<Posted> {
        self.state().taken.clone()
    }

    /// How many it has refused or hung up on.
    pub fn refused(&self) -> usize {
        self.state().refused
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one connection, until it ends or a mood ends it.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut bytes = Vec::new();
    while let Ok(Some(posted)) = receive(&mut stream, &mut bytes).await {
        let mood = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let goes_wrong = state.random.u32(0..100) < state.wrong;
            let is_unwanted = state.unwanted.as_deref().is_some_and(|kind| posted.event()["kind"] == kind);
            let mood = match (goes_wrong, state.random.u32(0..4)) {
                _ if is_unwanted => Mood::Rejects,
                (false, 0) => Mood::TakesSlowly,
                (false, _) => Mood::Takes,
                (true, 0) => Mood::TakesWithoutAnswer,
                (true, 1) => Mood::HangsUp,
                (true, _) => Mood::Refuses,
            };
            match mood {
                Mood::Takes | Mood::TakesSlowly | Mood::TakesWithoutAnswer => state.taken.push(posted),
                Mood::Refuses | Mood::Rejects | Mood::HangsUp => state.refused += 1,
            }
            mood
        };
        let answer: &[u8] = match mood {
            Mood::TakesWithoutAnswer | Mood::HangsUp => return,
            Mood::Refuses => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nlate",
            Mood::Rejects => b"HTTP/1.1 422 Unprocessable Content\r\ncontent-length: 0\r\n\r\n",
            Mood::Takes | Mood::TakesSlowly => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        };
        if mood == Mood::TakesSlowly {
            longer_than(Duration::from_millis(20)).await;
        }
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Reads one post; `None` when the connection has ended.
async fn receive(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<Posted>> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length: usize = length.and_then(|(_, length)| length.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let rest = bytes.split_off(end + 4 + length);
                let body = bytes.split_off(end + 4);
                *bytes = rest;
                return Ok(Some(Posted { path, headers, body }));
            }
        }
        if stream.read_buf(bytes).await? == 0 {
            return Ok(None);
        }
    }
}
