//! Operators' orders, the newest of them, so many to nodes and so many to spawns, within the bounds of time and number that [`Timing`] gives. An
//! order that is recorded twice is there once. `redis/lua/audit.lua` does the same.

use std::collections::VecDeque;
use std::time::Duration;

use model::{Audit, Timestamp, Timing};
use uuid::Uuid;

use crate::ask::{AuditCursor, AuditFilter, AuditPage, MAX_LOOKED_AT};

/// Calls that a repeated one is compared with.
const COMPARED: usize = 64;

#[derive(Debug, Clone)]
struct Entry {
    place: AuditCursor,
    id: Uuid,
    at: Timestamp,
    audit: Audit,
}

/// Operators' orders, the oldest first.
#[derive(Debug, Clone)]
pub(super) struct Audits {
    keep_for: Duration,
    max: usize,
    entries: VecDeque<Entry>,
    /// How many of them were given to nodes.
    of_nodes: usize,
    /// How many of them were given to spawns.
    of_spawns: usize,
}

impl Audits {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            keep_for: timing.history,
            max: timing.audit_count as usize,
            entries: VecDeque::new(),
            of_nodes: 0,
            of_spawns: 0,
        }
    }

    pub(super) fn add(&mut self, now: Timestamp, id: Uuid, age: Duration, audit: &Audit) {
        let of_spawn = audit.order.concerns_spawn();
        let alike = |entry: &&Entry| entry.audit.order.concerns_spawn() == of_spawn;
        if self.entries.iter().rev().filter(alike).take(COMPARED).any(|entry| entry.id == id) {
            return;
        }
        let place = match self.entries.back() {
            Some(Entry { place: AuditCursor(ms, n), .. }) if *ms >= now.millis() => AuditCursor(*ms, n + 1),
            Some(_) | None => AuditCursor(now.millis(), 0),
        };
        self.entries.push_back(Entry { place, id, at: now.before(age), audit: audit.clone() });
        let count = if of_spawn { &mut self.of_spawns } else { &mut self.of_nodes };
        *count += 1;
        if *count > self.max {
            let oldest = self.entries.iter().position(|entry| entry.audit.order.concerns_spawn() == of_spawn);
            if let Some(entry) = oldest.and_then(|at| self.entries.remove(at)) {
                self.forgets(&entry);
            }
        }
    }

    fn forgets(&mut self, entry: &Entry) {
        let count = if entry.audit.order.concerns_spawn() { &mut self.of_spawns } else { &mut self.of_nodes };
        *count -= 1;
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        let oldest = now.before(self.keep_for).millis();
        while self.entries.front().is_some_and(|entry| entry.place.0 < oldest) {
            if let Some(entry) = self.entries.pop_front() {
                self.forgets(&entry);
            }
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
            if !filter.wants(entry.at, &entry.audit) {
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
