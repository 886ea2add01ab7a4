//! Whether a farm that went through something has kept its promises to every caller, and has nothing left of it.
//!
//! Servers are started through a script that notes each start, so that none is missed, however short it lived.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use wire::v1::ListRequest;
use wire::v1::node_agent_client::NodeAgentClient;

use crate::binaries::binaries;
use crate::farm::{Agent, Farm};
use crate::faults::Incidents;
use crate::load::{Call, Notes, Outcome, Stays};
use crate::wait::{Look, until};

/// Whoever got no spawn has none left after this time.
const NOTHING_LEFT: Duration = Duration::from_secs(10);
/// Views may differ for this long.
const AGREE: Duration = Duration::from_secs(10);
/// Longer than a deadline an answer may not take.
const LATE: Duration = Duration::from_secs(2);

/// A process that was started.
#[derive(Debug, Clone)]
pub struct Start {
    /// The spawn.
    pub id: String,
    /// Who asked for it.
    pub caller: u64,
    /// Where.
    pub node: String,
    /// When, in ticks of the machine's clock.
    pub at: u64,
}

/// The script that notes starts, made in this directory.
pub fn noting(directory: &Path) -> PathBuf {
    let (script, simulator) = (directory.join("noting"), &binaries().simulator);
    let starts = directory.join("starts");
    fs::create_dir(&starts).expect("a directory can be made");
    // A file for each spawn (the second argument is its id): a shell writes a long line in pieces, and others write meanwhile.
    let text = format!(
        "#!/bin/sh\nread -r stat </proc/$$/stat\necho \"$stat|$*\" >>'{}'/\"$2\"\nexec '{}' \"$@\"\n",
        starts.display(),
        simulator.display()
    );
    fs::write(&script, text).expect("a file can be written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, executable).expect("it is ours");
    script
}

/// The id of every process that was started.
pub fn started(directory: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(directory.join("starts")).expect("the script's directory").flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
}

/// Every process that was started.
pub fn starts(farm: &Farm, directory: &Path) -> Vec<Start> {
    let files = fs::read_dir(directory.join("starts")).expect("the script's directory");
    let text: String =
        files.flatten().map(|file| fs::read_to_string(file.path()).expect("a file of it")).collect();
    let parse = |line: &str| {
        let (stat, arguments) = line.split_once('|')?;
        let words: Vec<&str> = arguments.split(' ').collect();
        let after = |option: &str| words.get(words.iter().position(|word| *word == option)? + 1).copied();
        let report = after("--liveliness-endpoint")?;
        let agent = |agent: &&Agent| report.contains(&format!("{}/", agent.liveliness.addr));
        Some(Start {
            id: after("--id")?.to_owned(),
            caller: caller(after("--session-token")?)?,
            node: farm.agents.iter().find(agent)?.node.clone(),
            at: stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?,
        })
    };
    text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("no start: {line}"))).collect()
}

fn caller(token: &str) -> Option<u64> {
    token.rsplit_once('=')?.1.parse().ok()
}

/// What is worth telling of a farm that did well.
#[derive(Debug)]
pub struct Verdict {
    /// Calls, and how many of them were given a spawn.
    pub calls: (usize, usize),
    /// The longest that anybody waited for an answer.
    pub longest: Duration,
    /// Spawns that nobody was told of and that their initial use ended, each with who had asked for it.
    pub excused: Vec<String>,
    /// The most slots that may still be reserved, unknown to any front door.
    pub reserved: u64,
}

/// Judges; the load has ended, the farm is healed. `deadline` is the front doors'.
pub async fn judge(
    farm: &Farm,
    directory: &Path,
    notes: &mut Notes,
    incidents: &Incidents,
    deadline: Duration,
) -> Verdict {
    let answered: BTreeMap<String, Call> =
        notes.calls.iter().filter_map(|call| Some((call.id()?.to_owned(), call.clone()))).collect();
    nothing_unasked(farm, &answered).await;
    let reserved = if incidents.deserted { notes.calls.len() as u64 } else { 0 };
    let audit = farm.audit_but(reserved, AGREE).await;
    agents_agree(farm).await;
    let (mut wrong, starts) = (String::new(), starts(farm, directory));
    answers(&mut wrong, &answered, &starts);
    keys(&mut wrong, &notes.calls, incidents);
    for closed in &incidents.closed {
        // A tick is ten milliseconds; what began in the same one is not held against anybody.
        let inside =
            |start: &&Start| start.node == closed.node && start.at > closed.from + 1 && start.at < closed.to;
        for start in starts.iter().filter(inside) {
            writeln!(wrong, "{start:?} although {closed:?}").ok();
        }
    }
    let mut longest = Duration::ZERO;
    for call in notes.calls.iter().filter(|call| !matches!(call.outcome, Outcome::HungUp)) {
        longest = longest.max(call.took);
        if call.took > deadline + call.wait + LATE {
            writeln!(wrong, "a late answer: {call:?}").ok();
        }
        let odd =
            |code: &str| ["internal", "invalid-request", "not-found", "spawn-failed", ""].contains(&code);
        if let Outcome::Refused(status, code) = &call.outcome
            && odd(code)
            // A process may be killed before it is ready.
            && (code != "spawn-failed" || incidents.killed.is_empty())
        {
            writeln!(wrong, "an answer that nothing here explains: {status} {code} in {call:?}").ok();
        }
    }
    for Stays { id, viewer } in &mut notes.stays {
        if viewer.is_closed().await && !incidents.killed.contains(id) {
            writeln!(wrong, "the viewer of {id} was left alone").ok();
        }
    }
    let mut excused = BTreeSet::new();
    for door in &farm.doors {
        let records: BTreeMap<String, _> = farm
            .on_record(door.http)
            .await
            .into_iter()
            .map(|record| (record["id"].as_str().expect("an id").to_owned(), record))
            .collect();
        for (id, record) in &records {
            let ended = record["state"] == "exited" && record["exit"]["reason"].is_string();
            let runs = audit.spawns.values().any(|ids| ids.contains(id));
            if !ended && !runs {
                writeln!(wrong, "{} has no end for {record}", door.role.name).ok();
            }
            if record["exit"]["reason"] == "initial-use-timeout" && !answered.contains_key(id) {
                excused.insert(id.clone());
            }
        }
        for id in answered.keys().filter(|id| !records.contains_key(*id) && incidents.wiped.is_empty()) {
            writeln!(wrong, "{} knows nothing of {id}, which was answered", door.role.name).ok();
        }
    }
    assert!(wrong.is_empty(), "promises that were not kept:\n{wrong}");
    let calls = (notes.calls.len(), answered.len());
    let excused = starts.iter().filter(|start| excused.contains(&start.id)).map(|start| {
        let asked = notes.calls.iter().filter(|call| call.caller == start.caller);
        format!("{start:?} {:?}", asked.map(|call| &call.outcome).collect::<Vec<_>>())
    });
    Verdict { calls, longest, excused: excused.collect(), reserved }
}

/// Waits until nothing runs but what somebody was told of, at most one for each caller, and no two with one port.
async fn nothing_unasked(farm: &Farm, answered: &BTreeMap<String, Call>) {
    until("what nobody was told of is gone", NOTHING_LEFT, async || {
        let processes = farm.processes();
        let id = |process: &crate::processes::Process| process.option("--id").unwrap_or_default().to_owned();
        let unasked: Vec<_> =
            processes.iter().filter(|process| !answered.contains_key(&id(process))).collect();
        let different =
            |option: &str| -> BTreeSet<_> { processes.iter().map(|p| p.option(option)).collect() };
        let alone = ["--id", "--sc-port", "--session-token"];
        let so = unasked.is_empty() && alone.iter().all(|one| different(one).len() == processes.len());
        Look::when(so, || format!("unasked {unasked:#?} of {} processes", processes.len()))
    })
    .await;
}

/// Waits until every agent's own list is what runs.
async fn agents_agree(farm: &Farm) {
    until("agents know what runs", AGREE, async || {
        let mut listed = BTreeSet::new();
        for agent in &farm.agents {
            let at = format!("http://{}", agent.flag("--listen"));
            let mut client = match NodeAgentClient::connect(at).await {
                Ok(client) => client,
                Err(error) => return Look::NotYet(format!("{}: {error}", agent.node)),
            };
            match client.list(ListRequest::default()).await {
                Ok(list) => {
                    let lives = list.into_inner().spawns.into_iter().filter(|spawn| spawn.exit.is_none());
                    listed.extend(lives.map(|spawn| (spawn.spawn_id, spawn.pid)));
                }
                Err(error) => return Look::NotYet(format!("{}: {error}", agent.node)),
            }
        }
        let running: BTreeSet<_> = farm
            .processes()
            .iter()
            .map(|process| (process.option("--id").unwrap_or_default().to_owned(), process.pid))
            .collect();
        Look::when(listed == running, || format!("listed {listed:?}, running {running:?}"))
    })
    .await;
}

/// Every answer is one process, started once, for this caller, on this node.
fn answers(wrong: &mut String, answered: &BTreeMap<String, Call>, starts: &[Start]) {
    let mut by_id: BTreeMap<&str, Vec<&Start>> = BTreeMap::new();
    for start in starts {
        by_id.entry(&start.id).or_default().push(start);
    }
    for (id, started) in &by_id {
        if started.len() > 1 {
            writeln!(wrong, "{id} was started more than once: {started:?}").ok();
        }
    }
    for (id, call) in answered {
        let Outcome::Ready { node, .. } = &call.outcome else { continue };
        match by_id.get(id.as_str()).map(Vec::as_slice) {
            Some([start]) if start.caller == call.caller && start.node == *node => {}
            other => {
                writeln!(wrong, "{call:?} was answered, and this was started: {other:?}").ok();
            }
        }
    }
}

/// No key has two answers, and no id two callers. Whoever forgot everything forgot keys, too.
fn keys(wrong: &mut String, calls: &[Call], incidents: &Incidents) {
    let mut callers: BTreeMap<u64, Vec<&Call>> = BTreeMap::new();
    let mut owners: BTreeMap<&str, u64> = BTreeMap::new();
    for call in calls {
        callers.entry(call.caller).or_default().push(call);
        if let Some(id) = call.id()
            && *owners.entry(id).or_insert(call.caller) != call.caller
        {
            writeln!(wrong, "{id} was given to two callers, one of them in {call:?}").ok();
        }
    }
    for calls in callers.values() {
        let ids: BTreeSet<&str> = calls.iter().filter_map(|call| call.id()).collect();
        let from = calls.iter().map(|call| call.asked).min();
        let to: Option<Instant> = calls.iter().map(|call| call.asked + call.took).max();
        let forgotten = incidents.wiped.iter().any(|at| Some(*at) >= from && Some(*at) <= to);
        if ids.len() > 1 && !forgotten {
            writeln!(wrong, "one key, two answers: {calls:#?}").ok();
        }
    }
}
