//! What traces cost: placements per second of farms that trace nothing, one request of ten, and one of ten without a collector.
//!
//! The farms run at the same time and are asked in turn, so that what else the machine does falls on all of them alike.

use anyhow::{Context as _, ensure};
use hatchery_tests::{AgentPlan, Collector, Farm, FarmBuilder};

use crate::table::Table;

const AT_ONCE: &str = "64";
const FOR: &str = "4s";
/// Stretches of each farm.
const ROUNDS: usize = 5;
/// What is lost at the most, in percent.
const AIM: f64 = 3.0;

async fn farm(first: u16, trace: impl FnOnce(FarmBuilder) -> FarmBuilder) -> Farm {
    // Each spawn lasts a moment and ends by itself, so that nothing but placements is asked for.
    let args = ["--start-nothing", "--initial-use", "200ms"];
    let plan = AgentPlan::slots(2000).port_range(first..=first + 3999).args(&args);
    trace(Farm::builder().plain_log().agent(plan)).start().await
}

fn tenth(builder: FarmBuilder, url: &str) -> FarmBuilder {
    builder
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .env("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .env("OTEL_TRACES_SAMPLER_ARG", "0.1")
}

/// Placements per second of one stretch.
async fn rate(farm: &Farm, time: &str) -> anyhow::Result<f64> {
    let load = ["bench", "--json", "--stop=false", "--concurrency", AT_ONCE, "--duration", time];
    let result = farm.run(&load).await.json();
    ensure!(result["ready"] == result["asked"], "every placement succeeds: {result}");
    result["readyPerSecond"].as_f64().with_context(|| format!("a rate in {result}"))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

pub(crate) async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let collector = Collector::start().await;
    let farms = [
        ("off", farm(10_000, |builder| builder).await),
        ("one of ten", farm(14_000, |builder| tenth(builder, &collector.url())).await),
        // Nothing listens there.
        ("one of ten, no collector", farm(18_000, |builder| tenth(builder, "http://127.0.0.1:9")).await),
    ];
    for (_, farm) in &farms {
        rate(farm, "1s").await?;
    }
    let mut rates = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        // Each comes first, second and last.
        for at in 0..farms.len() {
            let at = (round + at) % farms.len();
            rates[at].push(rate(&farms[at].1, FOR).await?);
        }
    }
    let rates = rates.map(median);
    let spans = collector.spans().len();
    for ((name, _), rate) in farms.iter().zip(rates) {
        let loss = (1.0 - rate / rates[0]) * 100.0;
        let against = if *name == "off" { String::new() } else { format!("aim at most {AIM} % less") };
        let result =
            if *name == "off" { format!("{spans} spans received") } else { format!("{loss:.1} % less") };
        table.row(format!("placements per second, traces: {name}"), format!("{rate:.0}"), against, result);
    }
    for (_, farm) in farms {
        farm.shut_down().await;
    }
    Ok(())
}
