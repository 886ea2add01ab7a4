//! Scopes: what a caller may do. `docs/user/authorization.md` lists which operation needs which. `operate` implies `read`. A word
//! that is no scope is an error in a key file, and passed over in a token, whose issuer may have scopes of its own.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

/// One permission of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Start spawns, look at them, end them.
    Spawn,
    /// Look at nodes and at its own spawns.
    Read,
    /// Open and close nodes, look at and end all spawns; implies `read`.
    Operate,
    /// Read metrics, and nothing else; `read` may read them as well.
    Metrics,
}

impl Scope {
    /// Every scope that key files and tokens may name.
    pub const ALL: [Self; 4] = [Self::Spawn, Self::Read, Self::Operate, Self::Metrics];

    /// The scope as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Metrics => "metrics",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Spawn => 1,
            Self::Read => 2,
            Self::Operate => 4,
            Self::Metrics => 8,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("must be spawn, read, operate or metrics, not {text:?}"))
    }
}

/// A set of scopes. As JSON, a list with at least one scope.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether the set allows this; `operate` implies `read`, and both imply `metrics`.
    #[must_use]
    pub fn has(self, scope: Scope) -> bool {
        let implied_by = match scope {
            Scope::Spawn | Scope::Operate => 0,
            Scope::Read => Scope::Operate.bit(),
            Scope::Metrics => Scope::Operate.bit() | Scope::Read.bit(),
        };
        self.0 & (scope.bit() | implied_by) != 0
    }

    /// Whether the set allows one of these.
    #[must_use]
    pub fn has_any(self, scopes: &[Scope]) -> bool {
        scopes.iter().any(|scope| self.has(*scope))
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes that were given, without those that they imply.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.iter().enumerate() {
            write!(f, "{}{scope}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let scopes: Result<Self, _> = words.iter().map(|word| word.parse::<Scope>()).collect();
        let scopes = scopes.map_err(D::Error::custom)?;
        if scopes.is_empty() { Err(D::Error::custom("must name at least one scope")) } else { Ok(scopes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operate_implies_read_both_imply_metrics_and_nothing_else_implies_anything() {
        let all = |given: &[Scope]| {
            let scopes: Scopes = given.iter().copied().collect();
            Scope::ALL.map(|scope| scopes.has(scope))
        };
        assert_eq!(all(&[]), [false, false, false, false]);
        assert_eq!(all(&[Scope::Spawn]), [true, false, false, false]);
        assert_eq!(all(&[Scope::Read]), [false, true, false, true]);
        assert_eq!(all(&[Scope::Operate]), [false, true, true, true]);
        assert_eq!(all(&[Scope::Metrics]), [false, false, false, true]);
        assert_eq!(all(&[Scope::Operate, Scope::Spawn]), [true, true, true, true]);
    }

    #[test]
    fn scopes_are_written_as_they_are_read() {
        let scopes: Scopes = serde_json::from_str(r#"["operate","spawn","spawn"]"#).unwrap();
        assert_eq!(serde_json::to_string(&scopes).unwrap(), r#"["spawn","operate"]"#);
        assert_eq!(scopes.to_string(), "spawn operate");
        for bad in ["[]", r#"["Spawn"]"#, r#"["spawn "]"#, r#""spawn""#, "[1]", "null"] {
            assert!(serde_json::from_str::<Scopes>(bad).is_err(), "{bad}");
        }
    }
}
