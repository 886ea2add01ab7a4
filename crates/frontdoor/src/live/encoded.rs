//! A snapshot as it goes over the wire: encoded once, in pieces that all its subscribers share.
//!
//! A piece is a frame of its own on the wire, so a connection buffers one piece and not the whole snapshot. Pieces of one message are
//! fragments (RFC 6455, 5.4): a subscriber receives one message. One that asks for parts receives several messages instead.

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::protocol::{Topic, TopicSnapshot};
use crate::callers::OwnerNames;

/// Bytes of a piece, about. Each connection has a buffer of this size once it was sent a large snapshot.
const PIECE: usize = 32 * 1024;
/// Pieces of a part.
const PIECES: usize = 8;

/// A message; each element is one of its frames.
pub(crate) type Fragments = Vec<Bytes>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The elements of a list, without its brackets; a piece after the first begins with a comma. Or one value.
    pieces: Vec<Bytes>,
    is_list: bool,
    /// Given back when nobody writes it any more.
    pub(super) held: Option<OwnedSemaphorePermit>,
}

impl Encoded {
    /// Encodes a snapshot, with the names that owners have now.
    pub(super) fn of(snapshot: &TopicSnapshot, names: &OwnerNames) -> Self {
        let (pieces, is_list) = match snapshot {
            TopicSnapshot::Nodes(nodes) => (cut(nodes.iter().map(|node| Shown::Node(node))), true),
            TopicSnapshot::Spawns(spawns) => (cut(spawns.iter().map(|spawn| Shown::of(spawn, names))), true),
            TopicSnapshot::Node(node) => (value(&node.as_deref()), false),
            TopicSnapshot::Spawn(spawn) => {
                (value(&spawn.as_ref().map(|spawn| Shown::of(spawn, names))), false)
            }
        };
        Self { pieces, is_list, held: None }
    }

    /// Bytes of all of it.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// `subscribed` with the whole snapshot, as one message.
    pub(super) fn whole(&self, topic: &Topic, seq: u64) -> Fragments {
        let open = if self.is_list { "[" } else { "" };
        let close = if self.is_list { "]" } else { "" };
        let head = format!(r#"{{"type":"subscribed","topic":{},"snapshot":{open}"#, quoted(topic));
        enclosed(head, &self.pieces, format!(r#"{close},"seq":{seq}}}"#))
    }

    /// `subscribed` with the first part of the snapshot, and `part` with each of the others.
    pub(super) fn parts(&self, topic: &Topic, seq: u64) -> Vec<Fragments> {
        if !self.is_list {
            return vec![self.whole(topic, seq)];
        }
        let topic = quoted(topic);
        let count = self.pieces.len().div_ceil(PIECES).max(1);
        let mut parts = Vec::with_capacity(count);
        for n in 1..=count {
            let head = match n {
                1 => format!(r#"{{"type":"subscribed","topic":{topic},"parts":{count},"snapshot":["#),
                n => format!(r#"{{"type":"part","topic":{topic},"part":{n},"snapshot":["#),
            };
            let from = (n - 1) * PIECES;
            let mut pieces = self.pieces[from..self.pieces.len().min(from + PIECES)].to_vec();
            if let (Some(first), true) = (pieces.first_mut(), n > 1) {
                *first = first.slice(1..);
            }
            parts.push(enclosed(head, &pieces, format!(r#"],"seq":{seq}}}"#)));
        }
        parts
    }
}

/// What subscribers read of a node or a spawn.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown<'a> {
    Node(&'a model::api::Node),
    Spawn(&'a model::api::Spawn),
    Named(Box<model::api::Spawn>),
}

impl<'a> Shown<'a> {
    fn of(followed: &'a super::followed::Followed, names: &OwnerNames) -> Self {
        if !names.knows(followed.owner.as_ref()) {
            return Self::Spawn(&followed.spawn);
        }
        let mut named = followed.clone();
        named.named(names);
        Self::Named(Box::new(named.spawn))
    }
}

fn quoted(topic: &Topic) -> String {
    // Plain data always has a JSON form.
    serde_json::to_string(topic).unwrap_or_default()
}

fn value(of: &impl Serialize) -> Vec<Bytes> {
    vec![serde_json::to_vec(of).unwrap_or_default().into()]
}

fn cut<T: Serialize>(items: impl Iterator<Item = T>) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    for (n, item) in items.enumerate() {
        if n > 0 {
            piece.push(b',');
        }
        // A buffer takes everything, and plain data always has a JSON form.
        serde_json::to_writer(&mut piece, &item).ok();
        if piece.len() >= PIECE {
            let capacity = piece.capacity();
            pieces.push(std::mem::replace(&mut piece, Vec::with_capacity(capacity)).into());
        }
    }
    if !piece.is_empty() {
        piece.shrink_to_fit();
        pieces.push(piece.into());
    }
    pieces
}

/// A message of these pieces; a short one is a single frame.
fn enclosed(head: String, pieces: &[Bytes], tail: String) -> Fragments {
    if head.len() + tail.len() + pieces.iter().map(Bytes::len).sum::<usize>() < PIECE {
        let mut all = head.into_bytes();
        pieces.iter().for_each(|piece| all.extend_from_slice(piece));
        all.extend_from_slice(tail.as_bytes());
        return vec![all.into()];
    }
    let mut fragments = Vec::with_capacity(pieces.len() + 2);
    fragments.push(head.into());
    fragments.extend_from_slice(pieces);
    fragments.push(tail.into());
    fragments
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::SpawnId;
    use serde_json::{Value, json};

    use super::*;
    use crate::live::view::tests::{event, node};
    use crate::live::view::{View, Watched};

    fn read(message: &Fragments) -> Value {
        serde_json::from_slice(&message.concat()).unwrap()
    }

    fn spawns(count: u64) -> (Vec<SpawnId>, TopicSnapshot) {
        let mut view = View::new(1, vec![node("a", 0)]);
        view.cover(&["a".parse().unwrap()], Vec::new(), 1, &[]);
        let ids: Vec<SpawnId> = (0..count).map(|_| SpawnId::mint()).collect();
        for (n, id) in ids.iter().enumerate() {
            let first = json!({"rendererType": "csr", "endpoint": "ws://x", "owner": "key:ann"});
            let kind = model::EventKind::SpawnLaunching;
            view.apply(&event(n as u64 + 2, kind, Some(*id), first), None, Watched::No);
        }
        (ids, view.snapshot(&Topic::Spawns, None))
    }

    #[test]
    fn a_snapshot_is_one_message_however_many_pieces_it_has() {
        for count in [0, 1, 2, 1000] {
            let (ids, snapshot) = spawns(count);
            let encoded = Encoded::of(&snapshot, &OwnerNames::default());
            let message = encoded.whole(&Topic::Spawns, 7);
            assert!(message.iter().all(|fragment| fragment.len() < PIECE + 1024));
            assert_eq!(message.len() > 1, count == 1000, "{count}");
            let read = read(&message);
            assert_eq!(
                (&read["type"], &read["topic"], &read["seq"]),
                (&json!("subscribed"), &json!("spawns"), &json!(7))
            );
            let listed: Vec<&Value> =
                read["snapshot"].as_array().unwrap().iter().map(|spawn| &spawn["id"]).collect();
            assert_eq!(
                listed,
                ids.iter().rev().map(|id| json!(id)).collect::<Vec<_>>().iter().collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn parts_add_up_to_the_snapshot() {
        for (count, is_split) in [(0, false), (3, false), (4000, true)] {
            let (_, snapshot) = spawns(count);
            let encoded = Encoded::of(&snapshot, &OwnerNames::default());
            let whole = read(&encoded.whole(&Topic::Spawns, 7));
            let parts: Vec<Value> = encoded.parts(&Topic::Spawns, 7).iter().map(read).collect();
            assert_eq!((parts.len() > 1, &parts[0]["parts"]), (is_split, &json!(parts.len())));
            let mut all = Vec::new();
            for (n, part) in parts.iter().enumerate() {
                let kind = if n == 0 { "subscribed" } else { "part" };
                assert_eq!((&part["type"], &part["seq"]), (&json!(kind), &json!(7)));
                assert!(n == 0 || part["part"] == json!(n + 1), "{}", part["part"]);
                all.extend(part["snapshot"].as_array().unwrap().iter().cloned());
            }
            assert_eq!(Value::Array(all), whole["snapshot"]);
        }
    }

    #[test]
    fn what_is_no_list_is_one_value() {
        let encoded = Encoded::of(&TopicSnapshot::Node(None), &OwnerNames::default());
        let topic = Topic::Node("a".parse().unwrap());
        let wanted = json!({"type": "subscribed", "topic": "node:a", "snapshot": null, "seq": 7});
        assert_eq!(read(&encoded.whole(&topic, 7)), wanted);
        assert_eq!(encoded.parts(&topic, 7).len(), 1);
        let one = TopicSnapshot::Node(Some(Arc::new(node("a", 2))));
        assert_eq!(read(&Encoded::of(&one, &OwnerNames::default()).whole(&topic, 7))["snapshot"]["id"], "a");
    }
}
