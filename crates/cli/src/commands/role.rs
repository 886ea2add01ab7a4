//! What the roles have in common: they need the registry, say where they listen, and run until they are told to end.

use std::error::Error;
use std::io::{self, Write};

use model::Timing;
use registry::Registry;
use tracing::warn;

use crate::args::RegistryFlags;
use crate::failure::Failure;

/// Opens the registry, on the runtime that is to serve it. Redis need not be there yet.
pub(crate) fn open(flags: &RegistryFlags) -> Result<Registry, Failure> {
    let registry = Registry::open(&flags.registry, &flags.farm.farm, Timing::FARM).map_err(|e| wrong(&e))?;
    if registry.backend() == "embedded" {
        warn!("an embedded registry is this process's own: no other process sees it");
    }
    Ok(registry)
}

/// A setting that will not do; the error names the flag.
pub(crate) fn wrong(error: &dyn Error) -> Failure {
    Failure::usage(chain(error))
}

/// A start that did not succeed.
pub(crate) fn not_started(error: &dyn Error) -> Failure {
    Failure::failed(chain(error))
}

/// Says that it listens. Whoever started it may not care, and may have closed the pipe.
pub(crate) fn announce(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

/// An error with its causes, those left out that an outer one quotes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text += &format!(": {words}");
        }
        cause = inner.source();
    }
    text
}
