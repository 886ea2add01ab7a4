//! Records that cannot be read. One never hides the others: lists leave it out, and the log names it from time to time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::RegistryError;

/// A record is named in the log no more often than this.
const INTERVAL: Duration = Duration::from_secs(300);
/// Records that are remembered as named. Beyond that the log is full enough.
const MAX_REMEMBERED: usize = 256;

/// The records that were logged, and when.
#[derive(Debug, Default)]
pub(super) struct Damaged(Mutex<HashMap<String, Instant>>);

impl Damaged {
    /// The record; `None`, and a line in the log, when it cannot be read.
    pub(super) fn readable<T>(&self, name: &str, record: Result<T, RegistryError>) -> Option<T> {
        let error = match record {
            Ok(record) => return Some(record),
            Err(error) => error,
        };
        if self.is_news(name) {
            tracing::warn!(record = name, %error, "a record of the registry cannot be read and is left out");
        }
        None
    }

    fn is_news(&self, name: &str) -> bool {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, at| at.elapsed() < INTERVAL);
        if named.contains_key(name) || named.len() >= MAX_REMEMBERED {
            return false;
        }
        named.insert(name.to_owned(), Instant::now());
        true
    }
}
