//! Pages that show the vendor's viewer: the demo's frame for it, and the client library's `mount`. A script of the test stands in for
//! the vendor's library.

use std::net::SocketAddr;

use hatchery_tests::dev::Dev;
use hatchery_tests::{AgentPlan, Browser, Farm, Look, until, wait::TIMEOUT};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::repository::read;

/// Stands in for the vendor's viewer: connects as that does, and runs what `START` is replaced by before.
const VENDOR: &str = "globalThis.Communicator = { RendererType: { Client: 0, Server: 1 }, WebViewer: class {
    constructor(options) { this.options = options; }
    setCallbacks(callbacks) { this.callbacks = callbacks; }
    async start() {
        START
        const socket = this.options.rendererType === 1
            ? new WebSocket(this.options.endpointUri, ['binary']) : new WebSocket(this.options.endpointUri);
        let opened = false;
        socket.onopen = () => { opened = true; this.callbacks.sceneReady?.(); };
        socket.onclose = () => {
            if (!opened) this.callbacks.modelLoadFailure('m', 'WebSocket connection failed.');
            this.callbacks.websocketConnectionClosed();
        };
        this.shutdown = () => socket.close();
    }
} };";

/// The same as a module.
fn module() -> String {
    format!("{}\nexport const WebViewer = globalThis.Communicator.WebViewer;", VENDOR.replace("START", ""))
}

/// Serves one script at every path but those with `missing`, for as long as the test runs; with CORS if asked for.
async fn serve(script: String, cors: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let Ok(length @ 1..) = stream.read(&mut asked).await else { continue };
            let missing = String::from_utf8_lossy(&asked[..length]).contains("missing");
            let status = if missing { "404 Not Found" } else { "200 OK" };
            let cors = if cors { "access-control-allow-origin: *\r\n" } else { "" };
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-type: text/javascript\r\n{cors}connection: close\r\n");
            let answer = format!("{head}content-length: {}\r\n\r\n{script}", script.len());
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    addr
}

/// The demo with this library, and its first viewer on the way.
async fn demo(farm: &Farm, library: &str) -> Browser {
    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("http://{}/demo?viewer={library}", farm.door(0).addr)).await;
    browser.click("#create").await;
    browser
}

#[tokio::test]
async fn the_vendors_viewer_runs_where_it_can_do_nothing_to_the_farm() {
    let farm = Farm::small(1).await;
    let door = format!("http://{}/", farm.door(0).addr);
    let orders = format!(
        "const orders = await fetch('{door}v1/nodes/node-a/cordon', {{ method: 'POST', mode: 'no-cors' }})
            .then(() => 'sent', () => 'not sent');
        document.body.append(`origin ${{globalThis.origin}}, ${{orders}}`);"
    );
    let library = serve(VENDOR.replace("START", &orders), false).await;
    let browser = demo(&farm, &format!("http://{library}/viewer.js")).await;
    browser.sees("[data-viewer=\"1\"] .chip", "connected").await;
    let id = browser.run("return document.querySelector('[data-viewer]').dataset.spawn;").await;
    browser
        .in_frame("iframe", async || {
            browser.sees("body", "origin null, sent").await;
            browser.holds("(() => { try { return !parent.document; } catch { return true; } })()").await;
        })
        .await;
    assert_eq!(farm.door(0).json("/v1/nodes/node-a").await["eligibility"], "eligible");
    browser.click("[data-viewer=\"1\"] header button").await;
    farm.ends(id.as_str().unwrap()).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_viewer_library_that_does_not_work_is_said_with_what_to_do_and_holds_no_slot() {
    let farm = Farm::small(1).await;
    let fetches =
        |name: &str| VENDOR.replace("START", &format!("await fetch(`${{this.options.enginePath}}/{name}`);"));
    let asks = |name: &str| {
        let request = format!(
            "await new Promise(() => {{ const ask = new XMLHttpRequest(); ask.open('GET', `${{this.options.enginePath}}/{name}`); ask.send(); }});"
        );
        VENDOR.replace("START", &request)
    };
    let without_cors = serve(module(), false).await;
    let engine_without_cors = serve(fetches("engine.wasm"), false).await;
    let old_engine_without_cors = serve(asks("engine-wasm.js"), false).await;
    let something_else = serve("globalThis.other = 1;".to_owned(), true).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = silent.local_addr().unwrap();
    drop(silent);
    for (library, says) in [
        (format!("http://{without_cors}/viewer.mjs"), "must send “Access-Control-Allow-Origin: *”"),
        (format!("http://{engine_without_cors}/viewer.js"), "must send “Access-Control-Allow-Origin: *”"),
        (format!("http://{old_engine_without_cors}/viewer.js"), "must send “Access-Control-Allow-Origin: *”"),
        (format!("http://{something_else}/viewer.js"), "That is not the viewer library"),
        (format!("http://{something_else}/missing.js"), "is answered with 404"),
        (format!("http://{nobody}/viewer.js"), "The viewer library cannot be loaded"),
        (format!("http://{nobody}/viewer.mjs"), "does not answer"),
    ] {
        let browser = demo(&farm, &library).await;
        browser.sees("[data-viewer=\"1\"] .failure", says).await;
        browser.sees("[data-viewer=\"1\"] .chip", "failed").await;
        let id = browser.run("return document.querySelector('[data-viewer]').dataset.spawn;").await;
        assert_eq!(farm.ends(id.as_str().unwrap()).await["reason"], "stopped", "{library}");
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_module_that_allows_other_origins_is_loaded() {
    let farm = Farm::small(1).await;
    let library = serve(module(), true).await;
    let browser = demo(&farm, &format!("http://{library}/viewer.mjs")).await;
    browser.sees("[data-viewer=\"1\"] .chip", "connected").await;
    browser.click("[data-viewer=\"1\"] header button").await;
    farm.finish().await;
}

/// A page of another origin with the client library and the vendor's stand-in, that spawns through `base` and mounts. What
/// the stand-in does first is `start`.
async fn mount(page: SocketAddr, base: SocketAddr, options: &Value, start: &str) -> Browser {
    let browser = Browser::start(800, 600).await;
    browser.open(&format!("http://{page}/healthz")).await;
    let script = format!(
        "{}
        const client = await import(`http://${{arguments[0]}}/client.js`);
        window.spawned = await client.spawn(arguments[1]);
        window.shown = client.mount(spawned, {{ vendor: globalThis.Communicator, containerId: 'v',
            callbacks: {{ sceneReady: () => {{ window.seen = true; }} }},
            onStatus: (status) => {{ (window.states ??= []).push(status); }} }});
        shown.ended.then((ending) => {{ window.ending = ending; }});",
        VENDOR.replace("START", start)
    );
    browser.run_with(&script, &json!([base.to_string(), options])).await;
    browser
}

/// The same, and the viewer is connected.
async fn mounted(page: SocketAddr, base: SocketAddr, options: &Value) -> Browser {
    let browser = mount(page, base, options, "").await;
    browser.holds("window.seen === true").await;
    browser
}

async fn ending(browser: &Browser) -> Value {
    browser.holds("window.ending !== undefined").await;
    browser.run("return window.ending;").await
}

async fn spawned(browser: &Browser) -> Value {
    browser.run("return window.spawned;").await
}

#[tokio::test]
async fn a_page_hears_in_words_why_its_viewer_ended() {
    let farm = Farm::builder().agent(AgentPlan::slots(4)).start().await;
    let (page, base) = (farm.doors[0].admin.addr, farm.door(0).addr);

    let browser = mounted(page, base, &json!({})).await;
    let id = spawned(&browser).await["id"].as_str().unwrap().to_owned();
    let pid = i32::try_from(farm.process(&id).unwrap().pid).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let killed = ending(&browser).await;
    assert_eq!((&killed["reason"], &killed["again"]), (&json!("signaled"), &json!(true)), "{killed}");
    let text = killed["text"].as_str().unwrap();
    assert!(text.starts_with("The server ended: it was killed (SIGKILL"), "{text}");

    let browser = mounted(page, base, &json!({"rendererType": "ssr"})).await;
    let id = spawned(&browser).await["id"].as_str().unwrap().to_owned();
    farm.stop([id.as_str()]).await;
    let stopped = ending(&browser).await;
    assert_eq!((&stopped["reason"], &stopped["again"]), (&json!("stopped"), &json!(false)), "{stopped}");
    let text = stopped["text"].as_str().unwrap();
    assert!(text.starts_with("The server ended: it was stopped on request"), "{text}");

    let browser = mounted(page, base, &json!({})).await;
    browser.run("shown.close();").await;
    assert_eq!(ending(&browser).await["text"], "It was closed here.");
    farm.ends(spawned(&browser).await["id"].as_str().unwrap()).await;
    farm.finish().await;
}

/// The states that `onStatus` has heard of, one word each.
async fn states(browser: &Browser) -> Value {
    browser.run("return window.states.map(({ state }) => state);").await
}

#[tokio::test]
async fn a_page_says_that_its_sessions_time_is_over_or_that_nothing_was_done_in_it() {
    let farm = Farm::builder().door_args(&["--max-idle", "3s"]).agent(AgentPlan::slots(2)).start().await;
    let (page, base) = (farm.doors[0].admin.addr, farm.door(0).addr);
    for (options, reason, says) in [
        (json!({"maxSeconds": 2}), "expired", "The time of this session is over. A new one can be started."),
        (json!({}), "idle", "nothing was done in it for a long time. A new one can be started."),
    ] {
        let browser = mounted(page, base, &options).await;
        let ended = ending(&browser).await;
        assert_eq!((&ended["reason"], &ended["again"]), (&json!(reason), &json!(true)), "{ended}");
        assert!(ended["text"].as_str().unwrap().contains(says), "{ended}");
        let states = states(&browser).await;
        let states = states.as_array().unwrap();
        assert_eq!((&states[0], &states[1]), (&json!("connecting"), &json!("shown")), "{states:?}");
        assert_eq!(states.last().unwrap(), "ended");
        let anew = "const client = await import(`http://${arguments[0]}/client.js`);
            return (await client.spawn({})).id;";
        let again = browser.run_with(anew, &json!([base.to_string()])).await;
        assert!(again.is_string(), "a new session can be started: {again}");
        farm.stop([again.as_str().unwrap()]).await;
    }
    farm.finish().await;
}

/// The second example of `docs/user/browser.md`: a page with a status and a button to try again.
#[tokio::test]
async fn the_documented_page_shows_a_viewer_says_how_it_ended_and_begins_anew() {
    let farm = Farm::small(2).await;
    let text = read("docs/user/browser.md");
    let recipe = text.split("\n```js\n").nth(2).and_then(|rest| rest.split("\n```\n").next()).unwrap();
    let documented = "https://farm.example.com";
    assert!(recipe.contains("mount(") && recipe.contains(documented), "{recipe}");
    let recipe = recipe.replace(documented, &format!("http://{}", farm.door(0).addr));
    let browser = Browser::start(800, 600).await;
    browser.open(&format!("http://{}/healthz", farm.doors[0].admin.addr)).await;
    let script = "document.documentElement.innerHTML = '<p id=status></p><button id=again></button><div id=viewer></div>';
        const library = document.createElement('script');
        library.textContent = arguments[0];
        const page = document.createElement('script');
        page.type = 'module';
        page.textContent = arguments[1];
        document.body.append(library, page);";
    browser
        .run_with(
            script,
            &json!([VENDOR.replace("START", "globalThis.endpoint = this.options.endpointUri;"), recipe]),
        )
        .await;
    for round in 0..2 {
        browser.holds("globalThis.endpoint !== undefined").await;
        browser.sees("#status", "Connected.").await;
        let spawns = farm.door(0).json("/v1/spawns?state=ready").await;
        let [spawn] = spawns["spawns"].as_array().unwrap().as_slice() else { panic!("{round}: {spawns}") };
        assert_eq!(browser.run("return globalThis.endpoint;").await, spawn["endpoint"], "{round}");
        browser.run("globalThis.endpoint = undefined;").await;
        let pid = farm.process(spawn["id"].as_str().unwrap()).unwrap().pid;
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
        browser.sees("#status", "The server ended: it was killed (SIGKILL").await;
        browser.holds("!document.getElementById('again').hidden").await;
        if round == 0 {
            browser.click("#again").await;
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_page_says_at_once_that_the_connection_is_lost_and_then_that_the_node_cannot_be_reached() {
    let mut farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    let (page, base) = (farm.doors[0].admin.addr, farm.door(0).addr);
    let browser = mounted(page, base, &json!({})).await;
    let id = spawned(&browser).await["id"].as_str().unwrap().to_owned();
    // As when a machine goes away: its agent says nothing any more, nor does the server.
    farm.agents[0].role.kill();
    let pid = i32::try_from(farm.process(&id).unwrap().pid).unwrap();
    until("the farm takes the spawn for lost", TIMEOUT, async || {
        let record = farm.door(0).json(&format!("/v1/spawns/{id}")).await;
        Look::when(record["state"] == "lost", || record.to_string())
    })
    .await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    browser.holds("window.states.at(-1).state === 'lost'").await;
    browser.holds("window.states.at(-1).text.endsWith('Finding out why…')").await;
    let ended = ending(&browser).await;
    assert_eq!(ended["reason"], "connection-lost");
    assert_eq!(ended["text"], "The connection to the server was lost: its node cannot be reached.");
    farm.agents[0].restart().await;
    farm.ends(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_said_and_given_back() {
    let plan = AgentPlan::slots(1).args(&["--endpoint", "ws://127.0.0.1:9/{id}"]);
    let farm = Farm::builder().agent(plan).start().await;
    let browser = Browser::start(800, 600).await;
    browser.open(&format!("http://{}/demo", farm.door(0).addr)).await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"] .failure", "The server cannot be reached").await;
    let id = browser.run("return document.querySelector('[data-viewer]').dataset.spawn;").await;
    assert_eq!(farm.ends(id.as_str().unwrap()).await["reason"], "stopped");
    farm.finish().await;
}

#[tokio::test]
async fn a_page_hears_of_a_server_that_refuses_or_that_it_cannot_reach_and_the_slot_comes_back() {
    let elsewhere = AgentPlan::slots(1).args(&["--endpoint", "ws://127.0.0.1:9/{id}", "--pool", "elsewhere"]);
    let farm = Farm::builder().agent(AgentPlan::slots(1)).agent(elsewhere).start().await;
    let (page, base) = (farm.doors[0].admin.addr, farm.door(0).addr);
    let refuses = "this.callbacks.modelLoadFailure('m', 'Unknown model');";
    for (pool, start, reason, again, says) in [
        ("default", refuses, "refused", false, "The server did not open the model: Unknown model"),
        ("elsewhere", "", "unreachable", true, "cannot be reached"),
    ] {
        let browser = mount(page, base, &json!({"pool": pool}), start).await;
        let ended = ending(&browser).await;
        assert_eq!((&ended["reason"], &ended["again"]), (&json!(reason), &json!(again)), "{ended}");
        assert!(ended["text"].as_str().unwrap().contains(says), "{ended}");
        let id = spawned(&browser).await["id"].as_str().unwrap().to_owned();
        assert_eq!(farm.ends(&id).await["reason"], "stopped");
    }
    farm.finish().await;
}

#[tokio::test]
async fn spawn_gives_a_page_the_relays_endpoint_where_there_is_one() {
    let dev = Dev::start(&["--nodes", "1"]).await;
    let browser = mounted(dev.http.addr, dev.http.addr, &json!({"rendererType": "ssr"})).await;
    let endpoint = spawned(&browser).await["endpoint"].as_str().unwrap().to_owned();
    assert!(endpoint.starts_with(&format!("ws://{}/s/", dev.http.addr)), "{endpoint}");
    browser.run("shown.close();").await;
    ending(&browser).await;
}
