//! What the kernel lets an agent do: watch processes, open files, limit spawns, and keep them apart.

use std::io;
use std::path::Path;

use model::{Finding, Level};
use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};

use crate::config::{Config, Launcher};
use crate::preflight;
use crate::separation;
use crate::spawn::cgroup::Groups;

/// Whether ends of processes can be seen.
pub(super) fn pidfd(_: &Config) -> Vec<Finding> {
    vec![match preflight::may_watch_processes() {
        Ok(()) => Finding::ok("pidfd", "the kernel lets processes be watched (pidfd_open)"),
        Err(error) => Finding::problem(
            "pidfd",
            error.to_string(),
            "the agent does not start: it could not see its spawns end",
            "boot Linux 5.4 or later; in a container use a seccomp profile that allows pidfd_open (Docker 20.10 or later)",
        ),
    }]
}

/// Whether there are descriptors for every slot.
pub(super) fn descriptors(config: &Config) -> Vec<Finding> {
    let wanted = preflight::wanted_files(config.slots);
    let limit = getrlimit(Resource::Nofile).maximum;
    vec![match limit.filter(|limit| *limit < wanted) {
        None => {
            Finding::ok("descriptors", format!("the agent may open the {wanted} files that its slots need"))
        }
        Some(limit) => Finding::warning(
            "descriptors",
            format!("the agent may open {limit} files, and {} slots need {wanted}", config.slots),
            "with all slots in use it cannot take reports, and ends servers that it does not hear of",
            "raise the hard limit: LimitNOFILE= under systemd, --ulimit nofile under Docker, `ulimit -Hn` elsewhere",
        ),
    }]
}

/// Whether spawns can have control groups, if they are to have any.
pub(super) fn groups(config: &Config) -> Vec<Finding> {
    let problem = |found: String| {
        vec![Finding::problem(
            "cgroup",
            found,
            "the agent does not start: it could not hold spawns to their limits",
            "let the agent have a group of its own: Delegate=yes under systemd (deploy/systemd), --cgroupns and a writable \
             /sys/fs/cgroup under Docker",
        )]
    };
    let dir = match Groups::place(config) {
        Ok(Some(dir)) => dir,
        Ok(None) => return Vec::new(),
        Err(error) => return problem(error.to_string()),
    };
    let shown = dir.display();
    let denied =
        |path: &Path, wanted| access(path, wanted).err().map(|error| io::Error::from(error).to_string());
    let whole = Access::WRITE_OK | Access::EXEC_OK;
    if !dir.exists() {
        let above = dir.parent().unwrap_or(Path::new("/"));
        return match denied(above, whole) {
            Some(why) => {
                problem(format!("the group {shown} (--cgroup) is missing and cannot be made: {why}"))
            }
            None => vec![Finding::ok("cgroup", format!("the agent can make {shown}"))],
        };
    }
    let file = dir.join("cgroup.subtree_control");
    match denied(&dir, whole).or_else(|| denied(&file, Access::WRITE_OK)) {
        Some(why) => {
            problem(format!("user {} cannot use {shown}: {why}", rustix::process::geteuid().as_raw()))
        }
        None => vec![Finding::ok("cgroup", format!("the agent can make groups in {shown}"))],
    }
}

/// What keeps a server that was taken over from the agent and from other servers.
pub(super) fn separation(config: &Config) -> Vec<Finding> {
    let refused = preflight::may_change_user(config).and_then(|()| separation::check(config));
    if let Err(error) = refused {
        return vec![Finding::problem(
            "separation",
            error.to_string(),
            "the agent does not start",
            "do as the message says; deploy/systemd has a unit that does",
        )];
    }
    if config.launcher == Launcher::Nothing {
        return Vec::new();
    }
    let doubts = separation::doubts(config);
    if doubts.is_empty() {
        return vec![Finding::ok(
            "separation",
            "spawns run as users of their own, and see nothing of each other",
        )];
    }
    let finding = |doubt: separation::Doubt| {
        Finding::bad("separation", Level::Warning, doubt.found, doubt.why, doubt.advice)
    };
    doubts.into_iter().map(finding).collect()
}
