//! The view, the ring, and who is told of what. One short lock guards all of it, so that a subscription begins between two
//! events and never in the middle of one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use model::api::Node;
use model::{Event, EventKind, NodeId};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::metrics::Figures;
use super::protocol::{Snapshot, Topic, is_of_spawns, pings, told};
use super::ring::Ring;
use super::view::View;

/// One thing for a subscriber.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// An event's frame.
    Event { topic: Arc<Topic>, seq: u64, frame: Utf8Bytes },
    /// Events may be missing: the subscription begins anew.
    Restart(Arc<Topic>),
}

/// Where a subscriber is told.
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
    Snapshot { snapshot: Snapshot, seq: u64 },
    /// With these events, after the one that was heard last.
    Events(Vec<Arc<Event>>),
    /// With events that are not here any more, up to this one.
    Older { until: u64 },
    /// The last event that was heard is not here yet.
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
    figures: Figures,
}

#[derive(Debug, Default)]
struct Inner {
    farm: Option<(View, Ring)>,
    topics: HashMap<Arc<Topic>, Vec<Mailbox>>,
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
    pub(crate) fn new(figures: Figures) -> Self {
        Self {
            inner: Mutex::default(),
            loaded: watch::Sender::new(false),
            wanted: watch::Sender::new(0),
            figures,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn want(&self) -> Wanting<'_> {
        self.wanted.send_modify(|count| *count += 1);
        Wanting(self)
    }

    /// Returns when somebody wants the feed to run.
    pub(crate) async fn wanted(&self) {
        // The sender lives as long as `self`.
        self.wanted.subscribe().wait_for(|count| *count > 0).await.ok();
    }

    /// Returns when nobody has wanted it for this long.
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

    /// Begins with this; whoever listened to something else begins anew.
    pub(crate) fn load(&self, view: View, ring: Ring) {
        let mut inner = self.inner();
        inner.farm = Some((view, ring));
        inner.topics.retain(|topic, mailboxes| {
            let item = Item::Restart(Arc::clone(topic));
            mailboxes.retain(|mailbox| post(mailbox, &item));
            !mailboxes.is_empty()
        });
        drop(inner);
        self.loaded.send_replace(true);
    }

    /// Keeps nothing.
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

    /// Takes in what is no event, if anybody wants it.
    pub(crate) fn refresh(&self, read: impl FnOnce() -> Vec<Node>) {
        if !*self.loaded.borrow() {
            return;
        }
        let nodes = read();
        if let Some((view, _)) = &mut self.inner().farm {
            view.refresh(&nodes);
        }
    }

    /// The last event that was published.
    pub(crate) fn seq(&self) -> u64 {
        self.inner().farm.as_ref().map_or(0, |(view, _)| view.seq)
    }

    /// Tells everybody of the next event.
    pub(crate) fn publish(&self, event: Event, read: Option<Node>) {
        let mut inner = self.inner();
        let Inner { farm, topics } = &mut *inner;
        let Some((view, ring)) = farm else { return };
        view.apply(&event, read);
        let event = Arc::new(event);
        ring.push(Arc::clone(&event));
        for topic in topics_of(&event) {
            let Some((topic, _)) = topics.get_key_value(&topic) else { continue };
            let topic = Arc::clone(topic);
            let Some(mailboxes) = topics.get_mut(&topic) else { continue };
            let Some(form) = topic.form(&event) else { continue };
            // Encoded once for all of them.
            let frame = told(&topic, &event, form);
            let item = Item::Event { topic: Arc::clone(&topic), seq: event.seq, frame };
            mailboxes.retain(|mailbox| post(mailbox, &item));
            if mailboxes.is_empty() {
                topics.remove(&topic);
            }
        }
    }

    /// Subscribes: what `Start` stands for, and then every event.
    pub(crate) fn subscribe(&self, topic: &Arc<Topic>, since: Option<u64>, mailbox: &Mailbox) -> Start {
        let mut inner = self.inner();
        let Inner { farm, topics } = &mut *inner;
        let Some((view, ring)) = farm else { return Start::Nothing };
        let mailboxes = topics.entry(Arc::clone(topic)).or_default();
        if mailboxes.iter().all(|known| known.connection != mailbox.connection) {
            mailboxes.push(mailbox.clone());
        }
        match since {
            None => Start::Snapshot { snapshot: view.snapshot(topic), seq: view.seq },
            Some(since) if since > view.seq => Start::Ahead,
            Some(since) => match ring.since(since) {
                Some(events) => Start::Events(events.filter(|e| topic.form(e).is_some()).cloned().collect()),
                None => Start::Older { until: view.seq },
            },
        }
    }

    /// Tells this connection no more of this.
    pub(crate) fn unsubscribe(&self, topic: &Arc<Topic>, connection: Uuid) {
        let mut inner = self.inner();
        if let Some(mailboxes) = inner.topics.get_mut(topic) {
            mailboxes.retain(|mailbox| mailbox.connection != connection);
            if mailboxes.is_empty() {
                inner.topics.remove(topic);
            }
        }
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }
}

/// Whether the subscriber is still to be told.
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
