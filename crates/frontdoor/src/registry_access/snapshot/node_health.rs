//! Node health in the snapshot: where it starts from, and what an outcome changes.

use model::{Health, HealthState, NodeHealth, RendererType};
use registry::{Outcome, Outcomes, Standing};

/// Health of both renderers out of what the registry shows of a node. `present` is the registry's time, `clock` the
/// snapshot's.
pub(super) fn adopt(shown: &NodeHealth, present: u64, clock: u64) -> [Health; 2] {
    let mut both = [Health::default(), Health::default()];
    if shown.state == HealthState::Ok {
        return both;
    }
    let reason = shown.reason.as_deref().unwrap_or_default();
    // The reason begins with the renderer when only one of them fails, see `model::health::node_health`.
    let only = [("csr: ", RendererType::Csr), ("ssr: ", RendererType::Ssr)]
        .into_iter()
        .find_map(|(prefix, renderer)| reason.strip_prefix(prefix).map(|rest| (renderer, rest)));
    let pause = shown.next_probe_at.map_or(0, |at| at.millis().saturating_sub(present));
    let failing = Health {
        state: HealthState::Failing,
        failures: shown.failures.unwrap_or(1).max(1),
        reason: only.map_or(reason, |(_, rest)| rest).to_owned(),
        since: clock,
        last: clock,
        next_probe: clock.saturating_add(pause),
        ..Health::default()
    };
    match only {
        Some((renderer, _)) => both[renderer as usize] = failing,
        None => both = [failing.clone(), failing],
    }
    both
}

/// How a node stands that was chosen.
pub(super) fn stand(health: &Health, is_probe: bool) -> Standing {
    match health.is_avoided() {
        true if is_probe => Standing::Probe,
        true => Standing::LastChoice,
        false if health.is_watched() => Standing::Watched,
        false => Standing::Good,
    }
}

/// Takes in the outcome of one start on the node.
pub(super) fn learn(health: &mut [Health; 2], outcomes: &Outcomes, outcome: &Outcome, clock: u64) {
    let own = &mut health[outcomes.renderer as usize];
    match outcome {
        Outcome::Ready => drop(own.succeed(clock)),
        Outcome::Nothing => own.release(clock),
        Outcome::Failed(_) if outcomes.same_everywhere.is_some() => own.release(clock),
        Outcome::Failed(failure) => {
            let random = fastrand::f64();
            if failure.whole_node {
                for health in health {
                    health.fail(clock, failure, None, random);
                }
            } else {
                own.fail(clock, failure, None, random);
            }
        }
    }
}
