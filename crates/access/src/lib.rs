//! Who may do what: API keys, JSON web tokens, scopes and limits.
//!
//! Reading order: [`Options`] (the flags), [`Scope`] (what callers may be allowed), [`Caller`] and [`Denied`] (what a credential
//! comes to), [`api_key`] (one key: a line of the file, and the credential that goes with it), [`key_file`] (the whole file, read
//! and edited), [`jwt`] (tokens and the keys they are signed with), `verified` (those that were judged a moment ago), [`Access`] (all
//! of it, kept up to date with the files). Apart from these, [`host`]: the names under which a role may be called.
//!
//! Secrets are never kept in the clear where a hash does, are compared in constant time, and are in no `Debug`, log or error.

mod access;
pub mod api_key;
mod caller;
pub mod host;
pub mod jwt;
pub mod key_file;
mod options;
mod scope;
mod verified;

pub use access::{Access, Changes, GRACE, LONGEST_CREDENTIAL, OpenError, Unread};
pub use caller::{Caller, Denied, Limits, Reason};
pub use host::{HostOptions, Hosts};
pub use options::Options;
pub use scope::{Scope, Scopes};
