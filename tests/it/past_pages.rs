//! What happened last night, on the dashboard: the page of one spawn, lists that can be shared, failures, orders, and charts that begin before
//! the page was opened. In a real browser on a real farm.

use hatchery_tests::browser::keys;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Browser, Farm, Look, until};
use serde_json::{Value, json};

use crate::readable::is_readable;

async fn has_no_complaints(browser: &Browser) {
    let said = browser.console().await;
    let bad: Vec<_> = said.iter().filter(|line| !line.contains("favicon")).collect();
    assert_eq!(bad, Vec::<&String>::new());
}

/// A part of the page in all its forms: each is readable, fits, and is drawn.
async fn in_all_forms(browser: &Browser, css: &str, name: &str) {
    for scheme in ["light", "dark"] {
        browser.prefers(scheme).await;
        browser.run_with("document.querySelector(arguments[0]).scrollIntoView();", &json!([css])).await;
        browser.picture(&format!("{name}-{scheme}")).await;
        is_readable(browser, css, scheme).await;
    }
    browser.screen(390, 844, true).await;
    browser.holds("innerWidth === 390 && document.documentElement.scrollWidth <= 390").await;
    browser.run_with("document.querySelector(arguments[0]).scrollIntoView();", &json!([css])).await;
    browser.picture(&format!("{name}-phone")).await;
    is_readable(browser, css, "phone").await;
}

/// A spawn that fails before it is ready; its id.
async fn failed(farm: &Farm, request: &str, tags: Value) -> String {
    let body = json!({"sessionToken": "sim:exit_before_ready=6", "tags": tags});
    let answer = farm.door(0).post("/spawn").header("x-request-id", request).json(&body).send().await;
    answer.problem(502, "spawn-failed");
    let list = until("its end is on record", TIMEOUT, async || {
        let list = farm.door(0).json("/v1/spawns?state=exited").await;
        let newest = &list["spawns"][0];
        Look::when(newest["tags"] == tags, || list.to_string()).and(list.clone())
    })
    .await;
    list["spawns"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_spawn_has_a_page_with_all_that_is_known_of_it() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let id = failed(&farm, "night-7", json!({"user": "ann"})).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("http://{}/#spawn={id}", farm.door(0).addr)).await;
    browser.sees("#record-state", "ended: failed").await;
    browser.sees("#record-state", "invalid license").await;
    for words in [id.as_str(), "node-a", "csr", "user=ann", "night-7"] {
        browser.sees("#record-facts", words).await;
    }
    browser.sees("#record-phases", "never ready").await;
    browser.sees("#record-frame", "Ended: ").await;
    browser.sees("#record-log", "initialization is not going well").await;
    browser.holds("document.getElementById('farm').hidden && document.title.includes('Hatchery')").await;
    browser.holds("document.activeElement.id === 'record-title'").await;
    // What has not changed is not made anew: the focus stays.
    browser
        .run(
            "window.kept = document.querySelector('#record-facts a'); kept.focus();
             document.getElementById('record-said').textContent = '';
             document.getElementById('record-refresh').click();",
        )
        .await;
    browser.sees("#record-said", "As of").await;
    browser.holds("kept.isConnected && document.activeElement === kept").await;
    browser.run("document.getElementById('record-title').focus();").await;
    in_all_forms(&browser, "#record", "record").await;
    browser.screen(1440, 1100, false).await;

    // From the list of what runs to its page and back, with the keyboard alone; the page follows what happens.
    let living = farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned();
    browser.run("document.getElementById('record-back').focus();").await;
    browser.press(keys::ENTER).await;
    browser
        .holds("!document.getElementById('farm').hidden && document.getElementById('record').hidden")
        .await;
    let link = format!("[data-spawn=\"{living}\"] a");
    browser.sees(&format!("[data-spawn=\"{living}\"]"), "ready").await;
    browser.run_with("document.querySelector(arguments[0]).focus();", &json!([link])).await;
    browser.press(keys::ENTER).await;
    browser.sees("#record-state", "ready").await;
    browser.holds(&format!("location.hash === '#spawn={living}'")).await;
    farm.stop([living.as_str()]).await;
    browser.sees("#record-state", "ended: stopped").await;
    browser.sees("#record-phases", "ready after").await;

    // One that is not known.
    browser.open(&format!("http://{}/?#spawn={}", farm.door(0).addr, uuid::Uuid::nil())).await;
    browser.sees("#record-said", "It is not there").await;
    farm.finish().await;
}

/// A caller that does not operate the farm learns neither what failed nor what was ordered.
#[tokio::test]
async fn what_is_not_known_is_not_shown_as_none() {
    let farm = Farm::builder().keys().agent(AgentPlan::slots(1)).start().await;
    let read = farm.key(&["--scope", "read"]).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("http://{}/", farm.door(0).addr)).await;
    browser
        .holds(
            "document.activeElement.id === 'signin-text' && !document.getElementById('signin-go').disabled",
        )
        .await;
    browser.fill("#signin-text", &read).await;
    browser.press(keys::ENTER).await;
    browser.sees("#total", "of 1").await;
    browser
        .holds("document.getElementById('rates-card').hidden && document.getElementById('audit').hidden")
        .await;
    browser.sees("#failures-said", "Not known.").await;
    browser.holds("document.getElementById('failed').textContent === '–'").await;
    browser.holds("document.getElementById('failures-card').dataset.kind === undefined").await;
    has_no_complaints(&browser).await;
    farm.finish().await;
}

/// Ends that come faster than the counts are asked for do not push the question away.
#[tokio::test]
async fn counts_are_asked_for_while_spawns_go_on_failing() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let door = farm.door(0);
    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("http://{}/", door.addr)).await;
    browser.sees("#rates-chart", "0 started and 0 failed").await;
    until("the chart has failures", TIMEOUT, async || {
        door.spawn(&json!({"sessionToken": "sim:exit_before_ready=6"})).await;
        let said = browser.run("return document.getElementById('rates-chart').textContent;").await;
        let said = said.as_str().unwrap_or_default().to_owned();
        Look::when(!said.contains(" 0 failed"), || said.clone())
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn a_list_of_ended_spawns_is_filtered_and_its_address_shows_the_same_to_others() {
    let farm = Farm::builder().agent(AgentPlan::slots(3)).start().await;
    let ann = failed(&farm, "night-1", json!({"user": "ann"})).await;
    let bob = failed(&farm, "night-2", json!({"user": "bob"})).await;
    let stopped =
        farm.door(0).spawned(&json!({"rendererType": "ssr"})).await["id"].as_str().unwrap().to_owned();
    farm.stop([stopped.as_str()]).await;
    let browser = Browser::start(1440, 1100).await;
    let rows = "[...document.querySelectorAll('#past-frame tbody a')].map((link) => link.title)";
    let shows = async |ids: &[&String]| {
        let wanted = serde_json::to_string(ids).unwrap();
        browser.holds(&format!("JSON.stringify({rows}) === '{wanted}'")).await;
    };
    browser.open(&format!("http://{}/#past&reason=failed&tag=user%3Dann&since=24h", farm.door(0).addr)).await;
    browser.sees("#past-said", "1 shown").await;
    shows(&[&ann]).await;
    browser.holds("document.getElementById('past-reason').value === 'failed'").await;
    browser.holds("document.getElementById('past-tag').value === 'user=ann'").await;

    // The tag is taken out, with the keyboard.
    browser
        .run("document.getElementById('past-tag').select(); document.getElementById('past-tag').focus();")
        .await;
    browser.press(keys::BACKSPACE).await;
    browser.press(keys::ENTER).await;
    shows(&[&bob, &ann]).await;
    let address = browser.run("return location.href;").await;
    let address = address.as_str().unwrap();
    assert!(address.ends_with("#past&reason=failed&since=24h"), "{address}");
    in_all_forms(&browser, "#past", "past").await;
    browser.screen(1440, 1100, false).await;

    let other = browser.new_window().await;
    browser.turn_to(&other).await;
    browser.open(address).await;
    shows(&[&bob, &ann]).await;
    browser.open(&format!("{}?#past&renderer=ssr&node=node-a", address.split('#').next().unwrap())).await;
    shows(&[&stopped]).await;
    browser.sees("#past-frame", "stopped").await;
    browser
        .run(
            "document.getElementById('past-node').value = 'a b'; document.getElementById('past-go').click();",
        )
        .await;
    browser.sees("#past-said", "node").await;
    farm.finish().await;
}

#[tokio::test]
async fn failures_orders_and_charts_of_before_the_page_was_opened_are_on_it() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).start().await;
    let door = farm.door(0);
    let spawned = [door.spawned(&json!({})).await, door.spawned(&json!({})).await];
    door.spawn(&json!({})).await.problem(503, "no-capacity");
    farm.stop(spawned.iter().map(|spawn| spawn["id"].as_str().unwrap())).await;
    for n in 0..2 {
        failed(&farm, &format!("night-{n}"), json!({"n": n.to_string()})).await;
    }
    for order in ["cordon", "uncordon"] {
        assert_eq!(door.post(&format!("/v1/nodes/node-a/{order}")).send().await.status, 200);
    }
    // Half an hour ago, as its front doors saw it.
    let minute = model::Timestamp::now().millis() / 60_000 - 30;
    farm.redis
        .says(&format!("HSET {{hatchery:test}}:minute:{minute} used 1 total 2 started 3 e:failed 1"))
        .await
        .unwrap();
    until("the refusal is counted", TIMEOUT, async || {
        let history = door.json("/v1/history").await;
        Look::when(history.to_string().contains("\"no-capacity\":1"), || history.to_string())
    })
    .await;

    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("http://{}/", door.addr)).await;
    browser.sees("#failed", "3").await;
    browser.sees("#of-started", "of 7 started").await;
    browser.sees("#failures-said", "43 %, most often: invalid license.").await;
    browser.sees("#failures-said", "1 turned away, most often: no-capacity.").await;
    browser.holds("document.getElementById('failures-card').dataset.kind === 'bad'").await;
    // From the middle of that minute, and the time since.
    browser.holds("/last (29|30|31|32) min/.test(document.getElementById('history-span').textContent)").await;
    browser.holds("document.querySelectorAll('#rates-chart rect.failed').length >= 2").await;
    browser.sees("#rates-chart", "7 started and 3 failed in the last hour").await;
    browser.sees("#audit-frame", "Cordon node-a").await;
    browser.sees("#audit-frame", "127.0.0.1").await;
    // An order that is given now is there in a moment.
    assert_eq!(
        door.post("/v1/nodes/node-a/drain").json(&json!({"reason": "new kernel"})).send().await.status,
        200
    );
    browser.sees("#audit-frame", "“new kernel”").await;
    browser.run("scrollTo(0, 0);").await;
    browser.picture("failures").await;
    is_readable(&browser, ".totals", "light").await;
    in_all_forms(&browser, "#audit", "audit").await;
    is_readable(&browser, ".totals", "phone").await;
    browser.run("scrollTo(0, 0);").await;
    browser.picture("failures-phone").await;
    has_no_complaints(&browser).await;
    farm.finish().await;
}
