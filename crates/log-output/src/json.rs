//! Log lines as JSON: one flat object a line, for programs.
//!
//! ```json
//! {"timestamp":"2026-11-27T10:00:00.123456Z","level":"INFO","target":"agent::supervision::driver","message":"spawn ready","requestId":"…","spawn.id":"…","port":55000}
//! ```
//!
//! Invariants: no key is there twice. What an event says goes before what its spans say, and an inner span before an outer one. Numbers are
//! numbers. The keys of this module are not to be had by fields: such a field gets `field.` in front.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

const RESERVED: [&str; 3] = ["timestamp", "level", "target"];

/// Writes what is logged as JSON. See the module's documentation.
#[derive(Debug)]
pub struct JsonLines<W>(Mutex<W>);

impl<W> JsonLines<W> {
    /// Writes to this output, a whole line at once. It must neither block nor fail, as [`crate::LogOutput`] does.
    #[must_use]
    pub fn new(output: W) -> Self {
        Self(Mutex::new(output))
    }
}

/// The fields of a span or an event: names, and values that are JSON already.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        let name = field.name();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other floats.
        let value = if value.is_finite() { value.to_string() } else { "null".to_owned() };
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.to_string());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(field, value.to_string());
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, quoted(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, quoted(&format!("{value:?}")));
    }
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + Clone + Send + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut line = String::with_capacity(256);
        let mut now = String::with_capacity(32);
        let timed = SystemTime.format_time(&mut Writer::new(&mut now));
        debug_assert!(timed.is_ok(), "a text takes what is written");
        let target = quoted(metadata.target());
        let begun = write!(line, r#"{{"timestamp":"{now}","level":"{}","target":{target}"#, metadata.level());
        debug_assert!(begun.is_ok(), "a text takes what is written");
        let mut written: Vec<&'static str> = Vec::with_capacity(16);
        let mut add = |fields: &Fields| {
            for (name, value) in &fields.0 {
                if written.contains(name) {
                    continue;
                }
                written.push(name);
                let prefix = if RESERVED.contains(name) { "field." } else { "" };
                let added = write!(line, r#","{prefix}{name}":{value}"#);
                debug_assert!(added.is_ok(), "a text takes what is written");
            }
        };
        add(&fields);
        // From the inside out.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                add(fields);
            }
        }
        line.push_str("}\n");
        let mut output = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        // It never fails.
        output.write_all(line.as_bytes()).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};
    use std::time::Duration;

    use serde_json::{Map, Value};
    use tracing::field::Empty;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::LogOutput;
    use crate::object::Object;

    /// The lines that are logged by `work`.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        let (mut reader, writer) = io::pipe().unwrap();
        let output = LogOutput::start(writer, |_| {}).unwrap();
        let subscriber = tracing_subscriber::registry().with(JsonLines::new(output.clone()));
        tracing::subscriber::with_default(subscriber, work);
        assert!(output.flush_within(Duration::from_secs(10)));
        let mut text = vec![0; 65536];
        let count = reader.read(&mut text).unwrap();
        String::from_utf8_lossy(&text[..count]).lines().map(str::to_owned).collect()
    }

    /// The keys in their order, each as often as it is there.
    fn keys(line: &str) -> Vec<String> {
        let Object(members) = serde_json::from_str(line).unwrap();
        members.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_line_is_one_flat_object_in_which_the_innermost_word_counts_and_no_key_is_twice() {
        let lines = logged(|| {
            let outer =
                tracing::info_span!("request", requestId = "r1", path = "/a", name = "outer", late = Empty);
            let _outer = outer.enter();
            let inner = tracing::info_span!("spawn", spawn.id = "s1", path = "/b", name = "inner");
            let _inner = inner.enter();
            outer.record("late", 1_u64);
            outer.record("late", 2_u64);
            tracing::warn!(level = 7, target = "x", timestamp = true, count = 3_u64, ratio = 0.5, nan = f64::NAN,
                why = %"a \"b\"\n\u{1b}", name = "event", "it is {}", "so");
            tracing::info!("plain");
        });
        let [first, second] = lines.as_slice() else { panic!("{lines:?}") };
        let seen = keys(first);
        let mut unique = seen.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), seen.len(), "{seen:?}");
        let line: Map<String, Value> = serde_json::from_str(first).unwrap();
        for (key, value) in [
            ("level", "WARN".into()),
            ("message", "it is so".into()),
            ("field.level", 7.into()),
            ("field.target", "x".into()),
            ("field.timestamp", true.into()),
            ("count", 3.into()),
            ("ratio", 0.5.into()),
            ("nan", Value::Null),
            ("why", "a \"b\"\n\u{1b}".into()),
            ("name", "event".into()),
            ("path", "/b".into()),
            ("spawn.id", "s1".into()),
            ("requestId", "r1".into()),
            ("late", 2.into()),
        ] {
            assert_eq!(line[key], value, "{key}: {first}");
        }
        assert!(line["target"].as_str().unwrap().starts_with("log_output"), "{first}");
        let second: Map<String, Value> = serde_json::from_str(second).unwrap();
        assert_eq!((&second["message"], &second["name"]), (&"plain".into(), &"inner".into()));
    }
}
