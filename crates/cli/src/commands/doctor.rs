//! `hatchery doctor`: looks for what is wrong, and says what to do about it.
//!
//! Three parts run at once: the front door and the farm behind it, the registry, and with `--agent` this machine as a node. Each check has
//! a deadline, and so has each file, so nothing hangs; nothing is changed, and no finding holds a secret. The parts that know how to look are
//! with what they look at (`registry::examine`, `agent::Subject`, `tls::examine`); here are the front door, the order, and the report.

mod agent_flags;
mod credential;
mod date;
mod farm;
mod front_door;
mod node_clocks;
mod node_ports;
mod report;

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use model::{Finding, Level};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use self::agent_flags::AgentFlags;
use super::role;
use crate::args::{Before, ClientFlags, FarmFlag, names_server};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Readers};
use crate::runtime::block_on;

/// The time that one check has, unless `--timeout` says otherwise.
const CHECK: Duration = Duration::from_secs(5);
/// The registry of an agent that names none.
const DEFAULT_REGISTRY: &str = "redis://127.0.0.1:6379";

/// Looks for what is wrong with a farm, its registry, or a node, and says what to do about it. Changes nothing.
///
/// Without --agent it looks at the front door and the farm behind it, and with --registry at Redis. With --agent and the flags and
/// environment of `hatchery agent` it looks at this machine as that agent would find it; run it as the agent's user.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery doctor\n  \
    hatchery doctor --server https://farm.example.com --token-file operator.key\n  \
    hatchery doctor --registry rediss://frontdoor@10.0.0.5 --registry-password-file redis.password\n  \
    hatchery doctor --agent --executable /opt/hoops/ts3d_sc_server --license-file /etc/hoops.key\n  \
    hatchery doctor --json | jq -r '.findings[] | select(.level == \"problem\") | .advice'\n\n\
    Exit codes: 0 no problem (warnings are none), 1 there is one, 2 usage.")]
pub(crate) struct DoctorArgs {
    /// Look at this machine as an agent with the same flags and environment would find it
    #[arg(long)]
    agent: bool,
    /// Print warnings and problems only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryToLookAt,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
    #[command(flatten, next_help_heading = "With --agent")]
    node: AgentFlags,
}

/// The registry, if it is to be looked at.
#[derive(Debug, Args)]
struct RegistryToLookAt {
    /// Look at this Redis: redis://HOST:PORT/DB with a user and a password before the host if it wants them, or with rediss://, redis-sentinel://…/MASTER,
    /// redis-cluster://… [default with --agent: redis://127.0.0.1:6379]
    #[arg(
        long,
        env = "HATCHERY_REGISTRY",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Registry"
    )]
    registry: Option<String>,
    /// File with the password of Redis
    #[arg(long, env = "HATCHERY_REGISTRY_PASSWORD_FILE", value_name = "FILE", help_heading = "Registry")]
    registry_password_file: Option<PathBuf>,
    #[command(flatten)]
    farm: FarmFlag,
}

/// Looks, and prints what was found.
pub(crate) fn run(before: &Before, args: DoctorArgs) -> Result<Exit, Failure> {
    if let (false, Some(flag)) = (args.agent, args.node.given.first()) {
        return Err(Failure::usage(format!(
            "--{flag} goes with --agent, which looks at this machine as a node"
        )));
    }
    let json = args.flags.json || before.json;
    let limit = args.flags.timeout.unwrap_or(CHECK);
    let asks = !args.agent || names_server(&args.flags, before);
    let context = asks.then(|| context_within(before, &args.flags, limit)).transpose()?;
    let RegistryToLookAt { registry, registry_password_file: password, farm } = args.registry;
    let registry = registry.or_else(|| args.agent.then(|| DEFAULT_REGISTRY.to_owned()));
    let elsewhere = registry.as_deref().is_some_and(registry::is_elsewhere);
    let node = args.agent.then_some(args.node.options);
    // As `hatchery agent` has it: with TLS of its own, an open registry keeps it from starting.
    let guarded = node.as_ref().is_some_and(|node| node.tls.tls_cert.is_some() && !node.tls.insecure);
    let secrets = password.iter().map(|file| ("--registry-password-file", file.clone())).collect();
    let findings = block_on(Builder::new_current_thread(), async {
        let door = async {
            match &context {
                Some(Some(context)) => front_door::examine(context, limit).await,
                Some(None) => vec![late("credential", limit)],
                None => Vec::new(),
            }
        };
        let registry = async {
            let Some(url) = &registry else { return Vec::new() };
            // It makes several calls, and each is bounded.
            let look = registry::examine(url, password.as_deref(), &farm.farm, guarded);
            within("registry", 2 * limit, look).await
        };
        let node = async {
            match node {
                Some(options) => examine_node(*options, secrets, elsewhere, limit).await,
                None => Vec::new(),
            }
        };
        let (door, registry, node) = tokio::join!(door, registry, node);
        Ok([door, registry, node].concat())
    })?;
    report::write(&findings, Readers::of(json), args.quiet)?;
    let worst = findings.iter().map(|finding| finding.level).max();
    Ok(if worst == Some(Level::Problem) { Exit::Failed } else { Exit::Done })
}

/// Reads the files of the credential and the CA; `None` when that takes too long.
///
/// # Errors
/// A flag, a variable or a file cannot be used.
fn context_within(before: &Before, flags: &ClientFlags, limit: Duration) -> Result<Option<Context>, Failure> {
    let (before, flags) = (before.clone(), flags.clone());
    let (made, done) = mpsc::channel();
    let make = move || made.send(Context::new(&before, &flags, limit)).ok();
    // A file may be on a share that hangs: the thread is then left behind.
    let thread = thread::Builder::new().name("files".to_owned()).spawn(make);
    thread.map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?;
    done.recv_timeout(limit).map_or(Ok(None), |context| context.map(Some))
}

/// Runs all checks of a node at once, each on a thread of its own. `secrets` are files that an agent keeps from its spawns beside those of
/// its own flags.
async fn examine_node(
    options: ::agent::Options,
    secrets: Vec<(&'static str, PathBuf)>,
    elsewhere: bool,
    limit: Duration,
) -> Vec<Finding> {
    let made = spawn_blocking(move || ::agent::Subject::of(options, secrets));
    let Ok(Ok((mut findings, subject))) = timeout(limit, made).await else {
        return vec![late("flags", limit)];
    };
    findings.extend(traces());
    let Some(subject) = subject else { return findings };
    let mut running = JoinSet::new();
    for (at, check) in subject.checks(elsewhere).into_iter().enumerate() {
        running.spawn(async move {
            let name = check.name;
            let look = spawn_blocking(move || check.look());
            let found =
                within(name, limit, async { look.await.unwrap_or_else(|_| vec![broken(name)]) }).await;
            (at, found)
        });
    }
    let mut found = running.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    findings.extend(found.into_iter().flat_map(|(_, found)| found));
    findings
}

/// What keeps an agent from starting in the variables of traces.
fn traces() -> Option<Finding> {
    let Err(Failure::Said(_, why)) = role::trace_settings() else { return None };
    let advice = "change the variable, or unset it (docs/operator/traces.md)";
    Some(Finding::problem("flags", why, "the agent does not start with this environment", advice))
}

/// The findings of a check, or that it took too long.
async fn within(
    check: &'static str,
    limit: Duration,
    look: impl Future<Output = Vec<Finding>>,
) -> Vec<Finding> {
    timeout(limit, look).await.unwrap_or_else(|_| vec![late(check, limit)])
}

fn late(check: &'static str, limit: Duration) -> Finding {
    Finding::problem(
        check,
        format!("no answer within {}", humantime::format_duration(limit)),
        "what takes so long here takes as long where it is needed",
        "look for a share, a resolver or a server that hangs; --timeout gives each check more time",
    )
}

/// A check that panicked.
fn broken(check: &'static str) -> Finding {
    Finding::warning(
        check,
        "this check has failed",
        "what it looks at is not known",
        "report it as a defect of hatchery",
    )
}
