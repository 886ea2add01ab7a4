//! Tables that follow the farm: drawn again in place on a terminal, printed again after a change elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::call_error::CallError;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::feed::{Feed, News};

/// What happens within this time is shown at once.
const TOGETHER: Duration = Duration::from_millis(300);
/// How often values that are no events, such as loads and ages, are shown anew on a terminal.
const REFRESH: Duration = Duration::from_secs(2);

/// Shows a topic until Ctrl-C: each snapshot as `draw` writes it. `json` is for programs: one object a line, never drawn in place, and
/// only where something lasting has changed.
pub(crate) async fn follow(
    context: &Context,
    json: bool,
    topic: &str,
    mut draw: impl FnMut(Value, &mut Vec<u8>) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let terminal = !json && io::stdout().is_terminal();
    // Slots that are taken and given back are no events of nodes.
    let looks = terminal || json && topic == "nodes";
    let mut before = None;
    let mut feed = Feed::new(&context.client, &[topic.to_owned()]);
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupted => return Ok(Exit::Done),
            news = feed.next() => match news? {
                News::Event { event, .. } if event.get("kind").is_some_and(|kind| kind != "spawn.ping") => {
                    due.get_or_insert_with(|| Instant::now() + TOGETHER);
                }
                News::Event { .. } => {}
                News::Snapshot { snapshot, .. } => {
                    let mut text = Vec::new();
                    draw(snapshot, &mut text)?;
                    if json {
                        let now = lasting(&text);
                        if now.is_some() && before == now {
                            continue;
                        }
                        before = now;
                    }
                    show(&text, terminal, json)?;
                }
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && feed.is_connected() => {
                due = None;
                feed.refresh().await;
            }
            _ = refresh.tick(), if looks && feed.is_connected() => feed.refresh().await,
        }
    }
}

/// A snapshot as what it is made of.
pub(crate) fn read<T: DeserializeOwned>(context: &Context, snapshot: Value) -> Result<T, Failure> {
    let server = || context.client.server().clone();
    serde_json::from_value(snapshot)
        .map_err(|error| CallError::Unreadable { server: server(), why: error.to_string() }.into())
}

/// What a list says, without what is another with each heartbeat.
fn lasting(text: &[u8]) -> Option<Value> {
    let mut list: Value = serde_json::from_slice(text).ok()?;
    for all in list.as_object_mut()?.values_mut().filter_map(Value::as_array_mut) {
        for one in all.iter_mut().filter_map(Value::as_object_mut) {
            one.retain(|name, _| !["load", "lastHeartbeatAt", "lastPingAt"].contains(&name.as_str()));
        }
    }
    Some(list)
}

fn show(text: &[u8], terminal: bool, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if terminal {
        // Home, and each line cleared behind its end: nothing flickers.
        out.write_all(b"\x1b[H")?;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            out.write_all(line.strip_suffix(b"\n").unwrap_or(line))?;
            out.write_all(b"\x1b[K\r\n")?;
        }
        out.write_all(b"\x1b[J")?;
    } else {
        out.write_all(text)?;
        if !json {
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}
