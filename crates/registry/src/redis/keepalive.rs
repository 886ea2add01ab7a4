//! The heartbeat of a node on which nothing has changed, and what agents are answered.
//!
//! A keepalive is the call that a large farm makes most, so its script is short, and gets nothing that it does not need.

use model::{Drain, Owner, RendererType, SpawnId, Timestamp};
use redis::ScriptInvocation;

use super::link::Question;
use super::write::{digest, flag, heard, json, ms, supply_text};
use super::{Redis, unexpected};
use crate::agreement::Difference;
use crate::error::RegistryError;
use crate::keepalive::{Check, Keepalive};
use crate::report::{Orders, SpawnReport};

impl Redis {
    pub(crate) async fn keepalive(&self, keepalive: &Keepalive) -> Result<Orders, RegistryError> {
        const CALL: &str = "keepalive";
        let scripts = &self.0.scripts;
        let script = match keepalive.check {
            Check::Counts => &scripts.keepalive,
            Check::Node { .. } => &scripts.keepalive_with_node,
            Check::Spawn(_) => &scripts.keepalive_with_spawn,
        };
        let mut invocation = script.key(&self.0.prefix);
        invocation
            .arg(keepalive.node.as_str())
            .arg(keepalive.epoch.to_string())
            .arg(keepalive.accepted)
            .arg(digest(Some(keepalive.digest)))
            .arg(keepalive.spawns)
            .arg(keepalive.gpu_spawns)
            .arg(keepalive.generation)
            .arg(json(&keepalive.load))
            .arg(supply_text(&keepalive.supply))
            .arg(json(&keepalive.gpus))
            .arg(heard(&keepalive.heard));
        let late = keepalive.heard.late.iter().filter_map(|(spawn, age)| Some((*spawn, (*age)?)));
        invocation.arg(with_ages(late)).arg(with_ages(keepalive.pings.iter().copied()));
        check_args(&mut invocation, &keepalive.check);
        let answer: Vec<String> = self.0.link.ask(CALL, Question::Script(&invocation)).await?;
        if answer == ["ok"] {
            // The node is eligible by the order that the agent knows, and nothing else is to be said.
            return Ok(Orders { generation: keepalive.generation, ..Orders::default() });
        }
        self.orders(CALL, &answer)
    }

    /// The answer to a report or a keepalive.
    pub(super) fn orders(&self, call: &'static str, answer: &[String]) -> Result<Orders, RegistryError> {
        let number = |text: &str| -> Result<u64, RegistryError> {
            text.parse().map_err(|_| unexpected(call, format!("number {text:?}")))
        };
        let spawn_ids = |ids: &[&str]| -> Result<Vec<SpawnId>, RegistryError> {
            ids.iter()
                .map(|id| id.parse().map_err(|e| unexpected(call, format!("spawn {id:?} {e}"))))
                .collect()
        };
        let words: Vec<&str> = answer.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["superseded"] => Ok(Orders { superseded: true, ..Orders::default() }),
            ["taken", advertise] => Ok(Orders { taken: Some((*advertise).to_owned()), ..Orders::default() }),
            ["unknown"] => Ok(Orders { unknown: true, ..Orders::default() }),
            ["behind", serial] => Ok(Orders { behind: Some(number(serial)?), ..Orders::default() }),
            ["differs", what] => {
                let difference = Difference::named(what);
                let difference =
                    difference.ok_or_else(|| unexpected(call, format!("difference {what:?}")))?;
                Ok(Orders { differs: Some(difference), ..Orders::default() })
            }
            ["ok", eligibility, drain, now, generation, pings, failing, abandoned, ids @ ..] => {
                let drain: Option<Drain> = match *drain {
                    "" => None,
                    text => {
                        let drain = serde_json::from_str(text);
                        let drain = drain.map_err(|e| unexpected(call, format!("drain {text:?}: {e}")));
                        self.0.damaged.readable("drain", drain)
                    }
                };
                let now = Timestamp::from_millis(number(now)?);
                let abandoned = usize::try_from(number(abandoned)?).unwrap_or(usize::MAX);
                let (abandoned, expired) = ids.split_at(abandoned.min(ids.len()));
                Ok(Orders {
                    generation: number(generation)?,
                    eligibility: eligibility
                        .parse()
                        .map_err(|e| unexpected(call, format!("eligibility {e}")))?,
                    drain: drain.map(|drain| {
                        let left = drain.deadline.since(now);
                        (drain, left)
                    }),
                    pings: *pings == "1",
                    failing: [RendererType::Csr, RendererType::Ssr]
                        .into_iter()
                        .filter(|renderer| failing.split(' ').any(|word| word == renderer.as_str()))
                        .collect(),
                    abandoned: spawn_ids(abandoned)?,
                    expired: spawn_ids(expired)?,
                    ..Orders::default()
                })
            }
            other => Err(unexpected(call, format!("{other:?}"))),
        }
    }
}

fn with_ages(spawns: impl Iterator<Item = (SpawnId, std::time::Duration)>) -> String {
    spawns.map(|(spawn, age)| format!("{spawn} {}", ms(age))).collect::<Vec<_>>().join(" ")
}

/// What the script looks at, as a sum of what it must find.
fn check_args(args: &mut ScriptInvocation<'_>, check: &Check) {
    match check {
        Check::Counts => {}
        Check::Node { description: node, identity } => {
            let instance =
                if identity.instance.is_nil() { String::new() } else { identity.instance.to_string() };
            let found = [
                node.kind.to_string(),
                json(&node.kind),
                json(&**node),
                node.slots.to_string(),
                node.gpu_total().map_or(-1, i64::from).to_string(),
                flag(node.csr).to_owned(),
                flag(node.ssr).to_owned(),
                node.advertise.clone(),
                instance,
                identity.life.to_string(),
            ];
            args.arg(sum(&found));
        }
        Check::Spawn(spawn) => {
            let mut found = vec![
                spawn.state.as_str().to_owned(),
                spawn.renderer.as_str().to_owned(),
                spawn.endpoint.clone(),
                spawn.gpu.map(|gpu| gpu.to_string()).unwrap_or_default(),
                json(&spawn.labels),
            ];
            if !spawn.tags.is_empty() {
                found.push(json(&spawn.tags));
            }
            args.arg(spawn.id.to_string()).arg(sum(&found));
            args.arg(spawn.owner.as_ref().map_or("", Owner::as_str)).arg(knows(spawn)).arg(ms(spawn.started));
        }
    }
}

/// What the agent knows of it that the record may have from an earlier agent. The record has times of its own.
fn knows(spawn: &SpawnReport) -> String {
    [
        (!spawn.tags.is_empty(), 't'),
        (!spawn.origin.is_empty(), 'o'),
        (spawn.connected.is_some(), 'c'),
        (spawn.disconnected.is_some(), 'd'),
        (spawn.life_left.is_some(), 'l'),
        (spawn.server.is_some(), 's'),
    ]
    .into_iter()
    .filter_map(|(known, letter)| known.then_some(letter))
    .collect()
}

/// SHA-1, because Redis' scripts have no other sum; it finds damage and keeps no secret.
fn sum(parts: &[String]) -> String {
    sha1_smol::Sha1::from(parts.join("\n")).digest().to_string()
}
