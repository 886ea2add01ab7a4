//! The Lua scripts: one file per atomic step, with the shared parts that it needs put before it.
//!
//! Every script but heartbeats and `locate` begins with `core`, which lists the keys; heartbeats begin with `lean`. The file named like the
//! script, or the last one, says what its arguments and its answer are. A client sends its own scripts (`EVALSHA`, then `EVAL`), so releases
//! side by side each run theirs on the same keys: the stored form is the contract between releases, the arguments are not.

use redis::Script;

/// A file, or `(name: "file", …)`: files of which a script needs one function, and rarely. They are compiled with the script, and run only
/// when that function is called: Lua makes every function of a script anew with each run, and a report that makes a hundred of them
/// spends more on that than on all it reads and writes.
macro_rules! part {
    ($file:literal) => {
        concat!(include_str!(concat!("lua/", $file, ".lua")), "\n")
    };
    (($name:ident: $($file:tt),+)) => {
        concat!(
            "local function ", stringify!($name), "(...)\n",
            $(part!($file),)+
            "return ", stringify!($name), "(...)\nend\n"
        )
    };
    // Named sets of them.
    (events) => {
        concat!(part!((mend_streams: "floor", "streams")), part!("events"), part!((wake: "wake")), part!("wake_line"))
    };
    (health) => {
        concat!(part!((read_health: "health")), part!((is_avoided: "health")), part!((silent_since: "judge")), part!("handicap"))
    };
    (nodes) => {
        concat!(
            part!("identity"), part!(events), part!("health"), part!("judge"), part!("handicap"), part!("indexes"), part!("slots"),
            part!("nodes"), part!("strike"), part!("freed"), part!("late"), part!("silence")
        )
    };
    (records) => {
        concat!(part!("tally"), part!("records"), part!((ended_early: "health", "nodes", "rfc3339", "outcomes")), part!("weight"), part!("tally_end"))
    };
}

macro_rules! script {
    ($($part:tt),+) => {
        Script::new(concat!($(part!($part)),+))
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
    pub(super) changes: Script,
    pub(super) report: Script,
    pub(super) keepalive: Script,
    pub(super) keepalive_with_node: Script,
    pub(super) keepalive_with_spawn: Script,
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
            reserve: script!(
                "core",
                (is_fresh: "identity", "fresh"),
                (leave: "leave"),
                (wake_line: events, "wake_line"),
                (write_health: "health"),
                health,
                (is_kept: "judge"),
                "indexes",
                "slots",
                (enrol: "nodes"),
                "late",
                (call_stale: events, "nodes", "silence"),
                (expire_beats: events, "nodes", "silence"),
                "demand",
                (is_over_quota: "quota"),
                (is_overtaking: "overtaking"),
                "choice",
                (due_probe: "probe"),
                (mended: "mended"),
                "chosen",
                (shortage: "shortage"),
                "reserve"
            ),
            forecast: script!(
                "core",
                "fresh",
                "leave",
                nodes,
                "demand",
                "quota",
                "overtaking",
                "choice",
                "probe",
                "mended",
                "chosen",
                "shortage",
                "forecast"
            ),
            assess: script!("core", nodes, "assess"),
            release: script!("core", events, health, "indexes", "slots", "freed", "release"),
            release_by_id: script!("core", nodes, "release_by_id"),
            abandon: script!("core", "identity", "abandon"),
            keep_places: script!("core", "identity", "keep_places"),
            leave_line: script!("core", "identity", events, "leave", "leave_line"),
            line: script!("core", "identity", "judge", "line"),
            changes: script!(
                "core",
                (mend_streams: "floor", "streams"),
                "events",
                (settle: (wake: "wake"), "wake_line", health, "indexes", "slots", "freed"),
                (place: health, "indexes"),
                "slots",
                "tally",
                "records",
                (note_ended: "weight"),
                (tally_end: health, "indexes", (ended_early: "health", "nodes", "rfc3339", "outcomes"), "tally_end"),
                (is_failing: "health"),
                (is_object: "json"),
                (introduced: "rfc3339", "introduced"),
                (repair_record: "repair_record"),
                "changes",
                "apply",
                "applied"
            ),
            report: script!(
                "core", nodes, "floor", (repair_streams: "streams"), "order", "rfc3339", "outcomes", records, "unseen", "repair_indexes",
                "repair_record", "pings", "json", "introduced", "report", "apply", "reconcile"
            ),
            keepalive: script!(
                "lean",
                "keepalive",
                (supply_changed: "handicap", "supply"),
                (bring_pings: "pings", "bring_pings"),
                "alive"
            ),
            keepalive_with_node: script!(
                "lean",
                "handicap",
                "keepalive",
                "node_check",
                (supply_changed: "supply"),
                (bring_pings: "pings", "bring_pings"),
                "alive"
            ),
            keepalive_with_spawn: script!(
                "lean",
                "keepalive",
                "spawn_check",
                (supply_changed: "handicap", "supply"),
                (bring_pings: "pings", "bring_pings"),
                "alive"
            ),
            sweep: script!(
                "core", nodes, "floor", (repair_streams: "streams"), "leave", "rfc3339", "outcomes", records, "unseen", "ended", "sweep"
            ),
            set_eligibility: script!("core", nodes, "order", "set_eligibility"),
            restore_order: script!("core", nodes, "order", "restore_order"),
            forget: script!("core", nodes, "rfc3339", "outcomes", records, "unseen", "forget"),
            check: script!("core", "identity", "check"),
            incarnation: script!("core", "identity", "incarnation"),
            renew: script!("core", "identity", (repair_streams: "floor", "streams"), "renew"),
            claim: script!("core", "identity", "claim"),
            settle: script!("core", "identity", events, "settle"),
            locate: script!("locate"),
            permit: script!("core", "identity", "permit"),
            learn: script!("core", nodes, "rfc3339", "outcomes", "learn"),
            delivery: script!("core", "identity", "delivery"),
            audit: script!("core", "identity", events, "audit"),
            count: script!("core", "identity", events, "tally", "count"),
        }
    }
}
