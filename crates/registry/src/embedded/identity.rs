//! Which of several agents speaks for a node.

use super::farm::Farm;
use crate::report::AgentReport;

/// What becomes of a report.
#[derive(Debug)]
pub(super) enum Verdict {
    Accepted,
    /// Another agent has the node.
    Superseded,
    /// An agent that lives at this address has the node.
    Taken(String),
}

impl Farm {
    /// Whether this agent may speak for its node.
    pub(super) fn verdict(&self, report: &AgentReport) -> Verdict {
        let Some(state) = self.nodes.get(&report.node).filter(|state| state.epoch != report.epoch) else {
            return Verdict::Accepted;
        };
        let accept = |accepted| if accepted { Verdict::Accepted } else { Verdict::Superseded };
        let (old, new) = (state.identity, report.identity);
        if old.instance.is_nil() || new.instance.is_nil() {
            return accept(report.takeover);
        }
        let lives = self.now.since(state.beat) < self.timing.down;
        if old.instance == new.instance {
            // One state directory is used by one agent at a time.
            return accept(new.life > old.life || report.takeover && (new.life == old.life || !lives));
        }
        if !lives {
            return Verdict::Accepted;
        }
        let address = report.heartbeat.as_ref().map(|heartbeat| &heartbeat.description.advertise);
        if address == Some(&state.description.advertise) {
            // Only one of two agents has an address. Epochs are in the order of their starts.
            accept(report.takeover || report.epoch > state.epoch)
        } else {
            // Of an agent that was accepted before, the registry may have lost that: within `down` it shows whether the
            // other one lives.
            Verdict::Taken(state.description.advertise.clone())
        }
    }
}
