//! Calls again while the front door gets too many of them from this caller a second.

use std::time::Duration;

use model::api::ErrorCode;
use tokio::time::sleep;

use crate::call_error::CallError;

/// Between two calls; the tries at the most.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 10;

/// Makes a call again, up to nine times, while it is refused with `rate-limited`. Returns the first other outcome, or the last refusal.
pub(crate) async fn patiently<T>(
    mut call: impl AsyncFnMut() -> Result<T, CallError>,
) -> Result<T, CallError> {
    for _ in 1..TRIES {
        match call().await {
            Err(error) if error.code() == ErrorCode::RateLimited.as_str() => sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
    call().await
}
