//! The indexes that lists of spawns walk along, newest first, in bounded steps.
//!
//! By when a spawn began: the index of all spawns, of a node, or of each owner that is asked for. By when it ended, where a list of all
//! spawns is about ends: then those that have not ended are not looked at, nor those that ended before.

use redis::pipe;

use super::Redis;
use crate::ask::{SpawnFilter, Walk as By};
use crate::error::RegistryError;
use crate::place_among_ends::PlaceAmongEnds;

/// What is walked along.
#[derive(Debug)]
pub(super) enum Walk {
    /// Sorted sets of spawns by the number of their first event; together in one order.
    Begun(Vec<String>),
    /// The sorted set of ended spawns, down to this moment in milliseconds.
    Ended(u64),
}

impl Redis {
    pub(super) fn walk(&self, filter: &SpawnFilter) -> Walk {
        match filter.walk() {
            By::Ends => Walk::Ended(filter.ended_since.map_or(0, |since| since.millis())),
            By::Owners => {
                let index = |owner| self.key(&format!("spawns-of:{owner}"));
                Walk::Begun(filter.owners.iter().map(index).collect())
            }
            By::Node(node) => Walk::Begun(vec![self.key(&format!("spawns:{node}"))]),
            By::All => Walk::Begun(vec![self.key("spawns")]),
        }
    }

    /// The next spawns after a place, at most so many, each with its place. Fewer: there are no more.
    pub(super) async fn walk_on(
        &self,
        walk: &Walk,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<(String, u64)>, RegistryError> {
        match walk {
            Walk::Begun(indexes) => self.begun(indexes, after, most).await,
            Walk::Ended(since) => self.ended(*since, after, most).await,
        }
    }

    async fn begun(
        &self,
        indexes: &[String],
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<(String, u64)>, RegistryError> {
        let below = after.map_or_else(|| "+inf".to_owned(), |seq| format!("({seq}"));
        let mut read = pipe();
        for index in indexes {
            read.cmd("ZREVRANGEBYSCORE").arg(index).arg(&below).arg("-inf");
            read.arg("WITHSCORES").arg("LIMIT").arg(0).arg(most);
        }
        let lists: Vec<Vec<(String, u64)>> = self.0.link.list("spawns", &read).await?;
        let several = lists.len() > 1;
        let mut ids: Vec<(String, u64)> = lists.into_iter().flatten().collect();
        if several {
            ids.sort_by_key(|id| std::cmp::Reverse(id.1));
            ids.dedup();
            ids.truncate(most);
        }
        Ok(ids)
    }

    async fn ended(
        &self,
        since: u64,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<(String, u64)>, RegistryError> {
        let after = after.map(PlaceAmongEnds::from);
        let (from, skip) = after.map_or(("+inf".to_owned(), 0), |place| (place.at.to_string(), place.among));
        let mut read = pipe();
        read.cmd("ZREVRANGEBYSCORE").arg(self.key("ended")).arg(from).arg(since);
        read.arg("WITHSCORES").arg("LIMIT").arg(skip).arg(most);
        let (ids,): (Vec<(String, u64)>,) = self.0.link.list("spawns", &read).await?;
        let mut place = after.unwrap_or_default();
        let placed = ids.into_iter().map(|(id, at)| {
            place = place.next(at);
            (id, place.into())
        });
        Ok(placed.collect())
    }
}
