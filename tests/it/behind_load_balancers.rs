//! A farm behind the load balancers that are shipped: everything by https through one port, with a real browser.
//!
//! The balancers run the files in `deploy/load-balancer` themselves ([`Balancer`] says what is replaced). Between the browser and
//! the balancer is a link that can be disturbed. [`site`] puts all of it together, and [`paths`] holds the files against what web
//! clients call.

mod paths;
mod site;

use std::time::Duration;

use hatchery_tests::balancer::Kind;
use hatchery_tests::link::Condition;
use hatchery_tests::wait::longer_than;
use hatchery_tests::{AgentPlan, Browser, Farm, Look, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::repository::read;
use site::{HANDSHAKE, Site, ask, ask_from_inside};

/// The documents whose first example in JavaScript is a whole web client.
const EXAMPLES: [&str; 3] = ["README.md", "docs/user/browser.md", "docs/operator/https.md"];

/// That example.
fn example(document: &str) -> String {
    let text = read(document);
    let (_, rest) = text.split_once("\n```js\n").unwrap();
    rest.split_once("\n```\n").unwrap().0.to_owned()
}

/// What stands in for the vendor's library on a page: a viewer that connects and opens its model.
const LIBRARY: &str = "globalThis.Communicator = { WebViewer: class {
    constructor(options) { this.options = options; globalThis.viewer = this; }
    start() {
        const { endpointUri, protocol, token = '' } = this.options;
        this.socket = protocol ? new WebSocket(endpointUri, protocol) : new WebSocket(endpointUri);
        this.socket.binaryType = 'arraybuffer';
        this.answers = 0;
        this.pictures = [];
        this.socket.onclose = () => { this.closed = true; };
        this.socket.onmessage = ({ data }) => { this.answers += 1; if (protocol) this.show(data); };
        this.socket.onopen = () => protocol ? this.render() : this.ask();
    }
    ask() {
        const command = { command: 'OPEN_MODEL', model_name: '_empty', stream_version: '76', network_version: '1', session_token: '' };
        this.socket.send(new TextEncoder().encode(JSON.stringify(command)));
    }
    render() {
        this.socket.send(JSON.stringify({ command: 'SERVER_SIDE_RENDER', width: 80, height: 60, layoutWidth: 80, layoutHeight: 60,
            model: '_empty', networkVersion: '1' }));
        this.socket.send(JSON.stringify({ command: 'SERVER_SIDE_CLIENT_INFO', encoding: 'jpeg' }));
        this.socket.send(JSON.stringify({ command: 'SERVER_SETTINGS' }));
    }
    // A picture: four bytes of which the first is 0, the length of a JSON text, that text, and a JPEG.
    async show(data) {
        if (typeof data === 'string' || new Uint8Array(data)[0] !== 0) return;
        const jpeg = new Uint8Array(data, 8 + new DataView(data).getUint32(4));
        const { width, height } = await createImageBitmap(new Blob([jpeg], { type: 'image/jpeg' }));
        const content = new TextDecoder('latin1').decode(jpeg);
        if (this.pictures.every((picture) => picture.content !== content)) this.pictures.push({ content, width, height });
        this.socket.send(JSON.stringify({ command: 'ACK' }));
    }
} };";

/// A page served by https, of another origin than the farm's public URL.
async fn open_page(browser: &Browser, site: &Site) {
    browser.open(&format!("https://127.0.0.1:{}/healthz", site.port())).await;
    browser.run(LIBRARY).await;
}

/// Runs an example of the documents there, as a module of the page.
async fn run_example(browser: &Browser, site: &Site, example: &str) {
    let documented = "https://farm.example.com";
    assert!(example.contains(documented), "{example}");
    let example = example.replace(documented, &site.public);
    let script = "globalThis.failed = undefined;
        addEventListener('error', (event) => { globalThis.failed = String(event.message); });
        addEventListener('unhandledrejection', (event) => { globalThis.failed = String(event.reason); });
        const script = document.createElement('script');
        script.type = 'module';
        script.textContent = arguments[0];
        document.documentElement.append(script);";
    browser.run_with(script, &json!([example])).await;
    browser.holds("globalThis.failed || globalThis.viewer?.answers > 0").await;
    assert_eq!(browser.run("return globalThis.failed ?? null;").await, Value::Null);
}

/// A viewer on the page that is open, by `client.js`; the spawn's answer.
async fn connect(browser: &Browser, site: &Site, options: &Value, protocol: Option<&str>) -> Value {
    let script = "const { spawn } = await import(arguments[0] + '/client.js');
        const answer = await spawn(arguments[1]);
        new Communicator.WebViewer({ endpointUri: answer.endpoint, protocol: arguments[2] }).start();
        return answer;";
    let answer = browser.run_with(script, &json!([site.public, options, protocol])).await;
    browser.holds("globalThis.viewer.answers > 0").await;
    let expected = format!("wss://localhost:{}/s/", site.port());
    assert!(answer["endpoint"].as_str().unwrap().starts_with(&expected), "{answer}");
    answer
}

fn id(answer: &Value) -> &str {
    answer["id"].as_str().unwrap()
}

/// The viewer on the page that is open still gets answers.
async fn still_watches(browser: &Browser, viewer: &str) {
    browser.run(&format!("{viewer}.before = {viewer}.answers; {viewer}.ask();")).await;
    browser.holds(&format!("{viewer}.answers > {viewer}.before")).await;
}

/// Only slot of a farm: how long it takes from now on until a caller in line gets it.
async fn until_the_slot_is_back(farm: &Farm, let_go: impl AsyncFnOnce()) -> Duration {
    let door = farm.door(0);
    let waiter = tokio::spawn(async move { door.spawn(&json!({"waitSeconds": 60})).await });
    farm.waiting(1).await;
    let began = Instant::now();
    let_go().await;
    let answer = waiter.await.unwrap();
    let took = began.elapsed();
    assert_eq!(answer.status, 200, "{answer:?}");
    farm.stops_one(id(&answer.json())).await;
    took
}

#[tokio::test]
async fn documented_examples_and_the_demo_work_on_pages_by_https_through_one_port() {
    let farm = Farm::small(4).await;
    let browser = Browser::start(1280, 900).await;
    for kind in Kind::ALL {
        let site = Site::start(&farm, kind, &["--cors-origin", "*"], None).await;
        for document in EXAMPLES {
            open_page(&browser, &site).await;
            run_example(&browser, &site, &example(document)).await;
            let endpoint = browser.run("return viewer.options.endpointUri;").await;
            let through = format!("wss://localhost:{}/s/node-a/", site.port());
            let spawn = endpoint.as_str().unwrap().strip_prefix(&through).unwrap().split('/').next().unwrap();
            still_watches(&browser, "viewer").await;
            assert_eq!(farm.record(spawn).await["state"], "ready", "{kind:?} {document}");
            // A page that is left may stay in the browser, and its connections with it: it says so itself.
            browser.open("about:blank").await;
            farm.ends(spawn).await;
        }

        // Server-side rendering: the subprotocol gets through both ways, and each picture differs from the ones before.
        open_page(&browser, &site).await;
        let answer = connect(&browser, &site, &json!({"rendererType": "ssr"}), Some("binary")).await;
        assert_eq!(browser.run("return viewer.socket.protocol;").await, "binary", "{kind:?}");
        browser.holds("viewer.pictures.length >= 3").await;
        let sizes = "return viewer.pictures.slice(0, 3).map(({ width, height }) => [width, height]);";
        assert_eq!(browser.run(sizes).await, json!([[480, 360], [480, 360], [480, 360]]), "{kind:?}");
        browser.run("viewer.socket.close();").await;
        assert_eq!(farm.ends(id(&answer)).await["reason"], "disconnected", "{kind:?}");

        // The front door's own page: its policy allows what it does.
        browser.console().await;
        browser.open(&format!("{}/demo", site.public)).await;
        browser.click("#create").await;
        browser.sees("[data-viewer=\"1\"]", "The model is open.").await;
        let refused: Vec<String> =
            browser.console().await.into_iter().filter(|line| line.contains("SEVERE")).collect();
        assert_eq!(refused, Vec::<String>::new(), "{kind:?}");
        browser.open("about:blank").await;
        farm.assert_empty().await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_page_with_a_key_spawns_follows_and_stops_through_one_port() {
    let farm = Farm::builder().keys().agent(AgentPlan::slots(4)).start().await;
    let key = farm.key(&["--scope", "spawn"]).await;
    let keys = farm.keys().display().to_string();
    let browser = Browser::start(800, 600).await;
    for kind in Kind::ALL {
        let site = Site::start(&farm, kind, &["--api-keys", &keys], None).await;
        open_page(&browser, &site).await;
        let refused = "const { spawn } = await import(arguments[0] + '/client.js');
            return spawn().catch((error) => error.code);";
        assert_eq!(browser.run_with(refused, &json!([site.public])).await, "unauthenticated", "{kind:?}");
        let answer = connect(&browser, &site, &json!({"token": key}), None).await;
        let follow = "const { live } = await import(arguments[0] + '/client.js');
            globalThis.seen = [];
            globalThis.feed = live({ token: arguments[1] });
            feed.subscribe(`spawn:${arguments[2]}`, {
                onSnapshot: () => seen.push('snapshot'), onEvent: ({ kind }) => seen.push(kind) });";
        browser.run_with(follow, &json!([site.public, key, id(&answer)])).await;
        browser.holds("seen.includes('snapshot')").await;
        let stop = "const { stop } = await import(arguments[0] + '/client.js');
            return (await stop(arguments[2], { token: arguments[1] })).id;";
        let stopped = browser.run_with(stop, &json!([site.public, key, id(&answer)])).await;
        assert_eq!(stopped, answer["id"], "{kind:?}");
        browser.holds("seen.includes('spawn.exited') && viewer.closed").await;
        browser.run("feed.close();").await;
        assert_eq!(farm.ends(id(&answer)).await["reason"], "stopped", "{kind:?}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_idle_viewer_outlives_the_idle_time_of_a_load_balancer_and_one_that_is_not_pinged_is_cut() {
    const IDLE: u64 = 10;
    let farm = Farm::small(8).await;
    let browser = Browser::start(800, 600).await;
    let mut sites = Vec::new();
    for (kind, interval) in Kind::ALL.into_iter().flat_map(|kind| [(kind, "5s"), (kind, "60s")]) {
        let flags = ["--cors-origin", "*", "--relay-ping-interval", interval];
        sites.push((kind, interval, Site::start(&farm, kind, &flags, Some(IDLE)).await));
    }
    open_page(&browser, &sites[0].2).await;
    browser.run("globalThis.viewers = [];").await;
    let mut spawns = Vec::new();
    for (_, _, site) in &sites {
        spawns.push(connect(&browser, site, &json!({}), None).await);
        browser.run("viewers.push(viewer);").await;
    }
    // The wait is the promise: for two and a half times the idle time only the relay sends anything.
    longer_than(Duration::from_secs(IDLE) * 5 / 2).await;
    for (at, (kind, interval, site)) in sites.iter().enumerate() {
        let (viewer, spawn) = (format!("viewers[{at}]"), id(&spawns[at]));
        if *interval == "5s" {
            still_watches(&browser, &viewer).await;
            assert_eq!(farm.record(spawn).await["state"], "ready", "{kind:?}: {}", site.balancer.logs());
        } else {
            assert_eq!(
                browser.run(&format!("return {viewer}.closed;")).await,
                true,
                "{kind:?} does not cut it"
            );
        }
    }
    browser.run("viewers.forEach((viewer) => viewer.socket.close());").await;
    for spawn in &spawns {
        assert_eq!(farm.ends(id(spawn)).await["reason"], "disconnected");
    }
    farm.finish().await;
}

#[tokio::test]
async fn closing_the_tab_gives_the_slot_back_within_two_seconds() {
    let farm = Farm::small(1).await;
    let browser = Browser::start(800, 600).await;
    let first = browser.window().await;
    for kind in Kind::ALL {
        let site = Site::start(&farm, kind, &["--cors-origin", "*"], None).await;
        let tab = browser.new_window().await;
        open_page(&browser, &site).await;
        let answer = connect(&browser, &site, &json!({}), None).await;
        let took = until_the_slot_is_back(&farm, async || browser.close(&tab).await).await;
        assert!(took < Duration::from_secs(2), "{kind:?}: {took:?}");
        assert_eq!(farm.ends(id(&answer)).await["reason"], "disconnected", "{kind:?}");
        browser.turn_to(&first).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_browser_that_is_cut_off_gives_the_slot_back_within_two_ping_intervals() {
    const INTERVAL: Duration = Duration::from_secs(3);
    // For the server to end and the next one to start, on a machine that is busy with other tests.
    const AIR: Duration = Duration::from_millis(2500);
    let farm = Farm::small(1).await;
    let browser = Browser::start(800, 600).await;
    for kind in Kind::ALL {
        let site =
            Site::start(&farm, kind, &["--cors-origin", "*", "--relay-ping-interval", "3s"], None).await;
        open_page(&browser, &site).await;
        let answer = connect(&browser, &site, &json!({}), None).await;
        // Connections stay open on both sides and nothing passes, as when a cable is pulled.
        let took = until_the_slot_is_back(&farm, async || site.link.becomes(Condition::Hole)).await;
        assert!(took < INTERVAL * 2 + AIR, "{kind:?}: {took:?}");
        assert_eq!(farm.ends(id(&answer)).await["reason"], "disconnected", "{kind:?}");
        site.doors_log("\"by\":\"vanished\"").await;
        site.link.becomes(Condition::Good);
        browser.holds("viewer.closed").await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn viewers_stay_while_their_front_door_is_stopped_and_the_load_balancer_is_reloaded() {
    let farm = Farm::small(4).await;
    let browser = Browser::start(800, 600).await;
    for kind in Kind::ALL {
        let mut site = Site::start(&farm, kind, &["--cors-origin", "*"], None).await;
        open_page(&browser, &site).await;
        let stays = connect(&browser, &site, &json!({}), None).await;
        browser.run("globalThis.first = viewer;").await;
        site.balancer.reload().await;
        still_watches(&browser, "first").await;
        let door = site.door_with_a_viewer().await;
        door.signal(Signal::TERM);
        // Its ports are free, and the balancer has noticed: new calls go to the other one.
        door.logs("viewers that are connected through here stay").await;
        let later = connect(&browser, &site, &json!({}), None).await;
        still_watches(&browser, "first").await;
        still_watches(&browser, "viewer").await;
        browser.run("first.socket.close(); viewer.socket.close();").await;
        for answer in [stays, later] {
            assert_eq!(farm.ends(id(&answer)).await["reason"], "disconnected", "{kind:?}");
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_viewers_token_is_in_no_log_of_a_load_balancer_also_when_something_fails() {
    let farm = Farm::small(4).await;
    let browser = Browser::start(800, 600).await;
    for kind in Kind::ALL {
        let mut site = Site::start(&farm, kind, &["--cors-origin", "*"], Some(2)).await;
        open_page(&browser, &site).await;
        let answer = connect(&browser, &site, &json!({}), None).await;
        let path = answer["endpoint"].as_str().unwrap().split_once("/s/").unwrap().1;
        let token = path.rsplit('/').next().unwrap();
        let get = async |site: &Site, path: &str| site::status(site, "GET", path, &[]).await;
        for wrong in
            ["/s/", "//s/", "/S/", "/%73/", "/./s/", "/demo/../s/", "/s/../s/", "/s//", "/viewer/", "/"]
        {
            get(&site, &format!("{wrong}{path}")).await;
            get(&site, &format!("{wrong}{path}/?{token}")).await;
            ask_from_inside(&site, "GET", &format!("{wrong}{path}"), &[]).await;
        }
        get(&site, &format!("/client.js?{token}")).await;
        // The balancer cuts the viewer, which is idle for too long; then there is no front door.
        browser.holds("viewer.closed").await;
        farm.ends(id(&answer)).await;
        site.kill_doors();
        for wrong in ["/s/", "/S/"] {
            ask(&site, "GET", &format!("{wrong}{path}"), &HANDSHAKE).await;
            ask_from_inside(&site, "GET", &format!("{wrong}{path}"), &HANDSHAKE).await;
        }
        get(&site, "/client.js").await;
        let logs = until("accesses are logged", TIMEOUT, async || {
            let logs = site.balancer.logs();
            let viewer = logs.lines().any(|line| line.contains(" 101 ") && line.contains(" - "));
            let gone = logs.lines().any(|line| line.contains("/client.js") && line.contains(" 50"));
            Look::when(viewer && gone, || logs.clone()).and(logs)
        })
        .await;
        assert!(logs.contains(" /spawn "), "{kind:?}: {logs}");
        assert!(!logs.contains(token), "{kind:?}: {logs}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn events_of_a_spawn_come_through_one_by_one_and_an_idle_stream_is_not_cut() {
    const IDLE: u64 = 12;
    let farm = Farm::small(1).await;
    let first = farm.door(0).spawned(&json!({})).await;
    let mut running = id(&first).to_owned();
    let browser = Browser::start(800, 600).await;
    let script = "globalThis.events = [];
        const answer = await fetch(arguments[0] + '/spawn', { method: 'POST', body: '{\"waitSeconds\":60}',
            headers: { accept: 'text/event-stream', 'content-type': 'application/json' } });
        globalThis.headers = Object.fromEntries(answer.headers);
        (async () => {
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            for (;;) {
                const { value, done } = await reader.read();
                if (done) break;
                events.push({ value, at: performance.now() });
            }
            events.push({ value: 'end' });
        })().catch((error) => events.push({ value: String(error) }));";
    for kind in Kind::ALL {
        let site = Site::start(&farm, kind, &["--cors-origin", "*"], Some(IDLE)).await;
        open_page(&browser, &site).await;
        browser.run_with(script, &json!([site.public])).await;
        browser.holds("events.some(({ value }) => value.includes('event: queued'))").await;
        assert_eq!(browser.run("return headers['content-type'];").await, "text/event-stream", "{kind:?}");
        // The wait is the promise: for longer than the idle time nothing happens but comments.
        longer_than(Duration::from_secs(IDLE + 3)).await;
        assert_eq!(
            browser.run("return events.some(({ value }) => value === 'end');").await,
            false,
            "{kind:?}"
        );
        farm.stop([running.as_str()]).await;
        browser.holds("events.at(-1).value === 'end'").await;
        let all = browser.run("return events.map(({ value }) => value).join('');").await;
        let all = all.as_str().unwrap();
        let (_, ready) = all.split_once("event: ready\ndata: ").unwrap_or_else(|| panic!("{kind:?}: {all}"));
        let ready: Value = serde_json::from_str(ready.lines().next().unwrap()).unwrap();
        running = id(&ready).to_owned();
    }
    farm.stop([running.as_str()]).await;
    farm.finish().await;
}
