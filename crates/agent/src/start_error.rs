//! Why an agent could not be started. Each variant names what was wrong and where; the command line gives it an exit code. Nothing
//! has been started or changed by then, but for files in the state directory.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::ConfigError;

/// Why an agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting will not do.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory cannot be used.
    #[error("failed to use {path} (--state-dir)")]
    StateDir {
        /// Its path, from `--state-dir`.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The threads for the disk cannot be had.
    #[error("failed to start threads for the disk; raise the limit of processes")]
    Disk(#[source] io::Error),
    /// Ends of spawns could not be seen.
    #[error(
        "this machine refuses pidfd_open, without which an agent cannot see spawns end; \
         it takes Linux 5.4 or later, and a sandbox (seccomp) that allows the call"
    )]
    Pidfd(#[source] io::Error),
    /// Another agent uses the state directory.
    #[error(
        "another agent{} uses {path} (--state-dir); every agent needs a state directory of its own",
        pid.map(|pid| format!(", process {pid},")).unwrap_or_default()
    )]
    StateTaken {
        /// Its path, from `--state-dir`.
        path: PathBuf,
        /// The other agent's process.
        pid: Option<u32>,
    },
    /// Records and processes of earlier agents cannot be read.
    #[error("failed to look for spawns of an earlier agent in {path} (--state-dir)")]
    Survey {
        /// Its path, from `--state-dir`.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A port cannot be had.
    #[error(
        "failed to listen on {addr} ({flag}){}",
        holder.as_ref().map(|holder| format!(": {holder} listens there")).unwrap_or_default()
    )]
    Bind {
        /// The flag that asked for it.
        flag: &'static str,
        /// The address that was asked for.
        addr: SocketAddr,
        /// The process that has the port, where it can be seen.
        holder: Option<String>,
        /// What the system says.
        source: io::Error,
    },
    /// The reflection service does not understand the contract.
    #[error("failed to describe the gRPC service")]
    Reflection(#[source] tonic_reflection::server::Error),
}
