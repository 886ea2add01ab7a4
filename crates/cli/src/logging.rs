//! Log lines: to standard error, as text or JSON, filtered by `--log`. Under systemd they go to its journal with their fields.

use std::io::{self, IsTerminal, Write};
use std::panic;

use log_output::{JsonLines, Message};
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
    let message = match flags.log_format {
        LogFormat::Text => Message::Text,
        LogFormat::Json => Message::Json,
    };
    let share = |sink: Box<dyn Write + Send>| {
        let report = |lines| warn!(lines, "log lines were dropped: standard error was not read");
        standard_error::share(sink, report).map_err(|e| no_thread(&e))
    };
    match (standard_error::journal(message), flags.log_format) {
        (Some(journal), _) => registry.with(JsonLines::new(share(Box::new(journal))?)).init(),
        (None, LogFormat::Json) => registry.with(JsonLines::new(share(standard_error::stream())?)).init(),
        (None, LogFormat::Text) => {
            let output = share(standard_error::stream())?;
            let lines = tracing_subscriber::fmt::layer().with_writer(move || output.clone());
            registry.with(lines.with_ansi(io::stderr().is_terminal())).init();
        }
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
