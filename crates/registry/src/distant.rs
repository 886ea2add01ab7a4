//! An embedded registry that is elsewhere: every call travels to it and its answer travels back, by a transport that may delay or lose either.
//!
//! For simulations, which decide what a network does. The calls fail as those to Redis do: the caller does not learn whether a call whose
//! answer was lost has happened.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use crate::embedded::Embedded;
use crate::error::RegistryError;
use crate::outage::Outage;

/// Calls that a client of Redis does not send again, so none arrives twice here.
const ONCE: [&str; 4] = ["reserve", "permit", "learn", "add_counts"];

/// A part of a call's way.
pub type Way<'a, T> = Pin<Box<dyn Future<Output = Result<T, Outage>> + Send + 'a>>;

/// What lies between a process and the registry. Each process has one of its own.
pub trait Transport: Debug + Send + Sync {
    /// Carries a request there. Returns how often it arrives: more than once where its connection broke and the client sent it again.
    fn request(&self, call: &'static str) -> Way<'_, u32>;

    /// Carries the answer back.
    fn answer(&self, call: &'static str) -> Way<'_, ()>;
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(crate) struct Distant {
    pub(crate) registry: Embedded,
    transport: Arc<dyn Transport>,
    trouble: Arc<Mutex<Option<RegistryError>>>,
}

impl Distant {
    pub(crate) fn new(registry: Embedded, transport: Arc<dyn Transport>) -> Self {
        Self { registry, transport, trouble: Arc::default() }
    }

    /// How the last call failed.
    pub(crate) fn trouble(&self) -> Option<RegistryError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a call that is answered at once.
    pub(crate) async fn call<T>(
        &self,
        call: &'static str,
        mut act: impl FnMut(&Embedded) -> T,
    ) -> Result<T, RegistryError> {
        let copies = self.noted(self.transport.request(call).await)?;
        let mut answer = act(&self.registry);
        if !ONCE.contains(&call) {
            for _ in 1..copies {
                answer = act(&self.registry);
            }
        }
        self.noted(self.transport.answer(call).await)?;
        Ok(answer)
    }

    /// Makes a call that is answered when something has happened.
    pub(crate) async fn wait<T>(
        &self,
        call: &'static str,
        act: impl AsyncFnOnce(&Embedded) -> T,
    ) -> Result<T, RegistryError> {
        self.noted(self.transport.request(call).await)?;
        let answer = act(&self.registry).await;
        self.noted(self.transport.answer(call).await)?;
        Ok(answer)
    }

    fn noted<T>(&self, carried: Result<T, Outage>) -> Result<T, RegistryError> {
        let carried = carried.map_err(RegistryError::Away);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = carried.as_ref().err().cloned();
        carried
    }
}
