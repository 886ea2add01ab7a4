//! The Lua scripts: one file per atomic step, with the shared parts that it needs put before it.
//!
//! The parts are `core` (keys, clock, sequence numbers, events), `health`, `judge`, `handicap`, `slots`, `choice`, `order`, `outcomes`, `pings` and
//! `spawns`; `lean` stands for `core` where a script must be quick. A client sends its own scripts (`EVALSHA`, then `EVAL`), so releases side by side each run theirs on the same
//! keys: the stored form is the contract between releases, the arguments are not.

use redis::Script;

macro_rules! script {
    ($($part:literal),+) => {
        Script::new(concat!($(include_str!(concat!("lua/", $part, ".lua")), "\n"),+))
    };
}

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) reserve: Script,
    pub(super) forecast: Script,
    pub(super) assess: Script,
    pub(super) release: Script,
    pub(super) release_by_id: Script,
    pub(super) abandon: Script,
    pub(super) keep_places: Script,
    pub(super) leave_line: Script,
    pub(super) line: Script,
    pub(super) report: Script,
    pub(super) keepalive: Script,
    pub(super) sweep: Script,
    pub(super) set_eligibility: Script,
    pub(super) restore_order: Script,
    pub(super) forget: Script,
    pub(super) check: Script,
    pub(super) incarnation: Script,
    pub(super) renew: Script,
    pub(super) claim: Script,
    pub(super) settle: Script,
    pub(super) locate: Script,
    pub(super) permit: Script,
    pub(super) learn: Script,
    pub(super) delivery: Script,
    pub(super) audit: Script,
    pub(super) count: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            reserve: script!("core", "health", "judge", "handicap", "slots", "choice", "reserve"),
            forecast: script!("core", "health", "judge", "handicap", "slots", "choice", "forecast"),
            assess: script!("core", "health", "judge", "handicap", "slots", "assess"),
            release: script!("core", "health", "judge", "handicap", "slots", "release"),
            release_by_id: script!("core", "health", "judge", "handicap", "slots", "release_by_id"),
            abandon: script!("core", "abandon"),
            keep_places: script!("core", "keep_places"),
            leave_line: script!("core", "leave_line"),
            line: script!("core", "judge", "line"),
            report: script!(
                "core", "health", "judge", "handicap", "slots", "order", "outcomes", "spawns", "pings",
                "report"
            ),
            keepalive: script!("lean", "pings", "handicap", "keepalive"),
            sweep: script!("core", "health", "judge", "handicap", "slots", "spawns", "sweep"),
            set_eligibility: script!(
                "core",
                "health",
                "judge",
                "handicap",
                "slots",
                "order",
                "set_eligibility"
            ),
            restore_order: script!("core", "health", "judge", "handicap", "slots", "order", "restore_order"),
            forget: script!("core", "health", "judge", "handicap", "slots", "spawns", "forget"),
            check: script!("core", "check"),
            incarnation: script!("core", "incarnation"),
            renew: script!("core", "renew"),
            claim: script!("core", "claim"),
            settle: script!("core", "settle"),
            locate: script!("core", "locate"),
            permit: script!("core", "permit"),
            learn: script!("core", "health", "judge", "handicap", "slots", "outcomes", "learn"),
            delivery: script!("core", "delivery"),
            audit: script!("core", "audit"),
            count: script!("core", "count"),
        }
    }
}
