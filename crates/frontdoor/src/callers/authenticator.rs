//! Credentials of callers: each is judged, and every failure is logged and counted.
//!
//! Owns: nothing about callers. [`Bearer`] keeps the credential, so that it can be judged again when keys change or it expires.

use std::fmt;
use std::time::Duration;

use access::{Access, Caller, Changes, DenialLog, DenialReason, Denied, Scope};
use model::{Owner, Timestamp};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::metrics::AuthMetrics;

/// The longest that one sleep lasts, because the clock may be set.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// A secret that a caller has shown.
struct Credential(String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Judges credentials. A front door without keys has none, and admits every caller.
#[derive(Debug)]
pub(crate) struct Authenticator {
    access: Access,
    metrics: AuthMetrics,
    denials: DenialLog,
}

/// A caller with a good credential.
#[derive(Debug)]
pub(crate) struct Bearer {
    pub(crate) caller: Caller,
    credential: Credential,
    /// Changes of keys since it was judged.
    changes: Changes,
}

impl Authenticator {
    pub(crate) fn new(access: Access, metrics: AuthMetrics) -> Self {
        Self { access, metrics, denials: DenialLog::default() }
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Judges what a caller at this address has shown, if anything.
    pub(crate) fn judge(&self, shown: Option<&str>, peer: Option<&str>) -> Result<Bearer, Denied> {
        let judged = shown.ok_or_else(Denied::missing).and_then(|credential| {
            // Before the check, so that no change of keys falls between the two.
            let changes = self.access.changes();
            let caller = self.access.check(credential)?;
            Ok(Bearer { caller, credential: Credential(credential.to_owned()), changes })
        });
        judged.inspect_err(|denied| self.deny(denied, peer))
    }

    /// Logs and counts that a caller at this address has shown nothing, and had to.
    pub(crate) fn deny_missing(&self, peer: Option<&str>) {
        self.deny(&Denied::missing(), peer);
    }

    /// Resolves when the credential is not good any more: keys have changed, or it has expired.
    pub(crate) async fn revoked(&self, bearer: &Bearer) -> DenialReason {
        bearer.revoked(&self.access).await
    }

    /// Counts a credential that was not good any more when it was used.
    pub(crate) fn count(&self, reason: DenialReason) {
        self.metrics.failed(reason);
    }

    fn deny(&self, Denied { reason, key }: &Denied, peer: Option<&str>) {
        self.metrics.failed(*reason);
        let Some(left_out) = self.denials.line(*reason, Instant::now()) else { return };
        let (peer, key) = (peer.unwrap_or("unknown"), key.as_deref().unwrap_or("-"));
        if left_out > 0 {
            warn!(peer, key.id = key, %reason, left_out, "authentication failed, and so did others that are not logged");
        } else {
            warn!(peer, key.id = key, %reason, "authentication failed");
        }
    }
}

impl Bearer {
    /// Judges it again: keys may have changed, and time has passed. A caller whose owner or scopes have changed counts as expired.
    fn is_still_good(&self, access: &Access) -> Result<Caller, DenialReason> {
        let caller = access.check(&self.credential.0).map_err(|denied| denied.reason)?;
        let same = (&caller.owner, caller.scopes) == (&self.caller.owner, self.caller.scopes);
        if same { Ok(caller) } else { Err(DenialReason::Expired) }
    }

    /// Resolves when the credential is not good any more: keys have changed, or it has expired.
    async fn revoked(&self, access: &Access) -> DenialReason {
        let mut changes = self.changes.clone();
        let mut expires = self.caller.expires;
        loop {
            let left = expires.map_or(MAX_SLEEP, |end| end.since(Timestamp::now()));
            tokio::select! {
                () = changes.next() => {}
                // Never less, so that a clock that differs from the judge's by a moment is not asked without pause.
                () = sleep(left.clamp(Duration::from_millis(10), MAX_SLEEP)) => {}
            }
            match self.is_still_good(access) {
                Ok(caller) => expires = caller.expires,
                Err(reason) => return reason,
            }
        }
    }

    /// The owner whose spawns it may see and end; `None`: all spawns.
    pub(crate) fn only(&self) -> Option<&Owner> {
        (!self.caller.scopes.has(Scope::Operate)).then_some(&self.caller.owner)
    }
}

/// These scopes in words.
pub(crate) fn one_of(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" or ")
}
