//! `hatchery show`: everything about one spawn: its record, the phases of its start as a timeline, its viewer and its end.

use std::io::{self, Write};

use clap::Args;
use model::api::{EndOrder, Spawn};
use model::{Exit as SpawnExit, OrderKind, Timestamp};
use serde_json::Value;

use super::timeline;
use crate::args::ClientFlags;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing::{Form, FormFlag, write_value};
use crate::output::{Columns, Facts, labels, when, write_json};
use crate::spawn_ids::{self, Purpose};

/// Shows one spawn with its history.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery show 01987a5e-2f30-7c41-9d5c-0123456789ab\n  \
    hatchery show 456789ab -o yaml\n  \
    hatchery show 01987a5e-2f30-7c41-9d5c-0123456789ab --json | jq .state")]
pub(crate) struct ShowArgs {
    /// The spawn's id, or its end
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    form: FormFlag,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

impl ShowArgs {
    /// Whether failures, too, are for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.form.is_json()
    }
}

pub(crate) async fn run(context: &Context, args: &ShowArgs) -> Result<Exit, Failure> {
    let form = args.form.form(context)?;
    let id = spawn_ids::resolve(&context.client, &args.id, Purpose::Read).await?;
    let answer = context.client.show(&id).await?;
    let mut out = io::stdout().lock();
    match form {
        Form::Json => write_json(&mut out, &answer.json)?,
        Form::Yaml => {
            write_value(&mut out, Form::Yaml, &serde_json::from_slice(&answer.json).unwrap_or_default())?
        }
        Form::Name => writeln!(out, "{}", answer.value.id)?,
        Form::Table | Form::Wide => write(&answer.value, &mut out)?,
    }
    Ok(Exit::Done)
}

fn write(spawn: &Spawn, out: &mut impl Write) -> io::Result<()> {
    let mut facts = Facts::default();
    facts.add("id", &spawn.id);
    facts.add("state", &spawn.state);
    facts.maybe("ended as", spawn.exit.as_ref().map(end));
    facts.maybe("ended by", spawn.ended_by.as_ref().map(|order| ended_by(order, spawn.node.as_str())));
    facts.add("endpoint", &spawn.endpoint);
    facts.add("node", &spawn.node);
    facts.add("pool", &spawn.pool);
    facts.add("renderer", &spawn.renderer_type);
    facts.maybe("gpu", spawn.gpu);
    facts.maybe("warm server", spawn.server_id);
    facts.maybe("labels", (!spawn.labels.is_empty()).then(|| labels(&spawn.labels)));
    facts.maybe("tags", (!spawn.tags.is_empty()).then(|| labels(&spawn.tags)));
    facts.maybe("owner", spawn.owner.as_ref());
    facts.maybe("request", spawn.request_id.as_ref());
    facts.maybe("trace", spawn.trace_id);
    facts.add("started", &when(spawn.started_at));
    facts.maybe("ready", spawn.ready_at.map(when));
    facts.maybe("last ping", spawn.last_ping_at.map(when));
    facts.add("viewer", &spawn.viewer);
    facts.maybe("connected", spawn.connected_at.map(when));
    facts.maybe("disconnected", spawn.disconnected_at.map(when));
    facts.maybe("expires", spawn.expires_at.map(when));
    facts.maybe("ended", spawn.ended_at.map(when));
    facts.write(out)?;
    timeline::write(spawn, out)?;
    let events = spawn.events.as_deref().unwrap_or_default();
    if !events.is_empty() {
        writeln!(out)?;
        let mut history = Columns::new(&["AT", ">AFTER", "EVENT", "DETAILS"]);
        for event in events {
            let details: Vec<String> = event.data.iter().map(detail).collect();
            history.row([
                event.at.to_string().into(),
                after(spawn.started_at, event.at).into(),
                event.kind.as_str().into(),
                details.join(" ").into(),
            ]);
        }
        history.write(out)?;
    }
    Ok(())
}

/// How it ended, in a few words: `failed, exit code 6: invalid license`.
pub(crate) fn end(exit: &SpawnExit) -> String {
    let mut words = exit.reason.to_string();
    if let Some(code) = exit.code {
        words += &format!(", exit code {code}");
    }
    if let Some(signal) = &exit.signal {
        words += &format!(", {signal}");
    }
    if let Some(text) = &exit.text {
        words += &format!(": {text}");
    }
    words
}

/// `drain of node-a by ops at …: new kernel`.
pub(crate) fn ended_by(order: &EndOrder, node: &str) -> String {
    let of = if order.order == OrderKind::Drain { format!(" of {node}") } else { String::new() };
    let by = order.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let reason = order.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{}{of}{by} at {}{reason}", order.order, order.at)
}

/// `name=value`, with words as they are and anything else as JSON.
fn detail((name, value): (&String, &Value)) -> String {
    match value {
        Value::String(words) => format!("{name}={words}"),
        other => format!("{name}={other}"),
    }
}

/// `+1.234s`.
fn after(start: Timestamp, at: Timestamp) -> String {
    format!("+{:.3}s", at.since(start).as_secs_f64())
}
