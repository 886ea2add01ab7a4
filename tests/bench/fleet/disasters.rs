//! What happens to a fleet, and how soon everything is right again.

use std::convert::Infallible;
use std::time::Duration;

use hatchery_tests::{RedisServer, Sentinels};
use tokio::time::{Instant, sleep};

use super::farm::Fleet;
use super::spent::Spent;
use super::{Size, float};
use crate::table::{Sample, Table, ms, us};

/// Of so many nodes one dies.
const DIES_OF: usize = 20;
/// Requests of a burst that are under way at once.
const AT_ONCE: usize = 32;
/// The longest that is waited for nodes to be seen as gone.
const LIMIT: Duration = Duration::from_secs(60);

/// One after the other.
pub(super) async fn measure(
    fleet: &mut Fleet,
    redis: &mut RedisServer,
    sentinels: &Sentinels,
    size: Size,
    table: &mut Table,
) -> anyhow::Result<()> {
    burst(fleet, redis, size, table).await?;
    deaths(fleet, size, table).await?;
    wipe(fleet, redis, size, table).await?;
    failover(fleet, redis, sentinels, size, table).await
}

/// Redis is emptied, and slots are asked for meanwhile.
pub(super) async fn wipe(
    fleet: &Fleet,
    redis: &RedisServer,
    size: Size,
    table: &mut Table,
) -> anyhow::Result<()> {
    anyhow::ensure!(redis.flush().await, "it is emptied");
    let (mut reserves, mut unanswered) = (Sample::default(), 0);
    let converged = tokio::select! {
        converged = fleet.converges() => converged?,
        never = asks(fleet, &mut reserves, &mut unanswered) => match never {},
    };
    table.row(
        format!("{}: after Redis was emptied, everything is right again", size.text()),
        ms(converged),
        format!(
            "{} reserves meanwhile, p50 {}, p99 {}; {unanswered} without an answer in time",
            reserves.len(),
            us(reserves.quantile(0.5)),
            us(reserves.quantile(0.99))
        ),
        "aim 2 s for 1 000 × 32, 30 s for 10 000 × 100",
    );
    Ok(())
}

/// Asks for slots, one after the other. Where Redis has more lists to take in than it can in the time of a call, a front door places by its
/// snapshot of the farm.
async fn asks(fleet: &Fleet, reserves: &mut Sample, unanswered: &mut u64) -> Infallible {
    loop {
        match fleet.reserve(false).await {
            Ok(took) => reserves.add(took),
            Err(_) => *unanswered += 1,
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A tenth of all spawns end and begin anew as fast as they can.
async fn burst(fleet: &Fleet, redis: &RedisServer, size: Size, table: &mut Table) -> anyhow::Result<()> {
    let count = (size.nodes * size.spawns / 10).clamp(AT_ONCE, 2_000);
    if size.spawns == 0 {
        return Ok(());
    }
    let (agents, before, began) = (fleet.all(), Spent::read(redis).await?, Instant::now());
    let one = |first: usize| {
        let agents = &agents;
        async move {
            let mut reserves = Vec::new();
            for _ in (first..count).step_by(AT_ONCE) {
                agents[fastrand::usize(..agents.len())].end_one().await;
                reserves.push(fleet.reserve(true).await?);
            }
            anyhow::Ok(reserves)
        }
    };
    let mut reserves = Sample::default();
    for took in futures_util::future::try_join_all((0..AT_ONCE).map(one)).await?.into_iter().flatten() {
        reserves.add(took);
    }
    let took = began.elapsed();
    fleet.converges().await?;
    let after = Spent::read(redis).await?;
    table.row(
        format!("{}: {count} spawns end and begin at once, {AT_ONCE} at a time", size.text()),
        format!("{:.0} a second", float(count) / took.as_secs_f64()),
        format!("reserve p50 {}, p99 {}", us(reserves.quantile(0.5)), us(reserves.quantile(0.99))),
        format!(
            "{} of Redis for each, heartbeats included",
            us((after.processor - before.processor) / u32::try_from(count)?)
        ),
    );
    Ok(())
}

/// One node of twenty dies with all that runs there, and comes back without it.
async fn deaths(fleet: &mut Fleet, size: Size, table: &mut Table) -> anyhow::Result<()> {
    let dead: Vec<usize> = (0..size.nodes).step_by(DIES_OF).collect();
    for n in &dead {
        fleet.kill_node(*n)?;
    }
    let began = Instant::now();
    while fleet.known().await?.0 != size.nodes - dead.len() {
        anyhow::ensure!(began.elapsed() < LIMIT, "dead nodes stay up");
        sleep(Duration::from_millis(20)).await;
    }
    let seen = began.elapsed();
    for n in &dead {
        fleet.start_node(*n)?;
    }
    let back = fleet.converges().await?;
    table.row(
        format!("{}: {} of the nodes die: nothing is placed there after", size.text(), dead.len()),
        ms(seen),
        format!("back without their spawns, everything is right after {}", ms(back)),
        "",
    );
    Ok(())
}

/// Redis dies, and Sentinels put its replica in its place.
async fn failover(
    fleet: &Fleet,
    redis: &mut RedisServer,
    sentinels: &Sentinels,
    size: Size,
    table: &mut Table,
) -> anyhow::Result<()> {
    redis.kill();
    let began = Instant::now();
    while !sentinels.have_promoted().await {
        anyhow::ensure!(began.elapsed() < LIMIT, "no replica was promoted");
        sleep(Duration::from_millis(20)).await;
    }
    let promoted = began.elapsed();
    fleet.converges().await?;
    table.row(
        format!("{}: Redis dies, everything is right on its replica after", size.text()),
        ms(began.elapsed()),
        format!("the Sentinels had it promoted after {}", ms(promoted)),
        "",
    );
    Ok(())
}
