//! The spawns that a filter means, page by page. Owns the cursor. Pages are read as they are asked for, so a command that needs ten
//! reads no more; a spawn that comes or goes between two pages is listed once or not at all.

use std::ops::AddAssign;

use model::api::{Spawn, SpawnList};

use crate::call_error::CallError;
use crate::client::{Answer, Client};
use crate::filter::Filter;

/// The most a front door lists in one answer.
pub(crate) const PAGE: u32 = 1000;

/// How many, as far as was counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) seen: usize,
    /// Whether more spawns were not looked at.
    pub(crate) and_more: bool,
}

impl Count {
    pub(crate) fn exactly(seen: usize) -> Self {
        Self { seen, and_more: false }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.and_more |= other.and_more;
    }
}

/// A list, page by page.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    client: &'a Client,
    filter: Filter,
    cursor: Option<String>,
    over: bool,
}

impl<'a> Pages<'a> {
    /// From the newest on.
    pub(crate) fn of(client: &'a Client, filter: Filter) -> Self {
        Self { client, filter, cursor: None, over: false }
    }

    /// Whether the last page was read.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Where the next page starts.
    pub(crate) fn cursor(self) -> Option<String> {
        self.cursor
    }

    /// The next page with at most so many; `None` after the last.
    pub(crate) async fn next(&mut self, most: usize) -> Result<Option<Answer<SpawnList>>, CallError> {
        if self.is_over() {
            return Ok(None);
        }
        let page = u32::try_from(most).unwrap_or(u32::MAX).clamp(1, PAGE);
        let answer = self.client.spawns(&self.filter, page, self.cursor.as_deref()).await?;
        let next = answer.value.next_cursor.clone();
        // One that stands still would be followed for ever.
        self.over = next.is_none() || next == self.cursor;
        self.cursor = next;
        Ok(Some(answer))
    }

    /// The first so many.
    pub(crate) async fn take(&mut self, most: usize) -> Result<Vec<Spawn>, CallError> {
        let mut spawns = Vec::new();
        // A page may be empty and still have one after it: a front door looks at so many spawns for one answer.
        while spawns.len() < most
            && let Some(answer) = self.next(most - spawns.len()).await?
        {
            spawns.extend(answer.value.spawns);
        }
        spawns.truncate(most);
        Ok(spawns)
    }

    /// How many there are beyond those that were taken; no more than so many are looked at.
    pub(crate) async fn count(&mut self, most: usize) -> Result<Count, CallError> {
        self.count_if(most, |_| true).await
    }

    /// How many of them are so.
    pub(crate) async fn count_if(
        &mut self,
        most: usize,
        is_meant: impl Fn(&Spawn) -> bool,
    ) -> Result<Count, CallError> {
        let (mut seen, mut looked_at) = (0, 0);
        while looked_at < most
            && let Some(answer) = self.next(most - looked_at).await?
        {
            looked_at += answer.value.spawns.len().max(1);
            seen += answer.value.spawns.iter().filter(|spawn| is_meant(spawn)).count();
        }
        Ok(Count { seen, and_more: !self.is_over() })
    }
}
