//! Settings: flags ([`Options`]), checked once before any port is bound, become a typed [`Config`].
//!
//! Failure: the first setting that is wrong is a [`ConfigError`], which names the flag. Nothing after start-up reads a flag. Each group of flags has a file with
//! its options, its defaults and its checks.

mod config;
mod error;
mod exposure;
mod hoops;
mod limits;
pub(crate) mod lives;
mod options;
mod origins;
mod proxies;
mod relay;
pub(crate) mod viewers;
mod webhooks;

pub use self::config::{Config, Surface, Tls};
pub use self::error::ConfigError;
pub use self::hoops::{HoopsEndpoint, HoopsOptions, HoopsSettings};
pub use self::limits::Limits;
pub use self::lives::{LifeOptions, Lives};
pub use self::options::Options;
pub use self::origins::Origins;
pub use self::proxies::{ProxyOptions, TrustedProxies};
pub use self::relay::RelayOptions;
pub use self::viewers::{OwnNode, PublicUrl, ViewerOptions, ViewerSettings};
pub use self::webhooks::{WebhookOptions, WebhookSettings};
pub(crate) use self::webhooks::{WebhookSecret, WebhookTarget};
