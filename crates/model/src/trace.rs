//! The id of a trace, as W3C Trace Context has it: 16 bytes, not all zero. It comes from callers, so it is an aid for searching and
//! proves nothing.

use std::fmt;
use std::num::NonZeroU128;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a trace id was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 32 hexadecimal digits in lower case, and not only zeros")]
pub struct TraceIdError;

/// Names one trace: 16 bytes that are not all zero, written as 32 hexadecimal digits in lower case.
///
/// ```
/// use model::TraceId;
///
/// let id: TraceId = "4bf92f3577b34da6a3ce929d0e0e4736".parse()?;
/// assert_eq!(id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert!("0".repeat(32).parse::<TraceId>().is_err());
/// # Ok::<(), model::TraceIdError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// The id whose bytes, as one number, are this.
    #[must_use]
    pub fn new(number: NonZeroU128) -> Self {
        Self(number)
    }

    /// Its bytes as one number.
    #[must_use]
    pub fn number(self) -> NonZeroU128 {
        self.0
    }
}

impl FromStr for TraceId {
    type Err = TraceIdError;

    fn from_str(text: &str) -> Result<Self, TraceIdError> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let number = (text.len() == 32 && text.bytes().all(is_digit))
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten();
        number.and_then(NonZeroU128::new).map(Self).ok_or(TraceIdError)
    }
}

impl TryFrom<String> for TraceId {
    type Error = TraceIdError;

    fn try_from(text: String) -> Result<Self, TraceIdError> {
        text.parse()
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
