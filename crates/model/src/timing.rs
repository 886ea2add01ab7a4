//! Every interval in one place, each with its effect on a user. The compiler checks their order.
//!
//! The ping interval and the initial-use timeout are the vendor's defaults for `ts3d_sc_server` (its `Config.js`:
//! `spawnLivelinessReportIntervalTime`, `spawnInitialUseDuration`). The other times are this project's own promises.

use std::time::Duration;

/// How often an agent reports everything about its node to the registry. A dead node is noticed in multiples of this.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Without a heartbeat for this long a node gets no more spawns.
pub const STALE: Duration = Duration::from_secs(3);
/// Without a heartbeat for this long a node is down and its spawns are lost; subscribers receive the events.
pub const DOWN: Duration = Duration::from_secs(10);
/// A spawn whose server does not report `ready` within this time is ended, and its caller gets `ready-timeout`.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that a caller waits for an answer once a slot was taken, all attempts on all nodes together. The vendor's
/// client gives up after 60 s.
pub const SPAWN_DEADLINE: Duration = Duration::from_secs(45);
/// A slot taken for a spawn that never started comes back after this time, even if front door and agent both died.
pub const RESERVATION: Duration = Duration::from_secs(60);
/// How often a spawned server reports that it is alive (`--liveliness-update-frequency`).
pub const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Between TERM and KILL when a spawn is ended. The vendor's own server waits as long.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// A spawn whose viewer never connects ends itself after this time (`--initial-use-duration`).
pub const INITIAL_USE: Duration = Duration::from_secs(60);
/// How long the same idempotency key gives the same answer.
pub const IDEMPOTENCY: Duration = Duration::from_secs(600);
/// How long the record and the log of an ended spawn can be read, where the operator says nothing (`--keep-ended`).
pub const KEEP_ENDED: Duration = Duration::from_secs(24 * 3600);
/// The least and the most that `--keep-ended` may say.
pub const MIN_KEEP_ENDED: Duration = Duration::from_secs(60);
/// See [`MIN_KEEP_ENDED`]: 30 days.
pub const MAX_KEEP_ENDED: Duration = Duration::from_secs(30 * 24 * 3600);
/// A drain ends what still runs on the node after this time, where the operator gives no deadline.
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

/// The registry's intervals and bounds; tests use milliseconds where a farm uses seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Silence after which a node gets no new spawns; [`STALE`] in a farm.
    pub stale: Duration,
    /// Silence after which a node's spawns are lost; [`DOWN`] in a farm.
    pub down: Duration,
    /// How long a slot stays reserved for a spawn that no agent has reported; [`RESERVATION`] in a farm.
    pub reservation: Duration,
    /// How long the answer to an idempotency key is kept; [`IDEMPOTENCY`] in a farm.
    pub idempotency: Duration,
    /// A front door that works on a keyed request renews its claim within this time, or another front door may take the key
    /// over.
    pub claim: Duration,
    /// A front door renews the places in line that it holds within this time, or they lapse.
    pub place: Duration,
    /// How long the record of an ended spawn, and an operator's order, can be read. Of several front doors with different values the
    /// longest counts.
    pub history: Duration,
    /// The most records of ended spawns that are kept.
    pub history_count: u32,
    /// The most bytes that these records take, as the registry estimates them.
    pub history_bytes: u64,
    /// The most operators' orders to nodes that are kept, and to spawns as many again.
    pub audit_count: u32,
    /// The most events that the stream keeps.
    pub events_count: u32,
    /// How long a node that is down stays listed.
    pub forget: Duration,
}

impl Timing {
    /// The intervals of a real farm.
    pub const FARM: Self = Self {
        stale: STALE,
        down: DOWN,
        reservation: RESERVATION,
        idempotency: IDEMPOTENCY,
        claim: Duration::from_secs(5),
        place: Duration::from_secs(5),
        history: KEEP_ENDED,
        history_count: 50_000,
        history_bytes: 192 << 20,
        audit_count: 10_000,
        events_count: 100_000,
        forget: Duration::from_secs(24 * 3600),
    };
}
