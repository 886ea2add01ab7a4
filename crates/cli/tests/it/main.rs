//! The `hatchery` command as a script sees it: a process with arguments, two outputs and an exit code.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::needless_pass_by_value,
    reason = "scripts are written in place, and read better without borrows"
)]

mod process;
mod scripted;

mod bench;
mod completions;
mod credentials;
mod dev;
mod doctor;
mod drain;
mod exit_codes;
mod help;
mod keys;
mod list_forms;
mod lists;
mod log;
mod requests;
mod roles;
mod short_ids;
mod soak;
mod stop;
mod tls;
mod watch;
