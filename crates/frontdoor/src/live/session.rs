//! One connection: a reader that takes in what the subscriber says, a writer that owns the subscriptions, and a watchdog that
//! tells a peer that is gone from one that has nothing to say. They run side by side in one task until one of them ends it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use model::{Owner, Timestamp};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use super::feed::{Item, Mailbox, Wanting};
use super::protocol::{Frame, Request, Token, Topic, Violation};
use super::resume::{self, NoView};
use super::rights::{Lacking, Lapse, Rights, lapse};
use super::{Guest, text};
use crate::callers::Bearer;
use crate::callers::{Account, Caller, Kind, Share};
use crate::http::authorization::either;
use crate::listen::Place;
use crate::metrics::Counted;
use crate::start::door::Door;

/// So many messages in a row that are not of the protocol end the connection.
const MOST_VIOLATIONS: u32 = 10;
/// Subscriptions of one connection.
const MOST_TOPICS: usize = 1000;
/// Messages taken in ahead of the one that is being answered. A subscriber that says more waits.
const AHEAD: usize = 8;
/// Frames written before the connection is flushed.
const BATCH: usize = 64;
/// A peer has this long to answer a goodbye.
const GOODBYE: Duration = Duration::from_secs(10);
const SHORT_GOODBYE: Duration = Duration::from_secs(1);
/// Enough to write one where the peer reads.
const NO_GOODBYE: Duration = Duration::from_millis(10);

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its subscriber said goodbye.
    Peer(u16),
    /// It broke.
    Broken,
    /// Its subscriber did not answer a ping.
    Silent,
    /// Its queue was full.
    Slow,
    /// Its subscriber does not speak the protocol.
    Violations,
    /// This front door leaves.
    Leaving,
    /// The registry is away, and there is no view from before.
    NoView,
    /// Its subscriber has not shown a good credential.
    Unauthenticated,
    /// Its subscriber's credential is good no more.
    Expired,
    /// Its subscriber had not said who it is, and others need its place.
    Crowded,
    /// Its caller has as many live connections as it may have.
    TooMany,
}

impl End {
    /// The close code, and what the peer is told if it is to be told anything.
    fn close(self) -> (u16, Option<&'static str>) {
        match self {
            Self::Peer(code) => (code, None),
            Self::Broken | Self::Silent => (1006, None),
            Self::Slow => (1008, Some("back-pressure threshold exceeded")),
            Self::Violations => (1008, Some("too many protocol violations")),
            Self::Leaving => (1001, Some("server shutting down")),
            Self::NoView => (1013, Some("registry unavailable")),
            Self::Unauthenticated => (1008, Some("authentication required")),
            Self::Expired => (1008, Some("credential expired")),
            Self::Crowded => (1013, Some("no place left")),
            Self::TooMany => (1013, Some("too many live connections of this caller")),
        }
    }

    /// How long the peer has to answer a goodbye. Strangers do not keep a place by being silent, and those whose place others
    /// need are not waited for at all.
    fn patience(self) -> Duration {
        match self {
            Self::Crowded => NO_GOODBYE,
            Self::Unauthenticated | Self::TooMany => SHORT_GOODBYE,
            _ => GOODBYE,
        }
    }

    /// What the peer is told before the goodbye: the code and the message of an error.
    fn last_words(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Unauthenticated => {
                Some(("unauthenticated", "the first message must show a good credential"))
            }
            Self::Expired => Some(("unauthenticated", "the credential is not good any more")),
            Self::TooMany => {
                Some(("quota-exceeded", "this caller has as many live connections as it may have"))
            }
            _ => None,
        }
    }
}

type Sink = SplitSink<WebSocket, Message>;

/// Serves a connection until its end.
pub(crate) async fn run(socket: WebSocket, door: &Door, connection: Uuid, guest: Guest) {
    let (began, live) = (Instant::now(), &door.live);
    let counted = live.figures.connection();
    let (mut sink, mut stream) = socket.split();
    let (queue, inbox) = mpsc::channel(live.buffer);
    let mailbox = Mailbox { connection, queue, slow: CancellationToken::new() };
    let (say, said) = mpsc::channel(AHEAD);
    let (ping, ponged, resting) = (Notify::new(), AtomicBool::new(true), AtomicBool::new(false));
    let Guest { rights, peer, place, account } = guest;
    let only = rights.only().cloned();
    let rights = watch::Sender::new(rights);
    let lapse = lapse(door, rights.subscribe());
    let crowded = async {
        match &place {
            Some(place) => place.asked_to_leave().await,
            None => std::future::pending().await,
        }
    };
    let writer = Writer {
        door,
        sink: &mut sink,
        subscriptions: Subscriptions {
            door,
            mailbox: mailbox.clone(),
            wanting: None,
            only,
            topics: HashMap::new(),
        },
        rights,
        peer: peer.clone(),
        place: place.as_ref(),
        account,
        rest: None,
        resting: &resting,
        violations: 0,
        events: live.figures.counter_of_sent("event"),
    };
    let end = tokio::select! {
        biased;
        // First, because its writer may be stuck.
        () = mailbox.slow.cancelled() => End::Slow,
        () = door.stages.leaving.cancelled() => End::Leaving,
        // Before the watchdog, so that a pong that is here counts.
        end = read(&mut stream, door, say, &ponged) => end,
        end = writer.run(inbox, said, &ping) => end,
        lapse = lapse => match lapse {
            Lapse::Silence => {
                Bearer::refuse(&door.metrics, peer.as_deref());
                End::Unauthenticated
            }
            Lapse::Over => End::Expired,
        },
        () = crowded => End::Crowded,
        end = watch(live.interval, &ping, &ponged, &resting) => end,
    };
    let (code, reason) = end.close();
    live.figures.closed(code);
    drop(counted);
    info!(?end, code, lasted = ?began.elapsed(), "live feed closed");
    if matches!(end, End::Broken | End::Silent) {
        return;
    }
    let goodbye = async {
        if let Some((code, message)) = end.last_words() {
            live.figures.sent("error");
            let frame = Frame::Error { code, message, topic: None };
            sink.feed(text(frame.encode())).await.ok();
        }
        if let Some(reason) = reason {
            let frame = CloseFrame { code, reason: reason.into() };
            sink.send(Message::Close(Some(frame))).await.ok();
        }
        sink.flush().await.ok();
        if end == End::Crowded {
            return;
        }
        // What it says meanwhile is of no interest any more.
        while let Some(Ok(_)) = stream.next().await {}
    };
    tokio::select! {
        _ = timeout(end.patience(), goodbye) => {}
        () = door.stages.cut.cancelled() => {}
    }
}

/// Takes in messages. They are judged in order with everything else that is written.
async fn read(
    stream: &mut SplitStream<WebSocket>,
    door: &Door,
    say: mpsc::Sender<Result<Request, Violation>>,
    ponged: &AtomicBool,
) -> End {
    loop {
        let message = match stream.next().await {
            Some(Ok(Message::Text(text))) => Request::parse(&text),
            Some(Ok(Message::Binary(_))) => Err(Violation("messages are text".to_owned())),
            Some(Ok(Message::Pong(_))) => {
                ponged.store(true, Ordering::Relaxed);
                continue;
            }
            Some(Ok(Message::Ping(_))) => continue,
            Some(Ok(Message::Close(frame))) => return End::Peer(frame.map_or(1005, |frame| frame.code)),
            Some(Err(_)) | None => return End::Broken,
        };
        door.live.figures.received(message.as_ref().map_or("violation", Request::kind));
        if say.send(message).await.is_err() {
            return End::Broken;
        }
    }
}

/// The next thing that the subscriber says, but not before it may be taken in.
async fn next<T>(said: &mut mpsc::Receiver<T>, rest: Option<Instant>) -> Option<T> {
    if let Some(rest) = rest {
        sleep_until(rest).await;
    }
    said.recv().await
}

/// Has a ping sent at every interval, and ends when the one before it was not answered. While the subscriber rests, its answers
/// stand in the socket behind what is not taken in: silence is judged from then on.
async fn watch(interval: Duration, ping: &Notify, ponged: &AtomicBool, resting: &AtomicBool) -> End {
    let mut ticks = interval_at(Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let rests = resting.load(Ordering::Relaxed);
        if !ponged.swap(rests, Ordering::Relaxed) && !rests {
            return End::Silent;
        }
        ping.notify_one();
    }
}

/// What a connection listens to. Dropping it ends all of it.
struct Subscriptions<'a> {
    door: &'a Door,
    mailbox: Mailbox,
    wanting: Option<Wanting<'a>>,
    /// Whose spawns it hears of, where not everybody's.
    only: Option<Owner>,
    topics: HashMap<Arc<Topic>, Subscription>,
}

struct Subscription {
    /// The last event that was told.
    told: u64,
    /// It counts, and is one of those that its caller may have.
    held: (Counted, Option<Share>),
}

impl Drop for Subscriptions<'_> {
    fn drop(&mut self) {
        for topic in self.topics.keys() {
            self.unsubscribe(topic);
        }
    }
}

impl Subscriptions<'_> {
    fn unsubscribe(&self, topic: &Arc<Topic>) {
        self.door.live.feed.unsubscribe(topic, self.only(topic), self.mailbox.connection);
    }

    /// On this topic.
    fn only(&self, topic: &Topic) -> Option<&Owner> {
        // It tells of no spawns.
        self.only.as_ref().filter(|_| *topic != Topic::Nodes)
    }
}

struct Writer<'a> {
    door: &'a Door,
    sink: &'a mut Sink,
    subscriptions: Subscriptions<'a>,
    /// Who listens.
    rights: watch::Sender<Rights>,
    peer: Option<String>,
    place: Option<&'a Place>,
    /// Whose limits hold, with its share of the live connections.
    account: Option<(Arc<Account>, Share)>,
    /// Nothing that the subscriber says is taken in before: it has begun more subscriptions than its pace allows.
    rest: Option<Instant>,
    /// Whether that, and nothing else, is waited for.
    resting: &'a AtomicBool,
    /// In a row.
    violations: u32,
    events: Counter,
}

impl Writer<'_> {
    async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Item>,
        mut said: mpsc::Receiver<Result<Request, Violation>>,
        ping: &Notify,
    ) -> End {
        match self.serve(&mut inbox, &mut said, ping).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn serve(
        &mut self,
        inbox: &mut mpsc::Receiver<Item>,
        said: &mut mpsc::Receiver<Result<Request, Violation>>,
        ping: &Notify,
    ) -> Result<std::convert::Infallible, End> {
        let heartbeat_seconds = self.door.live.interval.as_secs_f64();
        let connection = self.subscriptions.mailbox.connection;
        self.say("hello", &Frame::Hello { heartbeat_seconds, connection }).await?;
        let mut batch = Vec::with_capacity(4);
        loop {
            self.rest = self.rest.filter(|rest| *rest > Instant::now());
            self.resting.store(self.rest.is_some(), Ordering::Relaxed);
            tokio::select! {
                biased;
                () = ping.notified() => {
                    self.resting.store(false, Ordering::Relaxed);
                    self.say("heartbeat", &Frame::Heartbeat { at: Timestamp::now() }).await?;
                    self.write(Message::Ping(Default::default())).await?;
                }
                Some(message) = next(said, self.rest) => {
                    self.resting.store(false, Ordering::Relaxed);
                    self.obey(message).await?;
                }
                _ = inbox.recv_many(&mut batch, BATCH) => {
                    self.resting.store(false, Ordering::Relaxed);
                    for item in batch.drain(..) {
                        self.tell(item).await?;
                    }
                }
            }
            self.sink.flush().await.map_err(|_| End::Broken)?;
        }
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        self.sink.feed(message).await.map_err(|_| End::Broken)
    }

    async fn say(&mut self, kind: &'static str, frame: &Frame<'_>) -> Result<(), End> {
        self.door.live.figures.sent(kind);
        self.write(text(frame.encode())).await?;
        self.sink.flush().await.map_err(|_| End::Broken)
    }

    async fn obey(&mut self, message: Result<Request, Violation>) -> Result<(), End> {
        let known = !matches!(*self.rights.borrow(), Rights::Nothing);
        match message {
            Ok(Request::Authenticate { token }) => self.authenticate(&token).await,
            _ if !known => {
                Bearer::refuse(&self.door.metrics, self.peer.as_deref());
                Err(End::Unauthenticated)
            }
            Ok(Request::Subscribe { topic, since }) => {
                let topic = Arc::new(topic);
                let lacking = self.rights.borrow().check(&topic).err();
                if let Some(Lacking(scopes)) = lacking {
                    let message = format!("{topic} needs the scope {}", either(scopes));
                    let frame = Frame::Error { code: "forbidden", message: &message, topic: Some(&topic) };
                    return self.say("error", &frame).await;
                }
                let full = self.subscriptions.topics.len() >= MOST_TOPICS;
                let known = self.subscriptions.topics.contains_key(&topic);
                if full && !known {
                    return self.refuse(&format!("more than {MOST_TOPICS} subscriptions")).await;
                }
                let share = self.account.as_ref().filter(|_| !known).map(|(a, _)| a.take(Kind::Subscription));
                let Ok(share) = share.transpose() else {
                    let message = "this caller has as many subscriptions as it may have";
                    let frame = Frame::Error { code: "quota-exceeded", message, topic: Some(&topic) };
                    return self.say("error", &frame).await;
                };
                self.violations = 0;
                self.subscribe(topic, since, share).await
            }
            Ok(Request::Unsubscribe { topic }) => match self.subscriptions.topics.remove_entry(&topic) {
                Some((topic, _)) => {
                    self.violations = 0;
                    self.subscriptions.unsubscribe(&topic);
                    if self.subscriptions.topics.is_empty() {
                        self.subscriptions.wanting = None;
                    }
                    self.say("unsubscribed", &Frame::Unsubscribed { topic: &topic }).await
                }
                None => self.refuse(&format!("there is no subscription to {topic}")).await,
            },
            Err(Violation(why)) => self.refuse(&why).await,
        }
    }

    /// Takes in a credential. Where nobody has to show one, none is wrong.
    async fn authenticate(&mut self, token: &Token) -> Result<(), End> {
        if matches!(*self.rights.borrow(), Rights::Of(_)) {
            return self.refuse("a credential has been shown already").await;
        }
        if let Some(access) = &self.door.config.access {
            let bearer = Bearer::judge(access, &self.door.metrics, Some(&token.0), self.peer.as_deref());
            let bearer = Arc::new(bearer.map_err(|_| End::Unauthenticated)?);
            let account = self.door.callers.of(Caller::Owner(bearer.caller.owner.clone()));
            let share = account.take(Kind::Live).map_err(|_| End::TooMany)?;
            self.account = Some((account, share));
            if let Some(place) = self.place {
                place.known();
            }
            info!(owner = %bearer.caller.owner, "live feed authenticated");
            self.subscriptions.only = bearer.only().cloned();
            self.rights.send_replace(Rights::Of(Arc::clone(&bearer)));
            let (owner, scopes) = (Some(&bearer.caller.owner), Some(bearer.caller.scopes));
            return self.say("authenticated", &Frame::Authenticated { owner, scopes }).await;
        }
        self.say("authenticated", &Frame::Authenticated { owner: None, scopes: None }).await
    }

    async fn refuse(&mut self, message: &str) -> Result<(), End> {
        self.violations += 1;
        self.say("error", &Frame::Error { code: "protocol-violation", message, topic: None }).await?;
        if self.violations == MOST_VIOLATIONS { Err(End::Violations) } else { Ok(()) }
    }

    async fn subscribe(
        &mut self,
        topic: Arc<Topic>,
        since: Option<u64>,
        share: Option<Share>,
    ) -> Result<(), End> {
        let Self { door, subscriptions, .. } = self;
        let live = &door.live;
        subscriptions.wanting.get_or_insert_with(|| live.feed.want());
        // Noted before anything can arrive for it, so that it is undone however this ends.
        let held = subscriptions.topics.remove(&topic).map(|subscription| subscription.held);
        let held = held.unwrap_or_else(|| (live.figures.subscription(topic.kind()), share));
        subscriptions.topics.insert(Arc::clone(&topic), Subscription { told: u64::MAX, held });
        let account = self.account.as_ref().map(|(account, _)| &**account);
        let only = subscriptions.only(&topic);
        let beginning = resume::begin(door, &topic, only, since, &subscriptions.mailbox, account).await;
        let beginning = beginning.map_err(|NoView| End::NoView)?;
        if let Some(account) = account {
            let rest = account.began_subscription(beginning.took);
            self.rest = (!rest.is_zero()).then(|| Instant::now() + rest);
        }
        if let Some(subscription) = subscriptions.topics.get_mut(&topic) {
            subscription.told = beginning.told;
        }
        live.figures.sent("subscribed");
        self.write(text(beginning.subscribed)).await?;
        for frame in beginning.events {
            self.events.inc();
            self.write(text(frame)).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, item: Item) -> Result<(), End> {
        match item {
            Item::Event { topic, seq, frame } => {
                // What was on its way when the subscription began anew has been told, or is told to nobody.
                if let Some(subscription) = self.subscriptions.topics.get(&topic)
                    && seq > subscription.told
                {
                    self.events.inc();
                    self.write(text(frame)).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn who_rests_is_not_silent_until_an_interval_after_its_rest() {
        let (ping, ponged, resting) = (Notify::new(), AtomicBool::new(true), AtomicBool::new(true));
        let mut watched = std::pin::pin!(watch(INTERVAL, &ping, &ponged, &resting));
        assert!(timeout(10 * INTERVAL, &mut watched).await.is_err(), "its answers are not read");
        resting.store(false, Ordering::Relaxed);
        let began = Instant::now();
        assert_eq!(watched.await, End::Silent);
        assert!(began.elapsed() >= INTERVAL && began.elapsed() <= 3 * INTERVAL, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_rest_has_one_interval_to_answer() {
        let (ping, ponged, resting) = (Notify::new(), AtomicBool::new(true), AtomicBool::new(false));
        let began = Instant::now();
        assert_eq!(watch(INTERVAL, &ping, &ponged, &resting).await, End::Silent);
        assert_eq!(began.elapsed(), 2 * INTERVAL);
    }
}
