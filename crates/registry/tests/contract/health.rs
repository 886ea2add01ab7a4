//! Node health: the outcomes of starts decide where the next ones go.

use std::time::Duration;

use model::{
    AgentEpoch, Eligibility, EventKind, Exit, ExitReason, HealthState, NodeHealth, RendererType, SpawnId,
    StartFailure, TicketId,
};
use registry::{Outcome, Outcomes, Reserved, SpawnReport, Standing};

use crate::on_all;
use crate::support::*;

fn crash() -> StartFailure {
    StartFailure { reason: "exit code 6".to_owned(), conclusive: false, whole_node: false }
}

pub(crate) fn failed() -> Outcome {
    Outcome::Failed(crash())
}

fn conclusive() -> Outcome {
    Outcome::Failed(StartFailure { conclusive: true, ..crash() })
}

fn of_the_node() -> Outcome {
    Outcome::Failed(StartFailure { reason: "invalid license".to_owned(), conclusive: true, whole_node: true })
}

async fn learn_for(farm: &Farm, renderer: RendererType, node: &str, outcome: Outcome) {
    let starts = vec![(id(node), outcome)];
    farm.registry.learn(&Outcomes { renderer, same_everywhere: None, starts }).await.unwrap();
}

pub(crate) async fn learn(farm: &Farm, node: &str, outcome: Outcome) {
    learn_for(farm, RendererType::Csr, node, outcome).await;
}

/// Makes a node failing, and its probe due.
async fn sicken(farm: &Farm, node: &str) {
    learn(farm, node, conclusive()).await;
    learn(farm, node, Outcome::Nothing).await;
}

pub(crate) async fn health(farm: &Farm, node: &str) -> NodeHealth {
    farm.registry.node(&id(node)).await.unwrap().unwrap().health
}

/// The machine may be busy while the spawn ends.
fn ended_after_a_second(health: &NodeHealth, how: &str) -> bool {
    let reason = health.reason.as_deref().unwrap_or_default();
    reason.starts_with("csr: ended 1.") && reason.ends_with(&format!(" s after it was ready: {how}"))
}

async fn is_failing(farm: &Farm, node: &str) -> bool {
    health(farm, node).await.state == HealthState::Failing
}

/// Where a start goes, and how the node stands; the slot is given back.
pub(crate) async fn chosen(farm: &Farm, ask: registry::Reserve) -> (String, Standing) {
    let got = farm.take(&ask).await;
    farm.registry.release(&got.node, got.spawn).await.unwrap();
    (got.node.to_string(), got.standing)
}

fn to(node: &str, standing: Standing) -> (String, Standing) {
    (node.to_owned(), standing)
}

on_all! {
    async fn a_node_that_fails_twice_gets_nothing_while_another_has_room(farm: &Farm) {
        Agent::new("sick", 8).beat(farm).await;
        Agent::new("good", 2).beat(farm).await;
        farm.take(&csr().avoid("sick")).await;
        assert_eq!(chosen(farm, csr()).await, to("sick", Standing::Good), "it looks empty");
        learn(farm, "sick", failed()).await;
        assert_eq!(chosen(farm, csr()).await, to("sick", Standing::Watched), "once may be an accident");
        assert_eq!(health(farm, "sick").await, NodeHealth::default());
        learn(farm, "sick", failed()).await;
        assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good));
        let seen = health(farm, "sick").await;
        assert_eq!((seen.state, seen.failures), (HealthState::Failing, Some(2)));
        assert_eq!(seen.reason.as_deref(), Some("csr: exit code 6"));
        let until = seen.next_probe_at.unwrap().since(seen.since.unwrap());
        assert!((Duration::from_millis(700)..=Duration::from_millis(950)).contains(&until), "{until:?}");
        assert_eq!(chosen(farm, ssr()).await, to("sick", Standing::Good), "the other renderer is another thing");
    }
}

on_all! {
    async fn a_failing_node_is_the_last_choice_and_full_means_that_it_is_full_too(farm: &Farm) {
        Agent::new("sick", 1).beat(farm).await;
        Agent::new("good", 1).beat(farm).await;
        learn(farm, "sick", conclusive()).await;
        assert_eq!(farm.take(&csr()).await.node, id("good"));
        let last = farm.take(&csr()).await;
        assert_eq!((last.node, last.standing), (id("sick"), Standing::LastChoice), "whenever its probe is");
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
        farm.registry.release(&id("sick"), last.spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr().avoid("sick")).await, Reserved::Full);
        farm.registry.set_eligibility(&id("sick"), Eligibility::Cordoned, None, None).await.unwrap();
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
        farm.registry.set_eligibility(&id("sick"), Eligibility::Eligible, None, None).await.unwrap();
        assert_eq!(chosen(farm, csr()).await, to("sick", Standing::LastChoice));
    }
}

on_all! {
    async fn when_all_nodes_are_failing_none_is_excluded(farm: &Farm) {
        for name in ["a", "b", "c"] {
            Agent::new(name, 2).beat(farm).await;
            learn(farm, name, conclusive()).await;
        }
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let got = farm.take(&csr()).await;
            assert_eq!(got.standing, Standing::LastChoice);
            nodes.push(got.node.to_string());
        }
        nodes.sort();
        assert_eq!(nodes, ["a", "a", "b", "b", "c", "c"]);
    }
}

on_all! {
    async fn a_probe_is_one_start_at_a_time_and_three_successes_end_it(farm: &Farm) {
        Agent::new("sick", 8).beat(farm).await;
        Agent::new("good", 8).beat(farm).await;
        let from_here = farm.registry.position().await.unwrap();
        sicken(farm, "sick").await;
        for success in 1..=3 {
            assert_eq!(chosen(farm, csr()).await, to("sick", Standing::Probe), "success {success}");
            assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good), "while the probe is under way");
            learn(farm, "sick", Outcome::Ready).await;
        }
        assert_eq!(health(farm, "sick").await, NodeHealth::default());
        let events = farm.registry.follow(from_here, Duration::ZERO).await.unwrap().events;
        let news: Vec<_> = events.iter().map(|event| (event.kind, event.data["health"].clone())).collect();
        let [(EventKind::NodeFailing, first), (EventKind::NodeRecovered, last)] = &news[..] else {
            panic!("{news:?}")
        };
        let first: NodeHealth = serde_json::from_value(first.clone()).unwrap();
        assert_eq!((first.state, first.reason.as_deref()), (HealthState::Failing, Some("csr: exit code 6")));
        assert!(first.next_probe_at > first.since && first.failures == Some(1), "{first:?}");
        assert_eq!(*last, serde_json::json!({"state": "ok"}));
        assert_eq!(chosen(farm, csr().pack()).await.1, Standing::Good);
    }
}

on_all! {
    async fn a_probe_that_fails_is_followed_by_a_longer_pause(farm: &Farm) {
        let mut agents = [Agent::new("sick", 8), Agent::new("good", 8)];
        for agent in &mut agents {
            agent.beat(farm).await;
        }
        sicken(farm, "sick").await;
        let since = health(farm, "sick").await.since;
        for pause in [1_800, 3_600, 7_200] {
            assert_eq!(chosen(farm, csr()).await, to("sick", Standing::Probe));
            // Failures that follow each other faster are one for the pauses.
            farm.pass(model::health::ONE_FAILURE).await;
            for agent in &mut agents {
                agent.beat(farm).await;
            }
            let before = farm.registry.now().await.unwrap();
            learn(farm, "sick", failed()).await;
            let seen = health(farm, "sick").await;
            let next = seen.next_probe_at.unwrap().since(before).as_millis();
            assert!((pause * 7 / 10..=pause + 250).contains(&next), "{next} of {pause}");
            assert_eq!(seen.since, since);
            assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good));
            learn(farm, "sick", Outcome::Nothing).await;
        }
        assert_eq!(health(farm, "sick").await.failures, Some(4));
    }
}

on_all! {
    async fn a_request_has_its_second_try_elsewhere_and_makes_one_probe_at_the_most(farm: &Farm) {
        for name in ["one", "two", "good"] {
            Agent::new(name, 1).beat(farm).await;
        }
        sicken(farm, "one").await;
        sicken(farm, "two").await;
        let (first, standing) = chosen(farm, csr()).await;
        assert_eq!(standing, Standing::Probe);
        let second_try = registry::Reserve { probed: true, ..csr().avoid(&first) };
        assert_eq!(chosen(farm, second_try).await, to("good", Standing::Good));
        let good = farm.take(&csr().avoid("one").avoid("two")).await;
        // Without another node for a second try it is no probe, and no other node's is put off.
        let (node, standing) = chosen(farm, csr()).await;
        assert_eq!(standing, Standing::LastChoice);
        farm.registry.release(&good.node, good.spawn).await.unwrap();
        let (second, standing) = chosen(farm, csr()).await;
        assert_eq!(standing, Standing::Probe, "{node}");
        assert_ne!(second, first);
    }
}

on_all! {
    async fn a_failing_node_that_was_not_tried_does_not_hold_up_the_probe_of_another(farm: &Farm) {
        for name in ["unreachable", "mended", "good"] {
            Agent::new(name, 1).beat(farm).await;
        }
        sicken(farm, "unreachable").await;
        sicken(farm, "mended").await;
        assert_eq!(chosen(farm, csr().avoid("unreachable")).await, to("mended", Standing::Probe));
    }
}

on_all! {
    async fn a_full_failing_node_is_no_probe(farm: &Farm) {
        Agent::new("sick", 1).beat(farm).await;
        Agent::new("good", 4).beat(farm).await;
        let held = farm.take(&csr().avoid("good")).await;
        sicken(farm, "sick").await;
        assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good));
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        assert_eq!(chosen(farm, csr()).await, to("sick", Standing::Probe));
    }
}

on_all! {
    async fn a_failure_of_the_whole_node_counts_for_both_renderers_and_so_does_a_success_after_it(farm: &Farm) {
        Agent::new("sick", 8).beat(farm).await;
        Agent::new("good", 8).beat(farm).await;
        Agent::new("half", 8).renderers(true, false).beat(farm).await;
        learn(farm, "sick", of_the_node()).await;
        learn(farm, "half", of_the_node()).await;
        assert_eq!(health(farm, "sick").await.reason.as_deref(), Some("invalid license"));
        assert_eq!(health(farm, "half").await.reason.as_deref(), Some("csr: invalid license"));
        for ask in [csr(), ssr()] {
            assert_eq!(chosen(farm, ask).await, to("good", Standing::Good));
        }
        for _ in 0..3 {
            assert!(is_failing(farm, "sick").await);
            learn(farm, "sick", Outcome::Ready).await;
        }
        assert!(!is_failing(farm, "sick").await, "what was wrong with the node is mended");

        learn_for(farm, RendererType::Ssr, "sick", conclusive()).await;
        for _ in 0..3 {
            learn(farm, "sick", Outcome::Ready).await;
        }
        assert_eq!(health(farm, "sick").await.reason.as_deref(), Some("ssr: exit code 6"), "a cause of its own");
    }
}

/// Starts a server on a node, which says ready and then ends.
async fn ends(farm: &Farm, agent: &mut Agent, lived: Duration, exit: Exit) {
    let spawn = SpawnId::mint();
    agent.report(farm, SpawnReport { ready: Some(lived), ..ready(spawn) }).await;
    let end = SpawnReport { exit: Some(exit), ready: Some(lived), ..exited(spawn, ExitReason::Failed) };
    agent.report(farm, end).await;
}

on_all! {
    async fn servers_that_end_by_failure_soon_after_they_were_ready_count_against_their_node(farm: &Farm) {
        let mut agent = Agent::new("a", 8);
        agent.beat(farm).await;
        let second = Duration::from_secs(1);
        let exit = |reason| Exit { reason, code: None, signal: None, text: None };
        for reason in [
            ExitReason::Disconnected,
            ExitReason::Stopped,
            ExitReason::Drained,
            ExitReason::Cancelled,
            ExitReason::InitialUseTimeout,
            ExitReason::NodeLost,
        ] {
            for _ in 0..3 {
                ends(farm, &mut agent, second, exit(reason)).await;
            }
            assert_eq!(chosen(farm, csr()).await.1, Standing::Good, "{reason}");
        }
        for _ in 0..3 {
            ends(farm, &mut agent, 10 * second, exit(ExitReason::Failed)).await;
        }
        assert_eq!(chosen(farm, csr()).await.1, Standing::Good, "it has lived long enough");

        let signal = Exit { signal: Some("SIGSEGV".to_owned()), ..exit(ExitReason::Signaled) };
        ends(farm, &mut agent, second, signal).await;
        assert_eq!(chosen(farm, csr()).await.1, Standing::LastChoice);
        assert_eq!(health(farm, "a").await, NodeHealth::default(), "one may be an accident");
        learn(farm, "a", Outcome::Ready).await;
        assert_eq!(chosen(farm, csr()).await.1, Standing::LastChoice, "the next one may end as early");
        let said = Exit { text: Some("lost the GPU".to_owned()), code: Some(9), ..exit(ExitReason::Failed) };
        ends(farm, &mut agent, 3 * second / 2, said).await;
        let seen = health(farm, "a").await;
        assert!(ended_after_a_second(&seen, "lost the GPU"), "{seen:?}");
        let code = Exit { code: Some(9), ..exit(ExitReason::Failed) };
        ends(farm, &mut agent, second, code).await;
        let seen = health(farm, "a").await;
        assert!(ended_after_a_second(&seen, "exit code 9"), "{seen:?}");
        ends(farm, &mut agent, second, exit(ExitReason::LivelinessLost)).await;
        let seen = health(farm, "a").await;
        assert!(ended_after_a_second(&seen, "liveliness-lost"), "{seen:?}");
        assert_eq!(seen.failures, Some(4));

        Agent::new("good", 8).beat(farm).await;
        learn(farm, "a", Outcome::Nothing).await;
        let probe = farm.take(&csr()).await;
        assert_eq!((probe.node, probe.standing), (id("a"), Standing::Probe));
        assert!(probe.proof >= 2 * second, "only then it is known that the server lives: {:?}", probe.proof);
        learn(farm, "a", Outcome::Ready).await;
        let next = farm.take(&csr()).await;
        assert_eq!((next.node, next.standing), (id("a"), Standing::Probe), "it has been waited for");
    }
}

on_all! {
    async fn after_one_early_end_a_node_gets_probes_alone_until_a_server_lives(farm: &Farm) {
        let mut agent = Agent::new("a", 8);
        agent.beat(farm).await;
        Agent::new("good", 8).beat(farm).await;
        farm.take(&csr().avoid("a")).await;
        let exit = Exit { reason: ExitReason::Failed, code: Some(1), signal: None, text: None };
        ends(farm, &mut agent, Duration::from_millis(20), exit.clone()).await;
        assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good), "although it looks empty");
        assert_eq!(chosen(farm, ssr()).await, to("a", Standing::Good), "the other renderer is another thing");
        assert_eq!(chosen(farm, csr().avoid("good")).await, to("a", Standing::LastChoice));
        assert_eq!(health(farm, "a").await, NodeHealth::default(), "one may be an accident");
        learn(farm, "a", Outcome::Nothing).await;
        let probe = farm.take(&csr()).await;
        assert_eq!((&probe.node, probe.standing), (&id("a"), Standing::Probe));
        assert!(probe.proof >= Duration::from_millis(40), "{:?}", probe.proof);
        assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good), "while the probe is under way");
        farm.pass(probe.proof).await;
        learn(farm, "a", Outcome::Ready).await;
        farm.registry.release(&probe.node, probe.spawn).await.unwrap();
        assert_eq!(chosen(farm, csr()).await, to("a", Standing::Good));
        ends(farm, &mut agent, Duration::from_millis(20), exit.clone()).await;
        ends(farm, &mut agent, Duration::from_millis(20), exit).await;
        assert!(is_failing(farm, "a").await, "two are none");
    }
}

on_all! {
    async fn a_new_life_of_its_agent_makes_a_probe_due_and_forgets_what_it_does_not_offer(farm: &Farm) {
        let mut sick = Agent::new("sick", 8);
        sick.beat(farm).await;
        Agent::new("good", 8).beat(farm).await;
        learn(farm, "sick", conclusive()).await;
        sick.beat(farm).await;
        assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good));
        let mut next = Agent { epoch: AgentEpoch::mint(), takeover: true, ..sick.clone() };
        next.beat(farm).await;
        assert_eq!(chosen(farm, csr()).await, to("sick", Standing::Probe));
        assert!(is_failing(farm, "sick").await);
        let mut other = Agent { epoch: AgentEpoch::mint(), takeover: true, ..next.renderers(false, true) };
        other.beat(farm).await;
        assert_eq!(health(farm, "sick").await, NodeHealth::default());
    }
}

on_all! {
    async fn a_node_that_was_away_or_has_another_kind_is_failing_still(farm: &Farm) {
        let mut sick = Agent::new("sick", 8);
        sick.beat(farm).await;
        let mut good = Agent::new("good", 8);
        good.beat(farm).await;
        sicken(farm, "sick").await;
        farm.becomes("sick", model::Availability::Stale).await;
        good.beat(farm).await;
        assert_eq!(chosen(farm, csr()).await, to("good", Standing::Good), "no probe of a silent node");
        let mut sick = sick.labels(&[("sdk", "2")]);
        sick.beat(farm).await;
        good.beat(farm).await;
        assert_eq!(chosen(farm, csr()).await, to("sick", Standing::Probe));
        assert_eq!(chosen(farm, csr().label("sdk", "2")).await, to("sick", Standing::LastChoice));
    }
}

on_all! {
    async fn what_was_mended_for_one_renderer_is_not_failing_for_one_without_requests(farm: &Farm) {
        Agent::new("a", 8).beat(farm).await;
        learn(farm, "a", of_the_node()).await;
        farm.pass(Duration::from_millis(10)).await;
        learn(farm, "a", failed()).await;
        for _ in 0..3 {
            learn(farm, "a", Outcome::Ready).await;
        }
        assert_eq!(health(farm, "a").await, NodeHealth::default());
    }
}

on_all! {
    async fn outcomes_of_nodes_that_are_not_known_are_left_alone(farm: &Farm) {
        for outcome in [failed(), Outcome::Ready, Outcome::Nothing] {
            learn(farm, "unknown", outcome).await;
        }
        assert!(farm.registry.nodes().await.unwrap().is_empty());
        assert!(matches!(farm.reserve(&csr()).await, Reserved::NoMatch { known: false, .. }));
    }
}

on_all! {
    async fn a_probe_does_not_overtake_those_who_wait(farm: &Farm) {
        let mut red = Agent::new("red", 1).labels(&[("colour", "red")]);
        red.beat(farm).await;
        Agent::new("blue", 8).labels(&[("colour", "blue")]).beat(farm).await;
        let held = farm.take(&csr().label("colour", "red")).await;
        let first = TicketId::mint();
        assert_eq!(farm.reserve(&csr().label("colour", "red").place(first)).await, Reserved::Full);
        sicken(farm, "red").await;
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        assert_eq!(chosen(farm, csr()).await, to("blue", Standing::Good), "that slot is the first waiter's");
        assert_eq!(farm.reserve(&csr().label("colour", "red")).await, Reserved::Full);
        let got = farm.take(&csr().label("colour", "red").place(first)).await;
        assert_eq!(got.standing, Standing::LastChoice);
        farm.registry.release(&got.node, got.spawn).await.unwrap();
        assert_eq!(chosen(farm, csr()).await, to("red", Standing::Probe));
    }
}

#[tokio::test]
async fn a_failing_node_that_stands_among_the_healthy_ones_is_not_chosen() {
    let farm = Farm::redis().await;
    Agent::new("sick", 8).beat(&farm).await;
    Agent::new("good", 2).beat(&farm).await;
    learn(&farm, "sick", conclusive()).await;
    // Scripts of the release before health put it there.
    farm.server().run("ZADD {hatchery:test}:open:default|:csr 0 sick").await;
    farm.take(&csr().avoid("sick")).await;
    farm.server().run("ZADD {hatchery:test}:open:default|:csr 0 sick").await;
    assert_eq!(chosen(&farm, csr()).await, to("good", Standing::Good));
}
