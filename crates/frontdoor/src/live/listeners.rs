//! The subscribers of each topic, and their queues. Owned by the feed, and changed only under its lock; a subscriber whose queue is full
//! is dropped, and delays no other.

use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use model::{Event, EventKind, Owner, SpawnId};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::followed::Followed;
use super::narrowed::Narrowed;
use super::narrowed_index::NarrowedIndex;
use super::protocol::{Form, Topic, event_frame, is_of_spawns, narrowed, pings};
use super::ring::{Owned, Subject};
use super::view::View;

/// One thing for a subscriber.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// An event's frame.
    Event { topic: Arc<Topic>, seq: u64, frame: Utf8Bytes },
    /// Events may be missing: the subscription begins anew.
    Restart(Arc<Topic>),
}

/// The queue of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    pub(crate) connection: Uuid,
    pub(crate) queue: mpsc::Sender<Item>,
    /// Cancelled when the queue was full.
    pub(crate) slow: CancellationToken,
}

/// The listeners of a topic.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Those that hear of all spawns.
    all: Vec<Mailbox>,
    /// Those that hear of an owner's spawns only, by that owner.
    own: HashMap<Owner, Vec<Mailbox>>,
}

impl Listeners {
    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.own.is_empty()
    }

    fn of(&mut self, only: Option<&Owner>) -> &mut Vec<Mailbox> {
        match only {
            None => &mut self.all,
            Some(owner) => self.own.entry(owner.clone()).or_default(),
        }
    }

    /// Keeps the listeners that are still connected.
    fn retain(&mut self, keep: impl Fn(&Mailbox) -> bool) {
        self.all.retain(&keep);
        self.own.retain(|_, mailboxes| {
            mailboxes.retain(&keep);
            !mailboxes.is_empty()
        });
    }

    /// Posts to those that hear of this owner's spawns only.
    fn post_to(&mut self, owner: &Owner, item: &Item) {
        let Some(mailboxes) = self.own.get_mut(owner) else { return };
        mailboxes.retain(|mailbox| post(mailbox, item));
        if mailboxes.is_empty() {
            self.own.remove(owner);
        }
    }
}

/// All topics that have listeners.
#[derive(Debug, Default)]
pub(super) struct Topics {
    by_topic: HashMap<Arc<Topic>, Listeners>,
    /// Those that an event is not known to belong to by its own names.
    narrowed: NarrowedIndex,
}

impl Topics {
    pub(super) fn keys(&self) -> impl Iterator<Item = &Topic> {
        self.by_topic.keys().map(|topic| &**topic)
    }

    /// Whether a subscriber follows this spawn by its id.
    pub(super) fn has_spawn(&self, spawn: SpawnId) -> bool {
        self.by_topic.contains_key(&Topic::Spawn(spawn))
    }

    /// Adds a listener, if it does not listen already.
    pub(super) fn add(&mut self, topic: &Arc<Topic>, only: Option<&Owner>, mailbox: &Mailbox) {
        self.narrowed.add(topic);
        let mailboxes = self.by_topic.entry(Arc::clone(topic)).or_default().of(only);
        if mailboxes.iter().all(|known| known.connection != mailbox.connection) {
            mailboxes.push(mailbox.clone());
        }
    }

    pub(super) fn remove(&mut self, topic: &Arc<Topic>, only: Option<&Owner>, connection: Uuid) {
        let Some(listeners) = self.by_topic.get_mut(topic) else { return };
        let mailboxes = listeners.of(only);
        mailboxes.retain(|mailbox| mailbox.connection != connection);
        if let (Some(owner), true) = (only, mailboxes.is_empty()) {
            listeners.own.remove(owner);
        }
        self.forget_if_empty(topic);
    }

    fn forget_if_empty(&mut self, topic: &Arc<Topic>) {
        if !self.by_topic.get(topic).is_some_and(Listeners::is_empty) {
            return;
        }
        self.by_topic.remove(topic);
        self.narrowed.remove(topic);
    }

    /// Has every subscription begin anew.
    pub(super) fn restart(&mut self) {
        let mut empty = Vec::new();
        for (topic, listeners) in &mut self.by_topic {
            let item = Item::Restart(Arc::clone(topic));
            listeners.retain(|mailbox| post(mailbox, &item));
            if listeners.is_empty() {
                empty.push(Arc::clone(topic));
            }
        }
        empty.iter().for_each(|topic| self.forget_if_empty(topic));
    }

    /// Posts an event to all that may hear it.
    pub(super) fn publish(&mut self, owned: &Owned, view: &View) {
        for topic in self.topics_of(owned, view) {
            let Some(listeners) = self.by_topic.get_mut(&topic) else { continue };
            post_to_all(&topic, owned, view, listeners);
            self.forget_if_empty(&topic);
        }
    }

    /// The topics with listeners that an event may belong to.
    fn topics_of(&self, owned: &Owned, view: &View) -> Vec<Arc<Topic>> {
        let Owned { event, of, .. } = owned;
        let known = |topic: Topic| self.by_topic.get_key_value(&topic).map(|(topic, _)| Arc::clone(topic));
        let mut topics = Vec::new();
        let of_spawns = is_of_spawns(event.kind);
        topics.extend(known(if of_spawns { Topic::Spawns } else { Topic::Nodes }));
        topics.extend(event.node.clone().map(Topic::Node).and_then(known));
        topics.extend(event.spawn.map(Topic::Spawn).and_then(known));
        if event.kind == EventKind::SpawnPing {
            topics.extend(pings(event).filter_map(|(spawn, _)| known(Topic::Spawn(spawn))));
        }
        if of_spawns && !self.narrowed.is_empty() {
            let mut narrowed = HashSet::new();
            if event.spawn.is_some() {
                self.narrowed.find(event.node.as_ref(), of.owner.as_ref(), &of.tags, &mut narrowed);
            } else {
                for Followed { spawn, owner } in pings(event).filter_map(|(spawn, _)| view.spawn(spawn)) {
                    self.narrowed.find(event.node.as_ref(), owner.as_ref(), &spawn.tags, &mut narrowed);
                }
            }
            topics.extend(narrowed);
        }
        topics
    }
}

/// Posts to the listeners of this topic, each as far as it may hear.
fn post_to_all(topic: &Arc<Topic>, owned: &Owned, view: &View, listeners: &mut Listeners) {
    let Owned { event, of, .. } = owned;
    let Some(form) = topic.form(event) else { return };
    let item = |frame| Item::Event { topic: Arc::clone(topic), seq: event.seq, frame };
    if let Topic::Narrowed(narrowed) = &**topic {
        if let Some(heard) = heard(owned, None, Some(narrowed), view) {
            let all = LazyCell::new(|| item(event_frame(topic, &heard, form)));
            listeners.all.retain(|mailbox| post(mailbox, &all));
        }
        let owners = match event.spawn {
            Some(_) => of.owner.iter().collect(),
            None => owners_of_pings(event, view),
        };
        for owner in owners {
            if listeners.own.contains_key(owner)
                && let Some(heard) = heard(owned, Some(owner), Some(narrowed), view)
            {
                listeners.post_to(owner, &item(event_frame(topic, &heard, form)));
            }
        }
        return;
    }
    // Encoded once for all of them.
    let whole = LazyCell::new(|| item(owned.frame(topic, form)));
    if !listeners.all.is_empty() {
        listeners.all.retain(|mailbox| post(mailbox, &whole));
    }
    if listeners.own.is_empty() {
        return;
    }
    let owner = match form {
        Form::Ping(spawn, _) => view.owner(spawn).flatten(),
        Form::Whole => of.owner.as_ref(),
    };
    if !is_of_spawns(event.kind) {
        listeners.own.retain(|_, mailboxes| {
            mailboxes.retain(|mailbox| post(mailbox, &whole));
            !mailboxes.is_empty()
        });
    } else if event.spawn.is_none() && form == Form::Whole {
        for owner in owners_of_pings(event, view) {
            if listeners.own.contains_key(owner)
                && let Some(event) = heard(owned, Some(owner), None, view)
            {
                listeners.post_to(owner, &item(event_frame(topic, &event, form)));
            }
        }
    } else if let Some(owner) = owner {
        listeners.post_to(owner, &whole);
    }
}

/// The owners of the spawns whose pings are in this event.
fn owners_of_pings<'v>(event: &Event, view: &'v View) -> HashSet<&'v Owner> {
    pings(event).filter_map(|(spawn, _)| view.owner(spawn).flatten()).collect()
}

/// An event as far as a subscriber may hear of it: one that hears of this owner's spawns only, or of a part of all.
pub(super) fn heard(
    owned: &Owned,
    only: Option<&Owner>,
    part: Option<&Narrowed>,
    view: &View,
) -> Option<Arc<Event>> {
    let Owned { event, of: Subject { owner, tags, .. }, .. } = owned;
    if !is_of_spawns(event.kind) {
        return part.is_none().then(|| Arc::clone(event));
    }
    if only.is_none() && part.is_none() {
        return Some(Arc::clone(event));
    }
    if event.spawn.is_none() {
        let takes = |spawn| {
            let Some(followed) = view.spawn(spawn) else { return false };
            let (owner, tags) = (followed.owner.as_ref(), &followed.spawn.tags);
            (only.is_none() || owner == only)
                && part.is_none_or(|part| part.takes(event.node.as_ref(), owner, tags))
        };
        return narrowed(event, takes).map(Arc::new);
    }
    let takes = (only.is_none() || owner.as_ref() == only)
        && part.is_none_or(|part| part.takes(event.node.as_ref(), owner.as_ref(), tags));
    takes.then(|| Arc::clone(event))
}

/// Returns whether the listener is still connected and fast enough.
fn post(mailbox: &Mailbox, item: &Item) -> bool {
    match mailbox.queue.try_send(item.clone()) {
        Ok(()) => true,
        Err(TrySendError::Full(_)) => {
            mailbox.slow.cancel();
            false
        }
        Err(TrySendError::Closed(_)) => false,
    }
}
