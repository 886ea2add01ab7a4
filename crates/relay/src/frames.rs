//! Where the frames of a WebSocket begin and end (RFC 6455, section 5.2), in bytes that come in pieces.

/// The longest header: two bytes, eight of length, four of mask.
pub(crate) const MAX_HEADER: usize = 14;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) opcode: u8,
    pub(crate) mask: Option<[u8; 4]>,
    /// Bytes that follow it.
    pub(crate) payload: u64,
}

/// The next part of a stream of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// So many bytes complete a header; [`Frames::header`] has it as a whole.
    Header(usize, Header),
    /// So many bytes begin a header, or go on with it; more of it is to come.
    Beginning(usize),
    /// So many bytes of payload.
    Payload(usize),
}

/// A place in a stream of frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    header: [u8; MAX_HEADER],
    /// Bytes of the header that are here.
    known: usize,
    /// Bytes of the payload that are not.
    payload_left: u64,
}

impl Frames {
    /// Whether the last frame has come to its end and no other has begun.
    pub(crate) fn at_boundary(&self) -> bool {
        self.known == 0 && self.payload_left == 0
    }

    /// The bytes of the header that was completed last.
    pub(crate) fn header(&self, header: Header) -> &[u8] {
        &self.header[..size_of(self.header[1], header)]
    }

    /// Goes on by one part; `None` without bytes.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Option<Part> {
        if bytes.is_empty() {
            return None;
        }
        if self.payload_left > 0 {
            let part = bytes.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
            self.payload_left -= u64::try_from(part).unwrap_or(u64::MAX);
            return Some(Part::Payload(part));
        }
        for (index, byte) in bytes.iter().enumerate() {
            self.header[self.known] = *byte;
            self.known += 1;
            if let Some(header) = parse(&self.header[..self.known]) {
                self.known = 0;
                self.payload_left = header.payload;
                return Some(Part::Header(index + 1, header));
            }
        }
        Some(Part::Beginning(bytes.len()))
    }

    /// Goes on to the end of the frame that these bytes are in, or of the bytes. Returns how many bytes that is.
    pub(crate) fn advance_to_boundary(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(part) = self.advance(&bytes[done..]) {
            let (Part::Header(size, _) | Part::Beginning(size) | Part::Payload(size)) = part;
            done += size;
            if self.at_boundary() {
                break;
            }
        }
        done
    }
}

fn size_of(second: u8, header: Header) -> usize {
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if header.mask.is_some() { 4 } else { 0 }
}

/// The header in exactly these bytes; `None` when some are missing.
fn parse(bytes: &[u8]) -> Option<Header> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let mut rest = &bytes[2..];
    let payload = match second & 0x7f {
        126 => u64::from(u16::from_be_bytes(*take(&mut rest)?)),
        127 => u64::from_be_bytes(*take(&mut rest)?),
        short => u64::from(short),
    };
    let mask = if second & 0x80 == 0 { None } else { Some(*take(&mut rest)?) };
    Some(Header { opcode: first & 0x0f, mask, payload })
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client (masked) or a server sends it.
    pub(crate) fn frame(opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let masked = if mask.is_some() { 0x80 } else { 0 };
        match payload.len() {
            short @ 0..126 => frame.push(masked | u8::try_from(short).unwrap()),
            middle @ 126..=0xffff => {
                frame.push(masked | 126);
                frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
            }
            long => {
                frame.push(masked | 127);
                frame.extend(u64::try_from(long).unwrap().to_be_bytes());
            }
        }
        let mask = mask.inspect(|mask| frame.extend(mask)).unwrap_or_default();
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn headers_of_every_length_are_read() {
        for (length, size) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let bytes = frame(2, mask, &vec![7; length]);
                let mut frames = Frames::default();
                let size = size + mask.map_or(0, |mask| mask.len());
                let header = Header { opcode: 2, mask, payload: u64::try_from(length).unwrap() };
                assert_eq!(frames.advance(&bytes), Some(Part::Header(size, header)));
                assert_eq!(frames.header(header), &bytes[..size]);
                assert_eq!(frames.at_boundary(), length == 0);
                assert_eq!(frames.advance_to_boundary(&bytes[size..]), length);
                assert!(frames.at_boundary());
            }
        }
    }

    #[test]
    fn a_frame_without_an_end_has_none() {
        let mut frames = Frames::default();
        let header = [0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(frames.advance_to_boundary(&header), header.len());
        assert_eq!(frames.advance_to_boundary(&[0; 1000]), 1000);
        assert!(!frames.at_boundary());
    }

    #[test]
    fn any_stream_has_the_same_boundaries_in_one_piece_and_byte_by_byte() {
        fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/frames"), &["\u{7f}", "~"], |bytes| {
            let (mut whole, mut single) = (Frames::default(), Frames::default());
            let (mut at, mut ends) = (0, Vec::new());
            while at < bytes.len() {
                let done = whole.advance_to_boundary(&bytes[at..]);
                assert!(done > 0 && at + done <= bytes.len());
                at += done;
                if whole.at_boundary() {
                    ends.push(at);
                }
            }
            let is_end = |at: &usize| {
                assert_eq!(single.advance_to_boundary(&bytes[*at - 1..*at]), 1);
                single.at_boundary()
            };
            assert_eq!((1..=bytes.len()).filter(is_end).collect::<Vec<_>>(), ends);
        });
    }

    proptest! {
        #[test]
        fn boundaries_do_not_depend_on_the_pieces(
            payloads in proptest::collection::vec((0u8..16, any::<Option<[u8; 4]>>(), 0usize..300), 1..8),
            cuts in proptest::collection::vec(1usize..40, 1..20),
        ) {
            let mut bytes = Vec::new();
            let mut wanted = Vec::new();
            for (opcode, mask, length) in payloads {
                bytes.extend(frame(opcode, mask, &vec![9; length]));
                wanted.push(bytes.len());
            }
            let (mut frames, mut found, mut at) = (Frames::default(), Vec::new(), 0);
            let mut cuts = cuts.iter().cycle();
            while at < bytes.len() {
                let mut piece = &bytes[at..bytes.len().min(at + cuts.next().unwrap())];
                while !piece.is_empty() {
                    let done = frames.advance_to_boundary(piece);
                    at += done;
                    piece = &piece[done..];
                    if frames.at_boundary() {
                        found.push(at);
                    }
                }
            }
            prop_assert_eq!(found, wanted);
        }
    }
}
