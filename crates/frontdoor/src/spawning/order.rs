//! What a caller of `POST /spawn` orders. The body is read strictly, field by field, with errors that name the field.
//!
//! Invariant: the form that is hashed into a fingerprint is fixed, because front doors of different releases compare it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use model::id::check_name;
use model::node::check_label;
use model::tags::check_tags;
use model::{Demand, Owner, RendererType};
use serde::de::{Deserializer, Error as _, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::callers::Account;
use crate::settings::lives::{MAX_LIFE, MIN_LIFE};
use crate::strict_json::{self, Invalid, Number, check_printable};

/// Labels that a request may ask for.
const MAX_LABELS: usize = 64;
/// Bytes of a model path, and characters of a session token.
const MAX_TEXT: usize = 4096;
/// The longest wait in line, in seconds.
const MAX_WAIT: u64 = 60;

/// The account of the caller. No part of what is ordered.
#[derive(Debug, Clone)]
pub(crate) struct Accounted(pub(crate) Arc<Account>);

impl PartialEq for Accounted {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Accounted {}

/// The form of the endpoint that a spawn is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum EndpointChoice {
    /// The front door's, or the agent's where the front door has none.
    #[default]
    Usual,
    Agent,
    Given(String),
}

/// What a caller of `POST /spawn` asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SpawnOrder {
    /// What the node must offer.
    pub(crate) demand: Demand,
    /// Handed on to the server.
    pub(crate) model: Option<String>,
    /// Handed on to the server.
    pub(crate) session_token: Option<String>,
    /// For the record.
    pub(crate) tags: BTreeMap<String, String>,
    /// How long the caller waits in line when the farm is full.
    pub(crate) wait: Duration,
    /// How long the spawn may live, from its start.
    pub(crate) max_life: Option<Duration>,
    /// The owner in the caller's credential. No part of what is ordered.
    #[serde(skip)]
    pub(crate) owner: Option<Owner>,
    /// Spawns that the owner may have at once.
    #[serde(skip)]
    pub(crate) max_spawns: Option<u32>,
    /// What the caller takes of this front door.
    #[serde(skip)]
    pub(crate) account: Option<Accounted>,
    /// The form of its endpoint; no part of what is ordered.
    #[serde(skip)]
    pub(crate) endpoint: EndpointChoice,
}

impl SpawnOrder {
    /// Reads a body. An empty one orders what all defaults say.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let parsed = strict_json::object::<Body<'_>>(body)?;
        if let Some(model) = &parsed.model {
            check_model(model).map_err(|why| Invalid::field("model", why))?;
        }
        if let Some(token) = &parsed.session_token {
            check_token(token).map_err(|why| Invalid::field("sessionToken", why))?;
        }
        if let Some(pool) = &parsed.pool {
            check_name(pool).map_err(|why| Invalid::field("pool", why))?;
        }
        let labels = parsed.labels.map(|l| l.0).unwrap_or_default();
        if labels.len() > MAX_LABELS {
            return Err(Invalid::field("labels", format!("at most {MAX_LABELS}, not {}", labels.len())));
        }
        for (key, value) in &labels {
            check_label(key, value).map_err(|why| Invalid::field("labels", why))?;
        }
        let tags = parsed.tags.map(|tags| tags.0).unwrap_or_default();
        check_tags(&tags).map_err(|why| Invalid::field("tags", why))?;
        let max_life = parsed.max_seconds.map(life).transpose()?;
        Ok(Self {
            demand: Demand {
                renderer: parsed.renderer_type.map_or_else(RendererType::default, |r| r.0),
                pool: parsed.pool.map(Cow::into_owned),
                labels,
            },
            model: parsed.model.map(Cow::into_owned),
            session_token: parsed.session_token.map(Cow::into_owned),
            tags,
            wait: Duration::from_secs(parsed.wait_seconds.map_or(0, |w| w.0)),
            max_life,
            owner: None,
            max_spawns: None,
            account: None,
            endpoint: EndpointChoice::Usual,
        })
    }

    /// Equal for two orders exactly when they ask for the same: a field that was left out counts as its default.
    ///
    /// Front doors of different releases compare it, so its form is fixed: a field that is added to the request is left out
    /// where it has its default, and a change to what is there needs another [`Canonical::version`].
    pub(crate) fn fingerprint(&self) -> Uuid {
        let Demand { renderer, pool, labels } = &self.demand;
        fingerprint(&Canonical {
            version: 1,
            renderer: (*renderer != RendererType::default()).then_some(renderer.as_str()),
            pool: pool.as_deref(),
            labels,
            model: self.model.as_deref(),
            session_token: self.session_token.as_deref(),
            wait_seconds: self.wait.as_secs(),
            max_seconds: self.max_life.map(|life| life.as_secs()),
            tags: &self.tags,
        })
    }

    /// The fingerprint that the release before the fixed form gives to the same order. That release refuses orders with members
    /// that it does not know, so a member that is added to the request must change this form where it is there.
    pub(crate) fn legacy_fingerprint(&self) -> Uuid {
        let Demand { renderer, pool, labels } = &self.demand;
        fingerprint(&Legacy {
            demand: LegacyDemand { renderer: renderer.as_str(), pool: pool.as_deref(), labels },
            model: self.model.as_deref(),
            session_token: self.session_token.as_deref(),
            wait: LegacyWait { secs: self.wait.as_secs(), nanos: 0 },
            max_seconds: self.max_life.map(|life| life.as_secs()),
            tags: &self.tags,
        })
    }
}

fn fingerprint(form: &impl Serialize) -> Uuid {
    const ORDERS: Uuid = Uuid::from_u128(0x5f0c_3c0e_0c36_5b0a_9d0e_7a1c_94b1_4d77);
    // A struct of texts and numbers cannot fail to become JSON.
    Uuid::new_v5(&ORDERS, &serde_json::to_vec(form).unwrap_or_default())
}

/// An order as JSON whose every byte is fixed: fields in this order, labels by name, defaults left out.
#[derive(Debug, Serialize)]
struct Canonical<'a> {
    version: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    renderer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    wait_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_seconds: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The layout that an order had in memory when that was what was hashed.
#[derive(Debug, Serialize)]
struct Legacy<'a> {
    demand: LegacyDemand<'a>,
    model: Option<&'a str>,
    session_token: Option<&'a str>,
    wait: LegacyWait,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_seconds: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct LegacyDemand<'a> {
    renderer: &'a str,
    pool: Option<&'a str>,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct LegacyWait {
    secs: u64,
    nanos: u32,
}

impl fmt::Display for SpawnOrder {
    /// For the log: without the session token, which is a secret, and without tags, which may name people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "renderer={}", self.demand.renderer)?;
        if let Some(pool) = &self.demand.pool {
            write!(f, " pool={pool}")?;
        }
        for (key, value) in &self.demand.labels {
            write!(f, " label.{key}={value}")?;
        }
        if let Some(model) = &self.model {
            write!(f, " model={model:?}")?;
        }
        if !self.wait.is_zero() {
            write!(f, " wait={}s", self.wait.as_secs())?;
        }
        if let Some(life) = self.max_life {
            write!(f, " max={}s", life.as_secs())?;
        }
        if !self.tags.is_empty() {
            write!(f, " tags={}", self.tags.len())?;
        }
        Ok(())
    }
}

/// The body as it is written. Kept apart from `model::api::SpawnRequest` because serde's own reading is more lenient than
/// the contract: it takes arrays for structs, objects for words, and the last of two equal labels.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body<'a> {
    renderer_type: Option<Renderer>,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    session_token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pool: Option<Cow<'a, str>>,
    labels: Option<Labels>,
    tags: Option<Tags>,
    wait_seconds: Option<Number<MAX_WAIT>>,
    max_seconds: Option<Number<{ MAX_LIFE.as_secs() }>>,
}

/// The body of a change of a spawn as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Patch {
    max_seconds: Option<Number<{ MAX_LIFE.as_secs() }>>,
}

/// Reads the body of a change of a spawn: how long it may live from now on, from its start.
pub(crate) fn patch(body: &[u8]) -> Result<Duration, Invalid> {
    let patch: Patch = strict_json::object(body)?;
    patch.max_seconds.map_or_else(|| Err(Invalid::field("maxSeconds", "must be given")), life)
}

fn life(seconds: Number<{ MAX_LIFE.as_secs() }>) -> Result<Duration, Invalid> {
    let life = Duration::from_secs(seconds.0);
    if life < MIN_LIFE {
        return Err(Invalid::field("maxSeconds", format!("must be at least {}", MIN_LIFE.as_secs())));
    }
    Ok(life)
}

#[derive(Debug)]
struct Renderer(RendererType);

impl<'de> Deserialize<'de> for Renderer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Renderer;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"csr\" or \"ssr\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Renderer, E> {
                text.parse().map(Renderer).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Word)
    }
}

#[derive(Debug)]
struct Labels(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs("label")).map(Self)
    }
}

#[derive(Debug)]
struct Tags(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs("tag")).map(Self)
    }
}

/// Reads an object of texts. Has what one pair is called.
struct Pairs(&'static str);

impl<'de> Visitor<'de> for Pairs {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = BTreeMap::new();
        while let Some((key, value)) = map.next_entry()? {
            match pairs.entry(key) {
                Entry::Vacant(free) => free.insert(value),
                Entry::Occupied(taken) => {
                    let twice = format!("duplicate {} {:?}", self.0, taken.key());
                    return Err(A::Error::custom(twice));
                }
            };
        }
        Ok(pairs)
    }
}

/// The agent checks again, with its directories in hand; this refuses what can never be right.
fn check_model(path: &str) -> Result<(), String> {
    check_length(path.len(), "bytes")?;
    check_printable(path)?;
    if path.starts_with('/') || path.starts_with('~') {
        return Err("must be relative to a model directory".into());
    }
    if path.contains('\\') {
        return Err("must not contain a backslash; directories are separated by /".into());
    }
    for (i, component) in path.split('/').enumerate() {
        if component.is_empty() || component == "." || component == ".." {
            return Err(format!("must not have the component {component:?}"));
        }
        if i == 0 && component.contains(':') {
            return Err("must be a path, neither a URL nor on a drive".into());
        }
    }
    Ok(())
}

fn check_token(token: &str) -> Result<(), String> {
    check_length(token.chars().count(), "characters")?;
    check_printable(token)
}

fn check_length(length: usize, unit: &str) -> Result<(), String> {
    if (1..=MAX_TEXT).contains(&length) {
        return Ok(());
    }
    Err(format!("must have 1 to {MAX_TEXT} {unit}, not {length}"))
}

#[cfg(test)]
mod tests;
