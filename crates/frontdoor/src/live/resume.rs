//! How a subscription begins: with a snapshot, or with the events since the last one that its subscriber has.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use model::{Owner, SpawnState};
use registry::{Follow, Position, RegistryError};
use tokio::time::{Instant, timeout};

use super::feed::{Mailbox, Start};
use super::followed::Followed;
use super::hub::Live;
use super::protocol::{Frame, Topic, TopicSnapshot, event_frame};
use crate::callers::Account;

/// How long a subscription waits for the view that the first one asks for.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// There is no view, and the registry is away.
#[derive(Debug)]
pub(crate) struct NoView;

/// What a subscriber is sent first.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) subscribed: Utf8Bytes,
    /// Frames of events that follow it.
    pub(crate) events: Vec<Utf8Bytes>,
    /// Events up to this one must not be sent any more.
    pub(crate) last_sent_seq: u64,
    /// How long this process was busy making it: what the registry took, and the wait for a turn, are not the subscriber's doing.
    pub(crate) took: Duration,
}

/// Subscribes: to all, or as far as spawns are this owner's. From then on events arrive in the mailbox, also some that the beginning
/// includes already. Old events are read for one connection of an account at a time.
pub(crate) async fn begin(
    live: &Live,
    topic: &Arc<Topic>,
    only: Option<&Owner>,
    since: Option<u64>,
    mailbox: &Mailbox,
    account: Option<&Account>,
) -> Result<Beginning, NoView> {
    if timeout(LOAD_TIMEOUT, live.feed.loaded()).await.is_err() {
        return Err(NoView);
    }
    let mut began = Instant::now();
    let start = live.feed.subscribe(topic, only, since, mailbox);
    let mut busy = began.elapsed();
    let beginning = match (since, start) {
        (Some(since), Start::Events(events)) => {
            let last_sent_seq = events.last().map_or(since, |event| event.seq.max(since));
            Some(resumed(topic, since, last_sent_seq, events.iter().map(|event| &**event)))
        }
        // The owners of the spawns in old events are not known.
        (Some(since), Start::Older { until }) if only.is_none() => {
            // The account's turn first: a caller with many connections takes one of the readers.
            let _turn = match account {
                Some(account) => account.reader.acquire().await.ok(),
                None => None,
            };
            let reading = live.readers.acquire().await;
            began = Instant::now();
            match reading {
                Ok(_reading) => older(live, topic, since, until).await,
                Err(_) => None,
            }
        }
        (Some(since), Start::Ahead) => ahead(live, since).await.then(|| resumed(topic, since, since, [])),
        _ => None,
    };
    let mut beginning = match beginning {
        Some(beginning) => beginning,
        None => {
            let again = Instant::now();
            let start = live.feed.subscribe(topic, only, None, mailbox);
            busy += again.elapsed();
            match start {
                Start::Snapshot { snapshot, seq } => with_snapshot(live, topic, only, snapshot, seq).await,
                _ => return Err(NoView),
            }
        }
    };
    beginning.took += busy;
    live.metrics.snapshot(began.elapsed());
    Ok(beginning)
}

fn resumed<'a>(
    topic: &Topic,
    since: u64,
    last_sent_seq: u64,
    events: impl IntoIterator<Item = &'a model::Event>,
) -> Beginning {
    let began = Instant::now();
    let frame = |event| topic.form(event).map(|form| event_frame(topic, event, form));
    let subscribed = Frame::Subscribed { topic, snapshot: None, seq: since }.encode();
    let events = events.into_iter().filter_map(frame).collect();
    Beginning { subscribed, events, last_sent_seq, took: began.elapsed() }
}

async fn with_snapshot(
    live: &Live,
    topic: &Topic,
    only: Option<&Owner>,
    mut snapshot: TopicSnapshot,
    seq: u64,
) -> Beginning {
    if let (Topic::Spawn(id), TopicSnapshot::Spawn(spawn @ None)) = (topic, &mut snapshot) {
        // It may have ended. One whose end is still to be sent is not known yet.
        let record = live.registry.spawn(*id).await.ok().flatten();
        let ended = record.filter(|r| only.is_none() || r.owner.as_ref() == only).filter(|r| {
            r.state == SpawnState::Exited && r.events.last().is_none_or(|event| event.seq <= seq)
        });
        *spawn = ended.map(|record| Arc::new(Followed::from(record)));
    }
    let encode = || {
        let snapshot = snapshot.named(&live.names);
        Frame::Subscribed { topic, snapshot: Some(&snapshot), seq }.encode()
    };
    let began = Instant::now();
    let subscribed = live.frames.get(topic, only, seq, encode);
    Beginning { subscribed, events: Vec::new(), last_sent_seq: seq, took: began.elapsed() }
}

/// Reads old events from the registry; `None` when some of them are gone, the registry is away, or `since` is no event of
/// this registry: it may have been replaced since.
async fn older(live: &Live, topic: &Topic, since: u64, until: u64) -> Option<Beginning> {
    let mut events = Vec::new();
    let mut position = Position { seq: since, wakeup: u64::MAX, seen: since, incarnation: None };
    if !is_known(live, since).await {
        return None;
    }
    while position.seq < until {
        let news = live.registry.follow(position, Duration::ZERO).await.ok()?;
        if news.gap {
            return None;
        }
        // Not every number is an event's.
        if news.events.is_empty() {
            break;
        }
        position.seq = news.position.seq;
        let wanted = news.events.into_iter().filter(|e| e.seq <= until && topic.form(e).is_some());
        events.extend(wanted.map(|event| live.names.named(event)));
    }
    Some(resumed(topic, since, until, &events))
}

/// Whether an event that is not here yet has been sent at all: another front door may be a moment ahead of this one.
async fn ahead(live: &Live, since: u64) -> bool {
    is_known(live, since).await
}

/// Whether this is the number of an event, or of a ping of a moment ago, that the registry has.
async fn is_known(live: &Live, seq: u64) -> bool {
    let position = Position { seq, wakeup: u64::MAX, seen: seq, incarnation: None };
    let news: Result<Follow, RegistryError> = live.registry.follow(position, Duration::ZERO).await;
    news.is_ok_and(|news| !news.gap)
}
