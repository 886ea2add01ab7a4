//! The whole path against the floor: HTTP, Redis, gRPC, process, ready, answer; alternately, on the same machine.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use hatchery_tests::binaries::binaries;
use hatchery_tests::{AgentPlan, Farm};
use tokio::time::Instant;

use crate::fleet::Spent;
use crate::floor::Floor;
use crate::keep_alive::KeepAlive;
use crate::processor::Processor;
use crate::table::{Sample, Table, ms};

/// Alternations, one at a time.
const SINGLES: usize = 400;
/// Alternations of a crowd, and its size.
const CROWDS: usize = 24;
const CROWD: usize = 50;
/// Spawns of one stretch under load.
const STRETCH: usize = 600;
const STRETCHES: usize = 5;
/// At work at once under load.
const WORKERS: usize = 16;

struct Path {
    http: KeepAlive,
}

impl Path {
    /// Spawns; the id, and how long after `began` the answer was there.
    async fn spawn(&self, began: Instant) -> anyhow::Result<(String, Duration)> {
        let (status, answer) = self.http.call("POST", "/spawn").await?;
        let took = began.elapsed();
        ensure!(status == 200, "POST /spawn was answered with {status}: {answer}");
        Ok((answer["id"].as_str().context("an id")?.to_owned(), took))
    }

    async fn stop(&self, id: &str) -> anyhow::Result<()> {
        let (status, answer) = self.http.call("DELETE", &format!("/v1/spawns/{id}")).await?;
        ensure!(matches!(status, 200 | 202), "DELETE was answered with {status}: {answer}");
        Ok(())
    }
}

/// Waits until no spawn is left, so that the next measurement starts from the same state.
async fn settle(farm: &Farm) {
    let none_left = || async {
        let left = farm.processes().len();
        if left == 0 {
            hatchery_tests::Look::Ready(())
        } else {
            hatchery_tests::Look::NotYet(format!("{left} left"))
        }
    };
    hatchery_tests::until("nothing runs", Duration::from_secs(30), none_left).await;
}

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let farm = Farm::builder()
        .plain_log()
        .agent(AgentPlan::slots(60).port_range(10_000..=10_199))
        .agent(AgentPlan::slots(60).port_range(10_200..=10_399))
        .start()
        .await;
    let ports = (10_400..10_600).collect();
    let floor = Floor::start(&binaries().simulator, &farm.mark().join("license"), ports).await?;
    let path = Path { http: KeepAlive::new(farm.doors[0].http.addr) };

    one_at_a_time(&floor, &path, table).await?;
    settle(&farm).await;
    crowds(&floor, &path, &farm, table).await?;
    under_load(&floor, &path, &farm, table).await?;
    settle(&farm).await;
    farm.finish().await;
    Ok(())
}

async fn one_at_a_time(floor: &Floor, path: &Path, table: &mut Table) -> anyhow::Result<()> {
    let (mut bare, mut whole) = (Sample::default(), Sample::default());
    for round in 0..SINGLES + 20 {
        let (running, took) = floor.spawn(Instant::now()).await?;
        running.stop().await?;
        let (id, whole_took) = path.spawn(Instant::now()).await?;
        path.stop(&id).await?;
        // The first ones pay for connections and caches.
        if round >= 20 {
            bare.add(took);
            whole.add(whole_took);
        }
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (floor, whole) = (bare.quantile(share), whole.quantile(share));
        table.row(
            format!("request to ready, one at a time, {name}"),
            ms(whole),
            format!("floor {}", ms(floor)),
            format!("+{}", ms(whole.saturating_sub(floor))),
        );
    }
    Ok(())
}

async fn crowds(floor: &Floor, path: &Path, farm: &Farm, table: &mut Table) -> anyhow::Result<()> {
    let (mut bare, mut whole) = (Sample::default(), Sample::default());
    for round in 0..=CROWDS {
        let began = Instant::now();
        let running = try_join_all((0..CROWD).map(|_| floor.spawn(began))).await?;
        let mut times = Vec::new();
        for (running, took) in running {
            running.stop().await?;
            times.push(took);
        }
        let began = Instant::now();
        let spawned = try_join_all((0..CROWD).map(|_| path.spawn(began))).await?;
        for (id, _) in &spawned {
            path.stop(id).await?;
        }
        settle(farm).await;
        if round > 0 {
            times.into_iter().for_each(|took| bare.add(took));
            spawned.into_iter().for_each(|(_, took)| whole.add(took));
        }
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (floor, whole) = (bare.quantile(share), whole.quantile(share));
        table.row(
            format!("request to ready, {CROWD} at once, {name}"),
            ms(whole),
            format!("floor {}", ms(floor)),
            format!("+{}", ms(whole.saturating_sub(floor))),
        );
    }
    Ok(())
}

/// Spawn, ready, stop, again and again by a few workers.
async fn under_load(floor: &Floor, path: &Path, farm: &Farm, table: &mut Table) -> anyhow::Result<()> {
    let (mut bare, mut whole) = (Duration::ZERO, Duration::ZERO);
    let roles = [("front door", farm.doors[0].role.pid()), ("Redis", farm.redis.pid().context("it runs")?)];
    let agents = farm.agents.iter().map(|agent| ("agent", agent.role.pid()));
    let processes: Vec<(&str, u32)> = roles.into_iter().chain(agents).collect();
    let look = || Processor::of(processes.iter().copied());
    let (mut processor, mut scripts) = (Processor::default(), 0);
    for _ in 0..STRETCHES {
        let began = Instant::now();
        try_join_all((0..WORKERS).map(|_| async {
            for _ in 0..STRETCH / WORKERS {
                floor.spawn(Instant::now()).await?.0.stop().await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        bare += began.elapsed();
        let (before, asked) = (look()?, Spent::read(&farm.redis).await?);
        let began = Instant::now();
        try_join_all((0..WORKERS).map(|_| async {
            for _ in 0..STRETCH / WORKERS {
                let (id, _) = path.spawn(Instant::now()).await?;
                path.stop(&id).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        settle(farm).await;
        whole += began.elapsed();
        processor.add(&before, &look()?);
        scripts += Spent::read(&farm.redis).await?.calls - asked.calls;
    }
    let count = u32::try_from(STRETCH / WORKERS * WORKERS * STRETCHES)?;
    let what = format!("processor time of one spawn and its stop, {WORKERS} at work");
    processor.rows(&what, count, table);
    let count = f64::from(count);
    table.row(
        format!("scripts in Redis of one spawn and its stop, {WORKERS} at work, heartbeats included"),
        format!("{:.1}", f64::from(u32::try_from(scripts)?) / count),
        "",
        "",
    );
    let (bare, whole) = (count / bare.as_secs_f64(), count / whole.as_secs_f64());
    table.row(
        format!("spawned and stopped per second, {WORKERS} at work"),
        format!("{whole:.0}"),
        format!("floor {bare:.0}"),
        format!("{:.0} %", whole / bare * 100.0),
    );
    Ok(())
}
