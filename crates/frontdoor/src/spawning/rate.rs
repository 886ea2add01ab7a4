//! How often an owner may spawn. The registry counts for all front doors; while it is away, each front door counts for itself.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::Owner;
use registry::{Permit, Permits, RegistryError};
use tokio::time::Instant;

use crate::callers::Account;
use crate::registry_access::circuit::RegistryClient;

/// Why a spawn is not begun.
#[derive(Debug)]
pub(crate) enum RateError {
    /// It may be once this time has passed.
    TooSoon { per_minute: NonZeroU32, wait: Duration },
    /// The registry could not be asked.
    Registry(RegistryError),
}

/// Grants spawns to owners, at their rates.
#[derive(Debug)]
pub(crate) struct SpawnRates {
    registry: Arc<RegistryClient>,
    /// What is counted here while the registry is away. Never held across an await.
    fallback: Mutex<Permits>,
    /// Times in `fallback` count from here.
    began: Instant,
}

impl SpawnRates {
    pub(crate) fn new(registry: Arc<RegistryClient>) -> Self {
        Self { registry, fallback: Mutex::new(Permits::new()), began: Instant::now() }
    }

    /// Asks for one spawn of this owner, and counts it. What was refused a moment ago is refused without asking: the registry's
    /// answer says how long it stays so.
    pub(crate) async fn permit(
        &self,
        owner: &Owner,
        per_minute: NonZeroU32,
        account: Option<&Account>,
    ) -> Result<(), RateError> {
        if let Some(wait) = account.and_then(|account| account.too_soon(per_minute)) {
            return Err(RateError::TooSoon { per_minute, wait });
        }
        let permit = match self.registry.permit(owner, per_minute.get()).await {
            Ok(permit) => permit,
            Err(RegistryError::Away(_)) => {
                let mut permits = self.fallback.lock().unwrap_or_else(PoisonError::into_inner);
                permits.permit(owner, per_minute.get(), self.began.elapsed())
            }
            Err(error) => return Err(RateError::Registry(error)),
        };
        match permit {
            Permit::Granted => Ok(()),
            Permit::Wait(wait) => {
                if let Some(account) = account {
                    account.note_too_soon(per_minute, wait);
                }
                Err(RateError::TooSoon { per_minute, wait })
            }
        }
    }
}
