//! Enums that are one word each in JSON, logs, metrics and on the command line.

macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word used in JSON, logs, metrics and on the command line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::words::UnknownWord;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    other => Err($crate::words::UnknownWord {
                        found: other.to_owned(),
                        allowed: &[$($word),+],
                    }),
                }
            }
        }
    };
}
pub(crate) use words;

/// A word that is not one of those its place allows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}, not {found:?}", allowed.join(", "))]
pub struct UnknownWord {
    /// The word that was given.
    pub found: String,
    /// Every word that is allowed in its place.
    pub allowed: &'static [&'static str],
}
