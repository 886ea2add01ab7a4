//! Spawns of earlier agents: they come into the table as they are, past admission, because they run already.

use std::sync::Arc;
use std::time::Duration;

use model::{Exit, SpawnState};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::entrance::{Admitted, Source};
use super::{Entry, Inbox, Stage, Table};
use crate::spawn::exit::Cause;
use crate::spawn::lifecycle::stall_after;
use crate::spawn::{Facts, SpawnOutcome, SpawnStatus, ViewerTimes};

/// A spawn of an earlier agent whose process runs.
#[derive(Debug)]
pub(crate) struct AdoptedSpawn {
    pub(crate) facts: Facts,
    pub(crate) pid: u32,
    pub(crate) state: SpawnState,
    pub(crate) ready: Option<Instant>,
    pub(crate) viewing: ViewerTimes,
    /// When it is ended at the latest.
    pub(crate) expires: Option<Instant>,
    /// How often it reports.
    pub(crate) ping_interval: Duration,
    /// Why it is to be ended.
    pub(crate) end: Option<Cause>,
}

impl Table {
    /// Takes a spawn over. Its port, slot and GPU are taken, whatever the limits are now.
    pub(crate) fn adopt(&mut self, adopted: AdoptedSpawn) -> Admitted {
        let AdoptedSpawn { facts, pid, state, ready, viewing, expires, ping_interval, end } = adopted;
        self.stall = self.stall.min(stall_after(ping_interval));
        self.ports.claim(facts.port);
        self.users.claim(facts.user);
        if let Some(gpu) = facts.gpu {
            self.gpus.claim(gpu);
        }
        let facts = Arc::new(facts);
        let start_to_ready = |ready: Instant| ready.saturating_duration_since(facts.started);
        // A repeated request gets the first one's answer; the registry acknowledged it long ago.
        let answer =
            ready.map(|ready| SpawnOutcome::Ready { start_to_ready: start_to_ready(ready), serial: 0 });
        let notify = Arc::new(Notify::new());
        let answered = answer.is_some();
        let (answer, receiver) = watch::channel(answer);
        let entry = Entry {
            spawn: SpawnStatus { state, ready, viewing, expires, ..SpawnStatus::new(Arc::clone(&facts)) },
            pid,
            stage: Stage::Launched,
            inbox: Inbox { end, ..Inbox::default() },
            notify: Arc::clone(&notify),
            answer: receiver,
            waiting: 0,
            answered,
            adopted: true,
            viewer: None,
            active: None,
        };
        notify.notify_one();
        self.running.insert(facts.id, entry);
        if let Some(server) = facts.server {
            self.warm.claimed.insert(server, facts.id);
        }
        Admitted { facts, notify, answer, source: Source::default() }
    }

    /// Adds the end of a spawn of an earlier agent that is gone.
    pub(crate) fn add_ended(
        &mut self,
        facts: Facts,
        ready: Option<Instant>,
        mut viewing: ViewerTimes,
        ended: Instant,
        exit: Exit,
        now: Instant,
    ) {
        let id = facts.id;
        viewing.end(ended);
        let spawn = SpawnStatus {
            state: SpawnState::Exited,
            ready,
            viewing,
            ended: Some(ended),
            exit: Some(exit.clone()),
            ..SpawnStatus::new(Arc::new(facts))
        };
        let serial = self.publish(spawn.clone(), ended);
        let (_, answer) = watch::channel(Some(SpawnOutcome::Ended { exit, log: Vec::new(), serial }));
        let entry = Entry {
            spawn,
            pid: 0,
            stage: Stage::Launched,
            inbox: Inbox::default(),
            notify: Arc::new(Notify::new()),
            answer,
            waiting: 0,
            answered: true,
            adopted: true,
            viewer: None,
            active: None,
        };
        self.tombstones.add(id, now);
        self.recent.add(id, entry, now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{Eligibility, ExitReason, RendererType, SpawnId};

    use super::super::Liveliness;
    use super::super::entrance::{Admission, SpawnSpec};
    use super::super::tests::{ask, table};
    use super::*;
    use crate::spawn::RefusalKind;

    fn adopted(port: u16, gpu: Option<u32>, state: SpawnState, now: Instant) -> AdoptedSpawn {
        let facts = Facts {
            id: SpawnId::mint(),
            renderer: gpu.map_or(RendererType::Csr, |_| RendererType::Ssr),
            port,
            endpoint: "ws://h:1".to_owned(),
            gpu,
            labels: BTreeMap::new(),
            tags: BTreeMap::new(),
            owner: None,
            origin: Default::default(),
            secret: None,
            token: None,
            endpoint_form: None,
            user: None,
            server: None,
            max_idle: None,
            started: now,
        };
        let ready = (state == SpawnState::Ready).then_some(now);
        let (viewing, ping_interval) = (ViewerTimes::default(), Duration::from_secs(5));
        AdoptedSpawn { facts, pid: 7, state, ready, viewing, expires: None, ping_interval, end: None }
    }

    #[test]
    fn more_than_there_is_room_for_is_just_full() {
        let (mut table, now) = (
            table(|c| {
                c.slots = 1;
                c.gpus = 1;
                c.gpu_slots = 1;
            }),
            Instant::now(),
        );
        let all = [(19_000, None), (50_000, Some(0)), (19_001, Some(0)), (19_002, Some(4))];
        let ids = all.map(|(port, gpu)| table.adopt(adopted(port, gpu, SpawnState::Ready, now)).facts.id);
        let usage = table.usage();
        assert_eq!((usage.ports, usage.gpu_slots, table.running()), (4, 2, 4));
        let wanted = ask(RendererType::Csr);
        for id in ids {
            assert!(
                matches!(table.admit(wanted.clone(), now), Admission::Refused(r) if r.kind == RefusalKind::Full)
            );
            let exit = Exit { reason: ExitReason::Stopped, code: None, signal: None, text: None };
            table.exited(id, exit, now);
        }
        let usage = table.usage();
        assert_eq!((usage.ports, usage.gpu_slots), (0, 0));
        assert!(matches!(table.admit(wanted, now), Admission::New(..)));
    }

    #[test]
    fn asking_again_for_one_that_was_taken_over_joins_it() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let ready = table.adopt(adopted(19_000, None, SpawnState::Ready, now)).facts.id;
        let launching = table.adopt(adopted(19_001, None, SpawnState::Launching, now)).facts.id;
        let answer = table.join(ready, now).unwrap();
        assert!(matches!(*answer.borrow(), Some(SpawnOutcome::Ready { serial: 0, .. })));
        assert!(table.wait_for_change(0).is_none(), "the registry knows of it");
        table.leave(ready, false, now);
        assert_eq!(table.collect(ready).end, None, "it was answered in an earlier life");
        assert!(table.join(launching, now).unwrap().borrow().is_none());
        table.leave(launching, false, now);
        assert_eq!(table.collect(launching).end, Some(Cause::Cancelled));
    }

    #[test]
    fn a_ready_that_found_no_listener_is_made_up_for_by_a_ping() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let id = table.adopt(adopted(19_000, None, SpawnState::Launching, now)).facts.id;
        assert!(table.heard(id, Liveliness::Ping, now));
        assert!(table.collect(id).ready);
        let fresh = ask(RendererType::Csr);
        assert!(matches!(table.admit(fresh.clone(), now), Admission::New(..)));
        table.heard(fresh.id, Liveliness::Ping, now);
        assert!(!table.collect(fresh.id).ready, "one of our own says so itself");
    }

    #[test]
    fn one_that_is_gone_is_reported_and_cannot_be_started_again() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let gone = adopted(19_000, None, SpawnState::Ready, now);
        let id = gone.facts.id;
        let exit = Exit { reason: ExitReason::Failed, code: None, signal: None, text: None };
        table.add_ended(gone.facts, gone.ready, gone.viewing, now, exit, now);
        assert_eq!((table.running(), table.backlog_len(), table.usage().ports), (0, 1, 0));
        let again = SpawnSpec { id, ..ask(RendererType::Csr) };
        assert!(matches!(table.admit(again, now), Admission::Joined(_)));
    }

    #[test]
    fn while_reports_cannot_arrive_no_spawn_is_silent_and_a_ping_stands_for_a_lost_ready() {
        let (mut table, start) = (table(|_| ()), Instant::now());
        let fresh = ask(RendererType::Csr);
        assert!(matches!(table.admit(fresh.clone(), start), Admission::New(..)));
        let later = start + Duration::from_secs(3);
        assert!(!table.was_deaf_since(start));
        assert!(table.deafened(later), "news");
        assert!(!table.deafened(later + Duration::from_secs(1)), "the same flood");
        assert_eq!(table.awake(later + Duration::from_secs(1)), later + Duration::from_secs(1));
        assert!(table.was_deaf_since(start) && !table.was_deaf_since(later + Duration::from_secs(2)));
        table.heard(fresh.id, Liveliness::Ping, later);
        assert!(table.collect(fresh.id).ready);
    }

    #[test]
    fn only_a_spawns_own_secret_reports_for_it_and_an_earlier_releases_spawn_has_none() {
        let (mut table, now) = (table(|_| ()), Instant::now());
        let old = table.adopt(adopted(19_000, None, SpawnState::Ready, now)).facts.id;
        let secret = crate::secret::Secret::mint();
        let mut other = adopted(19_001, None, SpawnState::Ready, now);
        other.facts.secret = Some(secret.clone());
        let new = table.adopt(other).facts.id;
        let url = crate::secret::endpoint("", Some(&secret));
        let text = url.trim_start_matches('/').strip_suffix("/liveliness").unwrap();
        assert!(table.reporter(new, Some(text)).is_some() && table.reporter(old, None).is_some());
        assert!(
            [(new, None), (new, Some("x")), (old, Some(text)), (SpawnId::mint(), Some(text))]
                .iter()
                .all(|(id, secret)| table.reporter(*id, *secret).is_none())
        );
    }

    #[test]
    fn an_agent_that_did_not_run_blames_no_spawn() {
        let mut table = table(|c| c.ping_interval = Duration::from_secs(5));
        let start = Instant::now();
        let since = table.awake(start);
        assert_eq!(table.awake(start + Duration::from_secs(2)), since, "a little late is not a stall");
        let back = start + Duration::from_secs(32);
        assert_eq!(table.awake(back), back);
        assert_eq!(table.awake(back + Duration::from_secs(1)), back);
        assert_eq!(table.eligibility(), Eligibility::Eligible);
    }
}
