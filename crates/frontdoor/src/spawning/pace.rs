//! How fast the line moves: the estimate of when a waiter's turn comes.
//!
//! It is what was seen and no more: over the last minute, how many places those who wait for the same kinds of node have come forward,
//! be it because others were served or because they gave up. While too little was seen, there is no estimate.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use model::TicketId;
use registry::WaitingRequest;
use tokio::time::Instant;

/// What lies further back says nothing about now.
const WINDOW: Duration = Duration::from_secs(60);
/// Places that must have been gained within the window.
const MIN_GAINED: u64 = 3;
/// After a longer time without a look, what was seen before does not count.
const MAX_GAP: Duration = Duration::from_secs(15);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pace {
    seen: Option<Instant>,
    /// Positions at the last look.
    positions: HashMap<TicketId, u64>,
    /// By the kinds of node that are waited for.
    groups: HashMap<Vec<String>, Group>,
}

/// Those who wait for the same kinds of node.
#[derive(Debug)]
struct Group {
    since: Instant,
    /// Places gained between one look and the next, with the moment of the later one.
    gained: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Takes in a look at the line.
    pub(super) fn observe(&mut self, now: Instant, line: &[WaitingRequest]) {
        if self.seen.is_none_or(|seen| now - seen > MAX_GAP) {
            *self = Self::default();
        }
        self.seen = Some(now);
        // The last of a group that was there before has all of the others before it.
        let mut gained: HashMap<&[String], u64> = HashMap::new();
        for waiting in line {
            let before = self.positions.get(&waiting.ticket);
            let places = before.map_or(0, |before| before.saturating_sub(waiting.position));
            let entry = gained.entry(&waiting.kinds).or_default();
            if before.is_some() {
                *entry = places;
            }
        }
        self.groups.retain(|kinds, _| gained.contains_key(kinds.as_slice()));
        for (kinds, places) in gained {
            let new = || Group { since: now, gained: VecDeque::new() };
            let group = self.groups.entry(kinds.to_vec()).or_insert_with(new);
            if places > 0 {
                group.gained.push_back((now, places));
            }
            group.gained.retain(|(at, _)| now - *at <= WINDOW);
        }
        self.positions = line.iter().map(|waiting| (waiting.ticket, waiting.position)).collect();
    }

    /// Seconds until the turn of one at this position, if the line goes on as it went.
    pub(super) fn estimate(&self, now: Instant, waiting: &WaitingRequest) -> Option<u64> {
        let group = self.groups.get(&waiting.kinds)?;
        let gained: u64 = group.gained.iter().map(|(_, places)| places).sum();
        if gained < MIN_GAINED {
            return None;
        }
        let observed = u64::try_from((now - group.since).min(WINDOW).as_millis()).ok()?;
        Some((waiting.position * observed).div_ceil(gained * 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tickets: &[TicketId]) -> Vec<WaitingRequest> {
        let place = |(position, ticket): (u64, &TicketId)| WaitingRequest {
            ticket: *ticket,
            position,
            kinds: vec!["kind".to_owned()],
            since: None,
            demand: None,
            owner: None,
        };
        (1..).zip(tickets).map(place).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_estimate_is_what_was_seen_of_the_line_and_nothing_while_that_is_too_little() {
        let (mut pace, tickets) = (Pace::default(), [(); 20].map(|()| TicketId::mint()));
        // One is served every 4 s.
        for served in 0..12 {
            let (now, left) = (Instant::now(), line(&tickets[served..]));
            pace.observe(now, &left);
            let last = left.last().unwrap();
            let expected = (served >= 3).then_some(last.position * 4);
            assert_eq!(pace.estimate(now, last), expected, "{served} served");
            tokio::time::advance(Duration::from_secs(4)).await;
        }
        // Nothing moves any more: it takes longer and longer, and in the end there is nothing to go by.
        let mut before = Some(0);
        for second in 0..70 {
            let (now, left) = (Instant::now(), line(&tickets[11..]));
            pace.observe(now, &left);
            let estimate = pace.estimate(now, &left[0]);
            assert!(estimate.is_none() || estimate >= before, "{second}: {estimate:?} after {before:?}");
            before = estimate;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(before, None);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_for_other_nodes_have_a_pace_of_their_own() {
        let (mut pace, tickets) = (Pace::default(), [(); 10].map(|()| TicketId::mint()));
        let other = WaitingRequest { kinds: vec!["other".to_owned()], ..line(&[TicketId::mint()]).remove(0) };
        for served in 0..6 {
            let mut all = line(&tickets[served..]);
            all.push(other.clone());
            pace.observe(Instant::now(), &all);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(pace.estimate(Instant::now(), &other), None);
        assert!(pace.estimate(Instant::now(), &line(&tickets[5..])[0]).is_some());
        tokio::time::advance(MAX_GAP).await;
        pace.observe(Instant::now(), &line(&tickets[9..]));
        assert_eq!(pace.estimate(Instant::now(), &line(&tickets[9..])[0]), None, "that was too long ago");
    }
}
