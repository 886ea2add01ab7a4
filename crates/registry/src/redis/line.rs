//! Reading the line, part by part: `lua/line.lua` reads one part, so that a long line never keeps the server from other calls for long.
//!
//! Failure: a place whose ticket cannot be read is left out and logged; what cannot be read of a waiter counts as unknown.

use std::collections::BTreeSet;

use model::{TicketId, Timestamp};
use redis::pipe;

use super::{Redis, unexpected};
use crate::error::RegistryError;
use crate::waiting::{MAX_LISTED, Pending, Place, Waiter, WaitingRequest, positions};

const CALL: &str = "line";
/// Places read in one step.
const PART: usize = 500;

impl Redis {
    pub(crate) async fn waiting(&self) -> Result<Vec<WaitingRequest>, RegistryError> {
        let (mut places, mut after) = (Vec::new(), "0".to_owned());
        while places.len() < MAX_LISTED {
            let part: Vec<String> = self
                .run(CALL, &self.0.scripts.line, |args| {
                    args.arg(&after).arg(PART.min(MAX_LISTED - places.len()));
                })
                .await?;
            let Some((next, listed)) = part.split_first() else { return Err(unexpected(CALL, "nothing")) };
            places.extend(listed.chunks_exact(3).filter_map(|words| self.place(words)));
            if next.is_empty() {
                break;
            }
            after.clone_from(next);
        }
        Ok(positions(places))
    }

    pub(crate) async fn is_waiting(&self, ticket: TicketId) -> Result<bool, RegistryError> {
        let mut read = pipe();
        read.zscore(self.key("line"), ticket.to_string());
        let (number,): (Option<String>,) = self.ask("is_waiting", &read).await?;
        Ok(number.is_some())
    }

    pub(crate) async fn pending(&self) -> Result<Pending, RegistryError> {
        let mut read = pipe();
        read.zcard(self.key("expiries")).zcard(self.key("line"));
        let (reserved, waiting) = self.ask("pending", &read).await?;
        Ok(Pending { reserved, waiting })
    }

    fn place(&self, words: &[String]) -> Option<Place> {
        let [ticket, waiter, queues] = words else { return None };
        let id = ticket.parse().map_err(|error| unexpected(CALL, format!("ticket {ticket:?}: {error}")));
        // What follows the last colon is the renderer.
        let kinds: BTreeSet<&str> =
            queues.lines().filter_map(|queue| Some(queue.rsplit_once(':')?.0)).collect();
        let (since, waiter) =
            read(waiter).map_or((None, None), |(since, waiter)| (Some(since), Some(waiter)));
        let kinds = kinds.into_iter().map(str::to_owned).collect();
        Some(Place { ticket: self.0.damaged.readable(ticket, id)?, kinds, since, waiter })
    }
}

/// `None` when it is absent or malformed.
fn read(text: &str) -> Option<(Timestamp, Waiter)> {
    let (since, waiter) = text.split_once(' ')?;
    Some((Timestamp::from_millis(since.parse().ok()?), serde_json::from_str(waiter).ok()?))
}
