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
pub(crate) struct Redis;
impl Redis {
    pub(crate) fn open(url: &str, farm: &str, timing: Timing) -> Result<Self, OpenError> {
        unimplemented!()
    }
    pub(crate) fn timing(&self) -> &Timing {
        &Timing::FARM
    }
    pub(crate) async fn ping(&self) -> Result<(), RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn reserve(&self, ask: &Reserve) -> Result<Reserved, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn release(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn abandon(&self, node: &NodeId, spawn: SpawnId) -> Result<(), RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn keep_places(&self, tickets: &[TicketId]) -> Result<(), RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn leave_line(&self, tickets: &[TicketId]) -> Result<(), RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn report(&self, report: &AgentReport) -> Result<Orders, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn sweep(&self) -> Result<(), RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn nodes(&self) -> Result<Vec<NodeRecord>, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn set_eligibility(
        &self,
        node: &NodeId,
        eligibility: Eligibility,
        drain: Option<&Drain>,
    ) -> Result<bool, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn spawns(&self, filter: &SpawnFilter) -> Result<SpawnPage, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn spawn(&self, spawn: SpawnId) -> Result<Option<SpawnRecord>, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn claim(
        &self,
        key: &IdempotencyKey,
        fingerprint: Uuid,
        claimant: Uuid,
    ) -> Result<Claim, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn settle(
        &self,
        key: &IdempotencyKey,
        claimant: Uuid,
        answer: Option<(&str, Duration)>,
    ) -> Result<bool, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn position(&self) -> Result<Position, RegistryError> {
        unimplemented!()
    }
    pub(crate) async fn follow(&self, after: Position, wait: Duration) -> Result<Follow, RegistryError> {
        unimplemented!()
    }
}
