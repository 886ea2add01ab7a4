//! A subscription to a front door's live feed that outlives connections.
//!
//! ```text
//! connect ─▶ hello ─▶ subscribe (from the last event seen) ─▶ events ── connection lost, or silent for 1.5 heartbeats ─▶ pause ─▶ connect
//!    │ the first connection fails, or the caller is refused for good
//!    ▼
//!  error
//! ```
//!
//! Pauses grow from one failure to the next, with jitter. No event is given out twice, and a gap is reported with the snapshot after it. A
//! refused token is retried for a while if its file may get another one.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{AUTHORIZATION, USER_AGENT};
use hyper::{Response, StatusCode};
use model::{jittered, spread};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::call_error::{CallError, refusal};
use crate::client::{AGENT, Client, MAX_ANSWER_BYTES};
use crate::connector::Stream;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::server::Server;
use crate::standard_error::say;

/// The first try after a good connection comes at any time within this.
const SPREAD: Duration = Duration::from_secs(1);
/// Between two tries to connect: at first, and at the most; jittered down to half.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How late a heartbeat may be.
const LATE: Duration = Duration::from_secs(2);
/// A connection that lived this long was a good one: the next pause is a short one again.
const GOOD: Duration = Duration::from_secs(5);
/// How long a token that is refused may take to be replaced in its file.
const RENEWAL: Duration = Duration::from_secs(60);

const UNAUTHENTICATED: &str = "unauthenticated";
const FORBIDDEN: &str = "forbidden";

/// What a feed gives out.
#[derive(Debug)]
pub(crate) enum News {
    /// The topic as it is now, without the events before.
    Snapshot {
        /// As in the answer of the list.
        snapshot: Value,
        /// Whether events may have been missed before it.
        gap: bool,
    },
    /// One event, in order.
    Event {
        /// As JSON.
        event: Value,
        /// The text of the message.
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
        /// A front door of the release before this one has none.
        #[serde(default)]
        features: Vec<String>,
    },
    Subscribed {
        topic: String,
        #[serde(default)]
        snapshot: Option<Value>,
        seq: u64,
        /// Into how many messages the snapshot is split.
        #[serde(default)]
        parts: usize,
    },
    Part {
        topic: String,
        part: usize,
        snapshot: Vec<Value>,
    },
    Event {
        topic: String,
        seq: u64,
    },
    Error {
        #[serde(default)]
        code: String,
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
    /// A snapshot of which parts are to come: how many there are, what is here, and whether events were missed before it.
    coming: Option<(usize, Vec<Value>, bool)>,
}

type Socket = WebSocketStream<Stream>;

#[derive(Debug)]
pub(crate) struct Feed {
    client: Client,
    heartbeat: Duration,
    topics: Vec<Topic>,
    socket: Option<Socket>,
    /// When the connection was made, and when something was last heard of it.
    connected: Instant,
    heard: Instant,
    connected_before: bool,
    /// Whether the front door has just said hello: the topics are sent next.
    greeted: bool,
    /// Whether it sends long snapshots in parts.
    in_parts: bool,
    /// Tries in a row that came to nothing.
    failures: u32,
    /// Since when the credential was refused each time.
    refused: Option<Instant>,
}

impl Feed {
    /// Connects when first asked for news; a connection takes no longer than any call of this client.
    pub(crate) fn new(client: &Client, topics: &[String]) -> Self {
        let now = Instant::now();
        Self {
            client: client.clone(),
            heartbeat: Duration::from_secs(30),
            topics: topics
                .iter()
                .map(|name| Topic { name: name.clone(), since: None, coming: None })
                .collect(),
            socket: None,
            connected: now,
            heard: now,
            connected_before: false,
            greeted: false,
            in_parts: false,
            failures: 0,
            refused: None,
        }
    }

    /// Whether there is a connection, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// What happens next. Dropping the future loses nothing while there is a connection, else a try to make one.
    ///
    /// # Errors
    /// The first connection failed, the front door does not understand what it is asked, or it does not let this caller hear it.
    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        loop {
            let Some(socket) = &mut self.socket else {
                self.connect().await?;
                continue;
            };
            // Counted from the last message, not from this call: a caller that drops and repeats the call would never time out.
            let silent = self.heard + self.heartbeat.mul_f64(1.5) + LATE;
            let message = timeout_at(silent, socket.next()).await;
            if matches!(message, Ok(Some(Ok(_)))) {
                self.heard = Instant::now();
            }
            let why = match message {
                Ok(Some(Ok(Message::Text(text)))) => match self.take_in(text.as_str())? {
                    Some(news) => return Ok(news),
                    None if self.greeted => {
                        self.greeted = false;
                        match self.subscribe_all().await {
                            Ok(()) => continue,
                            Err(why) => why,
                        }
                    }
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
            self.lose(&why);
        }
    }

    /// Subscribes to all topics, each from its last event on.
    async fn subscribe_all(&mut self) -> Result<(), String> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        for topic in &mut self.topics {
            topic.coming = None;
            let sent = socket.send(subscribe(&topic.name, topic.since, self.in_parts));
            match timeout(LATE, sent).await {
                Ok(sent) => sent.map_err(|error| error.to_string())?,
                Err(_) => return Err("it takes nothing in".to_owned()),
            }
        }
        Ok(())
    }

    /// Asks how things stand now.
    pub(crate) async fn refresh(&mut self) {
        for topic in &self.topics {
            if let Some(socket) = &mut self.socket {
                // One that is broken is noticed when it is read; one that takes nothing in any more is.
                if timeout(LATE, socket.send(subscribe(&topic.name, None, self.in_parts))).await.is_err() {
                    return self.lose("it takes nothing in");
                }
            }
        }
    }

    fn lose(&mut self, why: &str) {
        self.socket = None;
        // One that ends as soon as it was made is no success: the pauses go on growing.
        if self.connected.elapsed() > GOOD {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        say(&format!("connection to {} lost: {why}; reconnecting", self.client.server()));
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.failures > 0 || self.connected_before {
            // When a front door ends, all that were connected to it come at once.
            let pause = match self.failures {
                0 => spread(SPREAD),
                n => jittered(FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(n)).min(MAX_PAUSE)),
            };
            sleep(pause).await;
        }
        match self.try_connect().await {
            Ok(socket) => {
                if self.connected_before {
                    say(&format!("connected to {} again", self.client.server()));
                }
                (self.socket, self.connected_before) = (Some(socket), true);
                self.connected = Instant::now();
                self.heard = self.connected;
                self.refused = None;
                Ok(())
            }
            Err(error) if self.connected_before && !self.is_final(&error) => {
                self.failures = self.failures.saturating_add(1);
                tracing::debug!(%error, "not connected");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether another try would end no better. A token that was refused may be replaced by another one soon.
    fn is_final(&mut self, error: &CallError) -> bool {
        if !error.is_unauthenticated() {
            return error.exit() == Exit::Refused;
        }
        let since = *self.refused.get_or_insert_with(Instant::now);
        !self.client.credential().can_change() || since.elapsed() > RENEWAL
    }

    async fn try_connect(&self) -> Result<Socket, CallError> {
        let (server, limit) = (self.client.server(), self.client.timeout());
        let broken = |error: Error| CallError::Broken { server: server.clone(), why: error.to_string() };
        let connecting = async {
            let unreachable = |why| CallError::Unreachable { server: server.clone(), why };
            let uri = server.to_string().parse().map_err(|_| unreachable("it is no address".to_owned()))?;
            let connected = self.client.connector().clone().connect(uri).await;
            let stream = connected.map_err(|error| unreachable(error.to_string()))?;
            let mut request = server.live_url().into_client_request().map_err(broken)?;
            request.headers_mut().insert(USER_AGENT, AGENT);
            if let Some(credential) = self.client.credential().fresh() {
                request.headers_mut().insert(AUTHORIZATION, credential);
            }
            let config = WebSocketConfig::default()
                .max_message_size(Some(MAX_ANSWER_BYTES))
                .max_frame_size(Some(MAX_ANSWER_BYTES));
            let shaken = client_async_with_config(request, stream, Some(config)).await;
            let (socket, _) = shaken.map_err(|error| match error {
                Error::Http(answer) => refused(server, *answer),
                error => broken(error),
            })?;
            Ok(socket)
        };
        let late = |_| CallError::TimedOut { server: server.clone(), after: limit };
        timeout(limit, connecting).await.map_err(late)?
    }

    fn take_in(&mut self, text: &str) -> Result<Option<News>, Failure> {
        let unreadable = |error: serde_json::Error| {
            Failure::Call(CallError::Unreadable {
                server: self.client.server().clone(),
                why: error.to_string(),
            })
        };
        let frame: Frame = serde_json::from_str(text).map_err(unreadable)?;
        match frame {
            Frame::Hello { heartbeat_seconds, features } => {
                self.in_parts = features.iter().any(|feature| feature == "parts");
                self.greeted = true;
                self.heartbeat = Duration::try_from_secs_f64(heartbeat_seconds).unwrap_or(self.heartbeat);
                Ok(None)
            }
            Frame::Subscribed { topic, snapshot, seq, parts } => {
                // Without a snapshot the events since the last one come after this.
                let Some(snapshot) = snapshot else { return Ok(None) };
                let Some(known) = self.topics.iter_mut().find(|t| t.name == topic) else {
                    return Ok(Some(News::Snapshot { snapshot, gap: false }));
                };
                let gap = known.since.replace(seq).is_some();
                match snapshot {
                    Value::Array(first) if parts > 1 => {
                        known.coming = Some((parts, first, gap));
                        Ok(None)
                    }
                    snapshot => Ok(Some(News::Snapshot { snapshot, gap })),
                }
            }
            Frame::Part { topic, part, snapshot } => {
                let Some(known) = self.topics.iter_mut().find(|t| t.name == topic) else { return Ok(None) };
                let Some((parts, mut all, gap)) = known.coming.take() else { return Ok(None) };
                all.extend(snapshot);
                if part < parts {
                    known.coming = Some((parts, all, gap));
                    return Ok(None);
                }
                Ok(Some(News::Snapshot { snapshot: Value::Array(all), gap }))
            }
            Frame::Event { topic, seq } => {
                if let Some(known) = self.topics.iter_mut().find(|t| t.name == topic) {
                    if known.since.is_some_and(|since| seq <= since) {
                        return Ok(None);
                    }
                    known.since = Some(seq);
                }
                let event = serde_json::from_str(text).map_err(unreadable)?;
                Ok(Some(News::Event { event, text: text.to_owned() }))
            }
            // The connection is closed next, and made anew with the token that is in the file then.
            Frame::Error { code, .. } if code == UNAUTHENTICATED && self.client.credential().can_change() => {
                Ok(None)
            }
            Frame::Error { code, message } => {
                let refused = code == UNAUTHENTICATED || code == FORBIDDEN;
                let exit = if refused { Exit::Refused } else { Exit::Failed };
                Err(Failure::Said(exit, format!("{} says: {message} ({code})", self.client.server())))
            }
            Frame::Other => Ok(None),
        }
    }
}

/// What an answer that is no live feed says.
fn refused(server: &Server, answer: Response<Option<Vec<u8>>>) -> CallError {
    let (status, body) = (answer.status(), answer.into_body().unwrap_or_default());
    match refusal(server, status, body.into()) {
        CallError::Odd { server, status, json, detail: None } => {
            let detail = match status {
                StatusCode::UNAUTHORIZED => "it does not know who calls",
                StatusCode::FORBIDDEN => "its live feed is not for this caller",
                _ => "there is no live feed here",
            };
            CallError::Odd { server, status, json, detail: Some(detail.to_owned()) }
        }
        refusal => refusal,
    }
}

fn subscribe(topic: &str, since: Option<u64>, in_parts: bool) -> Message {
    let mut request = json!({ "type": "subscribe", "topic": topic });
    if in_parts {
        request["parts"] = true.into();
    }
    if let Some(since) = since {
        request["since"] = since.into();
    }
    Message::text(request.to_string())
}
