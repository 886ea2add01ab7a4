//! The calls that change something. Each runs one script; the script's first lines list its arguments and its answer.

use std::time::Duration;

use model::{Drain, Eligibility, NodeId, Owner, RendererType, SpawnId, Supply, TicketId};
use redis::{FromRedisValue, Script, ScriptInvocation};
use uuid::Uuid;

use super::link::Question;
use super::{Redis, unexpected};
use crate::agreement::{Digest, HeardReport};
use crate::ask::{Claim, Forgotten, IdempotencyKey, Outcome, Outcomes, Restored, operator_data};
use crate::error::RegistryError;
use crate::permits::Permit;
use crate::report::{AgentReport, Change, DesiredStateReport, Heartbeat, Orders, SpawnReport, event_data};

pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A random identity for a new registry. Nothing secret depends on it.
fn random() -> Uuid {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid()
}

pub(super) fn flag(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

impl Redis {
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        call: &'static str,
        script: &Script,
        args: impl FnOnce(&mut ScriptInvocation<'_>),
    ) -> Result<T, RegistryError> {
        let timing = self.timing();
        let mut invocation = script.key(&self.0.prefix);
        for time in [timing.stale, timing.down, timing.reservation, timing.place, timing.history] {
            invocation.arg(ms(time));
        }
        invocation
            .arg(timing.history_count)
            .arg(timing.history_bytes)
            .arg(timing.events_count)
            .arg(ms(timing.forget));
        // A registry without an identity, because it is new or was wiped, takes this one.
        invocation.arg(random().to_string());
        args(&mut invocation);
        self.0.link.ask(call, Question::Script(&invocation)).await
    }

    pub(crate) async fn release(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        self.run("release", &self.0.scripts.release, |args| {
            args.arg(node.as_str()).arg(spawn.to_string());
        })
        .await
    }

    pub(crate) async fn release_by_id(&self, spawn: SpawnId) -> Result<(), RegistryError> {
        self.run("release_by_id", &self.0.scripts.release_by_id, |args| {
            args.arg(spawn.to_string());
        })
        .await
    }

    pub(crate) async fn abandon(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        self.run("abandon", &self.0.scripts.abandon, |args| {
            args.arg(node.as_str()).arg(spawn.to_string());
        })
        .await
    }

    pub(crate) async fn keep_places(&self, tickets: &[TicketId]) -> Result<(), RegistryError> {
        self.tickets("keep_places", &self.0.scripts.keep_places, tickets).await
    }

    pub(crate) async fn leave_line(&self, tickets: &[TicketId]) -> Result<(), RegistryError> {
        self.tickets("leave_line", &self.0.scripts.leave_line, tickets).await
    }

    async fn tickets(
        &self,
        call: &'static str,
        script: &Script,
        tickets: &[TicketId],
    ) -> Result<(), RegistryError> {
        if tickets.is_empty() {
            return Ok(());
        }
        self.run(call, script, |args| {
            for ticket in tickets {
                args.arg(ticket.to_string());
            }
        })
        .await
    }

    pub(crate) async fn sweep(&self) -> Result<bool, RegistryError> {
        self.run("sweep", &self.0.scripts.sweep, |_| {}).await
    }

    pub(crate) async fn set_eligibility(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        by: Option<&str>,
    ) -> Result<Option<u64>, RegistryError> {
        let drain = drain.filter(|_| eligibility == Eligibility::Draining);
        let generation: u64 = self
            .run("set_eligibility", &self.0.scripts.set_eligibility, |args| {
                args.arg(node.as_str())
                    .arg(eligibility.as_str())
                    .arg(drain.map(json).unwrap_or_default())
                    .arg(json(&operator_data(drain, by)));
            })
            .await?;
        Ok((generation > 0).then_some(generation))
    }

    pub(crate) async fn forget(&self, node: &NodeId, by: Option<&str>) -> Result<Forgotten, RegistryError> {
        const CALL: &str = "forget";
        let data = serde_json::Value::Object(operator_data(None, by)).to_string();
        let answer: i64 = self
            .run(CALL, &self.0.scripts.forget, |args| {
                args.arg(node.as_str()).arg(data);
            })
            .await?;
        match u32::try_from(answer) {
            Ok(ended) => Ok(Forgotten::Gone { ended }),
            Err(_) if answer == -1 => Ok(Forgotten::Up),
            Err(_) if answer == -2 => Ok(Forgotten::Unknown),
            Err(_) => Err(unexpected(CALL, format!("{answer}"))),
        }
    }

    pub(crate) async fn restore_order(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
        generation: u64,
    ) -> Result<Restored, RegistryError> {
        let drain = drain.filter(|_| eligibility == Eligibility::Draining);
        let answer: i64 = self
            .run("restore_order", &self.0.scripts.restore_order, |args| {
                args.arg(node.as_str())
                    .arg(eligibility.as_str())
                    .arg(drain.map(json).unwrap_or_default())
                    .arg(generation)
                    .arg(json(&operator_data(drain, None)));
            })
            .await?;
        Ok(match answer {
            1 => Restored::Taken,
            -1 => Restored::Forgotten,
            _ => Restored::NotNeeded,
        })
    }

    pub(crate) async fn check(&self) -> Result<(), RegistryError> {
        self.run("check", &self.0.scripts.check, |_| {}).await
    }

    pub(crate) async fn incarnation(&self) -> Result<Uuid, RegistryError> {
        let identity: String = self.run("incarnation", &self.0.scripts.incarnation, |_| {}).await?;
        identity.parse().map_err(|e| unexpected("incarnation", format!("{identity:?}: {e}")))
    }

    /// Gives the registry a new identity, unless it has another one than this.
    pub(super) async fn renew(&self, known: Uuid) -> Result<Uuid, RegistryError> {
        let identity: String = self
            .run("renew", &self.0.scripts.renew, |args| {
                args.arg(known.to_string());
            })
            .await?;
        identity.parse().map_err(|e| unexpected("renew", format!("{identity:?}: {e}")))
    }

    pub(crate) async fn learn(&self, outcomes: &Outcomes) -> Result<(), RegistryError> {
        let same = outcomes.same_everywhere.as_ref();
        self.run("learn", &self.0.scripts.learn, |args| {
            args.arg(outcomes.renderer.as_str())
                .arg(flag(same.is_some()))
                .arg(same.map(|same| same.reason.as_str()).unwrap_or_default())
                .arg(same.map(|same| json(&same.demand)).unwrap_or_default())
                .arg(outcomes.starts.len());
            for (node, outcome) in &outcomes.starts {
                args.arg(node.as_str());
                match outcome {
                    Outcome::Failed(failure) => args
                        .arg("failed")
                        .arg(&failure.reason)
                        .arg(flag(failure.conclusive))
                        .arg(flag(failure.whole_node)),
                    Outcome::Ready => args.arg("ready").arg("").arg("").arg(""),
                    Outcome::Nothing => args.arg("nothing").arg("").arg("").arg(""),
                };
                args.arg(fastrand::f64());
            }
        })
        .await
    }

    pub(crate) async fn claim(
        &self,
        key: &IdempotencyKey,
        fingerprint: Uuid,
        claimant: Uuid,
    ) -> Result<Claim, RegistryError> {
        let timing = self.timing();
        let answer: Vec<String> = self
            .run("claim", &self.0.scripts.claim, |args| {
                args.arg(key.as_str())
                    .arg(fingerprint.to_string())
                    .arg(claimant.to_string())
                    .arg(ms(timing.claim))
                    .arg(ms(timing.idempotency));
            })
            .await?;
        let words: Vec<&str> = answer.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["mine"] => Ok(Claim::Mine),
            ["running"] => Ok(Claim::Running),
            ["conflict"] => Ok(Claim::Conflict),
            ["settled", answer] => Ok(Claim::Settled((*answer).to_owned())),
            other => Err(unexpected("claim", format!("{other:?}"))),
        }
    }

    pub(crate) async fn settle(
        &self,
        key: &IdempotencyKey,
        claimant: Uuid,
        answer: Option<(&str, Duration)>,
    ) -> Result<bool, RegistryError> {
        self.run("settle", &self.0.scripts.settle, |args| {
            args.arg(key.as_str()).arg(claimant.to_string());
            match answer {
                Some((answer, keep)) => args.arg(ms(keep)).arg(answer),
                None => args.arg("").arg(""),
            };
        })
        .await
    }

    pub(crate) async fn permit(&self, owner: &Owner, per_minute: u32) -> Result<Permit, RegistryError> {
        let wait: u64 = self
            .run("permit", &self.0.scripts.permit, |args| {
                args.arg(owner.as_str()).arg(per_minute);
            })
            .await?;
        Ok(Permit::after(Duration::from_micros(wait)))
    }

    pub(crate) async fn report(&self, report: &AgentReport) -> Result<Orders, RegistryError> {
        const CALL: &str = "report";
        let digests =
            [report.agreement.and_then(|a| a.before), report.agreement.map(|a| a.after)].map(digest);
        // Most reports are a change or two, for which a shorter script is enough. It does nothing where it is not.
        if report.heartbeat.is_none() && !report.takeover {
            let answer: Vec<String> = self
                .run(CALL, &self.0.scripts.changes, |args| {
                    args.arg(report.node.as_str())
                        .arg(report.epoch.to_string())
                        .arg(report.accepted)
                        .arg(&digests);
                    changes_args(args, &report.changes);
                })
                .await?;
            if answer != ["report"] {
                return self.orders(CALL, &answer);
            }
        }
        let answer: Vec<String> = self
            .run(CALL, &self.0.scripts.report, |args| {
                args.arg(report.node.as_str())
                    .arg(report.epoch.to_string())
                    .arg(flag(report.takeover))
                    .arg(
                        Some(report.identity.instance)
                            .filter(|i| !i.is_nil())
                            .map_or_else(String::new, |i| i.to_string()),
                    )
                    .arg(report.identity.life)
                    .arg(report.accepted)
                    .arg(flag(report.heartbeat.is_some()))
                    .arg(&digests);
                if let Some(heartbeat) = &report.heartbeat {
                    heartbeat_args(args, heartbeat);
                }
                changes_args(args, &report.changes);
            })
            .await?;
        self.orders(CALL, &answer)
    }
}

fn changes_args(args: &mut ScriptInvocation<'_>, changes: &[Change]) {
    args.arg(changes.len());
    for change in changes {
        args.arg(change.serial).arg(ms(change.age));
        spawn_args(args, &change.spawn);
    }
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    // Plain data with string keys always has a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

fn heartbeat_args(args: &mut ScriptInvocation<'_>, heartbeat: &Heartbeat) {
    let node = &heartbeat.description;
    args.arg(json(node))
        .arg(node.kind.to_string())
        .arg(json(&node.kind))
        .arg(node.slots)
        .arg(node.gpu_total().map_or(-1, i64::from))
        .arg(flag(node.csr))
        .arg(flag(node.ssr))
        .arg(&node.advertise)
        .arg(json(&heartbeat.load))
        .arg(supply_text(&heartbeat.supply))
        .arg(json(&heartbeat.gpus))
        .arg(heard(&heartbeat.heard));
    desired_args(args, &heartbeat.desired);
    args.arg(heartbeat.forgotten.len());
    for spawn in &heartbeat.forgotten {
        args.arg(spawn.to_string());
    }
    args.arg(heartbeat.spawns.len());
    for spawn in &heartbeat.spawns {
        spawn_args(args, spawn);
    }
}

/// What the index needs of it, in front of all of it: the handicap of each renderer. `redis/lua/handicap.lua` reads it.
pub(super) fn supply_text(supply: &Supply) -> String {
    let [csr, ssr] = [RendererType::Csr, RendererType::Ssr].map(|renderer| supply.handicap(renderer));
    format!("{csr} {ssr} {}", json(supply))
}

fn desired_args(args: &mut ScriptInvocation<'_>, desired: &DesiredStateReport) {
    let drain = desired.drain.as_ref().filter(|_| desired.eligibility == Eligibility::Draining);
    args.arg(desired.generation).arg(desired.eligibility.as_str());
    match drain {
        Some(drain) => {
            args.arg(ms(drain.left)).arg(ms(drain.age)).arg(json(&drain.reason)).arg(json(&drain.by))
        }
        None => args.arg("").arg("").arg("").arg(""),
    };
}

fn spawn_args(args: &mut ScriptInvocation<'_>, spawn: &SpawnReport) {
    let age = |age: Option<Duration>| age.map(|age| ms(age).to_string()).unwrap_or_default();
    args.arg(spawn.id.to_string())
        .arg(spawn.state.as_str())
        .arg(spawn.renderer.as_str())
        .arg(&spawn.endpoint)
        .arg(spawn.gpu.map(|gpu| gpu.to_string()).unwrap_or_default())
        .arg(json(&spawn.labels))
        .arg(json(&spawn.tags))
        .arg(if spawn.origin.is_empty() { String::new() } else { json(&spawn.origin) })
        .arg(spawn.owner.as_ref().map_or("", Owner::as_str))
        .arg(ms(spawn.started))
        .arg(age(spawn.ready))
        .arg(age(spawn.last_ping))
        .arg(age(spawn.ended))
        .arg(age(spawn.connected))
        .arg(age(spawn.disconnected))
        .arg(age(spawn.life_left))
        .arg(spawn.exit.as_ref().map(json).unwrap_or_default())
        .arg(spawn.server.map(|server| server.to_string()).unwrap_or_default())
        .arg(json(&event_data(spawn)));
}

/// As scripts compare it; nothing for none.
pub(super) fn digest(digest: Option<Digest>) -> String {
    digest.map(|digest| digest.to_string()).unwrap_or_default()
}

/// The age of the oldest last ping, and the spawns that it does not speak of.
pub(super) fn heard(heard: &HeardReport) -> String {
    let mut text = heard.since.map(|age| ms(age).to_string()).unwrap_or_default();
    for (spawn, _) in &heard.late {
        text.push(' ');
        text.push_str(&spawn.to_string());
    }
    text
}
