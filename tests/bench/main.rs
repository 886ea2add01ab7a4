//! The benchmark: `cargo bench -p hatchery-tests`. It starts real processes on loopback, takes two to three minutes, and
//! prints a table; every comparison is between things measured alternately in the same run.
//!
//! `cargo bench -p hatchery-tests -- reserve` runs one part: `path`, `placements`, `traces`, `memory`, `live`, `large`, `greedy`,
//! `relay`, `reserve`, `warm`, `burst` (`burst=300`: only with servers that take so many milliseconds to start), `heartbeat`, `fleet`
//! (`fleet=1000x32`: so many nodes with so many spawns each; `curve=1000x32`: without disasters; `wipe=1000x32`: with one of them) or
//! `million` (not by itself). Parts of `relay`: `relay-large`, `relay-small`, `relay-visits`, `relay-idle`.

mod burst;
mod fleet;
mod floor;
mod greedy;
mod keep_alive;
mod large;
mod live;
mod million;
mod path;
mod placements;
mod processor;
mod relay;
mod reserve;
mod spawners;
mod table;
mod traces;
mod warm;

use table::Table;

fn main() -> anyhow::Result<()> {
    if relay::serve_if_asked()? {
        return Ok(());
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut table = Table::default();
    runtime.block_on(async {
        if wants("path") {
            path::measure(&mut table).await?;
        }
        if wants("placements") {
            placements::measure(&mut table).await?;
        }
        if wants("traces") {
            traces::measure(&mut table).await?;
        }
        if wants("memory") {
            placements::memory(&mut table).await?;
        }
        if wants("warm") {
            warm::measure(&mut table).await?;
        }
        let delays: Vec<&str> = wanted.iter().filter_map(|word| word.strip_prefix("burst=")).collect();
        if wants("burst") || !delays.is_empty() {
            burst::measure(&delays, &mut table).await?;
        }
        if wants("live") {
            live::measure(&mut table).await?;
        }
        if wants("large") {
            large::measure(&mut table).await?;
        }
        if wants("greedy") {
            greedy::measure(&mut table).await?;
        }
        let relay = relay::PARTS.into_iter().filter(|part| wants("relay") || wants(part)).collect::<Vec<_>>();
        if !relay.is_empty() {
            relay::measure(&relay, &mut table).await?;
        }
        if fleet::wants_heartbeat(&wanted) {
            fleet::measure_heartbeat(&mut table).await?;
        }
        for size in fleet::sizes(&wanted) {
            fleet::measure(size, &mut table).await?;
        }
        if let Some(size) = million::size(&wanted) {
            million::measure(size, &mut table).await?;
        }
        if wants("reserve") {
            let scratch = tempfile::tempdir()?;
            let redis = hatchery_tests::RedisServer::start(scratch.path()).await;
            reserve::measure(&redis.url(), &mut table).await?;
        }
        anyhow::Ok(())
    })?;
    #[expect(clippy::print_stdout, reason = "the table is what the benchmark is for")]
    {
        println!("{}", table.markdown());
    }
    Ok(())
}
