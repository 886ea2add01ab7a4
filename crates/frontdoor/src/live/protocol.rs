//! The frames of the live feed, both ways. All of them are JSON in text frames.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use access::Scopes;
use model::api::Node;
use model::{Event, EventKind, NodeId, Owner, SpawnId, Timestamp};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::followed::Followed;
use super::narrowed::Narrowed;
use crate::callers::OwnerNames;

/// Bytes of a message, except for one with a credential.
pub(crate) const MAX_MESSAGE: usize = 4096;
/// Bytes of a message with a credential.
const MAX_AUTHENTICATION: usize = access::MAX_CREDENTIAL + 128;
/// Characters of a violation in its answer.
const MAX_REASON: usize = 200;

/// What can be subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Topic {
    Nodes,
    Spawns,
    /// A part of them.
    Narrowed(Arc<Narrowed>),
    /// One node and the spawns on it.
    Node(NodeId),
    Spawn(SpawnId),
}

impl Topic {
    /// The kinds of topic, for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Spawns | Self::Narrowed(_) => "spawns",
            Self::Node(_) => "node",
            Self::Spawn(_) => "spawn",
        }
    }

    /// With the owners that a name in it stands for now.
    ///
    /// # Errors
    /// It can be no owner's.
    pub(crate) fn resolved(self, names: &OwnerNames) -> Result<Self, String> {
        match self {
            Self::Narrowed(narrowed) => {
                let narrowed = Arc::unwrap_or_clone(narrowed).resolved(names)?;
                Ok(Self::Narrowed(Arc::new(narrowed)))
            }
            other => Ok(other),
        }
    }

    /// The form in which an event is sent on this topic, if it belongs there.
    pub(crate) fn form(&self, event: &Event) -> Option<Form> {
        let of_spawns = is_of_spawns(event.kind);
        let belongs = match self {
            Self::Nodes => !of_spawns,
            Self::Spawns => of_spawns,
            // Owner and tags are not in every event of a spawn.
            Self::Narrowed(narrowed) => {
                of_spawns && narrowed.node.as_ref().is_none_or(|node| event.node.as_ref() == Some(node))
            }
            Self::Node(node) => event.node.as_ref() == Some(node),
            Self::Spawn(spawn) if event.spawn.is_none() => {
                return ping_of(event, *spawn).map(|at| Form::Ping(*spawn, at));
            }
            Self::Spawn(spawn) => event.spawn == Some(*spawn),
        };
        belongs.then_some(Form::Whole)
    }
}

/// Whether events of this kind are of spawns; else they are of nodes.
pub(crate) fn is_of_spawns(kind: EventKind) -> bool {
    match kind {
        EventKind::NodeUp
        | EventKind::NodeStale
        | EventKind::NodeDown
        | EventKind::NodeCordoned
        | EventKind::NodeUncordoned
        | EventKind::NodeDraining
        | EventKind::NodeDrained
        | EventKind::NodeCapacity
        | EventKind::NodeFailing
        | EventKind::NodeRecovered
        | EventKind::NodeForgotten => false,
        EventKind::SpawnLaunching
        | EventKind::SpawnReady
        | EventKind::SpawnConnected
        | EventKind::SpawnPing
        | EventKind::SpawnSuspect
        | EventKind::SpawnDisconnected
        | EventKind::SpawnStopping
        | EventKind::SpawnExited
        | EventKind::SpawnLost => true,
    }
}

/// The pings that a `spawn.ping` carries: one event stands for all that came with one heartbeat.
pub(crate) fn pings(event: &Event) -> impl Iterator<Item = (SpawnId, Timestamp)> {
    let pings = event.data.get("pings").and_then(Value::as_object).into_iter().flatten();
    pings.filter_map(|(id, at)| Some((id.parse().ok()?, Timestamp::deserialize(at).ok()?)))
}

fn ping_of(event: &Event, spawn: SpawnId) -> Option<Timestamp> {
    Timestamp::deserialize(event.data.get("pings")?.get(spawn.to_string())?).ok()
}

/// The event reduced to these spawns; `None` when it has only others. Only pings come many at a time.
pub(crate) fn narrowed(event: &Event, owns: impl Fn(SpawnId) -> bool) -> Option<Event> {
    let pings = event.data.get("pings")?.as_object()?;
    let own = pings.iter().filter(|(id, _)| id.parse().is_ok_and(&owns));
    let own: Map<String, Value> = own.map(|(id, at)| (id.clone(), at.clone())).collect();
    let data = Map::from_iter([("pings".to_owned(), Value::Object(own))]);
    let empty = data["pings"].as_object().is_none_or(Map::is_empty);
    (!empty).then(|| Event { data, node: event.node.clone(), ..*event })
}

/// How an event is sent on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Whole,
    /// One ping out of many.
    Ping(SpawnId, Timestamp),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => f.write_str("nodes"),
            Self::Spawns => f.write_str("spawns"),
            Self::Narrowed(narrowed) => f.write_str(narrowed.text()),
            Self::Node(node) => write!(f, "node:{node}"),
            Self::Spawn(spawn) => write!(f, "spawn:{spawn}"),
        }
    }
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(query) = text.strip_prefix("spawns?") {
            return Narrowed::parse(text, query).map(|narrowed| Self::Narrowed(Arc::new(narrowed)));
        }
        match text.split_once(':') {
            None if text == "nodes" => Ok(Self::Nodes),
            None if text == "spawns" => Ok(Self::Spawns),
            Some(("node", id)) => id.parse().map(Self::Node).map_err(|e| format!("the node's name {e}")),
            Some(("spawn", id)) => id.parse().map(Self::Spawn).map_err(|e| format!("the spawn's id {e}")),
            _ => Err("a topic is nodes, spawns, spawns?…, node:<id> or spawn:<id>".to_owned()),
        }
    }
}

impl TryFrom<String> for Topic {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a subscriber may send.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Send the events of this topic from now on, or from the event after this one on.
    Subscribe {
        topic: Topic,
        /// The last event that the subscriber has.
        since: Option<u64>,
        /// Whether a long snapshot may come in several messages.
        #[serde(default)]
        parts: bool,
    },
    /// Send no more events of this topic.
    Unsubscribe { topic: Topic },
    /// Judge this connection by a credential from now on.
    Authenticate {
        /// An API key or a token.
        token: Token,
    },
}

/// A credential on its way in.
#[derive(PartialEq, Eq, Deserialize)]
pub(crate) struct Token(pub(crate) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What was wrong with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

impl Request {
    /// Reads a text message.
    pub(crate) fn parse(text: &str) -> Result<Self, Violation> {
        let too_long = || Violation(format!("a message has at most {MAX_MESSAGE} bytes, not {}", text.len()));
        if text.len() > MAX_AUTHENTICATION {
            return Err(too_long());
        }
        match serde_json::from_str(text) {
            Ok(request @ Self::Authenticate { .. }) => Ok(request),
            _ if text.len() > MAX_MESSAGE => Err(too_long()),
            Ok(request) => Ok(request),
            Err(error) => Err(Violation(error.to_string().chars().take(MAX_REASON).collect())),
        }
    }

    /// For metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Subscribe { .. } => "subscribe",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::Authenticate { .. } => "authenticate",
        }
    }
}

/// What a subscription begins with.
#[derive(Debug, Clone)]
pub(crate) enum TopicSnapshot {
    /// All nodes.
    Nodes(Vec<Arc<Node>>),
    /// All spawns that have not ended, newest first.
    Spawns(Vec<Arc<Followed>>),
    /// One node, if it is known.
    Node(Option<Arc<Node>>),
    /// One spawn, if it is known; also one that has ended.
    Spawn(Option<Arc<Followed>>),
}

/// What this front door understands that others do not: a subscription's `parts`, and topics that begin with `spawns?`.
const FEATURES: [&str; 2] = ["parts", "narrowed"];

/// What subscribers are sent.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Frame<'a> {
    /// The first frame.
    Hello {
        #[serde(rename = "heartbeatSeconds")]
        heartbeat_seconds: f64,
        connection: Uuid,
        features: [&'static str; 2],
    },
    /// The credential was good: its owner and scopes. Without them, credentials are not required here.
    Authenticated {
        #[serde(skip_serializing_if = "Option::is_none")]
        owner: Option<&'a Owner>,
        #[serde(skip_serializing_if = "Option::is_none")]
        scopes: Option<Scopes>,
    },
    /// A subscription goes on where it was; see [`super::encoded`] for one that begins with a snapshot.
    Subscribed { topic: &'a Topic, seq: u64 },
    /// A subscription has ended.
    Unsubscribed { topic: &'a Topic },
    Event {
        topic: &'a Topic,
        #[serde(flatten)]
        event: &'a Event,
    },
    /// The connection is alive.
    Heartbeat { at: Timestamp },
    /// A message was not understood, or asks for what its sender may not have.
    Error {
        code: &'static str,
        message: &'a str,
        /// The topic that it may not have.
        #[serde(skip_serializing_if = "Option::is_none")]
        topic: Option<&'a Topic>,
    },
}

impl Frame<'_> {
    pub(crate) fn hello(heartbeat_seconds: f64, connection: Uuid) -> Self {
        Self::Hello { heartbeat_seconds, connection, features: FEATURES }
    }

    /// As it goes over the wire.
    pub(crate) fn encode(&self) -> Utf8Bytes {
        // Plain data with string keys always has a JSON form.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

/// An event's frame on a topic.
pub(crate) fn event_frame(topic: &Topic, event: &Event, form: Form) -> Utf8Bytes {
    match form {
        Form::Whole => Frame::Event { topic, event }.encode(),
        Form::Ping(spawn, at) => {
            let ping = Event { at, spawn: Some(spawn), data: Map::new(), node: event.node.clone(), ..*event };
            Frame::Event { topic, event: &ping }.encode()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_resembles_a_message_of_a_subscriber_is_read_or_refused_in_a_few_words() {
        let words = [
            "\"type\":\"subscribe\"",
            "\"topic\":",
            "\"since\":",
            "\"parts\":true",
            "node:",
            "spawn:",
            "null",
        ];
        fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/live"), &words, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            match Request::parse(text) {
                Ok(request) => assert!(!request.kind().is_empty()),
                Err(Violation(why)) => assert!(!why.is_empty() && why.chars().count() <= MAX_REASON),
            }
        });
    }

    #[test]
    fn messages_are_read_to_the_letter() {
        let id = SpawnId::mint();
        for (text, wanted) in [
            (r#"{"type":"subscribe","topic":"nodes"}"#.to_owned(), Some((Topic::Nodes, None))),
            (r#"{"type":"subscribe","topic":"spawns","since":7}"#.to_owned(), Some((Topic::Spawns, Some(7)))),
            (format!(r#"{{"topic":"spawn:{id}","type":"subscribe"}}"#), Some((Topic::Spawn(id), None))),
            (r#"{"type":"subscribe","topic":"spawns","since":-7}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"spawns","since":"7"}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"spawns","sinse":7}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"spawns","topic":"nodes"}"#.to_owned(), None),
            (r#"{"type":"subscribe"}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"node:"}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"node:a b"}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"spawn:7"}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"everything"}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"spawns?everything=1"}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":"spawns","parts":1}"#.to_owned(), None),
            (r#"{"type":"subscribe","topic":7}"#.to_owned(), None),
            (r#"{"type":"hello"}"#.to_owned(), None),
            (r#"{"type":"authenticate"}"#.to_owned(), None),
            (r#"{"type":"authenticate","token":7}"#.to_owned(), None),
            (r#"{"type":"authenticate","token":"x","topic":"nodes"}"#.to_owned(), None),
            (r#"{"topic":"nodes"}"#.to_owned(), None),
            (r#"[]"#.to_owned(), None),
            (String::new(), None),
            (format!("{}{}", r#"{"type":"subscribe","topic":"nodes"}"#, " ".repeat(MAX_MESSAGE)), None),
        ] {
            let wanted = wanted.map(|(topic, since)| Request::Subscribe { topic, since, parts: false });
            assert_eq!(Request::parse(&text).ok(), wanted, "{text}");
        }
        let in_parts =
            Request::parse(r#"{"type":"subscribe","topic":"spawns?node=a","parts":true}"#).unwrap();
        let topic = "spawns?node=a".parse().unwrap();
        assert_eq!(in_parts, Request::Subscribe { topic, since: None, parts: true });
        let unsubscribe = Request::parse(r#"{"type":"unsubscribe","topic":"node:a"}"#).unwrap();
        assert_eq!(unsubscribe, Request::Unsubscribe { topic: Topic::Node("a".parse().unwrap()) });
        let long = "x".repeat(access::MAX_CREDENTIAL);
        let authenticate = Request::parse(&format!(r#"{{"type":"authenticate","token":"{long}"}}"#)).unwrap();
        assert!(!format!("{authenticate:?}").contains("xx"));
        assert_eq!(authenticate, Request::Authenticate { token: Token(long.clone()) });
        Request::parse(&format!(r#"{{"type":"authenticate","token":"{long}{long}"}}"#)).unwrap_err();
        let why = Request::parse(&format!(r#"{{"type":"{}"}}"#, "x".repeat(3000))).unwrap_err();
        assert!(why.0.len() <= MAX_REASON);
    }

    #[test]
    fn an_event_is_sent_on_each_topic_it_belongs_to() {
        let [spawn, other] = [SpawnId::mint(), SpawnId::mint()];
        let [a, b]: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let at = Timestamp::from_millis(1_767_225_600_123);
        let event = |kind, spawn, data: Value| {
            let Value::Object(data) = data else { panic!("an object") };
            Event { seq: 7, at: Timestamp::default(), kind, node: Some(a.clone()), spawn, data }
        };
        let ready = event(EventKind::SpawnReady, Some(spawn), json!({"endpoint": "ws://x"}));
        let up = event(EventKind::NodeUp, None, json!({}));
        let ping = event(EventKind::SpawnPing, None, json!({"pings": {spawn.to_string(): at}}));
        let whole = Some(Form::Whole);
        for (topic, of) in [
            (Topic::Nodes, [None, whole, None]),
            (Topic::Spawns, [whole, None, whole]),
            (Topic::Node(a.clone()), [whole, whole, whole]),
            (Topic::Node(b), [None, None, None]),
            ("spawns?node=a".parse().unwrap(), [whole, None, whole]),
            ("spawns?node=b&tag=x=y".parse().unwrap(), [None, None, None]),
            (Topic::Spawn(spawn), [whole, None, Some(Form::Ping(spawn, at))]),
            (Topic::Spawn(other), [None, None, None]),
        ] {
            assert_eq!([&ready, &up, &ping].map(|e| topic.form(e)), of, "{topic}");
        }
        assert_eq!(pings(&ping).collect::<Vec<_>>(), [(spawn, at)]);
        let two = json!({"pings": {spawn.to_string(): at, other.to_string(): at}});
        let two = event(EventKind::SpawnPing, None, two);
        assert_eq!(narrowed(&two, |id| id == spawn), Some(ping.clone()));
        assert_eq!(narrowed(&two, |_| false), None);
        let topic = Topic::Spawn(spawn);
        let frame: Value = serde_json::from_str(&event_frame(&topic, &ping, Form::Ping(spawn, at))).unwrap();
        let wanted = json!({"type": "event", "topic": topic.to_string(), "seq": 7, "kind": "spawn.ping",
            "at": at, "node": "a", "spawn": spawn});
        assert_eq!(frame, wanted);
    }
}
