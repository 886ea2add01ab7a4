//! Taking in what agents report. `redis/lua/report.lua`, `apply.lua` and `reconcile.lua` do the same.
//!
//! One report is one step: the heartbeat's description first, then the changes in their order, then the heartbeat's list. What
//! lives outranks what is remembered: a spawn that the list names is alive, a running spawn that it does not name is over
//! (`node-lost`), whatever the record says. Repeating a report changes nothing.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use model::{
    Availability, EventKind, Exit, ExitReason, Heard, NodeId, SpawnId, SpawnRecord, SpawnState, Timestamp,
};
use serde_json::Map;

use super::farm::{Farm, Hold, NodeState, SlotEntry};
use super::identity::Verdict;
use super::keepalive::heard;
use super::renderers::Renderers;
use crate::report::{AgentReport, Heartbeat, Orders, SpawnReport};
use crate::viewing::{Viewing, expiry};

impl Farm {
    pub(super) fn report(&mut self, report: &AgentReport) -> Orders {
        let node = &report.node;
        match self.verdict(report) {
            Verdict::Accepted => {}
            Verdict::Superseded => return Orders { superseded: true, ..Orders::default() },
            Verdict::Taken(address) => return Orders { taken: Some(address), ..Orders::default() },
        }
        // The last change that was applied of this epoch; what is not known can lack nothing.
        let last = match self.nodes.get(node) {
            Some(state) if state.epoch == report.epoch => state.serial,
            _ if report.heartbeat.is_none() => return Orders { unknown: true, ..Orders::default() },
            Some(_) => 0,
            None => report.accepted,
        };
        if last < report.accepted {
            return Orders { behind: Some(last), ..Orders::default() };
        }
        if let Some(heartbeat) = &report.heartbeat {
            self.register(report, heartbeat);
        }
        for change in report.changes.iter().filter(|c| c.serial > last) {
            self.apply(node, &change.spawn, self.now.before(change.age), false);
        }
        let sent = report.changes.iter().map(|c| c.serial).fold(report.accepted, u64::max);
        if let Some(state) = self.nodes.get_mut(node) {
            state.serial = sent.max(last);
        }
        if let Some(heartbeat) = &report.heartbeat {
            // A delayed report may arrive after later ones. Its list is older than their changes, and would undo them.
            // Agents without an identity do not send what was accepted.
            if report.identity.instance.is_nil() || sent >= last {
                self.reconcile(node, heartbeat);
            }
            self.agree(node, &heartbeat.desired);
        }
        let is_whole = report.heartbeat.is_some() && (report.identity.instance.is_nil() || sent >= last);
        self.note_agreement(report, is_whole, sent, last);
        self.place(node);
        self.orders(node)
    }

    /// Changes lead from one digest to the next only where all of them were applied, each once. A repeated report has led there before.
    fn note_agreement(&mut self, report: &AgentReport, is_whole: bool, sent: u64, last: u64) {
        let Some(state) = self.nodes.get_mut(&report.node) else { return };
        state.digest = report.agreement.map(|agreement| agreement.after).filter(|after| {
            let leads = state.digest.is_some()
                && (state.digest == report.agreement.and_then(|agreement| agreement.before)
                    || (state.serial == last && state.digest == Some(*after)));
            is_whole || (report.heartbeat.is_none() && sent >= last && leads)
        });
    }

    pub(super) fn orders(&self, node: &NodeId) -> Orders {
        let Some(state) = self.nodes.get(node) else { return Orders::default() };
        Orders {
            pings: self.pings.are_wanted(node, self.now),
            eligibility: state.eligibility,
            drain: state.drain.clone().map(|drain| {
                let left = drain.deadline.since(self.now);
                (drain, left)
            }),
            abandoned: state.abandoned.iter().copied().collect(),
            expired: state.expired.iter().copied().collect(),
            generation: state.generation,
            failing: state.failing(),
            ..Orders::default()
        }
    }

    /// Takes a heartbeat's description: the node is up, and this is what it offers.
    fn register(&mut self, report: &AgentReport, heartbeat: &Heartbeat) {
        let (node, now) = (&report.node, self.now);
        let mut news = Vec::new();
        let changed = self.nodes.get(node).is_some_and(|old| old.description != heartbeat.description);
        if changed {
            self.unplace(node);
            news.push(EventKind::NodeCapacity);
        }
        let remembered = self.remembered(&heartbeat.desired);
        let state = self.nodes.entry(node.clone()).or_insert_with(|| {
            news.push(EventKind::NodeUp);
            NodeState {
                eligibility: heartbeat.desired.eligibility,
                availability: Availability::Up,
                description: heartbeat.description.clone(),
                epoch: report.epoch,
                identity: report.identity,
                load: heartbeat.load,
                supply: heartbeat.supply.clone(),
                gpus: heartbeat.gpus.clone(),
                beat: now,
                drain: remembered,
                generation: heartbeat.desired.generation,
                held: HashMap::new(),
                abandoned: self.ahead.remove(node).unwrap_or_default(),
                expired: BTreeSet::new(),
                serial: 0,
                digest: None,
                heard: Heard::default(),
                health: Renderers::default(),
            }
        });
        let renewed = state.epoch != report.epoch;
        (state.epoch, state.identity) = (report.epoch, report.identity);
        if state.availability != Availability::Up {
            news.push(EventKind::NodeUp);
        }
        self.beats.remove(&(state.beat, node.clone()));
        self.beats.insert((now, node.clone()));
        state.availability = Availability::Up;
        state.description = heartbeat.description.clone();
        state.load = heartbeat.load;
        state.supply.clone_from(&heartbeat.supply);
        state.gpus.clone_from(&heartbeat.gpus);
        state.beat = now;
        state.heard = heard(&heartbeat.heard, now);
        if !news.is_empty() {
            self.place(node);
            self.wake_line();
        }
        for kind in news {
            self.publish_node(kind, node);
        }
        if renewed {
            self.renew_health(node);
        }
    }

    /// Makes the registry agree with the list in a heartbeat.
    fn reconcile(&mut self, node: &NodeId, heartbeat: &Heartbeat) {
        let mut pings = Vec::new();
        for spawn in &heartbeat.spawns {
            if let Some(ping) = self.apply(node, spawn, self.now, true) {
                pings.push((spawn.id, ping));
            }
        }
        self.relay_pings(node, &pings);
        let listed = |id: &SpawnId| heartbeat.spawns.iter().any(|s| s.id == *id);
        let Some(state) = self.nodes.get_mut(node) else { return };
        for forgotten in &heartbeat.forgotten {
            state.abandoned.remove(forgotten);
            state.expired.remove(forgotten);
        }
        state.expired.retain(|id| !listed(id));
        let mut gone: Vec<(SpawnId, Hold)> = Vec::new();
        for (id, held) in &state.held {
            let over = match held.hold {
                Hold::Running => !listed(id),
                Hold::Abandoned => heartbeat.forgotten.contains(id),
                Hold::Reserved => false,
            };
            if over {
                gone.push((*id, held.hold));
            }
        }
        for (id, hold) in gone {
            self.free(node, id);
            if hold == Hold::Running {
                self.end_unseen(node, id);
            }
        }
    }

    /// Ends a spawn that its agent no longer has and never reported as ended. Returns whether it had not ended before.
    pub(super) fn end_unseen(&mut self, node: &NodeId, id: SpawnId) -> bool {
        let Some(record) = self.history.get_mut(id) else { return false };
        if record.state == SpawnState::Exited {
            return false;
        }
        let exit = Exit { reason: ExitReason::NodeLost, code: None, signal: None, text: None };
        record.state = SpawnState::Exited;
        record.ended_at = Some(self.now);
        record.exit = Some(exit.clone());
        let data = crate::report::exit_data(&exit);
        self.history.publish(self.now, self.now, EventKind::SpawnExited, node, Some(id), data);
        self.history.end(id, self.now);
        self.minutes.ended(self.now, Some(&exit));
        true
    }

    /// Brings one spawn's record, slot and history to what its agent reports. Returns the last ping if nothing else is new.
    fn apply(
        &mut self,
        node: &NodeId,
        report: &SpawnReport,
        at: Timestamp,
        is_listed: bool,
    ) -> Option<Timestamp> {
        let ended = report.state == SpawnState::Exited;
        let over = self.history.get(report.id).filter(|old| old.state == SpawnState::Exited);
        let revives = over.is_some() && is_listed && !ended;
        if let Some(old) = over {
            let was_unseen = old.exit.as_ref().is_some_and(|exit| exit.reason == ExitReason::NodeLost);
            if ended && was_unseen && old.exit != report.exit {
                self.correct_end(node, report, at);
            }
            // What an agent lists lives, whatever the record says. A late change does not bring it back.
            if !revives {
                return None;
            }
            self.history.revive(report.id);
        }
        let state = self.nodes.get_mut(node)?;
        // The reservation names the owner. An agent that has adopted the spawn may not know it.
        let reserved_by = state.held.get(&report.id).and_then(|held| held.owner.clone());
        let recorded = || self.history.get(report.id).and_then(|old| old.owner.clone());
        let mut report = Cow::Borrowed(report);
        if let Some(owner) =
            reserved_by.or_else(recorded).filter(|owner| report.owner.as_ref() != Some(owner))
        {
            report.to_mut().owner = Some(owner);
        }
        // The caller's tags never change, nor does the request. An agent that has adopted the spawn may not know them.
        if report.tags.is_empty()
            && let Some(old) = self.history.get(report.id).filter(|old| !old.tags.is_empty())
        {
            report.to_mut().tags.clone_from(&old.tags);
        }
        // One that was rolled back may know less of the request than the record has.
        if let Some(old) = self.history.get(report.id)
            && !old.origin.is_empty()
            && old.origin != report.origin
        {
            report.to_mut().origin.clone_from(&old.origin);
        }
        let report = &*report;
        if !ended {
            let held =
                SlotEntry { hold: Hold::Running, gpu: report.gpu.is_some(), owner: report.owner.clone() };
            state.held.insert(report.id, held);
            self.owned.add(report.owner.as_ref(), report.id);
        }
        let fresh = record(node, state, report, self.now);
        let mut data = crate::report::event_data(report);
        let mut news = None;
        let mut ready_at = None;
        let mut came = false;
        let changed = match self.history.get_mut(report.id) {
            Some(old) => {
                ready_at = old.ready_at;
                let changed = old.state != fresh.state;
                let is_first = ready_at.is_none() && fresh.ready_at.is_some();
                if changed && is_first && !revives {
                    self.minutes.at(self.now).ready += 1;
                }
                let known = old.last_ping_at;
                news = fresh.last_ping_at.filter(|ping| !changed && crate::report::is_news(known, *ping));
                let viewing = Viewing { connected: old.connected_at, disconnected: old.disconnected_at };
                let (viewing, has_come) = viewing.after(Viewing::reported(report, self.now));
                came = has_come && !revives;
                *old = SpawnRecord {
                    connected_at: viewing.connected,
                    disconnected_at: viewing.disconnected,
                    expires_at: expiry(old.expires_at, fresh.expires_at),
                    events: std::mem::take(&mut old.events),
                    started_at: old.started_at,
                    owner: fresh.owner.clone(),
                    ready_at: old.ready_at.or(fresh.ready_at),
                    // An agent that has just adopted the spawn has no ping of it yet.
                    last_ping_at: fresh.last_ping_at.or(old.last_ping_at),
                    server: fresh.server.or(old.server),
                    ..fresh
                };
                if revives {
                    crate::report::introduce(&mut data, report, self.now);
                }
                changed
            }
            None => {
                // What only a list brings is no news: a registry that was wiped is being filled again.
                if !is_listed {
                    let minute = self.minutes.at(self.now);
                    minute.started += 1;
                    minute.ready += u64::from(fresh.ready_at.is_some());
                }
                self.history.add(self.now, fresh);
                crate::report::introduce(&mut data, report, self.now);
                true
            }
        };
        if changed {
            let kind = EventKind::of_state(report.state);
            self.history.publish(self.now, at, kind, node, Some(report.id), data);
        }
        if came {
            let kind = EventKind::SpawnConnected;
            self.history.publish(self.now, at, kind, node, Some(report.id), Map::new());
        }
        if ended {
            self.history.end(report.id, self.now);
            self.minutes.ended(self.now, report.exit.as_ref());
            self.free(node, report.id);
            self.note_end(node, report, ready_at);
        }
        news
    }

    /// Replaces `node-lost`, the end of a spawn that was only missing from a list, by the end that its agent reports.
    fn correct_end(&mut self, node: &NodeId, report: &SpawnReport, at: Timestamp) {
        let Some(record) = self.history.get_mut(report.id) else { return };
        record.exit.clone_from(&report.exit);
        record.ended_at = report.ended.map(|age| self.now.before(age));
        let data = crate::report::event_data(report);
        self.history.publish(self.now, at, EventKind::SpawnExited, node, Some(report.id), data);
    }
}

fn record(node: &NodeId, state: &NodeState, report: &SpawnReport, now: Timestamp) -> SpawnRecord {
    SpawnRecord {
        id: report.id,
        node: node.clone(),
        endpoint: report.endpoint.clone(),
        renderer: report.renderer,
        state: report.state,
        exit: report.exit.clone(),
        started_at: now.before(report.started),
        ready_at: report.ready.map(|age| now.before(age)),
        last_ping_at: report.last_ping.map(|age| now.before(age)),
        connected_at: report.connected.map(|age| now.before(age)),
        disconnected_at: report.disconnected.map(|age| now.before(age)),
        expires_at: report.life_left.map(|left| now.after(left)),
        ended_at: report.ended.map(|age| now.before(age)),
        pool: state.description.kind.pool.clone(),
        labels: report.labels.clone(),
        tags: report.tags.clone(),
        owner: report.owner.clone(),
        origin: report.origin.clone(),
        gpu: report.gpu,
        server: report.server,
        events: Vec::new(),
    }
}
