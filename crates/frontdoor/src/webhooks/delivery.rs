//! The task of one webhook at one front door.
//!
//! ```text
//!  asking ─ the lease is free, or over ─▶ delivering ─ it leaves ─▶ gives the lease back
//!    ▲                                        │
//!    └── the lease is over, or another's ─────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use model::{Timestamp, jittered};
use registry::ask::MAX_FOLLOW;
use registry::{Cursor, Delivery, Follow, Position};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::post::Poster;
use super::set_aside::{Failures, LastTaken, notice};
use super::window::{Post, Subject, Window};
use crate::backoff::Backoff;
use crate::callers::OwnerNames;
use crate::metrics::{OneWebhook, WebhookMetrics};
use crate::registry_access::circuit::RegistryClient;
use crate::settings::{WebhookSettings, WebhookTarget};

/// How long a front door delivers without a word to the registry; after it another one does.
const LEASE: Duration = Duration::from_secs(6);
/// Between two words to the registry, by the front door that delivers and by those that would.
const RENEW: Duration = Duration::from_secs(2);
/// A word to the registry takes no longer.
const CALL: Duration = Duration::from_secs(2);
/// Attempts at once, of one webhook.
const MAX_SENDING: usize = 32;
/// Pauses of a post that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What a webhook needs of its front door.
#[derive(Debug, Clone)]
pub(crate) struct Around {
    pub(crate) registry: Arc<RegistryClient>,
    pub(crate) names: OwnerNames,
    pub(crate) metrics: WebhookMetrics,
    /// Cancelled when the front door leaves: another one takes over at once.
    pub(crate) leaving: CancellationToken,
}

/// Delivers to all webhooks until the front door leaves.
pub(crate) async fn deliver(settings: WebhookSettings, around: Around) {
    let poster = Arc::new(Poster::new(&settings));
    let mut tasks = JoinSet::new();
    for target in settings.targets.clone() {
        let webhook = Webhook {
            metrics: around.metrics.of(&target.shown),
            target: Arc::new(target),
            holder: Uuid::new_v4(),
            poster: Arc::clone(&poster),
            around: around.clone(),
            refused_for: settings.refused_for,
            taken: Arc::default(),
            troubled: Arc::default(),
        };
        tasks.spawn(async move { webhook.run().await });
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = async { tokio::join!(poster.keep_secret(&settings), settings.tls.keep_fresh()).1 } => {}
    }
}

#[derive(Debug)]
struct Webhook {
    target: Arc<WebhookTarget>,
    holder: Uuid,
    poster: Arc<Poster>,
    around: Around,
    metrics: OneWebhook,
    /// How long an event may be refused before it is set aside.
    refused_for: Duration,
    taken: Arc<LastTaken>,
    /// Whether attempts fail, as the log says.
    troubled: Arc<AtomicBool>,
}

/// A post that needs no further attempt.
#[derive(Debug)]
struct Sent {
    post: Post,
    /// Why it was set aside, where it was not delivered.
    set_aside: Option<String>,
}

/// What the registry said last.
#[derive(Debug, Clone, Copy)]
struct Lease {
    /// By this machine's steady clock, counted from before the call.
    until: Instant,
    /// The registry's clock, and when it was read.
    clock: (Timestamp, Instant),
}

impl Webhook {
    async fn run(&self) {
        let leaving = &self.around.leaving;
        while !leaving.is_cancelled() {
            if let Some((lease, Delivery { mine: true, cursor, .. })) = self.hold(None).await {
                self.take_over(lease, cursor).await;
            }
            leaving.run_until_cancelled(sleep(jittered(RENEW))).await;
        }
    }

    /// Takes or keeps the delivery. `None`: the registry is away.
    async fn hold(&self, cursor: Option<Cursor>) -> Option<(Lease, Delivery)> {
        let asked = Instant::now();
        let call = self.around.registry.delivery(self.target.id, self.holder, Some(LEASE), cursor);
        match timeout(CALL, call).await {
            Ok(Ok(delivery)) => {
                Some((Lease { until: asked + LEASE, clock: (delivery.now, asked) }, delivery))
            }
            Ok(Err(error)) => {
                debug!(%error, webhook = self.target.shown, "the delivery to a webhook is not held");
                None
            }
            Err(_) => None,
        }
    }

    async fn take_over(&self, lease: Lease, cursor: Option<Cursor>) {
        let Ok(Ok(position)) = timeout(CALL, self.around.registry.position()).await else { return };
        // A new webhook begins with what happens next.
        let begins = cursor.is_none();
        let cursor = cursor.unwrap_or_else(|| Cursor::from(position));
        info!(webhook = self.target.shown, seq = cursor.seq, begins, "delivering to a webhook");
        self.metrics.delivers();
        let position = cursor.position(position.wakeup);
        let (sender, reads) = mpsc::channel(1);
        let mut reader = JoinSet::new();
        reader.spawn(read(Arc::clone(&self.around.registry), position, sender));
        self.pump(lease, Window::new(cursor), reads).await;
        self.metrics.delivers_no_more();
        self.metrics.lag(Duration::ZERO);
    }

    /// Delivers until the front door leaves or the lease is over.
    async fn pump(&self, mut lease: Lease, mut window: Window, mut reads: mpsc::Receiver<Read>) {
        let permits = Arc::new(Semaphore::new(MAX_SENDING));
        let mut sending = JoinSet::new();
        let mut renewals = interval(RENEW);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // `None`: nothing was saved yet, not even where it began.
        let mut saved = None;
        loop {
            tokio::select! {
                biased;
                () = self.around.leaving.cancelled() => break,
                () = sleep_until(lease.until) => {
                    warn!(webhook = self.target.shown, "the registry is away: the delivery to a webhook pauses");
                    return;
                }
                _ = renewals.tick() => saved = None,
                Some(done) = sending.join_next() => {
                    self.done(done, &mut window, &mut sending, &permits);
                    while let Some(done) = sending.try_join_next() {
                        self.done(done, &mut window, &mut sending, &permits);
                    }
                }
                Some(news) = reads.recv(), if window.has_room() => {
                    for post in self.take_in(news, &mut window) {
                        self.send(post, &mut sending, &permits);
                    }
                }
            }
            if saved != Some(window.cursor()) {
                match self.hold(Some(window.cursor())).await {
                    Some((renewed, Delivery { mine: true, .. })) => {
                        lease = renewed;
                        saved = Some(window.cursor());
                    }
                    Some(_) => {
                        warn!(webhook = self.target.shown, "another front door delivers to a webhook now");
                        return;
                    }
                    // Tried again, at the latest with the next renewal.
                    None => {}
                }
            }
            self.metrics.lag(lag(&lease, &window));
        }
        // What is under way is not waited for: it is delivered again.
        sending.abort_all();
        let call = self.around.registry.delivery(self.target.id, self.holder, None, Some(window.cursor()));
        if timeout(CALL, call).await.is_ok_and(|answer| answer.is_ok()) {
            info!(
                webhook = self.target.shown,
                seq = window.cursor().seq,
                "the delivery to a webhook is given back"
            );
        }
    }

    /// Puts what was read into the window; returns what is to be sent now.
    fn take_in(&self, read: Read, window: &mut Window) -> Vec<Post> {
        let Read { after, news, position } = read;
        let mut begun = Vec::new();
        if news.gap {
            warn!(
                webhook = self.target.shown,
                seq = after.seq,
                "events were dropped before they were delivered to a webhook"
            );
            self.metrics.gap();
            let gap = json!({"seq": after.seq, "at": Timestamp::now(), "kind": "webhook.gap"});
            let id = format!("gap_{}", after.seq);
            let body = Bytes::from(gap.to_string());
            // Until something after the gap was delivered it may be posted again.
            let cursor = if news.events.is_empty() { Cursor::from(position) } else { Cursor::from(after) };
            begun.extend(window.push(Subject::Delivery, id, body, cursor));
        }
        for event in news.events {
            let cursor = Cursor { seq: event.seq, incarnation: position.incarnation };
            if event.kind == model::EventKind::SpawnPing {
                window.skip(cursor);
                continue;
            }
            let (subject, id) = (Subject::of(&event), format!("evt_{}", event.seq));
            let body = serde_json::to_vec(&self.around.names.named(event)).unwrap_or_default();
            begun.extend(window.push(subject, id, body.into(), cursor));
        }
        begun
    }

    fn send(&self, post: Post, sending: &mut JoinSet<Sent>, permits: &Arc<Semaphore>) {
        let (poster, target, permits) =
            (Arc::clone(&self.poster), Arc::clone(&self.target), Arc::clone(permits));
        let (metrics, troubled) = (self.metrics.clone(), Arc::clone(&self.troubled));
        let (taken, refused_for) = (Arc::clone(&self.taken), self.refused_for);
        sending.spawn(async move {
            let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
            let mut failures = Failures::default();
            loop {
                let outcome = {
                    let _permit = permits.acquire().await;
                    poster.attempt(&target, &post).await
                };
                match outcome {
                    Ok(()) => {
                        metrics.delivered();
                        taken.now();
                        if troubled.swap(false, Ordering::Relaxed) {
                            info!(webhook = target.shown, "a webhook takes events again");
                        }
                        return Sent { post, set_aside: None };
                    }
                    // The log has said it: a notice that is not understood must not hold up what comes after it.
                    Err(failure) if post.is_notice && failure.is_refusal => {
                        return Sent { post, set_aside: None };
                    }
                    Err(failure) => {
                        metrics.failed();
                        if failures.are_enough(Instant::now(), &failure, refused_for, &taken) {
                            return Sent { post, set_aside: Some(failure.why) };
                        }
                        if !troubled.swap(true, Ordering::Relaxed) {
                            warn!(
                                webhook = target.shown,
                                why = failure.why,
                                id = post.id,
                                "a webhook does not take an event; it is repeated"
                            );
                        }
                        backoff.sleep().await;
                    }
                }
            }
        });
    }

    fn done(
        &self,
        done: Result<Sent, tokio::task::JoinError>,
        window: &mut Window,
        sending: &mut JoinSet<Sent>,
        permits: &Arc<Semaphore>,
    ) {
        match done {
            Ok(Sent { post, set_aside: Some(why) }) if !post.is_notice => {
                let notice = notice(&post.body, &post.id, &why);
                warn!(
                    webhook = self.target.shown,
                    why,
                    id = post.id,
                    subject = %post.subject,
                    "an event is set aside: a webhook goes on refusing it, and takes others"
                );
                self.metrics.set_aside();
                // In its place, so that what comes after it in its chain still waits.
                let post = Post { id: format!("aside_{}", post.id), body: notice, is_notice: true, ..post };
                self.send(post, sending, permits);
            }
            Ok(Sent { post, .. }) => {
                if let Some(next) = window.done(&post) {
                    self.send(next, sending, permits);
                }
            }
            // The cursor stays before it, so the next holder delivers it.
            Err(error) => warn!(webhook = self.target.shown, %error, "a post was cut off"),
        }
    }
}

/// How long the oldest event that was not delivered has waited, by the registry's clock.
fn lag(lease: &Lease, window: &Window) -> Duration {
    let Some(oldest) = window.oldest() else { return Duration::ZERO };
    let (then, read) = lease.clock;
    let now = Duration::from_millis(then.millis()) + read.elapsed();
    // Numbers are made from the registry's clock in microseconds.
    now.saturating_sub(Duration::from_micros(oldest))
}

/// What was read from the stream.
#[derive(Debug)]
struct Read {
    /// The position before it.
    after: Position,
    news: Follow,
    /// The position after it.
    position: Position,
}

/// Reads on for ever, no further ahead than one read.
async fn read(registry: Arc<RegistryClient>, mut at: Position, reads: mpsc::Sender<Read>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        let news = match registry.follow(at, MAX_FOLLOW).await {
            Ok(news) => news,
            Err(error) => {
                debug!(%error, "events not read for a webhook");
                // The stream has a connection of its own, which may be all that broke.
                if registry.ping().await.is_err() {
                    registry.back().await;
                    backoff.reset();
                }
                backoff.sleep().await;
                continue;
            }
        };
        backoff.reset();
        let (after, mut position) = (at, news.position);
        if news.gap && news.events.is_empty() {
            // Another registry, or one that went back: whatever it has was not delivered.
            (position.seq, position.seen) = (0, 0);
        }
        at = position;
        if (news.gap || !news.events.is_empty()) && reads.send(Read { after, news, position }).await.is_err()
        {
            return;
        }
    }
}
