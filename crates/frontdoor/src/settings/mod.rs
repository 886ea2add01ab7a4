mod config;
pub(crate) mod exposure;
pub(crate) mod limits;
mod options;

pub use config::{Config, Origins, Tls};
pub use limits::Limits;
pub use options::{ConfigError, Options};
