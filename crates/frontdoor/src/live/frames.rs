//! The first frames of subscriptions, kept for a moment: subscriptions that begin at the same time get the same frame, and a
//! snapshot of a large farm is expensive to encode.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use model::Owner;
use tokio::time::Instant;

use super::protocol::Topic;

/// Loads, which are no events, may be so much older than they are in the view.
const GOOD_FOR: Duration = Duration::from_millis(250);
/// Snapshots of a farm may be large: few are kept.
const MAX_FRAMES: usize = 8;

#[derive(Debug)]
struct Kept {
    topic: Topic,
    only: Option<Owner>,
    seq: u64,
    made: Instant,
    frame: Utf8Bytes,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Frames(Mutex<VecDeque<Kept>>);

impl Frames {
    /// The frame of a snapshot as of this event: the one from a moment ago, or what `encode` makes.
    pub(super) fn get(
        &self,
        topic: &Topic,
        only: Option<&Owner>,
        seq: u64,
        encode: impl FnOnce() -> Utf8Bytes,
    ) -> Utf8Bytes {
        // Those of one node or one spawn are small, and there are many of them.
        if !matches!(topic, Topic::Nodes | Topic::Spawns) {
            return encode();
        }
        // Nodes are the same for every owner.
        let only = only.filter(|_| *topic != Topic::Nodes);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |kept: &&Kept| {
            (kept.seq, &kept.topic, kept.only.as_ref()) == (seq, topic, only)
                && kept.made.elapsed() < GOOD_FOR
        };
        if let Some(kept) = lock().iter().find(same) {
            return kept.frame.clone();
        }
        let frame = encode();
        let mut kept = lock();
        kept.retain(|kept| kept.made.elapsed() < GOOD_FOR);
        kept.truncate(MAX_FRAMES - 1);
        kept.push_front(Kept {
            topic: topic.clone(),
            only: only.cloned(),
            seq,
            made: Instant::now(),
            frame: frame.clone(),
        });
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_encoded_once_for_all_who_may_hear_the_same() {
        let frames = Frames::default();
        let [ann, bob]: [Owner; 2] = ["key:ann", "key:bob"].map(|name| name.parse().unwrap());
        let mut made = 0;
        let mut get = |topic: &str, only: Option<&Owner>, seq| {
            frames.get(&topic.parse().unwrap(), only, seq, || {
                made += 1;
                Utf8Bytes::from(made.to_string())
            })
        };
        for (topic, only, seq, wanted) in [
            ("spawns", Some(&ann), 1, "1"),
            ("spawns", Some(&ann), 1, "1"),
            ("spawns", Some(&bob), 1, "2"),
            ("spawns", None, 1, "3"),
            ("spawns", Some(&ann), 2, "4"),
            ("nodes", Some(&ann), 2, "5"),
            ("nodes", None, 2, "5"),
            ("node:a", None, 2, "6"),
            ("node:a", None, 2, "7"),
        ] {
            assert_eq!(get(topic, only, seq).as_str(), wanted, "{topic} {only:?} {seq}");
        }
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!(get("nodes", None, 2).as_str(), "8");
        for seq in 3..100 {
            get("nodes", None, seq);
        }
        assert_eq!(frames.0.lock().unwrap().len(), MAX_FRAMES);
    }
}
