//! `hatchery nodes`: the machines of the farm.

use std::io::{self, Write};

use clap::Args;
use model::api::Node;
use model::{FarmCause, NodeHealth, NodeId};

use crate::args::ClientFlags;
use crate::commands::redraw;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Columns, Facts, age, bytes, labels, printable, when, write_json};

/// Lists the nodes of the farm, or shows one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery nodes\n  \
    hatchery nodes node-a\n  \
    hatchery nodes --watch\n  \
    hatchery nodes --json | jq -r '.nodes[].id'")]
pub(crate) struct NodesArgs {
    /// Show only this node, with all details
    #[arg(value_name = "NODE")]
    node: Option<NodeId>,
    /// Show the table again whenever something changes, until Ctrl-C
    #[arg(long, conflicts_with = "node")]
    watch: bool,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &NodesArgs) -> Result<Exit, Failure> {
    if args.watch {
        return redraw::follow(context, "nodes", |snapshot, out| {
            let nodes: Vec<Node> = redraw::read(context, snapshot)?;
            Ok(table(&nodes).write(out)?)
        })
        .await;
    }
    if let Some(node) = &args.node {
        let answer = context.client.node(node).await?;
        let mut out = io::stdout().lock();
        if context.json {
            write_json(&mut out, &answer.json)?;
        } else {
            facts(&answer.value).write(&mut out)?;
        }
        return Ok(Exit::Done);
    }
    let answer = context.client.nodes().await?;
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &answer.json)?;
    } else {
        table(&answer.value.nodes).write(&mut out)?;
        if let Some(cause) = &answer.value.farm_cause {
            writeln!(out, "\n{}", printable(&farm_wide(cause)))?;
        }
    }
    Ok(Exit::Done)
}

fn table(nodes: &[Node]) -> Columns {
    let mut table = Columns::new(&[
        "NODE",
        "ELIGIBILITY",
        "AVAILABILITY",
        "HEALTH",
        ">SLOTS",
        ">GPU",
        "POOL",
        "LABELS",
        ">CPU",
        ">MEMORY FREE",
        ">HEARTBEAT",
        "VERSION",
    ]);
    for node in nodes {
        table.row([
            node.id.as_str().into(),
            node.eligibility.as_str().into(),
            node.availability.as_str().into(),
            node.health.state.as_str().into(),
            slots(node).into(),
            gpus(node).into(),
            pool(node).into(),
            labels(&node.labels).into(),
            percent(node.load.cpu).into(),
            bytes(node.load.memory_free_bytes).into(),
            format!("{} ago", age(node.last_heartbeat_at)).into(),
            node.version.as_str().into(),
        ]);
    }
    table
}

fn facts(node: &Node) -> Facts {
    let mut facts = Facts::default();
    facts.add("node", &node.id);
    facts.add("eligibility", &node.eligibility);
    facts.add("availability", &node.availability);
    facts.add("health", &health(&node.health));
    facts.maybe("next probe", node.health.next_probe_at);
    facts.add("slots", &format!("{} used", slots(node)));
    for gpu in &node.gpus {
        facts.add("gpu", &format!("{}: {}/{} used", gpu.index, gpu.used, gpu.total));
    }
    facts.add("pool", &pool(node));
    facts.add("labels", &labels(&node.labels));
    facts.add("cpu", &percent(node.load.cpu));
    facts.add("memory free", &bytes(node.load.memory_free_bytes));
    facts.add("agent", &node.advertise);
    facts.maybe("viewer relay", node.viewer_relay.as_ref());
    facts.add("endpoint", &node.endpoint);
    facts.add("version", &node.version);
    facts.add("epoch", &node.epoch);
    facts.add("heartbeat", &when(node.last_heartbeat_at));
    if let Some(drain) = &node.drain {
        facts.add("draining", &format!("{} left, deadline {}", drain.remaining, drain.deadline));
        facts.add("since", &when(drain.started_at));
        facts.maybe("reason", drain.reason.as_ref());
        facts.maybe("asked by", drain.by.as_ref());
    }
    facts
}

/// `ok`, or `failing since …, 4 failures in a row: invalid license`. A node that is `ok` may have a failure behind it.
fn health(health: &NodeHealth) -> String {
    let mut text = health.state.as_str().to_owned();
    if let Some(since) = health.since {
        text += &format!(" since {}", when(since));
    }
    if let Some(failures) = health.failures.filter(|failures| *failures > 0) {
        text += &format!(", {failures} {} in a row", if failures == 1 { "failure" } else { "failures" });
    }
    if let Some(reason) = &health.reason {
        text += &format!(": {reason}");
    }
    text
}

/// What holds for the whole farm, in one line.
fn farm_wide(cause: &FarmCause) -> String {
    format!(
        "Starts fail on every node alike since {}, {} requests so far: {}",
        when(cause.since),
        cause.requests,
        cause.reason
    )
}

fn pool(node: &Node) -> String {
    if node.dedicated { format!("{} (dedicated)", node.pool) } else { node.pool.clone() }
}

fn slots(node: &Node) -> String {
    format!("{}/{}", node.slots.used, node.slots.total)
}

fn gpus(node: &Node) -> String {
    if node.gpus.is_empty() {
        return "-".to_owned();
    }
    let sum = |count: fn(&model::GpuSlots) -> u32| node.gpus.iter().map(count).sum::<u32>();
    format!("{}/{}", sum(|g| g.used), sum(|g| g.total))
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}
