//! The dashboard of a farm of a thousand nodes and twenty thousand spawns.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hatchery_tests::{Browser, Farm};
use model::{
    AgentEpoch, GpuSlots, Load, NodeDescription, NodeId, NodeKind, RendererType, SpawnId, SpawnState, Timing,
};
use registry::{AgentReport, Heartbeat, Registry, SpawnReport, Wish};
use tokio::time::Instant;

const NODES: usize = 1000;
const SPAWNS_EACH: usize = 20;
/// As long as a page may not answer to anybody; on a machine that has nothing else to do it is a twentieth of that.
const FREEZE: Duration = Duration::from_secs(2);

/// What an agent would say, without one.
fn report(
    node: usize,
    epoch: AgentEpoch,
    spawns: &[SpawnId],
    born: Instant,
    first: bool,
    beat: usize,
) -> AgentReport {
    let age = born.elapsed();
    // Pings of a tenth of the nodes move with every beat, as those of real servers would.
    let last_ping = if node % 10 == beat % 10 { Duration::ZERO } else { age };
    let spawns = spawns.iter().enumerate().map(|(n, id)| SpawnReport {
        id: *id,
        state: if n == 0 && node % 50 == 0 { SpawnState::Suspect } else { SpawnState::Ready },
        renderer: if n % 4 == 0 { RendererType::Ssr } else { RendererType::Csr },
        endpoint: format!("ws://render-{node:04}.example:{}", 55_000 + n),
        gpu: (n % 4 == 0).then_some(0),
        labels: BTreeMap::new(),
        started: age + Duration::from_secs(60),
        ready: Some(age + Duration::from_secs(59)),
        last_ping: Some(last_ping),
        ended: None,
        exit: None,
    });
    let label = if node % 2 == 0 { "2024.8" } else { "2025.1" };
    let heartbeat = Heartbeat {
        description: NodeDescription {
            advertise: format!("http://render-{node:04}.example:7070"),
            endpoint: format!("ws://render-{node:04}.example:{{port}}"),
            kind: NodeKind {
                pool: "default".to_owned(),
                labels: BTreeMap::from([("sdk".to_owned(), label.to_owned())]),
            },
            slots: if node % 7 == 0 { 20 } else { 32 },
            gpus: 1,
            gpu_slots: 8,
            csr: true,
            ssr: true,
            version: "0.1.0".to_owned(),
        },
        load: Load { cpu: 0.5, memory_free_bytes: 1 << 34 },
        gpus: vec![GpuSlots { index: 0, total: 8, used: 5 }],
        spawns: spawns.collect(),
        forgotten: Vec::new(),
        wish: Wish::default(),
    };
    AgentReport {
        node: format!("render-{node:04}").parse::<NodeId>().unwrap(),
        epoch,
        takeover: first,
        changes: Vec::new(),
        heartbeat: Some(heartbeat),
    }
}

/// An agent's life and what runs there.
type Agent = (AgentEpoch, Vec<SpawnId>);

/// Every agent reports once.
async fn beat(registry: &Registry, nodes: &[Agent], born: Instant, number: usize) {
    let reports = nodes.iter().enumerate().map(|(node, (epoch, spawns))| async move {
        let report = report(node, *epoch, spawns, born, number == 0, number);
        registry.report(&report).await.unwrap();
    });
    stream::iter(reports).for_each_concurrent(16, |report| report).await;
}

/// A thousand agents, as far as the registry can see, for as long as the test runs.
async fn crowd(registry: Registry) {
    let born = Instant::now();
    let spawns = || (0..SPAWNS_EACH).map(|_| SpawnId::mint()).collect();
    let nodes: Vec<Agent> = (0..NODES).map(|_| (AgentEpoch::mint(), spawns())).collect();
    beat(&registry, &nodes, born, 0).await;
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        for number in 1.. {
            ticks.tick().await;
            beat(&registry, &nodes, born, number).await;
        }
    });
}

/// The longest time for which the page drew nothing while a script worked on it.
async fn longest_freeze(browser: &Browser, script: &str) -> Duration {
    let watched = format!(
        "let longest = 0, last = performance.now(), on = true;\
         const frame = (now) => {{ longest = Math.max(longest, now - last); last = now; if (on) requestAnimationFrame(frame); }};\
         requestAnimationFrame(frame);\
         const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));\
         {script}\
         await pause(100); on = false; return longest;"
    );
    let longest = browser.run(&watched).await;
    Duration::from_secs_f64(longest.as_f64().unwrap() / 1000.0)
}

#[tokio::test]
async fn a_thousand_nodes_and_twenty_thousand_spawns_do_not_freeze_the_dashboard() {
    let farm = Farm::builder().start().await;
    crowd(Registry::open(&farm.redis.url(), "test", Timing::FARM).unwrap()).await;
    let browser = Browser::start(1440, 1100).await;
    browser.patience(Duration::from_secs(60)).await;
    browser.open(&format!("http://{}/", farm.door(0).addr)).await;
    browser.sees("#of-nodes", "of 1,000").await;
    browser.sees("#used", "20,000").await;
    browser.sees("#spawns-count", "20,000").await;
    browser.picture("dashboard-crowded").await;
    // What is not in sight does not exist.
    let rows = browser.run("return document.querySelectorAll('tr').length;").await;
    assert!(rows.as_u64() < Some(300), "{rows}");
    assert_eq!(
        browser.run("return document.querySelector('#spawns-frame table').ariaRowCount;").await,
        "20001"
    );

    let watching = longest_freeze(&browser, "await pause(3000);").await;
    let scrolling = longest_freeze(
        &browser,
        "for (const id of ['nodes-frame', 'spawns-frame']) {\
           const frame = document.getElementById(id);\
           for (let i = 1; i <= 20; i += 1) { frame.scrollTop = frame.scrollHeight * i / 20; await pause(25); }\
         }",
    )
    .await;
    browser.sees("#nodes-frame", "render-0999").await;
    let searching = longest_freeze(
        &browser,
        "const field = document.getElementById('spawns-search');\
         for (const text of ['r', 're', 'render-07', 'render-0777']) {\
           field.value = text; field.dispatchEvent(new Event('input')); await pause(100);\
         }",
    )
    .await;
    browser.sees("#spawns-count", "20 of 20,000").await;
    for (what, longest) in [("watched", watching), ("scrolled", scrolling), ("searched", searching)] {
        assert!(longest < FREEZE, "nothing was drawn for {longest:?} while it was {what}");
    }

    // A person finds the full ones and looks at one of them.
    browser.click("#nodes-show option[value=full]").await;
    browser.sees("#nodes-count", "143 of 1000").await;
    browser.fill("#nodes-search", "0994").await;
    let began = Instant::now();
    browser.click("[data-node=render-0994] .name").await;
    browser.sees("#detail", "20 of 20 in use").await;
    browser.fill("#spawns-search", "").await;
    browser.sees("#spawns-count", "20").await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    browser.screen(1440, 1100, false).await;
    for scheme in ["light", "dark"] {
        browser.prefers(scheme).await;
        browser.picture(&format!("dashboard-{scheme}")).await;
    }
    browser.screen(390, 844, true).await;
    browser.holds("innerWidth === 390 && document.documentElement.scrollWidth <= 390").await;
    browser.picture("dashboard-phone").await;
    farm.shut_down().await;
}
