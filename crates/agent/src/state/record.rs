//! What there is to know of one spawn: what it is, and what has become of it. The [`super::journal`] keeps it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::{Exit, Owner, Phases, RendererType, SpawnId, Timestamp, TraceId};
use serde::{Deserialize, Serialize};

use super::Moment;
use crate::spawn::exit::Cause;
use crate::users::user::Ids;

/// What a spawn is, written once its process was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) id: SpawnId,
    pub(crate) pid: u32,
    /// When that process was started, as the kernel counts; distinguishes it from a later one with the same number.
    pub(crate) start: u64,
    /// The run of the machine.
    pub(crate) boot: String,
    pub(crate) port: u16,
    pub(crate) renderer: RendererType,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) gpu: Option<u32>,
    pub(crate) endpoint: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Absent in what the release before this one wrote.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) owner: Option<Owner>,
    /// Who its process runs as; absent where that is who the agent ran as, and in what earlier releases wrote.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) user: Option<Ids>,
    /// Where it reports to, with the secret that it reports with.
    pub(crate) liveliness: String,
    /// How often it reports, in milliseconds.
    pub(crate) ping_ms: u64,
    pub(crate) request_id: String,
    /// Absent in what the release before this one wrote, as the next.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) trace_id: Option<TraceId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) phases: Option<Phases>,
    pub(crate) log: PathBuf,
    /// Its control group, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) started: Moment,
    /// The same for people.
    pub(crate) started_at: Timestamp,
    /// When it must have said `ready`.
    pub(crate) ready_by: Moment,
    /// When it is ended at the latest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) expires: Option<Moment>,
    /// The id that its process was started with, where it was kept warm.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) server: Option<SpawnId>,
    /// Of a warm server that is no spawn's: the settings that it was started with, see `spawn::fingerprint`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) settings: Option<String>,
    /// How long its viewer may send nothing, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) max_idle_ms: Option<u64>,
}

/// Something that became of it and must not be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum JournalEvent {
    /// It said `ready`.
    Ready(Moment),
    /// A viewer has connected to it.
    Connected(Moment),
    /// Its viewer has gone.
    ViewerGone(Moment),
    /// It is ended at this moment at the latest, whatever was said before.
    Expires(Moment),
    /// It said `disconnect`.
    Disconnected(Moment),
    /// It is being ended.
    Ending(Cause),
    /// It has ended, and the registry may not know yet.
    Ended(Moment, Exit),
}

/// All that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) record: Record,
    pub(crate) ready: Option<Moment>,
    /// When its viewer connected, and when it went.
    pub(crate) viewing: (Option<Moment>, Option<Moment>),
    pub(crate) disconnected: Option<Moment>,
    pub(crate) ending: Option<Cause>,
    pub(crate) ended: Option<(Moment, Exit)>,
}

impl History {
    /// Of a spawn that was only just started.
    pub(crate) fn new(record: Record) -> Self {
        Self { record, ready: None, viewing: (None, None), disconnected: None, ending: None, ended: None }
    }

    pub(crate) fn add(&mut self, mark: JournalEvent) {
        match mark {
            JournalEvent::Ready(at) => self.ready = Some(at),
            JournalEvent::Connected(at) => self.viewing = (Some(at), None),
            JournalEvent::ViewerGone(at) => self.viewing.1 = Some(at),
            JournalEvent::Expires(at) => self.record.expires = Some(at),
            JournalEvent::Disconnected(at) => self.disconnected = Some(at),
            JournalEvent::Ending(cause) => self.ending = Some(cause),
            JournalEvent::Ended(at, exit) => self.ended = Some((at, exit)),
        }
    }
}
