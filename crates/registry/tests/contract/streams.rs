//! What writes past the scripts can leave the streams without a number for the next event. The next call mends that.

use std::time::Duration;

use model::{EventKind, Owner, RendererType};
use registry::{Position, SpawnFilter, SpawnReport};

use crate::support::*;

const EVENTS: &str = "{hatchery:test}:events";
const WAKEUPS: &str = "{hatchery:test}:nudges";
const SEQ: &str = "{hatchery:test}:seq";
const LAST: &str = "18446744073709551615-18446744073709551615";

/// What leaves no number, or none for long.
fn damages() -> Vec<Vec<String>> {
    let hour_ahead = 1000 * (model::Timestamp::now().millis() + 2 * 3600 * 1000);
    let mut all = vec![
        format!("SET {SEQ} 9007199254740991"),
        format!("SET {SEQ} 9007199254740990"),
        format!("SET {SEQ} {hour_ahead}"),
        format!("SET {SEQ} 1e300"),
        format!("SET {SEQ} nan"),
        format!("SET {SEQ} nonsense"),
    ];
    for stream in [EVENTS, WAKEUPS] {
        all.push(format!("XADD {stream} {LAST} k node.up"));
        all.push(format!("XADD {stream} {}-0 k node.up", u64::MAX / 4));
        all.push(format!("XADD {stream} {hour_ahead}-0 k node.up"));
    }
    let mut all: Vec<Vec<String>> = all.into_iter().map(|one| vec![one]).collect();
    for stream in [EVENTS, WAKEUPS] {
        // The last number is remembered without its entry.
        if stream == EVENTS {
            all.push(vec![format!("XADD {stream} {LAST} k node.up"), format!("XTRIM {stream} MAXLEN 0")]);
        }
        all.push(vec![format!("DEL {stream}"), format!("SET {stream} nonsense")]);
    }
    all
}

/// What is no number at all is found again in the streams.
fn is_harmless(commands: &[String]) -> bool {
    [" 1e300", " nan", " nonsense"].iter().any(|end| commands[0].ends_with(end))
}

async fn damage(farm: &Farm, commands: &[String]) {
    for command in commands {
        let _: redis::Value = farm.server().query(command).await.unwrap();
    }
}

/// The next position of a follower, and whether there was a gap.
async fn follows(farm: &Farm, position: Position) -> (Position, bool, Vec<EventKind>) {
    let news = farm.registry.follow(position, Duration::ZERO).await.unwrap();
    (news.position, news.gap, news.events.iter().map(|event| event.kind).collect())
}

#[tokio::test]
async fn a_number_far_ahead_of_the_clock_ends_no_events() {
    for commands in damages() {
        let farm = Farm::redis().await;
        let mut agent = Agent::new("a", 9);
        agent.beat(&farm).await;
        agent.report(&farm, ready(csr().spawn)).await;
        let position = farm.registry.position().await.unwrap();
        damage(&farm, &commands).await;

        // A caller waits in line, so that wake-ups are written too.
        let ticket = model::TicketId::mint();
        farm.reserve(&csr().label("no", "node").place(ticket)).await;
        agent.report(&farm, ready(csr().spawn)).await;
        agent.all(&farm, Vec::new()).await;
        farm.take(&csr()).await;
        for _ in 0..4 {
            agent.beat(&farm).await;
        }
        let (position, gap, _) = follows(&farm, position).await;
        assert_eq!(gap, !is_harmless(&commands), "{commands:?}: a follower begins anew");
        for _ in 0..3 {
            agent.report(&farm, ready(csr().spawn)).await;
        }
        let (_, gap, kinds) = follows(&farm, position).await;
        assert_eq!((gap, &kinds[..]), (false, &[EventKind::SpawnReady; 3][..]), "{commands:?}");
    }
}

#[tokio::test]
async fn a_farm_in_which_nothing_happens_mends_its_streams_with_heartbeats_and_sweeps_alone() {
    for commands in damages() {
        let farm = Farm::redis().await;
        let mut agent = Agent::new("a", 9).identified();
        agent.beat(&farm).await;
        let before = farm.registry.incarnation().await.unwrap();
        damage(&farm, &commands).await;
        let hidden = commands.len() > 1 && commands[1].starts_with("XTRIM");
        for _ in 0..5 {
            agent.beat(&farm).await;
            farm.registry.sweep().await.unwrap();
        }
        let after = farm.registry.incarnation().await.unwrap();
        // What cannot be seen shows when the next event is added.
        assert_eq!(after != before, !hidden && !is_harmless(&commands), "{commands:?}");
        for _ in 0..5 {
            agent.beat(&farm).await;
            farm.registry.sweep().await.unwrap();
        }
        assert_eq!(farm.registry.incarnation().await.unwrap(), after, "once: {commands:?}");
    }
}

#[tokio::test]
async fn an_entry_a_little_ahead_of_the_clock_ends_nothing() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 9);
    agent.beat(&farm).await;
    let before = farm.registry.position().await.unwrap();
    let ahead = 1000 * (model::Timestamp::now().millis() + 60_000);
    damage(&farm, &[format!("XADD {EVENTS} {ahead}-0 k nonsense")]).await;
    agent.report(&farm, ready(csr().spawn)).await;
    let (position, gap, kinds) = follows(&farm, before).await;
    assert_eq!((gap, &kinds[..]), (false, &[EventKind::SpawnReady][..]));
    assert_eq!((position.seq, position.incarnation), (ahead + 1, before.incarnation));
}

#[tokio::test]
async fn a_floor_above_all_events_is_right_again_with_the_next_sweep() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 9).identified();
    agent.beat(&farm).await;
    agent.report(&farm, ready(csr().spawn)).await;
    let position = farm.registry.position().await.unwrap();
    for floor in ["18446744073709551615", "nonsense", "-1", "0"] {
        damage(&farm, &[format!("SET {{hatchery:test}}:floor {floor}")]).await;
        agent.beat(&farm).await;
        farm.registry.sweep().await.unwrap();
        let (_, gap, _) = follows(&farm, position).await;
        assert!(!gap, "{floor}");
        let first = farm.registry.follow(Position::default(), Duration::ZERO).await.unwrap().events[0].seq;
        farm.server().says("GET {hatchery:test}:floor", &(first - 1).to_string()).await;
    }
}

#[tokio::test]
async fn a_record_of_a_spawn_that_others_have_written_is_its_agents_again_within_five_heartbeats() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 9).identified();
    agent.beat(&farm).await;
    let owner: Owner = "ann".parse().unwrap();
    let report = SpawnReport { owner: Some(owner.clone()), last_ping: None, ..ready(csr().spawn) };
    let id = report.id;
    agent.report(&farm, report).await;
    let before = farm.registry.spawn(id).await.unwrap().unwrap();
    let record = format!("{{hatchery:test}}:spawn:{id}");
    for commands in [
        vec![format!("HSET {record} endpoint ws://elsewhere:1")],
        vec![format!("HSET {record} renderer ssr")],
        vec![format!("HSET {record} started 5")],
        vec![format!("HDEL {record} started endpoint renderer owner")],
        vec![format!("HSET {record} owner bob")],
        vec![format!("HSET {record} owner bob"), format!("HSET {{hatchery:test}}:held:a {id} A-bob")],
    ] {
        let position = farm.registry.position().await.unwrap();
        damage(&farm, &commands).await;
        for _ in 0..5 {
            agent.beat(&farm).await;
        }
        let after = farm.registry.spawn(id).await.unwrap().unwrap();
        assert_eq!((&after.endpoint, after.renderer), (&before.endpoint, RendererType::Csr), "{commands:?}");
        assert_eq!(after.owner.as_ref(), Some(&owner), "{commands:?}");
        assert!(after.started_at.millis().abs_diff(before.started_at.millis()) < 10_000, "{commands:?}");
        let of = |owner: &str| SpawnFilter {
            owners: vec![owner.parse().unwrap()],
            limit: 9,
            ..Default::default()
        };
        assert_eq!(farm.registry.spawns(&of("ann")).await.unwrap().spawns.len(), 1, "{commands:?}");
        assert_eq!(farm.owned("bob").await.unwrap_or(0), 0, "{commands:?}");
        assert!(follows(&farm, position).await.2.is_empty(), "no event: {commands:?}");
    }
}

#[tokio::test]
async fn a_front_door_of_the_release_before_reads_an_older_kind_where_it_does_not_know_the_event() {
    let farm = Farm::redis().await;
    let mut agent = Agent::new("a", 1);
    agent.beat(&farm).await;
    let spawn = farm.take(&csr()).await.spawn;
    let before = farm.registry.position().await.unwrap();
    agent.report(&farm, ready(spawn)).await;
    agent.report(&farm, SpawnReport { connected: Some(Duration::ZERO), ..ready(spawn) }).await;
    // As that release reads them: the field `k` of the stream, and the third part of a record's line.
    let stream: String =
        format!("{:?}", farm.server().query::<redis::Value>(&format!("XRANGE {EVENTS} - +")).await.unwrap());
    assert!(stream.contains("spawn.ping") && stream.contains("spawn.connected"), "{stream}");
    let line: String =
        farm.server().query(&format!("HGET {{hatchery:test}}:spawn:{spawn} e2")).await.unwrap();
    assert_eq!(line.split('|').nth(2), Some("spawn.ping"), "{line}");
    // As this one does.
    let (_, _, kinds) = follows(&farm, before).await;
    assert_eq!(kinds, [EventKind::SpawnReady, EventKind::SpawnConnected]);
    let record = farm.registry.spawn(spawn).await.unwrap().unwrap();
    let event = record.events.last().unwrap();
    assert_eq!((event.kind, event.data.len()), (EventKind::SpawnConnected, 0), "{event:?}");
}
