//! Being written.
#![allow(unused, missing_docs)]
use crate::ask::{Claim, Follow, IdempotencyKey, Position, Reserve, Reserved, SpawnFilter, SpawnPage};
use crate::error::{OpenError, RegistryError};
use crate::report::{AgentReport, Orders};
use model::{Drain, Eligibility, NodeId, NodeRecord, SpawnId, SpawnRecord, TicketId, Timing};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
#[derive(Debug, Clone)]
pub(crate) struct Embedded;
impl Embedded {
    pub(crate) fn new(timing: Timing) -> Self {
        Self
    }
    pub(crate) fn timing(&self) -> &Timing {
        &Timing::FARM
    }
    pub(crate) fn ping(&self) -> () {
        unimplemented!()
    }
    pub(crate) fn reserve(&self, ask: &Reserve) -> Reserved {
        unimplemented!()
    }
    pub(crate) fn release(&self, node: &NodeId, spawn: SpawnId) -> () {
        unimplemented!()
    }
    pub(crate) fn abandon(&self, node: &NodeId, spawn: SpawnId) -> () {
        unimplemented!()
    }
    pub(crate) fn keep_places(&self, tickets: &[TicketId]) -> () {
        unimplemented!()
    }
    pub(crate) fn leave_line(&self, tickets: &[TicketId]) -> () {
        unimplemented!()
    }
    pub(crate) fn report(&self, report: &AgentReport) -> Orders {
        unimplemented!()
    }
    pub(crate) fn sweep(&self) -> () {
        unimplemented!()
    }
    pub(crate) fn nodes(&self) -> Vec<NodeRecord> {
        unimplemented!()
    }
    pub(crate) fn node(&self, node: &NodeId) -> Option<NodeRecord> {
        unimplemented!()
    }
    pub(crate) fn set_eligibility(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
    ) -> bool {
        unimplemented!()
    }
    pub(crate) fn spawns(&self, filter: &SpawnFilter) -> SpawnPage {
        unimplemented!()
    }
    pub(crate) fn spawn(&self, spawn: SpawnId) -> Option<SpawnRecord> {
        unimplemented!()
    }
    pub(crate) fn claim(&self, key: &IdempotencyKey, fingerprint: Uuid, claimant: Uuid) -> Claim {
        unimplemented!()
    }
    pub(crate) fn settle(
        &self,
        key: &IdempotencyKey,
        claimant: Uuid,
        answer: Option<(&str, Duration)>,
    ) -> bool {
        unimplemented!()
    }
    pub(crate) fn position(&self) -> Position {
        unimplemented!()
    }
    pub(crate) async fn follow(&self, after: Position, wait: Duration) -> Follow {
        unimplemented!()
    }
}
