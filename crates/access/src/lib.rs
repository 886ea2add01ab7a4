//! Who may do what: API keys, JSON web tokens, scopes and limits.

mod options;

pub use options::Options;
