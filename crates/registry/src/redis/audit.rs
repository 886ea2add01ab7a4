//! Operators' orders, as entries of a stream that is bounded in number and age.

use std::time::Duration;

use model::{Audit, Timestamp};
use redis::{Value, pipe};
use uuid::Uuid;

use super::read::{Fields, parsed, text, value};
use super::write::{json, ms};
use super::{Redis, unexpected};
use crate::ask::{AuditCursor, AuditFilter, AuditPage, MAX_LOOKED_AT};
use crate::error::RegistryError;

/// Entries read at once.
const CHUNK: usize = 500;

impl Redis {
    pub(crate) async fn audit(&self, id: Uuid, age: Duration, audit: &Audit) -> Result<(), RegistryError> {
        let most = self.timing().audit_count;
        let _: Value = self
            .run("audit", &self.0.scripts.audit, |args| {
                args.arg(id.to_string()).arg(ms(age)).arg(json(audit)).arg(most);
            })
            .await?;
        Ok(())
    }

    pub(crate) async fn audits(&self, filter: &AuditFilter) -> Result<AuditPage, RegistryError> {
        const CALL: &str = "audits";
        let mut page = AuditPage::default();
        let (mut cursor, mut last, mut looked_at) = (filter.cursor, filter.cursor, 0);
        loop {
            let below = cursor.map_or_else(|| "+".to_owned(), |cursor| format!("({cursor}"));
            let mut read = pipe();
            read.cmd("XREVRANGE").arg(self.key("audit")).arg(below).arg("-").arg("COUNT").arg(CHUNK);
            let Some(Some(entries)) = self.ask_each(CALL, &read).await?.pop() else { return Ok(page) };
            let entries: Vec<(String, Fields)> = value(Some(entries), CALL)?;
            let count = entries.len();
            for (id, fields) in entries {
                let place: AuditCursor = id.parse().map_err(|_| unexpected(CALL, format!("entry {id:?}")))?;
                if looked_at == MAX_LOOKED_AT {
                    page.next = cursor;
                    return Ok(page);
                }
                looked_at += 1;
                cursor = Some(place);
                let Some((at, audit)) = self.0.damaged.readable(&id, order(&fields)) else { continue };
                if !filter.wants(&audit) {
                    continue;
                }
                if page.orders.len() == filter.limit.max(1) {
                    page.next = last;
                    return Ok(page);
                }
                page.orders.push((at, audit));
                last = Some(place);
            }
            if count < CHUNK {
                return Ok(page);
            }
        }
    }
}

fn order(fields: &Fields) -> Result<(Timestamp, Audit), RegistryError> {
    const CALL: &str = "audits";
    let audit =
        serde_json::from_str(text(fields, "d")).map_err(|e| unexpected(CALL, format!("order: {e}")))?;
    Ok((Timestamp::from_millis(parsed(fields, "t", CALL)?), audit))
}
