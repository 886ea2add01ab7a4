//! Farms whose keys hold thousands of entries, wrong or dead ones among them: each call looks at a bounded number, and the next one further.

use model::SpawnId;
use registry::{Registry, Reserved};

use crate::bounded::timing;
use crate::servers::RedisServer;
use crate::support::*;

async fn fill(redis: &RedisServer, script: &str) {
    let client = redis::Client::open(redis.url()).unwrap();
    // It fills in a lot, on a machine that may be busy.
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let () = redis::Script::new(script).invoke_async(&mut connection).await.unwrap();
}

async fn crowded() -> (RedisServer, Farm) {
    let redis = RedisServer::start().await;
    let farm = Farm::on_with(&redis.url(), "busy", timing());
    Agent::new("good", 8).beat(&farm).await;
    (redis, farm)
}

/// A slot after so many calls at the most.
async fn slot_within(registry: &Registry, calls: usize) -> String {
    for _ in 0..calls {
        if let Reserved::Slot(slot) = registry.reserve(&csr()).await.unwrap() {
            return slot.node.to_string();
        }
    }
    panic!("no slot within {calls} calls")
}

#[tokio::test]
async fn a_node_is_found_behind_any_number_of_wrong_entries() {
    let (redis, farm) = crowded().await;
    fill(
        &redis,
        "local p = '{hatchery:busy}'
         local open = redis.call('KEYS', p .. ':open:*csr')[1]
         for n = 1, 1000 do redis.call('ZADD', open, -1, 'ghost' .. n) end",
    )
    .await;
    assert_eq!(slot_within(&farm.registry, 1000 / 32 + 2).await, "good");
    assert_eq!(slot_within(&farm.registry, 1).await, "good");
}

#[tokio::test]
async fn of_many_nodes_that_fall_silent_at_once_a_reserve_calls_a_few_stale() {
    let (redis, farm) = crowded().await;
    fill(
        &redis,
        "local p, call = '{hatchery:busy}', redis.call
         local good = call('HGETALL', p .. ':node:good')
         local tail = call('HGET', p .. ':node:good', 'kind') .. ':csr'
         local now = call('TIME')[1] * 1000
         call('HSET', p .. ':judge', 'at', now, 'grace', 1)
         for n = 1, 1000 do
           local silent = 'silent' .. n
           call('HSET', p .. ':node:' .. silent, unpack(good))
           call('ZADD', p .. ':up', now - 400000, silent)
           call('ZADD', p .. ':open:' .. tail, -1, silent)
           for _, set in ipairs({ ':names', ':known:' .. tail, ':members:' .. tail }) do call('SADD', p .. set, silent) end
         end",
    )
    .await;
    // Those that it has found when it has looked twice, and as many as it calls stale beside them.
    const MOST: u64 = 2 * 32 + 32;
    let mut before = 0;
    while before < 1000 {
        let found = farm.reserve(&csr()).await;
        let stale: u64 = redis.query("ZCARD {hatchery:busy}:stale").await.unwrap();
        assert!((before + 1..=before + MOST).contains(&stale), "{stale} after {before}, {found:?}");
        before = stale;
    }
    assert_eq!(slot_within(&farm.registry, 2).await, "good");
}

#[tokio::test]
async fn a_lost_index_of_heartbeats_holds_up_no_placement() {
    let (redis, farm) = crowded().await;
    redis.run("DEL {hatchery:busy}:up").await;
    assert_eq!(slot_within(&farm.registry, 1).await, "good");
}

#[tokio::test]
async fn dead_places_in_any_number_hold_up_newcomers_for_a_few_calls_only() {
    let (redis, farm) = crowded().await;
    // Such as a registry has that went back to an older state: one place is there still, the others were not kept.
    fill(
        &redis,
        "local p = '{hatchery:busy}'
         local open = redis.call('KEYS', p .. ':open:*csr')[1]
         local wait = string.gsub(open, ':open:', ':wait:')
         for n = 1, 1000 do redis.call('ZADD', wait, n, 'gone' .. n) end
         redis.call('ZADD', p .. ':places', 9999999999999, 'other')",
    )
    .await;
    farm.registry.sweep().await.unwrap();
    assert_eq!(slot_within(&farm.registry, 1000 / 32 + 2).await, "good");
}

#[tokio::test]
async fn a_reservation_is_found_among_many_without_reading_them_all() {
    let (redis, farm) = crowded().await;
    for chunk in 0..100 {
        let script = format!(
            "for n = 1, 2000 do
               local id = string.format('%018d%018d', {chunk}, n)
               redis.call('ZADD', '{{hatchery:busy}}:expiries', n, id .. 'good')
             end"
        );
        fill(&redis, &script).await;
    }
    let slot = farm.take(&csr()).await;
    farm.registry.release_by_id(slot.spawn).await.unwrap();
    assert_eq!(farm.used("good").await.0, 0);
    redis.run("CONFIG SET slowlog-log-slower-than 20000").await;
    redis.run("SLOWLOG RESET").await;
    farm.registry.release_by_id(SpawnId::mint()).await.unwrap();
    let slow: u64 = redis.query("SLOWLOG LEN").await.unwrap();
    assert_eq!(slow, 0, "not one of the server's steps took 20 ms");
}
