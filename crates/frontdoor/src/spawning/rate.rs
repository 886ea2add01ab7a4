//! How often a caller may spawn. The registry counts for all front doors; while it is away, each counts for itself.

use std::num::NonZeroU32;
use std::sync::PoisonError;
use std::time::Duration;

use model::Owner;
use registry::{Permit, RegistryError};

use crate::callers::Account;
use crate::start::door::Door;

/// Why a spawn is not begun.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It may be once this time has passed.
    TooSoon { per_minute: NonZeroU32, wait: Duration },
    /// The registry could not be asked.
    Registry(RegistryError),
}

/// Asks for one spawn of this owner, and notes it. What was refused a moment ago is refused without asking: the registry's
/// answer says how long it stays so.
pub(crate) async fn permit(
    door: &Door,
    owner: &Owner,
    per_minute: NonZeroU32,
    account: Option<&Account>,
) -> Result<(), Refused> {
    if let Some(wait) = account.and_then(|account| account.too_soon(per_minute)) {
        return Err(Refused::TooSoon { per_minute, wait });
    }
    let permit = match door.registry.permit(owner, per_minute.get()).await {
        Ok(permit) => permit,
        Err(RegistryError::Away(_)) => {
            let mut permits = door.permits.lock().unwrap_or_else(PoisonError::into_inner);
            permits.permit(owner, per_minute.get(), door.began.elapsed())
        }
        Err(error) => return Err(Refused::Registry(error)),
    };
    match permit {
        Permit::Granted => Ok(()),
        Permit::Wait(wait) => {
            if let Some(account) = account {
                account.note_too_soon(per_minute, wait);
            }
            Err(Refused::TooSoon { per_minute, wait })
        }
    }
}
