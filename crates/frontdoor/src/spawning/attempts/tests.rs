use model::RendererType;
use proptest::prelude::*;

use super::*;

fn exit(reason: ExitReason, code: Option<i32>, signal: Option<&str>) -> AttemptFailure {
    let exit = Exit { reason, code, signal: signal.map(str::to_owned), text: None };
    AttemptFailure::Ended(Ended { exit, log: vec!["last line".to_owned()], was_ready: false })
}

fn code(code: i32) -> AttemptFailure {
    exit(ExitReason::Failed, Some(code), None)
}

fn not_ready() -> AttemptFailure {
    exit(ExitReason::ReadyTimeout, None, Some("SIGTERM"))
}

fn refused(reason: Reason) -> AttemptFailure {
    AttemptFailure::Refused { reason, detail: String::new() }
}

fn unreachable() -> AttemptFailure {
    AttemptFailure::Unreachable { why: "refused".to_owned() }
}

fn lost() -> AttemptFailure {
    AttemptFailure::Unanswered { why: "gone".to_owned(), deadline: false }
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn wanting(renderer: RendererType) -> Demand {
    Demand { renderer, pool: Some("cpu".to_owned()), labels: std::collections::BTreeMap::new() }
}

/// One request whose attempts fail like this on nodes `a`, `b`, …; all `Good`.
fn request(failures: &[AttemptFailure]) -> Attempts {
    let mut attempts = Attempts::new(wanting(RendererType::Csr));
    for (failure, name) in failures.iter().zip(["a", "b", "c", "d", "e"]) {
        attempts.begin(node(name), SpawnId::mint(), Standing::Good);
        attempts.fail(failure.clone(), TimeGiven::Enough);
    }
    attempts
}

fn succeed(attempts: &mut Attempts, name: &str, standing: Standing) {
    attempts.begin(node(name), SpawnId::mint(), standing);
    attempts.ready();
}

/// Nodes that are blamed, each with what is said of it.
fn blamed(attempts: &Attempts) -> Vec<(String, bool, bool)> {
    let Some(outcomes) = attempts.outcomes() else { return Vec::new() };
    let failed = |(node, outcome): &(NodeId, Outcome)| match outcome {
        Outcome::Failed(failure) => Some((node.to_string(), failure.conclusive, failure.whole_node)),
        Outcome::Ready | Outcome::Nothing => None,
    };
    outcomes.starts.iter().filter_map(failed).collect()
}

#[test]
fn every_failure_has_a_code_and_says_whether_it_counts_and_against_what() {
    let whole = Some((false, true));
    let renderer = Some((false, false));
    for (failure, expected, blame, costs) in [
        (code(3), "spawn-failed", renderer, true),
        (code(0), "spawn-failed", renderer, true),
        (code(6), "spawn-failed", whole, true),
        (code(7), "spawn-failed", whole, true),
        (code(2), "spawn-failed", None, true),
        (exit(ExitReason::Signaled, None, Some("SIGSEGV")), "spawn-failed", renderer, true),
        (exit(ExitReason::LivelinessLost, None, None), "spawn-failed", renderer, true),
        (exit(ExitReason::Stopped, None, Some("SIGTERM")), "spawn-failed", None, true),
        (exit(ExitReason::Cancelled, None, Some("SIGTERM")), "spawn-failed", None, true),
        (exit(ExitReason::Drained, None, Some("SIGTERM")), "spawn-failed", None, true),
        (not_ready(), "ready-timeout", Some((true, false)), true),
        (
            AttemptFailure::Unanswered { why: String::new(), deadline: true },
            "ready-timeout",
            Some((true, false)),
            true,
        ),
        (lost(), "node-unreachable", None, true),
        (unreachable(), "node-unreachable", None, false),
        (refused(Reason::LowMemory), "refused", whole, false),
        (refused(Reason::NoPort), "refused", whole, false),
        (refused(Reason::CannotStart), "refused", Some((true, true)), false),
        (refused(Reason::Full), "refused", None, false),
        (refused(Reason::GpusFull), "refused", None, false),
        (refused(Reason::NotEligible), "refused", None, false),
        (refused(Reason::RendererOff), "refused", None, false),
        (refused(Reason::Abandoned), "refused", None, false),
        (refused(Reason::ShuttingDown), "refused", None, false),
        (refused(Reason::WrongNode), "refused", None, false),
        (refused(Reason::StartsBusy), "ready-timeout", None, false),
        (refused(Reason::BadModel), "refused", None, false),
        (refused(Reason::Unspecified), "refused", None, false),
    ] {
        assert_eq!(failure.code(), expected, "{failure:?}");
        assert_eq!(failure.is_start(), costs, "{failure:?}");
        assert!(!failure.reason().is_empty(), "{failure:?}");
        let one = request(std::slice::from_ref(&failure));
        let expected: Vec<_> =
            blame.map(|(conclusive, whole)| ("a".to_owned(), conclusive, whole)).into_iter().collect();
        assert_eq!(blamed(&one), expected, "{failure:?}");
    }
}

#[test]
fn a_node_is_to_blame_when_another_does_better_and_none_is_when_all_fail_alike() {
    for (failures, success, guilty, same) in [
        (vec![code(3)], false, "a", false),
        (vec![code(3)], true, "a", false),
        (vec![code(3), code(3)], false, "", true),
        (vec![code(3), code(3)], true, "ab", false),
        (vec![code(3), code(4)], false, "ab", false),
        (vec![code(3), code(4), code(3)], false, "", true),
        (vec![not_ready(), not_ready()], false, "", true),
        (vec![refused(Reason::CannotStart), refused(Reason::CannotStart)], false, "", true),
        (vec![refused(Reason::CannotStart), refused(Reason::LowMemory)], false, "ab", false),
        (vec![refused(Reason::Full), refused(Reason::Full)], false, "", false),
        (vec![unreachable(), code(3)], true, "b", false),
        (vec![code(3), code(2)], false, "", false),
        (vec![code(3), refused(Reason::BadModel)], false, "", false),
        (vec![code(3), exit(ExitReason::Stopped, None, None)], false, "a", false),
    ] {
        let mut attempts = request(&failures);
        if success {
            succeed(&mut attempts, "z", Standing::Good);
        }
        let names: String = blamed(&attempts).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, guilty, "{failures:?} {success}");
        let alike = attempts.outcomes().and_then(|outcomes| outcomes.same_everywhere.map(|same| same.reason));
        assert_eq!(alike.is_some(), same, "{failures:?} {success}");
        if let Some(reason) = alike {
            assert_eq!(reason, failures[0].reason());
        }
    }
}

#[test]
fn what_ended_through_no_fault_of_a_node_is_the_answer_at_once() {
    for (failure, next) in [
        (code(2), Next::Answer),
        (refused(Reason::BadModel), Next::Answer),
        (exit(ExitReason::Stopped, None, None), Next::Answer),
        (exit(ExitReason::Cancelled, None, None), Next::Answer),
        (exit(ExitReason::Drained, None, None), Next::Answer),
        (code(6), Next::Another),
        (not_ready(), Next::Another),
        (lost(), Next::Another),
        (unreachable(), Next::Another),
        (refused(Reason::Full), Next::Another),
        (refused(Reason::WrongNode), Next::Another),
    ] {
        let mut attempts = Attempts::new(wanting(RendererType::Csr));
        attempts.begin(node("a"), SpawnId::mint(), Standing::Good);
        assert_eq!(attempts.fail(failure.clone(), TimeGiven::Enough), next, "{failure:?}");
        if next == Next::Answer {
            assert!(attempts.answer().is_some(), "{failure:?}");
        }
    }
}

#[test]
fn refusals_cost_nothing_and_the_third_start_is_the_last() {
    let mut attempts = Attempts::new(wanting(RendererType::Ssr));
    let mut fail = |name: String, failure: AttemptFailure| {
        attempts.begin(name.parse().unwrap(), SpawnId::mint(), Standing::Good);
        attempts.fail(failure, TimeGiven::Enough)
    };
    for i in 0..20 {
        assert_eq!(fail(format!("r{i}"), refused(Reason::LowMemory)), Next::Another);
    }
    assert_eq!(fail("a".into(), code(6)), Next::Another);
    assert_eq!(fail("b".into(), lost()), Next::Another);
    assert_eq!(fail("c".into(), code(3)), Next::Answer);
    assert!(!attempts.may_go_on());
    assert_eq!(attempts.listed().len(), 23);
    assert!(matches!(attempts.answer(), Some(SpawnError::Failed { node, .. }) if node.as_str() == "c"));
}

#[test]
fn the_answer_is_the_last_start_that_failed_and_a_refusal_only_where_nothing_was_started() {
    let answer = |failures: &[AttemptFailure]| match request(failures).answer() {
        Some(SpawnError::Failed { node, .. }) => format!("failed on {node}"),
        Some(SpawnError::NotReady { node, .. }) => format!("not ready on {node}"),
        Some(SpawnError::CannotStart { node, .. }) => format!("cannot start on {node}"),
        Some(other) => format!("{other:?}"),
        None => "what is short".to_owned(),
    };
    assert_eq!(answer(&[code(6), refused(Reason::Full)]), "failed on a");
    assert_eq!(answer(&[code(6), not_ready(), unreachable()]), "not ready on b");
    assert_eq!(answer(&[refused(Reason::CannotStart), refused(Reason::CannotStart)]), "cannot start on b");
    assert_eq!(answer(&[refused(Reason::CannotStart), refused(Reason::Full)]), "what is short");
    assert_eq!(answer(&[refused(Reason::StartsBusy), refused(Reason::Full)]), "not ready on a");
    assert_eq!(answer(&[code(6), refused(Reason::StartsBusy)]), "failed on a");
    assert_eq!(answer(&[unreachable()]), "what is short");
    assert_eq!(answer(&[lost()]), "what is short");
    assert_eq!(answer(&[code(6), lost()]), "failed on a");
    assert_eq!(answer(&[]), "what is short");
}

#[test]
fn only_what_the_registry_wants_to_know_is_reported() {
    let outcomes = |standing| {
        let mut attempts = Attempts::new(wanting(RendererType::Csr));
        succeed(&mut attempts, "a", standing);
        attempts.outcomes().map(|outcomes| outcomes.starts)
    };
    assert_eq!(outcomes(Standing::Good), None);
    for standing in [Standing::Watched, Standing::Probe, Standing::LastChoice] {
        assert_eq!(outcomes(standing), Some(vec![(node("a"), Outcome::Ready)]));
    }
}

#[test]
fn a_probe_that_says_nothing_is_given_back() {
    let mut attempts = Attempts::new(wanting(RendererType::Csr));
    attempts.begin(node("a"), SpawnId::mint(), Standing::Probe);
    let nothing = |name| Some(vec![(node(name), Outcome::Nothing)]);
    assert_eq!(attempts.outcomes().map(|o| o.starts), nothing("a"), "its caller left");
    attempts.fail(unreachable(), TimeGiven::Enough);
    assert_eq!(attempts.outcomes().map(|o| o.starts), nothing("a"));
    attempts.begin(node("b"), SpawnId::mint(), Standing::Good);
    assert_eq!(attempts.outcomes().map(|o| o.starts), nothing("a"), "nothing is known of a good node");
}

#[test]
fn a_probe_whose_server_ended_after_it_was_ready_is_tried_elsewhere_and_counted_by_its_agents_report_alone() {
    let after_ready = |reason| {
        let AttemptFailure::Ended(ended) = exit(reason, None, Some("SIGSEGV")) else { unreachable!() };
        AttemptFailure::Ended(Ended { was_ready: true, ..ended })
    };
    let mut attempts = Attempts::new(wanting(RendererType::Csr));
    attempts.begin(node("a"), SpawnId::mint(), Standing::Probe);
    assert_eq!(attempts.fail(after_ready(ExitReason::Signaled), TimeGiven::Enough), Next::Another);
    assert_eq!(attempts.outcomes(), None);
    assert!(attempts.answer().is_some(), "where there is no other node");
    // Its agent's report counts nothing then, so the probe may be repeated.
    let mut attempts = Attempts::new(wanting(RendererType::Csr));
    attempts.begin(node("a"), SpawnId::mint(), Standing::Probe);
    assert_eq!(attempts.fail(after_ready(ExitReason::Stopped), TimeGiven::Enough), Next::Answer);
    assert_eq!(attempts.outcomes().map(|o| o.starts), Some(vec![(node("a"), Outcome::Nothing)]));
}

#[test]
fn a_start_that_had_no_time_is_not_held_against_its_node() {
    let mut attempts = Attempts::new(wanting(RendererType::Csr));
    attempts.begin(node("a"), SpawnId::mint(), Standing::Good);
    attempts.fail(not_ready(), TimeGiven::TooLittle);
    assert_eq!(attempts.outcomes(), None);
    attempts.begin(node("b"), SpawnId::mint(), Standing::Good);
    attempts.fail(code(3), TimeGiven::TooLittle);
    assert_eq!(blamed(&attempts), [("b".to_owned(), false, false)]);
}

#[test]
fn an_exit_is_explained_by_text_signal_or_reason_and_its_code() {
    use ExitReason::{Failed, Signaled, Stopped};
    let of = |reason, code, signal: Option<&str>, text: Option<&str>| {
        explain(&Exit { reason, code, signal: signal.map(str::to_owned), text: text.map(str::to_owned) })
    };
    assert_eq!(of(Failed, Some(6), None, Some("invalid license")), "invalid license (exit code 6)");
    assert_eq!(of(Failed, Some(7), None, None), "invalid license file (exit code 7)");
    assert_eq!(of(Signaled, None, Some("SIGSEGV"), None), "exited because of signal=SIGSEGV");
    assert_eq!(of(Stopped, None, Some("SIGTERM"), None), "stopped");
}

fn any_failure() -> impl Strategy<Value = AttemptFailure> {
    prop_oneof![
        (0..10_i32).prop_map(code),
        Just(not_ready()),
        Just(lost()),
        Just(unreachable()),
        (0..13_i32).prop_map(|n| refused(Reason::try_from(n).unwrap())),
        Just(exit(ExitReason::Stopped, None, None)),
    ]
}

proptest! {
    #[test]
    fn a_request_names_each_node_once_and_starts_on_three_at_the_most(
        tries in proptest::collection::vec((0..8_usize, any_failure()), 0..40),
        success in any::<bool>(),
    ) {
        let mut attempts = Attempts::new(wanting(RendererType::Csr));
        let mut started = 0;
        for (name, failure) in &tries {
            if !attempts.may_go_on() {
                break;
            }
            attempts.begin(node(&format!("n{name}")), SpawnId::mint(), Standing::Watched);
            started += usize::from(failure.is_start());
            if attempts.fail(failure.clone(), TimeGiven::Enough) == Next::Answer {
                prop_assert!(attempts.answer().is_some() || !attempts.may_go_on());
                break;
            }
        }
        prop_assert!(started <= MAX_STARTED);
        if success && attempts.may_go_on() {
            succeed(&mut attempts, "n0", Standing::Watched);
            prop_assert!(attempts.outcomes().is_none_or(|outcomes| outcomes.same_everywhere.is_none()));
        }
        let names: Vec<_> = attempts.listed().into_iter().map(|attempt| attempt.node).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        prop_assert_eq!(names.len(), distinct.len());
        if let Some(outcomes) = attempts.outcomes() {
            let distinct: std::collections::BTreeSet<_> = outcomes.starts.iter().map(|start| &start.0).collect();
            prop_assert_eq!(outcomes.starts.len(), distinct.len());
            let failed = |start: &(NodeId, Outcome)| matches!(start.1, Outcome::Failed(_));
            if outcomes.same_everywhere.is_some() {
                prop_assert!(!outcomes.starts.iter().any(failed), "no node is to blame");
            }
        }
    }
}
