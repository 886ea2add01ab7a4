//! The calls by which agents report, the only way anything about a node changes. Both are idempotent: one whose answer was lost is
//! sent again as it is.

use super::{Backend, Registry};
use crate::error::RegistryError;
use crate::keepalive::Keepalive;
use crate::report::{AgentReport, Orders};

impl Registry {
    /// Takes in an agent's report and returns the orders for that agent. Repeating a report changes nothing.
    ///
    /// # Errors
    /// The registry is away; repeat the report.
    pub async fn report(&self, report: &AgentReport) -> Result<Orders, RegistryError> {
        both!(self, b => b.report(report))
    }

    /// Takes in the heartbeat of a node on which nothing has changed, and returns the orders for its agent. Costs the same however many
    /// spawns there are. [`Orders::differs`] asks for a report with the whole list.
    ///
    /// # Errors
    /// The registry is away; the next one will do.
    pub async fn keepalive(&self, keepalive: &Keepalive) -> Result<Orders, RegistryError> {
        both!(self, b => b.keepalive(keepalive))
    }
}
