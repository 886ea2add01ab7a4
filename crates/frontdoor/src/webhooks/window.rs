//! The events that are read and not all delivered: which may be sent, and up to which everything was delivered.
//!
//! Plain data. The events of one spawn, or of one node, form a chain, of which only the first is sent. What is delivered behind an event that is not
//! costs a slot and no more, so one event that its receiver refuses holds up its own chain alone, for as long as there are slots.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use model::{Event, NodeId, SpawnId};
use registry::Cursor;

/// Posts that may wait before no more events are read. One read brings up to 1000 more, and another one waits.
const MAX_WAITING: usize = 256;
/// Events from the oldest that is not delivered to the newest that is read: a front door that takes over delivers all of them again.
const MAX_SLOTS: usize = 16_384;

/// What an event happened to. Events of one subject stay in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Spawn(SpawnId),
    Node(NodeId),
    /// The delivery itself.
    Delivery,
}

impl Subject {
    pub(super) fn of(event: &Event) -> Self {
        match (event.spawn, &event.node) {
            (Some(spawn), _) => Self::Spawn(spawn),
            (None, Some(node)) => Self::Node(node.clone()),
            (None, None) => Self::Delivery,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(spawn) => write!(f, "spawn {spawn}"),
            Self::Node(node) => write!(f, "node {node}"),
            Self::Delivery => f.write_str("the delivery"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Post {
    /// Its number in this window.
    pub(super) number: u64,
    pub(super) subject: Subject,
    /// `webhook-id`: the same for each attempt, whichever front door makes it.
    pub(super) id: String,
    pub(super) body: Bytes,
    /// Whether it stands for an event that was set aside.
    pub(super) is_notice: bool,
}

#[derive(Debug)]
struct Slot {
    /// Where the delivery stands once this one and all before it are done.
    cursor: Cursor,
    done: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Window {
    /// In the order of the stream.
    slots: VecDeque<Slot>,
    /// The number of the first of them.
    first: u64,
    /// How many of them are not done.
    waiting: usize,
    /// Posts that are not done, the first of each chain being sent.
    chains: HashMap<Subject, VecDeque<Post>>,
    cursor: Cursor,
}

impl Window {
    pub(super) fn new(cursor: Cursor) -> Self {
        Self { slots: VecDeque::new(), first: 0, waiting: 0, chains: HashMap::new(), cursor }
    }

    /// Adds a post, and returns it if it is to be sent now.
    pub(super) fn push(&mut self, subject: Subject, id: String, body: Bytes, cursor: Cursor) -> Option<Post> {
        let number = self.first + u64::try_from(self.slots.len()).unwrap_or(u64::MAX);
        self.slots.push_back(Slot { cursor, done: false });
        self.waiting += 1;
        let post = Post { number, subject: subject.clone(), id, body, is_notice: false };
        let chain = self.chains.entry(subject).or_default();
        chain.push_back(post.clone());
        (chain.len() == 1).then_some(post)
    }

    /// Notes an event that is not posted.
    pub(super) fn skip(&mut self, cursor: Cursor) {
        self.slots.push_back(Slot { cursor, done: true });
        self.advance();
    }

    /// Notes that a post was delivered or set aside, and returns the next one of its chain.
    pub(super) fn done(&mut self, post: &Post) -> Option<Post> {
        let at = usize::try_from(post.number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if let Some(slot) = self.slots.get_mut(at).filter(|slot| !slot.done) {
            slot.done = true;
            self.waiting -= 1;
        }
        self.advance();
        let chain = self.chains.get_mut(&post.subject)?;
        chain.pop_front();
        let next = chain.front().cloned();
        if next.is_none() {
            self.chains.remove(&post.subject);
        }
        next
    }

    fn advance(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.done) {
            let Some(slot) = self.slots.pop_front() else { return };
            self.first += 1;
            self.cursor = slot.cursor;
        }
    }

    /// Everything up to here was delivered.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The number of the oldest event that was not delivered. A gap has no number where another registry begins.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.slots.iter().map(|slot| slot.cursor.seq).find(|seq| *seq > 0)
    }

    /// Whether more events may be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting < MAX_WAITING && self.slots.len() < MAX_SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Cursor {
        Cursor { seq, incarnation: None }
    }

    #[test]
    fn a_subjects_posts_go_one_after_the_other_and_the_cursor_waits_for_the_slowest() {
        let [a, b] = [SpawnId::mint(), SpawnId::mint()].map(Subject::Spawn);
        let mut window = Window::new(at(0));
        let mut push = |subject: &Subject, seq: u64| {
            window.push(subject.clone(), format!("evt_{seq}"), Bytes::new(), at(seq)).map(|post| post.id)
        };
        assert_eq!(push(&a, 1).as_deref(), Some("evt_1"));
        assert_eq!(push(&a, 2), None);
        assert_eq!(push(&b, 3).as_deref(), Some("evt_3"));
        assert_eq!(push(&a, 4), None);
        window.skip(at(5));
        let post = |number: u64, subject: &Subject, seq: u64| Post {
            number,
            subject: subject.clone(),
            id: format!("evt_{seq}"),
            body: Bytes::new(),
            is_notice: false,
        };
        assert_eq!(window.done(&post(2, &b, 3)), None);
        assert_eq!((window.cursor(), window.oldest()), (at(0), Some(1)));
        let second = window.done(&post(0, &a, 1)).unwrap();
        assert_eq!((second.id.as_str(), window.cursor(), window.oldest()), ("evt_2", at(1), Some(2)));
        let last = window.done(&second).unwrap();
        assert_eq!((last.id.as_str(), window.cursor()), ("evt_4", at(3)));
        assert_eq!(window.done(&last), None);
        assert_eq!((window.cursor(), window.oldest(), window.slots.len()), (at(5), None, 0));
        assert!(window.chains.is_empty(), "a subject that has nothing to be sent is forgotten");
        assert!(window.push(Subject::Delivery, "gap_5".to_owned(), Bytes::new(), at(0)).is_some());
        assert_eq!(window.oldest(), None, "a gap is not as old as the clock");
        assert!(window.push(a, "evt_6".to_owned(), Bytes::new(), at(6)).is_some());
    }
    #[test]
    fn a_post_that_is_not_delivered_holds_up_no_other_subject_until_the_slots_are_used_up() {
        let mut window = Window::new(at(0));
        let number = |n: usize| u64::try_from(n).unwrap();
        let mut push = |n: usize| {
            let subject = Subject::Spawn(SpawnId::mint());
            window.push(subject, format!("evt_{n}"), Bytes::new(), at(number(n) + 1)).unwrap()
        };
        push(0);
        let rest: Vec<Post> = (1..MAX_WAITING).map(&mut push).collect();
        assert!(!window.has_room(), "so many are waiting");
        for post in &rest {
            assert_eq!(window.done(post), None);
            assert_eq!(window.done(post), None, "one that is done twice counts once");
        }
        assert!(window.has_room(), "one is waiting");
        for n in MAX_WAITING..MAX_SLOTS {
            assert!(window.has_room(), "{n}");
            window.skip(at(number(n) + 1));
        }
        assert!(!window.has_room());
        assert_eq!(window.cursor(), at(0));
    }
}
