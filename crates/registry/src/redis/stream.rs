//! Following the streams of events and of wake-ups, and noticing that the registry was wiped, replaced, or set back.
//!
//! A follower names the last event that it has seen. A registry that lacks it, and did not drop it as one of its oldest, is
//! another one or was set back. The follower then starts anew, and gives the registry a new identity, so that all other
//! followers do the same.

use std::collections::HashMap;
use std::time::Duration;

use model::{Event, SpawnId, Timestamp};
use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{Value, pipe};
use uuid::Uuid;

use super::read::{Fields, decoded, parsed, text, timestamp, value};
use super::write::ms;
use super::{Redis, unexpected};
use crate::ask::{Follow, MAX_FOLLOW, Position};
use crate::error::RegistryError;
use crate::pings::{self, WANTED_FOR, WantedPings};

/// Events read in one go.
const MAX_EVENTS: usize = 1000;

impl Redis {
    pub(crate) async fn position(&self) -> Result<Position, RegistryError> {
        const CALL: &str = "position";
        let mut read = pipe();
        for stream in ["events", "nudges"] {
            read.cmd("XREVRANGE").arg(self.key(stream)).arg("+").arg("-").arg("COUNT").arg(1);
        }
        read.get(self.key("incarnation"));
        let (events, wakeups, incarnation): (StreamRangeReply, StreamRangeReply, Option<String>) =
            self.ask(CALL, &read).await?;
        let last =
            |stream: StreamRangeReply| stream.ids.last().map_or(Ok(0), |entry| seq_of(&entry.id, CALL));
        let seq = last(events)?;
        Ok(Position { seq, wakeup: last(wakeups)?, seen: seq, incarnation: identity(incarnation.as_ref()) })
    }

    pub(crate) async fn wait_for_wakeup(&self, after: u64, wait: Duration) -> Result<u64, RegistryError> {
        const CALL: &str = "wait_for_wakeup";
        let wakeups = self.key("nudges");
        // Read first: a number from another registry, whose clock was ahead, may never be reached.
        let mut read = pipe();
        read.cmd("XREVRANGE").arg(&wakeups).arg("+").arg("-").arg("COUNT").arg(1);
        let (newest,): (StreamRangeReply,) = self.ask(CALL, &read).await?;
        let newest = newest.ids.last().map_or(Ok(0), |entry| seq_of(&entry.id, CALL))?;
        if newest != after {
            return Ok(newest);
        }
        let mut read = pipe();
        read.cmd("XREAD")
            .arg("BLOCK")
            .arg(block(wait))
            .arg("STREAMS")
            .arg(&wakeups)
            .arg(format!("{after}-0"));
        let (streams,): (Option<StreamReadReply>,) = self.0.link.wait(CALL, &read).await?;
        let last = streams.iter().flat_map(|s| &s.keys).flat_map(|key| &key.ids).next_back();
        last.map_or(Ok(after), |entry| seq_of(&entry.id, CALL))
    }

    pub(crate) async fn events_window(&self) -> Result<Duration, RegistryError> {
        const CALL: &str = "events_window";
        let mut read = pipe();
        read.cmd("XRANGE").arg(self.key("events")).arg("-").arg("+").arg("COUNT").arg(1);
        read.cmd("TIME");
        let (first, (seconds, micros)): (StreamRangeReply, (u64, u64)) = self.ask(CALL, &read).await?;
        let now = seconds.saturating_mul(1_000_000).saturating_add(micros);
        // Numbers are made from the registry's clock in microseconds.
        let first = first.ids.first().map_or(Ok(now), |entry| seq_of(&entry.id, CALL))?;
        Ok(Duration::from_micros(now.saturating_sub(first)))
    }

    pub(crate) async fn follow(
        &self,
        after: Position,
        wait: Duration,
        pings: Option<&WantedPings>,
    ) -> Result<Follow, RegistryError> {
        // Read without waiting first: nothing may ever follow an event that this registry has never had.
        let news = self.read_on(after, None, pings).await?;
        if wait.is_zero() || news.gap || news.woken || !news.events.is_empty() {
            return Ok(news);
        }
        self.read_on(news.position, Some(wait), pings).await
    }

    /// Reads what came after a position, and whether that position is one of this registry.
    async fn read_on(
        &self,
        after: Position,
        wait: Option<Duration>,
        pings: Option<&WantedPings>,
    ) -> Result<Follow, RegistryError> {
        const CALL: &str = "follow";
        let [events, wakeups, relayed] = ["events", "nudges", "pings"].map(|stream| self.key(stream));
        let mut read = pipe();
        let mut want = |tail: &str| {
            read.cmd("SET").arg(self.key(tail)).arg("1").arg("PX").arg(ms(WANTED_FOR)).ignore();
        };
        match pings {
            Some(WantedPings::All) => want("pings:all"),
            Some(WantedPings::Of(nodes)) => nodes.iter().for_each(|node| want(&format!("pings:of:{node}"))),
            None => {}
        }
        read.cmd("XREAD").arg("COUNT").arg(MAX_EVENTS);
        if let Some(wait) = wait {
            read.arg("BLOCK").arg(block(wait));
        }
        read.arg("STREAMS").arg(&events).arg(&wakeups);
        if pings.is_some() {
            read.arg(&relayed);
        }
        read.arg(format!("{}-0", after.seq)).arg(format!("{}-0", after.wakeup));
        if pings.is_some() {
            read.arg(format!("{}-0", after.seq));
        }
        // Read after the events, so that neither a wipe nor a trim in between can be missed.
        let seen = format!("{}-0", after.seen);
        for stream in [&events, &relayed] {
            read.cmd("XRANGE").arg(stream).arg(&seen).arg(&seen);
        }
        read.get(self.key("floor")).get(self.key("incarnation"));
        let (streams, seen, pinged, floor, incarnation): (
            _,
            StreamRangeReply,
            StreamRangeReply,
            Option<u64>,
            Option<String>,
        ) = self.0.link.wait(CALL, &read).await?;
        let streams: Option<StreamReadReply> = streams;
        let incarnation = identity(incarnation.as_ref());

        // Subscribers go on from a ping, too.
        let is_there = after.seen == 0 || !seen.ids.is_empty() || !pinged.ids.is_empty();
        let was_dropped = floor.is_some_and(|floor| after.seen <= floor);
        let is_another = after.incarnation.is_some() && after.incarnation != incarnation;
        if is_another || !(is_there || was_dropped) {
            // The same registry in an older state: others learn from its new identity.
            if !is_another && let Some(known) = after.incarnation {
                self.renew(known).await?;
            }
            let position = self.position().await?;
            return Ok(Follow { gap: true, woken: true, position, ..Follow::default() });
        }

        let mut follow = Follow { position: after, ..Follow::default() };
        follow.position.incarnation = incarnation;
        follow.gap = match floor {
            Some(floor) => after.seq > 0 && after.seq < floor,
            None => after.seq > 0 && after.seen == 0,
        };
        let mut count = 0;
        let mut pings = Vec::new();
        for stream in streams.map(|s| s.keys).unwrap_or_default() {
            for entry in stream.ids {
                let seq = seq_of(&entry.id, CALL)?;
                if stream.key == relayed {
                    pings.extend(relayed_pings(seq, &entry.map));
                } else if stream.key == wakeups {
                    follow.woken = true;
                    follow.position.wakeup = seq;
                } else {
                    count += 1;
                    (follow.position.seq, follow.position.seen) = (seq, seq);
                    let event = streamed(seq, &entry.map);
                    follow.events.extend(self.0.damaged.readable(&format!("event {seq}"), event));
                }
            }
        }
        // All were read at one moment, so their numbers are their order; but where not all events were read, pings must wait.
        pings.retain(|ping| count < MAX_EVENTS || ping.seq < follow.position.seq);
        if let Some(last) = pings.last() {
            follow.position.seq = follow.position.seq.max(last.seq);
            follow.events.append(&mut pings);
            follow.events.sort_by_key(|event| event.seq);
        }
        Ok(follow)
    }
}

/// An entry of the stream of pings; `None` where it cannot be read.
fn relayed_pings(seq: u64, fields: &HashMap<String, Value>) -> Option<Event> {
    let text = |field| redis::from_redis_value::<String>(fields.get(field)?.clone()).ok();
    let (node, at, pings) = (text("n")?.parse().ok()?, text("t")?.parse().ok()?, text("p")?);
    let words: Vec<&str> = pings.split(' ').collect();
    let ping = |pair: &[&str]| Some((pair[0].parse().ok()?, Timestamp::from_millis(pair[1].parse().ok()?)));
    let pings: Vec<(SpawnId, Timestamp)> = words.chunks_exact(2).filter_map(ping).collect();
    Some(pings::event(seq, Timestamp::from_millis(at), node, &pings))
}

/// How long a read blocks, in milliseconds. At least 1: to Redis, 0 means without a limit.
fn block(wait: Duration) -> u64 {
    u64::try_from(wait.min(MAX_FOLLOW).as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The registry's identity in what the key holds.
fn identity(text: Option<&String>) -> Option<Uuid> {
    text?.split(' ').next()?.parse().ok()
}

/// The sequence number of a stream's entry.
fn seq_of(entry: &str, call: &'static str) -> Result<u64, RegistryError> {
    let seq = entry.split('-').next().and_then(|s| s.parse().ok());
    seq.ok_or_else(|| unexpected(call, format!("entry {entry:?}")))
}

/// An entry of the event stream.
fn streamed(seq: u64, fields: &HashMap<String, Value>) -> Result<Event, RegistryError> {
    const CALL: &str = "follow";
    let fields: Fields = fields
        .iter()
        .map(|(field, v)| Ok((field.clone(), value(Some(v.clone()), CALL)?)))
        .collect::<Result<_, RegistryError>>()?;
    Ok(Event {
        seq,
        at: timestamp(&fields, "t", CALL)?.unwrap_or_default(),
        // `x` is there when the release before this one is to read another kind.
        kind: parsed(&fields, if fields.contains_key("x") { "x" } else { "k" }, CALL)?,
        node: Some(parsed(&fields, "n", CALL)?),
        spawn: match text(&fields, "s") {
            "" => None,
            _ => Some(parsed(&fields, "s", CALL)?),
        },
        data: decoded(&fields, "d", CALL)?,
    })
}
