//! The request that a spawn comes from: what leads from its record to log lines and to a trace, and where its time went before the agent.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::RequestId;
use crate::trace::TraceId;

/// How far a request had come, and when: each in milliseconds after the front door began to read it.
///
/// They are times of one clock, the front door's, so they are exact among each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phases {
    /// How long it waited in line; absent where it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waited_ms: Option<u64>,
    /// When the slot was reserved.
    pub reserved_ms: u64,
    /// When the agent was asked to start the spawn.
    pub sent_ms: u64,
}

/// See the module's documentation. Parts are absent where the agent, or what it has adopted the spawn by, does not know them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Id of the request, as its answer's header `x-request-id` had it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<RequestId>,
    /// The trace that the request is part of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<TraceId>,
    /// How far it had come, and when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub phases: Option<Phases>,
}

impl Origin {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_takes_the_bytes_that_the_documents_on_sizes_say() {
        let mut origin = Origin {
            request_id: Some(RequestId::mint()),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap()),
            phases: Some(Phases { waited_ms: None, reserved_ms: 12, sent_ms: 14 }),
        };
        let len = |origin: &Origin| serde_json::to_string(origin).unwrap().len();
        assert_eq!(len(&origin), 136);
        origin.trace_id = None;
        assert_eq!(len(&origin), 91);
    }

    #[test]
    fn what_is_not_known_is_left_out_and_what_a_later_release_adds_is_ignored() {
        assert_eq!(serde_json::to_string(&Origin::default()).unwrap(), "{}");
        let text = r#"{"requestId":"r-1","phases":{"reservedMs":3,"sentMs":4,"more":1},"more":2}"#;
        let origin: Origin = serde_json::from_str(text).unwrap();
        let phases = Phases { waited_ms: None, reserved_ms: 3, sent_ms: 4 };
        assert_eq!((origin.request_id.unwrap().as_str(), origin.phases), ("r-1", Some(phases)));
    }
}
