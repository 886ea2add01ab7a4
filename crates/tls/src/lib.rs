//! TLS between callers, front doors and agents: certificates that are read again when they change.

mod options;

pub use options::{AgentIdentity, Options};
