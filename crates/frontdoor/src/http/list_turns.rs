//! Turns of the lists that callers ask for. A list that looks at many records keeps the registry busy for a while, so long ones are read one
//! at a time for a caller and a few at a time for all, in the order in which they were asked for.
//!
//! Owns: the turns of this front door. Invariants: a caller has one long list under way; what its lists look at is charged to its account,
//! also where it hangs up. Failure: a list that has no turn within [`MAX_WAIT`] is refused (`rate-limited`), and costs the registry nothing.

use std::time::Duration;

use registry::RegistryError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use super::error::ApiError;
use crate::callers::{Account, LimitExceeded};

/// Long lists that are read at once for all callers.
const AT_ONCE: usize = 2;
/// How long a list waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// A list that looks at no more records than this is not long.
pub(super) const SHORT: usize = 100;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct ListTurns(Semaphore);

impl Default for ListTurns {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// Charges a list to its caller when it is over, or given up.
struct Charge<'a> {
    account: Option<&'a Account>,
    began: Instant,
    looked_at: Option<usize>,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if let Some(account) = self.account {
            // What its caller gave up kept the registry busy for no longer than this.
            account.listed(self.looked_at.map_or_else(|| self.began.elapsed(), Account::time_of));
        }
    }
}

impl ListTurns {
    /// Reads a list when it is its turn. `looked_at`: the records that were looked at for it.
    pub(super) async fn read<T>(
        &self,
        account: Option<&Account>,
        is_long: bool,
        list: impl Future<Output = Result<T, RegistryError>>,
        looked_at: impl FnOnce(&T) -> usize,
    ) -> Result<T, ApiError> {
        let refused = |wait| account.map_or(LimitExceeded::NoTurn { wait }, |account| account.no_turn(wait));
        let rest = account.map_or(Duration::ZERO, Account::rest_of_lists);
        if rest > MAX_WAIT {
            return Err(refused(Some(rest)).into());
        }
        let turn = timeout(MAX_WAIT, self.turn(account, is_long)).await;
        let _turn = turn.map_err(|_| refused(None))?;
        let mut charge = Charge { account, began: Instant::now(), looked_at: None };
        let list = list.await?;
        charge.looked_at = Some(looked_at(&list));
        Ok(list)
    }

    async fn turn<'a>(
        &'a self,
        account: Option<&'a Account>,
        is_long: bool,
    ) -> [Option<SemaphorePermit<'a>>; 2] {
        let own = match account {
            Some(account) if is_long => account.lister.acquire().await.ok(),
            _ => None,
        };
        if let Some(account) = account {
            sleep(account.rest_of_lists()).await;
        }
        [own, if is_long { self.0.acquire().await.ok() } else { None }]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use model::api::ErrorCode;

    use super::*;
    use crate::callers::{AccountHolder, Callers};
    use crate::metrics::CallerRefusals;
    use crate::settings::Limits;

    fn accounts<const N: usize>() -> [Arc<Account>; N] {
        let callers = Callers::new(Limits::default(), CallerRefusals::default());
        std::array::from_fn(|n| callers.of(AccountHolder::Owner(format!("key:{n}").parse().unwrap())))
    }

    /// The most that are read at once, and how many are refused, when each of these callers asks for so many that take 300 ms.
    async fn crowd(accounts: &[Arc<Account>], lists: usize) -> (usize, usize) {
        let (turns, now, most) = (ListTurns::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        let list = || async {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(300)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        };
        let asked = accounts.iter().flat_map(|account| std::iter::repeat_n(account, lists));
        let answers = join_all(asked.map(|account| turns.read(Some(account), true, list(), |()| 5000))).await;
        let refused = answers.into_iter().filter_map(Result::err);
        let refused = refused.inspect(|error| assert_eq!(error.0.code, ErrorCode::RateLimited)).count();
        (most.into_inner(), refused)
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_one_long_list_at_a_time_and_all_together_two() {
        assert_eq!(crowd(&accounts::<1>(), 4).await, (1, 0));
        assert_eq!(crowd(&accounts::<6>(), 1).await, (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_list_that_has_no_turn_in_time_is_refused_and_not_read() {
        assert_eq!(crowd(&accounts::<1>(), 100).await, (1, 93));
        // The last of those that are being read when the time is over.
        assert_eq!(crowd(&accounts::<100>(), 1).await, (2, 86));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_has_all_records_looked_at_again_and_again_has_a_pace_and_another_has_none() {
        let [greedy, other] = accounts();
        let turns = ListTurns::default();
        let ask = async |account: &Account, looked_at: usize| {
            let began = Instant::now();
            turns.read(Some(account), true, async { Ok(()) }, |()| looked_at).await.map(|()| began.elapsed())
        };
        for _ in 0..40 {
            assert!(ask(&greedy, 5000).await.unwrap().is_zero(), "two hundred thousand records at once");
        }
        for _ in 0..10 {
            assert!(ask(&greedy, 5000).await.unwrap() <= Duration::from_millis(260));
        }
        assert!(!ask(&greedy, 5000).await.unwrap().is_zero());
        assert!(ask(&other, 5000).await.unwrap().is_zero());
        // A long list that costs more than the longest wait, and one after that.
        ask(&greedy, 100_000).await.unwrap();
        let refused = ask(&greedy, 1).await.unwrap_err();
        assert!(refused.0.retry_after.is_some_and(|wait| wait > MAX_WAIT), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_whose_caller_hangs_up_is_charged_and_a_short_one_waits_for_no_turn() {
        let [account] = accounts();
        let turns = ListTurns::default();
        let list = turns.read(Some(&account), true, std::future::pending::<Result<(), _>>(), |()| 0);
        timeout(Duration::from_millis(2500), list).await.unwrap_err();
        // Five times what it took, less ten seconds.
        let rest = account.rest_of_lists();
        assert!(rest.abs_diff(Duration::from_millis(2500)) < Duration::from_millis(50), "{rest:?}");
        let [other] = accounts();
        let endless = turns.read(Some(&other), true, std::future::pending::<Result<(), _>>(), |()| 0);
        let short = turns.read(Some(&other), false, async { Ok(()) }, |()| 1);
        tokio::select! {
            biased;
            _ = endless => panic!("it does not end"),
            short = short => short.unwrap(),
        }
    }
}
