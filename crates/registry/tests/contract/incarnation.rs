//! A registry that was wiped, replaced, or went back to an older state is known at once.

use std::time::Duration;

use model::{EventKind, Timing};
use registry::{Follow, Position, Reserved};
use tokio::time::{Instant, timeout};

use crate::on_all;
use crate::support::*;

/// Much shorter than a follower waits for news.
const AT_ONCE: Duration = Duration::from_secs(2);
const WAIT: Duration = Duration::from_secs(5);

async fn at_once(farm: &Farm, position: Position) -> Follow {
    timeout(AT_ONCE, farm.registry.follow(position, WAIT)).await.expect("at once").unwrap()
}

/// A node, and a spawn whose event comes after the first position.
async fn followed(farm: &Farm) -> (Agent, Position) {
    let mut agent = Agent::new("a", 9);
    agent.beat(farm).await;
    let position = farm.registry.position().await.unwrap();
    agent.report(farm, ready(csr().spawn)).await;
    let news = at_once(farm, position).await;
    assert_eq!((news.gap, news.events.len()), (false, 1));
    (agent, news.position)
}

on_all! {
    async fn a_registry_keeps_its_identity(farm: &Farm) {
        let first = farm.registry.incarnation().await.unwrap();
        assert!(!first.is_nil());
        let (_, position) = followed(farm).await;
        farm.registry.sweep().await.unwrap();
        assert_eq!(farm.registry.incarnation().await.unwrap(), first);
        assert_eq!(position.incarnation, Some(first));
        assert_eq!(farm.registry.position().await.unwrap().incarnation, Some(first));
    }
}

on_all! {
    async fn a_position_names_an_event_that_can_be_read(farm: &Farm) {
        assert_eq!(farm.registry.position().await.unwrap().seq, 0);
        let (mut agent, position) = followed(farm).await;
        // Numbers are given to more than events.
        let key = "a key".split(' ').collect::<String>().parse().unwrap();
        farm.registry.settle(&key, uuid::Uuid::nil(), None).await.unwrap();
        let now = farm.registry.position().await.unwrap();
        assert_eq!((now.seq, now.seen), (position.seq, position.seq));
        agent.report(farm, ready(csr().spawn)).await;
        let news = at_once(farm, Position { wakeup: now.wakeup, ..position }).await;
        assert_eq!((news.gap, news.events.len()), (false, 1));
    }
}

on_all! {
    /// As after a change to a server whose clock is behind.
    async fn a_follower_with_numbers_from_elsewhere_learns_it_at_once_and_goes_on_here(farm: &Farm) {
        let (mut agent, here) = followed(farm).await;
        let ahead = u64::MAX / 4;
        for incarnation in [None, here.incarnation, Some(uuid::Uuid::nil())] {
            let now = farm.registry.position().await.unwrap();
            let elsewhere = Position { seq: ahead, seen: ahead, wakeup: ahead, incarnation };
            let news = at_once(farm, elsewhere).await;
            assert!(news.gap && news.events.is_empty());
            assert_eq!((news.position.seq, news.position.seen), (now.seq, now.seq));
            agent.report(farm, ready(csr().spawn)).await;
            let news = at_once(farm, news.position).await;
            assert_eq!((news.gap, news.events.len()), (false, 1));
        }
        let last = timeout(AT_ONCE, farm.registry.wait_for_wakeup(ahead, WAIT)).await.expect("at once").unwrap();
        assert!(last < ahead);
        let began = Instant::now();
        let short = Duration::from_millis(100);
        assert_eq!(farm.registry.wait_for_wakeup(last, short).await.unwrap(), last);
        assert!(began.elapsed() >= short, "it waits where there is no news");
    }
}

on_all! {
    async fn an_event_that_this_registry_never_had_is_a_gap_also_among_others(farm: &Farm) {
        let (mut agent, _) = followed(farm).await;
        // Numbers are made of the clock: there is room between them.
        farm.pass(Duration::from_millis(5)).await;
        agent.report(farm, ready(csr().spawn)).await;
        let here = farm.registry.position().await.unwrap();
        agent.report(farm, ready(csr().spawn)).await;
        let never = Position { seq: here.seq - 1, seen: here.seq - 1, incarnation: None, ..here };
        assert!(at_once(farm, never).await.gap);
        let any = Position { seq: here.seq - 1, ..here };
        assert!(!at_once(farm, any).await.gap, "where to read on need not be an event");
    }
}

#[tokio::test]
async fn a_wiped_registry_has_another_identity_and_its_followers_learn_it() {
    let farm = Farm::redis().await;
    let (mut agent, position) = followed(&farm).await;
    let before = farm.registry.incarnation().await.unwrap();
    farm.server().run("FLUSHALL").await;
    let news = at_once(&farm, position).await;
    assert!(news.gap && news.events.is_empty());
    assert_eq!(news.position.seq, 0);
    agent.beat(&farm).await;
    assert_ne!(farm.registry.incarnation().await.unwrap(), before);
    let news = at_once(&farm, news.position).await;
    assert!(!news.gap);
    let kinds: Vec<_> = news.events.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::NodeUp, EventKind::SpawnReady]);
    // One who comes later.
    assert!(at_once(&farm, position).await.gap);
    for _ in 0..2 {
        let last = farm.registry.incarnation().await.unwrap();
        farm.server().run("FLUSHALL").await;
        assert_ne!(farm.registry.incarnation().await.unwrap(), last, "every time");
    }
}

#[tokio::test]
async fn a_registry_that_went_back_to_an_older_state_gets_another_identity_from_the_first_who_notices() {
    let farm = Farm::redis().await;
    let (mut agent, old) = followed(&farm).await;
    let snapshot = farm.server().snapshot().await;
    agent.report(&farm, ready(csr().spawn)).await;
    let late = at_once(&farm, old).await.position;
    farm.server().go_back(&snapshot).await;
    let before = farm.registry.incarnation().await.unwrap();

    let news = at_once(&farm, late).await;
    assert!(news.gap);
    let after = farm.registry.incarnation().await.unwrap();
    assert_ne!(after, before);
    assert_eq!((news.position.seq, news.position.incarnation), (old.seq, Some(after)));
    assert!(at_once(&farm, old).await.gap, "also for one whose last event is there");
    assert!(at_once(&farm, late).await.gap, "a second one who notices changes nothing");
    assert_eq!(farm.registry.incarnation().await.unwrap(), after);

    agent.report(&farm, ready(csr().spawn)).await;
    let news = at_once(&farm, news.position).await;
    assert_eq!((news.gap, news.events.len()), (false, 1));
}

#[tokio::test]
async fn an_embedded_registry_that_a_simulation_sets_back_gets_another_identity_as_redis_does() {
    let farm = Farm::embedded();
    let (mut agent, old) = followed(&farm).await;
    let copy = farm.registry.copy();
    agent.report(&farm, ready(csr().spawn)).await;
    let late = at_once(&farm, old).await.position;
    farm.registry.set_back(Some(&copy));
    let before = farm.registry.incarnation().await.unwrap();
    let news = at_once(&farm, late).await;
    assert!(news.gap);
    let after = farm.registry.incarnation().await.unwrap();
    assert_ne!(after, before);
    assert_eq!((news.position.seq, news.position.incarnation), (old.seq, Some(after)));
    assert!(at_once(&farm, old).await.gap, "also for one whose last event is there");
    farm.registry.set_back(None);
    assert_ne!(farm.registry.incarnation().await.unwrap(), after);
    assert_eq!(farm.registry.nodes().await.unwrap(), []);
}

#[tokio::test]
async fn a_lost_stream_of_events_is_a_gap_and_goes_on() {
    let farm = Farm::redis().await;
    let (mut agent, position) = followed(&farm).await;
    farm.server().run("DEL {hatchery:test}:events").await;
    assert!(at_once(&farm, position).await.gap);
    agent.report(&farm, ready(csr().spawn)).await;
    let mut news = at_once(&farm, position).await;
    assert!(news.gap, "what came before is missing");
    agent.report(&farm, ready(csr().spawn)).await;
    news = at_once(&farm, news.position).await;
    assert_eq!((news.gap, news.events.len()), (false, 1));
}

#[tokio::test]
async fn a_lost_number_does_not_stop_events() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 9);
    // The clock was ahead when these numbers were given.
    let ahead = 1000 * (model::Timestamp::now().millis() + 1_800_000);
    farm.server().run(&format!("SET {{hatchery:test}}:seq {ahead}")).await;
    agent.beat(&farm).await;
    let position = farm.registry.position().await.unwrap();
    assert!(position.seq > ahead);
    farm.server().run("DEL {hatchery:test}:seq").await;
    agent.report(&farm, ready(csr().spawn)).await;
    let news = at_once(&farm, position).await;
    assert_eq!((news.gap, news.events.len()), (false, 1));
}

#[tokio::test]
async fn a_registry_that_was_just_wiped_says_that_it_may_not_know_its_nodes_yet() {
    let stale = Duration::from_millis(800);
    let timing = Timing { stale, down: Duration::from_secs(60), ..TIMING };
    let farm = Farm::redis_with(timing).await;
    let mut agents = [Agent::new("a", 2).labels(&[("sdk", "1")]), Agent::new("b", 2)];
    for agent in &mut agents {
        agent.beat(&farm).await;
    }
    farm.pass(stale * 2).await;
    for agent in &mut agents {
        agent.beat(&farm).await;
    }
    let asks = csr().label("sdk", "2");
    assert_eq!(farm.reserve(&asks).await, Reserved::NoMatch { known: false, fresh: false });
    farm.server().run("FLUSHALL").await;
    assert_eq!(farm.reserve(&asks).await, Reserved::NoMatch { known: false, fresh: true });
    agents[1].beat(&farm).await;
    let asks = csr().label("sdk", "1");
    assert_eq!(farm.reserve(&asks).await, Reserved::NoMatch { known: false, fresh: true });
    farm.pass(stale * 2).await;
    assert_eq!(farm.reserve(&asks).await, Reserved::NoMatch { known: false, fresh: false });
}

on_all! {
    async fn a_registry_without_nodes_says_so(farm: &Farm) {
        assert_eq!(farm.reserve(&csr()).await, Reserved::NoMatch { known: false, fresh: true });
    }
}
