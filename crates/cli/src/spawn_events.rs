//! The events of a spawn that is watched, as a front door sends them: what server-sent events (parsed by `sse-stream`) say.

use bytes::Bytes;
use model::api::{SpawnQueued, SpawnStarting};
use sse_stream::Sse;

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
pub(crate) enum StreamedEvent {
    Stage(Stage),
    /// The end: the answer, as it came.
    Ready(Bytes),
    /// The end: the problem, as it came.
    Problem(Bytes),
}

impl StreamedEvent {
    /// What an event says; `None` for one of a later version.
    pub(crate) fn read(sse: Sse) -> Option<Self> {
        let data = sse.data?;
        Some(match sse.event?.as_str() {
            "queued" => Self::Stage(Stage::Queued(serde_json::from_str(&data).ok()?)),
            "starting" => Self::Stage(Stage::Starting(serde_json::from_str(&data).ok()?)),
            "ready" => Self::Ready(data.into()),
            "problem" => Self::Problem(data.into()),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures_util::{StreamExt, stream};
    use sse_stream::SseStream;

    use super::*;

    #[tokio::test]
    async fn events_are_read_however_they_arrive_and_what_is_not_known_is_left_out() {
        let text = ":\n\nevent: queued\ndata: {\"position\":2,\"estimateSeconds\":7}\n\nevent: later\ndata: {}\n\n\
            event: starting\ndata: {\"node\":\"a\",\"more\":1}\n\nretry: 2000\nevent: problem\ndata: {\"status\":503}\n\n\
            event: ready\ndata: {}\n\n";
        let expected = [
            StreamedEvent::Stage(Stage::Queued(SpawnQueued { position: 2, estimate_seconds: Some(7) })),
            StreamedEvent::Stage(Stage::Starting(SpawnStarting { node: "a".parse().unwrap() })),
            StreamedEvent::Problem(Bytes::from_static(b"{\"status\":503}")),
            StreamedEvent::Ready(Bytes::from_static(b"{}")),
        ];
        for size in [1, 7, 1000] {
            let parts: Vec<io::Result<Bytes>> =
                text.as_bytes().chunks(size).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let events = SseStream::from_bytes_stream(stream::iter(parts));
            let read: Vec<StreamedEvent> =
                events.filter_map(async |sse| StreamedEvent::read(sse.unwrap())).collect().await;
            assert_eq!(read, expected, "{size} bytes at a time");
        }
    }
}
