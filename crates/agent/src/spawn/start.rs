//! From what was asked for to a running process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use model::{RequestId, Timestamp};
use tokio::time::Instant;

use super::args::{PerSpawn, command_line};
use super::cgroup::Group;
use super::driver::Body;
use super::process::Process;
use super::{Facts, Refusal, Why, launch, output};
use crate::config::{Config, Launcher};
use crate::node::Node;
use crate::state::record::Record;

/// What a caller asked for beyond what is told of the spawn. Kept until it is ready, in case it must be started again.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) model: Option<String>,
    pub(crate) session_token: Option<String>,
    pub(crate) request_id: RequestId,
}

/// Starts the process. After a refusal what was written to its log is still there.
pub(crate) fn start(node: &Node, facts: &Facts, order: &Order) -> Result<Body, Refusal> {
    let executable = match &node.config.launcher {
        Launcher::Executable(path) => path,
        Launcher::Nothing => {
            return Ok(Body::Nothing { ended: None, until: Instant::now() + node.config.initial_use });
        }
    };
    let log = output::path(node.state.logs(), facts.id);
    let cannot = |what: &str, path: &Path, error: &io::Error| {
        tracing::warn!(%error, path = %path.display(), "failed to {what}");
        Why::CannotStart.because(format!("failed to {what} {}: {error}", path.display()))
    };
    let file = output::create(node.state.logs(), facts.id, &order.request_id, &node.config.node)
        .map_err(|error| cannot("create the log file", &log, &error))?;
    let group = match &node.groups {
        // Once in its group, it is too late to go to another node.
        Some(groups) => Some(
            std::fs::metadata(executable).map_err(|error| cannot("start", executable, &error)).and_then(
                |_| {
                    groups
                        .make(facts.id)
                        .map_err(|error| cannot("make a control group for", executable, &error))
                },
            )?,
        ),
        None => None,
    };
    let mut command = command(node, group.as_ref(), executable);
    command.args(command_line(
        &node.fixed_args,
        &PerSpawn {
            id: facts.id,
            port: facts.port,
            renderer: facts.renderer,
            gpu: facts.gpu,
            model: order.model.as_deref(),
            session_token: order.session_token.as_deref(),
        },
    ));
    command.env_clear();
    for (name, value) in environment(&node.config, executable) {
        command.env(if group.is_some() { launch::packed(&name) } else { name }, value);
    }
    match Process::start(command, file, group.clone()) {
        Ok(process) => Ok(Body::Process(process)),
        Err(error) => {
            if let Some(group) = group {
                node.drivers.spawn(group.remove());
            }
            Err(cannot("start", executable, &error))
        }
    }
}

/// What becomes the server.
fn command(node: &Node, group: Option<&Group>, executable: &Path) -> Command {
    let user = node.config.spawn_user.as_ref();
    if let Some(group) = group {
        return launch::command(group, user, executable);
    }
    let mut command = Command::new(executable);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Spawned servers get nothing of the agent's own environment but what they need to run.
fn environment(config: &Config, executable: &Path) -> BTreeMap<OsString, OsString> {
    let libraries = executable.parent().map(Path::to_path_buf).unwrap_or_default();
    let named = |name: &str, value: OsString| (OsString::from(name), value);
    let mut environment = BTreeMap::from([
        named("LD_LIBRARY_PATH", libraries.clone().into()),
        named("DYLD_LIBRARY_PATH", libraries.into()),
    ]);
    // With EGL a display does harm.
    if !config.egl {
        environment.extend([named("DISPLAY", std::env::var_os("DISPLAY").unwrap_or_else(|| ":0".into()))]);
    }
    environment.extend(config.env.iter().map(|(name, value)| named(name, value.into())));
    environment
}

/// Writes down what was started, before anybody is told of it: whatever happens then, the next agent finds it.
pub(crate) fn record(node: &Node, facts: &Facts, order: &Order, process: &Process, ready_by: Instant) {
    let clock = &node.state.clock;
    node.state.journal.started(Record {
        id: facts.id,
        pid: process.pid(),
        start: process.start_time(),
        boot: clock.boot().to_owned(),
        port: facts.port,
        renderer: facts.renderer,
        gpu: facts.gpu,
        endpoint: facts.endpoint.clone(),
        labels: facts.labels.clone(),
        owner: facts.owner.clone(),
        liveliness: node.fixed_args.liveliness_endpoint().to_owned(),
        ping_ms: u64::try_from(node.config.ping_interval.as_millis()).unwrap_or(u64::MAX),
        request_id: order.request_id.as_str().to_owned(),
        log: output::path(node.state.logs(), facts.id),
        cgroup: process.group().map(|group| group.dir().to_owned()),
        started: clock.moment(facts.started),
        started_at: Timestamp::now(),
        ready_by: clock.moment(ready_by),
    });
}
