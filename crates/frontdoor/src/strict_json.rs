//! Bodies read strictly: what is unknown, given twice or of another type is refused by name, as the contract has it.

use std::fmt;

use model::text::is_deceptive;
use serde::Deserialize;
use serde::de::{Deserializer, Unexpected, Visitor};

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// The offending field, parameter or header.
    pub(crate) field: Option<String>,
    /// What is wrong with it; names the field.
    pub(crate) detail: String,
}

impl Invalid {
    /// `detail` goes on where the field's name ends.
    pub(crate) fn field(field: &str, detail: impl fmt::Display) -> Self {
        Self { field: Some(field.to_owned()), detail: format!("{field}: {detail}") }
    }

    pub(crate) fn body(detail: impl Into<String>) -> Self {
        Self { field: None, detail: detail.into() }
    }
}

/// Reads a body that is a JSON object, or empty where every field is optional.
pub(crate) fn object<'a, T: Default + Deserialize<'a>>(body: &'a [u8]) -> Result<T, Invalid> {
    if body.is_empty() {
        return Ok(T::default());
    }
    let text = std::str::from_utf8(body)
        .map_err(|e| Invalid::body(format!("the body is not UTF-8 from byte {} on", e.valid_up_to())))?;
    // Arrays would otherwise be taken for structs whose field names were left out.
    if !text.trim_ascii_start().starts_with('{') {
        let end = if text.trim_ascii_start().is_empty() { "blank" } else { "something else" };
        return Err(Invalid::body(format!("the body must be a JSON object, not {end}")));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value: T = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        let field = if matches!(path.as_str(), "." | "?") { unnamed(&cause) } else { Some(path) };
        let kind = if cause.is_data() { "the body does not fit" } else { "the body is not valid JSON" };
        match field {
            Some(field) => {
                let field = shortened(&field);
                Invalid { detail: shortened(&format!("{kind}: {field}: {cause}")), field: Some(field) }
            }
            None => Invalid::body(shortened(&format!("{kind}: {cause}"))),
        }
    })?;
    json.end().map_err(|e| Invalid::body(format!("the body is not valid JSON: {e}")))?;
    Ok(value)
}

/// The field in "duplicate field `x`", which has no path.
fn unnamed(error: &serde_json::Error) -> Option<String> {
    let text = error.to_string();
    let rest = text.strip_prefix("duplicate field `").or_else(|| text.strip_prefix("unknown field `"))?;
    rest.split_once('`').map(|(field, _)| field.to_owned())
}

/// A caller's own text comes back in answers and logs, but not kilobytes of it.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 400;
    if text.chars().count() <= MAX_CHARS {
        return text.to_owned();
    }
    text.chars().take(MAX_CHARS).chain(['…']).collect()
}

/// A whole number from 0 to `MOST`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number<const MOST: u64>(pub(crate) u64);

impl<'de, const MOST: u64> Deserialize<'de> for Number<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole<const MOST: u64>;
        impl<const MOST: u64> Visitor<'_> for Whole<MOST> {
            type Value = Number<MOST>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {MOST}")
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Number<MOST>, E> {
                if number > MOST {
                    return Err(E::invalid_value(Unexpected::Unsigned(number), &self));
                }
                Ok(Number(number))
            }
            /// JSON has one kind of number: 30.0 is 30.
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Number<MOST>, E> {
                match format!("{}", number.abs()).parse() {
                    Ok(whole) if number >= 0.0 => self.visit_u64(whole),
                    _ => Err(E::invalid_value(Unexpected::Float(number), &self)),
                }
            }
        }
        deserializer.deserialize_u64(Whole)
    }
}

/// Refuses control characters, those for the writing direction included: a log or a terminal would not show what is there.
pub(crate) fn check_printable(text: &str) -> Result<(), String> {
    match text.chars().position(is_deceptive) {
        Some(at) => Err(format!("must not have control characters, as at character {at}")),
        None => Ok(()),
    }
}
