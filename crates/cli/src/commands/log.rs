//! `hatchery log`: what a spawn wrote to its output, the last lines or as it comes. The node's agent has the file; it is read through
//! the front door.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use model::SpawnState;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::ClientFlags;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{printable, write_json};
use crate::spawn_ids::{self, Purpose};

/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(500);
/// Lines fetched at each look: more than a server writes between two, so that none is missed.
const WINDOW: u32 = 1000;
/// The most a front door hands out.
const MAX_LINES: i64 = 10_000;

/// Prints the last lines of a spawn's output.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery log 456789ab\n  \
    hatchery log 01987a5e-2f30-7c41-9d5c-0123456789ab -n 500\n  \
    hatchery log 01987a5e-2f30-7c41-9d5c-0123456789ab -f\n\n\
    With --json each line is an object {\"line\": …}.")]
pub(crate) struct LogArgs {
    /// The spawn's id, or its end
    #[arg(value_name = "ID")]
    id: String,
    /// How many lines
    #[arg(
        short = 'n',
        long,
        value_name = "COUNT",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=MAX_LINES)
    )]
    lines: u32,
    /// Go on until the spawn has ended
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &LogArgs) -> Result<Exit, Failure> {
    let id = spawn_ids::resolve(&context.client, &args.id, Purpose::Read).await?;
    if !args.follow {
        let text = context.client.log(&id, args.lines).await?;
        write(context, String::from_utf8_lossy(&text).lines())?;
        return Ok(Exit::Done);
    }
    let mut tail = Tail::default();
    let mut first = true;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        // The state first: what was written before the end is then in the log.
        let spawn = context.client.show(&id).await?.value;
        let over = matches!(spawn.state, SpawnState::Exited | SpawnState::Lost);
        let text = context.client.log(&id, WINDOW.max(args.lines)).await?;
        let mut news = tail.take_in(&String::from_utf8_lossy(&text), over);
        if std::mem::take(&mut first) {
            let wanted = usize::try_from(args.lines).unwrap_or(usize::MAX);
            news.drain(..news.len().saturating_sub(wanted));
        }
        write(context, news.iter().map(String::as_str))?;
        match spawn.state {
            SpawnState::Exited => return Ok(Exit::Done),
            SpawnState::Lost => {
                return Err(Failure::failed(format!("node {} is gone, and the spawn with it", spawn.node)));
            }
            _ => {}
        }
    }
}

fn write<'a>(context: &Context, lines: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        if context.json {
            write_json(&mut out, json!({ "line": line }).to_string().as_bytes())?;
        } else {
            // Also where it is no terminal: what reads it may hand it on to one.
            writeln!(out, "{}", printable(line))?;
        }
    }
    out.flush()
}

/// What has been seen of a log of which only the end can be asked for.
#[derive(Debug, Default)]
struct Tail {
    /// At the last look.
    lines: Vec<String>,
    /// How many of them were handed on; all, or all but the last.
    known: usize,
}

impl Tail {
    /// The lines of the log's end that have not been handed on. The last one may still be being written: it waits
    /// until it is followed by another, has not changed between two looks, or it is the last time.
    fn take_in(&mut self, text: &str, last_time: bool) -> Vec<String> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let settled = last_time || lines == self.lines;
        let until = if settled { lines.len() } else { lines.len().saturating_sub(1) };
        // The log has grown by the least that explains what is there now.
        let seen = &self.lines[..self.known];
        let gone = (0..=seen.len()).find(|gone| lines.starts_with(&seen[*gone..])).unwrap_or(0);
        let known = seen.len() - gone;
        let news = lines[known.min(until)..until].to_vec();
        self.known = until.max(known);
        self.lines = lines;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [&str; 0] = [];

    #[test]
    fn each_line_is_printed_once_however_the_window_moves() {
        let mut tail = Tail::default();
        assert_eq!(tail.take_in("a\nb\n", false), ["a"]);
        assert_eq!(tail.take_in("a\nb\n", false), ["b"]);
        assert_eq!(tail.take_in("a\nb\n", false), NOTHING);
        assert_eq!(tail.take_in("a\nb\nb\nc\nd\n", false), ["b", "c"], "grown");
        assert_eq!(tail.take_in("b\nc\nd\ne\n", false), ["d"], "moved on");
        assert_eq!(tail.take_in("x\ny\n", false), ["x"], "nothing in common");
        assert_eq!(tail.take_in("x\ny\n", true), ["y"]);
    }

    #[test]
    fn a_line_that_is_being_written_waits_for_its_end() {
        let mut tail = Tail::default();
        assert_eq!(tail.take_in("a\nhal\n", false), ["a"]);
        assert_eq!(tail.take_in("a\nhalf\n", false), NOTHING);
        assert_eq!(tail.take_in("a\nhalf\n", false), ["half"]);
        assert_eq!(tail.take_in("a\nhalf\nlast", true), ["last"]);
        assert_eq!(Tail::default().take_in("", true), NOTHING);
    }
}
