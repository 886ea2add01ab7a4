//! What the users of the sample for Redis cannot do. That they can do all that they must is shown by every other test: farms with a
//! Redis of their own connect front doors and agents as these users.

use redis::aio::MultiplexedConnection;
use redis::{Client, RedisResult, Value, cmd};
use registry::{Claim, IdempotencyKey};
use uuid::Uuid;

use crate::support::*;

async fn connection(farm: &Farm, user: &str) -> MultiplexedConnection {
    let client = Client::open(farm.server().url_as(user)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

fn is_kept_out(answer: &RedisResult<Value>) -> bool {
    answer.as_ref().is_err_and(|error| {
        let said = format!("{error:?}");
        said.contains("NoPerm")
            || said.contains("NOPERM")
            || said.contains("can't access at least one of the keys")
    })
}

#[tokio::test]
async fn an_agents_user_cannot_read_or_write_what_is_the_front_doors_alone() {
    let farm = Farm::redis().await;
    let key: IdempotencyKey = "a-key".parse().unwrap();
    let claimant = Uuid::new_v4();
    let claimed = farm.registry.claim(&key, Uuid::new_v4(), claimant).await.unwrap();
    assert_eq!(claimed, Claim::Mine);
    let settled = farm.registry.settle(&key, claimant, Some(("an answer", TIMING.idempotency))).await;
    assert!(settled.unwrap());
    let mut agent = connection(&farm, "agent").await;
    let prefix = "{hatchery:test}:";
    for key in [
        "idem:a-key",
        "line",
        "lineno",
        "avoids",
        "permit:key:x",
        "wait:kind:csr",
        "queues:ticket",
        "waiter:ticket",
        "cause",
        "alike",
        "mended",
        "check",
        "audit",
        "audit:spawns",
        "keeps",
    ] {
        let key = format!("{prefix}{key}");
        for words in [
            vec!["HGETALL"],
            vec!["GET"],
            vec!["DEL"],
            vec!["EXISTS"],
            vec!["PEXPIRE", "1"],
            vec!["SET", "x"],
            vec!["HSET", "answer", "x"],
            vec!["ZADD", "1", "x"],
        ] {
            let (name, rest) = words.split_first().unwrap();
            let answer = cmd(name).arg(&key).arg(rest).query_async(&mut agent).await;
            assert!(is_kept_out(&answer), "{name} {key}: {answer:?}");
        }
        // A script has no other rights than who runs it, whether it says what it touches or not.
        for script in ["return redis.call('HGETALL', ARGV[1])", "return redis.call('DEL', ARGV[1])"] {
            let sha: String = cmd("SCRIPT").arg("LOAD").arg(script).query_async(&mut agent).await.unwrap();
            let answer = cmd("EVALSHA").arg(sha).arg(0).arg(&key).query_async(&mut agent).await;
            assert!(is_kept_out(&answer), "{script} {key}: {answer:?}");
        }
    }
    // It may see whether callers wait.
    let places = format!("{prefix}places");
    let () = cmd("ZCARD").arg(&places).query_async::<u64>(&mut agent).await.map(|_| ()).unwrap();
    for words in [vec!["ZADD", "1", "x"], vec!["ZREM", "x"], vec!["DEL"]] {
        let (name, rest) = words.split_first().unwrap();
        let answer = cmd(name).arg(&places).arg(rest).query_async(&mut agent).await;
        assert!(is_kept_out(&answer), "{name}: {answer:?}");
    }
    let kept = farm.registry.claim(&key, Uuid::new_v4(), Uuid::new_v4()).await.unwrap();
    assert_eq!(kept, Claim::Conflict, "it is as it was");
}

#[tokio::test]
async fn neither_user_can_touch_another_farm_or_the_server_itself() {
    let farm = Farm::redis().await;
    let mut owner = farm.server().connection().await;
    let () = cmd("SET").arg("{hatchery:other}:idem:x").arg("theirs").query_async(&mut owner).await.unwrap();
    for user in ["frontdoor", "agent"] {
        let mut connection = connection(&farm, user).await;
        for words in [
            "GET {hatchery:other}:idem:x",
            "DEL {hatchery:other}:idem:x",
            "SET elsewhere x",
            "KEYS *",
            "SCAN 0",
            "FLUSHALL",
            "FLUSHDB",
            "CONFIG GET requirepass",
            "CONFIG SET requirepass x",
            "ACL LIST",
            "ACL SETUSER agent allkeys",
            "SHUTDOWN",
            "SAVE",
            "REPLICAOF 127.0.0.1 1",
            "SCRIPT FLUSH",
            "CLIENT LIST",
            "MONITOR",
            "FUNCTION LIST",
            "PUBLISH channel x",
            "SUBSCRIBE channel",
            "MIGRATE 127.0.0.1 1 x 0 1",
        ] {
            let mut words = words.split(' ');
            let name = words.next().unwrap();
            let answer = cmd(name).arg(words.collect::<Vec<_>>()).query_async(&mut connection).await;
            assert!(is_kept_out(&answer), "{user}: {name}: {answer:?}");
        }
    }
    let theirs: String = cmd("GET").arg("{hatchery:other}:idem:x").query_async(&mut owner).await.unwrap();
    assert_eq!(theirs, "theirs");
}
