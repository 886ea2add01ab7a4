//! Requests that wait in line, as clients see them (`GET /v1/waiting`). Positions are of the moment of reading.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spawn::RendererType;
use crate::time::Timestamp;

/// A request that waits in line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// 1: it is next. The others come after as many as could take a slot that it could use.
    pub position: u64,
    /// Since when it has its place. Absent, as what it waits for, where a front door of the release before gave it the place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Where the picture is to be rendered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renderer_type: Option<RendererType>,
    /// The pool that it asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The labels that it asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// Who waits, where callers have to say who they are: by the key's name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Answer of `GET /v1/waiting`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingList {
    /// The first in line, in their order.
    pub waiting: Vec<Waiting>,
    /// How many wait: those that the caller may see, and 10000 at the most.
    pub total: u64,
}
