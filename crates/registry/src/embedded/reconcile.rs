//! Taking in what agents report, and doing what time asks for.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use model::{
    Availability, Drain, Eligibility, EventKind, Exit, ExitReason, NodeId, SpawnId, SpawnRecord, SpawnState,
    Timestamp,
};
use serde_json::Map;

use super::farm::{Farm, Held, Hold, NodeState};
use super::identity::Verdict;
use super::renderers::Renderers;
use crate::report::{AgentReport, Heartbeat, Orders, SpawnReport, Wish};

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
            // A report that was held up on its way may arrive after later ones; its list is of before what they brought.
            // Agents without an identity do not say what is accepted.
            if report.identity.instance.is_nil() || sent >= last {
                self.reconcile(node, heartbeat);
            }
            self.agree(node, &heartbeat.wish);
        }
        self.place(node);
        self.orders(node)
    }

    fn orders(&self, node: &NodeId) -> Orders {
        let Some(state) = self.nodes.get(node) else { return Orders::default() };
        Orders {
            eligibility: state.eligibility,
            drain: state.drain.clone().map(|drain| {
                let left = drain.deadline.since(self.now);
                (drain, left)
            }),
            abandoned: state.abandoned.iter().copied().collect(),
            expired: state.expired.iter().copied().collect(),
            generation: state.generation,
            ..Orders::default()
        }
    }

    /// Notes a heartbeat: the node is up, and this is what it offers.
    fn register(&mut self, report: &AgentReport, heartbeat: &Heartbeat) {
        let (node, now) = (&report.node, self.now);
        let mut news = Vec::new();
        let changed = self.nodes.get(node).is_some_and(|old| old.description != heartbeat.description);
        if changed {
            self.unplace(node);
            news.push(EventKind::NodeCapacity);
        }
        let remembered = self.remembered(&heartbeat.wish);
        let state = self.nodes.entry(node.clone()).or_insert_with(|| {
            news.push(EventKind::NodeUp);
            NodeState {
                eligibility: heartbeat.wish.eligibility,
                availability: Availability::Up,
                description: heartbeat.description.clone(),
                epoch: report.epoch,
                identity: report.identity,
                load: heartbeat.load,
                gpus: heartbeat.gpus.clone(),
                beat: now,
                drain: remembered,
                generation: heartbeat.wish.generation,
                held: HashMap::new(),
                abandoned: self.ahead.remove(node).unwrap_or_default(),
                expired: BTreeSet::new(),
                serial: 0,
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
        state.gpus.clone_from(&heartbeat.gpus);
        state.beat = now;
        if !news.is_empty() {
            self.place(node);
            self.nudge_line();
        }
        for kind in news {
            self.tell_node(kind, node);
        }
        if renewed {
            self.renew_health(node);
        }
    }

    /// Takes an order that the agent has and this registry has not.
    fn agree(&mut self, node: &NodeId, wish: &Wish) {
        if self.nodes.get(node).is_some_and(|state| state.generation < wish.generation) {
            let drain = self.remembered(wish);
            self.set_order(node, wish.eligibility, drain.as_ref(), wish.generation, None);
        }
    }

    /// A drain as its agent remembers it.
    fn remembered(&self, wish: &Wish) -> Option<Drain> {
        let drain = wish.drain.as_ref().filter(|_| wish.eligibility == Eligibility::Draining)?;
        Some(Drain {
            deadline: self.after(drain.left),
            reason: drain.reason.clone(),
            by: drain.by.clone(),
            started_at: self.now.before(drain.age),
        })
    }

    /// Makes the registry agree with the list in a heartbeat.
    fn reconcile(&mut self, node: &NodeId, heartbeat: &Heartbeat) {
        let mut pings = Map::new();
        for spawn in &heartbeat.spawns {
            if let Some(ping) = self.apply(node, spawn, self.now, true) {
                pings.insert(spawn.id.to_string(), ping.to_string().into());
            }
        }
        if !pings.is_empty() {
            let data = Map::from_iter([("pings".to_owned(), pings.into())]);
            self.history.tell(self.now, self.now, EventKind::SpawnPing, node, None, data);
        }
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

    /// A spawn its agent no longer has and never reported as ended.
    fn end_unseen(&mut self, node: &NodeId, id: SpawnId) {
        let Some(record) = self.history.get_mut(id) else { return };
        if record.state == SpawnState::Exited {
            return;
        }
        let exit = Exit { reason: ExitReason::NodeLost, code: None, signal: None, text: None };
        record.state = SpawnState::Exited;
        record.ended_at = Some(self.now);
        record.exit = Some(exit.clone());
        let data = crate::report::exit_data(&exit);
        self.history.end(id, self.now);
        self.history.tell(self.now, self.now, EventKind::SpawnExited, node, Some(id), data);
    }

    /// Brings one spawn's record, slot and history to what its agent says. Returns the last ping if that is all that is new.
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
            // What an agent lists lives, whatever was thought of it. A late change does not bring it back.
            if !revives {
                return None;
            }
            self.history.revive(report.id);
        }
        let state = self.nodes.get_mut(node)?;
        // Whose it is was said by its reservation; an agent that has taken it over may not know.
        let reserved_by = state.held.get(&report.id).and_then(|held| held.owner.clone());
        let recorded = || self.history.get(report.id).and_then(|old| old.owner.clone());
        let report = &match reserved_by.or_else(recorded) {
            None => Cow::Borrowed(report),
            owner if owner == report.owner => Cow::Borrowed(report),
            owner => Cow::Owned(SpawnReport { owner, ..report.clone() }),
        };
        if !ended {
            let held = Held { hold: Hold::Running, gpu: report.gpu.is_some(), owner: report.owner.clone() };
            state.held.insert(report.id, held);
            self.owned.add(report.owner.as_ref(), report.id);
        }
        let fresh = record(node, state, report, self.now);
        let mut data = crate::report::event_data(report);
        let mut news = None;
        let mut ready_at = None;
        let changed = match self.history.get_mut(report.id) {
            Some(old) => {
                ready_at = old.ready_at;
                let changed = old.state != fresh.state;
                let known = old.last_ping_at;
                news = fresh.last_ping_at.filter(|ping| !changed && crate::report::is_news(known, *ping));
                *old = SpawnRecord {
                    events: std::mem::take(&mut old.events),
                    started_at: old.started_at,
                    owner: fresh.owner.clone(),
                    ready_at: old.ready_at.or(fresh.ready_at),
                    // An agent that has only just taken it over has not heard of it yet.
                    last_ping_at: fresh.last_ping_at.or(old.last_ping_at),
                    ..fresh
                };
                if revives {
                    crate::report::introduce(&mut data, report, self.now);
                }
                changed
            }
            None => {
                self.history.add(self.now, fresh);
                crate::report::introduce(&mut data, report, self.now);
                true
            }
        };
        if changed {
            let kind = EventKind::of_state(report.state);
            self.history.tell(self.now, at, kind, node, Some(report.id), data);
        }
        if ended {
            self.history.end(report.id, self.now);
            self.free(node, report.id);
            self.note_end(node, report, ready_at);
        }
        news
    }

    /// The agent knows how a spawn ended that was only missing from its list.
    fn correct_end(&mut self, node: &NodeId, report: &SpawnReport, at: Timestamp) {
        let Some(record) = self.history.get_mut(report.id) else { return };
        record.exit.clone_from(&report.exit);
        record.ended_at = report.ended.map(|age| self.now.before(age));
        let data = crate::report::event_data(report);
        self.history.tell(self.now, at, EventKind::SpawnExited, node, Some(report.id), data);
    }

    /// Calls nodes stale whose heartbeats are late.
    pub(super) fn expire_beats(&mut self) {
        let (stale, down) = (self.timing.stale, self.timing.down);
        let grace = self.judged.judge(self.now, &self.timing);
        let now = self.now;
        let silence = |beat: Timestamp| now.since(beat.max(grace));
        let late: Vec<(Timestamp, NodeId)> =
            self.beats.iter().take_while(|(beat, _)| silence(*beat) >= stale).cloned().collect();
        for (beat, node) in late {
            let Some(state) = self.nodes.get_mut(&node) else { continue };
            if state.availability == Availability::Up {
                state.availability = Availability::Stale;
                self.place(&node);
                self.tell_node(EventKind::NodeStale, &node);
            }
            if silence(beat) >= down {
                self.beats.remove(&(beat, node.clone()));
                self.give_up(&node);
            }
        }
    }

    /// Calls a node down and its spawns lost.
    fn give_up(&mut self, node: &NodeId) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        state.availability = Availability::Down;
        let running = state.held.iter().filter(|(_, held)| held.hold == Hold::Running);
        let running: Vec<_> = running.map(|(id, held)| (*id, held.owner.clone())).collect();
        self.tell_node(EventKind::NodeDown, node);
        for (id, owner) in running {
            self.owned.remove(owner.as_ref(), id);
            if let Some(record) = self.history.get_mut(id)
                && !matches!(record.state, SpawnState::Exited | SpawnState::Lost)
            {
                record.state = SpawnState::Lost;
                self.history.tell(self.now, self.now, EventKind::SpawnLost, node, Some(id), Map::new());
            }
        }
        // Nothing is left there to wait for. Without slots in use it was reported before.
        let drains = self
            .nodes
            .get(node)
            .is_some_and(|state| state.eligibility == Eligibility::Draining && !state.held.is_empty());
        if drains {
            self.tell_node(EventKind::NodeDrained, node);
        }
    }

    pub(super) fn sweep(&mut self) {
        self.expire_beats();
        while let Some((until, spawn, node)) = self.expiries.first().cloned()
            && until <= self.now
        {
            self.expiries.pop_first();
            let Some(state) = self.nodes.get_mut(&node) else { continue };
            match state.held.get(&spawn).map(|held| held.hold) {
                // The agent may still be asked to start it by a call that is on its way. Not abandoned: its caller may have
                // been answered while the agent was cut off from here.
                Some(Hold::Reserved | Hold::Abandoned) => {
                    state.expired.insert(spawn);
                    self.free(&node, spawn);
                }
                Some(Hold::Running) | None => {}
            }
        }
        let line_now = self.line_now();
        if self.line.sweep(line_now) {
            self.nudge_line();
        }
        self.history.sweep(self.now);
        self.claims.sweep(self.now);
        self.forget_nodes();
    }

    fn forget_nodes(&mut self) {
        let old: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, n)| {
                n.availability == Availability::Down && self.now.since(n.beat) >= self.timing.forget
            })
            .map(|(id, _)| id.clone())
            .collect();
        for node in old {
            self.unplace(&node);
            let Some(state) = self.nodes.remove(&node) else { continue };
            for (id, held) in state.held {
                self.owned.remove(held.owner.as_ref(), id);
                self.end_unseen(&node, id);
            }
        }
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
        ended_at: report.ended.map(|age| now.before(age)),
        pool: state.description.kind.pool.clone(),
        labels: report.labels.clone(),
        owner: report.owner.clone(),
        gpu: report.gpu,
        events: Vec::new(),
    }
}
