//! Other data in the farm's Redis, more than its memory holds: keys are evicted or writes refused, as its policy says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::redis::RedisServer;

/// Memory beyond what Redis uses when the pressure begins, in bytes: more than the buffers of its clients may grow by, which cannot be evicted.
const ROOM: u64 = 1 << 20;
/// Size of a filler, in bytes; a batch of them is written at a time.
const FILLER: usize = 4 << 10;
/// Fillers in a batch.
const BATCH: usize = 32;
/// Fillers have so many names: there are never more of them.
const NAMES: usize = 4096;
/// Between two batches. All of the room is written anew several times a second, so the farm's keys are the older ones.
const PAUSE: Duration = Duration::from_millis(25);

/// Something that writes and writes.
#[derive(Debug)]
pub struct Pressure {
    going: Arc<AtomicBool>,
    writer: JoinHandle<()>,
    listener: JoinHandle<BTreeSet<String>>,
}

/// What it led to.
#[derive(Debug)]
pub struct Evicted {
    /// Keys that Redis evicted since its start.
    pub total: u64,
    /// The farm's own keys among them.
    pub own: BTreeSet<String>,
}

impl Pressure {
    /// Begins, with this `maxmemory-policy`.
    pub async fn on(redis: &RedisServer, policy: &str) -> Self {
        let used = info(redis, "memory", "used_memory").await;
        for words in [
            format!("CONFIG SET maxmemory-policy {policy}"),
            "CONFIG SET notify-keyspace-events Ee".to_owned(),
            format!("CONFIG SET maxmemory {}", used + ROOM),
        ] {
            let said = redis.says(&words).await.unwrap_or_default();
            assert!(said.starts_with("+OK"), "{words}: {said}");
        }
        let going = Arc::new(AtomicBool::new(true));
        let mut stream = TcpStream::connect(redis.addr()).await.expect("it listens");
        stream.write_all(b"SUBSCRIBE __keyevent@0__:evicted\r\n").await.expect("it reads");
        let listener = tokio::spawn(listen(stream));
        let stream = TcpStream::connect(redis.addr()).await.expect("it listens");
        let writer = tokio::spawn(write(stream, Arc::clone(&going)));
        Self { going, writer, listener }
    }

    /// Ends it, with all that it has written.
    pub async fn ends(self, redis: &RedisServer) -> Evicted {
        self.going.store(false, Ordering::Relaxed);
        self.writer.await.expect("it does not panic");
        let total = info(redis, "stats", "evicted_keys").await;
        for words in
            ["CONFIG SET maxmemory 0".to_owned(), format!("DEL {}", names().collect::<Vec<_>>().join(" "))]
        {
            let said = redis.says(&words).await.unwrap_or_default();
            assert!(said.starts_with(['+', ':']), "{said}");
        }
        // Its connection is the only one that subscribes by name.
        redis.says("CLIENT KILL TYPE pubsub").await;
        Evicted { total, own: self.listener.await.expect("it does not panic") }
    }
}

fn names() -> impl Iterator<Item = String> + Clone {
    (0..NAMES).map(|number| format!("filler:{number}"))
}

/// Every second filler may be evicted by policies that evict only what expires.
async fn write(mut stream: TcpStream, going: Arc<AtomicBool>) {
    let filler = "f".repeat(FILLER);
    let mut answers = vec![0; 64 << 10];
    let mut all = names().enumerate().cycle();
    while going.load(Ordering::Relaxed) {
        let mut batch = String::new();
        for _ in 0..BATCH {
            let (number, name) = all.next().expect("it never ends");
            let expires = if number % 2 == 0 { " EX 600" } else { "" };
            batch += &format!("SET {name} {filler}{expires}\r\n");
        }
        stream.write_all(batch.as_bytes()).await.expect("Redis reads");
        sleep(PAUSE).await;
        // Whether they were accepted is no matter.
        while stream.try_read(&mut answers).is_ok_and(|read| read > 0) {}
    }
    stream.shutdown().await.ok();
    while stream.read(&mut answers).await.is_ok_and(|read| read > 0) {}
}

/// The farm's keys that were evicted.
async fn listen(stream: TcpStream) -> BTreeSet<String> {
    let mut own = BTreeSet::new();
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with('{') {
            own.insert(line);
        }
    }
    own
}

async fn info(redis: &RedisServer, section: &str, name: &str) -> u64 {
    let said = redis.says(&format!("INFO {section}")).await.unwrap_or_default();
    let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {said}"))
}
