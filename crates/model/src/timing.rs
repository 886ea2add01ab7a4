//! Every interval in one place, each with what it means to a user, and their order asserted.

use std::time::Duration;

/// How often an agent tells the registry everything about its node. A dead node is noticed in multiples of this.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Without a heartbeat for this long a node gets no more spawns.
pub const STALE: Duration = Duration::from_secs(3);
/// Without a heartbeat for this long a node counts as gone and its spawns as lost; subscribers are told.
pub const DOWN: Duration = Duration::from_secs(10);
/// A spawn that has not said `ready` within this time is ended, and its caller told so.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest a caller waits for an answer once a slot was taken; all attempts on all nodes together.
pub const SPAWN_DEADLINE: Duration = Duration::from_secs(45);
/// A slot taken for a spawn that never started comes back after this time even if everybody involved died.
pub const RESERVATION: Duration = Duration::from_secs(60);
/// How often a spawned server reports that it is alive.
pub const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Between asking a spawn to end (TERM) and ending it (KILL).
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// A spawn whose viewer never connects ends itself after this time.
pub const INITIAL_USE: Duration = Duration::from_secs(60);
/// How long the same idempotency key gives the same answer.
pub const IDEMPOTENCY: Duration = Duration::from_secs(600);
/// A drain ends what still runs on the node after this time.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(3600);

const _: () = {
    assert!(HEARTBEAT.as_millis() < STALE.as_millis(), "one late heartbeat must not make a node stale");
    assert!(STALE.as_millis() < DOWN.as_millis(), "placement stops before spawns are given up");
    assert!(
        READY_TIMEOUT.as_millis() < SPAWN_DEADLINE.as_millis(),
        "the agent's verdict must reach the caller"
    );
    assert!(
        SPAWN_DEADLINE.as_millis() < RESERVATION.as_millis(),
        "a slot is not taken back while its caller waits"
    );
    assert!(PING_INTERVAL.as_millis() < READY_TIMEOUT.as_millis(), "silence is judged in pings");
};

/// The registry's intervals; tests use milliseconds where a farm uses seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// See [`STALE`].
    pub stale: Duration,
    /// See [`DOWN`].
    pub down: Duration,
    /// See [`RESERVATION`].
    pub reservation: Duration,
    /// See [`IDEMPOTENCY`].
    pub idempotency: Duration,
    /// A front door that works on a keyed request renews its claim within this time, or others take over.
    pub claim: Duration,
    /// A front door renews the places in line it holds within this time, or they are passed over.
    pub place: Duration,
    /// How long the record of an ended spawn can be read.
    pub history: Duration,
    /// How many records of ended spawns are kept at the most.
    pub history_count: u32,
    /// How many events the stream keeps at the most.
    pub events_count: u32,
    /// How long a node that is down stays listed.
    pub forget: Duration,
}

impl Timing {
    /// What a farm runs with.
    pub const FARM: Self = Self {
        stale: STALE,
        down: DOWN,
        reservation: RESERVATION,
        idempotency: IDEMPOTENCY,
        claim: Duration::from_secs(5),
        place: Duration::from_secs(5),
        history: Duration::from_secs(3600),
        history_count: 10_000,
        events_count: 100_000,
        forget: Duration::from_secs(24 * 3600),
    };
}
