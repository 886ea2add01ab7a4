//! The simulated server: a program of its own where it was built, else this very binary under its name.

use std::env::{ArgsOs, current_exe};
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name under which this binary is the simulated server.
const NAME: &str = "ts3d-sc-sim";

/// The simulated server, if that is what this binary was called as.
pub(crate) fn simulator_named(called: Option<&OsStr>) -> Option<fn(ArgsOs) -> ExitCode> {
    let called_so = Path::new(called?).file_name()? == NAME;
    called_so.then_some(sc_sim::run as fn(ArgsOs) -> ExitCode)
}

/// The program beside this one, or a link to this one in the scratch directory.
pub(crate) fn find(scratch: &Path) -> io::Result<PathBuf> {
    let this = current_exe()?;
    let beside = this.with_file_name(NAME);
    if beside.is_file() {
        return Ok(beside);
    }
    let link = scratch.join(NAME);
    symlink(&this, &link)?;
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_simulators_name_makes_a_simulator() {
        for (called, simulator) in [
            ("ts3d-sc-sim", true),
            ("/tmp/x/ts3d-sc-sim", true),
            ("hatchery", false),
            ("/ts3d-sc-sim/hatchery", false),
            ("", false),
        ] {
            assert_eq!(simulator_named(Some(OsStr::new(called))).is_some(), simulator, "{called}");
        }
        assert!(simulator_named(None).is_none());
    }
}
