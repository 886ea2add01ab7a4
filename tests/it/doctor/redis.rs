//! Registries that a farm cannot live with.

use std::fs;

use hatchery_tests::program::Program;
use hatchery_tests::{Farm, RedisServer};

use super::{SECRET, doctor, of_farm};

/// What it is, what makes the server so, the flags after `--registry`, and the finding.
type Case<'a> = (&'a str, &'a str, Vec<String>, (&'a str, &'a str, &'a str));

#[tokio::test]
async fn what_a_farm_cannot_live_with_in_its_redis_is_named() {
    let farm = Farm::small(1).await;
    // The farm's own stays as it is.
    let redis = RedisServer::start(farm.mark()).await;
    let at = redis.addr();
    let plain = redis.url();
    let password = farm.mark().join("password");
    fs::write(&password, format!("{SECRET}-wrong\n")).unwrap();
    let file = password.to_str().unwrap();
    let nowhere = farm.mark().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let with = |user: &str| format!("redis://{user}@{at}");
    let cases: Vec<Case<'_>> = vec![
        (
            "nothing listens",
            "",
            vec!["redis://127.0.0.1:1".to_owned()],
            ("registry-reachable", "problem", "refused"),
        ),
        (
            "no URL",
            "",
            vec![format!("redis://user:{SECRET}@{at}:port")],
            ("registry", "problem", "--registry"),
        ),
        (
            "no file",
            "",
            vec![plain.clone(), "--registry-password-file".into(), nowhere.into()],
            ("registry", "problem", "password-file"),
        ),
        (
            "no cluster",
            "",
            vec![format!("redis-cluster://{at}")],
            ("registry-form", "problem", "cluster support disabled"),
        ),
        (
            "no Sentinel",
            "",
            vec![format!("redis-sentinel://{at}/farm")],
            ("registry-form", "problem", "unknown command"),
        ),
        ("no TLS", "", vec![format!("rediss://{at}")], ("registry-reachable", "problem", "timed out")),
        (
            "a user of another farm",
            "ACL SETUSER other on >hush-other ~{hatchery:other}:* +@all",
            vec![with("other:hush-other"), "--farm".into(), "test".into()],
            ("registry-acl", "problem", "NOPERM"),
        ),
        (
            "a user that sees no settings",
            "ACL SETUSER blind on >hush-blind ~* +@all -info -config",
            vec![with("blind:hush-blind")],
            ("registry-info", "warning", "NOPERM"),
        ),
        (
            "a policy",
            "CONFIG SET maxmemory 1gb maxmemory-policy allkeys-lru",
            vec![plain.clone()],
            ("registry-eviction", "problem", "allkeys-lru"),
        ),
        (
            "little memory",
            "CONFIG SET maxmemory 900kb maxmemory-policy noeviction",
            vec![plain.clone()],
            ("registry-memory", "problem", "% of maxmemory"),
        ),
        (
            "replicas that are gone",
            "CONFIG SET maxmemory 0 min-replicas-to-write 1",
            vec![plain.clone()],
            ("registry-replicas", "problem", "0 replicas in step"),
        ),
        (
            "a replica",
            "CONFIG SET min-replicas-to-write 0\r\nREPLICAOF 127.0.0.1 1",
            vec![plain.clone()],
            ("registry-form", "problem", "is a replica"),
        ),
        (
            "a password that is missing",
            "REPLICAOF NO ONE\r\nCONFIG SET requirepass hush",
            vec![plain.clone()],
            ("registry-password", "problem", "NOAUTH"),
        ),
        ("a wrong password", "", vec![with(":hush-wrong")], ("registry-password", "problem", "WRONGPASS")),
        (
            "a wrong file",
            "",
            vec![plain.clone(), "--registry-password-file".into(), file.into()],
            ("registry-password", "problem", "WRONGPASS"),
        ),
    ];
    for (case, words, args, expected) in cases {
        if !words.is_empty() {
            let said = redis.says(words).await.unwrap();
            assert!(!said.contains("-ERR"), "{case}: {said}");
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        of_farm(&farm, &[&["--registry"], &args[..]].concat()).await.expect(case, expected);
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_sentinel_is_no_server_and_knows_masters_by_their_names() {
    let farm = Farm::builder().agent(hatchery_tests::AgentPlan::slots(1)).sentinels().start().await;
    let url = farm.sentinels.as_ref().unwrap().url();
    let hosts = url.strip_prefix("redis-sentinel://").unwrap().strip_suffix("/farm").unwrap();
    let one = hosts.split(',').next().unwrap();
    for (case, url, expected) in [
        ("a Sentinel as a server", format!("redis://{one}"), ("registry-form", "problem", "Sentinel")),
        (
            "another name",
            format!("redis-sentinel://{hosts}/absent"),
            ("registry-form", "problem", "no master of that name"),
        ),
        ("one Sentinel", format!("redis-sentinel://{one}/farm"), ("registry-form", "warning", "1 Sentinel")),
        (
            "a master that may be cut off",
            url.clone(),
            ("registry-replicas", "warning", "min-replicas-to-write is 0"),
        ),
        ("three of them", url.clone(), ("registry-form", "ok", "3 Sentinels")),
    ] {
        of_farm(&farm, &["--registry", &url]).await.expect(case, expected);
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_redis_with_another_time_is_distinguished_from_one_with_this() {
    let mark = tempfile::tempdir().unwrap();
    let redis = RedisServer::with_a_clock_of_its_own(mark.path()).await;
    let url = redis.url();
    for (step, level, words) in [(0, "ok", "agree"), (100, "problem", "ahead of"), (-15, "warning", "behind")]
    {
        redis.step_clock(step);
        let said = doctor(
            &Program::default(),
            mark.path(),
            &[],
            &["--registry", &url, "--server", "http://127.0.0.1:1"],
        )
        .await;
        said.expect("a clock", ("registry-clock", level, words));
    }
}
