//! Deliveries to webhooks: who has each, until when, and where it stands. A lease that is over belongs to the next one that asks.
//! `redis/lua/delivery.lua` does the same.

use std::collections::HashMap;

use model::Timestamp;
use uuid::Uuid;

use crate::delivery::{Cursor, Delivery};

/// All deliveries. There is one for each webhook that the process was given.
#[derive(Debug, Clone, Default)]
pub(super) struct Deliveries(HashMap<Uuid, Lease>);

#[derive(Debug, Clone, Default)]
struct Lease {
    holder: Option<Uuid>,
    until: Timestamp,
    cursor: Option<Cursor>,
}

impl Deliveries {
    /// `until`: when the lease ends; `None` gives it back.
    pub(super) fn hold(
        &mut self,
        now: Timestamp,
        webhook: Uuid,
        holder: Uuid,
        until: Option<Timestamp>,
        cursor: Option<Cursor>,
    ) -> Delivery {
        let held = self.0.entry(webhook).or_default();
        let mine = held.holder.is_none_or(|other| other == holder || held.until <= now);
        if mine {
            held.holder = until.map(|_| holder);
            held.until = until.unwrap_or_default();
            held.cursor = cursor.or(held.cursor);
        }
        Delivery { mine, cursor: held.cursor, now }
    }
}
