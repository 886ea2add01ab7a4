//! "Why?" on the dashboard: where a spawn would go and why, asked with the keyboard alone, in a real browser on a real farm.

use hatchery_tests::browser::keys;
use hatchery_tests::{AgentPlan, Browser, Farm};
use serde_json::json;

async fn is_readable(browser: &Browser, how: &str) {
    crate::readable::is_readable(browser, "section.why", how).await;
}

#[tokio::test]
async fn why_is_asked_and_answered_with_the_keyboard_alone() {
    let two = ["--label", "sdk=2"];
    let farm = Farm::builder()
        .agent(AgentPlan::slots(1).args(&two))
        .agent(AgentPlan::slots(1).args(&["--label", "sdk=1"]))
        .agent(AgentPlan::slots(1).args(&two))
        .start()
        .await;
    assert_eq!(farm.door(0).post("/v1/nodes/node-c/cordon").send().await.status, 200);
    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("http://{}/", farm.door(0).addr)).await;
    browser.holds("document.querySelectorAll('#nodes-frame tbody tr:not(.gap)').length === 3").await;

    // Renderer, labels, pool, and the button come one after the other.
    browser.run("document.getElementById('why-renderer').focus();").await;
    browser.press(keys::TAB).await;
    browser.press("sdk").await;
    browser.press(keys::ENTER).await;
    browser.sees("#why-said", "A label is written name=value").await;
    browser.holds("document.activeElement.id === 'why-labels'").await;
    browser.press("=2").await;
    browser.press(keys::TAB).await;
    browser.press(keys::TAB).await;
    browser.holds("document.activeElement.id === 'why-go'").await;
    browser.press(keys::ENTER).await;
    browser
        .sees("#why-said", "node-a would be chosen: it is the least loaded: 0 of 1 slots are in use.")
        .await;
    browser.sees("#why-counts", "1 label sdk").await;
    let rows = "[...document.querySelectorAll('#why-frame tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))";
    assert_eq!(
        browser.run(&format!("return {rows};")).await,
        json!([
            ["node-a", "chosen", "it is the least loaded: 0 of 1 slots are in use"],
            ["node-c", "cordoned", "an operator has closed it to new spawns"],
            ["node-b", "label sdk", "its label sdk is 1, not 2"],
        ])
    );
    let spawned = farm.door(0).spawned(&json!({"labels": {"sdk": "2"}})).await;
    browser.press(keys::ENTER).await;
    browser
        .sees(
            "#why-said",
            "No node would be chosen: every node that offers what was asked for is full (no-capacity).",
        )
        .await;
    browser.sees("#why-frame", "1 of 1 slots are in use").await;

    for scheme in ["light", "dark"] {
        browser.prefers(scheme).await;
        browser.run("document.querySelector('section.why').scrollIntoView();").await;
        browser.picture(&format!("why-{scheme}")).await;
        is_readable(&browser, scheme).await;
    }
    browser.screen(390, 844, true).await;
    browser.holds("innerWidth === 390 && document.documentElement.scrollWidth <= 390").await;
    browser.run("document.querySelector('section.why').scrollIntoView();").await;
    browser.picture("why-phone").await;
    is_readable(&browser, "phone").await;
    let bad: Vec<String> =
        browser.console().await.into_iter().filter(|line| !line.contains("favicon")).collect();
    assert_eq!(bad, Vec::<String>::new());
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
