//! The pictures of a server-side viewer: when the next one is due, and how it is framed.
//!
//! At most one picture is under way: the viewer acknowledges each, and the next one waits for that, so a slow viewer is
//! sent fewer. A viewer that never acknowledges gets one.

use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::Message;

use crate::picture::{self, Words};

/// The shortest time between two pictures. It bounds what a farm of watched simulators costs.
const PERIOD: Duration = Duration::from_millis(250);

/// The pictures for one viewer.
#[derive(Debug)]
pub(crate) struct Stream {
    words: Words,
    /// Of the viewer's window, in pixels.
    size: (u16, u16),
    number: u32,
    due: Instant,
    unacknowledged: bool,
}

impl Stream {
    /// The first picture is due at once.
    pub(crate) fn new(words: Words, size: (u16, u16), now: Instant) -> Self {
        Self { words, size, number: 0, due: now, unacknowledged: false }
    }

    /// The viewer's window has another size now.
    pub(crate) fn resize(&mut self, size: (u16, u16)) {
        self.size = size;
    }

    pub(crate) fn acknowledge(&mut self) {
        self.unacknowledged = false;
    }

    /// How long until the next picture; `None` while the last one is not acknowledged.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        (!self.unacknowledged).then(|| self.due.saturating_duration_since(now))
    }

    /// The next picture as a frame.
    pub(crate) fn next(&mut self, now: Instant) -> Message {
        self.number = self.number.wrapping_add(1);
        self.due = now + PERIOD;
        self.unacknowledged = true;
        frame(&picture::draw(&self.words, self.size, self.number))
    }
}

/// A picture as the vendor's viewer reads it: a zero, how much of it to cut off at the right and at the bottom, an unused
/// byte, the length of a JSON text (big endian), that text, and the JPEG. The text says of which view it is a picture, and
/// that the view is complete.
fn frame(jpeg: &[u8]) -> Message {
    let about = json!({"draw_index": 0, "stats": {}, "quality": "high"}).to_string();
    let length = u32::try_from(about.len()).unwrap_or_default();
    let mut bytes = vec![0, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(about.into_bytes());
    bytes.extend(jpeg);
    Message::binary(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_picture_waits_for_the_acknowledgement_and_for_its_time() {
        let words = Words { spawn: "a".to_owned(), node: None, model: String::new() };
        let now = Instant::now();
        let mut stream = Stream::new(words, (64, 64), now);
        assert_eq!(stream.wait(now), Some(Duration::ZERO));
        let first = stream.next(now).into_data();
        assert_eq!(stream.wait(now + PERIOD * 9), None, "it is not acknowledged");
        stream.acknowledge();
        assert_eq!(stream.wait(now), Some(PERIOD));
        assert_eq!(stream.wait(now + PERIOD * 2), Some(Duration::ZERO));
        assert_ne!(stream.next(now + PERIOD).into_data(), first);
    }

    #[test]
    fn a_picture_is_framed_as_the_vendors_viewer_reads_it() {
        let bytes = frame(&[0xff, 0xd8, 0xff, 0xd9]).into_data();
        assert_eq!(bytes[..4], [0, 0, 0, 0]);
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        let about: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        assert_eq!(about["draw_index"], 0);
        assert_eq!(bytes[8 + length..], [0xff, 0xd8, 0xff, 0xd9]);
    }
}
