//! The program around [`sc_sim::run`]: the command line and the environment go in, the exit code comes out. Everything else is in the
//! library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sc_sim::run(std::env::args_os().skip(1))
}
