//! The tasks that own spawns: one task has one process, from its start, or its adoption, to its end.
//!
//! What happens in which state is a pure function ([`crate::spawn::lifecycle`]); here it is carried out. A task owns its process and
//! nothing else of the agent: slot, port, user and GPU are the table's, and go back to it when the task is done, fails or panics.
//!
//! Reading order: [`start`] (from a request to a running process), [`hold`] (what a start that fails or comes late gives back), [`driver`]
//! (the one task that owns a spawn), [`run`] (start, then driver), [`traced`] (what a trace shows of it).

pub(crate) mod driver;
pub(crate) mod hold;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod traced;
