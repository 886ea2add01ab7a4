//! Who is let in: what a caller shows, judged, with every failure logged and counted.

use std::fmt;
use std::time::Duration;

use access::{Access, Caller, Changes, Denied, Reason};
use model::{Owner, Timestamp};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::metrics::Metrics;

/// The longest that one sleep lasts: clocks are set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A secret that a caller has shown.
pub(crate) struct Credential(String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Somebody who has shown a good credential.
#[derive(Debug)]
pub(crate) struct Bearer {
    pub(crate) caller: Caller,
    credential: Credential,
    /// Changes of keys since it was judged.
    changes: Changes,
}

impl Bearer {
    /// Judges what a caller at this address has shown, if anything.
    pub(crate) fn judge(
        access: &Access,
        metrics: &Metrics,
        shown: Option<&str>,
        peer: Option<&str>,
    ) -> Result<Self, Denied> {
        let judged = shown.ok_or_else(Denied::missing).and_then(|credential| {
            let changes = access.changes();
            let caller = access.check(credential)?;
            Ok(Self { caller, credential: Credential(credential.to_owned()), changes })
        });
        judged.inspect_err(|denied| note(metrics, denied, peer))
    }

    /// Notes that a caller at this address has shown nothing, and had to.
    pub(crate) fn refuse(metrics: &Metrics, peer: Option<&str>) {
        note(metrics, &Denied::missing(), peer);
    }

    /// Judges it again: keys may have changed, and time has passed. Whoever may do something else by now is somebody else.
    pub(crate) fn is_still_good(&self, access: &Access) -> Result<Caller, Reason> {
        let caller = access.check(&self.credential.0).map_err(|denied| denied.reason)?;
        let same = (&caller.owner, caller.scopes) == (&self.caller.owner, self.caller.scopes);
        if same { Ok(caller) } else { Err(Reason::Expired) }
    }

    /// Resolves when the credential is good no more: keys have changed, or it has expired.
    pub(crate) async fn revoked(&self, access: &Access) -> Reason {
        let mut changes = self.changes.clone();
        let mut expires = self.caller.expires;
        loop {
            let left = expires.map_or(LOOK_AGAIN, |end| end.since(Timestamp::now()));
            tokio::select! {
                () = changes.next() => {}
                // Never less, so that a clock that differs from the judge's by a moment is not asked without pause.
                () = sleep(left.clamp(Duration::from_millis(10), LOOK_AGAIN)) => {}
            }
            match self.is_still_good(access) {
                Ok(caller) => expires = caller.expires,
                Err(reason) => return reason,
            }
        }
    }

    /// Whose spawns it may see and end, where not everybody's.
    pub(crate) fn only(&self) -> Option<&Owner> {
        (!self.caller.scopes.has(access::Scope::Operate)).then_some(&self.caller.owner)
    }
}

fn note(metrics: &Metrics, Denied { reason, key }: &Denied, peer: Option<&str>) {
    metrics.authentication_failed(*reason);
    let Some(left_out) = metrics.denials().line(*reason, Instant::now()) else { return };
    let (peer, key) = (peer.unwrap_or("unknown"), key.as_deref().unwrap_or("-"));
    if left_out > 0 {
        warn!(peer, key.id = key, %reason, left_out, "authentication failed, and so did others that are not logged");
    } else {
        warn!(peer, key.id = key, %reason, "authentication failed");
    }
}
