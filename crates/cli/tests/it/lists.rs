//! Tables for people, JSON for programs.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::process::run_at;
use crate::scripted::{Reply, Server, problem};

/// RFC 3339, this long ago.
fn ago(seconds: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::now() - Duration::from_secs(seconds)).to_string()
}

fn id(number: usize) -> String {
    format!("01987a5e-2f30-7c41-9d5c-{number:012}")
}

fn spawn(number: usize) -> Value {
    json!({
        "id": id(number), "node": "node-a", "endpoint": format!("ws://node-a:{}", 55_000 + number),
        "rendererType": "csr", "state": "ready", "startedAt": ago(192), "readyAt": ago(191), "pool": "default",
        "later": "a field of a later version",
    })
}

fn node(name: &str) -> Value {
    json!({
        "id": name, "eligibility": "draining", "availability": "up", "slots": { "total": 32, "used": 3 },
        "gpus": [{ "index": 0, "total": 4, "used": 1 }, { "index": 1, "total": 4, "used": 2 }],
        "pool": "default", "labels": { "sdk": "2025.1" }, "version": "0.1.0", "epoch": id(0),
        "advertise": "http://10.0.0.7:7070", "endpoint": "ws://node-a:{port}",
        "load": { "cpu": 0.254, "memoryFreeBytes": 3_435_973_836_u64 }, "lastHeartbeatAt": ago(0),
        "drain": { "deadline": ago(0), "remaining": 3, "reason": "new kernel", "startedAt": ago(60) },
    })
}

#[test]
fn spawns_are_a_table_without_lines() {
    let mut failed = spawn(2);
    failed["state"] = "exited".into();
    failed["exit"] = json!({ "reason": "failed", "code": 6, "text": "invalid license" });
    failed["endedAt"] = ago(190).into();
    let server = Server::always(Reply::json(200, json!({ "spawns": [spawn(1), failed] })));
    let ran = run_at(&server.url(), &["spawns", "--node", "node-a", "--state", "ready"]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "NODE", "STATE", "AGE", "RENDERER", "ENDED"]);
    assert_eq!(lines[1][..3], [&id(1), "node-a", "ready"]);
    assert_eq!(lines[1][4..], ["csr"], "the viewer's URL is a secret");
    assert!(lines[1][3].starts_with("3m1"), "{ran:?}");
    assert_eq!(lines[2][5..], ["failed", "after", "2s"]);
    assert_eq!(ran.stdout.lines().skip(3).collect::<Vec<_>>(), ["", "2 spawns: 1 ready, 1 exited"]);
    assert_eq!(server.lines(), ["GET /v1/spawns?limit=100&node=node-a&state=ready"]);
}

#[test]
fn the_order_is_that_of_all_that_match_and_not_of_the_newest() {
    // The oldest of 3000 took the longest to be ready.
    let server = Server::start(|request| {
        let from = request.path.split("cursor=").nth(1).map_or(0, |cursor| cursor.parse().unwrap());
        let one = |number: usize| {
            let mut one = spawn(3000 - number);
            if number == 2999 {
                one["readyAt"] = ago(100).into();
            }
            one
        };
        let mut list = json!({ "spawns": (from..from + 1000).map(one).collect::<Vec<Value>>() });
        if from < 2000 {
            list["nextCursor"] = (from + 1000).to_string().into();
        }
        Reply::json(200, list)
    });
    let ran = run_at(&server.url(), &["spawns", "--sort", "ready", "--limit", "2", "-o", "wide"]);
    let first = ran.stdout.lines().nth(1).unwrap();
    assert!(first.starts_with(&id(1)) && first.contains("92.0s"), "{ran:?}");
    assert!(ran.stdout.contains("… and 2998 more"), "{ran:?}");
    assert!(ran.stdout.contains("ws://node-a:55001"), "{ran:?}");
    let oldest = run_at(&server.url(), &["spawns", "-r", "--limit", "1", "--json"]).json();
    assert_eq!(oldest["spawns"][0]["id"], id(1), "{oldest}");
}

#[test]
fn owners_and_tags_are_columns_where_there_are_any_and_a_filter_is_a_query() {
    let mut tagged = spawn(2);
    (tagged["owner"], tagged["tags"]) = ("web shop".into(), json!({ "user": "ann", "visit": "7" }));
    let server = Server::always(Reply::json(200, json!({ "spawns": [spawn(1), tagged] })));
    let ran =
        run_at(&server.url(), &["spawns", "--owner", "web shop", "--tag", "user=ann", "--tag", "visit=7"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].contains("ENDED  OWNER") && lines[0].ends_with("TAGS"), "{ran:?}");
    assert!(lines[2].contains("web shop") && lines[2].ends_with("user=ann,visit=7"), "{ran:?}");
    assert_eq!(server.lines(), ["GET /v1/spawns?limit=100&owner=web%20shop&tag=user%3Dann&tag=visit%3D7"]);
    let shown = Server::always(Reply::json(200, {
        let mut one = spawn(3);
        (one["owner"], one["tags"]) = ("web shop".into(), json!({ "user": "ann" }));
        one
    }));
    let shown = run_at(&shown.url(), &["show", &id(3)]).stdout;
    assert!(shown.contains("tags      user=ann") && shown.contains("owner     web shop"), "{shown}");
}

#[test]
fn all_spawns_are_listed_however_many() {
    let server = Server::start(|request| {
        let page = request.path.split("cursor=").nth(1).map_or(0, |cursor| cursor.parse().unwrap());
        let mut list = json!({ "spawns": (0..100).map(|n| spawn(page * 100 + n)).collect::<Vec<Value>>() });
        if page < 2 {
            list["nextCursor"] = (page + 1).to_string().into();
        }
        Reply::json(200, list)
    });
    let listed = run_at(&server.url(), &["spawns", "--all"]).stdout;
    assert_eq!(listed.lines().filter(|line| line.contains(" ready ")).count(), 300);
    assert!(listed.ends_with("\n\n300 spawns: 300 ready\n"), "{listed}");
    let all = run_at(&server.url(), &["spawns", "--all", "--json"]).json();
    assert_eq!((all["spawns"].as_array().unwrap().len(), all.get("nextCursor")), (300, None));
}

#[test]
fn spawns_that_run_come_first_and_a_line_says_what_was_left_out() {
    let ended = |number| {
        let mut ended = spawn(number);
        ended["state"] = "exited".into();
        ended["exit"] = json!({ "reason": "stopped" });
        ended
    };
    // 600 have ended since the two that run were started.
    let server = Server::start(move |request| {
        let query = |name: &str| {
            let value = request.path.split(&format!("{name}=")).nth(1)?;
            value.split('&').next().map(str::to_owned)
        };
        let limit: usize = query("limit").unwrap().parse().unwrap();
        let from: usize = query("cursor").map_or(0, |cursor| cursor.parse().unwrap());
        let all: Vec<Value> = match query("state").as_deref() {
            None => (3..603).rev().map(ended).chain([spawn(2), spawn(1)]).collect(),
            Some("ready") => vec![spawn(2), spawn(1)],
            Some(_) => Vec::new(),
        };
        let page: Vec<Value> = all.iter().skip(from).take(limit).cloned().collect();
        let next = from + page.len();
        let mut list = json!({ "spawns": page });
        if next < all.len() {
            list["nextCursor"] = next.to_string().into();
        }
        Reply::json(200, list)
    });
    let ran = run_at(&server.url(), &["spawns", "--limit", "10"]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 14, "{ran:?}");
    assert_eq!((lines[1][0], lines[1][2]), (id(2).as_str(), "ready"));
    assert_eq!((lines[2][0], lines[2][2]), (id(1).as_str(), "ready"));
    assert_eq!((lines[3][0], lines[3][2]), (id(602).as_str(), "exited"));
    assert_eq!(ran.stdout.lines().nth(11).unwrap(), "… and 592 more; --limit and --state show others");
    assert_eq!(ran.stdout.lines().last().unwrap(), "10 spawns: 2 ready, 8 exited");
    let all = run_at(&server.url(), &["spawns", "--limit", "1000"]).stdout;
    assert_eq!(all.lines().count(), 605, "nothing was left out");
    assert!(all.lines().nth(1).unwrap().starts_with(&id(2)), "{all}");
}

#[test]
fn a_failing_node_says_so_with_its_reason_and_a_farm_wide_cause_stands_below_the_table() {
    let mut failing = node("node-b");
    failing["health"] = json!({
        "state": "failing", "reason": "invalid license", "since": ago(65), "failures": 4, "nextProbeAt": ago(0),
    });
    failing["dedicated"] = true.into();
    let cause = json!({ "reason": "the licence server is away", "since": ago(30), "requests": 7 });
    let list = json!({ "nodes": [node("node-a"), failing.clone()], "farmCause": cause });
    let server = Server::start(move |request| match request.path.as_str() {
        "/v1/nodes?limit=1000" => Reply::json(200, list.clone()),
        _ => Reply::json(200, failing.clone()),
    });
    let ran = run_at(&server.url(), &["nodes"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let column = |line: &str| line.split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!([lines[0], lines[1], lines[2]].map(column), ["HEALTH", "ok", "failing"], "{ran:?}");
    assert!(lines[2].contains("default (dedicated)"), "{ran:?}");
    assert!(
        lines[6].contains("every node alike") && lines[6].contains("the licence server is away"),
        "{ran:?}"
    );
    let one = run_at(&server.url(), &["nodes", "node-b"]).stdout;
    let health = one.lines().find(|line| line.starts_with("health")).unwrap();
    assert!(
        health.contains("failing since") && health.contains("4 failures in a row: invalid license"),
        "{one}"
    );
    assert!(one.lines().any(|line| line == "next probe    due: with the next request"), "{one}");
}

#[test]
fn cursors_are_followed_until_the_limit_is_reached() {
    let server = Server::start(|request| {
        let page = match request.path.split("cursor=").nth(1) {
            None => 0,
            Some("p%2F1") => 1,
            Some(other) => panic!("cursor {other}"),
        };
        let spawns: Vec<Value> = (0..1000).map(|n| spawn(page * 1000 + n)).collect();
        Reply::json(200, json!({ "spawns": spawns, "nextCursor": "p/1" }))
    });
    let ran = run_at(&server.url(), &["spawns", "--limit", "1500", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let list = ran.json();
    let spawns = list["spawns"].as_array().unwrap();
    assert_eq!(spawns.len(), 1500);
    assert_eq!(spawns[1499]["id"], id(1499));
    assert_eq!(spawns[0]["later"], "a field of a later version");
    assert_eq!(list["nextCursor"], "p/1");
    assert_eq!(
        server.lines(),
        ["GET /v1/spawns?limit=1000", "GET /v1/spawns?limit=500&cursor=p%2F1"],
        "no more than is wanted"
    );
}

#[test]
fn the_last_page_ends_the_list() {
    let server = Server::start(|request| {
        if request.path.contains("cursor") {
            Reply::json(200, json!({ "spawns": [spawn(2)] }))
        } else {
            Reply::json(200, json!({ "spawns": [], "nextCursor": "c" }))
        }
    });
    let ran = run_at(&server.url(), &["spawns", "--json"]);
    assert_eq!(ran.json()["spawns"].as_array().unwrap().len(), 1);
    assert!(ran.json().get("nextCursor").is_none());
}

#[test]
fn nodes_are_a_table_and_one_node_is_a_page() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v1/nodes?limit=1000" => Reply::json(200, json!({ "nodes": [node("node-a"), node("b")] })),
        "/v1/nodes/node-a" => Reply::json(200, node("node-a")),
        other => panic!("{other}"),
    });
    let ran = run_at(&server.url(), &["nodes"]);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        lines[3..],
        ["", "2 nodes: 2 up (2 draining); 6 of 64 slots in use on those that are up"],
        "{ran:?}"
    );
    assert!(lines[1].starts_with("b "), "by name: {ran:?}");
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>(),
        [
            "node-a",
            "draining",
            "up",
            "ok",
            "3/32",
            "3/8",
            "default",
            "sdk=2025.1",
            "25%",
            "3.2",
            "GiB",
            "0s",
            "ago",
            "0.1.0"
        ],
    );
    let ran = run_at(&server.url(), &["nodes", "node-a"]);
    for line in ["slots         3/32 used", "gpu           1: 2/4 used", "reason        new kernel"] {
        assert!(ran.stdout.contains(line), "{line}: {}", ran.stdout);
    }
    let ran = run_at(&server.url(), &["nodes", "--json"]);
    assert_eq!(ran.json()["nodes"][0]["id"], "b", "by name, as the table");
}

#[test]
fn a_spawn_is_shown_with_its_history() {
    let mut whole = spawn(7);
    let start = whole["startedAt"].clone();
    whole["state"] = "exited".into();
    whole["exit"] = json!({ "reason": "signaled", "signal": "SIGKILL" });
    whole["events"] = json!([
        { "seq": 1, "at": start, "kind": "spawn.launching", "spawn": id(7), "node": "node-a" },
        { "seq": 2, "at": ago(191), "kind": "spawn.ready", "spawn": id(7), "endpoint": "ws://x" },
    ]);
    let server = Server::always(Reply::json(200, whole.clone()));
    let ran = run_at(&server.url(), &["show", &id(7)]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for piece in
        ["ended as  signaled, SIGKILL", "AFTER  EVENT", "+0.000s  spawn.launching", "endpoint=ws://x"]
    {
        assert!(ran.stdout.contains(piece), "{piece}: {}", ran.stdout);
    }
    assert_eq!(run_at(&server.url(), &["show", &id(7), "--json"]).json(), whole);
    assert_eq!(server.lines()[0], format!("GET /v1/spawns/{}", id(7)));
}

#[test]
fn the_line_is_a_table_of_who_waits_for_what_and_says_how_many_it_left_out() {
    let list = json!({ "total": 3, "waiting": [
        { "position": 1, "since": ago(75), "rendererType": "ssr", "pool": "big", "labels": { "sdk": "2025.1" }, "owner": "key:web" },
        { "position": 2, "more": "of a later version" },
    ] });
    let answer = list.clone();
    let server = Server::start(move |request| match request.line().as_str() {
        "GET /v1/waiting?limit=2" => Reply::json(200, answer.clone()),
        _ => problem(model::api::ErrorCode::NotFound),
    });
    let ran = run_at(&server.url(), &["waiting", "--limit", "2"]);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["POSITION", "WAITS", "RENDERER", "POOL", "LABELS", "OWNER"], "{ran:?}");
    assert_eq!(lines[1], ["1", "1m15s", "ssr", "big", "sdk=2025.1", "key:web"], "{ran:?}");
    assert_eq!(lines[2], ["2", "-", "-", "-", "-", "-"], "{ran:?}");
    assert_eq!(lines[3], ["…", "and", "1", "more"], "{ran:?}");
    for form in [["--json", "--limit=2"], ["-ojson", "--limit=2"]] {
        assert_eq!(run_at(&server.url(), &[&["waiting"][..], &form].concat()).json(), list);
    }
    let in_form = |form: &str| run_at(&server.url(), &["waiting", "--limit", "2", "-o", form]);
    let wide = in_form("wide");
    let lines: Vec<&str> = wide.stdout.lines().collect();
    assert!(lines[0].ends_with("SINCE") && lines[1].ends_with('Z'), "{wide:?}");
    let yaml = in_form("yaml");
    assert!(yaml.stdout.contains("position: 1") && yaml.stdout.contains("total: 3"), "{yaml:?}");
    let name = in_form("name");
    assert_eq!((name.stdout.as_str(), name.stderr.trim()), ("key:web\n-\n", "… and 1 more"), "{name:?}");
    let reverse = run_at(&server.url(), &["waiting", "--limit", "2", "-q", "-r"]);
    assert_eq!(reverse.stdout, "-\nkey:web\n", "{reverse:?}");
    assert_eq!(run_at(&server.url(), &["waiting", "--json", "-q"]).code, 2);
}

#[test]
fn orders_are_read_page_by_page_until_there_are_as_many_as_were_asked_for() {
    let order = |kind: &str, outcome: &str| {
        json!({
            "at": "2026-01-31T08:00:00.000Z", "order": kind, "node": "node-a", "by": "ann", "owner": "key:x", "from": "192.0.2.7",
            "requestId": "r-1", "outcome": outcome, "code": (outcome == "refused").then_some("node-up"), "later": 1,
        })
    };
    let pages = [
        json!({ "audit": [order("drain", "unacknowledged"), order("forget", "refused")], "nextCursor": "7-0" }),
        json!({ "audit": [order("cordon", "done")], "nextCursor": "5-1" }),
    ];
    let answers = pages.clone();
    let server = Server::start(move |request| match request.line().as_str() {
        "GET /v1/audit?limit=3&node=node-a&by=a%20b" => Reply::json(200, answers[0].clone()),
        "GET /v1/audit?limit=1&node=node-a&by=a%20b&cursor=7-0" => Reply::json(200, answers[1].clone()),
        _ => problem(model::api::ErrorCode::NotFound),
    });
    let line = ["audit", "--node", "node-a", "--by", "a b", "--limit", "3"];
    let ran = run_at(&server.url(), &line);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!((ran.code, lines.len()), (0, 5), "{ran:?}");
    for (line, words) in
        [(1, "unacknowledged"), (2, "refused: node-up"), (3, "192.0.2.7"), (4, "… and older ones")]
    {
        assert!(lines[line].contains(words), "{words}: {ran:?}");
    }
    let listed = run_at(&server.url(), &[&line[..], &["--json"]].concat()).json();
    assert_eq!(listed["audit"][2], pages[1]["audit"][0], "with what this version does not know");
    assert_eq!((listed["audit"].as_array().unwrap().len(), &listed["nextCursor"]), (3, &json!("5-1")));
    let yaml = run_at(&server.url(), &[&line[..], &["-o", "yaml"]].concat());
    assert!(yaml.stdout.contains("order: drain") && yaml.stdout.contains("nextCursor: \"5-1\""), "{yaml:?}");
    let wide = run_at(&server.url(), &[&line[..], &["-o", "wide", "--reverse"]].concat());
    let lines: Vec<&str> = wide.stdout.lines().collect();
    assert!(
        lines[0].ends_with("REQUEST") && lines[1].contains("cordon") && lines[1].ends_with("r-1"),
        "{wide:?}"
    );
    let name = run_at(&server.url(), &[&line[..], &["-q"]].concat());
    assert_eq!(name.stdout, "r-1\nr-1\nr-1\n", "{name:?}");
}

#[test]
fn orders_are_filtered_by_what_was_ordered_when_and_of_which_spawn() {
    let server = Server::always(Reply::json(200, json!({ "audit": [] })));
    let ran = run_at(
        &server.url(),
        &["audit", "--order", "set-life", "--spawn", &id(7), "--since", "24h", "--until", "1h"],
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "no orders on record\n"), "{ran:?}");
    let query = format!("GET /v1/audit?limit=100&order=set-life&spawn={}&since=24h&until=1h", id(7));
    assert_eq!(server.lines(), [query]);
    assert_eq!(run_at(&server.url(), &["audit", "--order", "reboot"]).code, 2);
}
