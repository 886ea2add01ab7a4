//! `hatchery audit`: what operators ordered, newest first, and what came of it. Reads `GET /v1/audit` page by page.

use std::io::{self, Write};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use model::api::AuditEvent;
use model::{NodeId, OrderKind, Owner};
use serde_json::{Value, json};

use super::show::ended_by;
use crate::args::{ClientFlags, order};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::listing::{Form, ListFlags, write_value};
use crate::output::{Columns, printable, short, when};
use crate::pages::PAGE;
use crate::spawn_ids::{self, Purpose};
use crate::standard_error::say;

/// Lists what operators ordered, newest first: who, when, from where, and what came of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery audit\n  \
    hatchery audit --node node-a\n  \
    hatchery audit --order stop --since 24h\n  \
    hatchery audit --spawn 019f04c1-52a0-7d1c-9b0e-6c1f0a4a2b11\n  \
    hatchery audit --by ops-anna --limit 1000 --json\n\n\
    -o name prints the ids of the requests, which log lines have, too.\n\
    Orders are kept for as long as ended spawns, see --keep-ended of hatchery frontdoor.")]
pub(crate) struct AuditArgs {
    /// Only orders to this node, or about spawns there
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Only those of this operator: the name or id of a key, or an owner
    #[arg(long, value_name = "WHO", value_parser = NonEmptyStringValueParser::new())]
    by: Option<String>,
    /// Only orders of this kind
    #[arg(long, value_name = "ORDER", value_parser = order())]
    order: Option<OrderKind>,
    /// Only orders about this spawn
    #[arg(long, value_name = "ID")]
    spawn: Option<String>,
    /// Only those that were given at this time (2026-01-31T08:00:00Z) or later, or so long ago at the most (24h)
    #[arg(long, value_name = "TIME", value_parser = NonEmptyStringValueParser::new())]
    since: Option<String>,
    /// Only those that were given before this time, written as --since
    #[arg(long, value_name = "TIME", value_parser = NonEmptyStringValueParser::new())]
    until: Option<String>,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    list: ListFlags,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

impl AuditArgs {
    /// Whether failures, too, are for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.list.is_json()
    }
}

pub(crate) async fn run(context: &Context, args: &AuditArgs) -> Result<Exit, Failure> {
    let form = args.list.form(context)?;
    let spawn = match &args.spawn {
        Some(spawn) => Some(spawn_ids::resolve(&context.client, spawn, Purpose::Read).await?),
        None => None,
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut raw, mut orders, mut cursor) = (Vec::new(), Vec::<AuditEvent>::new(), None);
    loop {
        let most = u32::try_from(limit - orders.len()).unwrap_or(PAGE).min(PAGE);
        let mut query = vec![("limit", most.to_string())];
        query.extend(args.node.as_ref().map(|node| ("node", node.to_string())));
        query.extend(args.by.clone().map(|by| ("by", by)));
        query.extend(args.order.map(|order| ("order", order.to_string())));
        query.extend(spawn.clone().map(|spawn| ("spawn", spawn)));
        query.extend(args.since.clone().map(|since| ("since", since)));
        query.extend(args.until.clone().map(|until| ("until", until)));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let answer = context.client.audit(&query).await?;
        let mut page: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
        if let Some(Value::Array(page)) = page.get_mut("audit").map(Value::take) {
            raw.extend(page);
        }
        orders.extend(answer.value.audit);
        cursor = answer.value.next_cursor;
        if cursor.is_none() || orders.len() >= limit {
            break;
        }
    }
    if args.list.reverse {
        raw.reverse();
        orders.reverse();
    }
    let mut out = io::stdout().lock();
    match form {
        Form::Json | Form::Yaml => {
            let mut list = json!({ "audit": raw });
            if let Some(cursor) = cursor {
                list["nextCursor"] = Value::String(cursor);
            }
            write_value(&mut out, form, &list)?;
            return Ok(Exit::Done);
        }
        Form::Name => {
            for AuditEvent { audit, .. } in &orders {
                writeln!(out, "{}", printable(audit.request_id.as_str()))?;
            }
        }
        Form::Table | Form::Wide if orders.is_empty() => writeln!(out, "no orders on record")?,
        Form::Table | Form::Wide => table(&orders, form == Form::Wide).write(&mut out)?,
    }
    let may_be_drain = args.order.is_none_or(|order| order == OrderKind::Drain);
    if let (Some(spawn), Form::Table | Form::Wide, true) = (&spawn, form, may_be_drain) {
        // A drain is given to a node, and ends its spawns.
        let shown = context.client.show(spawn).await.map(|answer| answer.value).ok();
        let drain = shown.as_ref().and_then(|spawn| Some((spawn.ended_by.as_ref()?, spawn.node.as_str())));
        if let Some((order, node)) = drain.filter(|(order, _)| order.order == OrderKind::Drain) {
            writeln!(out, "it was ended by the {}", printable(&ended_by(order, node)))?;
        }
    }
    if cursor.is_some() {
        out.flush()?;
        let left_out = "… and older ones; --limit shows more";
        if form == Form::Name { say(left_out) } else { writeln!(out, "{left_out}")? }
    }
    Ok(Exit::Done)
}

fn table(orders: &[AuditEvent], wide: bool) -> Columns {
    let mut headings = vec!["AT", "ORDER", "NODE", "SPAWN", "BY", "FROM", "OUTCOME", "DETAILS"];
    headings.extend(["OWNER", "REQUEST"].into_iter().filter(|_| wide));
    let mut table = Columns::new(&headings);
    for AuditEvent { at, audit } in orders {
        let outcome = match &audit.code {
            Some(code) => format!("{}: {code}", audit.outcome),
            None => audit.outcome.to_string(),
        };
        let seconds = std::time::Duration::from_secs;
        let details = [
            audit.deadline_seconds.map(|deadline| format!("deadline {}", short(seconds(deadline)))),
            audit.max_seconds.map(|life| format!("life {}", short(seconds(life)))),
            audit.reason.clone(),
        ];
        let details: Vec<String> = details.into_iter().flatten().collect();
        let cells = [
            when(*at).into(),
            audit.order.as_str().into(),
            audit.node.as_ref().map_or("-", NodeId::as_str).into(),
            audit.spawn.map_or_else(|| "-".to_owned(), |spawn| spawn.to_string()).into(),
            audit.by.as_deref().unwrap_or("-").into(),
            audit.from.as_deref().unwrap_or("-").into(),
            outcome.into(),
            details.join(", ").into(),
        ];
        let more = [audit.owner.as_ref().map_or("-", Owner::as_str).into(), audit.request_id.as_str().into()];
        table.row(cells.into_iter().chain(more.into_iter().filter(|_| wide)));
    }
    table
}
