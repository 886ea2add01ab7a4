//! The head of an HTTP/1 request, as far as a report needs it.

const EMPTY_CHUNKED: &str = "0\r\n\r\n";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    /// Whether this is the last request on its connection.
    pub(super) close: bool,
    /// The host that the request is for, as far as the head says it.
    pub(super) host: Option<&'a str>,
    /// Whether a browser sent it for a page: servers send neither of the headers that say so.
    pub(super) from_page: bool,
    /// Bytes of the head.
    pub(super) length: usize,
    /// Bytes of the body after it.
    pub(super) body: usize,
}

/// What a buffer begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// The beginning of a head.
    Partial,
    Whole(Head<'a>),
    /// Nothing that can be answered and gone on from.
    Bad,
}

pub(super) fn parse(buffer: &[u8]) -> Parsed<'_> {
    let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else { return Parsed::Partial };
    whole(&buffer[..end]).map_or(Parsed::Bad, Parsed::Whole)
}

fn whole(bytes: &[u8]) -> Option<Head<'_>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || method.is_empty() || target.is_empty() {
        return None;
    }
    let mut head = Head {
        method,
        target,
        close: match version {
            "HTTP/1.1" => false,
            "HTTP/1.0" => true,
            _ => return None,
        },
        host: None,
        from_page: false,
        length: bytes.len() + 4,
        body: 0,
    };
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("host") {
            // Two are none that can be trusted.
            head.host = Some(if head.host.is_some() { "" } else { value });
        } else if name.eq_ignore_ascii_case("origin") || name.eq_ignore_ascii_case("sec-fetch-site") {
            head.from_page = true;
        } else if name.eq_ignore_ascii_case("content-length") {
            head.body = value.parse().ok()?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            // How HTTP libraries send a body whose length they do not know. It is empty; anything else is not read.
            if !value.eq_ignore_ascii_case("chunked") {
                return None;
            }
            head.body = EMPTY_CHUNKED.len();
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            head.close = true;
        }
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Option<(String, String, bool, usize)> {
        match parse(text.as_bytes()) {
            Parsed::Whole(h) => Some((h.method.to_owned(), h.target.to_owned(), h.close, h.body)),
            Parsed::Partial | Parsed::Bad => None,
        }
    }

    #[test]
    fn heads_are_read_as_far_as_they_matter() {
        let post = |target: &str, close, body| Some(("POST".to_owned(), target.to_owned(), close, body));
        for (text, want) in [
            ("POST /a?b=c HTTP/1.1\r\n\r\n", post("/a?b=c", false, 0)),
            ("POST /a HTTP/1.0\r\nHost: x\r\n\r\n", post("/a", true, 0)),
            ("POST /a HTTP/1.1\r\nConnection: close\r\ncontent-LENGTH: 12\r\n\r\n{}", post("/a", true, 12)),
            ("POST /a HTTP/1.1\r\nConnection: keep-alive\r\nX:\r\n\r\n", post("/a", false, 0)),
            ("POST /a HTTP/2\r\n\r\n", None),
            ("POST /a b HTTP/1.1\r\n\r\n", None),
            ("POST HTTP/1.1\r\n\r\n", None),
            ("POST /a HTTP/1.1\r\nno colon\r\n\r\n", None),
            ("POST /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n", None),
            ("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", post("/a", false, 5)),
            ("POST /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", None),
        ] {
            assert_eq!(head(text), want, "{text:?}");
        }
    }

    #[test]
    fn a_head_says_for_which_host_it_is_and_whether_a_page_sent_it() {
        for (lines, host, from_page) in [
            ("", None, false),
            ("Host: 127.0.0.1:7071", Some("127.0.0.1:7071"), false),
            ("host:evil.example", Some("evil.example"), false),
            ("Host: localhost\r\nHost: localhost", Some(""), false),
            ("Host: localhost\r\nOrigin: null", Some("localhost"), true),
            ("Sec-Fetch-Site: cross-site", None, true),
        ] {
            let end = if lines.is_empty() { "" } else { "\r\n" };
            let text = format!("POST /a HTTP/1.1\r\n{lines}{end}\r\n");
            let Parsed::Whole(head) = parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!((head.host, head.from_page), (host, from_page), "{text}");
        }
    }

    #[test]
    fn what_resembles_a_report_is_read_within_its_bytes_or_refused() {
        let words =
            ["\r\n\r\n", "Content-Length: ", "Transfer-Encoding: chunked", "Connection: close", " HTTP/1.1"];
        fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/reports"), &words, |bytes| {
            let has_end = bytes.windows(4).any(|four| four == b"\r\n\r\n");
            match parse(bytes) {
                Parsed::Whole(head) => {
                    assert!(head.length <= bytes.len() && !head.method.is_empty() && !head.target.is_empty());
                    assert_eq!(parse(&bytes[..head.length]), Parsed::Whole(head));
                }
                Parsed::Partial => assert!(!has_end),
                Parsed::Bad => assert!(has_end),
            }
        });
    }

    proptest! {
        #[test]
        fn nothing_can_upset_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
            let mut ended = bytes;
            ended.extend(b"\r\n\r\n");
            prop_assert_ne!(parse(&ended), Parsed::Partial);
        }

        #[test]
        fn a_head_in_pieces_is_the_same_head(at in 0usize..60) {
            let text = b"POST /liveliness/x?liveliness=ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
            prop_assert_eq!(parse(&text[..at.min(text.len() - 1)]), Parsed::Partial);
            let is_whole = matches!(parse(text), Parsed::Whole(Head { length, .. }) if length == text.len());
            prop_assert!(is_whole);
        }
    }
}
