//! What keeps a server that was taken over from its agent and from other servers, as far as that can be seen at the start.
//!
//! A secret that spawns can read is an error. What an operator may have reasons for is a warning, once.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::Mode;

use crate::config::{Config, ConfigError, Launcher};
use crate::spawn::limits;
use crate::users::SpawnUsers;

/// The bit of `CAP_SYS_PTRACE` in a set of capabilities.
const SYS_PTRACE: u64 = 1 << 19;

/// Makes sure that no spawn can read the agent's secrets, and that the agent can see its spawns.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    let Some(users) = &config.spawn_users else { return Ok(()) };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if hides_processes(&read("/proc/self/mounts")) && !sees_all_processes(&read("/proc/self/status")) {
        return Err(ConfigError::new(
            "--spawn-user",
            "it needs the capability CAP_SYS_PTRACE where /proc hides the processes of other users (hidepid, ProtectProc): without it \
             the agent cannot see its own spawns",
        ));
    }
    for (flag, path) in &config.secret_files {
        if users.can_read(path) {
            let mode = fs::metadata(path).map_or(0, |meta| meta.mode() & 0o7777);
            let problem = format!(
                "it must not be readable by the users of spawns, {users} (--spawn-user), as {} is (mode {mode:04o}); chmod 0600 it",
                path.display()
            );
            return Err(ConfigError::new(flag, problem));
        }
    }
    Ok(())
}

/// Where each spawn has a user of its own, what it makes from now on is for that user alone, and so is the limit of its processes.
pub(crate) fn keep_spawns_to_themselves(config: &Config) {
    if let Some(SpawnUsers::Each(_)) = &config.spawn_users {
        // They inherit it.
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
        if rustix::process::geteuid().is_root() {
            limits::bound_processes();
        }
    }
}

/// What a server that was taken over could do, and how to keep it from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub(crate) found: &'static str,
    pub(crate) why: &'static str,
    pub(crate) advice: &'static str,
}

/// Warns of what a server that was taken over could do.
pub(crate) fn warn(config: &Config) {
    if config.trusts_spawns || config.launcher == Launcher::Nothing {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    for Doubt { found, why, advice } in doubts(config) {
        tracing::warn!(root, "{found}: {why}; {advice}");
    }
}

/// What a server that was taken over could do.
pub(crate) fn doubts(config: &Config) -> Vec<Doubt> {
    if config.spawn_users.is_none() {
        return vec![Doubt {
            found: "spawns run as the agent's own user",
            why: "a server that is taken over can read the registry's password and the node's key, and read and end every other spawn",
            advice: "run the agent as root with --spawn-user FIRST-LAST, a range of numbers with one for each slot",
        }];
    }
    let mut doubts = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !hides_processes(&mounts) {
        doubts.push(Doubt {
            found: "spawns can read the command lines of all processes",
            why: "other spawns' session tokens and liveliness URLs are among them",
            advice: "mount /proc with hidepid=invisible (ProtectProc=invisible under systemd)",
        });
    }
    if config.tls.grpc.is_none() {
        doubts.push(Doubt {
            found: "spawns can reach what only the farm's own processes should: the agent's gRPC service (--listen) has no TLS",
            why: "a server that is taken over can start and stop spawns on this node",
            advice: "give the agent --tls-cert, --tls-key and the CA of its clients (--tls-client-ca)",
        });
    }
    doubts
}

/// Whether processes of other users are hidden, according to `/proc/self/mounts`.
fn hides_processes(mounts: &str) -> bool {
    // DEVICE MOUNT-POINT TYPE OPTIONS …; of several the last one is on top.
    let proc = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut mounted = proc.filter(|fields| fields.get(1) == Some(&"/proc"));
    let options = mounted.next_back().and_then(|fields| fields.get(3).copied()).unwrap_or_default();
    options.split(',').filter_map(|option| option.strip_prefix("hidepid=")).any(|value| {
        // `noaccess` shows that they are there, but nothing of them.
        matches!(value, "1" | "noaccess" | "2" | "invisible" | "4" | "ptraceable")
    })
}

/// Whether this process sees hidden ones all the same, according to `/proc/self/status`.
fn sees_all_processes(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    // A kernel that does not say so has no such line.
    effective.is_none_or(|set| set & SYS_PTRACE != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn hidden_processes_are_seen_in_the_mounts() {
        for (options, hidden) in [
            ("rw,relatime", false),
            ("rw,hidepid=0", false),
            ("rw,hidepid=off", false),
            ("rw,hidepid=invisible", true),
            ("rw,hidepid=2,gid=5", true),
            ("rw,hidepid=ptraceable", true),
        ] {
            let mounts =
                format!("sysfs /sys sysfs rw 0 0\nproc /proc proc {options} 0 0\ntmpfs /x tmpfs rw 0 0\n");
            assert_eq!(hides_processes(&mounts), hidden, "{options}");
        }
        let twice = "proc /proc proc rw 0 0\nproc /proc proc rw,hidepid=invisible 0 0\n";
        assert!(hides_processes(twice) && !hides_processes(""));
    }

    #[test]
    fn what_lets_an_agent_see_hidden_processes_is_a_capability() {
        assert!(sees_all_processes("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(sees_all_processes("CapEff:\t0000000000080000\n"));
        assert!(!sees_all_processes("CapEff:\t00000000000000e1\n"));
        assert!(!sees_all_processes("CapPrm:\t0000000000080000\nCapEff:\t0000000000000000\n"));
    }

    #[test]
    fn a_secret_that_spawns_can_read_is_an_error_with_its_flag_and_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        fs::write(&key, "").unwrap();
        let set = |path: &std::path::Path, mode| {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap()
        };
        let launcher = Launcher::Executable("/opt/sc".into());
        let mut config = Config::new("n".parse().unwrap(), launcher, "/s".into());
        config.secret_files = vec![("--tls-key", key.clone())];
        config.spawn_users = Some(SpawnUsers::Each((54_000..=54_100).into()));
        set(&key, 0o644);
        set(dir.path(), 0o755);
        let error = check(&config).unwrap_err();
        assert_eq!(error.flag, "--tls-key");
        assert!(error.problem.contains("0644") && error.problem.contains("54000-54100"), "{error}");
        set(dir.path(), 0o700);
        assert_eq!(check(&config), Ok(()), "nobody gets there");
        set(dir.path(), 0o755);
        set(&key, 0o600);
        assert_eq!(check(&config), Ok(()));
        set(&key, 0o644);
        config.spawn_users = None;
        assert_eq!(check(&config), Ok(()), "a warning says more about that");
    }
}
