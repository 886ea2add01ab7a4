//! The view, the ring, and who is sent what.
//!
//! Invariant: one short lock guards all of it, so that a subscription begins between two events and never in the middle of one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::api::Node;
use model::{Event, NodeId, Owner, SpawnId};
use registry::WantedPings;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use super::claims::Claims;
use super::followed::Followed;
use super::listeners::{Mailbox, Topics, heard};
use super::protocol::{Topic, TopicSnapshot};
use super::ring::{Owned, Ring};
use super::view::{Need, View, Watched};
use crate::callers::OwnerNames;

/// Nodes whose pings are asked for one by one.
const MAX_NODES: usize = 100;

/// How a subscription goes on after an event.
#[derive(Debug)]
pub(crate) enum Next {
    /// With these events; those after `seq` arrive in the mailbox.
    Caught { events: Vec<Arc<Owned>>, seq: u64 },
    /// With these events, and then with more that are here; nothing arrives in the mailbox yet.
    Page(Vec<Arc<Owned>>),
    /// With events that the ring does not have any more, up to this one.
    Older { until: u64 },
    /// The last event that the subscriber has is not here yet.
    Ahead,
    /// There is another view than before: it may be of another registry.
    Changed,
    /// There is no view.
    Nothing,
}

/// A subscription as far as its events go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listening<'a> {
    pub(crate) topic: &'a Arc<Topic>,
    /// The owner whose spawns it hears of; `None`: all spawns.
    pub(crate) only: Option<&'a Owner>,
    pub(crate) mailbox: &'a Mailbox,
}

impl Listening<'_> {
    /// The events of its topic after this one, if none of them is missing. Where nothing has happened since, nothing has for any owner;
    /// an event that is not here yet is none after which any is.
    fn after<'r>(
        &self,
        since: u64,
        view: &View,
        ring: &'r Ring,
    ) -> Option<impl Iterator<Item = &'r Arc<Owned>>> {
        let topic = self.topic;
        let events = if since < view.seq { Some(ring.since(since)?) } else { None };
        Some(events.into_iter().flatten().filter(|owned| topic.form(&owned.event).is_some()))
    }

    /// Whether it is known if this event is for it.
    fn knows(&self, owned: &Owned) -> bool {
        !self.is_part() || owned.of.is_known
    }

    /// An event as far as it may hear of it.
    fn hears(&self, owned: &Arc<Owned>, view: &View) -> Option<Arc<Owned>> {
        let part = match &**self.topic {
            Topic::Narrowed(narrowed) => Some(&**narrowed),
            _ => None,
        };
        let heard = heard(owned, self.only, part, view)?;
        let is_whole = Arc::ptr_eq(&heard, &owned.event);
        Some(if is_whole { Arc::clone(owned) } else { Arc::new(Owned::new(heard, owned.of.clone())) })
    }

    /// Whether it hears of some spawns only, by what they are.
    pub(crate) fn is_part(&self) -> bool {
        self.only.is_some() || matches!(**self.topic, Topic::Narrowed(_))
    }
}

/// Nodes whose spawns are to be read.
#[derive(Debug)]
pub(crate) struct Uncovered {
    pub(crate) nodes: Vec<NodeId>,
    /// The view's last event when they were found.
    since: u64,
    generation: u64,
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
    /// Changes when more spawns are needed.
    needed: watch::Sender<u64>,
    /// Changes when more spawns are here.
    covered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    farm: Option<(View, Ring)>,
    topics: Topics,
    claims: Claims,
    generation: u64,
}

/// A connection that wants the feed to run, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Wanting<'a>(&'a Feed);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.wanted.send_modify(|count| *count -= 1);
    }
}

/// A subscription that needs some spawns to be followed, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Needing<'a> {
    feed: &'a Feed,
    need: Need,
}

impl Drop for Needing<'_> {
    fn drop(&mut self) {
        self.feed.inner().claims.remove(&self.need);
    }
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            loaded: watch::Sender::new(false),
            wanted: watch::Sender::new(0),
            needed: watch::Sender::new(0),
            covered: watch::Sender::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn want(&self) -> Wanting<'_> {
        self.wanted.send_modify(|count| *count += 1);
        Wanting(self)
    }

    /// Has spawns followed.
    pub(crate) fn need(&self, need: Need) -> Needing<'_> {
        let mut inner = self.inner();
        inner.claims.add(&need);
        if let (Need::All, Some((view, _))) = (&need, &mut inner.farm) {
            view.covers_new = true;
        }
        drop(inner);
        self.needed.send_modify(|count| *count += 1);
        Needing { feed: self, need }
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

    /// Returns when there is a view that has the spawns that are needed.
    pub(crate) async fn covers(&self, need: &Need) {
        let is_here = || self.inner().farm.as_ref().is_some_and(|(view, _)| view.covers(need));
        self.covered.subscribe().wait_for(|_| is_here()).await.ok();
    }

    /// Returns nodes whose spawns are needed and not here, so many at the most, when there are any.
    pub(crate) async fn uncovered(&self, most: usize) -> Uncovered {
        let mut needed = self.needed.subscribe();
        loop {
            needed.borrow_and_update();
            let found = {
                let inner = self.inner();
                let generation = inner.generation;
                inner.farm.as_ref().map(|(view, _)| Uncovered {
                    nodes: inner.uncovered(view, most),
                    since: view.seq,
                    generation,
                })
            };
            if let Some(found) = found.filter(|found| !found.nodes.is_empty()) {
                return found;
            }
            needed.changed().await.ok();
        }
    }

    /// Those of these nodes whose spawns are needed, for a view that is being made.
    pub(crate) fn needed_of(&self, nodes: &[Node]) -> Vec<NodeId> {
        let inner = self.inner();
        nodes.iter().map(|node| &node.id).filter(|node| inner.claims.wants(node)).cloned().collect()
    }

    /// Takes in the spawns of nodes. `until`: the last event that they may include. Returns `false` when they cannot be made exact:
    /// then they are read again.
    pub(crate) fn cover(&self, found: &Uncovered, spawns: Vec<Followed>, until: u64) -> bool {
        let mut inner = self.inner();
        let is_same = inner.generation == found.generation;
        let Some((view, ring)) = inner.farm.as_mut().filter(|_| is_same) else { return false };
        let Some(since) = ring.after(found.since, view.seq) else { return false };
        view.cover(&found.nodes, spawns, until, &since);
        drop(inner);
        self.covered.send_modify(|count| *count += 1);
        true
    }

    /// Takes a new view; every subscription begins anew.
    pub(crate) fn load(&self, mut view: View, ring: Ring) {
        let mut inner = self.inner();
        view.covers_new = inner.claims.wants_all();
        inner.farm = Some((view, ring));
        inner.generation += 1;
        inner.topics.restart();
        drop(inner);
        self.loaded.send_replace(true);
        self.covered.send_modify(|count| *count += 1);
        self.needed.send_modify(|count| *count += 1);
    }

    pub(crate) fn unload(&self) {
        self.loaded.send_replace(false);
        self.inner().farm = None;
    }

    /// Forgets the spawns that no subscription has needed for so long.
    pub(crate) fn tidy(&self, linger: Duration) {
        let Inner { farm, topics, claims, .. } = &mut *self.inner();
        claims.tidy(linger);
        let Some((view, _)) = farm else { return };
        view.covers_new = claims.wants_all();
        view.uncover(|node| claims.wants(node), |spawn| topics.has_spawn(spawn));
    }

    /// The nodes that were up when last heard of.
    pub(crate) fn up(&self) -> Vec<NodeId> {
        self.inner().farm.as_ref().map_or_else(Vec::new, |(view, _)| view.up())
    }

    /// The node of a spawn that is followed.
    pub(crate) fn node_of(&self, spawn: SpawnId) -> Option<NodeId> {
        self.inner().farm.as_ref().and_then(|(view, _)| view.node_of(spawn).cloned())
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
            match topic {
                Topic::Nodes => {}
                Topic::Spawns => return Some(WantedPings::All),
                Topic::Narrowed(narrowed) => match &narrowed.node {
                    Some(node) => {
                        nodes.insert(node.clone());
                    }
                    None => return Some(WantedPings::All),
                },
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
        let Inner { farm, topics, .. } = &mut *inner;
        let Some((view, ring)) = farm else { return };
        // Asked before it is applied: a spawn that has ended is forgotten.
        let of = view.subject_of(&event);
        let is_watched = event.spawn.is_some_and(|spawn| topics.has_spawn(spawn));
        let before = view.coming();
        view.apply(&event, read, if is_watched { Watched::Yes } else { Watched::No });
        let has_come = view.coming() != before;
        let owned = Arc::new(Owned::new(Arc::new(names.named(event)), of));
        ring.push(Arc::clone(&owned));
        topics.publish(&owned, view);
        drop(inner);
        if has_come {
            self.covered.send_modify(|count| *count += 1);
        }
    }

    /// How things stand, and the number of the last event; `None` while there is no view that has what is needed.
    pub(crate) fn snapshot(
        &self,
        topic: &Topic,
        only: Option<&Owner>,
        need: &Need,
    ) -> Option<(TopicSnapshot, u64)> {
        let inner = self.inner();
        let (view, _) = inner.farm.as_ref()?;
        view.covers(need).then(|| (view.snapshot(topic, only), view.seq))
    }

    /// Which view this is: events of an earlier one may be of another registry.
    pub(crate) fn generation(&self) -> u64 {
        self.inner().generation
    }

    /// How a subscription would go on after this event.
    pub(crate) fn peek(&self, listening: Listening<'_>, since: u64) -> Next {
        let inner = self.inner();
        let Some((view, ring)) = &inner.farm else { return Next::Nothing };
        if since > view.seq {
            return Next::Ahead;
        }
        let is_here = match listening.after(since, view, ring) {
            Some(mut events) => events.all(|owned| listening.knows(owned)),
            None => false,
        };
        if is_here { Next::Page(Vec::new()) } else { Next::Older { until: view.seq } }
    }

    /// Subscribes after this event, once no more than `most` events are to be sent before those that happen from now on.
    /// `generation`: the view that this event is known in.
    pub(crate) fn catch_up(
        &self,
        listening: Listening<'_>,
        since: u64,
        most: usize,
        generation: u64,
    ) -> Next {
        let mut inner = self.inner();
        if inner.generation != generation {
            return Next::Changed;
        }
        let Inner { farm, topics, .. } = &mut *inner;
        let Some((view, ring)) = farm else { return Next::Nothing };
        let Some(after) = listening.after(since, view, ring) else {
            return Next::Older { until: view.seq };
        };
        let mut events = Vec::new();
        for owned in after {
            if !listening.knows(owned) {
                return Next::Older { until: view.seq };
            }
            events.extend(listening.hears(owned, view));
            if events.len() > most {
                events.pop();
                return Next::Page(events);
            }
        }
        topics.add(listening.topic, listening.only, listening.mailbox);
        Next::Caught { events, seq: view.seq.max(since) }
    }

    /// Ends this connection's subscription.
    pub(crate) fn unsubscribe(&self, topic: &Arc<Topic>, only: Option<&Owner>, connection: Uuid) {
        self.inner().topics.remove(topic, only, connection);
    }
}

impl Inner {
    fn uncovered(&self, view: &View, most: usize) -> Vec<NodeId> {
        // Those that are asked for by name may be of nodes that are not known.
        let all = self.claims.wants_all().then(|| view.names()).into_iter().flatten();
        view.uncovered(self.claims.nodes().chain(all), most)
    }
}
