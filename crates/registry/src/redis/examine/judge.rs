//! What a server's answers mean for a farm: plain functions of what was read.

use std::collections::HashMap;

use model::finding::clock;
use model::{Finding, Level};

use super::super::settings::eviction;
use crate::outage::{Outage, OutageKind};

/// The oldest release that runs the farm's scripts.
const MIN_MAJOR: u32 = 7;
/// Shares of the memory limit, in percent, from which on it is said.
const MEMORY_NEAR: u64 = 80;
const MEMORY_FULL: u64 = 95;

/// How `--registry` leads to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Single,
    /// So many of them are named.
    Sentinels(usize),
    Cluster,
}

/// What is known of a server that answers.
pub(super) struct Facts {
    /// Its host and port.
    pub(super) at: String,
    pub(super) form: Form,
    /// That it is protected too little, where it is on another machine.
    pub(super) open: Option<Finding>,
    /// `INFO`, or why it was refused.
    pub(super) info: Result<HashMap<String, String>, String>,
    /// Settings; `None` when this user may not see them.
    pub(super) settings: Option<HashMap<String, String>>,
    /// How far its clock is ahead of this machine's, in milliseconds.
    pub(super) ahead: Option<i64>,
    /// Whether the user may use the farm's keys, where that is known.
    pub(super) rights: Option<Result<(), String>>,
    /// `CLUSTER INFO`, of a cluster.
    pub(super) cluster: Option<HashMap<String, String>>,
}

impl Facts {
    fn text(&self, name: &str) -> Option<&str> {
        self.info.as_ref().ok()?.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name).map(String::as_str)
    }
}

/// The registry of one process alone.
pub(super) fn embedded() -> Finding {
    Finding::warning(
        "registry",
        "--registry is embedded",
        "an embedded registry is that of one process: no other process of the farm sees it",
        "name a Redis with --registry, but for `hatchery dev`",
    )
}

/// The setting itself will not do.
pub(super) fn unusable(why: &str) -> Finding {
    Finding::problem(
        "registry",
        why,
        "no role starts with it",
        "give --registry as `hatchery agent --help` shows it",
    )
}

/// No server was found.
pub(super) fn not_reached(outage: &Outage, form: Form) -> Finding {
    const AWAY: &str = "without the registry nothing is listed, ordered or waited for, and spawns go by each front door's last snapshot";
    let lower = outage.to_string().to_ascii_lowercase();
    let found = format!("Redis does not serve this machine: {outage}");
    if let Some(code) = outage.kind().refused_credential() {
        let advice = if code == "WRONGPASS" {
            "give the password that Redis has (--registry-password-file), and the user in the URL: rediss://USER@HOST"
        } else {
            "Redis wants a password: --registry-password-file, with the user in the URL if it is not `default`"
        };
        return Finding::problem("registry-password", found, AWAY, advice);
    }
    if lower.contains("cluster support disabled") || lower.contains("unknown command") {
        let advice = match form {
            Form::Cluster => "it is no cluster: use redis:// or rediss://",
            Form::Sentinels(_) | Form::Single => {
                "it is no Sentinel: use redis:// for a server, redis-cluster:// for a cluster"
            }
        };
        return Finding::problem("registry-form", found, AWAY, advice);
    }
    if lower.contains("no master of that name") {
        let advice =
            "name the master as `sentinel monitor NAME …` does, after the slash of redis-sentinel://…/NAME";
        return Finding::problem("registry-form", found, AWAY, advice);
    }
    let is_tls = ["tls", "handshake", "corrupt message"].iter().any(|word| lower.contains(word));
    if is_tls || outage.kind() == OutageKind::Certificate {
        let advice = "check the certificate of Redis (name, expiry) and its CA (?ca=FILE), and that its port speaks TLS";
        return Finding::problem("registry-tls", found, AWAY, advice);
    }
    let advice = "check host and port, that Redis runs and binds that address, and firewalls between here and there; a port that speaks \
                  TLS needs rediss://, one that does not redis://";
    Finding::problem("registry-reachable", found, AWAY, advice)
}

/// Everything that is to be said of a server that answers.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![reached(facts)];
    findings.extend(facts.open.clone());
    findings.extend(facts.rights.as_ref().map(rights));
    findings.extend(facts.ahead.map(|ahead| clock("registry-clock", "Redis", ahead)));
    if let Err(why) = &facts.info {
        findings.push(Finding::warning(
            "registry-info",
            format!("this user may not ask for INFO: {why}"),
            "memory, version and replication of Redis cannot be looked at, nor can the roles warn of them",
            "allow `+info` (deploy/redis/users.acl has the users of a farm)",
        ));
        return findings;
    }
    let found =
        [version(facts), form(facts), evicts(facts), memory(facts), persistence(facts), replicas(facts)];
    findings.extend(found.into_iter().flatten());
    findings
}

fn reached(facts: &Facts) -> Finding {
    if facts.text("loading") == Some("1") {
        let found = format!("Redis at {} is still loading its data", facts.at);
        return Finding::problem(
            "registry-reachable",
            found,
            "until then it serves nothing",
            "wait for it; `INFO persistence` shows how far it is",
        );
    }
    let by = match facts.form {
        Form::Single => String::new(),
        Form::Sentinels(count) => format!(", named by Sentinels ({count} in --registry)"),
        Form::Cluster => ", named by the cluster for the farm's slot".to_owned(),
    };
    Finding::ok("registry-reachable", format!("Redis at {} answers{by}", facts.at))
}

/// An open registry on another machine. A role that is `guarded` by TLS does not start with it.
pub(super) fn unprotected(host: &str, lacks: &str, guarded: bool) -> Finding {
    let (level, why) = if guarded {
        (
            Level::Problem,
            "the agent has TLS and does not start with it: a process that reaches Redis, or the network to it, owns the farm",
        )
    } else {
        (
            Level::Warning,
            "a process that reaches Redis, or the network to it, owns the farm; roles with TLS and keys refuse to start with it",
        )
    };
    Finding::bad(
        "registry-protection",
        level,
        format!("Redis is on another machine ({host}) {lacks}"),
        why,
        "use rediss:// and --registry-password-file (deploy/redis has samples)",
    )
}

fn rights(rights: &Result<(), String>) -> Finding {
    match rights {
        Ok(()) => Finding::ok("registry-acl", "the user may read the farm's keys and run its scripts"),
        Err(why) => Finding::problem(
            "registry-acl",
            format!("the user of --registry may not use the farm's keys: {why}"),
            "every call to the registry is refused",
            "give the user the rights of deploy/redis/users.acl, with the name of this farm (--farm) in its keys",
        ),
    }
}

fn version(facts: &Facts) -> Option<Finding> {
    // Valkey says which Redis it is compatible with, and its own version beside it.
    let redis = facts.text("redis_version")?;
    let named = match facts.text("valkey_version") {
        Some(valkey) => format!("Valkey {valkey}"),
        None => format!("Redis {redis}"),
    };
    let major = redis.split('.').next().and_then(|major| major.parse::<u32>().ok())?;
    if major >= MIN_MAJOR {
        return Some(Finding::ok("registry-version", named));
    }
    Some(Finding::problem(
        "registry-version",
        format!("{named} is older than {MIN_MAJOR}"),
        "the farm's scripts use what older releases do not have",
        "install Redis 7 or later, or Valkey",
    ))
}

fn form(facts: &Facts) -> Option<Finding> {
    let problem =
        |found: &str, why: &str, advice: &str| Some(Finding::problem("registry-form", found, why, advice));
    let mode = facts.text("redis_mode").unwrap_or("standalone");
    if mode == "sentinel" {
        return problem(
            "--registry leads to a Sentinel as if it were the server",
            "a Sentinel keeps no data",
            "use redis-sentinel://HOST:PORT,…/MASTER",
        );
    }
    if mode == "cluster" && facts.form == Form::Single {
        return problem(
            "--registry names one node of a cluster as if it were alone",
            "it may not have the farm's slot, or lose it",
            "use redis-cluster:// or rediss-cluster://",
        );
    }
    if facts.text("role") == Some("slave") {
        return problem(
            "the server is a replica",
            "a replica refuses every write",
            "name the master, or the Sentinels (redis-sentinel://…/MASTER), which know where it is",
        );
    }
    let state = facts.cluster.as_ref().and_then(|cluster| cluster.get("cluster_state"));
    if state.is_some_and(|state| state != "ok") {
        return problem(
            "the cluster is not whole (cluster_state is not ok)",
            "it refuses calls until every slot is served",
            "see `redis-cli cluster info` and `cluster nodes`",
        );
    }
    Some(match facts.form {
        Form::Sentinels(count @ 0..3) => Finding::warning(
            "registry-form",
            format!("--registry names {count} {}", if count == 1 { "Sentinel" } else { "Sentinels" }),
            "when those are away, a new process finds no master",
            "name at least three, on machines of their own",
        ),
        Form::Sentinels(count) => Finding::ok("registry-form", format!("{count} Sentinels and a master")),
        Form::Cluster if state.is_none() => Finding::ok(
            "registry-form",
            "a cluster; whether every slot is served is not shown to this user (CLUSTER INFO)",
        ),
        Form::Cluster => Finding::ok("registry-form", "a cluster, all of it served"),
        Form::Single => {
            facts.text("role")?;
            Finding::ok("registry-form", "one server, which takes writes")
        }
    })
}

fn evicts(facts: &Facts) -> Option<Finding> {
    let (limit, policy) = (facts.number("maxmemory")?, facts.text("maxmemory_policy"));
    if let Some(found) = eviction(limit, policy) {
        let evicted = facts.number("evicted_keys").filter(|count| *count > 0);
        let found = found.split(": set ").next().unwrap_or_default().to_owned();
        let found = evicted.map_or(found.clone(), |count| format!("{found}; it has evicted {count} already"));
        return Some(Finding::problem(
            "registry-eviction",
            found,
            "evicted keys are nodes and spawns that the farm forgets at random",
            "set maxmemory-policy to noeviction",
        ));
    }
    Some(Finding::ok("registry-eviction", "Redis evicts nothing"))
}

fn memory(facts: &Facts) -> Option<Finding> {
    let used = facts.number("used_memory")?;
    let limit = facts.number("maxmemory").filter(|limit| *limit > 0);
    let Some((limit, what)) = limit.map(|limit| (limit, "maxmemory")).or_else(|| {
        Some((facts.number("total_system_memory").filter(|total| *total > 0)?, "the machine's memory"))
    }) else {
        return Some(Finding::ok("registry-memory", format!("{} in use, without a limit", mebibytes(used))));
    };
    let percent = used.saturating_mul(100) / limit;
    let found = format!("{} of {} in use ({percent} % of {what})", mebibytes(used), mebibytes(limit));
    let level = match percent {
        MEMORY_FULL.. => Level::Problem,
        MEMORY_NEAR.. => Level::Warning,
        _ => return Some(Finding::ok("registry-memory", found)),
    };
    Some(Finding::bad(
        "registry-memory",
        level,
        found,
        "a full Redis refuses writes (OOM): no spawn is recorded, and front doors place from their last snapshot",
        "raise maxmemory, or find what else fills it (`redis-cli --bigkeys`); docs/operator/sizing.md has what a farm needs",
    ))
}

fn persistence(facts: &Facts) -> Option<Finding> {
    const MEND: &str = "make room on its disk and mend its directory's rights, or turn persistence off: the agents fill a new Redis within two seconds";
    const REFUSES: &str = "Redis refuses writes while it cannot save (MISCONF)";
    let failed = |name: &str| facts.text(name).is_some_and(|status| status != "ok");
    let finding =
        |level, found: &str, why: &str| Some(Finding::bad("registry-persistence", level, found, why, MEND));
    if failed("aof_last_write_status") {
        let found = "the last write to the log of commands could not be saved to disk";
        return finding(Level::Problem, found, REFUSES);
    }
    let saves = facts.setting("save").map(|save| !save.is_empty());
    let stops = facts.setting("stop-writes-on-bgsave-error").map(|stops| stops == "yes");
    if failed("rdb_last_bgsave_status") {
        let found = "the last snapshot could not be saved to disk";
        // Redis refuses writes for it only with both settings.
        return match (saves, stops) {
            (Some(true), Some(true)) => finding(Level::Problem, found, REFUSES),
            (Some(false), _) => finding(
                Level::Warning,
                found,
                "Redis takes writes all the same, since it saves none by itself (save \"\"); a replica that needs one gets none",
            ),
            (_, Some(false)) => finding(
                Level::Warning,
                found,
                "Redis takes writes all the same (stop-writes-on-bgsave-error no), and loses them when it ends",
            ),
            (None, _) | (_, None) => finding(
                Level::Warning,
                found,
                "Redis refuses writes for it (MISCONF) if it has save points and stop-writes-on-bgsave-error yes, as it has by \
                 default; this user may not see its settings (CONFIG GET)",
            ),
        };
    }
    let appends = facts.text("aof_enabled")? == "1";
    Some(Finding::ok(
        "registry-persistence",
        match (appends, saves) {
            (true, _) => "Redis keeps a log of commands on disk (appendonly)",
            (false, Some(true)) => "Redis saves snapshots to disk",
            (false, Some(false)) => {
                "Redis keeps nothing on disk, and needs not: the agents fill a new one within two seconds"
            }
            (false, None) => {
                "no log of commands (appendonly); whether Redis saves snapshots is not shown to this user (CONFIG GET), none has failed"
            }
        },
    ))
}

fn replicas(facts: &Facts) -> Option<Finding> {
    let connected = facts.number("connected_slaves").unwrap_or(0);
    let wanted = facts.setting("min-replicas-to-write").and_then(|count| count.parse::<u64>().ok());
    let good = facts.number("min_slaves_good_slaves").unwrap_or(connected);
    let replicas = |count: u64| format!("{count} {}", if count == 1 { "replica" } else { "replicas" });
    if let Some(wanted) = wanted.filter(|wanted| good < *wanted) {
        return Some(Finding::problem(
            "registry-replicas",
            format!("{} in step, and min-replicas-to-write is {wanted}", replicas(good)),
            "Redis refuses every write (NOREPLICAS)",
            "bring the replicas back, or lower min-replicas-to-write",
        ));
    }
    if matches!(facts.form, Form::Sentinels(_)) && connected == 0 {
        return Some(Finding::warning(
            "registry-replicas",
            "the master has no replica",
            "Sentinels have nothing to put in its place when it fails",
            "start a replica, and see why the last one is not connected",
        ));
    }
    if connected > 0 && wanted == Some(0) {
        return Some(Finding::warning(
            "registry-replicas",
            format!("{}, and min-replicas-to-write is 0", replicas(connected)),
            "a master that is cut off goes on alone, and what it takes then is lost with the failover",
            "set min-replicas-to-write 1",
        ));
    }
    (connected > 0).then(|| Finding::ok("registry-replicas", format!("{} in step", replicas(good))))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests;
