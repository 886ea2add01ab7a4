//! Pings of relays, and the filter that takes them, or their answers, out of a stream of frames.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use crate::frames::{Frames, Header, Part};

pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;
/// The final fragment of a message, as every control frame is.
const FINAL: u8 = 0x80;
/// The longest payload of a control frame.
const MAX_CONTROL: u64 = 125;

/// What the pings of one connection carry: the server's own, whose answers are the server's, carry something else. As text, it is
/// 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingTag([u8; 8]);

impl fmt::Display for PingTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for PingTag {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes()))
    }
}

impl PingTag {
    /// A tag of 64 random bits, which no ping of a server is expected to carry.
    #[must_use]
    pub fn mint() -> Self {
        Self(fastrand::u64(..).to_be_bytes())
    }

    /// A whole ping, as a server sends it.
    pub(crate) fn ping(self) -> [u8; 10] {
        let mut frame = [0; 10];
        frame[0] = FINAL | PING;
        frame[1] = 8;
        frame[2..].copy_from_slice(&self.0);
        frame
    }
}

/// Takes the control frames of one kind out that carry a tag: the answers to a relay's pings, or the pings.
#[derive(Debug)]
pub(crate) struct TagFilter {
    opcode: u8,
    tag: PingTag,
    frames: Frames,
    /// The frame that is under way, while it may be one of them.
    held: Option<(Header, Vec<u8>)>,
}

impl TagFilter {
    pub(crate) fn new(opcode: u8, tag: PingTag) -> Self {
        Self { opcode, tag, frames: Frames::default(), held: None }
    }

    /// Appends everything else to `passed`. Part of a header is kept until the rest of it is here. Returns how many frames have
    /// begun or come that are passed on.
    pub(crate) fn filter(&mut self, mut bytes: &[u8], passed: &mut Vec<u8>) -> u64 {
        let mut count = 0;
        while let Some(part) = self.frames.advance(bytes) {
            let size = match part {
                Part::Header(size, header) => {
                    let whole = self.frames.header(header);
                    if header.opcode == self.opcode && header.payload <= MAX_CONTROL {
                        self.held = Some((header, whole.to_vec()));
                    } else {
                        passed.extend_from_slice(whole);
                        count += 1;
                    }
                    size
                }
                Part::Beginning(size) => size,
                Part::Payload(size) => {
                    match &mut self.held {
                        Some((_, held)) => held.extend_from_slice(&bytes[..size]),
                        None => passed.extend_from_slice(&bytes[..size]),
                    }
                    size
                }
            };
            bytes = &bytes[size..];
            if self.frames.at_boundary()
                && let Some((header, frame)) = self.held.take()
                && !self.carries_tag(header, &frame)
            {
                passed.extend_from_slice(&frame);
                count += 1;
            }
        }
        count
    }

    fn carries_tag(&self, header: Header, frame: &[u8]) -> bool {
        let length = usize::try_from(header.payload).unwrap_or_default();
        let payload = &frame[frame.len() - length..];
        let mask = header.mask.unwrap_or_default();
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        payload.eq(self.tag.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frames::tests::frame;

    #[test]
    fn only_the_answers_to_the_relays_own_pings_are_taken_out() {
        let tag = PingTag([1, 2, 3, 4, 5, 6, 7, 8]);
        let mask = Some([9, 8, 7, 6]);
        let others = [
            frame(2, mask, b"data"),
            frame(PONG, mask, b""),
            frame(PONG, mask, &[1, 2, 3, 4, 5, 6, 7]),
            frame(PONG, mask, &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
            frame(PONG, None, b"server's"),
            frame(PING, mask, &tag.0),
            frame(8, mask, &[3, 232]),
        ];
        let mut filter = TagFilter::new(PONG, tag);
        let mut passed = Vec::new();
        let mut count = 0;
        for other in &others {
            count += filter.filter(&frame(PONG, mask, &tag.0), &mut passed);
            count += filter.filter(other, &mut passed);
            count += filter.filter(&frame(PONG, None, &tag.0), &mut passed);
        }
        assert_eq!(passed, others.concat());
        assert_eq!(count, 7);
    }

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        for tag in [PingTag([0; 8]), PingTag([0, 1, 2, 3, 4, 5, 6, 255]), PingTag::mint()] {
            assert_eq!(tag.to_string().len(), 16);
            assert_eq!(tag.to_string().parse(), Ok(tag));
        }
        for wrong in ["", "g", "11111111111111111"] {
            assert!(wrong.parse::<PingTag>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ping_is_one_whole_frame() {
        let tag = PingTag::mint();
        assert_eq!(tag.ping().to_vec(), frame(PING, None, &tag.0));
    }

    proptest! {
        #[test]
        fn what_is_passed_on_does_not_depend_on_the_pieces(
            frames in proptest::collection::vec(
                (any::<bool>(), 0u8..16, any::<[u8; 4]>(), proptest::collection::vec(any::<u8>(), 0..200)), 1..10),
            cuts in proptest::collection::vec(1usize..50, 1..20),
        ) {
            let tag = PingTag([8, 7, 6, 5, 4, 3, 2, 1]);
            let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
            for (answer, opcode, mask, payload) in &frames {
                if *answer {
                    bytes.extend(frame(PONG, Some(*mask), &tag.0));
                }
                let other = frame(*opcode, Some(*mask), payload);
                bytes.extend(&other);
                if (*opcode, payload.as_slice()) != (PONG, &tag.0) {
                    wanted.extend(other);
                }
            }
            let (mut filter, mut passed) = (TagFilter::new(PONG, tag), Vec::new());
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                filter.filter(piece, &mut passed);
                rest = later;
            }
            prop_assert_eq!(passed, wanted);
        }
    }
}
