//! Which nodes suit which request: pool, labels and renderer.
//!
//! Nodes of equal pool and labels are one [`NodeKind`]: no [`Demand`] distinguishes them. Both backends of the registry,
//! and the front door's fallback placement, decide by [`Demand::suits`] alone.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spawn::RendererType;

/// Which of the suitable nodes with a free slot gets a spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// The least loaded by ratio of used to total slots, ties at random: load is even, a lost node costs least.
    #[default]
    Spread,
    /// The most loaded that still has room: nodes empty out, so that they can be switched off.
    Pack,
}

/// What nodes have in common as far as a request distinguishes them: pool and labels. The registry keeps one index per
/// kind, so that a reserve costs the same with ten nodes and with ten thousand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeKind {
    /// The pool the node belongs to.
    pub pool: String,
    /// All labels the node carries.
    pub labels: BTreeMap<String, String>,
    /// Only requests that name the pool are placed there (`--dedicated`).
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub dedicated: bool,
}

impl fmt::Display for NodeKind {
    /// One text per kind: no two kinds share one, because neither names nor label values hold `,`, `=` or `|`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|", self.pool)?;
        for (i, (k, v)) in self.labels.iter().enumerate() {
            write!(f, "{}{k}={v}", if i == 0 { "" } else { "," })?;
        }
        if self.dedicated { f.write_str("|dedicated") } else { Ok(()) }
    }
}

/// What a request wants of a node.
///
/// ```
/// use model::{Demand, NodeKind, RendererType};
///
/// let kind = NodeKind { pool: "gpu".into(), labels: [("sdk".into(), "2025.1".into())].into(), dedicated: false };
/// let mut demand = Demand { renderer: RendererType::Csr, pool: None, labels: kind.labels.clone() };
/// assert!(demand.suits(&kind));
/// demand.labels.insert("zone".into(), "a".into());
/// assert!(!demand.suits(&kind), "the node must carry every label");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Demand {
    /// The renderer the node must offer.
    pub renderer: RendererType,
    /// The pool the node must belong to; any when absent.
    pub pool: Option<String>,
    /// Labels the node must carry, all of them.
    pub labels: BTreeMap<String, String>,
}

/// Why nodes of a kind do not satisfy a demand: the first thing that they lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit<'a> {
    /// The demand names another pool.
    Pool,
    /// The pool is dedicated, and the demand names none.
    Dedicated,
    /// The label is missing there, or has another value.
    Label {
        /// Name of the label that the node lacks or has with another value.
        name: &'a str,
        /// The value that the demand wants.
        wanted: &'a str,
        /// The value there; `None` when the label is missing.
        found: Option<&'a str>,
    },
}

impl Demand {
    /// Whether nodes of this kind satisfy the demand. The renderer is no part of a kind, so this does not look at it.
    #[must_use]
    pub fn suits(&self, kind: &NodeKind) -> bool {
        self.misfit(kind).is_none()
    }

    /// Why nodes of this kind do not satisfy the demand; `None` when they do.
    #[must_use]
    pub fn misfit<'a>(&'a self, kind: &'a NodeKind) -> Option<Misfit<'a>> {
        match &self.pool {
            Some(pool) if *pool != kind.pool => return Some(Misfit::Pool),
            None if kind.dedicated => return Some(Misfit::Dedicated),
            _ => {}
        }
        self.labels.iter().find_map(|(name, wanted)| {
            let found = kind.labels.get(name).map(String::as_str);
            (found != Some(wanted)).then_some(Misfit::Label { name, wanted, found })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_terminator(',')
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    }

    #[test]
    fn a_kind_suits_when_it_has_the_pool_and_every_label() {
        let kind = NodeKind { pool: "gpu".into(), labels: labels("sdk=2025.1,zone=a"), dedicated: false };
        for (pool, wanted, good) in [
            (None, "", true),
            (Some("gpu"), "", true),
            (Some("cpu"), "", false),
            (None, "sdk=2025.1", true),
            (None, "sdk=2025.1,zone=a", true),
            (None, "sdk=2024.8", false),
            (None, "rack=1", false),
            (Some("gpu"), "zone=a", true),
        ] {
            let demand =
                Demand { renderer: RendererType::Csr, pool: pool.map(str::to_owned), labels: labels(wanted) };
            assert_eq!(demand.suits(&kind), good, "{pool:?} {wanted:?}");
        }
    }

    #[test]
    fn what_a_kind_lacks_first_is_named() {
        let kind = NodeKind { pool: "gpu".into(), labels: labels("sdk=2025.1"), dedicated: true };
        let of = |pool: Option<&str>, wanted| {
            let pool = pool.map(str::to_owned);
            let demand = Demand { renderer: RendererType::Csr, pool, labels: labels(wanted) };
            demand.misfit(&kind).map(|misfit| format!("{misfit:?}"))
        };
        assert_eq!(of(Some("cpu"), "sdk=2"), Some("Pool".to_owned()));
        assert_eq!(of(None, ""), Some("Dedicated".to_owned()));
        let differs = r#"Label { name: "sdk", wanted: "2", found: Some("2025.1") }"#;
        assert_eq!(of(Some("gpu"), "sdk=2,zone=a").as_deref(), Some(differs));
        let missing = r#"Label { name: "zone", wanted: "a", found: None }"#;
        assert_eq!(of(Some("gpu"), "sdk=2025.1,zone=a").as_deref(), Some(missing));
        assert_eq!(of(Some("gpu"), "sdk=2025.1"), None);
    }

    #[test]
    fn a_dedicated_kind_suits_only_requests_that_name_its_pool() {
        let open = NodeKind { pool: "next".into(), labels: labels("sdk=2026"), dedicated: false };
        let dedicated = NodeKind { dedicated: true, ..open.clone() };
        assert_ne!(open.to_string(), dedicated.to_string());
        for (pool, good) in [(None, false), (Some("next"), true), (Some("default"), false)] {
            let demand = Demand {
                renderer: RendererType::Csr,
                pool: pool.map(str::to_owned),
                labels: labels("sdk=2026"),
            };
            assert_eq!(demand.suits(&dedicated), good, "{pool:?}");
        }
        let older: NodeKind = serde_json::from_str(r#"{"pool":"next","labels":{"sdk":"2026"}}"#).unwrap();
        assert_eq!(older, open);
    }
}
