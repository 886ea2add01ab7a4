//! Which of several agents speaks for a node.
//!
//! | the agents | accepted |
//! | --- | --- |
//! | same epoch | yes |
//! | one of them has no identity (older release) | the one that asks to take over |
//! | same state directory | the later life; an earlier one that asks to take over, once the known one is silent for `down` |
//! | different directories, the known one silent for `down` | the new one |
//! | different directories, same address | the one that asks to take over, or the later start: an address has one agent |
//! | different directories and addresses, the known one alive | the known one; the new one gets its address (`taken`) |

use super::farm::Farm;
use crate::report::AgentReport;

/// Whether a report is accepted.
#[derive(Debug)]
pub(super) enum Verdict {
    Accepted,
    /// Another agent has the node.
    Superseded,
    /// A living agent at this address has the node.
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
            // The registry may have been set back to before it accepted this agent. Within `down` the other one's silence
            // shows that.
            Verdict::Taken(state.description.advertise.clone())
        }
    }
}
