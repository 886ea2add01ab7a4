//! The view, the ring, and who is sent what.
//!
//! Invariant: one short lock guards all of it, so that a subscription begins between two events and never in the middle of one.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use model::api::Node;
use model::{Event, EventKind, NodeId, Owner};
use registry::WantedPings;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::protocol::{Form, Topic, TopicSnapshot, event_frame, is_of_spawns, narrowed, pings};
use super::ring::{Owned, Ring};
use super::view::View;
use crate::callers::OwnerNames;

/// Nodes whose pings are asked for one by one.
const MAX_NODES: usize = 100;

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

/// How a subscription begins.
#[derive(Debug)]
pub(crate) enum Start {
    /// With how things stood right after this event.
    Snapshot { snapshot: TopicSnapshot, seq: u64 },
    /// With these events, after the last one that the subscriber has.
    Events(Vec<Arc<Event>>),
    /// With events that the ring does not have any more, up to this one.
    Older { until: u64 },
    /// The last event that the subscriber has is not here yet.
    Ahead,
    /// There is no view.
    Nothing,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Never held across an await.
    inner: Mutex<Inner>,
    /// Whether there is a view.
    loaded: watch::Sender<bool>,
    /// How many connections want one.
    wanted: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    farm: Option<(View, Ring)>,
    topics: HashMap<Arc<Topic>, Listeners>,
}

/// The listeners of a topic.
#[derive(Debug, Default)]
struct Listeners {
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

/// A connection that wants the feed to run, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Wanting<'a>(&'a Feed);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.wanted.send_modify(|count| *count -= 1);
    }
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), loaded: watch::Sender::new(false), wanted: watch::Sender::new(0) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn want(&self) -> Wanting<'_> {
        self.wanted.send_modify(|count| *count += 1);
        Wanting(self)
    }

    /// Returns when a connection wants the feed to run.
    pub(crate) async fn wanted(&self) {
        // The sender lives as long as `self`.
        self.wanted.subscribe().wait_for(|count| *count > 0).await.ok();
    }

    /// Returns when no connection has wanted it for this long.
    pub(crate) async fn idle(&self, time: Duration) {
        let mut wanted = self.wanted.subscribe();
        loop {
            wanted.wait_for(|count| *count == 0).await.ok();
            if timeout(time, wanted.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }

    /// Returns when there is a view.
    pub(crate) async fn loaded(&self) {
        self.loaded.subscribe().wait_for(|loaded| *loaded).await.ok();
    }

    /// Takes a new view; every subscription begins anew.
    pub(crate) fn load(&self, view: View, ring: Ring) {
        let mut inner = self.inner();
        inner.farm = Some((view, ring));
        inner.topics.retain(|topic, listeners| {
            let item = Item::Restart(Arc::clone(topic));
            listeners.retain(|mailbox| post(mailbox, &item));
            !listeners.is_empty()
        });
        drop(inner);
        self.loaded.send_replace(true);
    }

    /// Drops the view.
    pub(crate) fn unload(&self) {
        self.loaded.send_replace(false);
        self.inner().farm = None;
    }

    /// The nodes that were up when last heard of.
    pub(crate) fn up(&self) -> Vec<NodeId> {
        self.inner().farm.as_ref().map_or_else(Vec::new, |(view, _)| view.up())
    }

    /// The node that must be read before this event can be published.
    pub(crate) fn lacks<'e>(&self, event: &'e Event) -> Option<&'e NodeId> {
        self.inner().farm.as_ref().and_then(|(view, _)| view.lacks(event))
    }

    /// Takes in what is no event, if there is a view.
    pub(crate) fn refresh(&self, read: impl FnOnce() -> Vec<Node>) {
        if !*self.loaded.borrow() {
            return;
        }
        let nodes = read();
        if let Some((view, _)) = &mut self.inner().farm {
            view.refresh(&nodes);
        }
    }

    /// Whose pings subscribers hear of; `None`: no node's.
    pub(crate) fn wanted_pings(&self) -> Option<WantedPings> {
        let inner = self.inner();
        let (view, _) = inner.farm.as_ref()?;
        let mut nodes = BTreeSet::new();
        for topic in inner.topics.keys() {
            match &**topic {
                Topic::Nodes => {}
                Topic::Spawns => return Some(WantedPings::All),
                Topic::Node(node) => {
                    nodes.insert(node.clone());
                }
                Topic::Spawn(spawn) => nodes.extend(view.node_of(*spawn).cloned()),
            }
            if nodes.len() > MAX_NODES {
                return Some(WantedPings::All);
            }
        }
        (!nodes.is_empty()).then_some(WantedPings::Of(nodes))
    }

    /// The last event that was published.
    pub(crate) fn seq(&self) -> u64 {
        self.inner().farm.as_ref().map_or(0, |(view, _)| view.seq)
    }

    /// Sends the next event to its listeners, with its owner's name.
    pub(crate) fn publish(&self, event: Event, read: Option<Node>, names: &OwnerNames) {
        let mut inner = self.inner();
        let Inner { farm, topics } = &mut *inner;
        let Some((view, ring)) = farm else { return };
        // Asked before it is applied: a spawn that has ended is forgotten.
        let owner = view.owner_in(&event);
        view.apply(&event, read);
        let event = Arc::new(names.named(event));
        match &owner {
            Some(owner) => ring.push(Arc::clone(&event), owner.clone()),
            None => ring.push_unowned(Arc::clone(&event)),
        }
        let owned = Owned { event, owner: owner.flatten() };
        for topic in topics_of(&owned.event) {
            let Some((topic, _)) = topics.get_key_value(&topic) else { continue };
            let topic = Arc::clone(topic);
            let Some(listeners) = topics.get_mut(&topic) else { continue };
            post_to_all(&topic, &owned, view, listeners);
            if listeners.is_empty() {
                topics.remove(&topic);
            }
        }
    }

    /// Subscribes: what `Start` stands for, and then every event; those of spawns only as far as they are this owner's, if one
    /// is named.
    pub(crate) fn subscribe(
        &self,
        topic: &Arc<Topic>,
        only: Option<&Owner>,
        since: Option<u64>,
        mailbox: &Mailbox,
    ) -> Start {
        let mut inner = self.inner();
        let Inner { farm, topics } = &mut *inner;
        let Some((view, ring)) = farm else { return Start::Nothing };
        let mailboxes = topics.entry(Arc::clone(topic)).or_default().of(only);
        if mailboxes.iter().all(|known| known.connection != mailbox.connection) {
            mailboxes.push(mailbox.clone());
        }
        match since {
            None => Start::Snapshot { snapshot: view.snapshot(topic, only), seq: view.seq },
            Some(since) if since > view.seq => Start::Ahead,
            // Nothing has happened since, for any owner.
            Some(since) if since == view.seq => Start::Events(Vec::new()),
            Some(since) => {
                let belongs = |event: &Arc<Event>| topic.form(event).is_some();
                let events: Option<Vec<Arc<Event>>> = match only {
                    None => {
                        ring.since(since).map(|e| e.map(|o| Arc::clone(&o.event)).filter(belongs).collect())
                    }
                    Some(owner) => ring
                        .owned_since(since)
                        .map(|events| events.filter_map(|o| heard(o, owner, view)).filter(belongs).collect()),
                };
                events.map_or(Start::Older { until: view.seq }, Start::Events)
            }
        }
    }

    /// Ends this connection's subscription.
    pub(crate) fn unsubscribe(&self, topic: &Arc<Topic>, only: Option<&Owner>, connection: Uuid) {
        let mut inner = self.inner();
        if let Some(listeners) = inner.topics.get_mut(topic) {
            let mailboxes = listeners.of(only);
            mailboxes.retain(|mailbox| mailbox.connection != connection);
            if let (Some(owner), true) = (only, mailboxes.is_empty()) {
                listeners.own.remove(owner);
            }
            if listeners.is_empty() {
                inner.topics.remove(topic);
            }
        }
    }
}

/// Posts to the listeners of this topic, each as far as it may hear.
fn post_to_all(topic: &Arc<Topic>, owned: &Owned, view: &View, listeners: &mut Listeners) {
    let Owned { event, owner } = owned;
    let Some(form) = topic.form(event) else { return };
    let item = |frame| Item::Event { topic: Arc::clone(topic), seq: event.seq, frame };
    // Encoded once for all of them.
    let whole = LazyCell::new(|| item(event_frame(topic, event, form)));
    if !listeners.all.is_empty() {
        listeners.all.retain(|mailbox| post(mailbox, &whole));
    }
    if listeners.own.is_empty() {
        return;
    }
    let owner = match form {
        Form::Ping(spawn, _) => view.owner(spawn).flatten(),
        Form::Whole => owner.as_ref(),
    };
    if !is_of_spawns(event.kind) {
        listeners.own.retain(|_, mailboxes| {
            mailboxes.retain(|mailbox| post(mailbox, &whole));
            !mailboxes.is_empty()
        });
    } else if event.spawn.is_none() && form == Form::Whole {
        for owner in owners_of_pings(event, view) {
            if listeners.own.contains_key(owner)
                && let Some(event) = heard(owned, owner, view)
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

/// An event as far as an owner may hear of it.
fn heard(Owned { event, owner: of }: &Owned, owner: &Owner, view: &View) -> Option<Arc<Event>> {
    if !is_of_spawns(event.kind) {
        return Some(Arc::clone(event));
    }
    if event.spawn.is_none() {
        return narrowed(event, |spawn| view.owner(spawn) == Some(Some(owner))).map(Arc::new);
    }
    (of.as_ref() == Some(owner)).then(|| Arc::clone(event))
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

/// All topics that an event may belong to.
fn topics_of(event: &Event) -> Vec<Topic> {
    let mut topics = vec![if is_of_spawns(event.kind) { Topic::Spawns } else { Topic::Nodes }];
    topics.extend(event.node.clone().map(Topic::Node));
    topics.extend(event.spawn.map(Topic::Spawn));
    if event.kind == EventKind::SpawnPing {
        topics.extend(pings(event).map(|(spawn, _)| Topic::Spawn(spawn)));
    }
    topics
}
