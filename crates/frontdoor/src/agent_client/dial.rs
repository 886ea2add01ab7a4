//! How connections to agents come about: by TCP, or through the network of a simulation.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::DuplexStream;

/// The network of a simulation, as one process sees it.
pub trait Dial: Debug + Send + Sync {
    /// Connects to an address, `host:port`.
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<DuplexStream>>;
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(crate) enum Dialer {
    #[default]
    Tcp,
    Simulated(Arc<dyn Dial>),
}
