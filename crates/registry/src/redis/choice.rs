//! Asking for a slot, and asking what a reserve would come to: `lua/choice.lua` with `reserve.lua` or `forecast.lua` after it.

use std::time::Duration;

use model::{NodeKind, Owner, Placement};
use redis::Script;

use super::write::{flag, json};
use super::{Redis, unexpected};
use crate::ask::{Reservation, Reserve, Reserved, Standing};
use crate::error::RegistryError;
use crate::verdict::{Forecast, Foreseen};
use crate::waiting::Waiter;

impl Redis {
    pub(crate) async fn reserve(&self, ask: &Reserve) -> Result<Reserved, RegistryError> {
        const CALL: &str = "reserve";
        let answer = self.choose(CALL, &self.0.scripts.reserve, ask).await?;
        let words: Vec<&str> = answer.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["slot", node, advertise, standing, number, proof] => Ok(Reserved::Slot(Reservation {
                spawn: ask.spawn,
                node: node.parse().map_err(|e| unexpected(CALL, format!("node {node:?} {e}")))?,
                advertise: (*advertise).to_owned(),
                standing: standing_of(standing, CALL)?,
                number: match *number {
                    "" => None,
                    text => Some(text.parse().map_err(|e| unexpected(CALL, format!("number {text:?} {e}")))?),
                },
                proof: Duration::from_millis(
                    proof.parse().map_err(|e| unexpected(CALL, format!("proof {proof:?} {e}")))?,
                ),
            })),
            ["full"] => Ok(Reserved::Full),
            ["none", known, fresh] => Ok(Reserved::NoMatch { known: *known == "1", fresh: *fresh == "1" }),
            ["over"] => Ok(Reserved::OverQuota),
            other => Err(unexpected(CALL, format!("{other:?}"))),
        }
    }

    pub(crate) async fn forecast(&self, ask: &Reserve) -> Result<Forecast, RegistryError> {
        const CALL: &str = "forecast";
        // A place in line is none of a forecast's business.
        let ask = Reserve { place: None, number: None, ..ask.clone() };
        let answer = self.choose(CALL, &self.0.scripts.forecast, &ask).await?;
        let words: Vec<&str> = answer.iter().map(String::as_str).collect();
        let mut parts = words.splitn(2, |word| word.is_empty());
        let outcome = match parts.next().unwrap_or_default() {
            ["slot", node, standing] => Foreseen::Slot {
                node: node.parse().map_err(|e| unexpected(CALL, format!("node {node:?} {e}")))?,
                standing: standing_of(standing, CALL)?,
            },
            ["full"] => Foreseen::Full,
            ["none", known, _] => Foreseen::NoMatch { known: *known == "1" },
            ["over"] => Foreseen::OverQuota,
            other => return Err(unexpected(CALL, format!("{other:?}"))),
        };
        let promised = self.kinds_named(parts.next().unwrap_or_default());
        Ok(Forecast { outcome, promised })
    }

    /// Runs a script that begins with a choice, with the kinds that suit the demand.
    async fn choose(
        &self,
        call: &'static str,
        script: &Script,
        ask: &Reserve,
    ) -> Result<Vec<String>, RegistryError> {
        let waits = |_| json(&Waiter { demand: ask.demand.clone(), owner: ask.owner.clone() });
        let waiter = ask.place.map(waits).unwrap_or_default();
        // The kinds may change between the answer that lists them and the next try. Once is rare, eight times is a defect.
        for _ in 0..8 {
            let (version, kinds) = self.suitable(&ask.demand);
            let answer: Vec<String> = self
                .run(call, script, |args| {
                    args.arg(ask.spawn.to_string())
                        .arg(ask.demand.renderer.as_str())
                        .arg(flag(ask.placement == Placement::Pack))
                        .arg(fastrand::f64())
                        .arg(version)
                        .arg(ask.place.map(|t| t.to_string()).unwrap_or_default())
                        .arg(ask.owner.as_ref().map_or("", Owner::as_str))
                        .arg(ask.most.map(|most| most.to_string()).unwrap_or_default())
                        .arg(ask.number.map(|number| number.to_string()).unwrap_or_default())
                        .arg(flag(ask.probed))
                        .arg(&waiter)
                        .arg(ask.avoid.len());
                    for node in &ask.avoid {
                        args.arg(node.as_str());
                    }
                    args.arg(kinds.len());
                    for kind in kinds.iter() {
                        args.arg(kind);
                    }
                })
                .await?;
            match answer.as_slice() {
                [word, version, fields @ ..] if word == "kinds" => self.learn_kinds(version.clone(), fields),
                _ => return Ok(answer),
            }
        }
        Err(unexpected(call, "the kinds of node change faster than they can be read"))
    }

    fn kinds_named(&self, texts: &[&str]) -> Vec<NodeKind> {
        let kinds = self.kinds();
        let named = |text: &&str| kinds.all.iter().find(|(known, _)| known == text);
        texts.iter().filter_map(named).map(|(_, kind)| kind.clone()).collect()
    }
}

fn standing_of(text: &str, call: &'static str) -> Result<Standing, RegistryError> {
    match text {
        "good" => Ok(Standing::Good),
        "watched" => Ok(Standing::Watched),
        "probe" => Ok(Standing::Probe),
        "last" => Ok(Standing::LastChoice),
        other => Err(unexpected(call, format!("standing {other:?}"))),
    }
}
