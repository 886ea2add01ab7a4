//! What one live connection sends: answers to its subscriber's messages, and the events of its subscriptions, in one order.
//!
//! Owns: the subscriptions of the connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use model::{Owner, Timestamp};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WireFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tracing::info;

use super::close::End;
use super::encoded::Fragments;
use super::feed::{Listening, Needing, Wanting};
use super::hub::Live;
use super::listeners::{Item, Mailbox};
use super::protocol::{Frame, Request, Token, Topic, Violation};
use super::resume::{self, Beginning, Chunk, NoView};
use super::rights::{Lacking, Rights};
use super::socket::Socket;
use crate::callers::{Account, AccountHolder, Authenticator, Callers, Share, ShareKind, one_of};
use crate::listen::ConnectionPlace;
use crate::metrics::Counted;

/// Messages in a row that violate the protocol; the last one ends the connection.
const MAX_VIOLATIONS: u32 = 10;
/// Subscriptions of one connection.
const MAX_TOPICS: usize = 1000;
/// Frames written before the connection is flushed.
const BATCH: usize = 64;
/// A snapshot, or a page of old events, has to be read within this time, and more for each so many bytes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const SLOWEST: usize = 64 * 1024;

type Sink = SplitSink<Socket, Message>;

/// The subscriptions of a connection. Dropping it ends all of them.
pub(super) struct Subscriptions<'a> {
    live: &'a Live,
    mailbox: Mailbox,
    wanting: Option<Wanting<'a>>,
    /// The owner whose spawns it hears of; `None`: all spawns.
    only: Option<Owner>,
    topics: HashMap<Arc<Topic>, Subscription<'a>>,
}

struct Subscription<'a> {
    /// The last event that was sent.
    last_sent_seq: u64,
    /// Whether a long snapshot may come in several messages.
    in_parts: bool,
    /// Has the spawns followed that it is about.
    needing: Option<Needing<'a>>,
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
        self.send("hello", &Frame::hello(heartbeat_seconds, connection)).await?;
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
            Ok(Request::Subscribe { topic, since, parts }) => {
                let topic = match topic.resolved(&self.live.names) {
                    Ok(topic) => Arc::new(topic),
                    Err(why) => return self.refuse(&why).await,
                };
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
                    .map(|(a, _)| a.take(ShareKind::Subscription));
                let Ok(share) = share.transpose() else {
                    let message = "this caller has as many subscriptions as it may have";
                    let frame = Frame::Error { code: "quota-exceeded", message, topic: Some(&topic) };
                    return self.send("error", &frame).await;
                };
                self.violations = 0;
                // What a beginning needs is not part of every connection.
                Box::pin(self.subscribe(topic, since, parts, share)).await
            }
            Ok(Request::Unsubscribe { topic }) => {
                // As it was resolved then: an owner's name may stand for others by now.
                let text = topic.to_string();
                let known = self.subscriptions.topics.keys().find(|known| known.to_string() == text);
                let topic = known.map_or(topic, |known| Topic::clone(known));
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
            let account = self.callers.of(AccountHolder::Owner(bearer.caller.owner.clone()));
            let share = account.take(ShareKind::Live).map_err(|_| End::TooMany)?;
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
        in_parts: bool,
        share: Option<Share>,
    ) -> Result<(), End> {
        let live = self.live;
        // One that begins anew hears nothing before it has caught up again.
        let before = self.subscriptions.topics.remove(&topic);
        if before.is_some() {
            self.subscriptions.unsubscribe(&topic);
        }
        let (needing, held) = before.map_or((None, None), |before| (before.needing, Some(before.held)));
        let held = held.unwrap_or_else(|| (live.metrics.subscription(topic.kind()), share));
        // Inserted before anything can arrive for it, so that it is undone however this ends.
        let subscription = Subscription { last_sent_seq: u64::MAX, in_parts, needing, held };
        self.subscriptions.topics.insert(Arc::clone(&topic), subscription);
        let only = self.subscriptions.only(&topic).cloned();
        let mailbox = self.subscriptions.mailbox.clone();
        let account = self.identity.account.as_ref().map(|(account, _)| Arc::clone(account));
        let listening = Listening { topic: &topic, only: only.as_ref(), mailbox: &mailbox };
        // No ping is sent before it has begun, and a long snapshot takes a slow reader long: the watch must not take it for a silent one.
        self.resting.store(true, Ordering::Relaxed);
        let no_view = |NoView| End::NoView;
        let need = resume::need(live, &topic, listening.is_part()).await.map_err(no_view)?;
        // Before the feed is wanted: what is needed is part of the view that it begins with.
        if let Some(subscription) = self.subscriptions.topics.get_mut(&topic) {
            subscription.needing = Some(live.feed.need(need.clone()));
        }
        self.subscriptions.wanting.get_or_insert_with(|| live.feed.want());
        let beginning = Beginning::new(live, listening, since, need, in_parts, account.as_deref()).await;
        let mut beginning = beginning.map_err(no_view)?;
        while let Some(chunk) = beginning.next().await.map_err(no_view)? {
            self.write_chunk(chunk).await?;
        }
        self.resting.store(false, Ordering::Relaxed);
        if let Some(account) = account.as_ref() {
            let rest = account.began_subscription(beginning.took);
            self.rest = (!rest.is_zero()).then(|| Instant::now() + rest);
        }
        let last_sent_seq = beginning.last_sent_seq();
        if let Some(subscription) = self.subscriptions.topics.get_mut(&topic) {
            subscription.last_sent_seq = last_sent_seq;
        }
        Ok(())
    }

    /// Writes what a subscription begins with. What it holds is held until it is written, so a reader that is too slow is not waited for.
    async fn write_chunk(&mut self, chunk: Chunk) -> Result<(), End> {
        let bytes = match &chunk {
            Chunk::Snapshot(messages, _) => messages.iter().flatten().map(Bytes::len).sum::<usize>(),
            Chunk::Resumed(frame) => frame.len(),
            Chunk::Events(frames, _) => frames.iter().map(|frame| frame.as_str().len()).sum::<usize>(),
        };
        let limit = WRITE_TIMEOUT + Duration::from_secs((bytes / SLOWEST) as u64);
        timeout(limit, self.write_all(chunk)).await.map_err(|_| End::Slow)?
    }

    async fn write_all(&mut self, chunk: Chunk) -> Result<(), End> {
        match chunk {
            Chunk::Snapshot(messages, _held) => {
                for (n, fragments) in messages.into_iter().enumerate() {
                    self.live.metrics.sent(if n == 0 { "subscribed" } else { "part" });
                    self.write_fragments(fragments).await?;
                }
            }
            Chunk::Resumed(frame) => {
                self.live.metrics.sent("subscribed");
                self.write(Message::Text(frame)).await?;
            }
            Chunk::Events(frames, _held) => {
                for frame in frames {
                    self.events.inc();
                    self.write(Message::Text(frame)).await?;
                }
            }
        }
        self.sink.flush().await.map_err(|_| End::Broken)
    }

    /// Writes one message, frame by frame.
    async fn write_fragments(&mut self, fragments: Fragments) -> Result<(), End> {
        let last = fragments.len().saturating_sub(1);
        for (n, fragment) in fragments.into_iter().enumerate() {
            let kind = if n == 0 { Data::Text } else { Data::Continue };
            let frame = WireFrame::message(fragment, OpCode::Data(kind), n == last);
            self.write(Message::Frame(frame)).await?;
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
            Item::Restart(topic) => {
                let Some(subscription) = self.subscriptions.topics.get(&topic) else { return Ok(()) };
                let in_parts = subscription.in_parts;
                Box::pin(self.subscribe(topic, None, in_parts, None)).await
            }
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
