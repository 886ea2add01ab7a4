//! What can go wrong with the registry itself.

use std::path::PathBuf;

/// Why a registry could not be opened: always a wrong setting, never an absent server.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one this build understands.
    #[error(
        "--registry wants `embedded`, redis://[user:password@]host[:port][/db] (rediss:// with TLS), \
         redis-sentinel://host[:port],…/master-name or redis-cluster://host[:port],…, not {url:?}: {why}"
    )]
    Url {
        /// What was given, without its password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file with the password cannot be used.
    #[error("--registry-password-file {}: {why}", file.display())]
    PasswordFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The farm's name would not make a key.
    #[error("--farm {0}")]
    Farm(#[from] model::NameError),
}

/// Why a call to the registry failed. Every one of them means: nothing is known about whether it happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// Redis cannot be reached, or did not answer in time.
    #[error("the registry cannot be reached: {0}")]
    Away(String),
    /// Redis answered something this version does not understand.
    #[error("the registry answered something unexpected to {call}: {what}")]
    Unexpected {
        /// The call.
        call: &'static str,
        /// What is wrong.
        what: String,
    },
}
