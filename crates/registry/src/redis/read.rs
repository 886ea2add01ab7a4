//! The calls that only read. They use plain commands in one pipeline, so a reader may see the state between two writes;
//! `locate` alone is a script, because its two parts must agree.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};

use model::{Event, Exit, FarmCause, NodeId, SpawnId, SpawnRecord, SpawnState, Timestamp};
use redis::{Pipeline, RedisResult, Value, pipe};

use super::link::Question;
use super::server_error::is_damage;
use super::{Redis, heard, renderer_of, unexpected};
use crate::ask::{Located, MAX_LOOKED_AT, SpawnFilter, SpawnPage};
use crate::cause::Cause;
use crate::error::RegistryError;

pub(super) type Fields = HashMap<String, String>;

/// Records read in one pipeline.
pub(super) const CHUNK: usize = 500;
/// The same for a list, so that calls of others wait for a part of it and not for the whole.
pub(super) const LIST_CHUNK: usize = 100;
/// The fields of a record that lists show; the others are its history.
const LISTED: [&str; 18] = [
    "node",
    "endpoint",
    "renderer",
    "state",
    "exit",
    "started",
    "ready",
    "ping",
    "ended",
    "pool",
    "labels",
    "tags",
    "owner",
    "gpu",
    "connected",
    "disconnected",
    "expires",
    "server",
];

impl Redis {
    pub(super) async fn ask<T: redis::FromRedisValue>(
        &self,
        call: &'static str,
        pipe: &Pipeline,
    ) -> Result<T, RegistryError> {
        self.0.link.ask(call, Question::Pipeline(pipe)).await
    }

    /// An answer to each command; `None` where its key holds something else than it should, which counts as nothing.
    pub(super) async fn ask_each(
        &self,
        call: &'static str,
        pipe: &Pipeline,
    ) -> Result<Vec<Option<Value>>, RegistryError> {
        let answers: Vec<RedisResult<Value>> = self.ask(call, pipe.clone().ignore_errors()).await?;
        if answers.iter().any(|answer| answer.as_ref().is_err_and(|error| !is_damage(error))) {
            // What the server refuses is judged where it fails a call.
            let answers: Vec<Value> = self.ask(call, pipe).await?;
            return Ok(answers.into_iter().map(Some).collect());
        }
        Ok(answers.into_iter().map(Result::ok).collect())
    }

    pub(crate) async fn ping(&self) -> Result<(), RegistryError> {
        let _: (String,) = self.ask("ping", pipe().cmd("PING")).await?;
        Ok(())
    }

    pub(crate) async fn farm_cause(&self) -> Result<Option<FarmCause>, RegistryError> {
        const CALL: &str = "farm_cause";
        let mut read = pipe();
        read.cmd("TIME").hgetall(self.key("cause"));
        let answer: Vec<Value> = self.ask(CALL, &read).await?;
        let mut answers = answer.into_iter();
        let now = time(answers.next())?;
        let fields: Fields = value(answers.next(), CALL)?;
        Ok(Cause::from_fields(&fields).and_then(|cause| cause.established(now)))
    }

    pub(crate) async fn now(&self) -> Result<Timestamp, RegistryError> {
        let answer: Vec<Value> = self.ask("now", pipe().cmd("TIME")).await?;
        time(answer.into_iter().next())
    }

    pub(crate) async fn spawns(&self, filter: &SpawnFilter) -> Result<SpawnPage, RegistryError> {
        let walk = self.walk(filter);
        let limit = filter.limit.max(1);
        let chunk = if filter.sifts() { LIST_CHUNK } else { limit.min(LIST_CHUNK) + 1 };
        let mut page = SpawnPage::default();
        let mut cursor = filter.cursor;
        let mut last = None;
        loop {
            let ids = self.walk_on(&walk, cursor, chunk).await?;
            let mut read = pipe();
            for (id, _) in &ids {
                read.cmd("HMGET").arg(self.key(&format!("spawn:{id}"))).arg(&LISTED);
            }
            let records: Vec<Vec<Option<String>>> =
                if ids.is_empty() { Vec::new() } else { self.0.link.list("spawns", &read).await? };
            for ((id, at), values) in ids.iter().zip(records) {
                let fields = listed(values);
                if page.looked_at == MAX_LOOKED_AT {
                    page.next = cursor;
                    return self.page(page).await;
                }
                page.looked_at += 1;
                cursor = Some(*at);
                if !is_wanted(filter, &fields) {
                    continue;
                }
                if page.spawns.len() == limit {
                    page.next = last;
                    return self.page(page).await;
                }
                let Some(record) = self.0.damaged.readable(id, spawn_record(id, &fields)) else { continue };
                page.spawns.push(record);
                last = Some(*at);
            }
            if ids.len() < chunk {
                return self.page(page).await;
            }
        }
    }

    async fn page(&self, mut page: SpawnPage) -> Result<SpawnPage, RegistryError> {
        self.heard_of(&mut page.spawns).await?;
        Ok(page)
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
        // `A`: an agent has reported it. Such a spawn holds its slot until it has ended.
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
                    living.extend(self.0.damaged.readable(id, spawn_record(id, &fields)));
                }
            }
        }
        self.heard_of(&mut living).await?;
        Ok(living)
    }

    pub(crate) async fn spawn(&self, spawn: SpawnId) -> Result<Option<SpawnRecord>, RegistryError> {
        let (fields,): (Fields,) =
            self.ask("spawn", pipe().hgetall(self.key(&format!("spawn:{spawn}")))).await?;
        let mut record = whole_record(spawn, &fields)?;
        self.heard_of(record.as_mut_slice()).await?;
        Ok(record)
    }

    pub(crate) async fn locate(&self, spawn: SpawnId) -> Result<Option<Located>, RegistryError> {
        let mut locate = self.0.scripts.locate.key(&self.0.prefix);
        locate.arg(spawn.to_string());
        let answer: Vec<Value> = self.0.link.ask("locate", Question::Script(&locate)).await?;
        let mut answers = answer.into_iter();
        let fields: Fields = value(answers.next(), "locate")?;
        let heard: String = value(answers.next(), "locate")?;
        let advertise = answers.next().map(|advertise| value(Some(advertise), "locate")).transpose()?;
        Ok(whole_record(spawn, &fields)?.map(|mut spawn| {
            heard::complete(&mut spawn, &heard::parse(&heard));
            Located { spawn, advertise }
        }))
    }
}

/// Whether a record's fields are what a list asks for.
fn is_wanted(filter: &SpawnFilter, fields: &Fields) -> bool {
    let tags: LazyCell<BTreeMap<String, String>, _> =
        LazyCell::new(|| serde_json::from_str(text(fields, "tags")).unwrap_or_default());
    let owned = || filter.owners.iter().any(|owner| owner.as_str() == text(fields, "owner"));
    !fields.is_empty()
        && filter.state.is_none_or(|state| state.as_str() == text(fields, "state"))
        && filter.renderer.is_none_or(|renderer| renderer.as_str() == text(fields, "renderer"))
        && (!filter.is_about_ends() || is_wanted_end(filter, fields))
        && filter.node.as_ref().is_none_or(|node| node.as_str() == text(fields, "node"))
        && (filter.owners.is_empty() || owned())
        && filter.tags.iter().all(|tag| tag.is_in(&tags))
}

/// A spawn that is lost has no end; one that an agent has listed again after all has none any more.
fn is_wanted_end(filter: &SpawnFilter, fields: &Fields) -> bool {
    let exit: Option<Exit> = serde_json::from_str(text(fields, "exit")).ok();
    let ended = text(fields, "ended").parse().ok().map(Timestamp::from_millis);
    filter.wants_end(ended, exit.map(|exit| exit.reason))
}

pub(super) fn value<T: redis::FromRedisValue>(
    value: Option<Value>,
    call: &'static str,
) -> Result<T, RegistryError> {
    let value = value.ok_or_else(|| unexpected(call, "too short an answer"))?;
    T::from_redis_value(value).map_err(|e| unexpected(call, e.to_string()))
}

pub(super) fn time(answer: Option<Value>) -> Result<Timestamp, RegistryError> {
    let (seconds, micros): (u64, u64) = value(answer, "time")?;
    Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
}

pub(super) fn text<'a>(fields: &'a Fields, field: &str) -> &'a str {
    fields.get(field).map_or("", String::as_str)
}

pub(super) fn parsed<T>(fields: &Fields, field: &str, call: &'static str) -> Result<T, RegistryError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text(fields, field).parse().map_err(|e| unexpected(call, format!("{field} {e}")))
}

pub(super) fn decoded<T: serde::de::DeserializeOwned>(
    fields: &Fields,
    field: &str,
    call: &'static str,
) -> Result<T, RegistryError> {
    serde_json::from_str(text(fields, field)).map_err(|e| unexpected(call, format!("{field}: {e}")))
}

pub(super) fn timestamp(
    fields: &Fields,
    field: &str,
    call: &'static str,
) -> Result<Option<Timestamp>, RegistryError> {
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
        connected_at: timestamp(fields, "connected", CALL)?,
        disconnected_at: timestamp(fields, "disconnected", CALL)?,
        expires_at: timestamp(fields, "expires", CALL)?,
        ended_at: timestamp(fields, "ended", CALL)?,
        pool: text(fields, "pool").to_owned(),
        labels: decoded(fields, "labels", CALL)?,
        // The release before this one writes none; damaged ones are none until the next heartbeat.
        tags: serde_json::from_str(text(fields, "tags")).unwrap_or_default(),
        origin: serde_json::from_str(text(fields, "origin")).unwrap_or_default(),
        owner: match text(fields, "owner") {
            "" => None,
            _ => Some(parsed(fields, "owner", CALL)?),
        },
        gpu: match text(fields, "gpu") {
            "" => None,
            _ => Some(parsed(fields, "gpu", CALL)?),
        },
        server: text(fields, "server").parse().ok(),
        events: Vec::new(),
    })
}

/// A record with its history; `None` when there is no record.
fn whole_record(spawn: SpawnId, fields: &Fields) -> Result<Option<SpawnRecord>, RegistryError> {
    if fields.is_empty() {
        return Ok(None);
    }
    let mut record = spawn_record(&spawn.to_string(), fields)?;
    let events: u32 = parsed(fields, "events", "spawn")?;
    record.events = (1..=events)
        .map(|n| history_entry(text(fields, &format!("e{n}")), spawn))
        .collect::<Result<_, _>>()?;
    Ok(Some(record))
}

/// The fields that [`LISTED`] asked for.
fn listed(values: Vec<Option<String>>) -> Fields {
    LISTED.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect()
}

/// An entry of a spawn's own history: `seq|at|kind|node|data`.
fn history_entry(line: &str, spawn: SpawnId) -> Result<Event, RegistryError> {
    const CALL: &str = "spawn";
    let wrong = || unexpected(CALL, format!("history entry {line:?}"));
    let mut parts = line.splitn(5, '|');
    let mut next = || parts.next().ok_or_else(wrong);
    let mut event = Event {
        seq: next()?.parse().map_err(|_| wrong())?,
        at: Timestamp::from_millis(next()?.parse().map_err(|_| wrong())?),
        kind: next()?.parse().map_err(|_| wrong())?,
        node: Some(next()?.parse().map_err(|_| wrong())?),
        spawn: Some(spawn),
        data: serde_json::from_str(next()?).map_err(|_| wrong())?,
    };
    // `x` is there when the release before this one is to read another kind.
    if let Some(kind) = event.data.remove("x") {
        event.kind = kind.as_str().and_then(|kind| kind.parse().ok()).ok_or_else(wrong)?;
    }
    Ok(event)
}
