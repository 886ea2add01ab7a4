//! Servers as a farm meets them, and what is said of each.

use super::*;

fn facts(form: Form, info: &str, settings: &[(&str, &str)]) -> Facts {
    Facts {
        at: "h:1".to_owned(),
        form,
        open: None,
        info: Ok(crate::redis::examine::pairs(info)),
        settings: Some(
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ),
        ahead: Some(0),
        rights: Some(Ok(())),
        cluster: None,
    }
}

#[test]
fn a_server_as_a_farm_needs_it_is_all_right() {
    let info = "redis_version:7.2.4\r\nredis_mode:standalone\r\nrole:master\r\nused_memory:1000000\r\nmaxmemory:512000000\r\n\
                maxmemory_policy:noeviction\r\nrdb_last_bgsave_status:ok\r\naof_enabled:0\r\nconnected_slaves:0\r\n";
    let findings = judge(&facts(Form::Single, info, &[("save", ""), ("min-replicas-to-write", "0")]));
    assert!(findings.len() > 6 && findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
}

#[test]
fn what_a_farm_cannot_live_with_is_named() {
    use Form::{Cluster, Sentinels, Single};
    for (form, info, settings, check, level) in [
        (Single, "redis_version:6.2.14", &[][..], "registry-version", Level::Problem),
        (Single, "redis_version:8.0.0", &[], "registry-version", Level::Ok),
        (Single, "redis_version:7.2.4\nvalkey_version:8.1.0", &[], "registry-version", Level::Ok),
        (Single, "redis_mode:sentinel", &[], "registry-form", Level::Problem),
        (Single, "redis_mode:cluster", &[], "registry-form", Level::Problem),
        (Cluster, "redis_mode:cluster", &[], "registry-form", Level::Ok),
        (Single, "role:slave", &[], "registry-form", Level::Problem),
        (Sentinels(1), "role:master", &[], "registry-form", Level::Warning),
        (Sentinels(3), "role:master", &[], "registry-replicas", Level::Warning),
        (
            Single,
            "maxmemory:10\nmaxmemory_policy:allkeys-lru\nevicted_keys:3",
            &[],
            "registry-eviction",
            Level::Problem,
        ),
        (Single, "maxmemory:0\nmaxmemory_policy:allkeys-lru", &[], "registry-eviction", Level::Ok),
        (Single, "used_memory:96\nmaxmemory:100", &[], "registry-memory", Level::Problem),
        (Single, "used_memory:81\nmaxmemory:100", &[], "registry-memory", Level::Warning),
        (Single, "used_memory:79\nmaxmemory:100", &[], "registry-memory", Level::Ok),
        (
            Single,
            "used_memory:99\nmaxmemory:0\ntotal_system_memory:100",
            &[],
            "registry-memory",
            Level::Problem,
        ),
        (
            Single,
            "rdb_last_bgsave_status:err",
            &[("save", "3600 1"), ("stop-writes-on-bgsave-error", "yes")],
            "registry-persistence",
            Level::Problem,
        ),
        (
            Single,
            "rdb_last_bgsave_status:err",
            &[("save", "3600 1"), ("stop-writes-on-bgsave-error", "no")],
            "registry-persistence",
            Level::Warning,
        ),
        (
            Single,
            "rdb_last_bgsave_status:err",
            &[("save", ""), ("stop-writes-on-bgsave-error", "yes")],
            "registry-persistence",
            Level::Warning,
        ),
        (Single, "aof_last_write_status:err", &[], "registry-persistence", Level::Problem),
        (
            Single,
            "connected_slaves:0",
            &[("min-replicas-to-write", "1")],
            "registry-replicas",
            Level::Problem,
        ),
        (
            Single,
            "connected_slaves:2\nmin_slaves_good_slaves:0",
            &[("min-replicas-to-write", "1")],
            "registry-replicas",
            Level::Problem,
        ),
        (
            Single,
            "connected_slaves:1",
            &[("min-replicas-to-write", "0")],
            "registry-replicas",
            Level::Warning,
        ),
        (Single, "loading:1", &[], "registry-reachable", Level::Problem),
    ] {
        let findings = judge(&facts(form, info, settings));
        let found = findings.iter().find(|finding| finding.check == check);
        assert_eq!(found.map(|finding| finding.level), Some(level), "{info}: {findings:?}");
    }
    let mut broken = facts(Cluster, "redis_mode:cluster", &[]);
    broken.cluster = Some(crate::redis::examine::pairs("cluster_state:fail"));
    assert!(
        judge(&broken)
            .iter()
            .any(|finding| finding.check == "registry-form" && finding.level == Level::Problem)
    );
    let blind = Facts { info: Err("NOPERM".to_owned()), ..facts(Single, "", &[]) };
    assert!(judge(&blind).iter().any(|finding| finding.check == "registry-info"));
}

#[test]
fn why_a_server_is_not_reached_decides_what_to_do() {
    use OutageKind::{Certificate, ConnectionRefused, Other, Refused};
    for (kind, why, form, check) in [
        (Refused("WRONGPASS"), "WRONGPASS invalid username-password pair", Form::Single, "registry-password"),
        (Refused("NOAUTH"), "NOAUTH Authentication required.", Form::Single, "registry-password"),
        (Other, "ERR This instance has cluster support disabled", Form::Cluster, "registry-form"),
        (Other, "ERR unknown command 'SENTINEL'", Form::Sentinels(1), "registry-form"),
        (Other, "it knows no master of that name", Form::Sentinels(1), "registry-form"),
        (Certificate, "invalid peer certificate: UnknownIssuer", Form::Single, "registry-tls"),
        (Other, "received corrupt message of type InvalidContentType", Form::Single, "registry-tls"),
        (ConnectionRefused, "Connection refused (os error 111)", Form::Single, "registry-reachable"),
    ] {
        let outage = Outage::new(kind, format!("h:1: {why}"));
        assert_eq!(not_reached(&outage, form).check, check, "{why}");
    }
}

#[test]
fn a_snapshot_that_failed_is_no_certain_refusal_where_the_settings_are_hidden() {
    let hidden = Facts { settings: None, ..facts(Form::Single, "rdb_last_bgsave_status:err", &[]) };
    let findings = judge(&hidden);
    let found = findings.iter().find(|finding| finding.check == "registry-persistence").unwrap();
    assert_eq!(found.level, Level::Warning);
    assert!(found.why.as_deref().unwrap().contains("may not see its settings"), "{found:?}");
}

#[test]
fn nothing_good_is_said_of_what_is_not_known() {
    let silent = Facts { settings: None, rights: None, ahead: None, ..facts(Form::Single, "x:y", &[]) };
    let checks: Vec<&str> = judge(&silent).iter().map(|finding| finding.check).collect();
    assert_eq!(checks, ["registry-reachable"]);
}

#[test]
fn an_open_registry_keeps_a_role_with_tls_from_starting() {
    assert_eq!(unprotected("10.0.0.5", "without TLS", true).level, Level::Problem);
    assert_eq!(unprotected("10.0.0.5", "without TLS", false).level, Level::Warning);
}
