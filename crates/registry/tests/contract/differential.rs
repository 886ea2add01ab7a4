//! Both registries are one: the same random operations, at the same times, give the same answers, events and records.
//!
//! Time stands still but for the steps of the test. The embedded registry lives on a runtime whose clock is paused, Redis on a
//! clock that is frozen, and both move by whole seconds. Nothing that the operations do leaves a choice to chance: no two nodes
//! have the same load, and chance decides nothing but the pause until a probe, which a seed makes the same.

mod agents;
mod compare;

use std::time::Duration;

use model::{Drain, Eligibility, RendererType, SpawnId, StartFailure, TicketId, Timestamp, Timing};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use registry::{Foreseen, IdempotencyKey, Outcome, Outcomes, Reserve, Reserved, Standing};
use uuid::Uuid;

use self::agents::Node;
use self::compare::{Pair, Server};
use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

fn timing() -> Timing {
    Timing {
        stale: SECOND * 3,
        down: SECOND * 10,
        reservation: SECOND * 6,
        idempotency: SECOND * 60,
        claim: SECOND * 5,
        place: SECOND * 4,
        history: SECOND * 40,
        history_count: 1000,
        history_bytes: 64 << 20,
        audit_count: 100,
        events_count: 100_000,
        forget: SECOND * 60,
    }
}

/// What can happen. Numbers choose among what is there, modulo how many there are.
#[derive(Debug, Clone)]
enum Op {
    /// Seconds pass; agents that are not silent send heartbeats, and front doors sweep.
    Pass(u8),
    /// So many seconds in which nothing asks the registry.
    Absence(u8),
    Reserve {
        demand: u8,
        ticket: Option<u8>,
        avoid: Option<u8>,
        probed: bool,
        owner: Option<u8>,
    },
    Release(u8),
    ReleaseById(u8),
    Abandon(u8),
    /// The agent admits a reservation.
    Admit(u8),
    /// A spawn comes into its next state, or ends.
    Go(u8, Next),
    Beat(u8),
    /// An agent is not heard any more, or again.
    Silence(u8),
    Restart(u8),
    /// Another machine claims a node's name.
    Intrude(u8),
    Order(u8, Desired),
    RestoreOrder(u8, u8),
    Forget(u8),
    Learn {
        node: u8,
        renderer: RendererType,
        outcome: Learned,
    },
    SameEverywhere,
    KeepPlaces,
    LeaveLine(u8),
    Claim(u8, u8, u8),
    Settle(u8, u8, bool),
    Permit(u8),
    Wipe,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    Ready,
    Connected,
    Suspect,
    Disconnected,
    Extended,
    Stopped,
    Vanished,
}

#[derive(Debug, Clone, Copy)]
enum Desired {
    Eligible,
    Cordoned,
    Draining,
}

#[derive(Debug, Clone, Copy)]
enum Learned {
    Ready,
    Nothing,
    Failed { conclusive: bool, whole_node: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let any = any::<u8>;
    let renderer = prop_oneof![Just(RendererType::Csr), Just(RendererType::Ssr)];
    let learned = prop_oneof![
        3 => Just(Learned::Ready),
        1 => Just(Learned::Nothing),
        3 => (proptest::bool::ANY, proptest::bool::ANY)
            .prop_map(|(conclusive, whole_node)| Learned::Failed { conclusive, whole_node }),
    ];
    let next = prop_oneof![
        3 => Just(Next::Ready),
        1 => Just(Next::Suspect),
        2 => Just(Next::Connected),
        1 => Just(Next::Disconnected),
        1 => Just(Next::Extended),
        2 => Just(Next::Stopped),
        1 => Just(Next::Vanished),
    ];
    let desired =
        prop_oneof![2 => Just(Desired::Eligible), 1 => Just(Desired::Cordoned), 1 => Just(Desired::Draining)];
    let few = proptest::option::weighted(0.2, 0..4_u8);
    let reserve = (any(), proptest::option::weighted(0.3, 0..5_u8), few.clone(), proptest::bool::ANY, few);
    prop_oneof![
        8 => (1..=2_u8).prop_map(Op::Pass),
        1 => (3..=14_u8).prop_map(Op::Absence),
        14 => reserve.prop_map(|(demand, ticket, avoid, probed, owner)| {
            Op::Reserve { demand, ticket, avoid, probed, owner }
        }),
        2 => any().prop_map(Op::Release),
        1 => any().prop_map(Op::ReleaseById),
        2 => any().prop_map(Op::Abandon),
        9 => any().prop_map(Op::Admit),
        10 => (any(), next).prop_map(|(n, next)| Op::Go(n, next)),
        3 => any().prop_map(Op::Beat),
        2 => any().prop_map(Op::Silence),
        1 => any().prop_map(Op::Restart),
        1 => any().prop_map(Op::Intrude),
        2 => (any(), desired).prop_map(|(n, desired)| Op::Order(n, desired)),
        1 => (any(), any()).prop_map(|(n, step)| Op::RestoreOrder(n, step)),
        1 => any().prop_map(Op::Forget),
        5 => (any(), renderer, learned).prop_map(|(node, renderer, outcome)| Op::Learn { node, renderer, outcome }),
        1 => Just(Op::SameEverywhere),
        3 => Just(Op::KeepPlaces),
        1 => (0..5_u8).prop_map(Op::LeaveLine),
        2 => (0..3_u8, 0..2_u8, 0..2_u8).prop_map(|(key, print, who)| Op::Claim(key, print, who)),
        2 => (0..3_u8, 0..2_u8, proptest::bool::ANY).prop_map(|(key, who, answer)| Op::Settle(key, who, answer)),
        1 => any().prop_map(Op::Permit),
        1 => Just(Op::Wipe),
    ]
}

/// All that goes on outside of the registries.
struct World<'a> {
    pair: Pair<'a>,
    nodes: Vec<Node>,
    /// Reservations that no agent has admitted: spawn, renderer, node, owner.
    reserved: Vec<(SpawnId, RendererType, usize, Option<String>)>,
    tickets: Vec<TicketId>,
    keys: Vec<IdempotencyKey>,
    prints: Vec<Uuid>,
    claimants: Vec<Uuid>,
}

fn pick<T>(list: &[T], n: u8) -> Option<usize> {
    (!list.is_empty()).then(|| usize::from(n) % list.len())
}

const OWNERS: [&str; 2] = ["key:ann", "jwt:bob"];

impl<'a> World<'a> {
    fn new(server: &'a Server) -> Self {
        let mut world = Self {
            pair: Pair::new(server, timing()),
            nodes: Node::all(),
            reserved: Vec::new(),
            tickets: (0..5).map(|_| TicketId::mint()).collect(),
            keys: (0..3).map(|n| format!("key-{n}").parse().unwrap()).collect(),
            prints: (0..2).map(|_| Uuid::new_v4()).collect(),
            claimants: (0..2).map(|_| Uuid::new_v4()).collect(),
        };
        world.beat_all();
        world.sweep();
        world
    }

    /// As front doors do once a second.
    fn sweep(&mut self) {
        self.pair.both(async |registry, _| registry.sweep().await.unwrap());
    }

    fn beat_all(&mut self) {
        for node in &mut self.nodes {
            if !node.silent {
                node.report(&mut self.pair, true);
            }
        }
    }

    fn reserve(
        &mut self,
        demand: u8,
        ticket: Option<u8>,
        avoid: Option<u8>,
        probed: bool,
        owner: Option<u8>,
    ) {
        let ask = match demand % 4 {
            0 | 1 => csr(),
            2 => ssr(),
            _ => csr().label("sdk", "2"),
        };
        let renderer = ask.demand.renderer;
        let mut ask = Reserve { probed, ..ask };
        if demand >= 128 {
            ask = ask.pack();
        }
        if let Some(ticket) = ticket {
            ask = ask.place(self.tickets[usize::from(ticket)]);
        }
        if let Some(node) = avoid {
            ask = ask.avoid(self.nodes[usize::from(node) % self.nodes.len()].agent.node.as_str());
        }
        let owner = owner.map(|n| OWNERS[usize::from(n) % OWNERS.len()].to_owned());
        if let Some(owner) = &owner {
            ask = ask.of(owner, 3);
        }
        let spawn = ask.spawn;
        let foreseen = self.pair.both(async |registry, _| registry.forecast(&ask).await.unwrap());
        let answer = self.pair.both(async |registry, _| registry.reserve(&ask).await.unwrap());
        if ask.place.is_none() && !has_come_true(&foreseen.outcome, &answer) {
            self.pair
                .differences
                .push(format!("{foreseen:?} was foreseen, and a reserve came to {answer:?}"));
        }
        if let Reserved::Slot(slot) = answer {
            let node = self.nodes.iter().position(|node| node.agent.node == slot.node).unwrap();
            self.reserved.push((spawn, renderer, node, owner));
        }
    }

    fn learn(&mut self, node: u8, renderer: RendererType, learned: Learned) {
        let node = self.nodes[usize::from(node) % self.nodes.len()].agent.node.clone();
        let outcome = match learned {
            Learned::Ready => Outcome::Ready,
            Learned::Nothing => Outcome::Nothing,
            Learned::Failed { conclusive, whole_node } => {
                Outcome::Failed(StartFailure { reason: "no license".to_owned(), conclusive, whole_node })
            }
        };
        let outcomes = Outcomes { renderer, same_everywhere: None, starts: vec![(node, outcome)] };
        self.pair.both(async |registry, _| registry.learn(&outcomes).await.unwrap());
    }

    fn order(&mut self, n: u8, desired: Desired) {
        let node = self.nodes[usize::from(n) % self.nodes.len()].agent.node.clone();
        self.pair.both(async |registry, _| {
            let now = registry.now().await.unwrap();
            let drain = Drain { deadline: now.after(SECOND * 30), reason: None, by: None, started_at: now };
            let (eligibility, drain) = match desired {
                Desired::Eligible => (Eligibility::Eligible, None),
                Desired::Cordoned => (Eligibility::Cordoned, None),
                Desired::Draining => (Eligibility::Draining, Some(&drain)),
            };
            let number = registry.set_eligibility(&node, eligibility, drain, Some("key:ops")).await.unwrap();
            // The number is a time.
            number.map(Timestamp::from_millis)
        });
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Pass(seconds) => {
                for _ in 0..seconds {
                    self.pair.pass(1);
                    self.beat_all();
                    self.sweep();
                }
            }
            Op::Absence(seconds) => {
                self.pair.pass(u64::from(seconds));
                self.sweep();
            }
            Op::Reserve { demand, ticket, avoid, probed, owner } => {
                self.reserve(demand, ticket, avoid, probed, owner);
            }
            Op::Release(n) => {
                let Some(n) = pick(&self.reserved, n) else { return };
                let (spawn, _, node, _) = self.reserved.swap_remove(n);
                let node = &self.nodes[node].agent.node;
                self.pair.both(async |registry, _| registry.release(node, spawn).await.unwrap());
            }
            Op::ReleaseById(n) => {
                let Some(n) = pick(&self.reserved, n) else { return };
                let (spawn, ..) = self.reserved.swap_remove(n);
                self.pair.both(async |registry, _| registry.release_by_id(spawn).await.unwrap());
            }
            Op::Abandon(n) => {
                let Some(n) = pick(&self.reserved, n) else { return };
                let (spawn, _, node, _) = self.reserved.swap_remove(n);
                let node = &self.nodes[node].agent.node;
                self.pair.both(async |registry, _| registry.abandon(node, spawn).await.unwrap());
            }
            Op::Admit(n) => {
                let Some(n) = pick(&self.reserved, n) else { return };
                let (spawn, renderer, node, owner) = self.reserved.swap_remove(n);
                self.nodes[node].admit(&mut self.pair, spawn, renderer, owner);
            }
            Op::Go(n, next) => {
                let node = usize::from(n) % self.nodes.len();
                self.nodes[node].go(&mut self.pair, n, next);
            }
            Op::Beat(n) => {
                let node = usize::from(n) % self.nodes.len();
                self.nodes[node].report(&mut self.pair, true);
            }
            Op::Silence(n) => {
                let node = usize::from(n) % self.nodes.len();
                self.nodes[node].silent = !self.nodes[node].silent;
            }
            Op::Restart(n) => {
                let node = usize::from(n) % self.nodes.len();
                self.nodes[node].agent = self.nodes[node].agent.restarted();
            }
            Op::Intrude(n) => {
                let node = usize::from(n) % self.nodes.len();
                self.nodes[node].intrude(&mut self.pair);
            }
            Op::Order(n, desired) => self.order(n, desired),
            Op::RestoreOrder(n, step) => {
                let node = self.nodes[usize::from(n) % self.nodes.len()].agent.node.clone();
                self.pair.both(async |registry, _| {
                    let now = registry.now().await.unwrap().millis();
                    let number = now + u64::from(step) * 100 - 10_000;
                    registry.restore_order(&node, Eligibility::Cordoned, None, number).await.unwrap()
                });
            }
            Op::Forget(n) => {
                let node = self.nodes[usize::from(n) % self.nodes.len()].agent.node.clone();
                self.pair.both(async |registry, _| registry.forget(&node, Some("key:ops")).await.unwrap());
            }
            Op::Learn { node, renderer, outcome } => self.learn(node, renderer, outcome),
            Op::SameEverywhere => {
                let same_everywhere = Some(same("no license server"));
                let outcomes = Outcomes { renderer: RendererType::Csr, same_everywhere, starts: Vec::new() };
                self.pair.both(async |registry, _| registry.learn(&outcomes).await.unwrap());
            }
            Op::KeepPlaces => {
                let tickets = &self.tickets;
                self.pair.both(async |registry, _| registry.keep_places(tickets).await.unwrap());
            }
            Op::LeaveLine(n) => {
                let ticket = self.tickets[usize::from(n)];
                self.pair.both(async |registry, _| registry.leave_line(&[ticket]).await.unwrap());
            }
            Op::Claim(key, print, who) => {
                let (key, print) = (&self.keys[usize::from(key)], self.prints[usize::from(print)]);
                let who = self.claimants[usize::from(who)];
                self.pair.both(async |registry, _| registry.claim(key, print, who).await.unwrap());
            }
            Op::Settle(key, who, answer) => {
                let (key, who) = (&self.keys[usize::from(key)], self.claimants[usize::from(who)]);
                let answer = answer.then_some(("an answer", SECOND * 20));
                self.pair.both(async |registry, _| registry.settle(key, who, answer).await.unwrap());
            }
            Op::Permit(n) => {
                let owner = OWNERS[usize::from(n) % OWNERS.len()].parse().unwrap();
                self.pair.both(async |registry, _| registry.permit(&owner, 20).await.unwrap());
            }
            Op::Wipe => {
                self.pair.wipe();
                self.sweep();
            }
        }
    }
}

/// Whether a reserve came to what was foreseen. That a node is watched is found out only when its slot is taken.
fn has_come_true(foreseen: &Foreseen, answer: &Reserved) -> bool {
    match (foreseen, answer) {
        (Foreseen::Slot { node, standing }, Reserved::Slot(slot)) => {
            *node == slot.node
                && (*standing == slot.standing
                    || (*standing, slot.standing) == (Standing::Good, Standing::Watched))
        }
        (Foreseen::NoMatch { known }, Reserved::NoMatch { known: truly, .. }) => known == truly,
        (Foreseen::Full, Reserved::Full) | (Foreseen::OverQuota, Reserved::OverQuota) => true,
        _ => false,
    }
}

#[test]
fn the_same_operations_give_the_same_answers_events_and_records() {
    let server = Server::start();
    let config = Config { cases: 30, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&proptest::collection::vec(op(), 30..90), |ops| {
        let mut world = World::new(&server);
        for op in &ops {
            world.pair.note(op);
            world.run(op);
            world.pair.compare();
            prop_assert!(world.pair.differences.is_empty(), "{}", world.pair.differences.join("\n"));
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
