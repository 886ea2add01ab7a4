//! "Why?" on the dashboard: where a spawn would go and why, asked with the keyboard alone, in a real browser on a real farm.

use hatchery_tests::browser::keys;
use hatchery_tests::{AgentPlan, Browser, Farm};
use serde_json::json;

/// Fields and tables that have no name, and texts whose contrast is below what is readable; computed as WCAG 2 does.
const UNREADABLE: &str = r#"
    const section = document.querySelector('section.why');
    const wrong = [];
    for (const field of section.querySelectorAll('input, select, button')) {
        const name = field.labels?.[0]?.innerText || field.getAttribute('aria-label') || field.innerText;
        if (!name?.trim()) wrong.push(`${field.id} has no name`);
    }
    for (const table of section.querySelectorAll('table')) {
        if (!table.caption?.innerText.trim()) wrong.push('a table has no caption');
        for (const head of table.querySelectorAll('th')) if (!head.scope) wrong.push(`${head.innerText} has no scope`);
    }
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const paint = (colors) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    for (const text of section.querySelectorAll('h2, label, button, p, th, td, .chip')) {
        if (!text.innerText.trim() || text.offsetParent === null) continue;
        const grounds = [];
        for (let at = text; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
        const [ground, ink] = [paint(['white', ...grounds]), paint(['white', ...grounds, getComputedStyle(text).color])];
        const [a, b] = [light(ground), light(ink)].sort((x, y) => y - x);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < 4.5) wrong.push(`${text.innerText.slice(0, 30)}: contrast ${contrast.toFixed(2)}`);
    }
    return wrong;
"#;

async fn is_readable(browser: &Browser, how: &str) {
    assert_eq!(browser.run(UNREADABLE).await, json!([]), "{how}");
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
