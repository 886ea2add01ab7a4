//! Log lines: to standard error, as text or JSON, filtered by `--log`.

use std::io::{self, IsTerminal};
use std::panic;

use log_output::JsonLines;
use tracing::{error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::args::{LogFlags, LogFormat};
use crate::failure::Failure;
use crate::runtime::no_thread;
use crate::standard_error;

/// Starts logging, for the life of the process. A panic is logged like everything else.
pub(crate) fn start(flags: &LogFlags) -> Result<(), Failure> {
    let filter: Targets = flags.filter.parse().map_err(|e| {
        Failure::usage(format!("invalid --log: expected a level or a filter such as warn,agent=debug: {e}"))
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let output = standard_error::share(|lines| {
        warn!(lines, "log lines were dropped: standard error was not read");
    });
    let output = output.map_err(|e| no_thread(&e))?;
    match flags.log_format {
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::layer().with_writer(move || output.clone());
            registry.with(lines.with_ansi(io::stderr().is_terminal())).init();
        }
        LogFormat::Json => registry.with(JsonLines::new(output)).init(),
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
