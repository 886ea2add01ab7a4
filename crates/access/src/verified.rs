//! A cache of verdicts on tokens: a client cannot make a front door verify signatures over and over by repeating one token.
//!
//! Verifying is expensive, since a token without `kid` is checked against every key of its algorithm. The cache holds the
//! SHA-256 of a token and the verdict, never the token.
//!
//! Invariants: a verdict counts only for the keys that it was reached with, an accepted token only until it expires, and
//! both for [`GOOD_FOR`]. Of refusals only wrong signatures are kept, because every other reason may change with time. Both
//! halves are bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::Timestamp;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;

use crate::caller::{Caller, DenialReason, Denied};

/// How long a verdict counts.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// The most verdicts of either kind.
const MAX_VERDICTS: usize = 4096;

type Hash = [u8; 32];

/// The cache, see the module.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The number of the keys that the verdicts were reached with.
    keys: u64,
    accepted: HashMap<Hash, (Caller, Instant)>,
    refused: HashMap<Hash, (Denied, Instant)>,
}

impl State {
    /// Whether these keys are the current ones. Newer keys empty the cache; verdicts of older ones are neither read nor kept.
    fn are_of(&mut self, keys: u64) -> bool {
        if keys > self.keys {
            *self = Self { keys, ..Self::default() };
        }
        keys == self.keys
    }
}

impl Verified {
    /// The verdict on this token by the keys with this number, which only rises: a cached one, or that of `judge`.
    pub(crate) fn check(
        &self,
        token: &str,
        keys: u64,
        now: Timestamp,
        judge: impl FnOnce() -> Result<Caller, Denied>,
    ) -> Result<Caller, Denied> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(verdict) = self.known(&hash, keys, now) {
            return verdict;
        }
        let verdict = judge();
        self.keep(hash, keys, &verdict);
        verdict
    }

    fn known(&self, hash: &Hash, keys: u64, now: Timestamp) -> Option<Result<Caller, Denied>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.are_of(keys) {
            return None;
        }
        let fresh = |at: &Instant| at.elapsed() < GOOD_FOR;
        if let Some((caller, _)) = state.accepted.get(hash).filter(|(_, at)| fresh(at)) {
            // A token that has expired since is judged again, for the right reason.
            return caller.expires.is_some_and(|end| end > now).then(|| Ok(caller.clone()));
        }
        let refused = state.refused.get(hash).filter(|(_, at)| fresh(at));
        refused.map(|(denied, _)| Err(denied.clone()))
    }

    fn keep(&self, hash: Hash, keys: u64, verdict: &Result<Caller, Denied>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.are_of(keys) {
            return;
        }
        let now = Instant::now();
        match verdict {
            Ok(caller) => {
                make_room(&mut state.accepted);
                state.accepted.insert(hash, (caller.clone(), now));
            }
            Err(denied) if denied.reason == DenialReason::WrongSignature => {
                make_room(&mut state.refused);
                state.refused.insert(hash, (denied.clone(), now));
            }
            Err(_) => {}
        }
    }
}

/// Drops old verdicts, and all when that is not enough: tokens are then verified again.
fn make_room<T>(kept: &mut HashMap<Hash, (T, Instant)>) {
    if kept.len() >= MAX_VERDICTS {
        kept.retain(|_, (_, at)| at.elapsed() < GOOD_FOR);
        if kept.len() >= MAX_VERDICTS {
            kept.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::caller::CallerLimits;
    use crate::scope::Scopes;

    fn caller(expires: u64) -> Caller {
        let expires = Some(Timestamp::from_millis(expires));
        let owner = "jwt:ann".parse().unwrap();
        Caller { owner, scopes: Scopes::default(), limits: CallerLimits::default(), expires }
    }

    /// What showing a token at this time comes to, and whether it was verified.
    fn shown(
        verified: &Verified,
        token: &str,
        keys: u64,
        now: u64,
        verdict: Result<Caller, Denied>,
    ) -> (bool, bool) {
        let judged = Cell::new(false);
        let judge = || {
            judged.set(true);
            verdict
        };
        let good = verified.check(token, keys, Timestamp::from_millis(now), judge).is_ok();
        (good, judged.get())
    }

    fn denied(reason: DenialReason) -> Result<Caller, Denied> {
        Err(Denied { reason, key: None })
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_verified_once_and_never_accepted_when_it_has_expired() {
        let verified = Verified::default();
        assert_eq!(shown(&verified, "a", 1, 0, Ok(caller(1000))), (true, true));
        assert_eq!(shown(&verified, "a", 1, 999, denied(DenialReason::Expired)), (true, false));
        assert_eq!(shown(&verified, "b", 1, 999, Ok(caller(2000))), (true, true), "another one");
        assert_eq!(shown(&verified, "a", 1, 1000, denied(DenialReason::Expired)), (false, true));
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!(shown(&verified, "b", 1, 1000, Ok(caller(2000))), (true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_counts_for_the_keys_it_was_reached_with() {
        let verified = Verified::default();
        assert_eq!(shown(&verified, "a", 1, 0, Ok(caller(1000))), (true, true));
        assert_eq!(shown(&verified, "a", 2, 0, denied(DenialReason::UnknownKey)), (false, true), "revoked");
        // One that began with the older keys and ends late changes nothing.
        assert_eq!(shown(&verified, "a", 1, 0, Ok(caller(1000))), (true, true));
        assert_eq!(shown(&verified, "a", 2, 0, denied(DenialReason::UnknownKey)), (false, true));
        assert_eq!(shown(&verified, "b", 2, 0, denied(DenialReason::WrongSignature)), (false, true));
        assert_eq!(shown(&verified, "b", 3, 0, Ok(caller(1000))), (true, true), "its key was added");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_signature_is_tried_once_and_what_may_become_good_again_and_again() {
        let verified = Verified::default();
        assert_eq!(shown(&verified, "a", 1, 0, denied(DenialReason::WrongSignature)), (false, true));
        assert_eq!(shown(&verified, "a", 1, 0, denied(DenialReason::WrongSignature)), (false, false));
        assert_eq!(shown(&verified, "b", 1, 0, denied(DenialReason::NotYetValid)), (false, true));
        assert_eq!(shown(&verified, "b", 1, 0, Ok(caller(9))), (true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_shown_the_memory_is_bounded() {
        let verified = Verified::default();
        for n in 0..3 * MAX_VERDICTS {
            shown(&verified, &format!("good {n}"), 1, 0, Ok(caller(1000)));
            shown(&verified, &format!("bad {n}"), 1, 0, denied(DenialReason::WrongSignature));
        }
        let state = verified.0.lock().unwrap();
        assert!(state.accepted.len() <= MAX_VERDICTS && state.refused.len() <= MAX_VERDICTS);
    }
}
