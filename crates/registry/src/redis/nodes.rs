//! Nodes as records for callers. Plain commands in pipelines of a bounded length: no step of the server grows with the farm, but for the
//! names of all nodes.

use model::{Availability, NodeId, NodeRecord, Supply, Timestamp, health::node_health};
use redis::{FromRedisValue, Pipeline, Value, pipe};

use super::read::{Fields, LIST_CHUNK, decoded, parsed, text, time, timestamp, value};
use super::{Redis, heard, packed, unexpected};
use crate::error::RegistryError;
use crate::judge::Judgement;
use crate::node_list::{NodeFilter, NodePage, Paging};

/// The connection that nodes are read on.
#[derive(Debug, Clone, Copy)]
enum Through {
    /// The one of all calls: reading all nodes also shows whether the registry is there.
    Shared,
    /// The one of lists.
    Lists,
}

impl Redis {
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRecord>, RegistryError> {
        let names = self.names_of_nodes(Through::Shared).await?;
        let mut nodes = Vec::with_capacity(names.len());
        for names in names.chunks(LIST_CHUNK) {
            nodes.extend(self.read_nodes(names, Through::Shared).await?);
        }
        Ok(nodes)
    }

    pub(crate) async fn nodes_page(&self, filter: &NodeFilter) -> Result<NodePage, RegistryError> {
        let names = self.names_of_nodes(Through::Lists).await?;
        let from = filter
            .cursor
            .as_ref()
            .map_or(0, |cursor| names.partition_point(|name| name.as_str() <= cursor.as_str()));
        let mut paging = Paging::new(filter);
        let mut names = &names[from..];
        while !names.is_empty() {
            let (chunk, rest) = names.split_at(names.len().min(paging.wants(LIST_CHUNK)));
            for node in self.read_nodes(chunk, Through::Lists).await? {
                if !paging.look_at(node) {
                    return Ok(paging.more());
                }
            }
            names = rest;
        }
        Ok(paging.last())
    }

    async fn read_through<T: FromRedisValue>(
        &self,
        through: Through,
        question: &Pipeline,
    ) -> Result<T, RegistryError> {
        match through {
            Through::Shared => self.ask("nodes", question).await,
            Through::Lists => self.0.link.list("nodes", question).await,
        }
    }

    /// By name.
    async fn names_of_nodes(&self, through: Through) -> Result<Vec<String>, RegistryError> {
        let (mut names,): (Vec<String>,) =
            self.read_through(through, pipe().smembers(self.key("names"))).await?;
        names.sort_unstable();
        Ok(names)
    }

    /// These nodes in one pipeline, as far as they are still there.
    async fn read_nodes(&self, names: &[String], through: Through) -> Result<Vec<NodeRecord>, RegistryError> {
        let mut read = pipe();
        read.cmd("TIME").hgetall(self.key("judge"));
        for name in names {
            read.hgetall(self.key(&format!("node:{name}"))).hlen(self.key(&format!("held:{name}")));
        }
        let answer: Vec<Value> = self.read_through(through, &read).await?;
        let mut answers = answer.into_iter();
        let now = time(answers.next())?;
        let judged = judgement(answers.next(), "nodes")?;
        let mut nodes = Vec::with_capacity(names.len());
        for name in names {
            let fields = value::<Fields>(answers.next(), "nodes");
            let used: u32 = value(answers.next(), "nodes")?;
            let record = match fields {
                // A node may have been forgotten since its name was read.
                Ok(fields) if fields.is_empty() => continue,
                Ok(fields) => self.node_record(name, &fields, used, now, judged),
                Err(error) => Err(error),
            };
            nodes.extend(self.0.damaged.readable(name, record));
        }
        Ok(nodes)
    }

    pub(crate) async fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, RegistryError> {
        let mut read = pipe();
        read.cmd("TIME").hgetall(self.key("judge"));
        read.hgetall(self.key(&format!("node:{node}"))).hlen(self.key(&format!("held:{node}")));
        let answer: Vec<Value> = self.ask("node", &read).await?;
        let mut answers = answer.into_iter();
        let now = time(answers.next())?;
        let judged = judgement(answers.next(), "node")?;
        let fields: Fields = value(answers.next(), "node")?;
        let used: u32 = value(answers.next(), "node")?;
        if fields.is_empty() {
            return Ok(None);
        }
        self.node_record(node.as_str(), &fields, used, now, judged).map(Some)
    }

    fn node_record(
        &self,
        name: &str,
        fields: &Fields,
        used: u32,
        now: Timestamp,
        judged: Judgement,
    ) -> Result<NodeRecord, RegistryError> {
        const CALL: &str = "nodes";
        let beat = timestamp(fields, "beat", CALL)?.unwrap_or_default();
        let availability = match parsed(fields, "avail", CALL)? {
            // A reader may come between a node's silence and the sweep that notes it.
            Availability::Up if judged.is_silent(beat, now, self.timing()) => Availability::Stale,
            other => other,
        };
        let mut record = NodeRecord {
            id: name.parse().map_err(|e| unexpected(CALL, format!("node {name:?} {e}")))?,
            eligibility: parsed(fields, "elig", CALL)?,
            availability,
            description: decoded(fields, "desc", CALL)?,
            used,
            // A lost or malformed count is 0 until the next heartbeat counts anew.
            gpu_used: text(fields, "gused").parse().unwrap_or(0),
            gpus: decoded(fields, "gpulist", CALL)?,
            load: decoded(fields, "load", CALL)?,
            supply: supply(text(fields, "supply")),
            epoch: parsed(fields, "epoch", CALL)?,
            last_heartbeat_at: beat,
            drain: match text(fields, "drain") {
                "" => None,
                _ => Some(decoded(fields, "drain", CALL)?),
            },
            generation: text(fields, "gen").parse().unwrap_or(0),
            health: node_health(&packed::health(text(fields, "hcsr")), &packed::health(text(fields, "hssr"))),
            heard: heard::parse(text(fields, "heard")),
        };
        if availability == Availability::Down {
            crate::report::hold_nothing(&mut record);
        }
        Ok(record)
    }
}

fn judgement(answer: Option<Value>, call: &'static str) -> Result<Judgement, RegistryError> {
    let fields: Fields = value(answer, call)?;
    let at = |field| text(&fields, field).parse().ok().map(Timestamp::from_millis);
    Ok(Judgement { at: at("at"), grace: at("grace").unwrap_or_default() })
}

/// The text that a heartbeat brought; agents of the release before this one bring none, and a damaged one is none until the next.
fn supply(text: &str) -> Supply {
    let json = text.splitn(3, ' ').nth(2);
    json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}
