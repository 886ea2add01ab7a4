//! Viewers that reach their spawns through this front door: one public port for all of them.
//!
//! A viewer's URL names a node, a spawn there and the spawn's token. The node's agent knows the token and decides; this front door
//! holds nothing of it, so every replica serves every viewer, and the registry is needed only to learn where a node is that was
//! never heard of.
//!
//! ```text
//!   viewer            front door                      agent                 server
//!     │  GET /s/… ───────▶│── Viewer(token) ───────────▶│                     │
//!     │                   │◀─────────────── Target(port)│                     │
//!     │                   │── connects ─────────────────┼────────────────────▶│
//!     │                   │── Connected ───────────────▶│                     │
//!     │                   │◀─────────────────── Confirmed: it is that spawn   │
//!     │                   │── the same GET, for / ──────┼────────────────────▶│
//!     │◀─────────── 101 ──│◀────────────────────────────┼──────────────── 101 │
//!     │◀══════════════ frames, both ways ═══════════════╪════════════════════▶│
//! ```
//!
//! Where a node has a relay of its own (`hatchery relay --node`), which its agent names, the front door brings the handshake there by
//! mutual TLS, and the relay of the node does the rest. The agent knows of the viewer from that relay alone, so it is counted once.
//!
//! ```text
//!   viewer            front door            relay of the node        agent                 server
//!     │  GET /s/… ───────▶│── the same GET ──────▶│── Viewer(token) ────▶│       and so on     │
//!     │◀═════ frames ═════╪═══════ by TLS ════════╪══════════════════════╪════════════════════▶│
//! ```
//!
//! Owns: the sessions of this process. Invariants: no byte of a viewer reaches a server before the agent has confirmed that the
//! connection is to the viewer's spawn; the agent knows the viewer as connected for as long as the session lasts.
//! Failure: an agent that goes away (it is replaced, or cut off) costs no session; the viewer is attached again when the agent
//! is back. A server that cannot be connected to is tried again for a moment, but never once it has answered.
//!
//! Reading order: `handshake`, `attach` (the call to the agent), `server` (the connection to the server), `node_relay` (the one to the
//! relay of a node), `per_node` (how many at once), `session`, `reach`, `url`.

mod attach;
mod handshake;
mod node_relay;
mod not_connected;
mod per_node;
mod reach;
mod server;
mod session;
mod url;

pub(crate) use self::attach::{Shown, Wanted};
pub(crate) use self::handshake::Viewers;
pub(crate) use self::node_relay::{NodeRelays, shown};
pub(crate) use self::not_connected::NotConnected;
pub(crate) use self::reach::Reach;
pub(crate) use self::url::parts;
