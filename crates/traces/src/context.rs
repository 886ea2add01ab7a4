//! W3C Trace Context: the headers `traceparent` and `tracestate`, which are the same in HTTP and in gRPC's metadata.
//!
//! What is malformed is ignored, as the recommendation says: a broken `traceparent` means a new trace, a broken `tracestate` is left
//! out. The caller's `tracestate` is passed on as it came; nothing is added to it.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use model::TraceId;
use opentelemetry::trace::TraceState;

/// The header with trace, span and flags.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what tracing systems add.
pub const TRACESTATE: &str = "tracestate";

/// Flags that mean something in version 00: sampled, and that the trace id is random.
const KNOWN_FLAGS: u8 = SAMPLED | RANDOM;
const SAMPLED: u8 = 0b01;
const RANDOM: u8 = 0b10;
/// The length of version 00.
const LEN: usize = 55;
/// A `tracestate` that is longer is not passed on; the recommendation asks for 512 at least.
const MAX_STATE: usize = 512;
const MAX_MEMBERS: usize = 32;

/// A span in a trace, as its headers name it. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub(crate) trace: TraceId,
    pub(crate) span: u64,
    pub(crate) flags: u8,
    pub(crate) state: Option<Arc<str>>,
}

impl Context {
    /// The first span of a trace that begins here, with a random id, and is sampled.
    pub(crate) fn root(trace: TraceId, span: u64) -> Self {
        Self { trace, span, flags: SAMPLED | RANDOM, state: None }
    }

    /// A span below this one that is sampled.
    pub(crate) fn child(&self, span: u64) -> Self {
        Self { trace: self.trace, span, flags: SAMPLED | (self.flags & RANDOM), state: self.state.clone() }
    }

    /// The same span for those who are not to record its trace.
    #[must_use]
    pub fn unsampled(self) -> Self {
        Self { flags: self.flags & !SAMPLED, ..self }
    }

    /// What a caller's headers name: the values of all `traceparent` and all `tracestate` headers. `None`: there is no usable
    /// `traceparent`, or more than one.
    pub fn read<'a>(
        mut parents: impl Iterator<Item = &'a [u8]>,
        states: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let parent = parents.next()?;
        if parents.next().is_some() {
            return None;
        }
        let (trace, span, flags) = parse(parent)?;
        Some(Self { trace, span, flags, state: state(states) })
    }

    /// Id of the trace (W3C Trace Context, `trace-id`).
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.trace
    }

    /// Whether the one who began the trace records it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value of `tracestate` to pass on.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// The value of `traceparent`.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{:016x}-{:02x}", self.trace, self.span, self.flags & KNOWN_FLAGS)
    }
}

/// Trace, span and flags of a `traceparent`. One of a later version may be longer.
fn parse(text: &[u8]) -> Option<(TraceId, u64, u8)> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let fixed = text.get(..LEN)?;
    let mut parts = fixed.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none() && (version.len(), span.len(), flags.len()) == (2, 16, 2);
    let hex = |text: &str| {
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        lower.then(|| u64::from_str_radix(text, 16).ok())?
    };
    let version = hex(version)?;
    let rest = &text[LEN..];
    let is_known = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
    if !is_whole || version == 0xff || !is_known {
        return None;
    }
    let span = hex(span).filter(|span| *span != 0)?;
    let flags = u8::try_from(hex(flags)?).ok()?;
    Some((trace.parse().ok()?, span, flags & KNOWN_FLAGS))
}

/// The members of all headers in one, or nothing where one of them is malformed.
fn state<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<Arc<str>> {
    let mut all = String::new();
    let mut count = 0;
    for header in headers {
        let header = std::str::from_utf8(header).ok()?;
        for member in header.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            if member.is_empty() {
                continue;
            }
            count += 1;
            if count > MAX_MEMBERS || !is_member(member) || all.len() + 1 + member.len() > MAX_STATE {
                return None;
            }
            let comma = if all.is_empty() { "" } else { "," };
            write!(all, "{comma}{member}").ok()?;
        }
    }
    // Spans are exported with it as the SDK has it, which is stricter about keys.
    let is_exported = all.parse::<TraceState>().is_ok();
    (!all.is_empty() && is_exported).then(|| all.into())
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let in_key = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let is_key = (1..=256).contains(&key.len()) && key.bytes().all(in_key);
    let is_value = (1..=256).contains(&value.len())
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'='));
    is_key && is_value
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn read(parents: &[&str], states: &[&str]) -> Option<Context> {
        Context::read(parents.iter().map(|p| p.as_bytes()), states.iter().map(|s| s.as_bytes()))
    }

    #[test]
    fn a_traceparent_is_read_and_written_as_it_came() {
        for flags in ["00", "01", "03"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            let context = read(&[&text], &[]).unwrap();
            assert_eq!((context.to_string(), context.trace_id().to_string()), (text, TRACE.to_owned()));
            assert_eq!(context.is_sampled(), flags != "00");
        }
        // Flags and versions to come.
        let later = read(&[&format!("cc-{TRACE}-{SPAN}-ff-what-comes")], &[]).unwrap();
        assert_eq!(later.to_string(), format!("00-{TRACE}-{SPAN}-03"));
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-01 "),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{TRACE}0-{}-01", &SPAN[1..]),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{TRACE}-{SPAN}-0é"),
        ] {
            assert_eq!(read(&[&bad], &[]), None, "{bad:?}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(read(&[&good, &good], &[]), None, "two of them");
        assert_eq!(read(&[], &[]), None);
        assert_eq!(Context::read([&b"\xff\xfe"[..]].into_iter(), std::iter::empty()), None);
    }

    #[test]
    fn a_tracestate_is_passed_on_and_left_out_where_it_is_malformed() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let state = |states: &[&str]| read(&[&good], states).unwrap().state().map(str::to_owned);
        assert_eq!(state(&["a=1, b@c=x y ,", "", "d=2"]).as_deref(), Some("a=1,b@c=x y,d=2"));
        let many = vec!["a=1"; 33].join(",");
        let long = format!("a={}", "x".repeat(256));
        for bad in ["", "a", "=1", "a=", "A=1", "a=1=2", "a=é", &many, &format!("{long},{long}"), "a=\u{1}"]
        {
            assert_eq!(state(&[bad]), None, "{bad:?}");
        }
        // What the exporter would leave out is not passed on either.
        for bad in ["*a=1", "a@b@c=1", "a=1,a@b@c=1"] {
            assert_eq!(state(&[bad]), None, "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_said_to_be_random_where_it_began_here_or_its_caller_says_so() {
        let root = Context::root(TRACE.parse().unwrap(), 1);
        assert_eq!(root.to_string(), format!("00-{TRACE}-0000000000000001-03"));
        for (caller, child) in [("00", "01"), ("01", "01"), ("02", "03"), ("03", "03")] {
            let caller = read(&[&format!("00-{TRACE}-{SPAN}-{caller}")], &["a=1"]).unwrap();
            let below = caller.child(1);
            assert_eq!(below.to_string(), format!("00-{TRACE}-0000000000000001-{child}"));
            assert_eq!(below.state(), Some("a=1"));
        }
    }
}
