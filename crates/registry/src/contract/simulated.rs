//! The calls by which a simulation decides where the registry is and what it remembers.

use std::sync::Arc;

use super::{Backend, Registry};
use crate::distant::{Distant, Transport};
use crate::embedded::{Embedded, RegistryCopy};

impl Registry {
    /// The same registry as a process elsewhere sees it: every call travels by `transport`. For simulations.
    ///
    /// # Panics
    /// The registry is a Redis, which is elsewhere already.
    #[must_use]
    pub fn behind(&self, transport: Arc<dyn Transport>) -> Self {
        Self(Backend::Distant(Distant::new(self.in_process().clone(), transport)))
    }

    /// Everything that the registry holds, as it is now. For simulations.
    ///
    /// # Panics
    /// The registry is a Redis.
    #[must_use]
    pub fn copy(&self) -> RegistryCopy {
        self.in_process().copy()
    }

    /// Sets the registry back to what it held before, as a failover to a replica does that lacks the last writes; to nothing when there is
    /// no copy. For simulations.
    ///
    /// # Panics
    /// The registry is a Redis.
    pub fn set_back(&self, copy: Option<&RegistryCopy>) {
        self.in_process().set_back(copy);
    }

    fn in_process(&self) -> &Embedded {
        match &self.0 {
            Backend::Embedded(registry) => registry,
            Backend::Distant(distant) => &distant.registry,
            Backend::Redis(_) => panic!("only an embedded registry can be simulated"),
        }
    }
}
