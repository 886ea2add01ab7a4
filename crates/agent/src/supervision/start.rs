//! From a request to a running process: log, control group, user, command line, `exec`, and the first record in the journal.
//!
//! A start is one job on the disk's threads with a deadline. What it has taken is released when it is dropped ([`Hold`], [`StartedProcess`]),
//! so no early return, panic or late disk leaks a slot or leaves a process behind.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use model::{RequestId, Timestamp};
use tokio::time::Instant;
use traces::Trace;

use super::hold::{Hold, StartedProcess};
use crate::config::Launcher;
use crate::node::Node;
use crate::secret;
use crate::simulated::SimulatedMachine;
use crate::spawn::args::{PerSpawn, command_line};
use crate::spawn::body::Body;
use crate::spawn::cgroup::Group;
use crate::spawn::environment::environment;
use crate::spawn::predecessor::Left;
use crate::spawn::process::Process;
use crate::spawn::{Facts, Refusal, RefusalKind, launch, leftovers, limits, output, predecessor};
use crate::state::journal::LineNumber;
use crate::state::make_dir;
use crate::state::record::Record;
use crate::users::SpawnUsers;
use crate::users::user::Ids;

/// How long everything about a start that touches a disk may take, `exec` included.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(3);
/// What a caller asked for that is not published with the spawn. Kept until it is ready, in case it must be started again.
#[derive(Debug, Clone)]
pub(crate) struct StartRequest {
    pub(crate) model: Option<String>,
    pub(crate) session_token: Option<String>,
    pub(crate) request_id: RequestId,
    /// The place in the caller's trace, for the parts of the start.
    pub(crate) trace: Trace,
}

impl StartRequest {
    /// Whether a server must be started with what was asked for: a warm one was started without it.
    ///
    /// Every field is named, so that a new one that reaches the server cannot be forgotten here.
    pub(crate) fn needs_own_server(&self) -> bool {
        let Self { model, session_token, request_id: _, trace: _ } = self;
        model.is_some() || session_token.is_some()
    }
}

/// The whole start in one job of the disk's pool.
pub(super) async fn start_within(
    node: &Arc<Node>,
    hold: Hold,
    order: &StartRequest,
    within: Duration,
    ready_by: Instant,
) -> Result<(StartedProcess, Option<LineNumber>), Refusal> {
    let Some(facts) = hold.facts() else {
        return Err(RefusalKind::CannotStart.because("its agent failed to start it"));
    };
    let job = {
        let (node, order) = (Arc::clone(node), order.clone());
        move || match start(&node, &facts, Some(&order)) {
            Ok(body) => {
                let line = match &body {
                    Body::Process(process) => Some(started(&node, &facts, &order, process, ready_by)),
                    Body::Nothing { .. } => None,
                };
                Ok((StartedProcess::new(node, facts, body, Some(hold)), line))
            }
            Err(refusal) => {
                node.logs.discard(facts.id);
                hold.refuse(refusal.clone());
                Err(refusal)
            }
        }
    };
    if let Launcher::Nothing = node.config.launcher {
        return job();
    }
    let started = tokio::select! {
        started = node.disk.starts.call(within, job) => started,
        // The next agent does not find a process that has not started.
        () = node.leaving.cancelled() => return Err(RefusalKind::ShuttingDown.because("the agent is going away")),
    };
    started.unwrap_or_else(|error| {
        Err(RefusalKind::CannotStart.because(format!("failed to start the server: {error}")))
    })
}

/// Starts another process for a spawn that has lost its port, see [`super::driver`].
pub(crate) async fn start_again(
    node: &Arc<Node>,
    facts: &Arc<Facts>,
    order: &StartRequest,
    ready_by: Instant,
) -> Option<Body> {
    let job = {
        let (node, facts, order) = (Arc::clone(node), Arc::clone(facts), order.clone());
        move || {
            let body = start(&node, &facts, Some(&order)).ok()?;
            if let Body::Process(process) = &body {
                started(&node, &facts, &order, process, ready_by);
            }
            Some(StartedProcess::new(node, facts, body, None))
        }
    };
    node.disk.starts.call(START_TIMEOUT, job).await.ok().flatten()?.take()
}

/// Starts a server that is to be kept warm; blocks. It has until then to be ready.
pub(crate) fn start_warm(
    node: &Node,
    facts: &Facts,
    ready_by: Instant,
) -> Result<(Body, Option<LineNumber>), Refusal> {
    let body = start(node, facts, None)?;
    let line = match &body {
        Body::Process(process) => Some(node.state.journal.kept(Record {
            settings: Some(node.fingerprint.clone()),
            ..record(node, facts, None, process, ready_by)
        })),
        Body::Nothing { .. } => None,
    };
    Ok((body, line))
}

/// Makes a warm server the spawn's that has claimed it: its log, and its record. Until a driver takes it, dropping what this returns ends it.
pub(super) async fn take_over(
    node: &Arc<Node>,
    hold: Hold,
    order: &StartRequest,
    body: Body,
    (within, ready_by): (Duration, Instant),
) -> Result<(StartedProcess, LineNumber), Refusal> {
    let cannot =
        |why: String| RefusalKind::CannotStart.because(format!("failed to take a warm server: {why}"));
    let Some(facts) = hold.facts() else { return Err(cannot("its agent failed".to_owned())) };
    let taken = StartedProcess::new(Arc::clone(node), Arc::clone(&facts), body, Some(hold));
    let server = facts.process_id();
    let job = {
        let (node, order) = (Arc::clone(node), order.clone());
        move || {
            let passed =
                output::pass_on(node.state.logs(), (server, facts.id), &order.request_id, &node.config.node);
            if let Err(error) = passed {
                tracing::warn!(%error, "the log of a warm server does not become its spawn's");
            }
            let record =
                taken.process().map(|process| record(&node, &facts, Some(&order), process, ready_by));
            record.map(|record| (taken, node.state.journal.claimed(server, record)))
        }
    };
    match node.disk.starts.call(within, job).await {
        Ok(Some(taken)) => Ok(taken),
        Ok(None) => Err(cannot("it has no process".to_owned())),
        Err(error) => Err(cannot(error.to_string())),
    }
}

/// Starts the process; blocks. Without an order it is to be kept warm. After a refusal what was written to its log is still there.
fn start(node: &Node, facts: &Facts, order: Option<&StartRequest>) -> Result<Body, Refusal> {
    // Watching a process takes the runtime, on whose threads this does not run.
    let _runtime = node.runtime.enter();
    let launcher = match &node.config.launcher {
        Launcher::Nothing => {
            return Ok(Body::Nothing { ended: None, until: Instant::now() + node.config.initial_use });
        }
        launcher => launcher,
    };
    let log = facts.log(node.state.logs());
    let cannot = |what: &str, path: &Path, error: &io::Error| {
        tracing::warn!(%error, path = %path.display(), "failed to {what}");
        // Callers read it, also as the trouble of a node: where the agent keeps its files, and whose they are, stays in the log.
        RefusalKind::CannotStart.because(format!("failed to {what}: {error}{}", shortage(error)))
    };
    let file = create_log(node, facts, order).map_err(|error| cannot("create the log file", &log, &error))?;
    let Launcher::Executable(executable) = launcher else {
        return start_simulated(node, facts, order, &log);
    };
    let group = match &node.groups {
        // Once in its group, it is too late to go to another node.
        Some(groups) => Some(
            std::fs::metadata(executable)
                .map_err(|error| cannot(&format!("start {}", executable.display()), executable, &error))
                .and_then(|_| {
                    groups.make(facts.id).map_err(|error| {
                        cannot(
                            &format!("make a control group for {}", executable.display()),
                            executable,
                            &error,
                        )
                    })
                })?,
        ),
        None => None,
    };
    if let (Some(SpawnUsers::Each(_)), Some(user)) = (&node.config.spawn_users, facts.user)
        && let Err(Left { why, may_go }) = clear_predecessor(user)
    {
        if may_go {
            tracing::warn!(
                uid = user.uid,
                why,
                "a start is refused: its predecessor has left too many files"
            );
        } else {
            tracing::warn!(uid = user.uid, why, "a user of --spawn-user is given to no spawn any more");
            node.table().retire_user(user.uid);
        }
        if let Some(group) = group {
            node.drivers.spawn(group.remove());
        }
        return Err(RefusalKind::CannotStart.because(why));
    }
    let file_size = node.config.spawn_file_size;
    let mut command = command(facts.user, group.as_ref().map(|group| (group, file_size)), executable);
    command.args(arguments(node, facts, order));
    command.env_clear();
    let mark = (OsString::from(leftovers::MARK), OsString::from(facts.id.to_string()));
    for (name, value) in environment(&node.config, executable).into_iter().chain([mark]) {
        command.env(if group.is_some() { launch::packed(&name) } else { name }, value);
    }
    match Process::start(command, file, group.clone()) {
        Ok(process) => {
            if let Some(bytes) = file_size.filter(|_| group.is_none()) {
                limits::bound_files(process.pid(), bytes);
            }
            Ok(Body::Process(process))
        }
        Err(error) => {
            if let Some(group) = group {
                node.drivers.spawn(group.remove());
            }
            Err(cannot(&format!("start {}", executable.display()), executable, &error))
        }
    }
}

/// The command line after the executable.
fn arguments(node: &Node, facts: &Facts, order: Option<&StartRequest>) -> Vec<OsString> {
    let spawn = PerSpawn {
        id: facts.id,
        port: facts.port,
        renderer: facts.renderer,
        gpu: facts.gpu,
        model: order.and_then(|order| order.model.as_deref()),
        session_token: order.and_then(|order| order.session_token.as_deref()),
        secret: facts.secret.as_ref(),
        is_warm: facts.is_warm(),
    };
    command_line(&node.fixed_args, &spawn)
}

/// The same on a simulated machine.
fn start_simulated(
    node: &Node,
    facts: &Facts,
    order: Option<&StartRequest>,
    log: &Path,
) -> Result<Body, Refusal> {
    let Launcher::Simulated(SimulatedMachine(machine)) = &node.config.launcher else {
        return Err(RefusalKind::CannotStart.because("nothing starts servers here"));
    };
    let arguments = arguments(node, facts, order);
    let arguments = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned());
    match machine.start(arguments.collect(), log) {
        Ok(server) => Ok(Body::Process(Process::Simulated(server, false))),
        Err(error) => Err(RefusalKind::CannotStart.because(format!("failed to start the server: {error}"))),
    }
}

/// Ends and deletes what an earlier spawn with this user has left. Blocks.
fn clear_predecessor(user: Ids) -> Result<(), Left> {
    // With a control group too: a process may have left it.
    predecessor::end_processes(user).map_err(|left| Left {
        why: format!("process {left} of an earlier spawn with the user {} cannot be ended", user.uid),
        may_go: false,
    })?;
    predecessor::delete_files(user.uid).map_err(|Left { why, may_go }| Left {
        why: format!("{why} (of an earlier spawn with the user {})", user.uid),
        may_go,
    })
}

/// What the machine is short of, in words for operators; empty when the error says enough.
fn shortage(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            " (the agent is out of processes: raise its user's limit, LimitNPROC or ulimit -u, or pids.max of its control group)"
        }
        io::ErrorKind::OutOfMemory => " (the agent is out of memory: see its limits and the machine's)",
        _ => "",
    }
}

/// Makes the log, and its directory where that was removed.
fn create_log(node: &Node, facts: &Facts, order: Option<&StartRequest>) -> io::Result<std::fs::File> {
    let dir = node.state.logs();
    let create = || match order {
        Some(order) => output::create(dir, facts.id, &order.request_id, &node.config.node),
        None => output::create_warm(dir, facts.id, &node.config.node),
    };
    match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(path = %dir.display(), "the directory for logs of spawns is gone, it is made again");
            make_dir(dir)?;
            create()
        }
        created => created,
    }
}

/// What becomes the server.
fn command(user: Option<Ids>, group: Option<(&Group, Option<u64>)>, executable: &Path) -> Command {
    if let Some((group, file_size)) = group {
        return launch::command(group, file_size, user, executable);
    }
    let mut command = Command::new(executable);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Has what was started written down, before others learn of it: whatever happens then, the next agent finds it.
fn started(
    node: &Node,
    facts: &Facts,
    order: &StartRequest,
    process: &Process,
    ready_by: Instant,
) -> LineNumber {
    node.state.journal.started(record(node, facts, Some(order), process, ready_by))
}

fn record(
    node: &Node,
    facts: &Facts,
    order: Option<&StartRequest>,
    process: &Process,
    ready_by: Instant,
) -> Record {
    let clock = &node.state.clock;
    Record {
        id: facts.id,
        pid: process.pid(),
        start: process.start_time(),
        boot: clock.boot().to_owned(),
        port: facts.port,
        renderer: facts.renderer,
        gpu: facts.gpu,
        endpoint: facts.endpoint.clone(),
        labels: facts.labels.clone(),
        tags: facts.tags.clone(),
        owner: facts.owner.clone(),
        user: facts.user,
        liveliness: secret::endpoint(node.fixed_args.liveliness(), facts.secret.as_ref()),
        ping_ms: u64::try_from(node.config.ping_interval.as_millis()).unwrap_or(u64::MAX),
        request_id: order.map(|order| order.request_id.as_str().to_owned()).unwrap_or_default(),
        trace_id: facts.origin.trace_id,
        phases: facts.origin.phases,
        log: facts.log(node.state.logs()),
        cgroup: process.group().map(|group| group.dir().to_owned()),
        started: clock.moment(facts.started),
        started_at: Timestamp::now(),
        ready_by: clock.moment(ready_by),
        expires: node.table().expires(facts.id).map(|at| clock.moment(at)),
        server: facts.server.filter(|_| !facts.is_warm()),
        settings: None,
        max_idle_ms: facts.max_idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_server_will_do_unless_the_server_itself_must_know_what_was_asked() {
        let nothing = StartRequest {
            model: None,
            session_token: None,
            request_id: RequestId::mint(),
            trace: Trace::default(),
        };
        assert!(!nothing.needs_own_server());
        assert!(StartRequest { model: Some("bolt.scs".to_owned()), ..nothing.clone() }.needs_own_server());
        assert!(StartRequest { session_token: Some("secret".to_owned()), ..nothing }.needs_own_server());
    }
}
