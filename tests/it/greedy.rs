//! Callers who take as much as they can: strangers before they have said who they are, and the holder of one key.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered, StreamExt};
use hatchery_tests::crowd::{UPGRADE, stranger};
use hatchery_tests::wait::{TIMEOUT, longer_than};
use hatchery_tests::{AgentPlan, Client, Farm, Look, Subscriber, until};
use serde_json::json;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Error;

async fn farm(slots: u16, flags: &[&str]) -> Farm {
    Farm::builder().keys().plain_log().door_args(flags).agent(AgentPlan::slots(slots)).start().await
}

/// Commands that Redis has carried out so far, those of scripts included.
async fn commands(farm: &Farm) -> f64 {
    let said = farm.redis.says("INFO stats").await.expect("Redis answers");
    let line = said.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no count in {said}"))
}

/// Commands that Redis carried out because of this, beside those of a farm that nobody asks anything.
async fn cost(farm: &Farm, work: impl Future<Output = ()>) -> f64 {
    let rate = async |work: &mut (dyn Future<Output = ()> + Unpin)| {
        let (before, began) = (commands(farm).await, Instant::now());
        work.await;
        (commands(farm).await - before, began.elapsed().as_secs_f64())
    };
    let (idle, seconds) = rate(&mut Box::pin(longer_than(Duration::from_secs(2)))).await;
    let (all, took) = rate(&mut Box::pin(work)).await;
    all - idle / seconds * took
}

/// Waits until so many requests are being answered.
async fn under_way(farm: &Farm, requests: usize) {
    let all = f64::from(u32::try_from(requests).unwrap());
    until("requests are under way", TIMEOUT, async || {
        let now = farm.doors[0].metrics().await.get("hatchery_frontdoor_requests_in_flight").unwrap();
        // The one that looks is one of them.
        Look::when(now > all, || format!("{now} requests"))
    })
    .await;
}

/// Asks the same many times, by several workers.
async fn ask(client: Client, method: &str, path: &str, times: usize, workers: usize) -> Vec<u16> {
    let one = async |_| client.request(method, path).send().await.status;
    stream::iter(0..times).map(one).buffer_unordered(workers).collect().await
}

#[tokio::test]
async fn one_key_has_a_part_of_the_live_connections_and_others_have_theirs() {
    let farm = farm(1, &["--max-connections", "100", "--max-live-per-caller", "10"]).await;
    let addr = farm.door(0).addr;
    let [greedy, other] = [farm.key(&["--scope", "read"]).await, farm.key(&["--scope", "read"]).await];
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(Subscriber::connect_as(addr, &greedy).await);
    }
    match Subscriber::try_connect_as(addr, Some(&greedy)).await {
        Err(Error::Http(answer)) => {
            assert_eq!(answer.status().as_u16(), 429);
            assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
            let problem = String::from_utf8(answer.body().clone().unwrap()).unwrap();
            assert!(
                problem.contains("quota-exceeded") && problem.contains("10 live connections"),
                "{problem}"
            );
        }
        other => panic!("a refusal was expected, not {other:?}"),
    }
    let mut late = Subscriber::connect(addr).await;
    late.authenticate(&greedy).await;
    late.refused("quota-exceeded").await;
    assert_eq!(late.closed().await.0, 1013);
    let mut subscriber = Subscriber::connect_as(addr, &other).await;
    subscriber.subscribe("nodes").await;
    // What it lets go of it may have again.
    held.pop();
    until("there is a place for it again", TIMEOUT, async || {
        let again = Subscriber::try_connect_as(addr, Some(&greedy)).await;
        Look::when(again.is_ok(), || format!("{again:?}"))
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn subscriptions_of_a_key_are_counted_over_its_connections() {
    let farm = farm(1, &["--max-subscriptions-per-caller", "3"]).await;
    let addr = farm.door(0).addr;
    let key = farm.key(&["--scope", "read"]).await;
    let mut first = Subscriber::connect_as(addr, &key).await;
    let mut second = Subscriber::connect_as(addr, &key).await;
    first.subscribe("nodes").await;
    first.subscribe("spawns").await;
    second.subscribe("nodes").await;
    second.say(&json!({"type": "subscribe", "topic": "spawns"}).to_string()).await;
    second.refused("quota-exceeded").await;
    // The same again is no new one, and what is given back counts no more.
    second.subscribe("nodes").await;
    first.unsubscribe("spawns").await;
    second.subscribe("spawns").await;
    drop(first);
    farm.finish().await;
}

#[tokio::test]
async fn one_key_has_half_of_the_line_and_another_one_waits_beside_it() {
    let farm = farm(1, &["--max-waiting", "4"]).await;
    let held = farm.door(0).spawned(&json!({})).await;
    let greedy = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let other = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let wait = |client: Client| tokio::spawn(client.post("/spawn").json(&json!({"waitSeconds": 60})).send());
    let mut waiting = vec![wait(greedy), wait(greedy)];
    farm.waiting(2).await;
    let refused = greedy.spawn(&json!({"waitSeconds": 60})).await;
    let problem = refused.problem(429, "quota-exceeded");
    assert!(problem.detail.contains("2 requests in line"), "{problem:?}");
    assert!((1..=5).contains(&refused.retry_after()));
    waiting.push(wait(other));
    farm.waiting(3).await;
    let mut last = held["id"].as_str().unwrap().to_owned();
    let mut waiting: FuturesUnordered<_> = waiting.into_iter().collect();
    while !waiting.is_empty() {
        farm.stop([last.as_str()]).await;
        let answer = waiting.next().await.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["id"].as_str().unwrap().clone_into(&mut last);
    }
    farm.stop([last.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_key_that_calls_too_fast_is_refused_here_and_costs_the_registry_nothing() {
    const CALLS: usize = 3000;
    let farm = farm(1, &["--max-calls-per-second", "20"]).await;
    let greedy = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let began = Instant::now();
    let mut statuses = Vec::new();
    let spent = cost(&farm, async {
        statuses = ask(greedy, "GET", "/v1/spawns", CALLS, 16).await;
    })
    .await;
    let good = statuses.iter().filter(|status| **status == 200).count();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    // Two seconds' worth at once, and twenty more for each second that it took.
    let most = 40 + 20 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 1);
    assert!((20..=most).contains(&good), "{good} of {CALLS}, {most} at most");
    assert!(spent < 1500.0, "{spent} commands");
    let other = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    assert_eq!(other.get("/v1/spawns").send().await.status, 200);
    // It is told when to come back, and may then.
    let refused = until("it is refused", TIMEOUT, async || {
        let answer = greedy.get("/v1/spawns").send().await;
        Look::when(answer.status == 429, || format!("{answer:?}")).and(answer)
    })
    .await;
    refused.problem(429, "rate-limited");
    longer_than(Duration::from_secs(refused.retry_after())).await;
    assert_eq!(greedy.get("/v1/spawns").send().await.status, 200);
    farm.finish().await;
}

#[tokio::test]
async fn calls_of_a_key_under_way_at_once_are_bounded() {
    let farm = farm(1, &["--max-calls-per-caller", "3", "--max-waiting-per-caller", "10"]).await;
    let held = farm.door(0).spawned(&json!({})).await;
    let greedy = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let keyed = |name: &str| {
        let request = greedy.post("/spawn").header("idempotency-key", name);
        tokio::spawn(request.json(&json!({"waitSeconds": 60})).send())
    };
    // Those who wait for another one with their key take a place as well.
    let waiting = [keyed("a"), keyed("a"), keyed("a")];
    under_way(&farm, waiting.len()).await;
    greedy.get("/v1/spawns").send().await.problem(429, "quota-exceeded");
    let other = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    assert_eq!(other.get("/v1/spawns").send().await.status, 200);
    farm.stop([held["id"].as_str().unwrap()]).await;
    let mut ids = BTreeSet::new();
    for waiter in waiting {
        let answer = waiter.await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        ids.insert(answer.json()["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn starts_that_a_quota_refuses_cost_the_registry_nothing() {
    const CALLS: usize = 2000;
    let farm = farm(4, &["--max-calls-per-second", "100000"]).await;
    let greedy = farm.door(0).showing(&farm.key(&["--scope", "spawn", "--spawns-per-minute", "1"]).await);
    let first = greedy.spawned(&json!({})).await;
    let mut statuses = Vec::new();
    let spent = cost(&farm, async { statuses = ask(greedy, "POST", "/spawn", CALLS, 16).await }).await;
    assert!(statuses.iter().filter(|status| **status == 429).count() >= CALLS - 1, "{statuses:?}");
    assert!(spent < 1000.0, "{spent} commands");
    let refused = greedy.spawn(&json!({})).await;
    refused.problem(429, "rate-limited");
    assert!((1..=60).contains(&refused.retry_after()), "{refused:?}");
    farm.stop([first["id"].as_str().unwrap()]).await;
    let concurrent = farm.key(&["--scope", "spawn", "--concurrent-spawns", "1"]).await;
    let greedy = farm.door(0).showing(&concurrent);
    let first = greedy.spawned(&json!({})).await;
    let spent = cost(&farm, async { statuses = ask(greedy, "POST", "/spawn", CALLS, 16).await }).await;
    assert!(statuses.iter().all(|status| *status == 429), "{statuses:?}");
    greedy.spawn(&json!({})).await.problem(429, "quota-exceeded");
    assert!(spent < 4000.0, "{spent} commands");
    farm.stop([first["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn many_who_wait_with_one_idempotency_key_ask_the_registry_as_one() {
    const WAITERS: usize = 300;
    let farm = farm(1, &[]).await;
    let held = farm.door(0).spawned(&json!({})).await;
    let greedy = farm.door(0).showing(&farm.key(&["--scope", "spawn"]).await);
    let keyed = || {
        tokio::spawn(async move {
            loop {
                let request = greedy.post("/spawn").header("idempotency-key", "one");
                let answer = request.json(&json!({"waitSeconds": 60})).send().await;
                // On a machine that stands still for a moment the registry counts as away, and keys are refused meanwhile.
                if answer.status != 503 || answer.json()["code"] != "registry-unavailable" {
                    return answer;
                }
            }
        })
    };
    let waiters: Vec<_> = (0..WAITERS).map(|_| keyed()).collect();
    under_way(&farm, WAITERS).await;
    let (before, began) = (commands(&farm).await, Instant::now());
    longer_than(Duration::from_secs(3)).await;
    let rate = (commands(&farm).await - before) / began.elapsed().as_secs_f64();
    // Each of them would ask ten times a second, with several commands.
    assert!(rate < 1500.0, "{rate} commands a second");
    farm.stop([held["id"].as_str().unwrap()]).await;
    let answers = join_all(waiters).await;
    let ids: BTreeSet<String> = answers
        .into_iter()
        .map(|answer| {
            let answer = answer.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn nodes_that_many_list_are_read_once_for_them_and_an_order_shows_at_once() {
    const CALLS: usize = 3000;
    let flags = ["--max-calls-per-second", "100000"];
    let farm = Farm::builder()
        .keys()
        .plain_log()
        .doors(2)
        .door_args(&flags)
        .agent(AgentPlan::slots(1))
        .agent(AgentPlan::slots(1))
        .start()
        .await;
    let reader = farm.key(&["--scope", "read"]).await;
    let mut statuses = Vec::new();
    let spent = cost(&farm, async {
        statuses = ask(farm.door(0).showing(&reader), "GET", "/v1/nodes", CALLS, 64).await;
    })
    .await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(spent < f64::from(u32::try_from(CALLS).unwrap()), "{spent} commands");
    let spent = cost(&farm, async {
        statuses = ask(farm.door(0), "GET", "/readyz", CALLS, 64).await;
    })
    .await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(spent < 500.0, "{spent} commands");
    // What an operator has done shows, through whichever front door it is looked at, while others look all the time.
    let over = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = (0..32)
        .map(|at| {
            let (client, over) = (farm.door(at % 2).showing(&reader), Arc::clone(&over));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/v1/nodes").send().await.status, 200);
                }
            })
        })
        .collect();
    for (order, shows) in [("cordon", "cordoned"), ("uncordon", "eligible")].repeat(5) {
        let given = farm.door(0).post(&format!("/v1/nodes/node-a/{order}")).send().await;
        assert_eq!(given.status, 200, "{given:?}");
        for door in 0..2 {
            let list = farm.door(door).json("/v1/nodes").await;
            let node = list["nodes"].as_array().unwrap().iter().find(|node| node["id"] == "node-a").unwrap();
            assert_eq!(node["eligibility"], shows, "{node}");
        }
    }
    over.store(true, Ordering::Relaxed);
    for reader in crowd {
        reader.await.unwrap();
    }
    farm.finish().await;
}

#[tokio::test]
async fn snapshots_that_are_asked_for_in_a_loop_come_at_a_pace() {
    const AT_ONCE: u32 = 2000;
    const MORE: u32 = 400;
    const A_SECOND: u32 = 100;
    let farm = farm(1, &[]).await;
    let addr = farm.door(0).addr;
    let [greedy, other] = [farm.key(&["--scope", "read"]).await, farm.key(&["--scope", "read"]).await];
    let mut subscriber = Subscriber::connect_as(addr, &greedy).await;
    let began = Instant::now();
    for _ in 0..AT_ONCE + MORE {
        subscriber.subscribe("nodes").await;
    }
    // What it asked for beyond what it may have at once came at the pace that was set.
    let least = Duration::from_secs(u64::from(MORE / A_SECOND - 1));
    assert!(began.elapsed() > least, "{:?}", began.elapsed());
    // Other connections of the same key have no pace of their own, and other keys do not feel it.
    let mut listener = Subscriber::connect_as(addr, &other).await;
    for _ in 0..10 {
        listener.subscribe("nodes").await;
        listener.subscribe("spawns").await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_key_that_reads_old_events_again_and_again_leaves_another_key_its_turn() {
    const CONNECTIONS: usize = 20;
    let mut farm = farm(1, &[]).await;
    let [greedy, other] = [farm.key(&["--scope", "read"]).await, farm.key(&["--scope", "read"]).await];
    let (_, before) = Subscriber::to_as(farm.door(0).addr, &other, "nodes").await;
    let since = before["seq"].as_u64().unwrap();
    for order in ["cordon", "uncordon"].repeat(20) {
        assert_eq!(farm.door(0).post(&format!("/v1/nodes/node-a/{order}")).send().await.status, 200);
    }
    // A front door that has just begun has none of these events in its memory: the registry is read for each who asks.
    farm.doors[0].restart().await;
    let addr = farm.door(0).addr;
    let read = Arc::new(AtomicUsize::new(0));
    let loops: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (greedy, read) = (greedy.clone(), Arc::clone(&read));
            tokio::spawn(async move {
                let mut subscriber = Subscriber::connect_as(addr, &greedy).await;
                loop {
                    subscriber.resume("nodes", since).await;
                    for _ in 0..40 {
                        subscriber.event().await;
                    }
                    read.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    until("the greedy key is at it", TIMEOUT, async || {
        let read = read.load(Ordering::Relaxed);
        Look::when(read > CONNECTIONS, || format!("{read} times"))
    })
    .await;
    let mut listener = Subscriber::connect_as(addr, &other).await;
    for _ in 0..10 {
        let answer = listener.resume("nodes", since).await;
        assert_eq!(answer.get("snapshot"), None, "it gets what it has missed: {answer}");
        for _ in 0..40 {
            listener.event().await;
        }
    }
    assert!(loops.iter().all(|one| !one.is_finished()), "the greedy key was at it all the time");
    loops.iter().for_each(tokio::task::JoinHandle::abort);
    farm.finish().await;
}

#[tokio::test]
async fn urls_of_viewers_that_name_no_node_cost_the_registry_next_to_nothing() {
    const ASKED: usize = 600;
    let farm = farm(1, &[]).await;
    let door = farm.door(0).showing_nothing();
    let ask = async |number: usize| {
        let path = format!("/s/nowhere-{number}/{}/{}", uuid::Uuid::nil(), "0".repeat(64));
        let asked = door.get(&path).header("connection", "upgrade").header("upgrade", "websocket");
        asked.send().await.problem(404, "not-found");
    };
    let all = async {
        stream::iter(0..ASKED).map(ask).buffer_unordered(8).collect::<Vec<_>>().await;
    };
    let asked = cost(&farm, all).await;
    assert!(asked < f64::from(u32::try_from(ASKED).unwrap()) / 2.0, "{asked} commands");
    farm.finish().await;
}

#[tokio::test]
async fn strangers_on_the_live_feed_without_pause_do_not_stop_the_requests_of_a_key() {
    const PLACES: usize = 100;
    const CALLS: usize = 300;
    let farm = farm(1, &["--max-connections", &PLACES.to_string()]).await;
    let key = farm.key(&["--scope", "spawn"]).await;
    let client = farm.door(0).showing(&key);
    let mut listener = Subscriber::connect_as(client.addr, &key).await;
    listener.subscribe("spawns").await;
    let (over, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let floods: Vec<_> = (0..8)
        .map(|_| {
            let (over, came, door) = (Arc::clone(&over), Arc::clone(&came), client.addr);
            tokio::spawn(async move {
                let mut held = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let number = came.fetch_add(1, Ordering::Relaxed);
                    held.extend(stranger(door, number, UPGRADE.to_owned()).await);
                    if held.len() > PLACES {
                        held.remove(0);
                    }
                }
            })
        })
        .collect();
    until("strangers have all places", TIMEOUT, async || {
        let came = came.load(Ordering::Relaxed);
        Look::when(came > 5 * PLACES, || format!("{came} came"))
    })
    .await;
    for _ in 0..CALLS {
        let answer = client.get("/v1/spawns").send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // Whoever has said who it is stays.
    listener.subscribe("spawns").await;
    over.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.await.unwrap();
    }
    farm.finish().await;
}
