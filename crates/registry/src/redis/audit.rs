//! Operators' orders, as entries of two streams that are bounded in number and age: those to nodes, and those to spawns. They are numbered together,
//! and listed as one.

use std::cmp::Reverse;
use std::time::Duration;

use model::{Audit, Timestamp};
use redis::{Value, pipe};
use uuid::Uuid;

use super::read::{Fields, parsed, text, value};
use super::write::{json, ms};
use super::{Redis, unexpected};
use crate::ask::{AuditCursor, AuditFilter, AuditPage, MAX_LOOKED_AT};
use crate::error::RegistryError;

const CALL: &str = "audits";
/// Entries of a stream that are read at once.
const CHUNK: usize = 500;

impl Redis {
    pub(crate) async fn audit(&self, id: Uuid, age: Duration, audit: &Audit) -> Result<(), RegistryError> {
        let most = self.timing().audit_count;
        let _: Value = self
            .run("audit", &self.0.scripts.audit, |args| {
                let shelf = if audit.order.concerns_spawn() { "spawn" } else { "node" };
                args.arg(id.to_string()).arg(ms(age)).arg(json(audit)).arg(most).arg(shelf);
            })
            .await?;
        Ok(())
    }

    pub(crate) async fn audits(&self, filter: &AuditFilter) -> Result<AuditPage, RegistryError> {
        let mut page = AuditPage::default();
        let (mut cursor, mut last, mut looked_at) = (filter.cursor, filter.cursor, 0);
        loop {
            let below = cursor.map_or_else(|| "+".to_owned(), |cursor| format!("({cursor}"));
            let (entries, is_all) = self.orders_below(&below).await?;
            for (place, fields) in entries {
                if looked_at == MAX_LOOKED_AT {
                    page.next = cursor;
                    return Ok(page);
                }
                looked_at += 1;
                cursor = Some(place);
                let Some((at, audit)) = self.0.damaged.readable(&place.to_string(), order(&fields)) else {
                    continue;
                };
                if !filter.wants(at, &audit) {
                    continue;
                }
                if page.orders.len() == filter.limit.max(1) {
                    page.next = last;
                    return Ok(page);
                }
                page.orders.push((at, audit));
                last = Some(place);
            }
            if is_all {
                return Ok(page);
            }
        }
    }

    /// The newest entries below a place, newest first, and whether there are no others.
    async fn orders_below(&self, below: &str) -> Result<(Vec<(AuditCursor, Fields)>, bool), RegistryError> {
        let mut read = pipe();
        for key in ["audit", "audit:spawns"] {
            read.cmd("XREVRANGE").arg(self.key(key)).arg(below).arg("-").arg("COUNT").arg(CHUNK);
        }
        let mut entries: Vec<(AuditCursor, Fields)> = Vec::new();
        // Below the last one of a stream that has more, that stream may have newer ones than the other.
        let mut known_to = None;
        for stream in self.ask_each(CALL, &read).await? {
            let Some(stream) = stream else { continue };
            let stream: Vec<(String, Fields)> = value(Some(stream), CALL)?;
            let is_part = stream.len() == CHUNK;
            for (id, fields) in stream {
                let place = id.parse().map_err(|_| unexpected(CALL, format!("entry {id:?}")))?;
                entries.push((place, fields));
            }
            if is_part {
                known_to = known_to.max(entries.last().map(|(place, _)| *place));
            }
        }
        entries.retain(|(place, _)| known_to.is_none_or(|known_to| *place >= known_to));
        entries.sort_by_key(|(place, _)| Reverse(*place));
        Ok((entries, known_to.is_none()))
    }
}

fn order(fields: &Fields) -> Result<(Timestamp, Audit), RegistryError> {
    let audit =
        serde_json::from_str(text(fields, "d")).map_err(|e| unexpected(CALL, format!("order: {e}")))?;
    Ok((Timestamp::from_millis(parsed(fields, "t", CALL)?), audit))
}
