//! Operators' orders, the newest of them, within the bounds of time and number that [`Timing`] gives. An order that is recorded twice
//! is there once. `redis/lua/audit.lua` does the same.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Audit, Timestamp, Timing};
use uuid::Uuid;

use crate::ask::{AuditCursor, AuditFilter, AuditPage, MAX_LOOKED_AT};

/// Calls that a repeated one is compared with.
const COMPARED: usize = 64;

#[derive(Debug)]
struct Entry {
    place: AuditCursor,
    id: Uuid,
    at: Timestamp,
    audit: Audit,
}

/// Operators' orders, the oldest first.
#[derive(Debug)]
pub(super) struct Audits {
    keep_for: Duration,
    max: usize,
    entries: VecDeque<Entry>,
}

impl Audits {
    pub(super) fn new(timing: &Timing) -> Self {
        Self { keep_for: timing.history, max: timing.audit_count as usize, entries: VecDeque::new() }
    }

    pub(super) fn add(&mut self, now: Timestamp, id: Uuid, age: Duration, audit: &Audit) {
        if self.entries.iter().rev().take(COMPARED).any(|entry| entry.id == id) {
            return;
        }
        let place = match self.entries.back() {
            Some(Entry { place: AuditCursor(ms, n), .. }) if *ms >= now.millis() => AuditCursor(*ms, n + 1),
            Some(_) | None => AuditCursor(now.millis(), 0),
        };
        self.entries.push_back(Entry { place, id, at: now.before(age), audit: audit.clone() });
        if self.entries.len() > self.max {
            self.entries.pop_front();
        }
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        let oldest = now.before(self.keep_for).millis();
        while self.entries.front().is_some_and(|entry| entry.place.0 < oldest) {
            self.entries.pop_front();
        }
    }

    pub(super) fn page(&self, filter: &AuditFilter) -> AuditPage {
        let mut page = AuditPage::default();
        let end = filter
            .cursor
            .map_or(self.entries.len(), |cursor| self.entries.partition_point(|entry| entry.place < cursor));
        let mut last = filter.cursor;
        let mut before = filter.cursor;
        for (looked_at, entry) in self.entries.range(..end).rev().enumerate() {
            if looked_at == MAX_LOOKED_AT {
                page.next = before;
                break;
            }
            before = Some(entry.place);
            if !filter.wants(&entry.audit) {
                continue;
            }
            if page.orders.len() == filter.limit.max(1) {
                page.next = last;
                break;
            }
            page.orders.push((entry.at, entry.audit.clone()));
            last = Some(entry.place);
        }
        page
    }
}
