//! `hatchery nodes`: the machines of the farm as a table, or one with everything that is known of it. Rows are made here; the widths
//! are those of [`crate::output`].

use std::borrow::Cow;
use std::cmp::Ordering;
use std::io::{self, Write};

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use model::api::{AuditEvent, Node, Unreachable};
use model::{
    Availability, Eligibility, FarmCause, NodeHealth, NodeId, OrderKind, RendererType, Timestamp, WarmCount,
};
use serde_json::{Value, json};

use crate::args::ClientFlags;
use crate::commands::redraw;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing::{Form, ListFlags, tally, write_value};
use crate::node_pages::NodePages;
use crate::output::{Columns, Facts, age, bytes, count, labels, printable, when, write_json};

/// Lists the nodes of the farm, or shows one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery nodes\n  \
    hatchery nodes node-a\n  \
    hatchery nodes --watch --sort slots\n  \
    hatchery nodes --pool gpu --availability down\n  \
    hatchery nodes -q --label sdk=2025.1\n  \
    hatchery nodes --json | jq -r '.nodes[].id'")]
pub(crate) struct NodesArgs {
    /// Show only this node, with all details
    #[arg(value_name = "NODE")]
    node: Option<NodeId>,
    /// Show the table again whenever something changes, until Ctrl-C
    #[arg(long, conflicts_with = "node")]
    watch: bool,
    /// Order of the list [default: by name]
    #[arg(long, value_enum, value_name = "COLUMN", help_heading = "Output")]
    sort: Option<Sort>,
    #[command(flatten)]
    list: ListFlags,
    #[command(flatten)]
    filter: NodeFilter,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

/// By what nodes are put in order; those that are alike stay in the order of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    Name,
    /// The fullest first.
    Slots,
    /// The busiest first.
    Cpu,
    /// The one with the least free memory first.
    Memory,
    /// The one that has been silent for longest first.
    Heartbeat,
    Pool,
    Version,
    Availability,
}

/// What a node must be like: all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Filter")]
struct NodeFilter {
    /// Only those of this pool
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only those with this label; may be repeated, all must hold
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = model::node::parse_label)]
    labels: Vec<(String, String)>,
    /// Only those that are up, stale or down
    #[arg(long, value_name = "STATE", value_parser = words(&["up", "stale", "down"]))]
    availability: Option<String>,
    /// Only those that are eligible, cordoned or draining
    #[arg(long, value_name = "STATE", value_parser = words(&["eligible", "cordoned", "draining"]))]
    eligibility: Option<String>,
    /// Only those that are ok or failing
    #[arg(long, value_name = "STATE", value_parser = words(&["ok", "failing"]))]
    health: Option<String>,
}

fn words(words: &[&'static str]) -> PossibleValuesParser {
    PossibleValuesParser::new(words.iter().copied())
}

impl NodeFilter {
    /// Names and values of the query.
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.pool.clone().map(|pool| ("pool", pool)));
        query.extend(self.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
        query.extend(self.availability.clone().map(|availability| ("availability", availability)));
        query.extend(self.eligibility.clone().map(|eligibility| ("eligibility", eligibility)));
        query.extend(self.health.clone().map(|health| ("health", health)));
        query
    }

    fn takes(&self, node: &Node) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.pool, &node.pool)
            && is(&self.availability, node.availability.as_str())
            && is(&self.eligibility, node.eligibility.as_str())
            && is(&self.health, node.health.state.as_str())
            && self.labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
    }
}

impl NodesArgs {
    /// Whether failures, too, are for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.list.is_json()
    }

    /// Which of two comes first; they come in the order of their names.
    fn order(&self, a: &Node, b: &Node) -> Ordering {
        let full = |node: &Node| f64::from(node.slots.used) / f64::from(node.slots.total.max(1));
        let order = match self.sort.unwrap_or(Sort::Name) {
            Sort::Name => a.id.cmp(&b.id),
            Sort::Slots => full(b).total_cmp(&full(a)),
            Sort::Cpu => b.load.cpu.total_cmp(&a.load.cpu),
            Sort::Memory => a.load.memory_free_bytes.cmp(&b.load.memory_free_bytes),
            Sort::Heartbeat => a.last_heartbeat_at.cmp(&b.last_heartbeat_at),
            Sort::Pool => a.pool.cmp(&b.pool),
            Sort::Version => a.version.cmp(&b.version),
            Sort::Availability => a.availability.as_str().cmp(b.availability.as_str()),
        };
        if self.list.reverse { order.reverse() } else { order }
    }

    /// Leaves what is meant in a list as it came, in its order.
    fn choose_raw(&self, nodes: &[Node], raw: &mut Vec<Value>) {
        let mut both: Vec<(&Node, Value)> = nodes.iter().zip(raw.drain(..)).collect();
        both.retain(|(node, _)| self.filter.takes(node));
        both.sort_by(|(a, _), (b, _)| self.order(a, b));
        raw.extend(both.into_iter().map(|(_, raw)| raw));
    }
}

pub(crate) async fn run(context: &Context, args: &NodesArgs) -> Result<Exit, Failure> {
    if args.watch {
        let form = args.list.form_to_follow(context)?;
        return redraw::follow(context, form == Form::Json, "nodes", |mut snapshot, out| {
            let mut nodes: Vec<Node> = redraw::read(context, snapshot.clone())?;
            if form == Form::Json {
                if let Value::Array(raw) = &mut snapshot {
                    args.choose_raw(&nodes, raw);
                }
                return Ok(write_json(out, json!({ "nodes": snapshot }).to_string().as_bytes())?);
            }
            nodes.retain(|node| args.filter.takes(node));
            nodes.sort_by(|a, b| args.order(a, b));
            Ok(write(&nodes, args, form, out)?)
        })
        .await;
    }
    let form = args.list.form(context)?;
    let mut out = io::stdout().lock();
    if let Some(node) = &args.node {
        let answer = context.client.node(node).await?;
        match form {
            Form::Json => write_json(&mut out, &answer.json)?,
            Form::Yaml => write_value(&mut out, form, &raw(&answer.json))?,
            Form::Name => writeln!(out, "{}", answer.value.id)?,
            Form::Table | Form::Wide => {
                let mut facts = facts(&answer.value);
                if answer.value.eligibility == Eligibility::Cordoned {
                    cordoned(&mut facts, last_cordon(context, node).await);
                }
                facts.write(&mut out)?;
            }
        }
        return Ok(Exit::Done);
    }
    let mut list = NodePages::read(&context.client, &args.filter.query()).await?;
    if matches!(form, Form::Json | Form::Yaml) {
        args.choose_raw(&list.nodes, &mut list.raw);
        write_value(&mut out, form, &list.into_json())?;
        return Ok(Exit::Done);
    }
    let NodePages { mut nodes, farm_cause, .. } = list;
    nodes.retain(|node| args.filter.takes(node));
    nodes.sort_by(|a, b| args.order(a, b));
    write(&nodes, args, form, &mut out)?;
    if let (Some(cause), Form::Table | Form::Wide) = (&farm_cause, form) {
        writeln!(out, "\n{}", printable(&farm_wide(cause)))?;
    }
    Ok(Exit::Done)
}

/// The order that closed the node; nothing, where the caller may not see orders.
async fn last_cordon(context: &Context, node: &NodeId) -> Option<AuditEvent> {
    let query =
        [("node", node.to_string()), ("order", OrderKind::Cordon.to_string()), ("limit", "1".to_owned())];
    context.client.audit(&query).await.ok()?.value.audit.into_iter().next()
}

fn cordoned(facts: &mut Facts, order: Option<AuditEvent>) {
    let Some(AuditEvent { at, audit }) = order else { return };
    facts.add("cordoned", &when(at));
    facts.maybe("reason", audit.reason);
    facts.maybe("asked by", audit.by.or(audit.from));
}

fn raw(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_default()
}

/// Writes a list for people, or the names alone.
fn write(nodes: &[Node], args: &NodesArgs, form: Form, out: &mut impl Write) -> io::Result<()> {
    if form == Form::Name {
        for node in nodes {
            writeln!(out, "{}", node.id)?;
        }
        return out.flush();
    }
    if nodes.is_empty() {
        let which = if args.filter == NodeFilter::default() { "" } else { " like that" };
        return writeln!(out, "no nodes{which}");
    }
    table(nodes, form == Form::Wide).write(out)?;
    writeln!(out, "\n{}", totals(nodes))
}

/// `3 nodes: 2 up, 1 down; 5 of 8 slots in use on those that are up`.
fn totals(nodes: &[Node]) -> String {
    let up = || nodes.iter().filter(|node| node.availability == Availability::Up);
    let sum = |of: fn(&Node) -> u32| up().map(|node| u64::from(of(node))).sum::<u64>();
    let (used, total) = (sum(|node| node.slots.used), sum(|node| node.slots.total));
    let states = tally(nodes.iter().map(|node| node.availability.as_str()));
    let closed = nodes.iter().filter(|node| node.eligibility != Eligibility::Eligible);
    let closed = tally(closed.map(|node| node.eligibility.as_str()));
    let closed = if closed.is_empty() { closed } else { format!(" ({closed})") };
    let nodes = count(nodes.len(), "node");
    format!("{nodes}: {states}{closed}; {used} of {} in use on those that are up", count(total, "slot"))
}

fn table(nodes: &[Node], wide: bool) -> Columns {
    let mut headings = vec![
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
    ];
    if wide {
        headings.extend(["WARM", "STARTS", "AGENT", "ENDPOINT", "DRAIN"]);
    }
    let mut table = Columns::new(&headings);
    for node in nodes {
        let cells = [
            node.id.as_str().into(),
            node.eligibility.as_str().into(),
            node.availability.as_str().into(),
            standing(node).into(),
            slots(node).into(),
            gpus(node).into(),
            pool(node).into(),
            labels(&node.labels).into(),
            percent(node.load.cpu).into(),
            bytes(node.load.memory_free_bytes).into(),
            format!("{} ago", age(node.last_heartbeat_at)).into(),
            node.version.as_str().into(),
        ];
        let drain =
            node.drain.as_ref().map(|drain| format!("{} left until {}", drain.remaining, drain.deadline));
        let more: [Cow<'_, str>; 5] = [
            warm(node).unwrap_or_else(|| "-".to_owned()).into(),
            starts(node).unwrap_or_else(|| "-".to_owned()).into(),
            node.advertise.as_str().into(),
            node.endpoint.as_str().into(),
            drain.unwrap_or_else(|| "-".to_owned()).into(),
        ];
        table.row(cells.into_iter().chain(more.into_iter().filter(|_| wide)));
    }
    table
}

fn facts(node: &Node) -> Facts {
    let mut facts = Facts::default();
    facts.add("node", &node.id);
    facts.add("eligibility", &node.eligibility);
    facts.add("availability", &node.availability);
    facts.add("health", &health(&node.health));
    if let Some(unreachable) = &node.unreachable {
        let Unreachable { since, reason } = unreachable;
        facts.add("unreachable", &format!("for this front door since {}: {reason}", when(*since)));
    }
    facts.maybe("next probe", node.health.next_probe_at.map(next_probe));
    facts.add("slots", &format!("{} used", slots(node)));
    for gpu in &node.gpus {
        facts.add("gpu", &format!("{}: {}/{} used", gpu.index, gpu.used, gpu.total));
    }
    facts.maybe("warm", warm(node));
    facts.maybe("starts", starts(node));
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

/// In one word: `unreachable` where the front door cannot reach its agent, else its health.
fn standing(node: &Node) -> &'static str {
    match node.unreachable {
        Some(_) => "unreachable",
        None => node.health.state.as_str(),
    }
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

/// When a request may be sent there as a probe: `due: with the next request`, or the time with `(in 12s)`.
fn next_probe(at: Timestamp) -> String {
    if at <= Timestamp::now() { "due: with the next request".to_owned() } else { when(at) }
}

/// What holds for the whole farm, in one line.
fn farm_wide(cause: &FarmCause) -> String {
    format!(
        "Starts fail on {} alike since {}, {} requests so far: {}",
        cause.nodes(),
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

/// `csr 2/2, ssr 0/1`: those that are ready, and those wanted.
fn warm(node: &Node) -> Option<String> {
    let of =
        |(renderer, warm): (&RendererType, &WarmCount)| format!("{renderer} {}/{}", warm.ready, warm.wanted);
    let all: Vec<String> = node.warm.iter().map(of).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// `2 waiting, 4 at once`.
fn starts(node: &Node) -> Option<String> {
    node.starts.map(|starts| format!("{} waiting, {} at once", starts.waiting, starts.limit))
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}
