//! One live connection: a reader that takes in what the subscriber sends, a writer that owns the subscriptions, and a watchdog that
//! distinguishes a peer that is gone from one that has nothing to send. They run side by side in one task until one of them ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use super::close::End;
use super::hub::Live;
use super::listeners::Mailbox;
use super::protocol::{Frame, Request, Violation};
use super::rights::{Lapse, Rights, lapse};
use super::socket::Socket;
use super::writer::{Identity, Subscriptions, Writer};
use crate::callers::{Account, Authenticator, Callers, Share};
use crate::listen::ConnectionPlace;
use crate::stages::Stages;

/// Messages read ahead of the one that is being answered. A subscriber that sends more waits.
const READ_AHEAD: usize = 8;

/// What all live connections use.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) live: Arc<Live>,
    /// `None`: credentials are not required.
    pub(crate) authenticator: Option<Arc<Authenticator>>,
    pub(crate) callers: Arc<Callers>,
    pub(crate) stages: Stages,
}

/// The other end of a live connection, as the handshake left it.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) rights: Rights,
    pub(crate) peer: Option<String>,
    /// Its place among the connections.
    pub(crate) place: Option<ConnectionPlace>,
    /// The account that its limits are counted in, and its share of the live connections; `None` until it has authenticated.
    pub(crate) account: Option<(Arc<Account>, Share)>,
}

/// Serves a connection until its end.
pub(super) async fn run(socket: Socket, parts: &Parts, connection: Uuid, subscriber: Subscriber) {
    let Parts { live, authenticator, callers, stages } = parts;
    let (began, authenticator) = (Instant::now(), authenticator.as_deref());
    let counted = live.metrics.connection();
    let (mut sink, mut stream) = socket.split();
    let (queue, inbox) = mpsc::channel(live.buffer);
    let mailbox = Mailbox { connection, queue, slow: CancellationToken::new() };
    let (requests, received) = mpsc::channel(READ_AHEAD);
    let (ping, ponged, resting) = (Notify::new(), AtomicBool::new(true), AtomicBool::new(false));
    let Subscriber { rights, peer, place, account } = subscriber;
    let only = rights.only().cloned();
    let rights = watch::Sender::new(rights);
    let lapse = lapse(authenticator, rights.subscribe());
    let crowded = async {
        match &place {
            Some(place) => place.evicted().await,
            None => std::future::pending().await,
        }
    };
    let identity = Identity { rights, peer: peer.clone(), place: place.as_ref(), account };
    let subscriptions = Subscriptions::new(live, mailbox.clone(), only);
    let writer = Writer::new(&mut sink, subscriptions, identity, authenticator, callers, &resting);
    let end = tokio::select! {
        biased;
        // First, because its writer may be stuck.
        () = mailbox.slow.cancelled() => End::Slow,
        () = stages.leaving.cancelled() => End::Leaving,
        // Before the watchdog, so that a pong that is here counts.
        end = read(&mut stream, live, requests, &ponged) => end,
        end = writer.run(inbox, received, &ping) => end,
        lapse = lapse => match lapse {
            Lapse::Silence => {
                if let Some(authenticator) = authenticator {
                    authenticator.deny_missing(peer.as_deref());
                }
                End::Unauthenticated
            }
            Lapse::Over => End::Expired,
        },
        () = crowded => End::Crowded,
        end = watch(live.interval, &ping, &ponged, &resting) => end,
    };
    let (code, reason) = end.close();
    live.metrics.closed(code);
    drop(counted);
    info!(end = end.word(), code, lasted_ms = began.elapsed().as_millis(), "live feed closed");
    if matches!(end, End::Broken | End::Silent) {
        return;
    }
    let close = async {
        if let Some((code, message)) = end.last_words() {
            live.metrics.sent("error");
            let frame = Frame::Error { code, message, topic: None };
            sink.feed(Message::Text(frame.encode())).await.ok();
        }
        if let Some(reason) = reason {
            let frame = CloseFrame { code: code.into(), reason: reason.into() };
            sink.send(Message::Close(Some(frame))).await.ok();
        }
        sink.flush().await.ok();
        if end == End::Crowded {
            return;
        }
        // What the peer sends meanwhile is dropped.
        while let Some(Ok(_)) = stream.next().await {}
    };
    tokio::select! {
        _ = timeout(end.close_timeout(), close) => {}
        () = stages.cut.cancelled() => {}
    }
}

/// Reads messages. The writer judges them, in order with everything else that it sends.
async fn read(
    stream: &mut SplitStream<Socket>,
    live: &Live,
    requests: mpsc::Sender<Result<Request, Violation>>,
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
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(frame))) => {
                return End::Peer(frame.map_or(1005, |frame| frame.code.into()));
            }
            Some(Err(_)) | None => return End::Broken,
        };
        live.metrics.received(message.as_ref().map_or("violation", Request::kind));
        if requests.send(message).await.is_err() {
            return End::Broken;
        }
    }
}

/// Has a ping sent at every interval, and ends when the one before it was not answered. While the subscriber rests, its pongs wait
/// in the socket behind messages that are not read, and while its subscription begins, no ping is sent. So silence is judged only from the end
/// of that on.
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
