//! The registry in Redis 7 or Valkey. Nothing outside this directory knows Redis.
//!
//! Every state change is one Lua script (`lua/*.lua`), so it happens whole or not at all. `lua/core.lua` lists the keys.
//!
//! Reading order: `url` (what the setting says), `seek` (finding the server), `link` (connections and calls),
//! `server_error` (what a refusal means), `scripts`, `choice`, `write` and `keepalive` (calls that change something), `read`, `line`, `assess`,
//! `stream` (calls that only read), `audit` and `minutes` (what was), `packed` and `damaged` (values, and values that cannot be read),
//! `nodes` and `walk` (lists), `settings` (what an operator should change about the server), `examine` (a look at all of it, for an operator).
//!
//! Invariants: all keys of a farm share a hash tag, so they live in one slot of a cluster and on one server. Only Redis'
//! clock counts. The rules are those of `embedded`, file by file; a rule that is changed is changed in both.
//!
//! Failure: a call that does not get its answer in time fails with [`RegistryError::Away`], and its connection is given up.
//! A record that cannot be read is left out and logged; it never hides others.

mod assess;
mod audit;
mod choice;
mod damaged;
mod delivery;
mod examine;
mod heard;
mod keepalive;
mod line;
mod link;
mod minutes;
mod nodes;
mod packed;
mod read;
mod scripts;
mod seek;
mod server_error;
mod settings;
mod shown_url;
mod stream;
mod url;
#[cfg(test)]
mod url_fuzz_tests;
mod walk;
mod write;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Demand, NodeKind, RendererType, Timing};

use self::damaged::Damaged;
pub use self::examine::examine;
use self::link::Link;
use self::scripts::Scripts;
pub use self::url::{Unprotected, is_elsewhere, unprotected};
use crate::error::{OpenError, RegistryError};

/// A handle to a registry in Redis.
#[derive(Debug, Clone)]
pub(crate) struct Redis(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    link: Link,
    scripts: Scripts,
    /// Start of every key; the braces make Redis Cluster keep a farm together.
    prefix: String,
    timing: Timing,
    damaged: Damaged,
    /// Held for a look-up, never across an await.
    kinds: Mutex<Kinds>,
}

/// A cached copy of the kinds of node. Scripts refuse an old version and send the new one.
#[derive(Debug, Default)]
struct Kinds {
    version: String,
    all: Vec<(String, NodeKind)>,
    /// Which kinds suit which demand, so that a reserve does not compare labels again and again.
    suitable: HashMap<Demand, Arc<[String]>>,
}

impl Kinds {
    /// The most demands that are remembered: clients choose labels freely.
    const MAX_DEMANDS: usize = 1024;

    fn suitable(&mut self, demand: &Demand) -> Arc<[String]> {
        if let Some(known) = self.suitable.get(demand) {
            return Arc::clone(known);
        }
        let found: Arc<[String]> =
            self.all.iter().filter(|(_, kind)| demand.suits(kind)).map(|(text, _)| text.clone()).collect();
        if self.suitable.len() >= Self::MAX_DEMANDS {
            self.suitable.clear();
        }
        self.suitable.insert(demand.clone(), Arc::clone(&found));
        found
    }

    fn replace(&mut self, version: String, fields: &[String], damaged: &Damaged) {
        let kinds = fields.chunks_exact(2).filter_map(|pair| {
            let kind = serde_json::from_str(&pair[1]);
            let kind = kind.map_err(|e| unexpected("reserve", format!("kind {:?}: {e}", pair[1])));
            Some((pair[0].clone(), damaged.readable(&pair[0], kind)?))
        });
        self.all = kinds.collect();
        self.version = version;
        self.suitable.clear();
    }
}

impl Redis {
    pub(crate) fn open(
        url: &str,
        password_file: Option<&Path>,
        farm: &str,
        timing: Timing,
    ) -> Result<Self, OpenError> {
        let prefix = format!("{{hatchery:{farm}}}");
        Ok(Self(Arc::new(Shared {
            link: Link::open(url, password_file, &prefix)?,
            scripts: Scripts::new(),
            prefix,
            timing,
            damaged: Damaged::default(),
            kinds: Mutex::new(Kinds { version: "0".to_owned(), ..Kinds::default() }),
        })))
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.0.timing
    }

    pub(crate) fn trouble(&self) -> Option<RegistryError> {
        self.0.link.trouble()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.0.link.warnings()
    }

    fn key(&self, tail: &str) -> String {
        format!("{}:{tail}", self.0.prefix)
    }

    fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suitable(&self, demand: &Demand) -> (String, Arc<[String]>) {
        let mut kinds = self.kinds();
        (kinds.version.clone(), kinds.suitable(demand))
    }

    fn learn_kinds(&self, version: String, fields: &[String]) {
        self.kinds().replace(version, fields, &self.0.damaged);
    }
}

fn unexpected(call: &'static str, what: impl Into<String>) -> RegistryError {
    RegistryError::Unexpected { call, what: what.into() }
}

fn renderer_of(text: &str, call: &'static str) -> Result<RendererType, RegistryError> {
    text.parse().map_err(|e| unexpected(call, format!("renderer {e}")))
}
