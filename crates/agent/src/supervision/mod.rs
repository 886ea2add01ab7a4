//! The tasks that own spawns: one task has one process, from its start, or its adoption, to its end.
//!
//! What a task holds is a type of its own in each phase. A value that is dropped, by a panic or an early return, gives back what it holds:
//!
//! ```text
//!  the table admits        Hold                        StartedProcess                     Driver
//!  a spawn ──────────────▶ slot, port, user, GPU slot ─▶ and a process without a driver ─▶ owns both until the end ─▶ the table has
//!                           │ dropped: given back         │ dropped: the process is         │ dropped: the process     all back
//!                           ▼                             ▼ killed, then all given back     ▼ is killed, the spawn failed
//! ```
//!
//! An adopted spawn begins as a [`driver::Driver`]; one that gets a warm server skips the start. In a driver, what happens in which state is a
//! pure function ([`crate::spawn::lifecycle`]), whose effects are carried out here. Failure: a start that a disk holds up is given up at its
//! deadline; its callers are answered, and its slot stays taken until it is known what became of the process.
//!
//! Reading order: [`start`] (from a request to a running process), [`hold`] (the first two phases), [`driver`] (the third), [`run`] (one after
//! the other), [`traced`] (what a trace shows of them).

pub(crate) mod driver;
pub(crate) mod hold;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod traced;
