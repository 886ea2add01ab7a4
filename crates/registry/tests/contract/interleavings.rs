//! Random interleavings of everything front doors and agents do, against a model that is plain sets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{ExitReason, RendererType, SpawnId, Timing};
use proptest::prelude::*;
use registry::{Reserved, SpawnReport};

use crate::support::*;

const NODES: usize = 3;
const SLOTS: [u32; NODES] = [1, 2, 4];
/// Owners, and the most each may have at once.
const OWNERS: [(&str, u32); 2] = [("key:ann", 1), ("jwt:bob", 3)];
/// GPU slots of each node; none means that GPUs do not limit it.
const GPUS: [Option<u32>; NODES] = [None, Some(1), Some(2)];

#[derive(Debug, Clone)]
enum Op {
    Reserve {
        ssr: bool,
        pack: bool,
        owner: Option<usize>,
    },
    /// The agent admits the n-th open reservation, and may not know whose it is.
    Confirm(usize, bool),
    Release(usize),
    Abandon(usize),
    /// The agent reports the end of the n-th running spawn.
    End(usize),
    /// The agent loses the n-th running spawn without a word (it was killed, say).
    Vanish(usize),
    /// The agent finds the n-th spawn again that had vanished.
    Reappear(usize),
    Heartbeat(usize),
    /// Whoever holds reservations is dead: time passes until they expire.
    Expire,
    Cordon(usize),
    Uncordon(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..8usize;
    prop_oneof![
        8 => (any::<bool>(), any::<bool>(), proptest::option::of(0..OWNERS.len()))
            .prop_map(|(ssr, pack, owner)| Op::Reserve { ssr, pack, owner }),
        5 => (n.clone(), any::<bool>()).prop_map(|(n, knows)| Op::Confirm(n, knows)),
        2 => n.clone().prop_map(Op::Release),
        2 => n.clone().prop_map(Op::Abandon),
        3 => n.clone().prop_map(Op::End),
        1 => n.clone().prop_map(Op::Vanish),
        1 => n.prop_map(Op::Reappear),
        3 => (0..NODES).prop_map(Op::Heartbeat),
        1 => Just(Op::Expire),
        1 => (0..NODES).prop_map(Op::Cordon),
        1 => (0..NODES).prop_map(Op::Uncordon),
    ]
}

#[derive(Default)]
struct Model {
    /// Reserved, given up or not, and not reported yet: spawn -> node, GPU.
    open: BTreeMap<SpawnId, (usize, bool)>,
    given_up: BTreeSet<SpawnId>,
    /// Reported by an agent and counted by the registry.
    running: BTreeMap<SpawnId, (usize, bool)>,
    /// Vanished, and not noticed before the node's next heartbeat.
    vanished: BTreeSet<SpawnId>,
    /// Vanished, noticed, and recorded as ended.
    gone: BTreeMap<SpawnId, (usize, bool)>,
    cordoned: BTreeSet<usize>,
    /// Of all that there ever were.
    owners: BTreeMap<SpawnId, usize>,
}

impl Model {
    /// A heartbeat of the node shows which spawns have vanished.
    fn notice(&mut self, node: usize) {
        for spawn in self.vanished.clone() {
            if self.running.get(&spawn).is_some_and(|(n, _)| *n == node) {
                self.vanished.remove(&spawn);
                self.gone.extend(self.running.remove_entry(&spawn));
            }
        }
    }

    fn used(&self, node: usize) -> (u32, u32) {
        let held = self.open.values().chain(self.running.values()).filter(|(n, _)| *n == node);
        held.fold((0, 0), |(slots, gpus), (_, gpu)| (slots + 1, gpus + u32::from(*gpu)))
    }

    /// What counts against an owner's quota.
    fn owned(&self, owner: usize) -> u32 {
        let held = self.open.keys().chain(self.running.keys());
        u32::try_from(held.filter(|spawn| self.owners.get(spawn) == Some(&owner)).count()).unwrap()
    }

    /// The nodes a reserve may choose.
    fn best(&self, ssr: bool, pack: bool) -> BTreeSet<usize> {
        let load = |node: usize| {
            let (used, gpus) = self.used(node);
            let slots = f64::from(used) / f64::from(SLOTS[node]);
            match GPUS[node] {
                Some(total) if ssr => slots.max(f64::from(gpus) / f64::from(total)),
                _ => slots,
            }
        };
        let room = |node: &usize| {
            let (used, gpus) = self.used(*node);
            !self.cordoned.contains(node)
                && used < SLOTS[*node]
                && (!ssr || GPUS[*node].is_none_or(|total| gpus < total))
        };
        let open: Vec<usize> = (0..NODES).filter(room).collect();
        let loads = open.iter().map(|n| load(*n));
        let best = if pack { loads.fold(f64::MIN, f64::max) } else { loads.fold(f64::MAX, f64::min) };
        open.into_iter().filter(|n| (load(*n) - best).abs() < 1e-12).collect()
    }
}

fn nth<V: Copy>(map: &BTreeMap<SpawnId, V>, n: usize) -> Option<(SpawnId, V)> {
    if map.is_empty() { None } else { map.iter().nth(n % map.len()).map(|(k, v)| (*k, *v)) }
}

async fn run(farm: Farm, timing: &Timing, ops: Vec<Op>) {
    let name = |node: usize| format!("n{node}");
    let mut agents: Vec<Agent> = (0..NODES)
        .map(|n| {
            let agent = Agent::new(&name(n), SLOTS[n]).identified();
            GPUS[n].map_or(agent.clone(), |slots| agent.gpus(1, slots))
        })
        .collect();
    for agent in &mut agents {
        agent.beat(&farm).await;
    }
    let mut model = Model::default();
    let report = |spawn: SpawnId, gpu: bool, owner: Option<usize>| SpawnReport {
        gpu: gpu.then_some(0),
        owner: owner.map(|owner| OWNERS[owner].0.parse().unwrap()),
        ..ready(spawn)
    };
    for op in ops {
        match op.clone() {
            Op::Reserve { ssr: wants_gpu, pack, owner } => {
                let ask = if wants_gpu { ssr() } else { csr() };
                let ask = if pack { ask.pack() } else { ask };
                let ask = owner.map_or(ask.clone(), |owner| ask.of(OWNERS[owner].0, OWNERS[owner].1));
                let is_over = owner.is_some_and(|owner| model.owned(owner) >= OWNERS[owner].1);
                let best = model.best(wants_gpu, pack);
                match farm.reserve(&ask).await {
                    Reserved::Slot(got) => {
                        let node = (0..NODES).find(|n| name(*n) == got.node.as_str()).unwrap();
                        assert!(best.contains(&node), "{op:?} chose {node}, not one of {best:?}");
                        assert!(!is_over, "{op:?}");
                        model.owners.extend(owner.map(|owner| (got.spawn, owner)));
                        let gpu = ask.demand.renderer == RendererType::Ssr && GPUS[node].is_some();
                        model.open.insert(got.spawn, (node, gpu));
                    }
                    Reserved::Full => assert!(best.is_empty() && model.cordoned.len() < NODES),
                    Reserved::NoMatch { known, .. } => assert!(known && model.cordoned.len() == NODES),
                    Reserved::OverQuota => assert!(is_over, "{op:?}"),
                }
            }
            Op::Confirm(n, knows) => {
                let Some((spawn, (node, gpu))) = nth(&model.open, n) else { continue };
                model.open.remove(&spawn);
                model.running.insert(spawn, (node, gpu));
                let owner = model.owners.get(&spawn).copied().filter(|_| knows);
                agents[node].report(&farm, report(spawn, gpu, owner)).await;
            }
            Op::Release(n) => {
                let Some((spawn, (node, _))) = nth(&model.open, n) else { continue };
                model.open.remove(&spawn);
                farm.registry.release(&id(&name(node)), spawn).await.unwrap();
            }
            Op::Abandon(n) => {
                let Some((spawn, (node, _))) = nth(&model.open, n) else { continue };
                model.given_up.insert(spawn);
                farm.registry.abandon(&id(&name(node)), spawn).await.unwrap();
            }
            Op::End(n) => {
                let Some((spawn, (node, _))) = nth(&model.running, n) else { continue };
                model.running.remove(&spawn);
                model.vanished.remove(&spawn);
                agents[node].report(&farm, exited(spawn, ExitReason::Stopped)).await;
            }
            Op::Vanish(n) => {
                let Some((spawn, (node, _))) = nth(&model.running, n) else { continue };
                agents[node].spawns.retain(|s| s.id != spawn);
                model.vanished.insert(spawn);
            }
            Op::Reappear(n) => {
                let Some((spawn, (node, gpu))) = nth(&model.gone, n) else { continue };
                // Only so many, or a node would have more than its slots, which is its agent's business.
                let owner = model.owners.get(&spawn).copied();
                let is_over = owner.is_some_and(|owner| model.owned(owner) >= OWNERS[owner].1);
                if is_over || model.used(node).0 >= SLOTS[node] {
                    continue;
                }
                model.gone.remove(&spawn);
                agents[node].spawns.push(report(spawn, gpu, owner));
                agents[node].beat(&farm).await;
                model.notice(node);
                model.running.insert(spawn, (node, gpu));
            }
            Op::Heartbeat(node) => {
                let orders = agents[node].beat(&farm).await;
                model.notice(node);
                // Acknowledge what neither runs nor can start here any more.
                let here: Vec<SpawnId> = agents[node].spawns.iter().map(|s| s.id).collect();
                let gone = orders.abandoned.into_iter().chain(orders.expired);
                agents[node].forgotten = gone.filter(|s| !here.contains(s)).collect();
                agents[node].beat(&farm).await;
                model.open.retain(|spawn, (n, _)| *n != node || !model.given_up.contains(spawn));
            }
            Op::Expire => {
                farm.pass(timing.reservation).await;
                farm.registry.sweep().await.unwrap();
                model.open.clear();
            }
            Op::Cordon(node) | Op::Uncordon(node) => {
                let close = matches!(op, Op::Cordon(_));
                let wanted = if close { model::Eligibility::Cordoned } else { model::Eligibility::Eligible };
                assert!(
                    farm.registry
                        .set_eligibility(&id(&name(node)), wanted, None, None)
                        .await
                        .unwrap()
                        .is_some()
                );
                if close {
                    model.cordoned.insert(node)
                } else {
                    model.cordoned.remove(&node)
                };
            }
        }
        for (node, slots) in SLOTS.into_iter().enumerate() {
            assert_eq!(farm.used(&name(node)).await, model.used(node), "node {node} after {op:?}");
            assert!(model.used(node).0 <= slots);
        }
        for (owner, (name, most)) in OWNERS.into_iter().enumerate() {
            let owned = model.owned(owner);
            assert!(owned <= most);
            // Before a refusal would have it looked at again.
            assert!(farm.owned(name).await.is_none_or(|counted| counted == owned), "{name} after {op:?}");
            assert_eq!(
                farm.reserve(&csr().of(name, owned)).await,
                Reserved::OverQuota,
                "{name} after {op:?}"
            );
            match farm.reserve(&csr().of(name, owned + 1)).await {
                Reserved::OverQuota => panic!("{name} has less than that after {op:?}"),
                Reserved::Slot(slot) => farm.registry.release(&slot.node, slot.spawn).await.unwrap(),
                Reserved::Full | Reserved::NoMatch { .. } => {}
            }
        }
    }

    // Everything ends; nothing may be left.
    if !model.open.is_empty() {
        farm.pass(timing.reservation).await;
    }
    farm.registry.sweep().await.unwrap();
    for agent in &mut agents {
        for spawn in agent.spawns.clone() {
            agent.report(&farm, exited(spawn.id, ExitReason::Stopped)).await;
        }
        let orders = agent.beat(&farm).await;
        agent.forgotten = [orders.abandoned, orders.expired].concat();
        let orders = agent.beat(&farm).await;
        assert!(orders.abandoned.is_empty() && orders.expired.is_empty());
    }
    for node in 0..NODES {
        assert_eq!(farm.used(&name(node)).await, (0, 0), "node {node} at the end");
        let open = model::Eligibility::Eligible;
        assert!(farm.registry.set_eligibility(&id(&name(node)), open, None, None).await.unwrap().is_some());
    }
    for (name, _) in OWNERS {
        farm.take(&csr().of(name, 1)).await;
    }
}

/// Nodes never go silent here; the other suites look at that.
fn timing(reservation: Duration) -> Timing {
    Timing { stale: Duration::from_secs(600), down: Duration::from_secs(1200), reservation, ..TIMING }
}

fn runtime(paused: bool) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_oversubscribes_or_leaks_in_the_embedded_registry(
        ops in proptest::collection::vec(op(), 1..80)
    ) {
        // No other process is involved, so time may be made to pass.
        let timing = timing(Duration::from_secs(60));
        runtime(true).block_on(async { run(Farm::embedded_with(timing.clone()), &timing, ops).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_oversubscribes_or_leaks_in_redis(ops in proptest::collection::vec(op(), 1..60)) {
        // Reservations must not expire by themselves between two steps on a busy machine.
        let timing = timing(Duration::from_millis(900));
        let waits = ops.iter().filter(|op| matches!(op, Op::Expire)).count();
        prop_assume!(waits <= 1);
        runtime(false).block_on(async {
            let farm = Farm::redis_with(timing.clone()).await;
            run(farm, &timing, ops).await;
        });
    }
}
