use super::*;

fn crash() -> StartFailure {
    StartFailure { reason: "exit code 6".to_owned(), conclusive: false, whole_node: false }
}

fn failing() -> Health {
    let mut health = Health::default();
    assert_eq!(health.fail(1_000, &crash(), None, 0.0), HealthChange::None);
    assert_eq!(health.fail(2_000, &crash(), None, 0.0), HealthChange::Failing);
    health
}

#[test]
fn two_failures_in_a_row_make_a_node_failing_and_three_successes_make_it_ok() {
    let mut health = failing();
    assert_eq!((health.since, health.failures, health.next_probe), (2_000, 2, 2_900));
    assert!(!health.is_probe_due(2_899) && health.is_probe_due(2_900));
    for _ in 1..SUCCESSES_UNTIL_OK {
        assert_eq!(health.succeed(3_000), HealthChange::None);
        assert!(health.is_probe_due(3_000), "nothing is gained by waiting");
    }
    assert_eq!(health.succeed(3_000), HealthChange::Recovered);
    assert_eq!(health, Health::default());
}

#[test]
fn a_success_between_two_failures_forgives_the_first() {
    let mut health = Health::default();
    health.fail(1_000, &crash(), None, 0.0);
    health.succeed(1_500);
    assert_eq!(health.fail(2_000, &crash(), None, 0.0), HealthChange::None);
    let late = 2_000 + ms(FAILURE_MEMORY) + 1;
    assert_eq!(health.fail(late, &crash(), None, 0.0), HealthChange::None, "so does time");
    let conclusive = StartFailure { conclusive: true, ..crash() };
    assert_eq!(Health::default().fail(1, &conclusive, None, 0.0), HealthChange::Failing);
}

#[test]
fn pauses_between_probes_double_up_to_a_minute() {
    let mut health = failing();
    let mut now = health.next_probe;
    for expected in [1_800, 3_600, 7_200, 14_400, 28_800, 54_000, 54_000] {
        health.probe(now, Duration::from_secs(60));
        assert!(!health.is_probe_due(now + 59_999) && health.is_probe_due(now + 60_000), "a lost outcome");
        assert_eq!(health.fail(now, &crash(), None, 0.0), HealthChange::None);
        assert_eq!(health.next_probe - now, expected);
        now = health.next_probe;
    }
    assert_eq!(pause(9, 1.0), 42_000);
    health.release(now + 1);
    assert!(health.is_probe_due(now + 1));
}

#[test]
fn a_burst_of_failures_is_one_for_the_pause() {
    let mut health = failing();
    for late in 1..20 {
        health.fail(2_000 + late * 10, &crash(), None, 0.0);
    }
    assert_eq!((health.failures, health.failed_probes, health.next_probe), (21, 0, 2_900));
    // One of them was the probe: its lease is over.
    health.probe(2_900, Duration::from_secs(60));
    health.fail(3_000, &crash(), None, 0.0);
    assert_eq!((health.failed_probes, health.next_probe), (1, 4_800));
}

#[test]
fn one_early_end_is_enough_for_probation_and_a_server_that_outlives_it_ends_it() {
    let lived = Some(Duration::from_secs(1));
    let mut health = Health::default();
    assert_eq!(health.fail(1_000, &crash(), lived, 0.0), HealthChange::None, "it is said to be ok");
    assert!(health.is_avoided() && !health.is_probe_due(1_899) && health.is_probe_due(1_900));
    health.probe(1_900, Duration::from_secs(60));
    assert!(!health.is_probe_due(1_901), "one at a time");
    health.succeed(2_000);
    assert!(health.is_avoided(), "that server was started before");
    health.succeed(3_900);
    assert_eq!(health, Health::default());
}

#[test]
fn a_second_early_end_makes_a_node_failing_until_servers_live_again() {
    let lived = Some(Duration::from_secs(1));
    let mut health = Health::default();
    health.fail(1_000, &crash(), lived, 0.0);
    assert_eq!(health.fail(2_900, &crash(), lived, 0.0), HealthChange::Failing);
    assert_eq!((health.hold, health.successes), (2_000, 0));
    health.succeed(5_900);
    assert_eq!((health.successes, health.next_probe), (1, 5_900), "it has been waited for already");
    health.fail(6_900, &crash(), Some(Duration::from_secs(9)), 0.0);
    assert_eq!((health.hold, health.successes), (ms(MAX_HOLD), 0));
}

#[test]
fn the_longest_pause_and_the_successes_after_it_take_less_than_65_seconds() {
    assert!(pause(16, 0.0) + u64::from(SUCCESSES_UNTIL_OK) * ms(MAX_HOLD) < 64_000);
}
