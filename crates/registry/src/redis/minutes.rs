//! Counts of each minute: a hash for each, which lapses by itself. The scripts that change something count as they go, see
//! `lua/tally.lua`.

use model::minute::{MINUTES_KEPT, minute_of};
use model::{FarmSlots, Minute, Timestamp};
use redis::{Value, pipe};

use super::Redis;
use super::read::{Fields, text, value};
use crate::ask::Counts;
use crate::error::RegistryError;

/// Minutes read in one pipeline.
const CHUNK: usize = 500;

impl Redis {
    pub(crate) async fn add_counts(&self, counts: &Counts) -> Result<(), RegistryError> {
        let _: Value = self
            .run("count", &self.0.scripts.count, |args| {
                match counts.slots {
                    Some(FarmSlots { total, used }) => args.arg(used).arg(total),
                    None => args.arg("").arg(""),
                };
                for (code, count) in &counts.refused {
                    args.arg(*code).arg(*count);
                }
            })
            .await?;
        Ok(())
    }

    pub(crate) async fn minutes(&self, minutes: u32) -> Result<Vec<Minute>, RegistryError> {
        const CALL: &str = "minutes";
        let last = minute_of(self.now().await?);
        let first = (last + 1).saturating_sub(minutes.clamp(1, MINUTES_KEPT).into());
        let all: Vec<u64> = (first..=last).collect();
        let mut found = Vec::new();
        for chunk in all.chunks(CHUNK) {
            let mut read = pipe();
            for minute in chunk {
                read.hgetall(self.key(&format!("minute:{minute}")));
            }
            let counts = self.ask_each(CALL, &read).await?;
            found.extend(chunk.iter().zip(counts).filter_map(|(minute, fields)| {
                let fields: Fields = value(fields, CALL).ok()?;
                counted(*minute, &fields)
            }));
        }
        Ok(found)
    }
}

/// `None` where nothing was counted. What cannot be read counts as nothing.
fn counted(minute: u64, fields: &Fields) -> Option<Minute> {
    if fields.is_empty() {
        return None;
    }
    let count = |field: &str| text(fields, field).parse().unwrap_or_default();
    let parts = |prefix: &'static str| {
        fields
            .iter()
            .filter_map(move |(field, n)| Some((field.strip_prefix(prefix)?, n.parse::<u64>().ok()?)))
    };
    let slots = |field: &str| text(fields, field).parse().ok();
    Some(Minute {
        at: Timestamp::from_millis(minute * 60_000),
        started: count("started"),
        ready: count("ready"),
        ended: parts("e:").filter_map(|(reason, n)| Some((reason.parse().ok()?, n))).collect(),
        refused: parts("r:").map(|(code, n)| (code.to_owned(), n)).collect(),
        slots: slots("used").zip(slots("total")).map(|(used, total)| FarmSlots { total, used }),
    })
}
