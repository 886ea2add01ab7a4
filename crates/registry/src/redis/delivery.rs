//! Deliveries to webhooks, by `lua/delivery.lua`. A cursor that is damaged counts as none: the delivery begins with what happens
//! next.

use std::time::Duration;

use model::Timestamp;
use uuid::Uuid;

use super::Redis;
use super::write::ms;
use crate::delivery::{Cursor, Delivery};
use crate::error::RegistryError;

impl Redis {
    pub(crate) async fn delivery(
        &self,
        webhook: Uuid,
        holder: Uuid,
        lease: Option<Duration>,
        cursor: Option<Cursor>,
    ) -> Result<Delivery, RegistryError> {
        let (mine, cursor, now): (u8, String, u64) = self
            .run("delivery", &self.0.scripts.delivery, |args| {
                args.arg(webhook.to_string()).arg(holder.to_string());
                args.arg(lease.map(|lease| ms(lease).to_string()).unwrap_or_default());
                args.arg(cursor.map(written).unwrap_or_default());
            })
            .await?;
        Ok(Delivery { mine: mine == 1, cursor: read(&cursor), now: Timestamp::from_millis(now) })
    }
}

fn written(cursor: Cursor) -> String {
    let incarnation = cursor.incarnation.map(|incarnation| incarnation.to_string()).unwrap_or_default();
    format!("{} {incarnation}", cursor.seq)
}

/// A cursor that is damaged counts as none: the delivery begins with what happens next.
fn read(text: &str) -> Option<Cursor> {
    let (seq, incarnation) = text.split_once(' ')?;
    Some(Cursor { seq: seq.parse().ok()?, incarnation: incarnation.parse().ok() })
}
