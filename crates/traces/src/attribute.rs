//! Names of what spans say, where front doors and agents say the same. `docs/operator/traces.md` describes them.

/// The id of the spawn.
pub const SPAWN_ID: &str = "hatchery.spawn.id";
/// The name of the node.
pub const NODE_ID: &str = "hatchery.node.id";
/// The id of the request, as log lines have it.
pub const REQUEST_ID: &str = "hatchery.request.id";
/// What became of a part, in one word.
pub const OUTCOME: &str = "hatchery.outcome";
/// The code of the problem that a caller got.
pub const CODE: &str = "hatchery.code";
/// The status of the answer, as the semantic conventions of OpenTelemetry name it.
pub const STATUS: &str = "http.response.status_code";
