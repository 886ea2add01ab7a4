//! The program around [`sc_sim::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sc_sim::run(std::env::args_os().skip(1))
}
