//! Facts about the machine that a process runs on (Linux): how much memory there is for it, and whether every user can read
//! a file.
//!
//! Every function reads `/proc`, the control groups or a file's metadata when it is called, and keeps nothing. A fact that
//! the machine does not give is `None`, never an error: metrics then lack it.

mod control_group;
pub mod memory;
mod secret_file;

pub use secret_file::warn_if_readable_by_everyone;
