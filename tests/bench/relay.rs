//! The relay beside HAProxy and nginx, in front of the same servers and measured alternately: large frames, small ones, idle
//! viewers, and viewers that come and go. Each in the plain and by TLS.

mod client;
mod proxies;
mod server;

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use hatchery_tests::certs::Certs;
use hatchery_tests::processes::memory;
use hatchery_tests::role::{Role, clients};
use hatchery_tests::{AgentPlan, Farm};
use serde_json::json;
use tokio::time::Instant;

use self::client::{Viewer, Way};
use self::proxies::Proxy;
use self::server::LARGE;
pub(crate) use self::server::serve_if_asked;
use crate::table::{Sample, Table, us};

/// In the environment of a process that is to be the server.
const SERVER: &str = "HATCHERY_BENCH_SERVER";
const PUBLIC: &str = "http://viewers.example.com";
/// Alternations, and large frames of each.
const ROUNDS: usize = 15;
const FRAMES: u64 = 256;
/// Small frames of an alternation.
const ECHOES: usize = 1000;
/// Idle viewers. Their spawns are also those that viewers come to and leave.
const IDLE: usize = 500;
/// Viewers that come and go at once, and how often each does in an alternation: to another spawn each time, because a relay has to
/// learn first that the viewer before has gone.
const COMERS: usize = 16;
const VISITS: usize = 30;

/// A spawn: the port of its server, and the path of its URL.
struct Spawn {
    port: u16,
    path: String,
}

/// A relay of its own.
async fn relay(farm: &Farm, more: &[String]) -> anyhow::Result<(Role, std::net::SocketAddr)> {
    let url = farm.redis.url();
    let args = [
        "relay",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--farm",
        "test",
        "--registry",
        &url,
    ];
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).chain(more.iter().cloned()).collect();
    let mut role = Role::start("relay", farm.mark(), &args);
    let line = role.announcement().await;
    let addr = clients(&line).first().context("an address")?.addr;
    Ok((role, addr))
}

/// Everything that viewers may go through to one server, and which processes that is.
struct Ways {
    all: [(Way, Vec<u32>); 4],
    spawn: Spawn,
}

impl Ways {
    async fn connect(&self, index: usize) -> anyhow::Result<Viewer> {
        // Only the relay minds the path.
        self.all[index].0.connect(&self.spawn.path).await
    }
}

/// What can be measured.
pub(crate) const PARTS: [&str; 4] = ["relay-large", "relay-small", "relay-visits", "relay-idle"];

pub(crate) async fn measure(parts: &[&str], table: &mut Table) -> anyhow::Result<()> {
    let slots = u16::try_from(IDLE + 1)?;
    let plan = AgentPlan::slots(slots).port_range(8000..=8000 + slots + 50).env(SERVER, "1");
    let plan = plan.executable(std::env::current_exe()?).args(&["--initial-use", "1h"]);
    let farm = Farm::builder().plain_log().door_args(&["--public-url", PUBLIC]).agent(plan).start().await;
    let mut spawns = Vec::new();
    for _ in 0..slots {
        let answer = farm.door(0).spawned(&json!({})).await;
        let id = answer["id"].as_str().context("an id")?;
        let process = farm.process(id).context("a process")?;
        let port = process.option("--sc-port").context("a port")?.parse()?;
        let path = answer["endpoint"].as_str().and_then(|url| url.strip_prefix("ws://viewers.example.com"));
        spawns.push(Spawn { port, path: path.context("a viewer's URL")?.to_owned() });
    }
    let certs = Certs::new(&["--frontdoor", "door=127.0.0.1"]);
    certs.sign("public", "DNS:localhost,IP:127.0.0.1", "serverAuth");
    let pair =
        ["--tls-cert", &certs.path("public.pem"), "--tls-key", &certs.path("public.key")].map(str::to_owned);
    let (plain_role, plain_relay) = relay(&farm, &[]).await?;
    let (tls_role, tls_relay) = relay(&farm, &pair).await?;
    let first = spawns.pop().context("a spawn")?;
    let haproxy = Proxy::haproxy(&certs, first.port).await?;
    let nginx = Proxy::nginx(&certs, first.port).await?;
    let direct = std::net::SocketAddr::from(([127, 0, 0, 1], first.port));
    let ca = certs.file("ca.pem");
    let path = first.path.clone();
    let plain = Ways {
        all: [
            (Way::plain("directly", direct), Vec::new()),
            (Way::plain("relay", plain_relay), vec![plain_role.pid()]),
            (Way::plain("HAProxy", haproxy.plain), haproxy.pids()),
            (Way::plain("nginx", nginx.plain), nginx.pids()),
        ],
        spawn: first,
    };
    let tls = Ways {
        all: [
            (Way::plain("directly", direct), Vec::new()),
            (Way::tls("relay", tls_relay, &ca)?, vec![tls_role.pid()]),
            (Way::tls("HAProxy", haproxy.tls, &ca)?, haproxy.pids()),
            (Way::tls("nginx", nginx.tls, &ca)?, nginx.pids()),
        ],
        spawn: Spawn { port: direct.port(), path },
    };
    for (kind, ways) in [("plain", &plain), ("TLS", &tls)] {
        for part in parts {
            match *part {
                "relay-large" => large_frames(kind, ways, table).await?,
                "relay-small" => small_frames(kind, ways, table).await?,
                "relay-visits" => coming_and_going(kind, ways, &spawns, table).await?,
                _ => idle_viewers(kind, ways, &spawns, table).await?,
            }
        }
    }
    farm.shut_down().await;
    Ok(())
}

/// Of the relay, and the better one of the others.
fn beside(measured: &[f64; 4], is_better: impl Fn(f64, f64) -> bool) -> (f64, &'static str, f64) {
    let (name, other) =
        if is_better(measured[2], measured[3]) { ("HAProxy", measured[2]) } else { ("nginx", measured[3]) };
    (measured[1], name, other)
}

async fn large_frames(kind: &str, ways: &Ways, table: &mut Table) -> anyhow::Result<()> {
    let mut samples: [Sample; 4] = Default::default();
    let mut buffer = vec![0; 256 << 10];
    for _ in 0..ROUNDS {
        for (index, sample) in samples.iter_mut().enumerate() {
            let mut viewer = ways.connect(index).await?;
            viewer.receive(8, &mut buffer).await?;
            sample.add(viewer.receive(FRAMES, &mut buffer).await?);
            viewer.leave().await?;
        }
    }
    let size = f64::from(u32::try_from(LARGE * usize::try_from(FRAMES)?)?) / f64::from(1 << 20);
    let rates = [0, 1, 2, 3].map(|index: usize| size / samples[index].quantile(0.5).as_secs_f64());
    let (ours, name, theirs) = beside(&rates, |a, b| a > b);
    table.row(
        format!("frames of 1 MiB to a viewer, {kind}"),
        format!("{ours:.0} MiB/s"),
        format!("{name} {theirs:.0} MiB/s, directly {:.0}", rates[0]),
        format!("{:.0} % (aim 90)", ours / theirs * 100.0),
    );
    Ok(())
}

async fn small_frames(kind: &str, ways: &Ways, table: &mut Table) -> anyhow::Result<()> {
    let mut samples: [Sample; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (index, sample) in samples.iter_mut().enumerate() {
            let mut viewer = ways.connect(index).await?;
            for _ in 0..ECHOES {
                sample.add(viewer.echo().await?);
            }
            viewer.leave().await?;
        }
    }
    let medians = [0, 1, 2, 3].map(|index: usize| samples[index].quantile(0.5));
    let (ours, name, theirs) = beside(&medians.map(|time| time.as_secs_f64()), |a, b| a < b);
    table.row(
        format!("a small frame and its echo, p50, {kind}"),
        us(medians[1]),
        format!("{name} {}, directly {}", us(Duration::from_secs_f64(theirs)), us(medians[0])),
        format!("{:+.0} µs (aim +20)", (ours - theirs) * 1e6),
    );
    Ok(())
}

async fn coming_and_going(
    kind: &str,
    ways: &Ways,
    spawns: &[Spawn],
    table: &mut Table,
) -> anyhow::Result<()> {
    let mut rates: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (index, rates) in rates.iter_mut().enumerate().skip(1) {
            let way = &ways.all[index].0;
            let began = Instant::now();
            try_join_all(spawns.chunks(VISITS).take(COMERS).map(async |spawns| {
                for spawn in spawns {
                    way.connect(&spawn.path).await?.leave().await?;
                }
                anyhow::Ok(())
            }))
            .await?;
            let visits = f64::from(u32::try_from(COMERS * VISITS)?);
            rates.push(visits / began.elapsed().as_secs_f64());
        }
    }
    let medians = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    });
    let (ours, name, theirs) = beside(&medians, |a, b| a > b);
    table.row(
        format!("viewers that come and go per second, {kind}"),
        format!("{ours:.0}"),
        format!("{name} {theirs:.0}"),
        format!("{:.0} % (aim 100); the relay asks the agent whose each one is", ours / theirs * 100.0),
    );
    Ok(())
}

async fn idle_viewers(kind: &str, ways: &Ways, idle: &[Spawn], table: &mut Table) -> anyhow::Result<()> {
    let mut measured = [0.0; 4];
    for (value, (way, pids)) in measured.iter_mut().zip(&ways.all).skip(1) {
        let resident = || pids.iter().map(|pid| memory(*pid, "VmRSS")).sum::<u64>();
        let before = resident();
        let mut viewers = Vec::new();
        for spawn in idle {
            let mut viewer = way.connect(&spawn.path).await?;
            viewer.echo().await?;
            viewers.push(viewer);
        }
        let more = resident().saturating_sub(before);
        *value = f64::from(u32::try_from(more / 1024)?) / f64::from(u32::try_from(idle.len())?);
        for viewer in viewers {
            viewer.leave().await?;
        }
    }
    let (ours, name, theirs) = beside(&measured, |a, b| a < b);
    table.row(
        format!("memory of an idle viewer, {kind}"),
        format!("{ours:.1} KiB"),
        format!("{name} {theirs:.1} KiB"),
        if kind == "plain" { "aim 32 KiB" } else { "" },
    );
    Ok(())
}
