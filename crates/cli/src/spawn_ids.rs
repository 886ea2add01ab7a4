//! Short ids of spawns: the end of an id stands for the whole, wherever a command takes one.
//!
//! Ids begin with the time (UUID version 7), so those of one morning begin alike; their ends are random. Which spawn an end means is
//! looked up in the front door's list. An end that no spawn has is left as it is: the front door then says that there is none.

use model::api::Spawn;

use crate::client::Client;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::pages::Pages;

/// An end must have so many characters.
const MIN: usize = 4;
/// So many spawns are looked through.
const MAX_SPAWNS: usize = 1_000_000;
/// So many candidates are named.
const MAX_NAMED: usize = 10;

/// Whether this is the end of an id, and not a whole one.
pub(crate) fn is_end(text: &str) -> bool {
    text.len() < 36 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// The whole ids of what was given.
///
/// # Errors
/// An end is too short, or several spawns have it: nothing was done.
pub(crate) async fn resolve_all(client: &Client, given: &[String]) -> Result<Vec<String>, Failure> {
    if let Some(short) = given.iter().find(|text| is_end(text) && text.len() < MIN) {
        let message = format!(
            "{short:?} is too short for the end of a spawn's id: at least {MIN} characters are wanted"
        );
        return Err(Failure::usage(message));
    }
    if !given.iter().any(|text| is_end(text)) {
        return Ok(given.to_vec());
    }
    let ends: Vec<String> = given.iter().map(|text| text.to_ascii_lowercase()).collect();
    let mut found: Vec<Vec<Spawn>> = vec![Vec::new(); given.len()];
    let mut pages = Pages::of(client, Filter::default());
    let mut looked_at = 0;
    while let Some(answer) = pages.next(usize::MAX).await? {
        looked_at += answer.value.spawns.len();
        for spawn in answer.value.spawns {
            let id = spawn.id.to_string();
            for (end, found) in ends.iter().zip(&mut found) {
                if is_end(end)
                    && id.ends_with(end.as_str())
                    && !found.iter().any(|other| other.id == spawn.id)
                {
                    found.push(spawn.clone());
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
pub(crate) async fn resolve(client: &Client, given: &str) -> Result<String, Failure> {
    let all = resolve_all(client, &[given.to_owned()]).await?;
    Ok(all.into_iter().next().unwrap_or_else(|| given.to_owned()))
}

fn chosen(given: &str, found: &[Spawn]) -> Result<String, Failure> {
    match found {
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
            ("nope", false),
            ("", false),
        ] {
            assert_eq!(is_end(text), end, "{text}");
        }
    }
}
