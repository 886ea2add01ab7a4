//! `hatchery watch`: what happens on the farm, as it happens. Follows the live feed, connects again from the last event on, and
//! prints each event once.

use std::collections::BTreeSet;
use std::io::{self, Write};

use clap::Args;
use model::{NodeId, SpawnId};
use serde_json::Value;

use crate::args::ClientFlags;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::feed::{Feed, News};
use crate::output::printable;
use crate::spawn_ids::{self, Purpose};
use crate::standard_error::say;

/// More events than a front door sends at once after a gap.
const MAX_SEEN: usize = 20_000;

/// Prints what happens on the farm, one line an event, until Ctrl-C.
///
/// When the connection breaks it is made anew, and goes on with the first event that was missed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery watch\n  \
    hatchery watch nodes\n  \
    hatchery watch node:node-a\n  \
    hatchery watch 'spawns?node=node-a'\n  \
    hatchery watch spawns --json | jq -r 'select(.kind == \"spawn.exited\") | .exit.reason'")]
pub(crate) struct WatchArgs {
    /// nodes, spawns, spawns?node=NODE&owner=OWNER&tag=KEY=VALUE, node:NODE or spawn:ID [default: nodes spawns]
    #[arg(value_name = "TOPIC", value_parser = topic)]
    topics: Vec<String>,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

fn topic(text: &str) -> Result<String, String> {
    // What follows is for the front door to judge.
    if text.starts_with("spawns?") {
        return Ok(text.to_owned());
    }
    match text.split_once(':') {
        None if text == "nodes" || text == "spawns" => Ok(text.to_owned()),
        Some(("node", id)) => match id.parse::<NodeId>() {
            Ok(_) => Ok(text.to_owned()),
            Err(why) => Err(format!("the node's name {why}")),
        },
        // In the form in which the front door repeats it.
        Some(("spawn", id)) => match id.parse::<SpawnId>() {
            Ok(id) => Ok(format!("spawn:{id}")),
            // Which spawn that is the front door knows.
            Err(_) if spawn_ids::is_end(id) => Ok(text.to_owned()),
            Err(why) => Err(format!("the spawn's id {why}")),
        },
        _ => Err("expected nodes, spawns, spawns?…, node:NODE or spawn:ID".to_owned()),
    }
}

pub(crate) async fn run(context: &Context, args: &WatchArgs) -> Result<Exit, Failure> {
    let mut topics = args.topics.clone();
    if topics.is_empty() {
        topics = ["nodes", "spawns"].map(str::to_owned).to_vec();
    }
    for topic in &mut topics {
        if let Some(end) = topic.strip_prefix("spawn:").filter(|id| spawn_ids::is_end(id)) {
            *topic = whole(context, end).await?;
        }
    }
    topics.sort_unstable();
    topics.dedup();
    let mut feed = Feed::new(&context.client, &topics);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut seen = Printed::default();
    loop {
        let news = tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(Exit::Done),
            news = feed.next() => news?,
        };
        match news {
            News::Snapshot { gap: true, .. } => {
                seen = Printed::default();
                say("events may have been missed: the farm's record of them begins anew");
            }
            News::Snapshot { gap: false, .. } => {}
            News::Event { event, text } => {
                if event.get("seq").and_then(Value::as_u64).is_some_and(|seq| !seen.is_new(seq)) {
                    continue;
                }
                let mut out = io::stdout().lock();
                if context.json {
                    writeln!(out, "{text}")?;
                } else {
                    writeln!(out, "{}", printable(&line(&event)))?;
                }
                out.flush()?;
            }
        }
    }
}

/// The topic of the spawn whose id ends so.
async fn whole(context: &Context, end: &str) -> Result<String, Failure> {
    let id = spawn_ids::resolve(&context.client, end, Purpose::Read).await?;
    if spawn_ids::is_end(&id) {
        return Err(Failure::Said(Exit::NotFound, format!("no spawn's id ends with {end}")));
    }
    Ok(format!("spawn:{id}"))
}

/// The events that were printed of late. One that belongs to several topics comes on each of them, after a break in the connection
/// with others between.
#[derive(Debug, Default)]
struct Printed(BTreeSet<u64>);

impl Printed {
    fn is_new(&mut self, seq: u64) -> bool {
        let new = self.0.insert(seq);
        if self.0.len() > MAX_SEEN {
            self.0.pop_first();
        }
        new
    }
}

/// Time, kind, node, spawn, and what else there is to say.
fn line(event: &Value) -> String {
    let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or("-");
    let mut line = format!("{}  {:18}  {}  {}", text("at"), text("kind"), text("node"), text("spawn"));
    for (name, value) in event.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("type" | "topic" | "seq" | "at" | "kind" | "node" | "spawn", _) => {}
            ("pings", Value::Object(pings)) => line += &format!("  {} spawns", pings.len()),
            ("exit", Value::Object(exit)) => {
                for (name, value) in exit {
                    line += &format!("  {name}={}", bare(value));
                }
            }
            (name, value) => line += &format!("  {name}={}", bare(value)),
        }
    }
    line
}

fn bare(value: &Value) -> String {
    match value {
        Value::String(text) if !text.contains(' ') => text.clone(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn topics_are_checked_before_anything_is_connected() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        for good in ["nodes", "spawns", "spawns?node=node-a", "node:node-a", &format!("spawn:{id}")] {
            assert_eq!(topic(good), Ok(good.to_owned()));
        }
        assert_eq!(topic(&format!("spawn:{}", id.to_uppercase())), Ok(format!("spawn:{id}")));
        assert_eq!(topic("spawn:9a8057"), Ok("spawn:9a8057".to_owned()), "the end of an id");
        for bad in ["", "node", "node:", "node:a b", "spawn:", "spawn:x", "everything"] {
            assert!(topic(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_two_topics_have_is_printed_once_also_in_any_order() {
        let mut seen = Printed::default();
        let order = [1, 1, 2, 3, 4, 2, 3, 4, 5];
        assert_eq!(order.into_iter().filter(|seq| seen.is_new(*seq)).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        for seq in 0..100_000 {
            seen.is_new(seq);
        }
        assert!(seen.0.len() <= MAX_SEEN);
    }

    #[test]
    fn an_event_is_one_line() {
        for (event, wanted) in [
            (
                json!({"type": "event", "topic": "spawns", "seq": 7, "at": "T", "kind": "spawn.exited", "node": "a",
                    "spawn": "S", "exit": {"reason": "failed", "code": 6, "text": "invalid license"}}),
                "T  spawn.exited        a  S  code=6  reason=failed  text=\"invalid license\"",
            ),
            (
                json!({"seq": 7, "at": "T", "kind": "spawn.ping", "node": "a", "pings": {"S": "T", "U": "T"}}),
                "T  spawn.ping          a  -  2 spawns",
            ),
            (json!({"seq": 7, "at": "T", "kind": "node.up", "node": "a"}), "T  node.up             a  -"),
        ] {
            assert_eq!(line(&event), wanted);
        }
    }
}
