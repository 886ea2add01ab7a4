//! Orders that come while the machine is starting a server. The machine stands in for the kernel, and takes as long for a start as a test wants.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::simulated::{Job, Machine, Server, SimulatedMachine};
use agent::{Launcher, OnShutdown};
use model::RendererType;
use wire::v1;

use crate::harness::{Farm, until};

/// Shorter than an order waits for starts, and much longer than it takes otherwise.
const AT_ONCE: Duration = Duration::from_millis(300);

/// A machine whose starts come to nothing, and not before they are released.
#[derive(Debug)]
struct SlowMachine {
    begun: AtomicBool,
    over: AtomicBool,
    released: Mutex<Receiver<()>>,
}

impl SlowMachine {
    /// The machine, and what releases its next start.
    fn new() -> (Arc<Self>, SyncSender<()>) {
        let (release, released) = sync_channel(1);
        let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
        (Arc::new(Self { begun, over, released: Mutex::new(released) }), release)
    }
}

impl Machine for SlowMachine {
    fn boot(&self) -> String {
        "first".to_owned()
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn run(&self, _lane: &'static str, job: Job) {
        job();
    }

    fn start(&self, _arguments: Vec<String>, _log: &Path) -> io::Result<Arc<dyn Server>> {
        self.begun.store(true, Ordering::SeqCst);
        // A test that has failed releases it as well.
        self.released.lock().unwrap().recv().ok();
        self.over.store(true, Ordering::SeqCst);
        Err(io::ErrorKind::Other.into())
    }

    fn servers(&self) -> Vec<Arc<dyn Server>> {
        Vec::new()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordon_is_answered_when_no_warm_server_is_being_started_any_more() {
    let (machine, release) = SlowMachine::new();
    let launcher = Launcher::Simulated(SimulatedMachine(Arc::clone(&machine) as Arc<dyn Machine>));
    let farm = Farm::start_with(|config| {
        config.launcher = launcher;
        config.warm = [(RendererType::Csr, 1)].into();
    })
    .await;
    until("a start has begun", async || machine.begun.load(Ordering::SeqCst).then_some(())).await;
    {
        let mut cordon = std::pin::pin!(farm.set_eligibility(v1::Eligibility::Cordoned));
        let early = tokio::time::timeout(AT_ONCE, &mut cordon).await;
        assert!(early.is_err(), "the cordon was answered, and a server is still to start");
        release.send(()).unwrap();
        cordon.await;
    }
    assert!(machine.over.load(Ordering::SeqCst));
    farm.shutdown(OnShutdown::Kill).await;
}
