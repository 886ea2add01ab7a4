//! One spawn: what is known of it, and what it runs as. The tasks that own spawns are in [`crate::supervision`].
//!
//! | from | input | to | effect |
//! | --- | --- | --- | --- |
//! | `Launching` | `ready` | `Ready` | |
//! | `Launching` | `ready-timeout` is over | `Terminating` | TERM |
//! | `Ready` | silent for 2 I + 2 s | `Suspect` | |
//! | `Suspect` | any report | `Ready` | |
//! | `Suspect` | silent for 3 I + 2 s | `Terminating` | TERM |
//! | `Ready`, `Suspect` | `disconnect` | `Disconnected` | |
//! | `Disconnected` | `stop-grace` is over | `Terminating` | TERM |
//! | any of these | a request to end | `Terminating` | TERM |
//! | `Terminating` | `stop-grace` is over, or a second request to end | `Killed` | KILL |
//! | any | the process ends | none: `exited`, explained by [`exit::explain`] | |
//!
//! What is not in the table changes nothing. `ready-timeout`, `stop-grace` and the ping interval I are settings of the agent.
//!
//! Reading order: [`lifecycle`] (the table above as a function), [`exit`] (why it ended), [`args`], [`process`] and
//! [`output`], [`environment`] and [`fingerprint`] (what it runs as), [`predecessor`], [`cgroup`] and [`launch`] (what it may),
//! [`leftovers`] (what it leaves behind).

pub(crate) mod args;
pub(crate) mod body;
pub(crate) mod cgroup;
pub(crate) mod environment;
pub(crate) mod exit;
pub(crate) mod fingerprint;
pub(crate) mod launch;
pub(crate) mod leftovers;
pub(crate) mod lifecycle;
pub(crate) mod limits;
pub(crate) mod output;
pub(crate) mod predecessor;
pub(crate) mod process;
mod tree;
pub(crate) mod xauthority;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{Exit, Origin, Owner, RendererType, SpawnId, SpawnState};
use registry::SpawnReport;
use tokio::time::Instant;

use crate::endpoint::EndpointForm;
use crate::secret::Secret;
use crate::users::user::Ids;

/// What does not change while a spawn lives, unless it loses its port before it can listen.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) id: SpawnId,
    pub(crate) renderer: RendererType,
    pub(crate) port: u16,
    pub(crate) endpoint: String,
    pub(crate) gpu: Option<u32>,
    pub(crate) labels: BTreeMap<String, String>,
    /// The caller's own pairs of text.
    pub(crate) tags: BTreeMap<String, String>,
    /// The caller it belongs to.
    pub(crate) owner: Option<Owner>,
    /// The request that it comes from.
    pub(crate) origin: Origin,
    /// What it reports with; absent where an earlier release started it.
    pub(crate) secret: Option<Secret>,
    /// What its viewer shows to a relay; absent where an earlier release started it.
    pub(crate) token: Option<Secret>,
    /// The form of its endpoint, where its caller has given one.
    pub(crate) endpoint_form: Option<EndpointForm>,
    /// Who its process runs as, where that is not who the agent runs as.
    pub(crate) user: Option<Ids>,
    /// The id that its process was started with, where it was kept warm; the same as `id` while it is no spawn's.
    pub(crate) server: Option<SpawnId>,
    /// How long its viewer may send nothing.
    pub(crate) max_idle: Option<Duration>,
    pub(crate) started: Instant,
}

impl Facts {
    /// Of a server that is kept warm.
    pub(crate) fn of_warm_server(
        id: SpawnId,
        renderer: RendererType,
        port: u16,
        secret: Secret,
        started: Instant,
    ) -> Self {
        Self {
            id,
            renderer,
            port,
            endpoint: String::new(),
            gpu: None,
            labels: BTreeMap::new(),
            tags: BTreeMap::new(),
            owner: None,
            origin: Origin::default(),
            token: Some(secret.viewer_token()),
            secret: Some(secret),
            endpoint_form: None,
            user: None,
            server: Some(id),
            max_idle: None,
            started,
        }
    }

    /// The id that its process was started with, which its reports, its control group and what it leaves behind go by.
    pub(crate) fn process_id(&self) -> SpawnId {
        self.server.unwrap_or(self.id)
    }

    /// Whether it is kept warm, and no spawn's yet.
    pub(crate) fn is_warm(&self) -> bool {
        self.server == Some(self.id)
    }

    /// The file that its process writes to.
    pub(crate) fn log(&self, dir: &Path) -> PathBuf {
        if self.is_warm() { output::warm_path(dir, self.id) } else { output::path(dir, self.id) }
    }
}

/// When a viewer came, and when it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ViewerTimes {
    pub(crate) connected: Option<Instant>,
    pub(crate) disconnected: Option<Instant>,
}

impl ViewerTimes {
    /// Whether one is there.
    pub(crate) fn is_on(self) -> bool {
        self.connected.is_some() && self.disconnected.is_none()
    }

    /// One has come. Returns whether that is news.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let news = !self.is_on();
        if news {
            *self = Self { connected: Some(now), disconnected: None };
        }
        news
    }

    /// It has gone. Returns whether that is news.
    pub(crate) fn end(&mut self, now: Instant) -> bool {
        let news = self.is_on();
        if news {
            self.disconnected = Some(now);
        }
        news
    }
}

/// A spawn as it was at one moment.
#[derive(Debug, Clone)]
pub(crate) struct SpawnStatus {
    pub(crate) facts: Arc<Facts>,
    pub(crate) state: SpawnState,
    pub(crate) ready: Option<Instant>,
    /// When it last reported.
    pub(crate) heard: Option<Instant>,
    pub(crate) viewing: ViewerTimes,
    /// When it is ended at the latest.
    pub(crate) expires: Option<Instant>,
    pub(crate) ended: Option<Instant>,
    pub(crate) exit: Option<Exit>,
}

impl SpawnStatus {
    pub(crate) fn new(facts: Arc<Facts>) -> Self {
        Self {
            facts,
            state: SpawnState::Launching,
            ready: None,
            heard: None,
            viewing: ViewerTimes::default(),
            expires: None,
            ended: None,
            exit: None,
        }
    }

    /// As the registry wants it: ages instead of times.
    pub(crate) fn report(&self, now: Instant) -> SpawnReport {
        let age = |at: Instant| now.saturating_duration_since(at);
        SpawnReport {
            id: self.facts.id,
            state: self.state,
            renderer: self.facts.renderer,
            endpoint: self.facts.endpoint.clone(),
            gpu: self.facts.gpu,
            labels: self.facts.labels.clone(),
            tags: self.facts.tags.clone(),
            owner: self.facts.owner.clone(),
            origin: self.facts.origin.clone(),
            server: self.facts.server,
            started: age(self.facts.started),
            ready: self.ready.map(age),
            last_ping: self.heard.map(age),
            connected: self.viewing.connected.map(age),
            disconnected: self.viewing.disconnected.map(age),
            life_left: self.expires.map(|at| at.saturating_duration_since(now)),
            ended: self.ended.map(age),
            exit: self.exit.clone(),
        }
    }
}

/// Why nothing was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    pub(crate) detail: String,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RefusalKind {
    Full,
    GpusFull,
    NoPort,
    NotEligible,
    RendererOff,
    Abandoned,
    LowMemory,
    CannotStart,
    BadModel,
    ShuttingDown,
    /// The call names another node.
    WrongNode,
    /// Others were still starting when its time was over.
    StartsBusy,
}

impl RefusalKind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Full,
        Self::GpusFull,
        Self::NoPort,
        Self::NotEligible,
        Self::RendererOff,
        Self::Abandoned,
        Self::LowMemory,
        Self::CannotStart,
        Self::BadModel,
        Self::ShuttingDown,
        Self::WrongNode,
    ];

    /// The word in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::GpusFull => "gpus-full",
            Self::NoPort => "no-port",
            Self::NotEligible => "not-eligible",
            Self::RendererOff => "renderer-off",
            Self::Abandoned => "abandoned",
            Self::LowMemory => "low-memory",
            Self::CannotStart => "cannot-start",
            Self::BadModel => "bad-model",
            Self::ShuttingDown => "shutting-down",
            Self::WrongNode => "wrong-node",
            Self::StartsBusy => "starts-busy",
        }
    }

    pub(crate) fn because(self, detail: impl Into<String>) -> Refusal {
        Refusal { kind: self, detail: detail.into() }
    }
}

/// The answer to the callers of one spawn.
#[derive(Debug, Clone)]
pub(crate) enum SpawnOutcome {
    Ready {
        start_to_ready: Duration,
        /// The change that reports it to the registry.
        serial: u64,
    },
    Ended {
        exit: Exit,
        log: Vec<String>,
        /// The change that reports it to the registry.
        serial: u64,
    },
    Refused(Refusal),
}
