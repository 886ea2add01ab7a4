//! The call about the delivery of events to webhooks: one holder at a time, by a lease, with a cursor that only its holder moves.

use std::time::Duration;

use uuid::Uuid;

use super::{Backend, Registry};
use crate::delivery::{Cursor, Delivery};
use crate::error::RegistryError;

impl Registry {
    /// Takes or keeps the delivery to a webhook for `lease`, and moves its cursor, in one step. It belongs to one holder at a time, until
    /// its lease is over or it is given back, with `None` for the lease. Nothing changes when it is another holder's. A cursor that is
    /// not moved for a month is forgotten.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn delivery(
        &self,
        webhook: Uuid,
        holder: Uuid,
        lease: Option<Duration>,
        cursor: Option<Cursor>,
    ) -> Result<Delivery, RegistryError> {
        both!(self, b => b.delivery(webhook, holder, lease, cursor))
    }
}
