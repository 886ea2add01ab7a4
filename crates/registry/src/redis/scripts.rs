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

/// Makes [`Scripts`] of the parts of each, in their order.
macro_rules! scripts {
    ($($name:ident: ($($part:tt),+);)+) => {
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)+
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self { $($name: Script::new(concat!($(part!($part)),+)),)+ }
            }
        }

        /// The name and the text of each.
        #[cfg(test)]
        const TEXTS: &[(&str, &str)] = &[$((stringify!($name), concat!($(part!($part)),+)),)+];
    };
}

scripts! {
    reserve: (
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
    );
    forecast: (
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
    );
    assess: ("core", nodes, "assess");
    release: ("core", events, health, "indexes", "slots", "freed", "release");
    release_by_id: ("core", nodes, "release_by_id");
    abandon: ("core", "identity", "abandon");
    keep_places: ("core", "identity", "keep_places");
    leave_line: ("core", "identity", events, "leave", "leave_line");
    line: ("core", "identity", "judge", "line");
    changes: (
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
    );
    report: (
        "core", nodes, "floor", (repair_streams: "streams"), "order", "rfc3339", "outcomes", records, "unseen", "repair_indexes",
        "repair_record", "pings", "json", "introduced", "report", "apply", "reconcile"
    );
    keepalive: (
        "lean",
        "keepalive",
        (supply_changed: "handicap", "supply"),
        (bring_pings: "pings", "bring_pings"),
        "alive"
    );
    keepalive_with_node: (
        "lean",
        "handicap",
        "keepalive",
        "node_check",
        (supply_changed: "supply"),
        (bring_pings: "pings", "bring_pings"),
        "alive"
    );
    keepalive_with_spawn: (
        "lean",
        "keepalive",
        "spawn_check",
        (supply_changed: "handicap", "supply"),
        (bring_pings: "pings", "bring_pings"),
        "alive"
    );
    sweep: (
        "core", nodes, "floor", (repair_streams: "streams"), "leave", "rfc3339", "outcomes", records, "unseen", "ended", "sweep"
    );
    set_eligibility: ("core", nodes, "order", "set_eligibility");
    restore_order: ("core", nodes, "order", "restore_order");
    forget: ("core", nodes, "rfc3339", "outcomes", records, "unseen", "forget");
    check: ("core", "identity", "check");
    incarnation: ("core", "identity", "incarnation");
    renew: ("core", "identity", (repair_streams: "floor", "streams"), "renew");
    claim: ("core", "identity", "claim");
    settle: ("core", "identity", events, "settle");
    locate: ("locate");
    permit: ("core", "identity", "permit");
    learn: ("core", nodes, "rfc3339", "outcomes", "learn");
    delivery: ("core", "identity", "delivery");
    audit: ("core", "identity", events, "audit");
    count: ("core", "identity", events, "tally", "count");
}

#[cfg(test)]
mod tests;
