//! Where log lines go: to standard error, as text or JSON, without ever waiting for whoever reads them.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic;
use std::sync::OnceLock;
use std::time::Duration;

use log_output::LogOutput;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{LogFlags, LogFormat};
use crate::commands::no_thread;
use crate::failure::Failure;

/// What was logged last is written within this time when the process ends, or not at all.
const FLUSH: Duration = Duration::from_secs(1);

static OUTPUT: OnceLock<LogOutput> = OnceLock::new();

/// Where messages go as well once logging has started: they keep their place among its lines, and do not block either.
pub(crate) fn output() -> Option<LogOutput> {
    OUTPUT.get().cloned()
}

/// Writes what was logged. To be called when the process is about to end.
pub(crate) fn flush() {
    if let Some(output) = OUTPUT.get() {
        // Lines that nobody reads are nothing to wait for.
        let _written = output.flush_within(FLUSH);
    }
}

/// Standard error, without the lock that every other writer would wait for while nobody reads.
fn standard_error() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// Starts logging, for the life of the process. A panic is logged like everything else.
pub(crate) fn start(flags: &LogFlags) -> Result<(), Failure> {
    let filter: Targets = flags.filter.parse().map_err(|e| {
        Failure::usage(format!("--log wants a level or a filter such as warn,agent=debug: {e}"))
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let output = LogOutput::start(standard_error(), |lines| {
        warn!(lines, "log lines were dropped: standard error was not read");
    });
    let output = output.map_err(|e| no_thread(&e))?;
    let output = OUTPUT.get_or_init(|| output).clone();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || output.clone());
    match flags.log_format {
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    panic::set_hook(Box::new(|info| {
        let what = info.payload();
        let what = what
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| what.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without words");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        error!(panic.location = place, "a task panicked: {what}");
    }));
    Ok(())
}
