//! `client.js` in a browser, on a page of another origin, on bad networks.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hatchery_tests::link::{Condition, Link};
use hatchery_tests::{AgentPlan, Browser, Farm, Look, until, wait::TIMEOUT};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A page of another origin than the front door, with the library in `client` and what the scripts below need.
async fn page(farm: &Farm) -> Browser {
    let browser = Browser::start(800, 600).await;
    browser.set_timeout(Duration::from_secs(90)).await;
    browser.open(&format!("http://{}/healthz", farm.doors[0].admin.addr)).await;
    let library = format!("http://{}/client.js", farm.door(0).addr);
    let script = "window.client = await import(arguments[0]);\
        window.failed = (error) => ({ name: error.name, code: error.code, status: error.status, message: error.message,\
            requestId: error.requestId, attempts: error.attempts, cause: error.cause && error.cause.code });\
        window.settled = (promise) => promise.then((value) => ({ value, attempts: value.attempts }), failed);";
    browser.run_with(script, &json!([library])).await;
    browser
}

/// Begins a call whose outcome [`outcome`] waits for.
async fn begin(browser: &Browser, call: &str) {
    browser
        .run(&format!(
            "window.outcome = undefined; settled({call}).then((it) => {{ window.outcome = it; }});"
        ))
        .await;
}

async fn outcome(browser: &Browser) -> Value {
    browser.holds("window.outcome !== undefined").await;
    browser.run("return window.outcome;").await
}

async fn runs(farm: &Farm, count: usize) {
    until(&format!("{count} run"), TIMEOUT, async || {
        let now = farm.processes().len();
        Look::when(now == count, || format!("{now} do"))
    })
    .await;
}

#[tokio::test]
async fn a_spawn_is_given_up_on_request_and_in_time_and_nothing_stays_behind() {
    let farm = Farm::small(2).await;
    let browser = page(&farm).await;
    let slow = "sessionToken: 'sim:ready_delay_ms=60000'";
    browser.run("window.control = new AbortController();").await;
    begin(&browser, &format!("client.spawn({{ {slow}, signal: control.signal }})")).await;
    runs(&farm, 1).await;
    browser.run("control.abort();").await;
    let aborted = outcome(&browser).await;
    assert_eq!(aborted["name"], "AbortError", "{aborted}");
    runs(&farm, 0).await;

    let late = browser.run(&format!("return settled(client.spawn({{ {slow}, deadlineMs: 1500 }}));")).await;
    assert_eq!(
        (&late["name"], &late["code"]),
        (&json!("DeadlineError"), &json!("deadline-exceeded")),
        "{late}"
    );
    runs(&farm, 0).await;
    farm.finish().await;
}

#[tokio::test]
async fn errors_say_what_the_front_door_said() {
    let farm = Farm::small(1).await;
    let browser = page(&farm).await;
    let failed =
        browser.run("return settled(client.spawn({ sessionToken: 'sim:exit_before_ready=6' }));").await;
    assert_eq!(
        (&failed["name"], &failed["code"], &failed["status"], &failed["attempts"]),
        (&json!("ProblemError"), &json!("spawn-failed"), &json!(502), &json!(1)),
        "{failed}"
    );
    assert!(failed["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{failed}");
    let wrong = browser.run("return settled(client.spawn({ colour: 'red' }));").await;
    assert_eq!((&wrong["code"], &wrong["attempts"]), (&json!("invalid-request"), &json!(1)), "{wrong}");
    let unknown = browser.run("return settled(client.stop(crypto.randomUUID?.() ?? 'x'));").await;
    assert_eq!(unknown["code"], "not-found", "{unknown}");
    farm.finish().await;
}

#[tokio::test]
async fn a_full_farm_is_asked_again_until_there_is_room() {
    let farm = Farm::small(1).await;
    let browser = page(&farm).await;
    let first = browser.run("return settled(client.spawn());").await;
    browser.run("window.retries = [];").await;
    begin(&browser, "client.spawn({ onRetry: ({ error, delayMs }) => retries.push([error.code, delayMs, error.retryAfterMs]) })")
        .await;
    browser.holds("window.retries.length > 0").await;
    let stopped =
        browser.run_with("return settled(client.stop(arguments[0]));", &json!([first["value"]["id"]])).await;
    assert_eq!(stopped["value"]["id"], first["value"]["id"], "{stopped}");
    let second = outcome(&browser).await;
    assert!(second["attempts"].as_u64().is_some_and(|attempts| attempts > 1), "{second}");
    let retries = browser.run("return window.retries;").await;
    for retry in retries.as_array().unwrap() {
        assert_eq!(retry[0], "no-capacity", "{retries}");
        assert!(retry[1].as_f64() >= retry[2].as_f64() && retry[2].as_f64() > Some(0.0), "{retries}");
    }
    farm.stop([second["value"]["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn what_another_attempt_cannot_change_is_thrown_at_once_and_a_full_farm_by_its_own_code() {
    let farm = Farm::small(1).await;
    let browser = page(&farm).await;
    let mistyped =
        browser.run("return settled(client.spawn({ labels: { skd: '1' }, waitSeconds: 30 }));").await;
    assert_eq!(
        (&mistyped["name"], &mistyped["code"], &mistyped["attempts"]),
        (&json!("ProblemError"), &json!("no-matching-node"), &json!(1)),
        "{mistyped}"
    );
    let first = browser.run("return settled(client.spawn());").await;
    let script = "const began = Date.now(); const failed = await settled(client.spawn({ deadlineMs: 8000 }));\
        return { ...failed, elapsed: Date.now() - began };";
    let full = browser.run(script).await;
    assert_eq!((&full["name"], &full["code"]), (&json!("DeadlineError"), &json!("no-capacity")), "{full}");
    let message = full["message"].as_str().unwrap();
    let said: f64 = message.split_whitespace().nth(3).unwrap().parse().unwrap();
    let elapsed = full["elapsed"].as_f64().unwrap() / 1000.0;
    assert!((said - elapsed).abs() < 0.5, "gave up after {elapsed} s, and says {message:?}");
    farm.stop([first["value"]["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_page_that_waits_in_line_keeps_its_place_beyond_the_time_of_one_call() {
    let farm = Farm::small(1).await;
    let browser = page(&farm).await;
    let first = browser.run("return settled(client.spawn());").await;
    browser.run("window.retries = [];").await;
    let call = "client.spawn({ waitSeconds: 2, onRetry: ({ error }) => retries.push(error.code) })";
    begin(&browser, call).await;
    farm.waiting(1).await;
    let later = tokio::spawn(farm.door(0).post("/spawn").json(&json!({"waitSeconds": 60})).send());
    farm.waiting(2).await;
    // Its call is over and another one is made, twice.
    browser.holds("retries.length >= 2").await;
    farm.waiting(2).await;
    farm.stop([first["value"]["id"].as_str().unwrap()]).await;
    let served = outcome(&browser).await;
    assert!(served["value"]["id"].is_string(), "the page came first: {served}");
    assert!(!later.is_finished(), "who came later waits on");
    farm.stop([served["value"]["id"].as_str().unwrap()]).await;
    let later = later.await.unwrap();
    assert_eq!(later.status, 200, "{later:?}");
    farm.stop([later.json()["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_whose_answer_is_lost_on_the_way_is_not_started_twice() {
    let farm = Farm::small(4).await;
    let link = Link::to(farm.door(0).addr, "the browser to the front door".into()).await;
    let browser = page(&farm).await;
    let base = format!("base: 'http://{}'", link.addr);
    browser.run("window.retries = 0;").await;
    let base = format!("{base}, onRetry: () => {{ retries += 1; }}");
    begin(&browser, &format!("client.spawn({{ {base}, sessionToken: 'sim:ready_delay_ms=1500' }})")).await;
    runs(&farm, 1).await;
    // The server comes up and its answer stays under way until the connection breaks.
    link.becomes(Condition::Hole);
    until("the front door has answered", TIMEOUT, async || {
        let spawns = farm.door(0).json("/v1/spawns").await;
        Look::when(spawns["spawns"][0]["state"] == "ready", || spawns.to_string())
    })
    .await;
    until("the answer is under way", TIMEOUT, async || {
        let busy = farm.doors[0].metrics().await.sum("hatchery_frontdoor_requests_in_flight");
        // The one that asks is one of them.
        Look::when(busy < 1.5, || format!("{busy} requests are being answered"))
    })
    .await;
    link.becomes(Condition::Cut);
    browser.holds("retries > 0").await;
    link.becomes(Condition::Good);
    let got = outcome(&browser).await;
    assert!(got["attempts"].as_u64().is_some_and(|attempts| attempts > 1), "{got}");
    assert_eq!(farm.door(0).json("/v1/spawns").await["spawns"].as_array().unwrap().len(), 1);
    assert_eq!(farm.processes().len(), 1);
    assert!(farm.process(got["value"]["id"].as_str().unwrap()).is_some(), "{got}");

    // Cut in the middle: the front door undoes what was begun, and the repeated call is the one that counts.
    begin(&browser, &format!("client.spawn({{ {base}, sessionToken: 'sim:ready_delay_ms=1000' }})")).await;
    runs(&farm, 2).await;
    browser.run("retries = 0;").await;
    link.becomes(Condition::Cut);
    browser.holds("retries > 0").await;
    link.becomes(Condition::Good);
    let second = outcome(&browser).await;
    assert!(second["attempts"].as_u64().is_some_and(|attempts| attempts > 1), "{second}");
    runs(&farm, 2).await;
    farm.stop([&got, &second].map(|it| it["value"]["id"].as_str().unwrap())).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_that_is_gone_is_passed_over() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(2)).start().await;
    let browser = page(&farm).await;
    let bases = format!("base: ['http://{}', 'http://{}']", farm.door(0).addr, farm.door(1).addr);
    farm.doors[0].role.kill();
    let got = browser.run(&format!("return settled(client.spawn({{ {bases} }}));")).await;
    assert_eq!(got["attempts"], 2, "{got}");
    browser.run(&format!("window.feed = client.live({{ {bases} }});")).await;
    browser.holds("feed.state.state === 'open'").await;
    farm.doors[0].restart().await;
    farm.stop([got["value"]["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_feed_that_was_cut_goes_on_where_it_was() {
    let farm = Farm::builder()
        .door_args(&["--live-ping-interval", "500ms"])
        .agent(AgentPlan::slots(8))
        .start()
        .await;
    let link = Link::to(farm.door(0).addr, "the browser to the front door".into()).await;
    let browser = page(&farm).await;
    let script = "window.seen = []; window.snapshots = 0; window.resumed = 0; window.states = [];\
        window.feed = client.live({ base: arguments[0], heartbeatBufferSeconds: 0.5, backoff: { firstMs: 50, maxMs: 200 } });\
        feed.addEventListener('state', ({ detail }) => states.push(detail));\
        feed.subscribe('spawns', { onSnapshot: () => { snapshots += 1; }, onResume: () => { resumed += 1; },\
            onEvent: (event) => { if (event.kind !== 'spawn.ping') seen.push([event.seq, event.kind, event.spawn]); } });";
    browser.run_with(script, &json!([format!("http://{}", link.addr)])).await;
    browser.holds("snapshots === 1").await;
    let mut ids = Vec::new();
    for condition in [Condition::Good, Condition::Cut, Condition::Hole] {
        // Only what comes of this condition counts, not what was left of the one before.
        browser.holds("feed.state.state === 'open'").await;
        browser.run("states.length = 0;").await;
        link.becomes(condition);
        if condition != Condition::Good {
            browser.holds("states.some(({ state }) => state === 'waiting')").await;
        }
        let answer = farm.door(0).spawned(&json!({})).await;
        ids.push(answer["id"].as_str().unwrap().to_owned());
        link.becomes(Condition::Good);
        browser
            .holds(&format!(
                "seen.filter(([, kind, id]) => id === '{}' && kind === 'spawn.ready').length === 1",
                ids.last().unwrap()
            ))
            .await;
    }
    farm.stop(ids.iter().map(String::as_str)).await;
    for id in &ids {
        browser
            .holds(&format!("seen.some(([, kind, id]) => id === '{id}' && kind === 'spawn.exited')"))
            .await;
    }
    let seen = browser.run("return seen;").await;
    let seen: Vec<(u64, String, String)> = serde_json::from_value(seen).unwrap();
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "out of order or twice: {seen:#?}");
    for id in &ids {
        let kinds: Vec<&str> =
            seen.iter().filter(|(_, _, of)| of == id).map(|(_, kind, _)| kind.as_str()).collect();
        assert_eq!((kinds[0], kinds[1]), ("spawn.launching", "spawn.ready"), "{id}: {kinds:?}");
        assert_eq!(kinds.last(), Some(&"spawn.exited"), "{id}: {kinds:?}");
        assert_eq!(kinds.iter().collect::<BTreeSet<_>>().len(), kinds.len(), "{id}: {kinds:?}");
    }
    assert_eq!(browser.run("return snapshots;").await, 1, "it resumed and did not start over");
    assert!(browser.run("return resumed;").await.as_u64() >= Some(2));
    browser.run("feed.close();").await;
    farm.finish().await;
}

/// A load balancer that knows of no WebSockets: it forbids the live feed and serves everything else.
async fn forbids_upgrades() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0)
            {
            }
            let status = if head.starts_with(b"GET /v1/live ") { "403 Forbidden" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    addr
}

#[tokio::test]
async fn a_feed_that_never_opens_says_what_may_stand_in_the_way() {
    let farm = Farm::small(1).await;
    let browser = page(&farm).await;
    let link = Link::to(farm.door(0).addr, "the browser to the front door".into()).await;
    let script = "window.feed = client.live({ base: arguments[0], backoff: { firstMs: 50, maxMs: 200 } });";
    for (base, named) in [
        (
            forbids_upgrades().await,
            "/v1/live does not open, though its server answers: either a load balancer",
        ),
        (link.addr, "cannot be reached"),
    ] {
        link.becomes(Condition::Cut);
        browser.console().await;
        browser.run_with(script, &json!([format!("http://{base}")])).await;
        let says = format!("feed.state.state === 'waiting' && feed.state.reason?.includes({})", json!(named));
        browser.holds(&says).await;
        let warned = browser.console().await;
        assert_eq!(warned.iter().filter(|line| line.contains(named)).count(), 1, "{named}: {warned:?}");
        if base != link.addr {
            browser.run("feed.close();").await;
        }
    }
    // It goes on by itself once the way is free.
    link.becomes(Condition::Good);
    browser.holds("feed.state.state === 'open'").await;
    browser.run("feed.close();").await;
    farm.finish().await;
}
