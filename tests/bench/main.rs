//! The benchmark: `cargo bench -p hatchery-tests`. It starts real processes on loopback, takes about two minutes, and
//! prints a table; every comparison is a ratio of things measured alternately in the same run.

mod reserve;
mod table;

use table::Table;

fn main() -> anyhow::Result<()> {
    let url = std::env::var("BENCH_REDIS")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut table = Table::default();
    runtime.block_on(async { reserve::measure(&url, &mut table).await })?;
    println!("{}", table.markdown());
    Ok(())
}
