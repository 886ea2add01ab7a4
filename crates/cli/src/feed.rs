//! A subscription to a front door's live feed that outlives connections: it comes back, with jitter, and goes on where it was.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::CallError;
use crate::failure::{Failure, say};
use crate::server::Server;

/// Between two tries to connect: at first, and at the most; jittered down to half.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How late a heartbeat may be.
const LATE: Duration = Duration::from_secs(2);

/// What a feed tells.
#[derive(Debug)]
pub(crate) enum News {
    /// How things stand.
    Snapshot {
        /// As in the answer of the list.
        snapshot: Value,
        /// Whether events may have been missed before it.
        gap: bool,
    },
    /// Something has happened.
    Event {
        /// What.
        event: Value,
        /// As it came.
        text: String,
    },
}

/// The frames that matter here; what a newer front door may add does not.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Frame {
    Hello {
        #[serde(rename = "heartbeatSeconds")]
        heartbeat_seconds: f64,
    },
    Subscribed {
        topic: String,
        #[serde(default)]
        snapshot: Option<Value>,
        seq: u64,
    },
    Event {
        topic: String,
        seq: u64,
    },
    Error {
        message: String,
    },
    #[serde(other)]
    Other,
}

/// A topic, and the last event that was heard of it.
#[derive(Debug)]
struct Topic {
    name: String,
    since: Option<u64>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Feed {
    server: Server,
    patience: Duration,
    heartbeat: Duration,
    topics: Vec<Topic>,
    socket: Option<Socket>,
    /// Tries in a row that failed.
    failures: u32,
    connected_before: bool,
}

impl Feed {
    /// Connects when first asked for news; a connection takes no longer than `patience`.
    pub(crate) fn new(server: &Server, patience: Duration, topics: &[String]) -> Self {
        let topics = topics.iter().map(|name| Topic { name: name.clone(), since: None }).collect();
        let server = server.clone();
        let heartbeat = Duration::from_secs(30);
        Self { server, patience, heartbeat, topics, socket: None, failures: 0, connected_before: false }
    }

    /// Whether there is a connection, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// What happens next. Dropping the future loses nothing while there is a connection, else a try to make one.
    ///
    /// # Errors
    /// The first connection failed, or the front door does not understand what it is asked.
    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        loop {
            let Some(socket) = &mut self.socket else {
                self.connect().await?;
                continue;
            };
            let why = match timeout(self.heartbeat.mul_f64(1.5) + LATE, socket.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => match self.take_in(text.as_str())? {
                    Some(news) => return Ok(news),
                    None => continue,
                },
                Ok(Some(Ok(Message::Close(Some(frame))))) => {
                    format!("{} ({})", frame.reason, u16::from(frame.code))
                }
                Ok(Some(Ok(Message::Close(None))) | None) => "it was closed".to_owned(),
                Ok(Some(Ok(_))) => continue,
                Ok(Some(Err(error))) => error.to_string(),
                Err(_) => "nothing was heard of it".to_owned(),
            };
            self.socket = None;
            say(&format!("connection to {} lost: {why}; reconnecting", self.server));
        }
    }

    /// Asks how things stand now.
    pub(crate) async fn refresh(&mut self) {
        for topic in &self.topics {
            if let Some(socket) = &mut self.socket {
                // One that is broken is noticed when it is read.
                socket.send(subscribe(&topic.name, None)).await.ok();
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.failures > 0 || self.connected_before {
            let longest = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST_PAUSE);
            sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
        match self.try_connect().await {
            Ok(socket) => {
                if self.connected_before {
                    say(&format!("connected to {} again", self.server));
                }
                (self.socket, self.connected_before, self.failures) = (Some(socket), true, 0);
                Ok(())
            }
            Err(error) if self.connected_before => {
                self.failures = self.failures.saturating_add(1);
                tracing::debug!(?error, "not connected");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn try_connect(&self) -> Result<Socket, CallError> {
        let server = || self.server.clone();
        let connecting = timeout(self.patience, connect_async(self.server.live_url())).await;
        let connected =
            connecting.map_err(|_| CallError::TimedOut { server: server(), after: self.patience })?;
        let (mut socket, _) = connected.map_err(|error| match error {
            Error::Http(answer) => CallError::Odd {
                server: server(),
                status: answer.status(),
                json: None,
                detail: Some("there is no live feed here".to_owned()),
            },
            Error::Io(error) => CallError::Unreachable { server: server(), why: error.to_string() },
            error => CallError::Broken { server: server(), why: error.to_string() },
        })?;
        for topic in &self.topics {
            let sent = socket.send(subscribe(&topic.name, topic.since)).await;
            sent.map_err(|error| CallError::Broken { server: server(), why: error.to_string() })?;
        }
        Ok(socket)
    }

    fn take_in(&mut self, text: &str) -> Result<Option<News>, Failure> {
        let unreadable = |error: serde_json::Error| {
            Failure::Call(CallError::Unreadable { server: self.server.clone(), why: error.to_string() })
        };
        let frame: Frame = serde_json::from_str(text).map_err(unreadable)?;
        match frame {
            Frame::Hello { heartbeat_seconds } => {
                self.heartbeat = Duration::try_from_secs_f64(heartbeat_seconds).unwrap_or(self.heartbeat);
                Ok(None)
            }
            Frame::Subscribed { topic, snapshot, seq } => {
                let known = self.topics.iter_mut().find(|t| t.name == topic);
                let gap = known.is_some_and(|known| known.since.replace(seq).is_some());
                Ok(snapshot.map(|snapshot| News::Snapshot { snapshot, gap }))
            }
            Frame::Event { topic, seq } => {
                if let Some(known) = self.topics.iter_mut().find(|t| t.name == topic) {
                    known.since = Some(seq);
                }
                let event = serde_json::from_str(text).map_err(unreadable)?;
                Ok(Some(News::Event { event, text: text.to_owned() }))
            }
            Frame::Error { message } => Err(Failure::failed(format!("{} says: {message}", self.server))),
            Frame::Other => Ok(None),
        }
    }
}

fn subscribe(topic: &str, since: Option<u64>) -> Message {
    let mut wish = json!({ "type": "subscribe", "topic": topic });
    if let Some(since) = since {
        wish["since"] = since.into();
    }
    Message::text(wish.to_string())
}
