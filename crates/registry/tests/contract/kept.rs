//! What was: operators' orders, counts of each minute, and how long records of ended spawns are kept.

use std::time::Duration;

use model::{
    Audit, AuditOutcome, ExitReason, FarmSlots, Minute, OrderKind, RendererType, RequestId, Timestamp, Timing,
};
use registry::{AuditFilter, AuditPage, Counts, SpawnFilter};
use uuid::Uuid;

use crate::on_all;
use crate::support::*;

fn order(kind: OrderKind, node: &str, by: &str) -> Audit {
    Audit {
        node: Some(id(node)),
        by: Some(by.to_owned()),
        owner: Some(format!("key:{by}").parse().unwrap()),
        from: Some("192.0.2.7".to_owned()),
        ..Audit::done(kind, RequestId::mint())
    }
}

async fn keep(farm: &Farm, audit: &Audit) {
    farm.registry.audit(Uuid::new_v4(), Duration::ZERO, audit).await.unwrap();
}

async fn audits(farm: &Farm, filter: AuditFilter) -> AuditPage {
    farm.registry.audits(&filter).await.unwrap()
}

fn some(limit: usize) -> AuditFilter {
    AuditFilter { limit, ..AuditFilter::default() }
}

on_all! {
    async fn an_order_is_kept_as_it_was_given_and_newest_first(farm: &Farm) {
        let drain = Audit {
            deadline_seconds: Some(60),
            reason: Some("new kernel, früh".to_owned()),
            outcome: AuditOutcome::Unacknowledged,
            ..order(OrderKind::Drain, "a", "ops")
        };
        keep(farm, &drain).await;
        let forget = Audit {
            outcome: AuditOutcome::Refused,
            code: Some("node-up".to_owned()),
            ..order(OrderKind::Forget, "a", "ops")
        };
        keep(farm, &forget).await;
        let page = audits(farm, some(10)).await;
        let (times, orders): (Vec<Timestamp>, Vec<Audit>) = page.orders.into_iter().unzip();
        assert_eq!((orders, page.next), (vec![forget, drain], None));
        let now = farm.registry.now().await.unwrap();
        assert!(times.iter().all(|at| now.since(*at) < Duration::from_secs(20) && *at <= now), "{times:?}");
    }
}

on_all! {
    async fn an_order_that_is_recorded_late_keeps_the_time_at_which_it_was_given(farm: &Farm) {
        let ago = Duration::from_secs(30);
        farm.registry.audit(Uuid::new_v4(), ago, &order(OrderKind::Cordon, "a", "ops")).await.unwrap();
        let (at, _) = audits(farm, some(1)).await.orders.remove(0);
        let age = farm.registry.now().await.unwrap().since(at);
        assert!(age >= ago && age < ago * 2, "{age:?}");
    }
}

on_all! {
    async fn an_order_whose_recording_is_repeated_is_there_once(farm: &Farm) {
        let (call, audit) = (Uuid::new_v4(), order(OrderKind::Cordon, "a", "ops"));
        for _ in 0..2 {
            farm.registry.audit(call, Duration::ZERO, &audit).await.unwrap();
            keep(farm, &order(OrderKind::Uncordon, "a", "ops")).await;
        }
        let kinds: Vec<_> = audits(farm, some(10)).await.orders.iter().map(|(_, audit)| audit.order).collect();
        assert_eq!(kinds, [OrderKind::Uncordon, OrderKind::Uncordon, OrderKind::Cordon]);
    }
}

on_all! {
    async fn orders_come_in_pages_by_node_and_by_who_gave_them(farm: &Farm) {
        for n in 0..9 {
            keep(farm, &order(OrderKind::Cordon, if n % 3 == 0 { "a" } else { "b" }, if n % 2 == 0 { "x" } else { "y" })).await;
        }
        let mut seen = 0;
        let mut cursor = None;
        let mut pages = 0;
        loop {
            let page = audits(farm, AuditFilter { cursor, ..some(4) }).await;
            seen += page.orders.len();
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (9, 3));
        let of_a = audits(farm, AuditFilter { node: Some(id("a")), ..some(3) }).await;
        assert_eq!((of_a.orders.len(), of_a.next), (3, None), "exactly a page has no next one");
        for by in ["x", "key:x"] {
            let by_x = audits(farm, AuditFilter { by: Some(by.to_owned()), ..some(10) }).await;
            assert_eq!(by_x.orders.len(), 5, "by name and by owner");
        }
        let nothing = audits(farm, AuditFilter { by: Some("z".to_owned()), ..some(10) }).await;
        assert_eq!(nothing, AuditPage::default());
    }
}

on_all! {
    async fn orders_are_found_by_what_was_ordered_when_and_of_which_spawn(farm: &Farm) {
        let spawns = [csr().spawn, csr().spawn];
        for (n, kind) in [OrderKind::Cordon, OrderKind::Stop, OrderKind::SetLife, OrderKind::Stop].into_iter().enumerate() {
            let spawn = kind.concerns_spawn().then(|| spawns[n % 2]);
            let age = Duration::from_secs(60 * (4 - n as u64));
            farm.registry.audit(Uuid::new_v4(), age, &Audit { spawn, ..order(kind, "a", "ops") }).await.unwrap();
        }
        let kinds = async |filter: AuditFilter| -> Vec<OrderKind> {
            audits(farm, filter).await.orders.iter().map(|(_, audit)| audit.order).collect()
        };
        assert_eq!(kinds(AuditFilter { order: Some(OrderKind::Stop), ..some(9) }).await, [OrderKind::Stop; 2]);
        assert_eq!(kinds(AuditFilter { spawn: Some(spawns[0]), ..some(9) }).await, [OrderKind::SetLife]);
        let ago = async |seconds| Some(farm.registry.now().await.unwrap().before(Duration::from_secs(seconds)));
        let between = AuditFilter { since: ago(210).await, until: ago(90).await, ..some(9) };
        assert_eq!(kinds(between).await, [OrderKind::SetLife, OrderKind::Stop]);
    }
}

fn short() -> Timing {
    Timing { history: Duration::from_millis(500), audit_count: 5, ..TIMING }
}

async fn orders_are_bounded(farm: Farm) {
    for n in 0..8 {
        keep(&farm, &order(OrderKind::Cordon, &format!("n{n}"), "ops")).await;
    }
    let page = audits(&farm, some(100)).await;
    let nodes: Vec<String> = page.orders.iter().map(|(_, a)| a.node.as_ref().unwrap().to_string()).collect();
    assert_eq!(nodes, ["n7", "n6", "n5", "n4", "n3"]);
    // However many spawns are stopped, who closed which node is on record.
    for n in 0..20 {
        let kind = if n % 2 == 0 { OrderKind::Stop } else { OrderKind::SetLife };
        let spawn = Some(csr().spawn);
        keep(&farm, &Audit { spawn, ..order(kind, &format!("s{n}"), "ops") }).await;
    }
    keep(&farm, &order(OrderKind::Cordon, "last", "ops")).await;
    let mut nodes: Vec<String> = Vec::new();
    let mut cursor = None;
    loop {
        let page = audits(&farm, AuditFilter { cursor, ..some(3) }).await;
        nodes.extend(page.orders.iter().map(|(_, a)| a.node.as_ref().unwrap().to_string()));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(nodes, ["last", "s19", "s18", "s17", "s16", "s15", "n7", "n6", "n5", "n4"]);
    farm.pass(Duration::from_millis(500)).await;
    assert_eq!(audits(&farm, some(100)).await, AuditPage::default());
}

#[tokio::test]
async fn orders_are_kept_up_to_an_age_and_a_number_embedded() {
    orders_are_bounded(Farm::embedded_with(short())).await;
}

#[tokio::test]
async fn orders_are_kept_up_to_an_age_and_a_number_redis() {
    orders_are_bounded(Farm::redis_with(short()).await).await;
}

/// The counts of all minutes that a test has lived in.
async fn sum(farm: &Farm) -> Minute {
    let mut sum = Minute::default();
    for minute in farm.registry.minutes(5).await.unwrap() {
        sum.started += minute.started;
        sum.ready += minute.ready;
        for (reason, n) in minute.ended {
            *sum.ended.entry(reason).or_default() += n;
        }
        for (code, n) in minute.refused {
            *sum.refused.entry(code).or_default() += n;
        }
        sum.slots = minute.slots.or(sum.slots);
    }
    sum
}

on_all! {
    async fn starts_and_ends_of_spawns_are_counted_by_the_minute(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.beat(farm).await;
        assert_eq!(sum(farm).await, Minute::default());
        let spawns: Vec<_> = (0..4).map(|_| csr().spawn).collect();
        for spawn in &spawns {
            agent.report(farm, launching(*spawn)).await;
        }
        for spawn in &spawns[..2] {
            agent.report(farm, ready(*spawn)).await;
            agent.report(farm, ready(*spawn)).await;
        }
        agent.report(farm, exited(spawns[0], ExitReason::Disconnected)).await;
        agent.report(farm, exited(spawns[2], ExitReason::Failed)).await;
        agent.report(farm, exited(spawns[3], ExitReason::Failed)).await;
        // One that never was anything else counts as started as well.
        agent.report(farm, exited(csr().spawn, ExitReason::ReadyTimeout)).await;
        let sum = sum(farm).await;
        assert_eq!((sum.started, sum.ready), (5, 2));
        let ended = [(ExitReason::Disconnected, 1), (ExitReason::Failed, 2), (ExitReason::ReadyTimeout, 1)];
        assert_eq!(sum.ended, ended.into());
    }
}

on_all! {
    async fn what_fills_a_registry_again_is_not_counted_as_started(farm: &Farm) {
        let mut agent = Agent::new("a", 9);
        agent.spawns.push(ready(csr().spawn));
        agent.beat(farm).await;
        assert_eq!(farm.used("a").await.0, 1);
        let sum = sum(farm).await;
        assert_eq!((sum.started, sum.ready), (0, 0));
    }
}

on_all! {
    async fn front_doors_add_refusals_and_slots(farm: &Farm) {
        let counts = |full, slots| Counts { refused: [("no-capacity", full), ("rate-limited", 1)].into(), slots };
        farm.registry.add_counts(&counts(2, Some(FarmSlots { total: 8, used: 1 }))).await.unwrap();
        farm.registry.add_counts(&counts(3, None)).await.unwrap();
        farm.registry.add_counts(&Counts { slots: Some(FarmSlots { total: 8, used: 5 }), ..Counts::default() }).await.unwrap();
        farm.registry.add_counts(&Counts::default()).await.unwrap();
        let sum = sum(farm).await;
        assert_eq!(sum.refused, [("no-capacity".to_owned(), 5), ("rate-limited".to_owned(), 2)].into());
        assert_eq!(sum.slots, Some(FarmSlots { total: 8, used: 5 }));
        let minutes = farm.registry.minutes(1_000_000).await.unwrap();
        assert!(minutes.len() <= 2, "minutes without counts are left out: {minutes:?}");
    }
}

on_all! {
    async fn ended_spawns_are_listed_by_reason_renderer_and_when_they_ended(farm: &Farm) {
        let mut agent = Agent::new("a", 99);
        agent.beat(farm).await;
        let (running, failed, stopped) = (csr().spawn, csr().spawn, csr().spawn);
        agent.report(farm, ready(running)).await;
        let mut ssr = exited(failed, ExitReason::Failed);
        ssr.renderer = RendererType::Ssr;
        ssr.ended = Some(Duration::from_secs(100));
        agent.report(farm, ssr).await;
        agent.report(farm, exited(stopped, ExitReason::Stopped)).await;
        let now = farm.registry.now().await.unwrap();
        let ago = |seconds| Some(now.before(Duration::from_secs(seconds)));
        let all = || SpawnFilter { limit: 10, ..SpawnFilter::default() };
        for (filter, expected) in [
            (SpawnFilter { reason: Some(ExitReason::Failed), ..all() }, vec![failed]),
            (SpawnFilter { reason: Some(ExitReason::Idle), ..all() }, vec![]),
            (SpawnFilter { renderer: Some(RendererType::Ssr), ..all() }, vec![failed]),
            (SpawnFilter { renderer: Some(RendererType::Csr), ..all() }, vec![stopped, running]),
            (SpawnFilter { ended_since: ago(200), ..all() }, vec![stopped, failed]),
            (SpawnFilter { ended_since: ago(50), ..all() }, vec![stopped]),
            (SpawnFilter { ended_since: ago(200), ended_until: ago(50), ..all() }, vec![failed]),
            (SpawnFilter { ended_until: ago(200), ..all() }, vec![]),
            (SpawnFilter { ended_since: ago(200), reason: Some(ExitReason::Stopped), ..all() }, vec![stopped]),
        ] {
            let page = farm.registry.spawns(&filter).await.unwrap();
            let ids: Vec<_> = page.spawns.iter().map(|spawn| spawn.id).collect();
            assert_eq!((ids, page.next), (expected, None), "{filter:?}");
        }
    }
}

async fn records_are_bounded_in_bytes(farm: Farm) {
    let mut agent = Agent::new("a", 99);
    agent.beat(&farm).await;
    let mut ended = Vec::new();
    for n in 0..40_u8 {
        let spawn = csr().spawn;
        let mut report = exited(spawn, ExitReason::Stopped);
        report.tags = [("note".to_owned(), char::from(b'a' + n % 26).to_string().repeat(1000))].into();
        agent.report(&farm, report).await;
        ended.push(spawn);
    }
    farm.registry.sweep().await.unwrap();
    let page = farm.registry.spawns(&SpawnFilter { limit: 100, ..SpawnFilter::default() }).await.unwrap();
    let left = page.spawns.len();
    assert!((5..=16).contains(&left), "{left} records of more than 2 KiB each in 32 KiB");
    ended.reverse();
    let ids: Vec<_> = page.spawns.iter().map(|spawn| spawn.id).collect();
    assert_eq!(ids, ended[..left], "the newest are kept");
    farm.registry.sweep().await.unwrap();
    let page = farm.registry.spawns(&SpawnFilter { limit: 100, ..SpawnFilter::default() }).await.unwrap();
    assert_eq!(page.spawns.len(), left, "what fits stays");
}

fn small() -> Timing {
    Timing { history_bytes: 32 << 10, ..TIMING }
}

#[tokio::test]
async fn records_of_ended_spawns_are_kept_up_to_so_many_bytes_embedded() {
    records_are_bounded_in_bytes(Farm::embedded_with(small())).await;
}

#[tokio::test]
async fn records_of_ended_spawns_are_kept_up_to_so_many_bytes_redis() {
    records_are_bounded_in_bytes(Farm::redis_with(small()).await).await;
}

/// The oldest was ended by an agent that may not write the sum of bytes.
#[tokio::test]
async fn a_record_whose_bytes_are_not_known_goes_with_the_next_that_must() {
    let farm = Farm::redis_with(small()).await;
    let mut agent = Agent::new("a", 99);
    agent.beat(&farm).await;
    let mut ended = Vec::new();
    for _ in 0..20 {
        let spawn = csr().spawn;
        let mut report = exited(spawn, ExitReason::Stopped);
        report.tags = [("note".to_owned(), "x".repeat(1000))].into();
        agent.report(&farm, report).await;
        ended.push(spawn);
    }
    let oldest = format!("HDEL {{hatchery:test}}:spawn:{} weighed", ended[0]);
    let _: u64 = farm.server().query(&oldest).await.unwrap();
    farm.registry.sweep().await.unwrap();
    let page = farm.registry.spawns(&SpawnFilter { limit: 100, ..SpawnFilter::default() }).await.unwrap();
    assert!((5..=16).contains(&page.spawns.len()), "{} records in 32 KiB", page.spawns.len());
    assert!(page.spawns.iter().all(|spawn| spawn.id != ended[0]));
}

async fn deletion_is_bounded(farm: Farm) {
    let mut agent = Agent::new("a", 9);
    agent.beat(&farm).await;
    for _ in 0..600 {
        agent.report(&farm, exited(csr().spawn, ExitReason::Stopped)).await;
    }
    // Not by `pass`, which sweeps.
    tokio::time::sleep(farm.registry.timing().history).await;
    let count = async || {
        let page = farm.registry.spawns(&SpawnFilter { limit: 2000, ..SpawnFilter::default() }).await;
        page.unwrap().spawns.len()
    };
    assert_eq!(count().await, 600);
    assert!(farm.registry.sweep().await.unwrap(), "five hundred are left");
    assert_eq!(count().await, 500);
    let mut steps = 0;
    while farm.registry.sweep().await.unwrap() {
        steps += 1;
    }
    assert_eq!((count().await, steps), (0, 5));
}

fn many() -> Timing {
    Timing { history: Duration::from_millis(300), history_count: 10, ..TIMING }
}

#[tokio::test]
async fn one_step_drops_a_hundred_records_at_the_most_and_says_when_there_are_more_embedded() {
    deletion_is_bounded(Farm::embedded_with(many())).await;
}

#[tokio::test]
async fn one_step_drops_a_hundred_records_at_the_most_and_says_when_there_are_more_redis() {
    deletion_is_bounded(Farm::redis_with(many()).await).await;
}

/// Front doors of one farm with different values.
#[tokio::test]
async fn of_several_front_doors_the_one_that_keeps_ended_records_longest_counts() {
    // Long intervals: nothing here may pass for a silence that is none.
    let long = Timing { stale: Duration::from_secs(60), down: Duration::from_secs(120), ..TIMING };
    let brief = Timing { history: Duration::from_millis(100), ..long.clone() };
    let long = Farm::redis_with(long).await;
    let url = long.server().url_as("frontdoor");
    let short = Farm::on_with(&url, "test", brief);
    let mut agent = Agent::new("a", 9);
    agent.beat(&long).await;
    let spawn = csr().spawn;
    agent.report(&long, exited(spawn, ExitReason::Stopped)).await;
    long.registry.sweep().await.unwrap();
    short.pass(Duration::from_millis(300)).await;
    let is_kept = async || long.registry.spawn(spawn).await.unwrap().is_some();
    assert!(is_kept().await, "the other front door keeps it for a minute");

    // What the other front door said is more than a minute old. Before, the registry was away, so it could not be said.
    let ago = long.registry.now().await.unwrap().millis() - 61_000;
    let server = long.server();
    let _: u64 = server.query(&format!("ZADD {{hatchery:test}}:keeps {ago} 60000")).await.unwrap();
    let _: u64 = server.query(&format!("HSET {{hatchery:test}}:judge at {ago} grace {ago}")).await.unwrap();
    short.registry.sweep().await.unwrap();
    assert!(is_kept().await, "a front door has a minute to say it again");

    // The registry has been there for longer than a minute: the other front door is gone.
    let _: u64 = server.query(&format!("HSET {{hatchery:test}}:judge grace {ago}")).await.unwrap();
    short.registry.sweep().await.unwrap();
    assert!(!is_kept().await);
}

/// An agent whose user of Redis is that of a release before, which had no bytes, no counts and no stream of pings.
#[tokio::test]
async fn an_agent_that_may_not_count_reports_all_the_same() {
    let farm = Farm::redis().await;
    let users =
        include_str!("../../../../deploy/redis/users.acl").replace("{hatchery:default}", "{hatchery:test}");
    let agent = users.lines().find_map(|line| line.strip_prefix("user agent ")).unwrap();
    let before = agent.replace(" ~{hatchery:test}:weight ~{hatchery:test}:minute:*", "");
    assert_ne!(before, agent);
    let before = before.replace(" ~{hatchery:test}:pings %R~{hatchery:test}:pings:*", "");
    assert!(!before.contains("pings"));
    let () = farm.server().query(&format!("ACL SETUSER agent reset {before}")).await.unwrap();
    let mut agent = Agent::new("a", 9).identified();
    agent.beat(&farm).await;
    let (lives, ended) = (csr().spawn, csr().spawn);
    agent.report(&farm, ready(lives)).await;
    agent.report(&farm, exited(ended, ExitReason::Failed)).await;
    agent.pings = vec![(lives, std::time::Duration::ZERO)];
    agent.beat(&farm).await;
    assert_eq!(agent.differences, []);
    assert_eq!(farm.used("a").await.0, 1);
    assert_eq!(farm.registry.spawn(ended).await.unwrap().unwrap().exit.unwrap().reason, ExitReason::Failed);
    assert_eq!(sum(&farm).await, Minute::default());
    farm.registry.sweep().await.unwrap();
    assert!(farm.registry.spawn(ended).await.unwrap().is_some());
}
