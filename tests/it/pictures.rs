//! The dashboard of a small farm, of one with fifty nodes and of one with a thousand, as it looks when nodes fail, all slots are taken and callers wait in line:
//! in light and dark, on a telephone, and with the keyboard alone. The pictures are in `target/pages`, for eyes; what a program can see is checked.

use std::path::Path;
use std::time::Duration;

use hatchery_tests::browser::keys;
use hatchery_tests::phantom_farm::{PhantomFarm, PhantomPlan};
use hatchery_tests::{Browser, Farm, Look, skipped, until, wait::TIMEOUT};
use serde_json::json;

use crate::readable::is_readable;

/// The rules of axe-core, by Deque, where `tests/axe` has brought them.
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/axe/node_modules/axe-core/axe.min.js");
/// Callers in line.
const WAITING: usize = 3;

/// What axe-core finds wrong with the page as it is now.
async fn is_accessible(browser: &Browser, how: &str) {
    let Ok(axe) = std::fs::read_to_string(Path::new(AXE)) else {
        return skipped("axe-core", "tests/axe brings it");
    };
    let script = format!(
        "{axe};\
         const found = await axe.run(document, {{ resultTypes: ['violations'] }});\
         return found.violations.map((v) => `${{v.id}}: ${{v.help}}: ${{v.nodes.slice(0, 3).map((n) => n.target).join(' ')}}`);"
    );
    assert_eq!(browser.run(&script).await, json!([]), "{how}");
}

/// A farm whose registry knows this many nodes, none of which has room.
async fn full(plan: PhantomPlan) -> (Farm, PhantomFarm) {
    let farm = Farm::builder().start().await;
    let phantoms = PhantomFarm::start(&farm.redis.url(), plan).await;
    until("all nodes are up", TIMEOUT, async || {
        let list = farm.door(0).json("/v1/nodes").await;
        let up = list["nodes"].as_array().unwrap().iter().filter(|node| node["availability"] == "up").count();
        Look::when(up == plan.nodes, || format!("{up}"))
    })
    .await;
    (farm, phantoms)
}

/// Where the focus goes with the keyboard alone: each place is in sight and has a ring around it.
async fn keyboard(browser: &Browser) {
    browser.run("document.activeElement.blur(); scrollTo(0, 0);").await;
    let mut places = Vec::new();
    for _ in 0..12 {
        browser.press(keys::TAB).await;
        let place = browser
            .run(
                "const at = document.activeElement, box = at.getBoundingClientRect(), style = getComputedStyle(at);\
                 return { what: at.id || at.innerText, seen: box.bottom > 0 && box.top < innerHeight && box.width > 0,\
                          ring: style.outlineStyle !== 'none' || style.boxShadow !== 'none' };",
            )
            .await;
        assert_eq!((&place["seen"], &place["ring"]), (&json!(true), &json!(true)), "{place}");
        places.push(place["what"].clone());
    }
    places.dedup();
    assert!(places.len() > 8, "the focus moves: {places:?}");
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "how soon the page shows its first rows is worth knowing")]
async fn the_dashboard_of_a_full_farm_with_failures_is_whole_at_every_size() {
    for (nodes, slots) in [(1, 8), (50, 32), (1000, 4)] {
        let failing_each = if nodes == 1 { 0 } else { 25 };
        let (farm, phantoms) = full(PhantomPlan { nodes, slots, free_each: 0, failing_each }).await;
        if nodes > 1 {
            for order in ["render-0001/cordon", "render-0002/drain"] {
                let answer = farm.door(0).post(&format!("/v1/nodes/{order}")).json(&json!({})).send().await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
        let wait = json!({"waitSeconds": 60, "rendererType": "csr"});
        let line: Vec<_> = (0..WAITING)
            .map(|_| {
                let (door, wait) = (farm.door(0), wait.clone());
                let call = door.post("/spawn").json(&wait);
                tokio::spawn(async move { call.send().await.status })
            })
            .collect();
        farm.waiting(WAITING).await;

        let browser = Browser::start(1440, 1100).await;
        browser.set_timeout(Duration::from_secs(60)).await;
        browser.open(&format!("http://{}/", farm.door(0).addr)).await;
        browser.holds("document.querySelectorAll('#nodes-frame tbody tr').length > 0").await;
        let first = browser.run("return performance.now();").await;
        eprintln!("{nodes} nodes: first rows {:.0} ms after the page was asked for", first.as_f64().unwrap());
        browser.sees("#nodes-frame", "render-0000").await;
        browser.sees("#line-frame", "csr").await;
        browser.sees("#free", "0 free").await;
        for scheme in ["light", "dark"] {
            let how = format!("{nodes}-{scheme}");
            browser.prefers(scheme).await;
            browser.picture(&format!("farm-{how}")).await;
            is_readable(&browser, "body", &how).await;
            is_accessible(&browser, &how).await;
            browser.run("document.getElementById('line').scrollIntoView();").await;
            browser.picture(&format!("farm-{how}-below")).await;
            browser.run("scrollTo(0, 0);").await;
        }
        keyboard(&browser).await;
        browser.picture(&format!("farm-{nodes}-keyboard")).await;
        browser.screen(390, 844, true).await;
        browser.run("scrollTo(0, 0);").await;
        let widest = "innerWidth === 390 && document.documentElement.scrollWidth <= 390";
        browser.holds(widest).await;
        for (at, part) in ["", "#nodes-title", "#detail-title", "#line", "#past", "#audit"].iter().enumerate()
        {
            if !part.is_empty() {
                browser
                    .run_with("document.querySelector(arguments[0]).scrollIntoView();", &json!([part]))
                    .await;
            }
            browser.picture(&format!("farm-{nodes}-phone-{at}")).await;
        }
        is_readable(&browser, "body", "phone").await;
        is_accessible(&browser, "phone").await;
        let complaints: Vec<String> =
            browser.console().await.into_iter().filter(|line| !line.contains("favicon")).collect();
        assert_eq!(complaints, Vec::<String>::new());
        drop(browser);
        line.iter().for_each(tokio::task::JoinHandle::abort);
        drop(phantoms);
    }
}
