//! Authentication and authorization: API keys, JSON web tokens, scopes and limits.
//!
//! Reading order:
//!
//! | item | what it is |
//! | --- | --- |
//! | [`Options`] | the flags |
//! | [`Scope`], [`Scopes`] | what a caller may do |
//! | [`Caller`], [`Denied`] | the verdict on a credential |
//! | [`api_key`] | one key: its line in the file, and its credential |
//! | [`key_file`] | the whole file: parsed, appended to, revoked from |
//! | [`jwt`] | tokens, and the keys that they are signed with |
//! | `verified` | a cache of verdicts on tokens |
//! | [`Access`] | all of it, kept up to date with the files |
//! | [`DenialLog`] | the bound of log lines about refused credentials |
//! | [`host`] | the host names that a role answers to |
//!
//! Invariants: a secret is kept as its hash where that will do, is compared in constant time, and appears in no `Debug`,
//! log or error. Callers learn only whether a credential was missing, invalid or expired; the log has the [`DenialReason`].
//!
//! Failure: a key file that goes bad while the process runs counts as it was for [`GRACE`], then its keys are refused. At
//! start a bad file is an error.
//!
//! # Example
//!
//! ```
//! use access::api_key::{ApiKey, NewKey};
//! use access::{Access, DenialReason, Options, Scope, key_file};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let file = directory.path().join("keys");
//! let new = NewKey { scopes: [Scope::Spawn].into_iter().collect(), ..NewKey::default() };
//! let (key, credential) = ApiKey::generate(new)?;
//! key_file::append(&file, &key)?;
//!
//! let options = Options { api_keys: Some(file), ..Options::default() };
//! let access = Access::open(&options)?.expect("callers must authenticate");
//! let caller = access.check(credential.expose()).unwrap();
//! assert!(caller.scopes.has(Scope::Spawn) && !caller.scopes.has(Scope::Operate));
//! assert_eq!(caller.owner.to_string(), format!("key:{}", key.id));
//! assert_eq!(access.check("hatchery_nonsense").unwrap_err().reason, DenialReason::Malformed);
//! # Ok(())
//! # }
//! ```

mod access;
pub mod api_key;
mod bearer;
mod caller;
mod denial_log;
pub mod host;
pub mod jwt;
pub mod key_file;
mod options;
mod scope;
mod verified;

pub use access::{Access, Changes, GRACE, MAX_CREDENTIAL, OpenError, Unread};
pub use bearer::bearer;
pub use caller::{Caller, CallerLimits, DenialReason, Denied};
pub use denial_log::DenialLog;
pub use host::{HostOptions, Hosts};
pub use options::{MetricsOptions, Options};
pub use scope::{Scope, Scopes};
