//! The `hatchery` command as a script sees it: a process with arguments, two outputs and an exit code.

mod process;
mod scripted;

mod bench;
mod completions;
mod exit_codes;
mod help;
mod lists;
mod log;
mod requests;
mod stop;
