//! Health in Lua and in Rust is one machine.

use std::time::Duration;

use model::{Health, HealthState, RendererType, StartFailure};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use registry::{Outcome, Outcomes, Reserved, Standing};

use crate::servers::RedisServer;
use crate::support::*;

const DRIVER: &str = r"
local text, states, a = '', {}, 1
while a <= #ARGV do
  local h = read_health(text) or healthy()
  local what, at = ARGV[a], tonumber(ARGV[a + 1])
  if what == 'fail' then
    health_fail(h, at, ARGV[a + 2], ARGV[a + 3] == '1', tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5]))
  elseif what == 'succeed' then
    health_succeed(h, at)
  elseif what == 'release' then
    health_release(h, at)
  else
    health_renew(h, at)
  end
  text = write_health(h) or ''
  states[#states + 1] = text
  a = a + 6
end
return states
";

#[derive(Debug, Clone)]
enum Step {
    Fail { conclusive: bool, lived: Option<u64>, random: f64 },
    Succeed,
    Release,
    Renew,
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let lived = proptest::option::of(0..9_999u64);
    let step = prop_oneof![
        4 => (any::<bool>(), lived, 0.0..1.0f64)
            .prop_map(|(conclusive, lived, random)| Step::Fail { conclusive, lived, random }),
        4 => Just(Step::Succeed),
        1 => Just(Step::Release),
        1 => Just(Step::Renew),
    ];
    // Some of the times between steps are longer than a failure is remembered.
    (prop_oneof![8 => 0..4_000u64, 1 => 500_000..700_000u64], step)
}

fn written(health: &Health) -> String {
    if health.state == HealthState::Ok && health.failures == 0 {
        return String::new();
    }
    let Health { failures, successes, since, last, next_probe, failed_probes, hold, reason, .. } = health;
    let state = if health.state == HealthState::Failing { 'f' } else { 'o' };
    format!("{state}|{failures}|{successes}|{since}|{last}|{next_probe}|{failed_probes}|{hold}|{reason}")
}

/// What the machine in Rust comes to after each step, and the driver's arguments.
fn expected(steps: &[(u64, Step)]) -> (Vec<String>, Vec<String>) {
    let (mut health, mut now) = (Health::default(), 1_767_225_600_000);
    let (mut states, mut args) = (Vec::new(), Vec::new());
    for (n, (passed, step)) in steps.iter().enumerate() {
        now += passed;
        let mut arg = |words: [&str; 5]| {
            args.extend([words[0].to_owned(), now.to_string()]);
            args.extend(words[1..].iter().map(|word| (*word).to_owned()));
        };
        match step {
            Step::Fail { conclusive, lived, random } => {
                let reason = format!("failure | {n}\n");
                let text = lived.map(|lived| lived.to_string()).unwrap_or_default();
                let flag = if *conclusive { "1" } else { "0" };
                arg(["fail", &reason, flag, &text, &random.to_string()]);
                let failure = StartFailure { reason, conclusive: *conclusive, whole_node: false };
                health.fail(now, &failure, lived.map(Duration::from_millis), *random);
            }
            Step::Succeed => {
                arg(["succeed", "", "", "", ""]);
                health.succeed(now);
            }
            Step::Release => {
                arg(["release", "", "", "", ""]);
                health.release(now);
            }
            Step::Renew => {
                arg(["renew", "", "", "", ""]);
                health.renew(now);
            }
        }
        states.push(written(&health));
        if states.last().is_some_and(String::is_empty) {
            health = Health::default();
        }
    }
    (states, args)
}

#[tokio::test]
async fn the_machine_in_lua_takes_every_step_as_the_one_in_rust() {
    let redis = RedisServer::start().await;
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let script = ::redis::Script::new(&format!("{}{DRIVER}", include_str!("../../src/redis/lua/health.lua")));
    let mut runner = proptest::test_runner::TestRunner::default();
    for _ in 0..400 {
        let steps = proptest::collection::vec(step(), 1..60).new_tree(&mut runner).unwrap().current();
        let (states, args) = expected(&steps);
        let mut run = script.prepare_invoke();
        for arg in args {
            run.arg(arg);
        }
        let got: Vec<String> = run.invoke_async(&mut connection).await.unwrap();
        assert_eq!(got, states, "{steps:?}");
    }
}

/// What front doors see of three nodes, without times, which differ.
async fn seen(farm: &Farm) -> Vec<(String, Option<String>, Option<u32>)> {
    let nodes = farm.registry.nodes().await.unwrap();
    nodes.into_iter().map(|n| (n.health.state.to_string(), n.health.reason, n.health.failures)).collect()
}

#[derive(Debug, Clone)]
enum Op {
    Learn { node: usize, ssr: bool, outcome: Outcome },
    Everywhere,
    Reserve { ssr: bool, avoid: Option<usize> },
    NewLife(usize),
}

const NODES: [&str; 3] = ["a", "b", "c"];

fn op() -> impl Strategy<Value = Op> {
    let failure = (any::<bool>(), any::<bool>(), any::<u32>()).prop_map(|(conclusive, whole_node, n)| {
        Outcome::Failed(StartFailure { reason: format!("why {n}"), conclusive, whole_node })
    });
    let outcome = prop_oneof![3 => failure, 3 => Just(Outcome::Ready), 2 => Just(Outcome::Nothing)];
    prop_oneof![
        6 => (0..3usize, any::<bool>(), outcome)
            .prop_map(|(node, ssr, outcome)| Op::Learn { node, ssr, outcome }),
        1 => Just(Op::Everywhere),
        4 => (any::<bool>(), proptest::option::of(0..3usize))
            .prop_map(|(ssr, avoid)| Op::Reserve { ssr, avoid }),
        1 => (0..3usize).prop_map(Op::NewLife),
    ]
}

/// Does it, and says what came of it: the standing, where it does not depend on a random choice.
async fn does(farm: &Farm, agents: &mut [Agent], op: &Op) -> Option<Standing> {
    let renderer = |ssr: bool| if ssr { RendererType::Ssr } else { RendererType::Csr };
    match op {
        Op::Learn { node, ssr, outcome } => {
            let starts = vec![(id(NODES[*node]), outcome.clone())];
            let renderer = renderer(*ssr);
            farm.registry.learn(&Outcomes { renderer, same_everywhere: None, starts }).await.unwrap();
            None
        }
        Op::Everywhere => {
            let why = Some(same("everywhere"));
            let outcomes = Outcomes { renderer: RendererType::Csr, same_everywhere: why, starts: Vec::new() };
            farm.registry.learn(&outcomes).await.unwrap();
            None
        }
        Op::Reserve { ssr: wants, avoid } => {
            let ask = if *wants { ssr() } else { csr() };
            let ask = avoid.map_or(ask.clone(), |node| ask.avoid(NODES[node]));
            let Reserved::Slot(got) = farm.reserve(&ask).await else { panic!("there is room") };
            farm.registry.release(&got.node, got.spawn).await.unwrap();
            // A probe changes its node, which must be the same one in both; so it is taken back at once.
            if got.standing == Standing::Probe {
                let starts = vec![(got.node, Outcome::Nothing)];
                let renderer = renderer(*wants);
                farm.registry.learn(&Outcomes { renderer, same_everywhere: None, starts }).await.unwrap();
            }
            // Which of several healthy nodes is chosen is left to chance, and with it whether it is watched.
            Some(if got.standing == Standing::Watched { Standing::Good } else { got.standing })
        }
        Op::NewLife(node) => {
            let agent = &mut agents[*node];
            *agent = Agent { epoch: model::AgentEpoch::mint(), takeover: true, ..agent.clone() };
            agent.beat(farm).await;
            None
        }
    }
}

#[tokio::test]
async fn both_registries_judge_the_same_outcomes_alike() {
    // Nothing goes stale meanwhile.
    let timing = model::Timing { stale: Duration::from_secs(600), down: Duration::from_secs(1200), ..TIMING };
    let redis = RedisServer::start().await;
    let mut runner = proptest::test_runner::TestRunner::default();
    let (mut compared, mut probes) = (0, 0);
    for case in 0..120 {
        let ops = proptest::collection::vec(op(), 1..40).new_tree(&mut runner).unwrap().current();
        let farms = [
            Farm::embedded_with(timing.clone()),
            Farm::on_with(&redis.url(), &format!("case-{case}"), timing.clone()),
        ];
        let mut agents = [NODES.map(|name| Agent::new(name, 8)), NODES.map(|name| Agent::new(name, 8))];
        for (farm, agents) in farms.iter().zip(&mut agents) {
            for agent in agents {
                agent.beat(farm).await;
            }
        }
        let start = tokio::time::Instant::now();
        for op in &ops {
            let one = does(&farms[0], &mut agents[0], op).await;
            let other = does(&farms[1], &mut agents[1], op).await;
            let views = [seen(&farms[0]).await, seen(&farms[1]).await];
            let causes = [farms[0].registry.farm_cause().await, farms[1].registry.farm_cause().await]
                .map(|cause| cause.unwrap().map(|cause| cause.requests));
            // Later than this, probes become due at different moments.
            if start.elapsed() > Duration::from_millis(600) {
                break;
            }
            assert_eq!(one, other, "{op:?} of {ops:?}");
            assert_eq!(views[0], views[1], "after {op:?} of {ops:?}");
            assert_eq!(causes[0], causes[1], "after {op:?} of {ops:?}");
            compared += 1;
            probes += u32::from(one == Some(Standing::Probe));
        }
    }
    assert!(compared > 500 && probes > 10, "too slow a machine to compare anything: {compared}, {probes}");
}
