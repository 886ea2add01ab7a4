//! Moods of Redis: what can be wrong with a server that is still there, and how it is made good again.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::redis::RedisServer;
use crate::wait::{Look, TIMEOUT, until};

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It wants a replica that is not there: `NOREPLICAS`.
    TooFewReplicas,
    /// It has no memory left: `OOM`.
    OutOfMemory,
    /// It was demoted: `READONLY`.
    Demoted,
    /// It cannot save, and takes no writes because of that: `MISCONF`.
    CannotSave,
    /// A script of somebody else's runs and runs: `BUSY`.
    Busy,
    /// It is stopped.
    Stalled,
    /// It reads its dump again, slowly: `LOADING`.
    Loading,
    /// It ends all connections again and again.
    CutsConnections,
}

impl Mood {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::TooFewReplicas,
        Self::OutOfMemory,
        Self::Demoted,
        Self::CannotSave,
        Self::Busy,
        Self::Stalled,
        Self::Loading,
        Self::CutsConnections,
    ];
}

impl fmt::Display for Mood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How long a server takes to load its dump.
const LOAD_TIME: Duration = Duration::from_millis(2500);
/// Keys that are no farm's, in a server that is to load for a while.
const FILLERS: u32 = 64;
/// Between two cuts of all connections.
const CUT: Duration = Duration::from_millis(200);

impl RedisServer {
    /// Falls into this mood, and is in it when this returns.
    pub async fn falls_into(&mut self, mood: Mood) {
        match mood {
            Mood::TooFewReplicas => {
                self.must("CONFIG SET min-replicas-to-write 1").await;
                self.refuses("NOREPLICAS").await;
            }
            Mood::OutOfMemory => {
                self.must("CONFIG SET maxmemory 1").await;
                self.refuses("OOM").await;
            }
            Mood::Demoted => {
                // Of a master that is not there; port 1 is nobody's.
                self.must("REPLICAOF 127.0.0.1 1").await;
                self.refuses("READONLY").await;
            }
            Mood::CannotSave => {
                let dump = self.dump();
                std::fs::remove_file(&dump).ok();
                // A directory of that name cannot be replaced by a file.
                std::fs::create_dir(&dump).expect("a directory can be made");
                self.must("CONFIG SET stop-writes-on-bgsave-error yes").await;
                self.must("CONFIG SET save \"3600 1\"").await;
                self.must("BGSAVE").await;
                self.refuses("MISCONF").await;
            }
            Mood::Busy => {
                self.must("CONFIG SET busy-reply-threshold 50").await;
                let mut stream = TcpStream::connect(self.addr()).await.expect("it listens");
                stream.write_all(b"EVAL \"while true do end\" 0\r\n").await.expect("it reads");
                self.refuses("BUSY").await;
            }
            Mood::Stalled => self.signal(Signal::STOP),
            Mood::Loading => self.loads_for(LOAD_TIME).await,
            Mood::CutsConnections => self.cut().await,
        }
    }

    /// Reads its dump again and takes about so long for it; has begun when this returns.
    pub async fn loads_for(&mut self, time: Duration) {
        // It answers nobody while it reads the first kilobyte, and a farm that was just wiped has less.
        self.must(&format!("EVAL \"for i = 1, {FILLERS} do redis.call('SET', 'filler-' .. i, string.rep(i, 50)) end return 1\" 0")).await;
        let size = self.says("DBSIZE").await.unwrap_or_default();
        let keys: u64 = size.trim_start_matches(':').trim().parse().expect("a number of keys");
        let delay = time.as_micros() / u128::from(keys.max(1));
        assert!(self.save().await, "it saves");
        self.begin(&[
            "--key-load-delay",
            &delay.to_string(),
            "--loading-process-events-interval-bytes",
            "1024",
        ]);
        self.refuses("LOADING").await;
    }

    /// Stays in its mood for so long.
    pub async fn stays_in(&self, mood: Mood, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            if mood == Mood::CutsConnections {
                self.cut().await;
            }
            tokio::time::sleep(CUT.min(until - tokio::time::Instant::now())).await;
        }
    }

    /// Gets over its mood, and takes writes again when this returns.
    pub async fn gets_over(&mut self, mood: Mood) {
        match mood {
            Mood::TooFewReplicas => self.must("CONFIG SET min-replicas-to-write 0").await,
            Mood::OutOfMemory => self.must("CONFIG SET maxmemory 0").await,
            Mood::Demoted => self.must("REPLICAOF NO ONE").await,
            Mood::CannotSave => {
                std::fs::remove_dir(self.dump()).expect("it is empty");
                self.must("CONFIG SET stop-writes-on-bgsave-error no").await;
                self.must("CONFIG SET save \"\"").await;
            }
            Mood::Busy => self.must("SCRIPT KILL").await,
            Mood::Stalled => self.signal(Signal::CONT),
            Mood::Loading | Mood::CutsConnections => {}
        }
        until("Redis takes writes", TIMEOUT * 2, async || {
            let said = self.says("SET a-test-was-here 1").await.unwrap_or_default();
            Look::when(said.starts_with("+OK"), || said)
        })
        .await;
        self.must("DEL a-test-was-here").await;
        if mood == Mood::Loading {
            self.must(&format!(
                "EVAL \"for i = 1, {FILLERS} do redis.call('DEL', 'filler-' .. i) end return 1\" 0"
            ))
            .await;
        }
    }

    async fn cut(&self) {
        self.must("CLIENT KILL TYPE normal SKIPME yes").await;
    }

    async fn must(&self, words: &str) {
        let said = self.says(words).await.unwrap_or_default();
        assert!(said.starts_with(['+', ':', '$']), "{words}: {said}");
    }

    async fn refuses(&self, word: &str) {
        until("Redis is in its mood", TIMEOUT, async || {
            let said = self.says("SET a-test-was-here 1").await.unwrap_or_default();
            Look::when(said.starts_with(&format!("-{word}")), || said)
        })
        .await;
    }
}
