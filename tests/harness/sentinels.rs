//! What watches over a farm's Redis: a replica, and three Sentinels that put it in the master's place.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::redis::RedisServer;
use crate::wait::{Look, TIMEOUT, until};

/// What the Sentinels call the master.
const NAME: &str = "farm";
/// How soon they act, in milliseconds: when a master counts as down (late enough for something to happen meanwhile), and how long a
/// failover may take.
const SETTINGS: [(&str, &str); 2] = [("down-after-milliseconds", "1500"), ("failover-timeout", "2000")];

/// A replica with those who watch.
#[derive(Debug)]
pub struct Sentinels {
    /// What will be the master.
    pub replica: RedisServer,
    all: Vec<RedisServer>,
}

impl Sentinels {
    /// Starts them, and waits until they know each other and the replica is in step.
    pub async fn over(master: &RedisServer, mark: &Path) -> Self {
        let replica = RedisServer::start(mark).await;
        let port = master.addr().port();
        replica.says(&format!("REPLICAOF 127.0.0.1 {port}")).await;
        until("the replica is in step", TIMEOUT, async || {
            let said = replica.says("INFO replication").await.unwrap_or_default();
            Look::when(said.contains("master_link_status:up"), || said)
        })
        .await;
        let mut all = Vec::new();
        for index in 0..3 {
            let mut settings = format!("sentinel monitor {NAME} 127.0.0.1 {port} 2\n");
            for (setting, value) in SETTINGS {
                writeln!(settings, "sentinel {setting} {NAME} {value}").expect("memory takes it");
            }
            let file = mark.join(format!("sentinel-{index}.conf"));
            fs::write(&file, settings).expect("a file can be written");
            all.push(RedisServer::sentinel(mark, &file).await);
        }
        let sentinels = Self { replica, all };
        for sentinel in &sentinels.all {
            until("a Sentinel knows the others", TIMEOUT, async || {
                let said = sentinel.says("INFO sentinel").await.unwrap_or_default();
                Look::when(said.contains("slaves=1,sentinels=3"), || said)
            })
            .await;
        }
        sentinels
    }

    /// What `--registry` wants.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.all.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        format!("redis-sentinel://{}/{NAME}", hosts.join(","))
    }

    /// Has them put the replica in the master's place, which is there and loses nothing.
    pub async fn order_failover(&self) -> Option<String> {
        self.all[0].says(&format!("SENTINEL FAILOVER {NAME}")).await
    }

    /// Whether any of them names the replica as the master, and it is one.
    pub async fn have_promoted(&self) -> bool {
        let role = self.replica.says("ROLE").await.unwrap_or_default();
        let port = self.replica.addr().port().to_string();
        for sentinel in &self.all {
            let named = sentinel.says(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}")).await;
            if role.contains("master") && named.is_some_and(|named| named.contains(&port)) {
                return true;
            }
        }
        false
    }
}
