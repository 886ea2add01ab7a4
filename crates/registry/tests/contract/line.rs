//! The waiting line.

use std::time::Duration;

use model::{TicketId, Timing};
use registry::Reserved;

use crate::on_all;
use crate::support::*;

on_all! {
    async fn waiters_are_served_in_the_order_of_their_arrival(farm: &Farm) {
        Agent::new("a", 1).beat(farm).await;
        let held = farm.take(&csr()).await;
        let (first, second) = (TicketId::mint(), TicketId::mint());
        for ticket in [first, second, first] {
            assert_eq!(farm.reserve(&csr().place(ticket)).await, Reserved::Full);
        }
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full, "a newcomer does not overtake the line");
        assert_eq!(farm.reserve(&csr().place(second)).await, Reserved::Full);
        let got = farm.take(&csr().place(first)).await;
        farm.registry.release(&got.node, got.spawn).await.unwrap();
        farm.take(&csr().place(second)).await;
    }
}

on_all! {
    async fn a_place_that_is_left_or_not_kept_blocks_no_other(farm: &Farm) {
        Agent::new("a", 1).beat(farm).await;
        let held = farm.take(&csr()).await;
        let [left, dead, alive] = [TicketId::mint(), TicketId::mint(), TicketId::mint()];
        for ticket in [left, dead, alive] {
            assert_eq!(farm.reserve(&csr().place(ticket)).await, Reserved::Full);
        }
        farm.registry.leave_line(&[left]).await.unwrap();
        let half = TIMING.place / 2;
        farm.pass(half).await;
        farm.registry.keep_places(&[alive]).await.unwrap();
        farm.pass(half).await;
        Agent::new("b", 1).beat(farm).await;
        farm.take(&csr().place(alive)).await;
        farm.registry.release(&held.node, held.spawn).await.unwrap();
    }
}

on_all! {
    async fn somebody_who_cannot_use_a_slot_does_not_hold_up_those_who_can(farm: &Farm) {
        Agent::new("red", 1).labels(&[("colour", "red")]).beat(farm).await;
        Agent::new("blue", 1).labels(&[("colour", "blue")]).beat(farm).await;
        let red = farm.take(&csr().label("colour", "red")).await;
        let blue = farm.take(&csr().label("colour", "blue")).await;
        let (only_red, any) = (TicketId::mint(), TicketId::mint());
        assert_eq!(farm.reserve(&csr().label("colour", "red").place(only_red)).await, Reserved::Full);
        assert_eq!(farm.reserve(&csr().place(any)).await, Reserved::Full);
        farm.registry.release(&blue.node, blue.spawn).await.unwrap();
        assert_eq!(farm.take(&csr().place(any)).await.node, id("blue"));
        farm.registry.release(&red.node, red.spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full);
        farm.take(&csr().label("colour", "red").place(only_red)).await;
    }
}

on_all! {
    async fn an_earlier_request_for_the_other_renderer_comes_first(farm: &Farm) {
        Agent::new("a", 1).beat(farm).await;
        let held = farm.take(&csr()).await;
        let (earlier, later) = (TicketId::mint(), TicketId::mint());
        assert_eq!(farm.reserve(&ssr().place(earlier)).await, Reserved::Full);
        assert_eq!(farm.reserve(&csr().place(later)).await, Reserved::Full);
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr().place(later)).await, Reserved::Full);
        farm.take(&ssr().place(earlier)).await;
    }
}

on_all! {
    async fn those_who_wait_are_woken_when_something_changes_for_them(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        let held = farm.take(&csr()).await;
        farm.reserve(&csr().place(TicketId::mint())).await;
        let before = farm.registry.position().await.unwrap();
        let (follow, ()) = tokio::join!(
            farm.registry.follow(before, std::time::Duration::from_secs(4)),
            async { farm.registry.release(&held.node, held.spawn).await.unwrap() },
        );
        assert!(follow.unwrap().woken);
        let wakeup = farm.registry.wait_for_wakeup(before.wakeup, std::time::Duration::from_secs(4)).await.unwrap();
        assert_ne!(wakeup, before.wakeup);
        let quiet = farm.registry.wait_for_wakeup(wakeup, std::time::Duration::from_millis(30)).await.unwrap();
        assert_eq!(quiet, wakeup);
    }
}

on_all! {
    async fn waiting_for_a_node_that_is_away_keeps_the_place(farm: &Farm) {
        let mut agent = Agent::new("a", 1);
        agent.beat(farm).await;
        farm.registry.set_eligibility(&id("a"), model::Eligibility::Cordoned, None, None).await.unwrap();
        let (first, second) = (TicketId::mint(), TicketId::mint());
        for ticket in [first, second] {
            assert!(matches!(farm.reserve(&csr().place(ticket)).await, Reserved::NoMatch { known: true, .. }));
        }
        farm.registry.set_eligibility(&id("a"), model::Eligibility::Eligible, None, None).await.unwrap();
        assert_eq!(farm.reserve(&csr().place(second)).await, Reserved::Full);
        farm.take(&csr().place(first)).await;
    }
}

on_all! {
    async fn a_place_given_up_for_a_node_that_refused_is_had_again_before_those_behind_it(farm: &Farm) {
        Agent::new("refuses", 1).beat(farm).await;
        let held = farm.take(&csr()).await;
        let [first, second, third] = [TicketId::mint(), TicketId::mint(), TicketId::mint()];
        for ticket in [first, second, third] {
            assert_eq!(farm.reserve(&csr().place(ticket)).await, Reserved::Full);
        }
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        // Each gets the node in its turn, is refused there, and waits on for another.
        let mut numbers = Vec::new();
        for ticket in [first, second, third] {
            let got = farm.take(&csr().place(ticket)).await;
            farm.registry.release(&got.node, got.spawn).await.unwrap();
            let number = got.number.expect("it was in line");
            let again = registry::Reserve { number: Some(number), ..csr().place(ticket).avoid("refuses") };
            assert_eq!(farm.reserve(&again).await, Reserved::Full);
            numbers.push(number);
        }
        assert!(numbers.is_sorted(), "{numbers:?}");

        let mut other = Agent::new("other", 1);
        other.beat(farm).await;
        for (ticket, behind) in [(first, &[second, third][..]), (second, &[third]), (third, &[])] {
            for later in behind {
                assert_eq!(farm.reserve(&csr().place(*later).avoid("refuses")).await, Reserved::Full);
            }
            assert_eq!(farm.reserve(&csr().avoid("refuses")).await, Reserved::Full, "newcomers come last");
            let got = farm.take(&csr().place(ticket).avoid("refuses")).await;
            assert_eq!(got.node, id("other"));
            farm.registry.release(&got.node, got.spawn).await.unwrap();
        }
    }
}

on_all! {
    async fn waiters_that_must_avoid_the_only_free_node_do_not_hold_up_those_that_can_use_it(farm: &Farm) {
        Agent::new("free", 1).beat(farm).await;
        Agent::new("full", 1).beat(farm).await;
        let held = farm.take(&csr().avoid("free")).await;
        let [first, second] = [TicketId::mint(), TicketId::mint()];
        for ticket in [first, second] {
            assert_eq!(farm.reserve(&csr().place(ticket).avoid("free")).await, Reserved::Full);
        }
        let got = farm.take(&csr()).await;
        assert_eq!((got.node.clone(), got.number), (id("free"), None));
        farm.registry.release(&got.node, got.spawn).await.unwrap();
        // What it avoids is what it said last.
        assert_eq!(farm.take(&csr().place(second)).await.node, id("free"));
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr()).await, Reserved::Full, "that one it can use");
        assert_eq!(farm.take(&csr().place(first).avoid("free")).await.node, id("full"));
    }
}

on_all! {
    async fn a_number_that_is_taken_again_is_not_given_to_others(farm: &Farm) {
        Agent::new("a", 1).beat(farm).await;
        let held = farm.take(&csr()).await;
        let [early, late] = [TicketId::mint(), TicketId::mint()];
        // A registry that was wiped counts from one again.
        let again = registry::Reserve { number: Some(40), ..csr().place(early) };
        assert_eq!(farm.reserve(&again).await, Reserved::Full);
        assert_eq!(farm.reserve(&csr().place(late)).await, Reserved::Full);
        farm.registry.release(&held.node, held.spawn).await.unwrap();
        assert_eq!(farm.reserve(&csr().place(late)).await, Reserved::Full);
        let got = farm.take(&csr().place(early)).await;
        assert_eq!(got.number, Some(40));
        farm.registry.release(&got.node, got.spawn).await.unwrap();
        assert_eq!(farm.take(&csr().place(late)).await.number, Some(41));
    }
}

on_all! {
    async fn a_waiter_for_a_renderer_that_is_not_there_yet_is_served_before_newcomers(farm: &Farm) {
        // After a wipe, the nodes of a kind come back one by one.
        Agent::new("a", 1).renderers(true, false).beat(farm).await;
        let first = TicketId::mint();
        let answer = farm.reserve(&ssr().place(first)).await;
        assert!(matches!(answer, Reserved::NoMatch { known: false, fresh: true }), "{answer:?}");
        Agent::new("b", 1).beat(farm).await;
        assert_eq!(farm.reserve(&ssr()).await, Reserved::Full, "a newcomer does not overtake the line");
        assert_eq!(farm.take(&ssr().place(first)).await.node.as_str(), "b");
    }
}

/// Intervals that do not end between two calls, however slow the machine is.
fn unhurried() -> Timing {
    let long = Duration::from_secs(60);
    Timing { stale: long, down: 2 * long, reservation: long, place: Duration::from_secs(3), ..TIMING }
}

#[tokio::test]
async fn the_embedded_line_says_who_waits_for_what_since_when_and_how_many_are_before() {
    who_waits(&Farm::embedded_with(unhurried())).await;
}

#[tokio::test]
async fn the_line_in_redis_says_who_waits_for_what_since_when_and_how_many_are_before() {
    who_waits(&Farm::redis_with(unhurried()).await).await;
}

async fn who_waits(farm: &Farm) {
    Agent::new("red", 1).labels(&[("colour", "red")]).beat(farm).await;
    Agent::new("blue", 1).labels(&[("colour", "blue")]).beat(farm).await;
    let red = farm.take(&csr().label("colour", "red")).await;
    let blue = farm.take(&csr().label("colour", "blue")).await;
    let [reds, any, ssr_blue, last] = [(); 4].map(|()| TicketId::mint());
    let asks = [
        csr().label("colour", "red").place(reds).of("key:ann", 5),
        csr().place(any),
        ssr().label("colour", "blue").place(ssr_blue),
        csr().label("colour", "red").place(last),
    ];
    let began = farm.registry.now().await.unwrap();
    for ask in &asks {
        assert_eq!(farm.reserve(ask).await, Reserved::Full);
    }
    let positions = async || {
        let waiting = farm.registry.waiting().await.unwrap();
        waiting.into_iter().map(|waiting| (waiting.ticket, waiting.position)).collect::<Vec<_>>()
    };
    assert_eq!(positions().await, [(reds, 1), (any, 2), (ssr_blue, 2), (last, 3)]);
    assert!(farm.registry.is_waiting(any).await.unwrap());
    assert!(!farm.registry.is_waiting(TicketId::mint()).await.unwrap());
    let half = farm.registry.timing().place / 2;
    farm.pass(half).await;
    // Asking again changes nothing.
    for ask in &asks {
        assert_eq!(farm.reserve(ask).await, Reserved::Full);
    }
    let waiting = farm.registry.waiting().await.unwrap();
    let now = farm.registry.now().await.unwrap();
    for (waiting, ask) in waiting.iter().zip(&asks) {
        assert_eq!(waiting.demand.as_ref(), Some(&ask.demand));
        assert_eq!(waiting.owner, ask.owner);
        let since = waiting.since.expect("it is known");
        assert!(since >= began && now.since(since) >= half, "{since:?}");
    }
    farm.registry.release(&red.node, red.spawn).await.unwrap();
    farm.take(&asks[0]).await;
    assert_eq!(positions().await, [(any, 1), (ssr_blue, 2), (last, 2)]);
    farm.registry.leave_line(&[any]).await.unwrap();
    assert_eq!(positions().await, [(ssr_blue, 1), (last, 1)]);
    farm.registry.keep_places(&[last]).await.unwrap();
    farm.pass(half).await;
    farm.registry.keep_places(&[last]).await.unwrap();
    farm.pass(half).await;
    assert_eq!(positions().await, [(last, 1)], "a place that lapsed is not in the line");
    farm.registry.leave_line(&[last]).await.unwrap();
    assert_eq!(positions().await, []);
    farm.registry.release(&blue.node, blue.spawn).await.unwrap();
}

on_all! {
    async fn reservations_and_places_in_line_are_counted(farm: &Farm) {
        let pending = async || {
            let pending = farm.registry.pending().await.unwrap();
            (pending.reserved, pending.waiting)
        };
        assert_eq!(pending().await, (0, 0));
        let mut a = Agent::new("a", 2);
        a.beat(farm).await;
        let [first, second] = [farm.take(&csr()).await, farm.take(&csr()).await];
        let place = TicketId::mint();
        assert_eq!(farm.reserve(&csr().place(place)).await, Reserved::Full);
        assert_eq!(pending().await, (2, 1));
        a.report(farm, launching(first.spawn)).await;
        assert_eq!(pending().await, (1, 1), "a spawn that is reported is no reservation");
        farm.registry.leave_line(&[place]).await.unwrap();
        farm.registry.release(&second.node, second.spawn).await.unwrap();
        assert_eq!(pending().await, (0, 0));
    }
}

on_all! {
    async fn a_line_that_is_read_in_parts_is_whole(farm: &Farm) {
        Agent::new("a", 1).beat(farm).await;
        farm.take(&csr()).await;
        let tickets: Vec<TicketId> = (0..1_003).map(|_| TicketId::mint()).collect();
        for part in tickets.chunks(100) {
            let asks = part.iter().map(|ticket| async { farm.reserve(&csr().place(*ticket)).await });
            for ask in asks {
                ask.await;
            }
            farm.registry.keep_places(&tickets).await.unwrap();
        }
        let waiting = farm.registry.waiting().await.unwrap();
        let listed: Vec<_> = waiting.iter().map(|waiting| (waiting.position, waiting.ticket)).collect();
        let expected: Vec<_> = (1..).zip(tickets).collect();
        assert!(listed == expected, "{} of {}", listed.len(), expected.len());
    }
}
