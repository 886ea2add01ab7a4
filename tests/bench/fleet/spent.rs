//! What a Redis has spent so far, by its own account.

use std::time::Duration;

use anyhow::Context as _;
use hatchery_tests::RedisServer;

/// Processor time of Redis in all, time in scripts, their number, and bytes received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) processor: Duration,
    pub(crate) scripts: Duration,
    pub(crate) calls: u64,
    pub(crate) bytes: u64,
    /// Memory that it uses now.
    pub(crate) memory: u64,
}

impl Spent {
    pub(crate) async fn read(redis: &RedisServer) -> anyhow::Result<Self> {
        let text = redis.says("INFO everything").await.context("an answer of Redis")?;
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let seconds = |name| line(name).and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or_default();
        let count = |name| line(name).and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let stat = line("cmdstat_evalsha:").unwrap_or_default();
        let field = |name: &str| -> u64 {
            let found = stat.split(',').find_map(|part| part.strip_prefix(name));
            found.and_then(|text| text.parse().ok()).unwrap_or_default()
        };
        Ok(Self {
            processor: Duration::from_secs_f64(seconds("used_cpu_sys:") + seconds("used_cpu_user:")),
            scripts: Duration::from_micros(field("usec=")),
            calls: field("calls="),
            bytes: count("total_net_input_bytes:"),
            memory: count("used_memory:"),
        })
    }
}
