//! Looks at the processes of a farm again and again, while it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hatchery_tests::Farm;
use hatchery_tests::processes::{self, Process};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// A thread that looks.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) looks: usize,
    /// The most processes of one node at once.
    pub(super) most: usize,
    /// Nodes with more processes than slots, and which.
    pub(super) over: Vec<String>,
}

impl Watch {
    /// Looks whether a node ever has more processes than these slots.
    pub(super) fn over(farm: &Farm, slots: usize) -> Self {
        let nodes =
            farm.agents.iter().map(|agent| (format!("{}/", agent.liveliness.addr), agent.node.clone()));
        let look = Look { mark: farm.mark().to_owned(), nodes: nodes.collect() };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                seen.looks += 1;
                for (node, servers) in look.servers() {
                    if servers.len() <= slots {
                        seen.most = seen.most.max(servers.len());
                        continue;
                    }
                    // One look takes a while. Those that are there before and after it were there at once.
                    let again = look.servers().remove(&node).unwrap_or_default();
                    let at_once: Vec<_> = servers.intersection(&again).collect();
                    seen.most = seen.most.max(at_once.len());
                    if at_once.len() > slots {
                        seen.over.push(format!("{node}: {at_once:?}"));
                    }
                }
                thread::park_timeout(PAUSE);
            }
            seen
        });
        Self { stop, thread }
    }

    /// What was seen.
    pub(super) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().expect("it looks until it is stopped")
    }
}

struct Look {
    mark: PathBuf,
    /// Nodes by where their servers report.
    nodes: BTreeMap<String, String>,
}

impl Look {
    /// The servers of each node: number, and the id that each was started with.
    fn servers(&self) -> BTreeMap<String, BTreeSet<(u32, String)>> {
        let mut servers: BTreeMap<String, BTreeSet<(u32, String)>> = BTreeMap::new();
        for process in processes::marked(&self.mark) {
            if let Some((node, server)) = self.server(&process) {
                servers.entry(node).or_default().insert(server);
            }
        }
        servers
    }

    fn server(&self, process: &Process) -> Option<(String, (u32, String))> {
        let report = process.option("--liveliness-endpoint")?;
        let (_, node) = self.nodes.iter().find(|(report_to, _)| report.contains(report_to.as_str()))?;
        Some((node.clone(), (process.pid, process.option("--id")?.to_owned())))
    }
}
