//! The events of a spawn that is watched, as a front door writes them: server-sent events with JSON as data.

use bytes::{Bytes, BytesMut};
use model::api::{SpawnQueued, SpawnStarting};

/// How far a spawn has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits in line.
    Queued(SpawnQueued),
    /// Its server starts.
    Starting(SpawnStarting),
}

/// One event that this version understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Stage(Stage),
    /// The end: the answer, as it came.
    Ready(Bytes),
    /// The end: the problem, as it came.
    Problem(Bytes),
}

/// What has arrived of an event that is not whole.
#[derive(Debug, Default)]
pub(crate) struct Events(BytesMut);

impl Events {
    /// Takes in what has arrived, and gives the events that are whole. Comments, and events of a later version, are left out.
    pub(crate) fn push(&mut self, arrived: &[u8]) -> Vec<Event> {
        self.0.extend_from_slice(arrived);
        let mut events = Vec::new();
        while let Some(end) = self.0.windows(2).position(|two| two == b"\n\n") {
            let block = self.0.split_to(end + 2);
            events.extend(read(&block));
        }
        events
    }
}

fn read(block: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(block).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = field("data")?;
    Some(match field("event")? {
        "queued" => Event::Stage(Stage::Queued(serde_json::from_str(data).ok()?)),
        "starting" => Event::Stage(Stage::Starting(serde_json::from_str(data).ok()?)),
        "ready" => Event::Ready(Bytes::copy_from_slice(data.as_bytes())),
        "problem" => Event::Problem(Bytes::copy_from_slice(data.as_bytes())),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_arrive_and_what_is_not_known_is_left_out() {
        let text = ":\n\nevent: queued\ndata: {\"position\":2,\"estimateSeconds\":7}\n\nevent: later\ndata: {}\n\n\
            event: starting\ndata: {\"node\":\"a\",\"more\":1}\n\nretry: 2000\nevent: problem\ndata: {\"status\":503}\n\n\
            event: ready\ndata: {}\n\n";
        let expected = [
            Event::Stage(Stage::Queued(SpawnQueued { position: 2, estimate_seconds: Some(7) })),
            Event::Stage(Stage::Starting(SpawnStarting { node: "a".parse().unwrap() })),
            Event::Problem(Bytes::from_static(b"{\"status\":503}")),
            Event::Ready(Bytes::from_static(b"{}")),
        ];
        for size in [1, 7, 1000] {
            let mut events = Events::default();
            let read: Vec<Event> = text.as_bytes().chunks(size).flat_map(|part| events.push(part)).collect();
            assert_eq!(read, expected, "{size} bytes at a time");
        }
    }
}
