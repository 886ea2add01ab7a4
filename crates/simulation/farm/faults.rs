//! What goes wrong, drawn from the seed before the run: when, what, where, and for how long.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::callers::CALLERS;
use crate::farm::{DOORS, Farm, NODES};
use crate::network::{Host, Network};
use crate::registry_way::REGISTRY;
use crate::trouble::Part;

/// A cut that waits for a start waits no longer than this.
const ARMED: Duration = Duration::from_secs(5);

/// After a cut a packet takes this much longer at the most.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// And for so long.
const RECOVERY: Duration = Duration::from_secs(3);

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Nothing arrives on this way; on the way back only if both are cut.
    Cut { from: Host, to: Host, both: bool, lasts: Duration },
    /// The way between a front door and a node is cut as soon as a server is started there.
    CutAtStart { door: Host, node: Host, sends: bool, both: bool, lasts: Duration },
    /// A way takes longer.
    Slow { from: Host, to: Host, by: Duration, lasts: Duration },
    /// Of a thousand packets so many are lost.
    Loss { per_mille: u32, lasts: Duration },
    /// An agent is killed, and started again after this time.
    AgentCrash { node: Host, back: Duration },
    /// An agent is restarted in good order.
    AgentRestart { node: Host },
    /// A front door is killed, and started again.
    DoorCrash { door: Host, back: Duration },
    /// A machine with everything on it loses its power.
    PowerLoss { node: Host, back: Duration },
    /// The registry answers nobody.
    RegistryAway { lasts: Duration },
    /// The registry fails over to a replica that lacks its last writes.
    RegistryBack { lacks: Duration, away: Duration },
    /// The registry loses everything.
    RegistryWiped { away: Duration },
    /// Most servers that are started on a node fail.
    Failing { node: Host, lasts: Duration },
    /// A node's disk is slow.
    SlowDisk { node: Host, by: Duration, lasts: Duration },
    /// An operator sets the clock of all machines.
    ClockStep { millis: i64 },
}

impl Fault {
    fn random(random: &mut fastrand::Rng) -> Self {
        let node = NODES[random.usize(..NODES.len())];
        let door = DOORS[random.usize(..DOORS.len())];
        let lasts = Duration::from_millis(random.u64(200..12_000));
        // Also longer than a server may be silent.
        let longest = if random.bool() { 9_000 } else { 14_000 };
        let back = Duration::from_millis(random.u64(50..longest));
        let (mut from, mut to) = match random.u32(..4) {
            0 => (door, node),
            1 => (node, REGISTRY),
            2 => (door, REGISTRY),
            _ => (CALLERS, door),
        };
        if random.bool() {
            std::mem::swap(&mut from, &mut to);
        }
        match random.u32(..21) {
            17..19 => {
                let lasts = Duration::from_millis(random.u64(1_000..20_000));
                Self::CutAtStart { door, node, sends: random.bool(), both: random.u32(..3) > 0, lasts }
            }
            // Longer than a call that has ended may leave anything behind.
            19..21 => {
                let lasts = Duration::from_millis(random.u64(8_000..16_000));
                let (from, to) = if random.u32(..3) == 0 { (node, door) } else { (door, node) };
                Self::Cut { from, to, both: random.bool(), lasts }
            }
            0..3 => Self::Cut { from, to, both: random.bool(), lasts },
            3 => Self::Slow { from, to, by: Duration::from_millis(random.u64(20..1500)), lasts },
            4 => Self::Loss { per_mille: random.u32(10..200), lasts },
            5..8 => Self::AgentCrash { node, back },
            8 => Self::AgentRestart { node },
            9..11 => Self::DoorCrash { door, back },
            11 => Self::PowerLoss { node, back: back * 2 },
            12 => Self::RegistryAway { lasts },
            13 => Self::RegistryBack { lacks: Duration::from_millis(random.u64(100..5000)), away: back / 3 },
            14 => Self::RegistryWiped { away: back / 3 },
            15 => Self::Failing { node, lasts },
            _ if random.bool() => {
                Self::SlowDisk { node, by: Duration::from_millis(random.u64(50..1200)), lasts }
            }
            _ => Self::ClockStep { millis: random.i64(-3_600_000..3_600_000) },
        }
    }
}

impl Fault {
    /// The parts that it concerns.
    fn parts(self) -> Vec<Part> {
        match self {
            Self::Cut { from, to, .. } | Self::Slow { from, to, .. } => vec![Part::way(from, to)],
            Self::CutAtStart { door, node, .. } => vec![Part::way(door, node)],
            Self::AgentCrash { node, .. }
            | Self::AgentRestart { node }
            | Self::PowerLoss { node, .. }
            | Self::Failing { node, .. }
            | Self::SlowDisk { node, .. } => vec![Part::Machine(node)],
            Self::DoorCrash { door, .. } => vec![Part::Machine(door)],
            Self::Loss { .. } => vec![Part::Network],
            Self::RegistryAway { .. } | Self::RegistryBack { .. } | Self::RegistryWiped { .. } => {
                vec![Part::Registry]
            }
            Self::ClockStep { .. } => Vec::new(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A run's faults, in order.
pub(crate) fn plan(random: &mut fastrand::Rng, within: Duration) -> Vec<(Duration, Fault)> {
    let count = match random.u32(..16) {
        0..2 => 0,
        2..4 => random.usize(10..25),
        _ => random.usize(1..8),
    };
    let last = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let mut plan: Vec<(Duration, Fault)> =
        (0..count).map(|_| (Duration::from_millis(random.u64(500..last)), Fault::random(random))).collect();
    plan.sort_by_key(|(at, _)| *at);
    plan
}

/// Carries a plan out, which began at `began`. Returns when all of it is over.
pub(crate) async fn carry_out(farm: Arc<Farm>, plan: Vec<(Duration, Fault)>, began: Instant) {
    let mut under_way = tokio::task::JoinSet::new();
    for (at, fault) in plan {
        sleep_until(began + at).await;
        farm.steps.note(format_args!("fault: {fault}"));
        under_way.spawn(suffer(Arc::clone(&farm), fault));
    }
    while under_way.join_next().await.is_some() {}
}

async fn suffer(farm: Arc<Farm>, fault: Fault) {
    let parts = fault.parts();
    farm.trouble.begin(&parts);
    go_wrong(&farm, fault).await;
    farm.trouble.end(&parts);
}

/// Cuts a way for some time. What waited for its end arrives bit by bit, as senders try again ever more rarely.
async fn cut(network: &Network, (from, to): (Host, Host), both: bool, lasts: Duration) {
    network.cut(from, to, true);
    if both {
        network.cut(to, from, true);
    }
    sleep(lasts).await;
    for (from, to) in [(from, to), (to, from)] {
        network.slow(from, to, (lasts / 16).min(MAX_PAUSE));
        network.cut(from, to, false);
    }
    sleep(RECOVERY).await;
    network.slow(from, to, Duration::ZERO);
    network.slow(to, from, Duration::ZERO);
}

async fn go_wrong(farm: &Arc<Farm>, fault: Fault) {
    let network = &farm.network;
    match fault {
        Fault::Cut { from, to, both, lasts } => {
            cut(network, (from, to), both, lasts).await;
        }
        Fault::CutAtStart { door, node, sends, both, lasts } => {
            let Some(machine) = farm.machine(node) else { return };
            if timeout(ARMED, machine.next_start()).await.is_err() {
                return;
            }
            let (from, to) = if sends { (door, node) } else { (node, door) };
            farm.steps.note(format_args!("the way from {from} to {to} is cut, both ways: {both}"));
            cut(network, (from, to), both, lasts).await;
        }
        Fault::Slow { from, to, by, lasts } => {
            network.slow(from, to, by);
            sleep(lasts).await;
            network.slow(from, to, Duration::ZERO);
        }
        Fault::Loss { per_mille, lasts } => {
            network.lose(per_mille);
            sleep(lasts).await;
            network.lose(0);
        }
        Fault::AgentCrash { node, back } => {
            farm.crash_agent(node);
            sleep(back).await;
            farm.start_agent(node).await;
        }
        Fault::AgentRestart { node } => {
            farm.stop_agent(node).await;
            farm.start_agent(node).await;
        }
        Fault::DoorCrash { door, back } => {
            farm.crash_door(door);
            sleep(back).await;
            farm.start_door(door);
        }
        Fault::PowerLoss { node, back } => {
            let Some(machine) = farm.machine(node) else { return };
            farm.promises.power_lost(node, &machine.running());
            network.darken(node, true);
            farm.crash_agent(node);
            machine.lose_power();
            sleep(back).await;
            network.darken(node, false);
            farm.start_agent(node).await;
        }
        Fault::RegistryAway { lasts } => {
            farm.availability.set_away(true);
            sleep(lasts).await;
            farm.availability.set_away(false);
        }
        Fault::RegistryBack { lacks, away } => {
            let copy = farm.registry.copy();
            sleep(lacks).await;
            farm.availability.set_away(true);
            farm.promises.registry_went_back();
            sleep(away).await;
            farm.steps.note(format_args!("the registry goes back to what it held before"));
            farm.registry.set_back(Some(&copy));
            farm.availability.set_away(false);
        }
        Fault::RegistryWiped { away } => {
            farm.availability.set_away(true);
            farm.promises.registry_went_back();
            sleep(away).await;
            farm.steps.note(format_args!("the registry has lost everything"));
            farm.registry.set_back(None);
            farm.availability.set_away(false);
        }
        Fault::Failing { node, lasts } => {
            let Some(machine) = farm.machine(node) else { return };
            machine.set_failing(90);
            sleep(lasts).await;
            machine.set_failing(0);
        }
        Fault::SlowDisk { node, by, lasts } => {
            let Some(machine) = farm.machine(node) else { return };
            machine.set_slow_disk(by);
            sleep(lasts).await;
            machine.set_slow_disk(Duration::ZERO);
        }
        Fault::ClockStep { millis } => simulation::step_clock(millis),
    }
}
