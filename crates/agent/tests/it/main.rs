//! The agent with real processes, a real gRPC client and the embedded registry.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adoption;
mod disks;
mod ends;
mod floods;
mod hangups;
mod harness;
mod held_starts;
mod life;
mod orphans;
mod own_process;
mod owners;
mod ports;
mod spawning;
mod starts;
mod state_directory;
mod warm;
mod watching;
mod wrong_node;
