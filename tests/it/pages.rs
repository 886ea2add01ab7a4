//! The pages as a person meets them, in a real browser on a real farm.

use std::time::Duration;

use hatchery_tests::browser::keys;
use hatchery_tests::{AgentPlan, Browser, Farm, Look, Response, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// A change is on the page before one wonders where it stays; generous, because the machine may be busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(5);

fn url(farm: &Farm, door: usize, path: &str) -> String {
    format!("http://{}{path}", farm.door(door).addr)
}

/// The id of the spawn of the demo's viewer of this number.
async fn spawn_of(browser: &Browser, viewer: u32) -> String {
    let card = format!("[data-viewer=\"{viewer}\"]");
    browser.sees(&card, "The model is open.").await;
    let id = browser.run(&format!("return document.querySelector('{card}').dataset.spawn;")).await;
    id.as_str().unwrap().to_owned()
}

/// Scripts and styles did what they should, and nothing was refused by the policy.
async fn assert_no_complaints(browser: &Browser) {
    let said = browser.console().await;
    // That a front door could not be reached is for the page to say, which tests look at.
    let bad: Vec<_> = said
        .iter()
        .filter(|line| !line.contains("ERR_") && !line.contains("status of 50") && !line.contains("favicon"))
        .collect();
    assert_eq!(bad, Vec::<&String>::new());
}

#[tokio::test]
async fn pages_come_with_all_that_browsers_want_to_know() {
    let farm = Farm::small(1).await;
    let door = farm.door(0);
    let policy = |answer: &Response| answer.header("content-security-policy").unwrap().to_owned();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/demo", "text/html; charset=utf-8"),
        ("/demo/stage", "text/html; charset=utf-8"),
        ("/client.js", "text/javascript; charset=utf-8"),
        ("/client.d.ts", "text/plain; charset=utf-8"),
        ("/pages/base.css", "text/css; charset=utf-8"),
        ("/pages/icon.svg", "image/svg+xml"),
    ] {
        let answer = door.get(path).send().await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        assert!(policy(&answer).contains("default-src 'none'"), "{path}");
        let tag = answer.header("etag").unwrap();
        let again = door.get(path).header("if-none-match", tag).send().await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}: {again:?}");
        let mut head = String::new();
        door.request("HEAD", path).start().await.read_to_string(&mut head).await.unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n") && head.contains(tag),
            "{head}"
        );
        door.post(path).send().await.problem(405, "method-not-allowed");
    }
    for path in ["/client.js", "/client.d.ts"] {
        let answer = door.get(path).header("origin", "http://app.example").send().await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
    }
    for path in ["/", "/demo", "/pages/orders.js"] {
        let answer = door.get(path).header("origin", "http://app.example").send().await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    door.get("/pages/").send().await.problem(404, "not-found");
    door.get("/pages/../client.js").send().await.problem(404, "not-found");
    farm.finish().await;
}

#[tokio::test]
async fn what_a_client_does_is_on_the_dashboard_at_once_and_a_killed_server_is_said_to_both() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(3)).start().await;
    let browser = Browser::start(1440, 1100).await;
    let dashboard = browser.window().await;
    browser.open(&url(&farm, 0, "/")).await;
    browser.sees("#connection", "Live").await;
    browser.sees("#total", "of 5").await;

    let demo = browser.new_window().await;
    browser.open(&url(&farm, 0, "/demo")).await;
    for _ in 0..5 {
        browser.click("#create").await;
    }
    let mut ids = Vec::new();
    for viewer in 1..=5 {
        ids.push(spawn_of(&browser, viewer).await);
    }
    browser.picture("demo").await;
    browser.turn_to(&dashboard).await;
    browser.sees_within("#used", "5", AT_ONCE).await;
    for node in ["node-a", "node-b"] {
        browser.sees(&format!("[data-node=\"{node}\"] .c-state"), "Full").await;
    }
    for id in &ids {
        browser.sees(&format!("[data-spawn=\"{id}\"]"), "ready").await;
        // The demo's viewer is connected, and the dashboard shows it.
        let chip = format!("document.querySelector('[data-spawn=\"{id}\"] [data-viewer=\"connected\"]')");
        browser.holds(&format!("Boolean({chip}?.title)")).await;
    }

    // The viewer gets no message: its connection just ends. The farm knows why.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(farm.process(&ids[0]).unwrap().pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    browser.sees_within(&format!("[data-spawn=\"{}\"]", ids[0]), "it was killed (SIGKILL", AT_ONCE).await;
    browser.sees_within("#used", "4", AT_ONCE).await;
    browser.turn_to(&demo).await;
    browser.sees_within("[data-viewer=\"1\"]", "The server ended: it was killed (SIGKILL", AT_ONCE).await;

    // Closing a viewer ends its spawn; so does leaving the page, for all of them.
    browser.click("[data-viewer=\"2\"] header button").await;
    browser.sees("[data-viewer=\"2\"]", "It was closed here.").await;
    farm.ends(&ids[1]).await;
    browser.open(&url(&farm, 0, "/openapi.json")).await;
    for id in &ids[2..] {
        farm.ends(id).await;
    }
    browser.turn_to(&dashboard).await;
    browser.sees("#used", "0").await;
    browser.sees("#events-frame", "it was killed (SIGKILL").await;
    assert_no_complaints(&browser).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_node_is_emptied_from_the_dashboard_and_one_sees_how_long_it_takes() {
    let farm = Farm::small(4).await;
    let door = farm.door(0);
    let first = door.spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let second = door.spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, 0, "/")).await;
    let row = "[data-node=\"node-a\"]";
    browser.sees(row, "2 / 4").await;

    // With the keyboard alone: the node's name, then its orders in the panel that opens.
    browser.run(&format!("document.querySelector('{row} .name').focus();")).await;
    browser.press(keys::ENTER).await;
    browser.sees("#detail-title", "node-a").await;
    browser.sees("#detail", "2 of 4 in use").await;
    browser.press(keys::TAB).await;
    browser.holds("document.activeElement.textContent === 'Cordon'").await;
    browser.press(keys::ENTER).await;
    browser.sees_within(&format!("{row} .c-state"), "Cordoned", AT_ONCE).await;
    browser.sees("#notes", "node-a is closed to new spawns. 2 spawns there stay.").await;
    assert_eq!(door.json("/v1/nodes/node-a").await["eligibility"], "cordoned");
    browser.holds("document.activeElement !== document.body").await;

    browser.click(&format!("{row} [aria-label=\"Drain node-a\"]")).await;
    browser.sees("#drain-dialog", "2 spawns run there now.").await;
    browser.holds("document.activeElement.id === 'drain-amount'").await;
    browser.press(keys::ESCAPE).await;
    browser.holds("!document.getElementById('drain-dialog').open").await;
    browser.holds("document.activeElement.getAttribute('aria-label') === 'Drain node-a'").await;
    browser.press(keys::ENTER).await;
    browser.fill("#drain-amount", "30").await;
    browser.fill("#drain-reason", "new kernel").await;
    browser.picture("drain-dialog").await;
    browser.click("#drain-go").await;
    browser.sees_within(&format!("{row} .c-state"), "Draining", AT_ONCE).await;
    browser.sees(&format!("{row} .c-state"), "2 left, 30 min at most").await;
    browser.holds("document.activeElement !== document.body").await;
    browser.sees("#drain-story", "“new kernel”").await;
    browser.sees("#drain-story", "2 spawns left").await;
    let node = door.json("/v1/nodes/node-a").await;
    assert_eq!((&node["eligibility"], &node["drain"]["reason"]), (&json!("draining"), &json!("new kernel")));

    // One of them is stopped here, after a look at its log.
    browser.click(&format!("[data-spawn=\"{first}\"] .c-do button:first-child")).await;
    browser.sees("#log-said", "As of").await;
    let log = browser.text("#log-text").await;
    assert!(log.lines().count() > 1, "{log:?}");
    browser.click("#log-dialog [data-close]").await;
    browser.click(&format!("[data-spawn=\"{first}\"] .c-do button:last-child")).await;
    browser.click("#stop-go").await;
    browser.sees_within(&format!("[data-spawn=\"{first}\"]"), "it was stopped on request", AT_ONCE).await;
    browser.sees("#drain-story", "1 spawn left").await;
    browser.holds("Number(document.querySelector('progress').value) === 0.5").await;
    browser.picture("dashboard-draining").await;
    farm.stop([second.as_str()]).await;
    browser.sees_within(&format!("{row} .c-state"), "Drained", AT_ONCE).await;
    browser.sees("#drain-story", "Nothing runs here any more: the machine can go.").await;

    browser.click(&format!("{row} [aria-label=\"Uncordon node-a\"]")).await;
    browser.sees_within(&format!("{row} .c-state"), "Open", AT_ONCE).await;
    assert_eq!(door.json("/v1/nodes/node-a").await["eligibility"], "eligible");
    assert_no_complaints(&browser).await;
    farm.finish().await;
}

/// What the dashboard's list of events says of this spawn, oldest first.
async fn told(browser: &Browser, id: &str) -> Value {
    let script = "const all = [...document.querySelectorAll('#events-frame tbody tr[data-kind]')];\
        const mine = all.filter((row) => row.querySelector('.c-who span').title === arguments[0]);\
        return mine.reverse().map((row) => row.dataset.kind);";
    browser.run_with(script, &json!([id])).await
}

#[tokio::test]
async fn a_front_door_that_goes_is_said_and_nothing_is_missed_or_doubled_when_it_is_back() {
    let mut farm = Farm::builder().doors(2).agent(AgentPlan::slots(4)).start().await;
    let before = farm.door(1).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, 0, "/")).await;
    browser.sees(&format!("[data-spawn=\"{before}\"]"), "ready").await;
    browser.holds("document.getElementById('trouble').hidden").await;

    farm.doors[0].role.kill();
    browser.sees_within("#trouble", "The front door cannot be reached.", AT_ONCE).await;
    browser.sees("#trouble", "What you see is how it was at").await;
    browser.picture("dashboard-cut").await;
    let meanwhile = farm.door(1).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    farm.door(1).delete(&format!("/v1/spawns/{before}")).send().await;
    until("the first has ended", TIMEOUT, async || {
        let spawn = farm.door(1).json(&format!("/v1/spawns/{before}")).await;
        Look::when(spawn["state"] == "exited", || spawn.to_string())
    })
    .await;
    farm.doors[0].restart().await;
    browser.sees("#notes", "The live feed is back.").await;
    browser.holds("document.getElementById('trouble').hidden").await;
    browser.sees(&format!("[data-spawn=\"{meanwhile}\"]"), "ready").await;
    browser.sees_within("#used", "1", AT_ONCE).await;
    browser
        .holds(&format!("!document.querySelector('[data-spawn=\"{before}\"]')?.innerText.includes('ready')"))
        .await;
    let story = |kinds: &[&str]| json!(kinds.iter().map(|kind| format!("spawn.{kind}")).collect::<Vec<_>>());
    let again = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    browser.sees(&format!("[data-spawn=\"{again}\"]"), "ready").await;
    // The list of events is drawn after the table of spawns.
    until("the list of events has both", TIMEOUT, async || {
        let told = told(&browser, &again).await;
        Look::when(told == story(&["launching", "ready"]), || told.to_string())
    })
    .await;
    // Whatever of this came as events came once.
    for id in [&before, &meanwhile] {
        let told = told(&browser, id).await;
        let mut kinds: Vec<String> = told.as_array().unwrap().iter().map(ToString::to_string).collect();
        let count = kinds.len();
        kinds.dedup();
        assert_eq!(kinds.len(), count, "{told}");
    }
    farm.stop([meanwhile.as_str(), again.as_str()]).await;
    browser.sees_within("#used", "0", AT_ONCE).await;
    assert_no_complaints(&browser).await;
    farm.finish().await;
}

#[tokio::test]
async fn while_the_registry_is_away_the_dashboard_says_so_and_the_demo_goes_on() {
    let mut farm = Farm::small(3).await;
    until("the front door has a snapshot of the farm", TIMEOUT, async || {
        let nodes = farm.doors[0].metrics().await.sum("hatchery_frontdoor_snapshot_nodes");
        Look::when(nodes > 0.0, || format!("{nodes} nodes in it"))
    })
    .await;
    let browser = Browser::start(1440, 1100).await;
    let dashboard = browser.window().await;
    browser.open(&url(&farm, 0, "/")).await;
    browser.sees("#total", "of 3").await;
    farm.redis.kill();
    browser.sees_within("#trouble", "The registry is away", Duration::from_secs(15)).await;
    browser.sees("#trouble", "Running spawns go on").await;
    browser.sees("#connection", "Registry away").await;
    browser.click("[data-node=\"node-a\"] [aria-label=\"Cordon node-a\"]").await;
    browser.sees("#notes", "The registry is away").await;
    browser.new_window().await;
    browser.open(&url(&farm, 0, "/demo")).await;
    browser.click("#create").await;
    let id = spawn_of(&browser, 1).await;
    assert!(farm.process(&id).is_some());
    farm.redis.restart().await;
    browser.turn_to(&dashboard).await;
    browser.holds("document.getElementById('trouble').hidden").await;
    browser.sees("#connection", "Live").await;
    browser.sees(&format!("[data-spawn=\"{id}\"]"), "ready").await;
    farm.stop([id.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn what_goes_wrong_in_the_demo_is_said_in_words() {
    let farm = Farm::small(1).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, 0, "/demo?token=sim:exit_before_ready=6")).await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"]", "The server could not start").await;
    browser.sees("[data-viewer=\"1\"]", "license").await;
    browser.sees("[data-viewer=\"1\"]", "spawn-failed, request ").await;
    browser.fill("#token", "").await;
    browser.fill("#wait", "0").await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"2\"]", "The model is open.").await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"3\"]", "The farm is full. Trying again in").await;
    browser.click("[data-viewer=\"3\"] header button").await;
    browser.sees("[data-viewer=\"3\"]", "It was given up before it was ready.").await;
    browser.fill("#pool", "nowhere").await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"4\"] .failure", "No node fits").await;
    browser.picture("demo-errors").await;
    assert_no_complaints(&browser).await;
    browser.click("[data-viewer=\"2\"] header button").await;
    farm.finish().await;
}

/// Waits until the demo's first viewer shows a picture, and then for two more, each another one: their sizes in pixels.
async fn three_pictures(browser: &Browser) -> Value {
    let script = "const canvas = document.querySelector('[data-viewer=\"1\"] canvas');\
        const seen = new Map();\
        while (seen.size < 3) {\
            if (!canvas.hidden) seen.set(canvas.toDataURL(), [canvas.width, canvas.height]);\
            await new Promise(requestAnimationFrame);\
        }\
        return [...seen.values()];";
    browser.run(script).await
}

#[tokio::test]
async fn the_demo_shows_the_pictures_of_a_server_side_renderer() {
    let farm = Farm::small(1).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, 0, "/demo?renderer=ssr")).await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"]", "This is the simulator, which has no models. Pictures arrive").await;
    assert_eq!(three_pictures(&browser).await, json!([[480, 360], [480, 360], [480, 360]]));
    browser.picture("demo-ssr").await;
    assert_no_complaints(&browser).await;
    browser.click("[data-viewer=\"1\"] header button").await;
    farm.finish().await;
}

#[tokio::test]
async fn the_demo_says_that_the_simulator_has_nothing_to_show_in_the_browser() {
    let farm = Farm::small(1).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&url(&farm, 0, "/demo?model=bolt.scs")).await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"]", "choose “On the server (ssr)” for a picture").await;
    browser.click("[data-viewer=\"1\"] header button").await;
    farm.finish().await;
}
