//! Node health: what outcomes of starts and early ends do to a node. The state machine is [`model::health::Health`], one
//! for each renderer of a node. `redis/lua/outcomes.lua`, `tally_end.lua` and `learn.lua` do the same.

use std::time::Duration;

use model::health::{EARLY_END, node_health};
use model::{EventKind, Exit, FarmCause, Health, NodeId, RendererType, SpawnState, StartFailure, Timestamp};
use serde_json::Map;

use super::farm::Farm;
use super::renderers::Renderers;
use crate::ask::{Outcome, Outcomes};
use crate::cause::Cause;
use crate::report::SpawnReport;

const BOTH: [RendererType; 2] = [RendererType::Csr, RendererType::Ssr];

impl Farm {
    pub(super) fn learn(&mut self, outcomes: &Outcomes) {
        let (now, renderer) = (self.now.millis(), outcomes.renderer);
        for (node, outcome) in &outcomes.starts {
            match outcome {
                Outcome::Ready => self.change_health(node, |health, _| health.succeed(renderer, now)),
                Outcome::Failed(failure) => self.fail(node, renderer, failure, None),
                Outcome::Nothing => {
                    self.change_health(node, |health, _| health.get_mut(renderer).release(now));
                }
            }
        }
        if outcomes.same_everywhere.is_some() {
            self.alike_until = self.after(crate::cause::WITHIN);
        }
        for (node, _) in outcomes.starts.iter().filter(|(_, outcome)| *outcome == Outcome::Ready) {
            let Some(state) = self.nodes.get(node) else { continue };
            let cause = self.cause.take();
            self.cause = cause.and_then(|cause| cause.after_success(&state.description.kind, renderer));
        }
        if let Some(same) = &outcomes.same_everywhere {
            self.cause = Some(Cause::add(self.cause.take(), same, self.now));
        }
    }

    fn fail(
        &mut self,
        node: &NodeId,
        renderer: RendererType,
        failure: &StartFailure,
        lived: Option<Duration>,
    ) {
        let (now, random) = (self.now.millis(), fastrand::f64());
        self.change_health(node, |health, offers| {
            let concerns = |of: RendererType| of == renderer || failure.whole_node && *offers.get(of);
            for of in BOTH.into_iter().filter(|of| concerns(*of)) {
                health.get_mut(of).fail(now, failure, lived, random);
            }
        });
    }

    pub(super) fn farm_cause(&self) -> Option<FarmCause> {
        self.cause.clone()?.established(self.now)
    }

    /// Whether there is a cause of the whole farm, or the suspicion of one.
    pub(super) fn is_suspicious(&self) -> bool {
        self.cause.as_ref().is_some_and(|cause| cause.is_current(self.now))
    }

    /// The node's agent was restarted. Failures of a renderer that it does not offer any more are dropped.
    pub(super) fn renew_health(&mut self, node: &NodeId) {
        let now = self.now.millis();
        self.change_health(node, |health, offers| {
            for of in BOTH {
                match offers.get(of) {
                    true => health.get_mut(of).renew(now),
                    false => *health.get_mut(of) = Health::default(),
                }
            }
        });
    }

    /// A spawn has ended. One that failed soon after it was ready counts against its node.
    pub(super) fn note_end(&mut self, node: &NodeId, spawn: &SpawnReport, ready_at: Option<Timestamp>) {
        let (Some(ready_at), Some(exit)) = (ready_at, &spawn.exit) else { return };
        if spawn.state != SpawnState::Exited || !exit.reason.is_failure() {
            return;
        }
        let lived = self.now.before(spawn.ended.unwrap_or_default()).since(ready_at);
        if lived >= EARLY_END {
            return;
        }
        let reason = format!("ended {:.1} s after it was ready: {}", lived.as_secs_f64(), explained(exit));
        let failure = StartFailure { reason, conclusive: false, whole_node: false };
        self.fail(node, spawn.renderer, &failure, Some(lived));
    }

    /// Changes a node's health; `change` also gets which renderers the node offers.
    fn change_health(
        &mut self,
        node: &NodeId,
        change: impl FnOnce(&mut Renderers<Health>, &Renderers<bool>),
    ) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        let offers = Renderers { csr: state.description.csr, ssr: state.description.ssr };
        let was = state.health.is_failing();
        change(&mut state.health, &offers);
        let is = state.health.is_failing();
        let health = node_health(&state.health.csr, &state.health.ssr);
        self.place(node);
        if was != is {
            let kind = if is { EventKind::NodeFailing } else { EventKind::NodeRecovered };
            let health = serde_json::to_value(health).unwrap_or_default();
            let data = Map::from_iter([("health".to_owned(), health)]);
            self.history.publish(self.now, self.now, kind, node, None, data);
        }
    }
}

/// Why a spawn ended, in the vendor's words where there are any.
fn explained(exit: &Exit) -> String {
    let words = exit.text.clone().or_else(|| exit.signal.clone());
    words
        .or_else(|| exit.code.map(|code| format!("exit code {code}")))
        .unwrap_or_else(|| exit.reason.to_string())
}
