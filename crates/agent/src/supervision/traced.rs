//! The parts of a spawn's trace that are its agent's.
//!
//! ```text
//! attempt (front door)
//!  ├─ start   from the front door's call to the running process
//!  └─ ready   from there to its `ready`, or to its end
//! ```

use model::SpawnId;
use traces::attribute::{NODE_ID, REQUEST_ID, SPAWN_ID};
use traces::{Kind, Span};

use super::start::StartRequest;
use crate::node::Node;

/// Begins the part `start` of a spawn's trace: from the call of a front door to the running process.
pub(crate) fn begin(node: &Node, order: &StartRequest, id: SpawnId) -> Span {
    described(order.trace.child_of_kind("start", Kind::Server), node, order, id)
}

/// Begins the part `ready`: from the running process to its `ready`.
pub(super) fn await_ready(node: &Node, order: &StartRequest, id: SpawnId) -> Span {
    described(order.trace.child("ready"), node, order, id)
}

fn described(part: Span, node: &Node, order: &StartRequest, id: SpawnId) -> Span {
    part.note(SPAWN_ID, id);
    part.note(NODE_ID, &node.config.node);
    part.note(REQUEST_ID, &order.request_id);
    part
}
