//! The calls that only read.

use std::collections::HashMap;
use std::time::Duration;

use model::{
    Availability, Event, FarmCause, NodeHealth, NodeId, NodeRecord, SpawnId, SpawnRecord, SpawnState,
    Timestamp,
};
use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{Pipeline, Value, pipe};
use uuid::Uuid;

use super::link::Question;
use super::{Redis, renderer_of, unexpected};
use crate::ask::{Follow, LONGEST_FOLLOW, Located, Position, SpawnFilter, SpawnPage};
use crate::error::RegistryError;

type Fields = HashMap<String, String>;

/// Records read in one go.
const CHUNK: usize = 500;
/// What a list shows of a record; the rest is its history.
const LISTED: [&str; 13] = [
    "node", "endpoint", "renderer", "state", "exit", "started", "ready", "ping", "ended", "pool", "labels",
    "owner", "gpu",
];
/// Events read in one go.
const MOST_EVENTS: usize = 1000;

impl Redis {
    async fn ask<T: redis::FromRedisValue>(
        &self,
        call: &'static str,
        pipe: &Pipeline,
    ) -> Result<T, RegistryError> {
        self.0.link.ask(call, Question::Pipeline(pipe)).await
    }

    pub(crate) async fn ping(&self) -> Result<(), RegistryError> {
        let _: (String,) = self.ask("ping", pipe().cmd("PING")).await?;
        Ok(())
    }

    pub(crate) async fn check(&self) -> Result<(), RegistryError> {
        self.ping().await
    }

    pub(crate) async fn farm_cause(&self) -> Result<Option<FarmCause>, RegistryError> {
        Ok(None)
    }

    pub(crate) async fn incarnation(&self) -> Result<Uuid, RegistryError> {
        Ok(Uuid::nil())
    }

    pub(crate) async fn now(&self) -> Result<Timestamp, RegistryError> {
        let answer: Vec<Value> = self.ask("now", pipe().cmd("TIME")).await?;
        time(answer.into_iter().next())
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRecord>, RegistryError> {
        let (names,): (Vec<String>,) = self.ask("nodes", pipe().smembers(self.key("names"))).await?;
        let mut nodes = Vec::with_capacity(names.len());
        for names in names.chunks(CHUNK) {
            let mut read = pipe();
            read.cmd("TIME");
            for name in names {
                read.hgetall(self.key(&format!("node:{name}"))).hlen(self.key(&format!("held:{name}")));
            }
            let answer: Vec<Value> = self.ask("nodes", &read).await?;
            let mut answers = answer.into_iter();
            let now = time(answers.next())?;
            for name in names {
                let fields: Fields = value(answers.next(), "nodes")?;
                let used: u32 = value(answers.next(), "nodes")?;
                // A node may have been forgotten since its name was read.
                if !fields.is_empty() {
                    nodes.push(self.node_record(name, &fields, used, now)?);
                }
            }
        }
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(nodes)
    }

    pub(crate) async fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, RegistryError> {
        let mut read = pipe();
        read.cmd("TIME").hgetall(self.key(&format!("node:{node}"))).hlen(self.key(&format!("held:{node}")));
        let answer: Vec<Value> = self.ask("node", &read).await?;
        let mut answers = answer.into_iter();
        let now = time(answers.next())?;
        let fields: Fields = value(answers.next(), "node")?;
        let used: u32 = value(answers.next(), "node")?;
        if fields.is_empty() {
            return Ok(None);
        }
        self.node_record(node.as_str(), &fields, used, now).map(Some)
    }

    fn node_record(
        &self,
        name: &str,
        fields: &Fields,
        used: u32,
        now: Timestamp,
    ) -> Result<NodeRecord, RegistryError> {
        const CALL: &str = "nodes";
        let beat = timestamp(fields, "beat", CALL)?.unwrap_or_default();
        let availability = match parsed(fields, "avail", CALL)? {
            // Not every reader wants to wait for the next sweep.
            Availability::Up if now.since(beat) >= self.timing().stale => Availability::Stale,
            other => other,
        };
        Ok(NodeRecord {
            id: name.parse().map_err(|e| unexpected(CALL, format!("node {name:?} {e}")))?,
            eligibility: parsed(fields, "elig", CALL)?,
            availability,
            description: decoded(fields, "desc", CALL)?,
            used,
            gpu_used: parsed(fields, "gused", CALL)?,
            gpus: decoded(fields, "gpulist", CALL)?,
            load: decoded(fields, "load", CALL)?,
            epoch: parsed(fields, "epoch", CALL)?,
            last_heartbeat_at: beat,
            drain: match text(fields, "drain") {
                "" => None,
                _ => Some(decoded(fields, "drain", CALL)?),
            },
            generation: 0,
            health: NodeHealth::default(),
        })
    }

    pub(crate) async fn spawns(&self, filter: &SpawnFilter) -> Result<SpawnPage, RegistryError> {
        // By owner and node, only the owner's index is of use; the node is looked for in its records.
        let (index, node) = match (&filter.owner, &filter.node) {
            (Some(owner), node) => (self.key(&format!("spawns-of:{owner}")), node.as_ref()),
            (None, Some(node)) => (self.key(&format!("spawns:{node}")), None),
            (None, None) => (self.key("spawns"), None),
        };
        let is_wanted = |fields: &Fields| {
            !fields.is_empty()
                && filter.state.is_none_or(|state| state.as_str() == text(fields, "state"))
                && node.is_none_or(|node| node.as_str() == text(fields, "node"))
        };
        let limit = filter.limit.max(1);
        let sifts = filter.state.is_some() || node.is_some();
        let chunk = if sifts { CHUNK } else { limit.min(CHUNK) + 1 };
        let mut page = SpawnPage::default();
        let mut cursor = filter.cursor;
        let mut last = None;
        loop {
            let below = cursor.map_or_else(|| "+inf".to_owned(), |seq| format!("({seq}"));
            let mut read = pipe();
            read.cmd("ZREVRANGEBYSCORE").arg(&index).arg(below).arg("-inf");
            read.arg("WITHSCORES").arg("LIMIT").arg(0).arg(chunk);
            let (ids,): (Vec<(String, u64)>,) = self.ask("spawns", &read).await?;
            let mut read = pipe();
            for (id, _) in &ids {
                read.cmd("HMGET").arg(self.key(&format!("spawn:{id}"))).arg(&LISTED);
            }
            let records: Vec<Vec<Option<String>>> =
                if ids.is_empty() { Vec::new() } else { self.ask("spawns", &read).await? };
            for ((id, seq), values) in ids.iter().zip(records) {
                let fields = listed(values);
                cursor = Some(*seq);
                if !is_wanted(&fields) {
                    continue;
                }
                if page.spawns.len() == limit {
                    page.next = last;
                    return Ok(page);
                }
                page.spawns.push(spawn_record(id, &fields)?);
                last = Some(*seq);
            }
            if ids.len() < chunk {
                return Ok(page);
            }
        }
    }

    pub(crate) async fn living(&self, nodes: &[NodeId]) -> Result<Vec<SpawnRecord>, RegistryError> {
        const CALL: &str = "living";
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = pipe();
        for node in nodes {
            read.hgetall(self.key(&format!("held:{node}")));
        }
        let held: Vec<Fields> = self.ask(CALL, &read).await?;
        // Those that an agent has reported hold a slot until they have ended.
        let ids = held.into_iter().flatten().filter(|(_, hold)| hold.starts_with('A')).map(|(id, _)| id);
        let ids: Vec<String> = ids.collect();
        let mut living = Vec::with_capacity(ids.len());
        for ids in ids.chunks(CHUNK) {
            let mut read = pipe();
            for id in ids {
                read.cmd("HMGET").arg(self.key(&format!("spawn:{id}"))).arg(&LISTED);
            }
            let records: Vec<Vec<Option<String>>> = self.ask(CALL, &read).await?;
            for (id, values) in ids.iter().zip(records) {
                let fields = listed(values);
                // It may have ended since.
                if !fields.is_empty() && text(&fields, "state") != SpawnState::Exited.as_str() {
                    living.push(spawn_record(id, &fields)?);
                }
            }
        }
        Ok(living)
    }

    pub(crate) async fn spawn(&self, spawn: SpawnId) -> Result<Option<SpawnRecord>, RegistryError> {
        let (fields,): (Fields,) =
            self.ask("spawn", pipe().hgetall(self.key(&format!("spawn:{spawn}")))).await?;
        whole_record(spawn, &fields)
    }

    pub(crate) async fn locate(&self, spawn: SpawnId) -> Result<Option<Located>, RegistryError> {
        let locate = &self.0.scripts.locate;
        let answer: Vec<Value> = self
            .run("locate", locate, |args| {
                args.arg(spawn.to_string());
            })
            .await?;
        let mut answers = answer.into_iter();
        let fields: Fields = value(answers.next(), "locate")?;
        let advertise = answers.next().map(|advertise| value(Some(advertise), "locate")).transpose()?;
        Ok(whole_record(spawn, &fields)?.map(|spawn| Located { spawn, advertise }))
    }

    pub(crate) async fn position(&self) -> Result<Position, RegistryError> {
        const CALL: &str = "position";
        let mut read = pipe();
        read.get(self.key("seq"))
            .cmd("XREVRANGE")
            .arg(self.key("events"))
            .arg("+")
            .arg("-")
            .arg("COUNT")
            .arg(1);
        let (nudge, last): (Option<u64>, StreamRangeReply) = self.ask(CALL, &read).await?;
        // Of the last event, not of anything that has a number: a registry is known again by the numbers of its events.
        let seq = last.ids.first().map_or(Ok(0), |entry| seq_of(&entry.id, CALL))?;
        Ok(Position { seq, nudge: nudge.unwrap_or(0) })
    }

    pub(crate) async fn nudged(&self, after: u64, wait: Duration) -> Result<u64, RegistryError> {
        const CALL: &str = "nudged";
        let block = u64::try_from(wait.min(LONGEST_FOLLOW).as_millis()).unwrap_or(u64::MAX).max(1);
        let mut read = pipe();
        read.cmd("XREAD")
            .arg("BLOCK")
            .arg(block)
            .arg("STREAMS")
            .arg(self.key("nudges"))
            .arg(format!("{after}-0"));
        let (streams,): (Option<StreamReadReply>,) = self.0.link.wait(CALL, &read).await?;
        let last = streams.iter().flat_map(|s| &s.keys).flat_map(|key| &key.ids).next_back();
        last.map_or(Ok(after), |entry| seq_of(&entry.id, CALL))
    }

    pub(crate) async fn follow(&self, after: Position, wait: Duration) -> Result<Follow, RegistryError> {
        const CALL: &str = "follow";
        let (events, nudges) = (self.key("events"), self.key("nudges"));
        let block = u64::try_from(wait.min(LONGEST_FOLLOW).as_millis()).unwrap_or(u64::MAX).max(1);
        let mut read = pipe();
        read.cmd("XREAD").arg("COUNT").arg(MOST_EVENTS).arg("BLOCK").arg(block).arg("STREAMS");
        read.arg(&events).arg(&nudges).arg(format!("{}-0", after.seq)).arg(format!("{}-0", after.nudge));
        // Read after the events, so that a wipe before them cannot be missed.
        read.get(self.key("floor"));
        let (streams, floor): (Option<StreamReadReply>, Option<u64>) = self.0.link.wait(CALL, &read).await?;

        let mut follow = Follow { position: after, ..Follow::default() };
        follow.gap = after.seq > 0 && floor.is_none_or(|floor| after.seq < floor);
        if floor.is_none() {
            follow.position.seq = 0;
        }
        for stream in streams.map(|s| s.keys).unwrap_or_default() {
            for entry in stream.ids {
                let seq = seq_of(&entry.id, CALL)?;
                if stream.key == nudges {
                    follow.nudged = true;
                    follow.position.nudge = seq;
                } else {
                    follow.position.seq = seq;
                    follow.events.push(streamed(seq, &entry.map)?);
                }
            }
        }
        Ok(follow)
    }
}

fn value<T: redis::FromRedisValue>(value: Option<Value>, call: &'static str) -> Result<T, RegistryError> {
    let value = value.ok_or_else(|| unexpected(call, "too short an answer"))?;
    T::from_redis_value(value).map_err(|e| unexpected(call, e.to_string()))
}

fn time(answer: Option<Value>) -> Result<Timestamp, RegistryError> {
    let (seconds, micros): (u64, u64) = value(answer, "time")?;
    Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
}

fn text<'a>(fields: &'a Fields, field: &str) -> &'a str {
    fields.get(field).map_or("", String::as_str)
}

fn parsed<T>(fields: &Fields, field: &str, call: &'static str) -> Result<T, RegistryError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text(fields, field).parse().map_err(|e| unexpected(call, format!("{field} {e}")))
}

fn decoded<T: serde::de::DeserializeOwned>(
    fields: &Fields,
    field: &str,
    call: &'static str,
) -> Result<T, RegistryError> {
    serde_json::from_str(text(fields, field)).map_err(|e| unexpected(call, format!("{field}: {e}")))
}

fn timestamp(fields: &Fields, field: &str, call: &'static str) -> Result<Option<Timestamp>, RegistryError> {
    match text(fields, field) {
        "" => Ok(None),
        _ => parsed(fields, field, call).map(|ms| Some(Timestamp::from_millis(ms))),
    }
}

fn spawn_record(id: &str, fields: &Fields) -> Result<SpawnRecord, RegistryError> {
    const CALL: &str = "spawns";
    Ok(SpawnRecord {
        id: id.parse().map_err(|e| unexpected(CALL, format!("spawn {id:?} {e}")))?,
        node: parsed(fields, "node", CALL)?,
        endpoint: text(fields, "endpoint").to_owned(),
        renderer: renderer_of(text(fields, "renderer"), CALL)?,
        state: parsed(fields, "state", CALL)?,
        exit: match text(fields, "exit") {
            "" => None,
            _ => Some(decoded(fields, "exit", CALL)?),
        },
        started_at: timestamp(fields, "started", CALL)?.unwrap_or_default(),
        ready_at: timestamp(fields, "ready", CALL)?,
        last_ping_at: timestamp(fields, "ping", CALL)?,
        ended_at: timestamp(fields, "ended", CALL)?,
        pool: text(fields, "pool").to_owned(),
        labels: decoded(fields, "labels", CALL)?,
        owner: match text(fields, "owner") {
            "" => None,
            _ => Some(parsed(fields, "owner", CALL)?),
        },
        gpu: match text(fields, "gpu") {
            "" => None,
            _ => Some(parsed(fields, "gpu", CALL)?),
        },
        events: Vec::new(),
    })
}

/// A record with its history; `None` when there is none.
fn whole_record(spawn: SpawnId, fields: &Fields) -> Result<Option<SpawnRecord>, RegistryError> {
    if fields.is_empty() {
        return Ok(None);
    }
    let mut record = spawn_record(&spawn.to_string(), fields)?;
    let events: u32 = parsed(fields, "events", "spawn")?;
    record.events =
        (1..=events).map(|n| told(text(fields, &format!("e{n}")), spawn)).collect::<Result<_, _>>()?;
    Ok(Some(record))
}

/// The fields that [`LISTED`] asked for.
fn listed(values: Vec<Option<String>>) -> Fields {
    LISTED.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect()
}

/// The sequence number of a stream's entry.
fn seq_of(entry: &str, call: &'static str) -> Result<u64, RegistryError> {
    let seq = entry.split('-').next().and_then(|s| s.parse().ok());
    seq.ok_or_else(|| unexpected(call, format!("entry {entry:?}")))
}

/// An entry of a spawn's own history: `seq|at|kind|node|data`.
fn told(line: &str, spawn: SpawnId) -> Result<Event, RegistryError> {
    const CALL: &str = "spawn";
    let wrong = || unexpected(CALL, format!("history entry {line:?}"));
    let mut parts = line.splitn(5, '|');
    let mut next = || parts.next().ok_or_else(wrong);
    Ok(Event {
        seq: next()?.parse().map_err(|_| wrong())?,
        at: Timestamp::from_millis(next()?.parse().map_err(|_| wrong())?),
        kind: next()?.parse().map_err(|_| wrong())?,
        node: Some(next()?.parse().map_err(|_| wrong())?),
        spawn: Some(spawn),
        data: serde_json::from_str(next()?).map_err(|_| wrong())?,
    })
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
        kind: parsed(&fields, "k", CALL)?,
        node: Some(parsed(&fields, "n", CALL)?),
        spawn: match text(&fields, "s") {
            "" => None,
            _ => Some(parsed(&fields, "s", CALL)?),
        },
        data: decoded(&fields, "d", CALL)?,
    })
}
