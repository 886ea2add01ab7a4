//! Content negotiation of `POST /spawn` (RFC 9110, section 12.5.1): JSON, or a stream of events.

use axum::http::{HeaderMap, header};

/// The media type of a stream of events.
pub(super) const EVENT_STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";

/// Whether the caller prefers a stream of events to JSON. Where both are as welcome, a type that is named wins over one that a wildcard
/// covers, and JSON over events. A caller that accepts neither gets JSON, as ever.
pub(super) fn prefers_events(headers: &HeaderMap) -> bool {
    let given: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let ranges: Vec<Range<'_>> =
        given.iter().flat_map(|value| value.split(',')).filter_map(Range::of).collect();
    let (events, json) = (Welcome::of(EVENT_STREAM, &ranges), Welcome::of(JSON, &ranges));
    events.quality > 0 && events > json
}

/// How welcome a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Welcome {
    /// In thousandths.
    quality: u16,
    /// How closely the range describes it that counts: the type, its first half, or anything.
    precision: u8,
}

impl Welcome {
    /// The most specific range that covers the type counts.
    fn of(wanted: &str, ranges: &[Range<'_>]) -> Self {
        let covering = ranges
            .iter()
            .filter_map(|range| Some(Self { precision: range.precision(wanted)?, quality: range.quality }));
        covering.max_by_key(|welcome| welcome.precision).unwrap_or_default()
    }
}

/// One entry of `Accept`.
struct Range<'a> {
    kind: &'a str,
    quality: u16,
}

impl<'a> Range<'a> {
    /// `None` when it is malformed, or has parameters that neither type has.
    fn of(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let kind = parts.next().filter(|kind| kind.contains('/'))?;
        let mut quality = 1000;
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim() {
                name if name.eq_ignore_ascii_case("q") => {
                    quality = thousandths(value.trim())?;
                    break;
                }
                // Both types are in UTF-8 by definition.
                name if name.eq_ignore_ascii_case("charset") => {}
                _ => return None,
            }
        }
        Some(Self { kind, quality })
    }

    /// How closely it describes the type; `None` when it does not cover it.
    fn precision(&self, wanted: &str) -> Option<u8> {
        let first = |kind: &str| kind.split('/').next().unwrap_or_default().to_ascii_lowercase();
        match self.kind {
            "*/*" => Some(1),
            kind if kind.eq_ignore_ascii_case(wanted) => Some(3),
            kind if kind.ends_with("/*") && first(kind) == first(wanted) => Some(2),
            _ => None,
        }
    }
}

/// A quality of at most three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{decimals:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_caller_gets_events_only_where_it_prefers_them() {
        for (given, events) in [
            (&[][..], false),
            (&["*/*"], false),
            (&[""], false),
            (&["text/event-stream"], true),
            (&["Text/Event-Stream; charset=utf-8"], true),
            (&["text/*"], true),
            (&["application/json"], false),
            (&["application/*"], false),
            (&["text/html"], false),
            (&["text/event-stream, application/json"], false),
            (&["application/json, text/event-stream"], false),
            (&["application/json;q=0.9, text/event-stream"], true),
            (&["text/event-stream;q=0.9, application/json"], false),
            (&["text/event-stream;q=0.5, application/json;q=0.4"], true),
            (&["text/event-stream; q=0.001, application/json; q=0"], true),
            (&["text/event-stream", "application/json;q=0.5"], true),
            (&["text/event-stream;q=0.5", "application/json"], false),
            // The most specific range counts.
            (&["text/event-stream, */*"], true),
            (&["text/event-stream, */*;q=0.1"], true),
            (&["text/event-stream;q=0.5, */*"], false),
            (&["*/*, text/event-stream;q=0"], false),
            (&["text/*, application/json;q=0.5"], true),
            (&["text/*;q=0.5, application/*"], false),
            (&["text/event-stream;q=0"], false),
            (&["application/json;q=0"], false),
            (&["application/json;q=0, */*"], true),
            // What is malformed says nothing.
            (&["text/event-stream;q=high"], false),
            (&["text/event-stream;q=1.5"], false),
            (&["text/event-stream;q=0.1234"], false),
            (&["text/event-stream;level=1"], false),
            (&["text/event-stream;q=1;ext=1"], true),
            (&["event-stream, ,;,/"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(prefers_events(&headers), events, "{given:?}");
        }
    }
}
