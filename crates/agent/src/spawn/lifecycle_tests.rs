use proptest::prelude::*;

use super::*;

const I: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(5);

fn rules() -> Rules {
    Rules { ping_interval: Some(I), stop_grace: GRACE }
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn silence_is_judged_in_ping_intervals() {
    for (interval, suspect, lost) in
        [(5000, 12_000, 17_000), (1000, 4000, 5000), (100, 2200, 2300), (600, 3200, 3800)]
    {
        let interval = Duration::from_millis(interval);
        assert_eq!(suspect_after(interval), Duration::from_millis(suspect));
        assert_eq!(lost_after(interval), Duration::from_millis(lost));
    }
}

#[test]
fn each_input_leads_where_the_diagram_says() {
    let now = Instant::now() + secs(1000);
    let launching = Phase::Launching { until: now + secs(1) };
    let overdue = Phase::Launching { until: now };
    let gone = Phase::Disconnected { until: now + secs(1) };
    let terminating = |cause| Phase::Terminating { cause, kill_at: now + GRACE };
    let killed = |cause| Phase::Killed { cause };
    let tick = |silent| Input::Tick { heard: now - secs(silent) };
    let stopping = Effects { enter: Some(SpawnState::Stopping), signal: Some(Signal::Term) };
    let kill = Effects::signal(Signal::Kill);
    let cases = [
        (launching, Input::Ready, Phase::Ready, Effects::enter(SpawnState::Ready)),
        (launching, tick(0), launching, Effects::NONE),
        (overdue, tick(0), terminating(Cause::ReadyTimeout), stopping),
        (launching, Input::End(Cause::Cancelled), terminating(Cause::Cancelled), stopping),
        (launching, Input::Disconnect, launching, Effects::NONE),
        (
            Phase::Ready,
            Input::Disconnect,
            Phase::Disconnected { until: now + GRACE },
            Effects::enter(SpawnState::Disconnected),
        ),
        (Phase::Ready, Input::Ready, Phase::Ready, Effects::NONE),
        (Phase::Ready, tick(11), Phase::Ready, Effects::NONE),
        (Phase::Ready, tick(12), Phase::Suspect, Effects::enter(SpawnState::Suspect)),
        (Phase::Ready, tick(17), terminating(Cause::LivelinessLost), stopping),
        (Phase::Ready, Input::End(Cause::Stopped), terminating(Cause::Stopped), stopping),
        (Phase::Suspect, tick(13), Phase::Suspect, Effects::NONE),
        (Phase::Suspect, tick(0), Phase::Ready, Effects::enter(SpawnState::Ready)),
        (Phase::Suspect, tick(17), terminating(Cause::LivelinessLost), stopping),
        (
            Phase::Suspect,
            Input::Disconnect,
            Phase::Disconnected { until: now + GRACE },
            Effects::enter(SpawnState::Disconnected),
        ),
        (gone, tick(60), gone, Effects::NONE),
        (gone, Input::Ready, gone, Effects::NONE),
        (Phase::Disconnected { until: now }, tick(0), terminating(Cause::Lingered), stopping),
        (terminating(Cause::Stopped), tick(60), terminating(Cause::Stopped), Effects::NONE),
        (terminating(Cause::Stopped), Input::Ready, terminating(Cause::Stopped), Effects::NONE),
        (terminating(Cause::Stopped), Input::End(Cause::Drained), killed(Cause::Stopped), kill),
        (Phase::Terminating { cause: Cause::Stopped, kill_at: now }, tick(0), killed(Cause::Stopped), kill),
        (killed(Cause::Stopped), Input::End(Cause::Stopped), killed(Cause::Stopped), Effects::NONE),
    ];
    for (from, input, to, effects) in cases {
        assert_eq!(from.step(input, now, &rules()), (to, effects), "{from:?} on {input:?}");
    }
}

#[test]
fn an_extension_only_ever_gives_more_time() {
    let now = Instant::now() + secs(1000);
    let until = now + secs(2);
    for (from, to) in [
        (Phase::Launching { until: now }, Phase::Launching { until }),
        (Phase::Launching { until: now + secs(9) }, Phase::Launching { until: now + secs(9) }),
        (Phase::Disconnected { until: now }, Phase::Disconnected { until }),
        (Phase::Ready, Phase::Ready),
        (Phase::Suspect, Phase::Suspect),
    ] {
        assert_eq!(from.extend(until), to);
    }
    let ending = Phase::Terminating { cause: Cause::Stopped, kill_at: now };
    assert_eq!(ending.extend(until), ending, "whoever is being ended is not waited for");
}

#[test]
fn a_spawn_that_cannot_report_is_never_called_silent() {
    let rules = Rules { ping_interval: None, stop_grace: GRACE };
    let now = Instant::now() + secs(1000);
    let tick = Input::Tick { heard: now - secs(900) };
    assert_eq!(Phase::Ready.step(tick, now, &rules), (Phase::Ready, Effects::NONE));
    assert_eq!(Phase::Ready.deadline(now, &rules), None);
}

fn inputs() -> impl Strategy<Value = Vec<(u64, u8)>> {
    prop::collection::vec((0u64..20_000, 0u8..6), 1..60)
}

proptest! {
    /// Whatever happens and in whatever order: an end that was asked for comes, with its first cause.
    #[test]
    fn an_end_once_begun_is_never_taken_back(steps in inputs()) {
        let rules = rules();
        let start = Instant::now();
        let (mut now, mut heard) = (start, start);
        let mut phase = Phase::Launching { until: start + secs(30) };
        let mut ended: Option<Cause> = None;
        for (ms, what) in steps {
            now += Duration::from_millis(ms);
            let input = match what {
                0 => Input::Ready,
                1 => Input::Disconnect,
                2 => Input::End(Cause::Stopped),
                3 => { heard = now; Input::Tick { heard } }
                _ => Input::Tick { heard },
            };
            let (next, effects) = phase.step(input, now, &rules);
            prop_assert_eq!(effects.enter.is_some(), std::mem::discriminant(&next) != std::mem::discriminant(&phase)
                && !matches!(next, Phase::Killed { .. }));
            match (ended, next.progress()) {
                (None, Progress::Ending(cause)) => {
                    prop_assert_eq!(effects.signal, Some(Signal::Term));
                    ended = Some(cause);
                }
                (Some(cause), progress) => prop_assert_eq!(progress, Progress::Ending(cause)),
                (None, _) => prop_assert_eq!(effects.signal, None),
            }
            phase = next;
        }
    }

    /// Left alone, a spawn whose process never says another word is killed within a bounded time.
    #[test]
    fn a_silent_spawn_is_always_killed(steps in inputs()) {
        let rules = rules();
        let start = Instant::now();
        let mut phase = Phase::Launching { until: start + secs(30) };
        let mut now = start;
        let mut heard = start;
        for (ms, what) in steps {
            now += Duration::from_millis(ms);
            let input = match what {
                0 => { heard = now; Input::Ready }
                1 => { heard = now; Input::Disconnect }
                _ => Input::Tick { heard },
            };
            phase = phase.step(input, now, &rules).0;
        }
        let mut ticks = 0;
        while let Some(deadline) = phase.deadline(heard, &rules) {
            now = now.max(deadline);
            phase = phase.step(Input::Tick { heard }, now, &rules).0;
            ticks += 1;
            prop_assert!(ticks < 10, "stuck in {:?}", phase);
        }
        let killed = matches!(phase, Phase::Killed { .. });
        prop_assert!(killed);
    }
}
