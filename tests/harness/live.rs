//! A subscriber of the live feed, as strict about its frames as the contract is.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::wait::TIMEOUT;

/// Enough for a handshake and a few frames: whoever does not read is noticed soon.
const SMALL_BUFFER: u32 = 4096;

/// A connection to `/v1/live`.
#[derive(Debug)]
pub struct Subscriber {
    socket: WebSocketStream<TcpStream>,
    /// Events that came while something else was awaited.
    early: VecDeque<Value>,
    /// The first frame.
    pub hello: Value,
    /// Heartbeats so far.
    pub heartbeats: usize,
}

impl Subscriber {
    /// Connects and is greeted.
    pub async fn connect(door: SocketAddr) -> Self {
        Self::try_connect(door).await.unwrap_or_else(|error| panic!("{door}: {error}"))
    }

    /// The same where it may fail.
    ///
    /// # Errors
    /// Nobody listens there, or the handshake is refused.
    pub async fn try_connect(door: SocketAddr) -> Result<Self, Error> {
        Self::try_connect_as(door, None).await
    }

    /// The same with a credential in the handshake.
    ///
    /// # Errors
    /// Nobody listens there, or the handshake is refused.
    pub async fn try_connect_as(door: SocketAddr, credential: Option<&str>) -> Result<Self, Error> {
        let socket = TcpSocket::new_v4()?;
        // Set before the connection is made, it also bounds what the other side may send ahead.
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
        let stream = timeout(TIMEOUT, socket.connect(door)).await.expect("a connection does not hang")?;
        let mut request = format!("ws://{door}/v1/live").into_client_request()?;
        if let Some(credential) = credential {
            let bearer = format!("Bearer {credential}").parse().expect("a credential is a header's value");
            request.headers_mut().insert("authorization", bearer);
        }
        let shaken =
            timeout(TIMEOUT, client_async(request, stream)).await.expect("a handshake does not hang");
        let mut subscriber =
            Self { socket: shaken?.0, early: VecDeque::new(), hello: Value::Null, heartbeats: 0 };
        subscriber.hello = subscriber.frame().await;
        assert_eq!(subscriber.hello["type"], "hello", "{}", subscriber.hello);
        Ok(subscriber)
    }

    /// Connects and subscribes; the snapshot's frame too.
    pub async fn to(door: SocketAddr, topic: &str) -> (Self, Value) {
        let mut subscriber = Self::connect(door).await;
        let subscribed = subscriber.subscribe(topic).await;
        (subscriber, subscribed)
    }

    /// Connects as somebody and is greeted.
    pub async fn connect_as(door: SocketAddr, credential: &str) -> Self {
        let connected = Self::try_connect_as(door, Some(credential)).await;
        connected.unwrap_or_else(|error| panic!("{door}: {error}"))
    }

    /// The same and subscribes; the snapshot's frame too.
    pub async fn to_as(door: SocketAddr, credential: &str, topic: &str) -> (Self, Value) {
        let mut subscriber = Self::connect_as(door, credential).await;
        let subscribed = subscriber.subscribe(topic).await;
        (subscriber, subscribed)
    }

    /// Shows a credential in a message.
    pub async fn authenticate(&mut self, credential: &str) {
        self.say(&json!({"type": "authenticate", "token": credential}).to_string()).await;
    }

    /// Waits until the credential that was shown is accepted.
    pub async fn authenticated(&mut self) {
        self.answer("authenticated", |_| {}).await;
    }

    /// Waits until it is told that something was wrong: the frame, which must have this code.
    pub async fn refused(&mut self, code: &str) -> Value {
        self.answer("error", |frame| assert_eq!(frame["code"], code, "{frame}")).await
    }

    /// Sends a text.
    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text.to_owned())).await;
    }

    /// Sends whatever frame.
    pub async fn send(&mut self, message: Message) {
        self.try_send(message).await.expect("the front door listens");
    }

    /// The same to one that may have gone.
    ///
    /// # Errors
    /// It has.
    pub async fn try_send(&mut self, message: Message) -> Result<(), Error> {
        timeout(TIMEOUT, self.socket.send(message)).await.expect("the front door reads")
    }

    /// Subscribes from now on; the frame that says so, with its snapshot.
    pub async fn subscribe(&mut self, topic: &str) -> Value {
        self.say(&json!({"type": "subscribe", "topic": topic}).to_string()).await;
        self.subscribed(topic).await
    }

    /// Subscribes from the event after this one on; the frame that says so.
    pub async fn resume(&mut self, topic: &str, since: u64) -> Value {
        self.say(&json!({"type": "subscribe", "topic": topic, "since": since}).to_string()).await;
        self.subscribed(topic).await
    }

    /// Waits until a subscription begins (anew); the frame that says so. Events before it are not told any more.
    pub async fn subscribed(&mut self, topic: &str) -> Value {
        self.answer("subscribed", |frame| {
            assert_eq!(frame["topic"], topic, "{frame}");
            assert!(frame["seq"].is_u64(), "{frame}");
        })
        .await
    }

    /// Unsubscribes, and waits until that is so.
    pub async fn unsubscribe(&mut self, topic: &str) {
        self.say(&json!({"type": "unsubscribe", "topic": topic}).to_string()).await;
        self.answer("unsubscribed", |frame| {
            assert_eq!(*frame, json!({"type": "unsubscribed", "topic": topic}))
        })
        .await;
    }

    /// Waits until it is told that something was wrong; what.
    pub async fn violation(&mut self) -> String {
        let frame =
            self.answer("error", |frame| assert_eq!(frame["code"], "protocol-violation", "{frame}")).await;
        frame["message"].as_str().expect("a message").to_owned()
    }

    async fn answer(&mut self, kind: &str, check: impl Fn(&Value)) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == kind {
                check(&frame);
                return frame;
            }
            assert_eq!(frame["type"], "event", "{kind} was expected, not {frame}");
            self.early.push_back(frame);
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        let frame = match self.early.pop_front() {
            Some(early) => early,
            None => self.frame().await,
        };
        assert_eq!(frame["type"], "event", "{frame}");
        let names: BTreeSet<&str> =
            frame.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        for name in ["topic", "seq", "at", "kind", "node"] {
            assert!(names.contains(name), "no {name} in {frame}");
        }
        frame
    }

    /// The next event but pings, which come when they come.
    pub async fn news(&mut self) -> Value {
        loop {
            let event = self.event().await;
            if event["kind"] != "spawn.ping" {
                return event;
            }
        }
    }

    /// Events up to the first of this kind, that one too.
    pub async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.push(self.event().await);
            if events.last().is_some_and(|event| event["kind"] == kind) {
                return events;
            }
        }
    }

    /// The next frame that is no heartbeat.
    async fn frame(&mut self) -> Value {
        loop {
            match timeout(TIMEOUT, self.socket.next()).await.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                    if frame["type"] != "heartbeat" {
                        return frame;
                    }
                    assert!(frame["at"].is_string(), "{frame}");
                    self.heartbeats += 1;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a text frame was expected, not {other:?}"),
            }
        }
    }

    /// The next frame of any kind but heartbeats; one that came while something else was awaited first.
    pub async fn anything(&mut self) -> Value {
        match self.early.pop_front() {
            Some(early) => early,
            None => self.frame().await,
        }
    }

    /// Listens for so long, in which nothing but heartbeats may come.
    pub async fn hears_nothing(&mut self, time: Duration) {
        if let Ok(frame) = timeout(time, self.frame()).await {
            panic!("nothing was expected, not {frame}");
        }
    }

    /// Reads on until the front door closes; with what code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        let read_on = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return (u16::from(frame.code), frame.reason.to_string());
                    }
                    Some(Ok(Message::Close(None))) => return (1005, String::new()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return (1006, String::new()),
                }
            }
        };
        timeout(TIMEOUT, read_on).await.expect("the front door closes")
    }
}

/// The sequence number of a frame.
pub fn seq(frame: &Value) -> u64 {
    frame["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {frame}"))
}
