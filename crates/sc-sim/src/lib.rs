//! `ts3d-sc-sim`: stands in for the licensed `ts3d_sc_server` in tests, demos and benchmarks.
//!
//! It is as strict as the original about its command line and its protocols, because it must show mistakes of the software
//! around it where no licence is at hand. It opens no models. A server-side viewer is shown a small picture that says so
//! ([`picture`], [`stream`]); a client-side viewer shows nothing, and the answer to it says why.
//!
//! Facts about the original come from the vendor's documentation (command line options, liveliness), from the option
//! strings of a 2021 executable, from its published viewer and from what its published Node server does. No vendor code is
//! used.
//!
//! # What it does
//!
//! One process serves one viewer. It checks its command line ([`options`], [`settings`]), binds the WebSocket port,
//! posts `ready` to its liveliness endpoint and then `ping` from time to time ([`liveliness`]), talks to the first
//! viewer that completes a WebSocket handshake ([`viewer`], [`frames`]), and after that viewer has left closes the port,
//! posts `disconnect` and exits ([`server`]). Without any data from a viewer it ends by itself after
//! `--initial-use-duration`. SIGTERM has its default effect: the process dies of it.
//!
//! ```text
//! start ── bad command line, licence, port ──▶ exit 2, 3, 4, 6 or 7
//!   │
//!   ▼                     first viewer
//! ready, pings ─────────────────────────▶ serving ── the viewer leaves ──▶ port closed, disconnect ──▶ exit 0
//!   └── no data within --initial-use-duration ──────────────────────────────────▲
//! ```
//!
//! It starts in about a millisecond and is the floor of every benchmark, so it uses threads and blocking sockets, and no
//! async runtime.
//!
//! # Simulator only
//!
//! Any licence text is accepted except `invalid`. TLS is refused rather than pretended.
//!
//! Misbehaviour is asked for by environment (`SC_SIM_READY_DELAY_MS=3000`) or, for one process, by a session token of
//! the form `sim:key=value,key=value` (`sim:ready_delay_ms=3000`). The token wins over the environment; what cannot be
//! understood is an error (exit code 2). The viewer has to present such a token like any other.
//!
//! | key | effect |
//! | --- | --- |
//! | `ready_delay_ms` | opens the port and posts `ready` this much later |
//! | `exit_before_ready` | fails with this exit code before the port opens |
//! | `exit_delay_ms` | with `exit_before_ready` or `fail_ratio`: takes this long to fail |
//! | `never_ready` | `1`: hangs before the port opens; only the initial-use timeout ends it |
//! | `fail_ratio` | chance (0 to 1) to exit with code 3 before the port opens |
//! | `silent_after_ms` | posts no liveliness at all from this long after `ready`, but keeps running |
//! | `liveliness_double_slash` | `1`: posts to `<base>//<id>` |
//! | `ignore_term` | `1`: outlives SIGTERM |
//! | `fork_grandchild` | `1`: leaves a `sleep 600` in the process group and logs its pid |
//! | `flood_bytes_per_sec` | writes this much to stdout, 0 for as fast as possible |
//! | `disconnect_after_ms` | ends as if the viewer left, this long after `ready` |
//! | `disconnect_no_exit` | `1`: closes the port and posts `disconnect` at the end, but never exits |
//! | `crash_after_ms` | crashes this long after `ready` |
//! | `crash_code` | exit code of the crash (default 1) |
//! | `crash_signal` | signal of the crash instead: `KILL`, `SEGV` or `ABRT` |
//! | `network_version` | answers `BAD_NETWORK_VERSION` to a viewer with another one |
//! | `stream_version` | answers `BAD_STREAM_VERSION` to a client-side viewer with another one |

#![expect(
    rustdoc::private_intra_doc_links,
    reason = "the crate documentation is a map for those who read the code"
)]

// The command line and what it means.
mod exit_code;
mod help;
mod misbehave;
mod options;
mod settings;

// The protocols.
mod endpoint;
mod frames;
mod liveliness;
mod log;
mod picture;
mod post;
mod stream;
mod viewer;

// The life of the process.
mod notify;
mod server;
mod trouble;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use crate::exit_code::{Exit, Failure};
use crate::log::Log;
use crate::misbehave::Misbehaviour;
use crate::settings::Settings;

/// The variable in which an agent says on which node a server runs.
const NODE: &str = "HATCHERY_NODE";

/// Runs the simulator with the arguments that follow the program's name; returns when the process is to exit.
///
/// Misbehaviour is read from the environment of the process.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let started = Instant::now();
    let exit = start(args, started).unwrap_or_else(|failure| {
        writeln!(io::stderr(), "{}", failure.message).ok();
        failure.exit
    });
    ExitCode::from(exit.code())
}

fn start(args: impl Iterator<Item = OsString>, started: Instant) -> Result<Exit, Failure> {
    let parsed = options::parse(args)?;
    if parsed.wants_help() {
        io::stdout().write_all(help::text().as_bytes()).ok();
        return Ok(Exit::Success);
    }
    let settings = Settings::new(&parsed, std::env::var(NODE).ok())?;
    let misbehaviour = Misbehaviour::new(std::env::vars_os(), settings.session_token.as_deref())?;
    let log = Log::open(&settings.log, started)
        .map_err(|error| Failure::command_line(format!("unable to open the log-file: {error}")))?;
    let log = Arc::new(log);
    server::serve(&settings, &misbehaviour, &log, started).inspect_err(|failure| {
        log.error(&failure.message);
    })
}
