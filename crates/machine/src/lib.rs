//! What a process can learn of the machine it runs on: how much memory there is for it, and whether every user can read a file.

mod control_group;
pub mod memory;
mod secret_file;

pub use secret_file::warn_if_readable_by_everyone;
