//! The calls about what was: operators' orders, and counts of each minute. They change nothing else.

use std::time::Duration;

use model::{Audit, Minute};
use uuid::Uuid;

use super::{Backend, Registry};
use crate::ask::{AuditFilter, AuditPage, Counts};
use crate::error::RegistryError;

impl Registry {
    /// Keeps an operator's order that was given this long ago, and what came of it, for [`model::Timing::history`]. `id` is that of the
    /// call: repeated within the next sixty orders, it changes nothing.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn audit(&self, id: Uuid, age: Duration, audit: &Audit) -> Result<(), RegistryError> {
        both!(self, b => b.audit(id, age, audit))
    }

    /// A page of operators' orders, newest first.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn audits(&self, filter: &AuditFilter) -> Result<AuditPage, RegistryError> {
        both!(self, b => b.audits(filter))
    }

    /// Adds to the counts of this minute. Repeating a call counts twice.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn add_counts(&self, counts: &Counts) -> Result<(), RegistryError> {
        both!(self, b => b.add_counts(counts))
    }

    /// The counts of the last minutes, this one included, oldest first, [`model::minute::MINUTES_KEPT`] at the most. Minutes in which
    /// nothing was counted are left out.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn minutes(&self, minutes: u32) -> Result<Vec<Minute>, RegistryError> {
        both!(self, b => b.minutes(minutes))
    }
}
