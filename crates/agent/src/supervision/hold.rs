//! What a spawn holds between its admission and its driver, and what becomes of a process that starts too late.
//!
//! Both types give back what they hold when they are dropped, so that no panic, early return or late answer of a disk leaks a slot,
//! a port or a GPU, or leaves a process behind.

use std::sync::Arc;

use model::SpawnId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::Node;
use crate::spawn::body::Body;
use crate::spawn::lifecycle::Signal;
use crate::spawn::process::Process;
use crate::spawn::{Facts, Refusal, RefusalKind, SpawnOutcome};
use crate::table::entrance::Admitted;

/// The slot, port and GPU of an admitted spawn that has no driver yet. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Hold {
    node: Arc<Node>,
    admitted: Option<Admitted>,
}

impl Hold {
    pub(crate) fn new(node: Arc<Node>, admitted: Admitted) -> Self {
        Self { node, admitted: Some(admitted) }
    }

    pub(crate) fn facts(&self) -> Option<Arc<Facts>> {
        Some(Arc::clone(&self.admitted.as_ref()?.facts))
    }

    /// The warm server that it was to have has ended: it starts one of its own in its place.
    pub(crate) fn start_cold(&mut self) {
        let Some(admitted) = &mut self.admitted else { return };
        let facts = self.node.table().start_cold(admitted.facts.id);
        if let Some(facts) = facts {
            admitted.facts = facts;
        }
    }

    /// Nothing was started: gives everything back, then answers the callers.
    pub(crate) fn refuse(mut self, refusal: Refusal) {
        self.release(Some(refusal));
    }

    fn release(&mut self, refusal: Option<Refusal>) {
        let Some(admitted) = self.admitted.take() else { return };
        self.node.table().not_launched(admitted.facts.id);
        if let Some(refusal) = refusal {
            refuse(&admitted.answer, refusal);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The task that gave up the start answers the callers.
        let failed = std::thread::panicking();
        self.release(failed.then(|| RefusalKind::CannotStart.because("its agent failed to start it")));
    }
}

/// Answers the callers, unless they have an answer.
pub(crate) fn refuse(answer: &watch::Sender<Option<SpawnOutcome>>, refusal: Refusal) {
    answer.send_if_modified(|answer| {
        let unanswered = answer.is_none();
        if unanswered {
            *answer = Some(SpawnOutcome::Refused(refusal));
        }
        unanswered
    });
}

/// A process that was just started. Unless it is taken over, it is ended at once: its start came too late. What it holds is given
/// back when it is gone.
#[derive(Debug)]
pub(crate) struct StartedProcess {
    node: Arc<Node>,
    facts: Arc<Facts>,
    body: Option<Body>,
    hold: Option<Hold>,
}

impl StartedProcess {
    pub(crate) fn new(node: Arc<Node>, facts: Arc<Facts>, body: Body, hold: Option<Hold>) -> Self {
        Self { node, facts, body: Some(body), hold }
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        match self.body.as_ref()? {
            Body::Process(process) => Some(process),
            Body::Nothing { .. } => None,
        }
    }

    /// Another start of a spawn that has a driver.
    pub(crate) fn take(mut self) -> Option<Body> {
        self.body.take()
    }

    /// The first start of a spawn: publishes it. `None` when its start was given up; the process is ended then.
    pub(crate) fn launched(mut self, now: Instant) -> Option<(Body, Admitted)> {
        let pid = self.body.as_ref()?.pid();
        // Only now, so that what follows a refusal still ends the process before anything is given back.
        let hold = self.hold.as_mut()?;
        let admitted = hold.admitted.take()?;
        if !self.node.table().launched(admitted.facts.id, pid, now) {
            hold.admitted = Some(admitted);
            return None;
        }
        Some((self.body.take()?, admitted))
    }

    fn id(&self) -> SpawnId {
        self.facts.id
    }
}

impl Drop for StartedProcess {
    fn drop(&mut self) {
        let Some(Body::Process(process)) = self.body.take() else { return };
        let (node, hold, id) = (Arc::clone(&self.node), self.hold.take(), self.id());
        let server = self.facts.process_id();
        let request = self.facts.origin.request_id.as_ref().map(ToString::to_string);
        tracing::warn!(spawn.id = %id, requestId = request, pid = process.pid(), "a process started after its start was given up, it is ended");
        process.signal(Signal::Kill);
        self.node.runtime.spawn(async move {
            process.ended().await;
            match process.group().cloned() {
                Some(group) => group.remove().await,
                None => node.leftovers.of(server),
            }
            node.state.journal.gone(id);
            node.state.journal.gone(server);
            drop(hold);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use model::RendererType;

    use super::*;
    use crate::config::{Config, Launcher};
    use crate::disk::Disk;
    use crate::logs::{Bounds, Logs};
    use crate::state::StateDir;
    use crate::table::entrance::{Admission, SpawnSpec};

    fn node(dir: &tempfile::TempDir) -> Arc<Node> {
        let mut config = Config::new("n".parse().unwrap(), Launcher::Nothing, dir.path().to_owned());
        config.ports = 19_200..=19_299;
        config.gpus = 1;
        config.gpu_slots = 1;
        let any = "127.0.0.1:1".parse().unwrap();
        let disk = Disk::new().unwrap();
        let state = StateDir::open(dir.path(), disk.state.clone()).unwrap();
        let logs = Logs::open(state.logs().to_owned(), &Default::default(), Bounds::of(config.keep_ended));
        Arc::new(Node::new(config, disk, state, logs, None, any, any).unwrap())
    }

    fn admit(node: &Arc<Node>) -> (Hold, watch::Receiver<Option<SpawnOutcome>>) {
        let renderer = RendererType::Ssr;
        let ask = SpawnSpec {
            id: SpawnId::mint(),
            renderer,
            labels: Default::default(),
            tags: Default::default(),
            owner: None,
            origin: Default::default(),
            endpoint_form: None,
            max_life: None,
            max_idle: None,
        };
        let admission = node.table().admit(ask, Instant::now());
        match admission {
            Admission::New(admitted, answer) => {
                node.table().begin_start(admitted.facts.id).unwrap();
                (Hold::new(Arc::clone(node), admitted), answer)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Ports, GPU slots, starts under way and spawns.
    fn taken(node: &Node) -> (usize, u32, usize, usize) {
        let table = node.table();
        let usage = table.usage();
        (usage.ports, usage.gpu_slots, table.starting(), table.running())
    }

    #[tokio::test]
    async fn a_start_that_returns_early_or_panics_gives_everything_back() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(&dir);
        for panics in [false, true] {
            let (hold, answer) = admit(&node);
            assert_eq!(taken(&node), (1, 1, 1, 1));
            let ended = catch_unwind(AssertUnwindSafe(move || {
                let _hold = hold;
                assert!(!std::hint::black_box(panics), "as it should");
            }));
            assert_eq!(ended.is_err(), panics);
            assert_eq!(taken(&node), (0, 0, 0, 0));
            let answer = answer.borrow();
            match &*answer {
                Some(SpawnOutcome::Refused(refusal)) => {
                    assert_eq!((panics, refusal.kind), (true, RefusalKind::CannotStart))
                }
                None => assert!(!panics, "the callers wait for nothing"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_start_that_was_given_up_publishes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(&dir);
        let (hold, _answer) = admit(&node);
        let facts = hold.facts().unwrap();
        let id = facts.id;
        node.table().give_up_start(id);
        assert_eq!(taken(&node), (1, 1, 0, 0), "what it holds stays taken");
        let body = Body::Nothing { ended: None, until: Instant::now() };
        let started = StartedProcess::new(Arc::clone(&node), facts, body, Some(hold));
        assert!(started.launched(Instant::now()).is_none());
        assert_eq!((taken(&node), node.table().backlog_len()), ((0, 0, 0, 0), 0));
    }
}
