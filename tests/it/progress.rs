//! How far a spawn has come, as its caller sees it: real processes, from the line to the viewer's endpoint.

use std::time::Duration;

use hatchery_tests::http::Response;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Browser, Farm, Look, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A request that is watched.
struct Watched {
    connection: TcpStream,
    text: String,
    at: usize,
}

impl Watched {
    async fn begin(farm: &Farm, door: usize, headers: &[(&str, &str)], body: &Value) -> Self {
        let door = match headers {
            [] => farm.door(door),
            _ => farm.door(door).showing_nothing(),
        };
        let mut request = door.post("/spawn").header("accept", "text/event-stream").json(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Self { connection: request.start().await, text: String::new(), at: 0 }
    }

    /// The data of the next event of this name.
    async fn until(&mut self, wanted: &str) -> Value {
        let name = format!("event: {wanted}\ndata: ");
        loop {
            if let Some(from) = self.text[self.at..].find(&name)
                && let Some(length) = self.text[self.at + from..].find("\n\n")
            {
                let from = self.at + from;
                self.at = from + length;
                return serde_json::from_str(&self.text[from + name.len()..from + length]).unwrap();
            }
            let mut some = [0; 4096];
            let read = timeout(Duration::from_secs(30), self.connection.read(&mut some));
            let length = read.await.unwrap_or_else(|_| panic!("no {wanted}: {}", self.text)).unwrap();
            assert!(length > 0, "no {wanted}: {}", self.text);
            self.text.push_str(std::str::from_utf8(&some[..length]).unwrap());
        }
    }

    async fn stands_at(&mut self, position: u64) {
        while self.until("queued").await["position"] != position {}
    }
}

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn positions_count_down_to_a_server_that_is_ready_whatever_front_door_is_asked() {
    let farm = Farm::builder().doors(2).agent(AgentPlan::slots(1)).start().await;
    let mut running = id(&farm.door(0).spawned(&json!({})).await);
    let mut line = Vec::new();
    for (position, door) in [(1, 1), (2, 0), (3, 1)] {
        let mut watched = Watched::begin(&farm, door, &[], &json!({"waitSeconds": 60})).await;
        watched.stands_at(position).await;
        line.push(watched);
    }
    for turn in 0..3 {
        farm.stop([running.as_str()]).await;
        assert_eq!(line[turn].until("starting").await, json!({"node": "node-a"}));
        let ready = line[turn].until("ready").await;
        running = id(&ready);
        assert_eq!(farm.record(&running).await["state"], "ready");
        for (later, position) in line[turn + 1..].iter_mut().zip(1..) {
            later.stands_at(position).await;
        }
    }
    farm.stop([running.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_watched_caller_that_hangs_up_leaves_nothing_behind() {
    let farm = Farm::small(1).await;
    let slow = json!({"sessionToken": "sim:ready_delay_ms=60000", "waitSeconds": 30});
    let mut first = Watched::begin(&farm, 0, &[], &slow).await;
    first.until("starting").await;
    let mut second = Watched::begin(&farm, 0, &[], &slow).await;
    second.stands_at(1).await;
    drop(second);
    farm.waiting(0).await;
    drop(first);
    farm.assert_empty().await;
    farm.finish().await;
}

#[tokio::test]
async fn a_start_that_fails_ends_the_stream_with_the_answer_of_a_plain_call() {
    let farm = Farm::small(1).await;
    let failing = json!({"sessionToken": "sim:exit_before_ready=6"});
    let mut watched = Watched::begin(&farm, 0, &[], &failing).await;
    watched.until("starting").await;
    let problem = watched.until("problem").await;
    let plain: Response = farm.door(0).spawn(&failing).await;
    for field in ["status", "code", "reason", "exitCode", "node"] {
        assert_eq!(problem[field], plain.json()[field], "{field}");
    }
    assert_eq!((&problem["status"], &problem["code"]), (&json!(502), &json!("spawn-failed")));
    farm.finish().await;
}

/// A page of another origin, with the stages that it heard of in `stages` and the outcome of its spawn in `outcome`.
async fn watching_page(farm: &Farm, options: &str) -> Browser {
    let browser = Browser::start(800, 600).await;
    browser.open(&format!("http://{}/healthz", farm.doors[0].admin.addr)).await;
    let script = format!(
        "const {{ spawn }} = await import(arguments[0]); window.stages = [];
         spawn({{ {options}, onProgress: (stage) => stages.push(stage) }})
            .then((value) => {{ window.outcome = value; }}, (error) => {{ window.outcome = {{ code: error.code, status: error.status,
                attempts: error.attempts, message: error.message }}; }});"
    );
    browser.run_with(&script, &json!([format!("http://{}/client.js", farm.door(0).addr)])).await;
    browser
}

#[tokio::test]
async fn a_page_gets_its_position_and_its_node_and_then_its_answer() {
    let farm = Farm::small(1).await;
    let first = id(&farm.door(0).spawned(&json!({})).await);
    let mut before = Watched::begin(&farm, 0, &[], &json!({"waitSeconds": 60})).await;
    before.stands_at(1).await;
    let browser = watching_page(&farm, "waitSeconds: 60").await;
    browser.holds("stages.at(-1)?.position === 2").await;
    assert_eq!(browser.run("return stages[0];").await, json!({"state": "queued", "position": 2}));
    drop(before);
    browser.holds("stages.at(-1)?.position === 1").await;
    farm.stop([first.as_str()]).await;
    browser.holds("window.outcome !== undefined").await;
    assert_eq!(browser.run("return stages.at(-1);").await, json!({"state": "starting", "node": "node-a"}));
    let answer =
        browser.run("return { ...outcome, attempts: outcome.attempts, requestId: outcome.requestId };").await;
    assert!(answer["attempts"] == 1 && answer["requestId"].is_string(), "{answer}");
    farm.stop([id(&answer).as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_page_whose_time_is_over_hears_that_its_request_was_still_in_line() {
    let farm = Farm::small(1).await;
    let first = id(&farm.door(0).spawned(&json!({})).await);
    let browser = watching_page(&farm, "waitSeconds: 30, deadlineMs: 6000").await;
    browser.holds("window.outcome !== undefined").await;
    let outcome = browser.run("return outcome;").await;
    assert_eq!(outcome["code"], "deadline-exceeded", "{outcome}");
    let message = outcome["message"].as_str().unwrap();
    assert!(message.contains("the request was still in line at"), "{outcome}");
    assert!(message.ends_with("at position 1"), "{message}");
    farm.stop([first.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_page_with_progress_gets_the_problem_that_it_would_get_without() {
    let farm = Farm::small(1).await;
    let browser = watching_page(&farm, "sessionToken: 'sim:exit_before_ready=6'").await;
    browser.holds("window.outcome !== undefined").await;
    let outcome = browser.run("return outcome;").await;
    assert_eq!((&outcome["code"], &outcome["status"]), (&json!("spawn-failed"), &json!(502)), "{outcome}");
    assert_eq!(browser.run("return stages;").await, json!([{"state": "starting", "node": "node-a"}]));
    farm.finish().await;
}

#[tokio::test]
async fn a_page_gets_its_answer_from_a_front_door_that_cannot_tell() {
    let farm = Farm::small(1).await;
    let browser = Browser::start(800, 600).await;
    browser.open(&format!("http://{}/healthz", farm.doors[0].admin.addr)).await;
    // A front door of the release before takes no notice of what a caller accepts.
    let script = "const plain = window.fetch;
        window.fetch = (url, init) => plain(url, { ...init, headers: { ...init.headers, accept: '*/*' } });
        const { spawn } = await import(arguments[0]);
        let stages = 0;
        const answer = await spawn({ onProgress: () => { stages += 1; } });
        return { ...answer, stages };";
    let library = format!("http://{}/client.js", farm.door(0).addr);
    let answer = browser.run_with(script, &json!([library])).await;
    assert_eq!(answer["stages"], 0, "{answer}");
    farm.stop([id(&answer).as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_demo_says_where_in_line_its_viewer_is() {
    let farm = Farm::small(1).await;
    let first = id(&farm.door(0).spawned(&json!({})).await);
    let mut before = Watched::begin(&farm, 0, &[], &json!({"waitSeconds": 60})).await;
    before.stands_at(1).await;
    let browser = Browser::start(800, 900).await;
    browser.open(&format!("http://{}/demo", farm.door(0).addr)).await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"]", "2nd in line").await;
    browser.picture("demo-line").await;
    drop(before);
    browser.sees("[data-viewer=\"1\"]", "1st in line").await;
    farm.stop([first.as_str()]).await;
    browser.sees("[data-viewer=\"1\"]", "The model is open.").await;
    browser.open("about:blank").await;
    farm.assert_empty().await;
    farm.finish().await;
}

#[tokio::test]
async fn the_line_is_listed_to_operators_whole_and_to_a_tenant_its_own() {
    let farm = Farm::builder().keys().doors(2).agent(AgentPlan::slots(1)).start().await;
    let key = async |scope: &str, name: &str| farm.key(&["--scope", scope, "--name", name]).await;
    let [web, other, operator] =
        [key("spawn,read", "web").await, key("spawn", "other").await, key("operate", "ops").await];
    let door = farm.door(0);
    let wants = json!({"waitSeconds": 60, "labels": {"hatchery": "none"}});
    door.showing(&web).spawn(&wants).await.problem(503, "no-matching-node");
    let first = id(&door.showing(&web).spawned(&json!({})).await);
    let line = [
        (0, &other, json!({"waitSeconds": 60})),
        (1, &web, json!({"waitSeconds": 60, "rendererType": "ssr"})),
        (0, &other, json!({"waitSeconds": 60})),
    ];
    let mut waiting = Vec::new();
    for (count, (at, key, body)) in line.into_iter().enumerate() {
        let bearer = format!("Bearer {key}");
        let mut watched = Watched::begin(&farm, at, &[("authorization", &bearer)], &body).await;
        watched.stands_at(count as u64 + 1).await;
        waiting.push(watched);
    }
    let all = farm.door(1).showing(&operator).json("/v1/waiting").await;
    assert_eq!(all["total"], 3, "{all}");
    let positions: Vec<_> =
        all["waiting"].as_array().unwrap().iter().map(|one| one["position"].clone()).collect();
    assert_eq!(positions, [1, 2, 3], "{all}");
    assert!(all["waiting"][0]["since"].is_string() && all["waiting"][0]["owner"].is_string(), "{all}");
    let limited = farm.door(0).showing(&operator).json("/v1/waiting?limit=1").await;
    assert_eq!(
        (&limited["total"], limited["waiting"].as_array().unwrap().len()),
        (&json!(3), 1),
        "{limited}"
    );
    let own = farm.door(0).showing(&web).json("/v1/waiting").await;
    assert_eq!((&own["total"], own["waiting"].as_array().unwrap().len()), (&json!(1), 1), "{own}");
    assert_eq!(
        (&own["waiting"][0]["position"], &own["waiting"][0]["rendererType"]),
        (&json!(2), &json!("ssr")),
        "{own}"
    );
    farm.door(0).showing(&other).get("/v1/waiting").send().await.problem(403, "forbidden");
    farm.door(0).showing_nothing().get("/v1/waiting").send().await.problem(401, "unauthenticated");
    drop(waiting);
    farm.stop([first.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_dashboard_has_a_panel_of_the_line_while_somebody_waits() {
    let farm = Farm::small(1).await;
    let first = id(&farm.door(0).spawned(&json!({})).await);
    let browser = Browser::start(1280, 1000).await;
    browser.open(&format!("http://{}/", farm.door(0).addr)).await;
    browser.sees("#connection", "Live").await;
    assert_eq!(browser.run("return document.getElementById('line').hidden;").await, true);
    let body = json!({"waitSeconds": 60, "rendererType": "ssr"});
    let mut waiting = Vec::new();
    for position in 1..=2 {
        let mut watched = Watched::begin(&farm, 0, &[], &body).await;
        watched.stands_at(position).await;
        waiting.push(watched);
    }
    browser.sees("#line", "ssr").await;
    browser.holds("document.querySelectorAll('#line tbody tr').length === 2").await;
    let cells = browser
        .run(
            "return [...document.querySelectorAll('#line tbody tr')].map((row) => row.cells[0].textContent);",
        )
        .await;
    assert_eq!(cells, json!(["1", "2"]));
    browser.holds("/^[0-9]+ s$/.test(document.querySelector('#line tbody tr').cells[1].textContent)").await;
    browser.picture("dashboard-line").await;
    // By keyboard: its rows can be scrolled to.
    browser.run("document.getElementById('line-frame').focus();").await;
    assert_eq!(browser.run("return document.activeElement.id;").await, "line-frame");
    browser.screen(390, 844, true).await;
    browser.holds("innerWidth === 390 && document.documentElement.scrollWidth <= 390").await;
    browser.run("document.getElementById('line').scrollIntoView();").await;
    browser.picture("dashboard-line-phone").await;
    drop(waiting);
    browser.holds("document.getElementById('line').hidden").await;
    assert_eq!(
        browser.run("return document.activeElement.id;").await,
        "nodes-title",
        "the focus is not lost"
    );
    farm.stop([first.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_command_line_lists_who_waits() {
    let farm = Farm::small(1).await;
    let first = id(&farm.door(0).spawned(&json!({})).await);
    let mut watched = Watched::begin(&farm, 0, &[], &json!({"waitSeconds": 60, "rendererType": "ssr"})).await;
    watched.stands_at(1).await;
    let ran = farm.run(&["waiting"]).await;
    assert!(ran.stdout.lines().nth(1).is_some_and(|line| line.contains("ssr")), "{ran:?}");
    drop(watched);
    farm.waiting(0).await;
    farm.stop([first.as_str()]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_nothing_even_with_a_byte_unread_behind_its_request() {
    let farm = Farm::builder().agent(AgentPlan::slots(1)).start().await;
    let running = id(&farm.door(0).spawned(&json!({})).await);
    let mut watched = Watched::begin(&farm, 0, &[], &json!({"waitSeconds": 60})).await;
    watched.stands_at(1).await;
    // The end of a line, as some clients put behind a body: with it unread the end of the connection does not show.
    watched.connection.write_all(b"\r\n").await.unwrap();
    drop(watched);
    until("its place is free", TIMEOUT, async || {
        let line = farm.door(0).json("/v1/waiting").await;
        Look::when(line["total"] == 0, || line.to_string())
    })
    .await;
    farm.stop([running.as_str()]).await;
    farm.ends(&running).await;
    farm.assert_empty().await;
    farm.finish().await;
}
