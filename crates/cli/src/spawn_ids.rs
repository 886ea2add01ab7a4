//! Short ids of spawns: the end of an id stands for the whole, wherever a command takes one.
//!
//! Ids begin with the time (UUID version 7), so those of one morning begin alike; their ends are random. Which spawn an end means is
//! looked up in the front door's list. An end that no spawn has is left as it is: the front door then says that there is none. The beginning
//! of an id is refused with words, since it is what fingers copy from elsewhere.
//!
//! An end that was mistyped may be another spawn's. A command that only reads takes four characters. One that ends a spawn wants eight: a
//! list of ten thousand spawns has a given end of four with a chance of one in seven, and one of eight with one in 400 000.

use model::SpawnId;
use model::api::Spawn;

use crate::client::Client;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::pages::Pages;
use crate::retry::patiently;

/// So many spawns are looked through.
const MAX_SPAWNS: usize = 1_000_000;
/// So many candidates are named.
const MAX_NAMED: usize = 10;

/// What a command does with a spawn that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Change,
}

impl Purpose {
    /// An end must have so many characters.
    fn min(self) -> usize {
        match self {
            Self::Read => 4,
            Self::Change => 8,
        }
    }
}

/// Whether this is the end of an id, and not a whole one in whatever form.
pub(crate) fn is_end(text: &str) -> bool {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    digits && text.len() < 36 && text.parse::<SpawnId>().is_err()
}

/// What an end, or what was taken for one, has in the list.
#[derive(Debug, Default, Clone)]
struct Found {
    ending: Vec<Spawn>,
    /// How many ids begin with it.
    beginning: usize,
}

/// The whole ids of what was given.
///
/// # Errors
/// An end is too short, several spawns have it, or it is the beginning of an id: nothing was done.
pub(crate) async fn resolve_all(
    client: &Client,
    given: &[String],
    purpose: Purpose,
) -> Result<Vec<String>, Failure> {
    if let Some(short) = given.iter().find(|text| is_end(text) && text.len() < purpose.min()) {
        let message = format!(
            "{short:?} is too short for the end of a spawn's id: expected at least {} characters{}",
            purpose.min(),
            if purpose == Purpose::Change { " where something is changed" } else { "" }
        );
        return Err(Failure::usage(message));
    }
    if !given.iter().any(|text| is_end(text)) {
        return Ok(given.to_vec());
    }
    let ends: Vec<String> = given.iter().map(|text| text.to_ascii_lowercase()).collect();
    let mut found = vec![Found::default(); given.len()];
    let mut pages = Pages::of(client, Filter::default());
    let mut looked_at = 0;
    while let Some(answer) = patiently(async || pages.next(usize::MAX).await).await? {
        looked_at += answer.value.spawns.len();
        for spawn in answer.value.spawns {
            let id = spawn.id.to_string();
            for (end, found) in ends.iter().zip(&mut found).filter(|(end, _)| is_end(end)) {
                found.beginning += usize::from(id.starts_with(end.as_str()));
                if id.ends_with(end.as_str()) && !found.ending.iter().any(|other| other.id == spawn.id) {
                    found.ending.push(spawn.clone());
                }
            }
        }
        if looked_at >= MAX_SPAWNS {
            return Err(Failure::usage(
                "there are too many spawns to look for the end of an id: give the whole id",
            ));
        }
    }
    given.iter().zip(found).map(|(given, found)| chosen(given, &found)).collect()
}

/// The whole id of one.
///
/// # Errors
/// As [`resolve_all`].
pub(crate) async fn resolve(client: &Client, given: &str, purpose: Purpose) -> Result<String, Failure> {
    let all = resolve_all(client, &[given.to_owned()], purpose).await?;
    Ok(all.into_iter().next().unwrap_or_else(|| given.to_owned()))
}

fn chosen(given: &str, found: &Found) -> Result<String, Failure> {
    if found.beginning > 0 {
        let ids = if found.beginning == 1 { "of one id" } else { "of several ids" };
        return Err(Failure::usage(format!(
            "{given:?} is the beginning {ids}: give the whole id, or its end. Ids begin with the time, those of one morning alike"
        )));
    }
    match found.ending.as_slice() {
        [] => Ok(given.to_owned()),
        [one] => Ok(one.id.to_string()),
        several => {
            let mut message =
                format!("{given:?} is the end of {} ids; give more of the one you mean:", several.len());
            for spawn in several.iter().take(MAX_NAMED) {
                message += &format!("\n  {}  {} on {}", spawn.id, spawn.state, spawn.node);
            }
            if several.len() > MAX_NAMED {
                message += &format!("\n  … and {} more", several.len() - MAX_NAMED);
            }
            Err(Failure::usage(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_less_than_a_whole_id() {
        for (text, end) in [
            ("9a8057", true),
            ("bcce-b302099a8057", true),
            ("9A8057", true),
            ("01890a5d-ac96-774b-bcce-b302099a8057", false),
            ("01890a5dac96774bbcceb302099a8057", false),
            ("nope", false),
            ("", false),
        ] {
            assert_eq!(is_end(text), end, "{text}");
        }
    }
}
