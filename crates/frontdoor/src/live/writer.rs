//! What one live connection sends: answers to its subscriber's messages, and the events of its subscriptions, in one order.
//!
//! Owns: the subscriptions of the connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::ws::{Message, WebSocket};
use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use model::{Owner, Timestamp};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::close::End;
use super::feed::{Item, Mailbox, Wanting};
use super::hub::Live;
use super::protocol::{Frame, Request, Token, Topic, Violation};
use super::resume::{self, NoView};
use super::rights::{Lacking, Rights};
use crate::callers::{Account, Authenticator, Caller, Callers, Kind, Share, one_of};
use crate::listen::ConnectionPlace;
use crate::metrics::Counted;

/// Messages in a row that violate the protocol; the last one ends the connection.
const MAX_VIOLATIONS: u32 = 10;
/// Subscriptions of one connection.
const MAX_TOPICS: usize = 1000;
/// Frames written before the connection is flushed.
const BATCH: usize = 64;

type Sink = SplitSink<WebSocket, Message>;

/// The subscriptions of a connection. Dropping it ends all of them.
pub(super) struct Subscriptions<'a> {
    live: &'a Live,
    mailbox: Mailbox,
    wanting: Option<Wanting<'a>>,
    /// The owner whose spawns it hears of; `None`: all spawns.
    only: Option<Owner>,
    topics: HashMap<Arc<Topic>, Subscription>,
}

struct Subscription {
    /// The last event that was sent.
    last_sent_seq: u64,
    /// Counted in the metrics, and in its caller's limit.
    held: (Counted, Option<Share>),
}

impl Drop for Subscriptions<'_> {
    fn drop(&mut self) {
        for topic in self.topics.keys() {
            self.unsubscribe(topic);
        }
    }
}

impl<'a> Subscriptions<'a> {
    pub(super) fn new(live: &'a Live, mailbox: Mailbox, only: Option<Owner>) -> Self {
        Self { live, mailbox, wanting: None, only, topics: HashMap::new() }
    }

    fn unsubscribe(&self, topic: &Arc<Topic>) {
        self.live.feed.unsubscribe(topic, self.only(topic), self.mailbox.connection);
    }

    /// The owner whose spawns it hears of on this topic.
    fn only(&self, topic: &Topic) -> Option<&Owner> {
        // No event of this topic is of a spawn.
        self.only.as_ref().filter(|_| *topic != Topic::Nodes)
    }
}

/// The subscriber, as far as it is known.
pub(super) struct Identity<'a> {
    pub(super) rights: watch::Sender<Rights>,
    pub(super) peer: Option<String>,
    pub(super) place: Option<&'a ConnectionPlace>,
    /// The account that its limits are counted in, with its share of the live connections.
    pub(super) account: Option<(Arc<Account>, Share)>,
}

pub(super) struct Writer<'a> {
    live: &'a Live,
    sink: &'a mut Sink,
    subscriptions: Subscriptions<'a>,
    identity: Identity<'a>,
    authenticator: Option<&'a Authenticator>,
    callers: &'a Callers,
    /// No message is read before this time: the subscriber has begun more subscriptions than its rate allows.
    rest: Option<Instant>,
    /// Whether that, and nothing else, is waited for.
    resting: &'a AtomicBool,
    /// In a row.
    violations: u32,
    events: Counter,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        sink: &'a mut Sink,
        subscriptions: Subscriptions<'a>,
        identity: Identity<'a>,
        authenticator: Option<&'a Authenticator>,
        callers: &'a Callers,
        resting: &'a AtomicBool,
    ) -> Self {
        let live = subscriptions.live;
        let events = live.metrics.counter_of_sent("event");
        Self {
            live,
            sink,
            subscriptions,
            identity,
            authenticator,
            callers,
            rest: None,
            resting,
            violations: 0,
            events,
        }
    }

    /// Serves until the connection ends. `received`: what the subscriber sent; `inbox`: what it is to be sent.
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Item>,
        mut received: mpsc::Receiver<Result<Request, Violation>>,
        ping: &Notify,
    ) -> End {
        match self.serve(&mut inbox, &mut received, ping).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn serve(
        &mut self,
        inbox: &mut mpsc::Receiver<Item>,
        received: &mut mpsc::Receiver<Result<Request, Violation>>,
        ping: &Notify,
    ) -> Result<std::convert::Infallible, End> {
        let heartbeat_seconds = self.live.interval.as_secs_f64();
        let connection = self.subscriptions.mailbox.connection;
        self.send("hello", &Frame::Hello { heartbeat_seconds, connection }).await?;
        let mut batch = Vec::with_capacity(4);
        loop {
            self.rest = self.rest.filter(|rest| *rest > Instant::now());
            self.resting.store(self.rest.is_some(), Ordering::Relaxed);
            tokio::select! {
                biased;
                () = ping.notified() => {
                    self.resting.store(false, Ordering::Relaxed);
                    self.send("heartbeat", &Frame::Heartbeat { at: Timestamp::now() }).await?;
                    self.write(Message::Ping(Default::default())).await?;
                }
                Some(message) = next(received, self.rest) => {
                    self.resting.store(false, Ordering::Relaxed);
                    self.handle(message).await?;
                }
                _ = inbox.recv_many(&mut batch, BATCH) => {
                    self.resting.store(false, Ordering::Relaxed);
                    for item in batch.drain(..) {
                        self.send_item(item).await?;
                    }
                }
            }
            self.sink.flush().await.map_err(|_| End::Broken)?;
        }
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        self.sink.feed(message).await.map_err(|_| End::Broken)
    }

    async fn send(&mut self, kind: &'static str, frame: &Frame<'_>) -> Result<(), End> {
        self.live.metrics.sent(kind);
        self.write(Message::Text(frame.encode())).await?;
        self.sink.flush().await.map_err(|_| End::Broken)
    }

    async fn handle(&mut self, message: Result<Request, Violation>) -> Result<(), End> {
        let known = !matches!(*self.identity.rights.borrow(), Rights::Nothing);
        match message {
            Ok(Request::Authenticate { token }) => self.authenticate(&token).await,
            _ if !known => {
                if let Some(authenticator) = self.authenticator {
                    authenticator.deny_missing(self.identity.peer.as_deref());
                }
                Err(End::Unauthenticated)
            }
            Ok(Request::Subscribe { topic, since }) => {
                let topic = Arc::new(topic);
                let lacking = self.identity.rights.borrow().check(&topic).err();
                if let Some(Lacking(scopes)) = lacking {
                    let message = format!("{topic} needs the scope {}", one_of(scopes));
                    let frame = Frame::Error { code: "forbidden", message: &message, topic: Some(&topic) };
                    return self.send("error", &frame).await;
                }
                let full = self.subscriptions.topics.len() >= MAX_TOPICS;
                let known = self.subscriptions.topics.contains_key(&topic);
                if full && !known {
                    return self.refuse(&format!("more than {MAX_TOPICS} subscriptions")).await;
                }
                let share = self
                    .identity
                    .account
                    .as_ref()
                    .filter(|_| !known)
                    .map(|(a, _)| a.take(Kind::Subscription));
                let Ok(share) = share.transpose() else {
                    let message = "this caller has as many subscriptions as it may have";
                    let frame = Frame::Error { code: "quota-exceeded", message, topic: Some(&topic) };
                    return self.send("error", &frame).await;
                };
                self.violations = 0;
                self.subscribe(topic, since, share).await
            }
            Ok(Request::Unsubscribe { topic }) => {
                // It counts no more once the answer is on its way.
                let ended = self.subscriptions.topics.remove_entry(&topic).map(|(topic, _)| topic);
                let Some(topic) = ended else {
                    return self.refuse(&format!("there is no subscription to {topic}")).await;
                };
                self.violations = 0;
                self.subscriptions.unsubscribe(&topic);
                if self.subscriptions.topics.is_empty() {
                    self.subscriptions.wanting = None;
                }
                self.send("unsubscribed", &Frame::Unsubscribed { topic: &topic }).await
            }
            Err(Violation(why)) => self.refuse(&why).await,
        }
    }

    /// Judges a credential. Where none is required, every one is accepted.
    async fn authenticate(&mut self, token: &Token) -> Result<(), End> {
        if matches!(*self.identity.rights.borrow(), Rights::Of(_)) {
            return self.refuse("a credential has been shown already").await;
        }
        if let Some(authenticator) = self.authenticator {
            let bearer = authenticator.judge(Some(&token.0), self.identity.peer.as_deref());
            let bearer = Arc::new(bearer.map_err(|_| End::Unauthenticated)?);
            let account = self.callers.of(Caller::Owner(bearer.caller.owner.clone()));
            let share = account.take(Kind::Live).map_err(|_| End::TooMany)?;
            self.identity.account = Some((account, share));
            if let Some(place) = self.identity.place {
                place.known();
            }
            info!(owner = %bearer.caller.owner, "live feed authenticated");
            self.subscriptions.only = bearer.only().cloned();
            self.identity.rights.send_replace(Rights::Of(Arc::clone(&bearer)));
            let (owner, scopes) = (Some(&bearer.caller.owner), Some(bearer.caller.scopes));
            return self.send("authenticated", &Frame::Authenticated { owner, scopes }).await;
        }
        self.send("authenticated", &Frame::Authenticated { owner: None, scopes: None }).await
    }

    async fn refuse(&mut self, message: &str) -> Result<(), End> {
        self.violations += 1;
        self.send("error", &Frame::Error { code: "protocol-violation", message, topic: None }).await?;
        if self.violations == MAX_VIOLATIONS { Err(End::Violations) } else { Ok(()) }
    }

    async fn subscribe(
        &mut self,
        topic: Arc<Topic>,
        since: Option<u64>,
        share: Option<Share>,
    ) -> Result<(), End> {
        let Self { live, subscriptions, .. } = self;
        subscriptions.wanting.get_or_insert_with(|| live.feed.want());
        // Inserted before anything can arrive for it, so that it is undone however this ends.
        let held = subscriptions.topics.remove(&topic).map(|subscription| subscription.held);
        let held = held.unwrap_or_else(|| (live.metrics.subscription(topic.kind()), share));
        subscriptions.topics.insert(Arc::clone(&topic), Subscription { last_sent_seq: u64::MAX, held });
        let account = self.identity.account.as_ref().map(|(account, _)| &**account);
        let only = subscriptions.only(&topic);
        // Nothing is sent meanwhile, pings neither: the watch must not take an unasked subscriber for a silent one.
        self.resting.store(true, Ordering::Relaxed);
        let beginning = resume::begin(live, &topic, only, since, &subscriptions.mailbox, account).await;
        self.resting.store(false, Ordering::Relaxed);
        let beginning = beginning.map_err(|NoView| End::NoView)?;
        if let Some(account) = account {
            let rest = account.began_subscription(beginning.took);
            self.rest = (!rest.is_zero()).then(|| Instant::now() + rest);
        }
        if let Some(subscription) = subscriptions.topics.get_mut(&topic) {
            subscription.last_sent_seq = beginning.last_sent_seq;
        }
        live.metrics.sent("subscribed");
        self.write(Message::Text(beginning.subscribed)).await?;
        for frame in beginning.events {
            self.events.inc();
            self.write(Message::Text(frame)).await?;
        }
        Ok(())
    }

    async fn send_item(&mut self, item: Item) -> Result<(), End> {
        match item {
            Item::Event { topic, seq, frame } => {
                // An event that was queued when the subscription began anew is part of its snapshot, or was sent already.
                if let Some(subscription) = self.subscriptions.topics.get(&topic)
                    && seq > subscription.last_sent_seq
                {
                    self.events.inc();
                    self.write(Message::Text(frame)).await?;
                }
                Ok(())
            }
            Item::Restart(topic) if self.subscriptions.topics.contains_key(&topic) => {
                self.subscribe(topic, None, None).await
            }
            Item::Restart(_) => Ok(()),
        }
    }
}

/// The next message of the subscriber, but not before the end of its rest.
async fn next<T>(received: &mut mpsc::Receiver<T>, rest: Option<Instant>) -> Option<T> {
    if let Some(rest) = rest {
        sleep_until(rest).await;
    }
    received.recv().await
}
