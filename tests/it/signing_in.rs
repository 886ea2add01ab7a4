//! Pages and web clients at a front door that lets in only those it knows.

use std::time::Duration;

use hatchery_tests::browser::keys;
use hatchery_tests::{AgentPlan, Browser, Farm};
use serde_json::{Value, json};

/// A farm whose front door knows these keys, each made with these flags.
async fn guarded<const N: usize>(slots: u16, keys: [&[&str]; N]) -> (Farm, [String; N]) {
    let farm = Farm::builder().keys().agent(AgentPlan::slots(slots)).start().await;
    let mut made = Vec::new();
    for flags in keys {
        made.push(farm.key(flags).await);
    }
    (farm, made.try_into().unwrap())
}

const OPERATOR: &[&str] = &["--scope", "spawn,operate"];
const VIEWER: &[&str] = &["--scope", "read"];
const WEB_CLIENT: &[&str] = &["--scope", "spawn", "--concurrent-spawns", "1"];
const HASTY: &[&str] = &["--scope", "spawn", "--spawns-per-minute", "1"];

/// The owner of what is spawned with this key.
fn owner(credential: &str) -> String {
    format!("key:{}", credential.split('_').nth(1).unwrap())
}

/// From now on this key is no good.
async fn revoke(farm: &Farm, credential: &str) {
    let (id, keys) = (&owner(credential)["key:".len()..], farm.keys().display().to_string());
    let ran = farm.run(&["key", "revoke", id, "--file", &keys]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
}

fn url(farm: &Farm, path: &str) -> String {
    format!("http://{}{path}", farm.door(0).addr)
}

/// Types a credential into the box and presses Enter.
async fn sign_in(browser: &Browser, credential: &str) {
    browser
        .holds(
            "document.activeElement.id === 'signin-text' && !document.getElementById('signin-go').disabled",
        )
        .await;
    browser.fill("#signin-text", credential).await;
    browser.press(keys::ENTER).await;
}

#[tokio::test]
async fn an_operator_signs_in_on_the_dashboard_and_out_again() {
    let (farm, [operator, next]) = guarded(3, [OPERATOR, OPERATOR]).await;
    let secret = operator.split('_').nth(2).unwrap();
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, "/")).await;
    browser.sees("#signin-dialog", "This farm wants to know who uses it.").await;
    browser.sees("#signin-dialog", "kept for this tab alone").await;
    browser.picture("signin").await;

    // Whoever does not want to sees nothing, and can think again.
    browser.press(keys::ESCAPE).await;
    browser.sees("#trouble", "Nobody is signed in.").await;
    browser.sees("#connection", "Not signed in").await;
    browser.picture("signed-out").await;
    browser.click(".who button").await;

    sign_in(&browser, "two words").await;
    browser.sees("#signin-error", "neither spaces nor lines").await;
    for wrong in
        [format!("{operator}x"), operator.replace(secret, &secret.to_lowercase()), "nonsense".to_owned()]
    {
        sign_in(&browser, &wrong).await;
        browser.sees("#signin-error", "That is not accepted").await;
    }
    assert_eq!(browser.run("return Object.keys({ ...sessionStorage, ...localStorage });").await, json!([]));
    sign_in(&browser, &operator).await;
    browser.sees("#total", "of 3").await;
    browser.sees("#connection", "Live").await;
    browser.sees(".who", &owner(&operator)).await;
    browser
        .holds("!document.getElementById('signin-dialog').open && document.getElementById('may').hidden")
        .await;
    browser.holds("document.getElementById('trouble').hidden").await;
    browser.click("[aria-label=\"Cordon node-a\"]").await;
    browser.sees("#notes", "node-a is closed to new spawns.").await;
    browser.click("[aria-label=\"Uncordon node-a\"]").await;
    browser.sees("#notes", "node-a is open again.").await;
    browser.picture("signed-in").await;

    // The same tab knows it still, another one does not; it stands in no address.
    browser.open(&url(&farm, "/demo")).await;
    browser.sees(".who", &owner(&operator)).await;
    assert!(!browser.run("return location.href;").await.to_string().contains(secret));
    let first = browser.window().await;
    browser.new_window().await;
    browser.open(&url(&farm, "/")).await;
    browser.sees("#signin-dialog", "Sign in").await;
    browser.turn_to(&first).await;
    browser.click(".who button").await;
    browser.holds("document.getElementById('signin-dialog')?.open").await;
    assert_eq!(browser.run("return sessionStorage.length;").await, 0);

    // What is no good any more is asked for again, with what one saw standing there as it was.
    browser.open(&url(&farm, "/")).await;
    sign_in(&browser, &operator).await;
    browser.sees("#total", "of 3").await;
    revoke(&farm, &operator).await;
    browser.sees("#signin-error", "That is not accepted").await;
    browser.sees("#trouble", "What you see is how it was at").await;
    sign_in(&browser, &next).await;
    browser.sees("#connection", "Live").await;
    let said = browser.console().await;
    assert!(!said.iter().any(|line| line.contains(secret) || line.contains("Refused")), "{said:#?}");
    farm.finish().await;
}

#[tokio::test]
async fn a_viewer_of_the_dashboard_sees_its_own_spawns_and_why_it_can_do_no_more() {
    let (farm, [viewer, web_client]) = guarded(3, [VIEWER, WEB_CLIENT]).await;
    let other = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, "/")).await;
    sign_in(&browser, &viewer).await;
    browser.sees("#total", "of 3").await;
    browser.sees("#may", "You may not give orders to nodes, or see and stop the spawns of others").await;
    browser.sees("#may", "The spawns that are shown are your own.").await;
    // Which slots are free is no secret.
    browser.sees("#used", "1").await;
    browser.sees("[data-node=\"node-a\"] .c-slots", "1 / 3").await;
    for order in ["Cordon", "Drain"] {
        browser.holds(&format!("document.querySelector('[aria-label=\"{order} node-a\"]').disabled")).await;
    }
    assert!(
        browser.run(&format!("return document.querySelector('[data-spawn=\"{other}\"]');")).await.is_null()
    );
    browser.prefers("dark").await;
    browser.picture("viewer-dark").await;
    browser.screen(390, 844, true).await;
    browser.picture("viewer-phone").await;
    browser.holds("document.documentElement.scrollWidth <= innerWidth").await;

    // One that may only spawn sees no nodes, and its spawns.
    browser.screen(1440, 1100, false).await;
    browser.click(".who button").await;
    sign_in(&browser, &web_client).await;
    browser.sees("#may", "You may not look at nodes (scope “read”)").await;
    browser.sees("#nodes-empty", "You may not look at nodes").await;
    let mine = farm.door(0).showing(&web_client).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    browser.sees(&format!("[data-spawn=\"{mine}\"]"), "ready").await;
    browser.sees(&format!("[data-spawn=\"{mine}\"]"), &owner(&web_client)).await;
    browser.click(&format!("[data-spawn=\"{mine}\"] .c-do button:last-child")).await;
    browser.click("#stop-go").await;
    browser.sees(&format!("[data-spawn=\"{mine}\"]"), "it was stopped on request").await;
    farm.stop([other.as_str()]).await;
    farm.ends(&mine).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_demo_spawns_for_its_user_and_says_when_that_is_too_much() {
    let (farm, [viewer, web_client]) = guarded(3, [VIEWER, WEB_CLIENT]).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, "/demo")).await;
    sign_in(&browser, &web_client).await;
    browser.sees("#connection", "Live").await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"]", "The model is open.").await;
    let id = browser.run("return document.querySelector('[data-viewer]').dataset.spawn;").await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"2\"]", "You have as many as you may").await;
    browser.picture("demo-quota").await;
    // The page takes its spawns with it, also when it signs out.
    browser.click(".who button").await;
    farm.ends(id.as_str().unwrap()).await;
    sign_in(&browser, &viewer).await;
    browser.sees("#may", "You may not start viewers").await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"]", "You may not do that").await;
    farm.finish().await;
}

#[tokio::test]
async fn a_key_that_is_good_is_accepted_at_once_also_where_the_page_had_connected_without_one() {
    let (farm, [web_client]) = guarded(3, [WEB_CLIENT]).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, "/demo")).await;
    // The live connection is open without a credential: the front door waits for one for ten seconds.
    browser.sees("#connection", "Live").await;
    browser.click("#create").await;
    sign_in(&browser, &web_client).await;
    browser.holds("!document.getElementById('signin-dialog').open").await;
    browser.sees(".who", &owner(&web_client)).await;
    browser.holds("document.getElementById('signin-error').hidden").await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"2\"]", "The model is open.").await;
    let id = browser.run("return document.querySelector('[data-viewer=\"2\"]').dataset.spawn;").await;
    browser.click(".who button").await;
    farm.ends(id.as_str().unwrap()).await;
    farm.finish().await;
}

/// A page of another origin with the library in `client`, and these credentials in `keys`.
async fn page(farm: &Farm, keys: &Value) -> Browser {
    let browser = Browser::start(800, 600).await;
    browser.set_timeout(Duration::from_secs(90)).await;
    browser.open(&format!("http://{}/healthz", farm.doors[0].admin.addr)).await;
    let script = "window.client = await import(arguments[0]);\
        window.failed = (error) => ({ name: error.name, code: error.code, status: error.status, message: error.message,\
            attempts: error.attempts, cause: error.cause && (error.cause.code ?? error.cause.message) });\
        window.settled = (promise) => promise.then((value) => ({ value, attempts: value.attempts }), failed);\
        window.keys = arguments[1]; window.asked = 0;";
    browser.run_with(script, &json!([url(farm, "/client.js"), keys])).await;
    browser
}

async fn settled(browser: &Browser, call: &str) -> Value {
    browser.run(&format!("return settled({call});")).await
}

#[tokio::test]
async fn a_web_client_shows_its_token_and_asks_for_another_when_that_is_refused() {
    let (farm, [viewer, web_client, hasty]) = guarded(4, [VIEWER, WEB_CLIENT, HASTY]).await;
    let browser = page(&farm, &json!({"v": viewer, "w": web_client, "h": hasty})).await;
    let fails = async |call: &str, code: &str, attempts: u32| {
        let error = settled(&browser, call).await;
        assert_eq!((&error["code"], &error["attempts"]), (&json!(code), &json!(attempts)), "{call}: {error}");
        error
    };
    fails("client.spawn()", "unauthenticated", 1).await;
    let wrong = fails("client.spawn({ token: 'hush' })", "unauthenticated", 1).await;
    assert_eq!((&wrong["name"], &wrong["status"]), (&json!("ProblemError"), &json!(401)));
    assert!(!wrong.to_string().contains("hush"), "{wrong}");
    // Once more, and not for ever.
    fails("client.spawn({ token: () => { asked += 1; return 'hush'; } })", "unauthenticated", 2).await;
    assert_eq!(browser.run("return asked;").await, 2);
    let refused = fails("client.spawn({ token: keys.v })", "forbidden", 1).await;
    assert_eq!(refused["status"], 403);
    // What the page itself does wrong is no fault of the network, and nothing is sent.
    let none =
        fails("client.spawn({ token: async () => { throw new Error('no session'); } })", "no-token", 1).await;
    assert_eq!((&none["name"], &none["cause"]), (&json!("TokenError"), &json!("no session")));
    fails("client.stop('x', { token: () => 'two words' })", "no-token", 1).await;
    let late =
        settled(&browser, "client.spawn({ token: () => new Promise(() => {}), deadlineMs: 300 })").await;
    assert_eq!(late["code"], "deadline-exceeded", "{late}");

    // The first token has expired, the next has not.
    let good =
        "client.spawn({ token: async () => { asked += 1; return asked === 1 ? 'old' : `${keys.w}\\n`; } })";
    browser.run("asked = 0;").await;
    let spawned = settled(&browser, good).await;
    assert_eq!(spawned["attempts"], 2, "{spawned}");
    let id = spawned["value"]["id"].as_str().unwrap();

    // As many as it may have: that is said at once, unless the page would rather wait.
    fails("client.spawn({ token: keys.w })", "quota-exceeded", 1).await;
    browser
        .run("window.waited = settled(client.spawn({ token: keys.w, waitForQuota: true, onRetry: () => { asked = 100; } }));")
        .await;
    browser.holds("asked === 100").await;
    let stop = format!("client.stop('{id}', {{ token: keys.w }})");
    assert_eq!(settled(&browser, &stop).await["value"]["id"], id);
    let waited = browser.run("return waited;").await;
    let second = waited["value"]["id"].as_str().unwrap_or_else(|| panic!("{waited}")).to_owned();
    // Another one's spawn is none that one knows of.
    fails(&format!("client.stop('{second}', {{ token: keys.h }})"), "not-found", 1).await;

    // One a minute: the second does not come in time, and the answer says how long to wait.
    let first = settled(&browser, "client.spawn({ token: keys.h })").await;
    let third = first["value"]["id"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned();
    let too_soon = settled(&browser, "client.spawn({ token: keys.h, deadlineMs: 5000 })").await;
    assert_eq!(
        (&too_soon["code"], &too_soon["cause"], &too_soon["attempts"]),
        (&json!("rate-limited"), &json!("rate-limited"), &json!(1)),
        "{too_soon}"
    );
    farm.stop([second.as_str(), third.as_str()]).await;
    farm.ends(&second).await;
    farm.ends(&third).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_live_feed_signs_in_goes_on_with_the_next_token_and_does_not_repeat_a_refused_one() {
    let (farm, [operator, web_client]) = guarded(4, [OPERATOR, WEB_CLIENT]).await;
    let (operators, clients) = (owner(&operator), owner(&web_client));
    let browser = page(&farm, &json!({"o": operator, "w": web_client})).await;
    for options in ["{}", "{ token: 'hush' }"] {
        browser
            .run(&format!(
                "window.feed = client.live({options}); window.refusals = [];\
            feed.addEventListener('refused', ({{ detail }}) => refusals.push([detail.name, detail.code]));"
            ))
            .await;
        browser.holds("feed.state.state === 'refused' && feed.state.code === 'unauthenticated'").await;
        let refusals = browser.run("return refusals;").await;
        assert_eq!(refusals, json!([["RefusedError", "unauthenticated"]]), "{options}");
        // It has ended: nothing is under way that could come back.
        browser.run("feed.hurry();").await;
        browser.holds("feed.state.state === 'refused'").await;
    }

    let script = "window.given = ['hush', keys.o, keys.w]; window.seen = []; window.snapshots = 0; window.resumed = 0;\
        window.barred = [];\
        window.feed = client.live({ token: async () => given.shift() ?? keys.w, backoff: { firstMs: 50, mostMs: 200 } });\
        feed.subscribe('spawns', { onSnapshot: () => { snapshots += 1; }, onResume: () => { resumed += 1; },\
            onRefused: ({ code }) => barred.push(['spawns', code]),\
            onEvent: (event) => { if (event.kind !== 'spawn.ping') seen.push([event.kind, event.spawn]); } });\
        feed.subscribe('nodes', { onRefused: ({ code, topic }) => barred.push([topic, code]) });";
    browser.run(script).await;
    browser.holds(&format!("feed.state.state === 'open' && feed.state.caller.owner === '{operators}'")).await;
    browser.holds("snapshots === 1").await;
    assert_eq!(browser.run("return [barred, given.length];").await, json!([[], 1]));

    // Its key goes, and with the next one it hears on from where it was; but only of what is its own, and nothing of nodes.
    revoke(&farm, &operator).await;
    browser.holds(&format!("feed.state.state === 'open' && feed.state.caller.owner === '{clients}'")).await;
    browser.holds("resumed === 1 && snapshots === 1").await;
    browser.holds("JSON.stringify(barred) === '[[\"nodes\",\"forbidden\"]]'").await;
    let other = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let mine = settled(&browser, "client.spawn({ token: keys.w })").await["value"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    browser.holds(&format!("seen.some(([kind, id]) => kind === 'spawn.ready' && id === '{mine}')")).await;
    assert!(!browser.run("return seen;").await.to_string().contains(&other));
    farm.stop([mine.as_str(), other.as_str()]).await;
    browser.run("feed.close();").await;
    farm.finish().await;
}
