//! `hatchery audit`: what operators ordered, newest first, and what came of it. Reads `GET /v1/audit` page by page.

use std::io::{self, Write};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use model::NodeId;
use model::api::AuditEvent;
use serde_json::{Value, json};

use crate::args::ClientFlags;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Columns, short, when, write_json};
use crate::pages::PAGE;

/// Lists what operators ordered, newest first: who, when, from where, and what came of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery audit\n  \
    hatchery audit --node node-a\n  \
    hatchery audit --by ops-anna --limit 1000 --json\n\n\
    Orders are kept for as long as ended spawns, see --keep-ended of hatchery frontdoor.")]
pub(crate) struct AuditArgs {
    /// Only orders to this node, or about spawns there
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Only those of this operator: the name or id of a key, or an owner
    #[arg(long, value_name = "WHO", value_parser = NonEmptyStringValueParser::new())]
    by: Option<String>,
    /// At most this many
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &AuditArgs) -> Result<Exit, Failure> {
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut raw, mut orders, mut cursor) = (Vec::new(), Vec::<AuditEvent>::new(), None);
    loop {
        let most = u32::try_from(limit - orders.len()).unwrap_or(PAGE).min(PAGE);
        let mut query = vec![("limit", most.to_string())];
        query.extend(args.node.as_ref().map(|node| ("node", node.to_string())));
        query.extend(args.by.clone().map(|by| ("by", by)));
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
    let mut out = io::stdout().lock();
    if context.json {
        let mut list = json!({ "audit": raw });
        if let Some(cursor) = cursor {
            list["nextCursor"] = Value::String(cursor);
        }
        write_json(&mut out, list.to_string().as_bytes())?;
        return Ok(Exit::Done);
    }
    table(&orders).write(&mut out)?;
    if cursor.is_some() {
        writeln!(out, "… and older ones; --limit shows more")?;
    }
    Ok(Exit::Done)
}

fn table(orders: &[AuditEvent]) -> Columns {
    let mut table = Columns::new(&["AT", "ORDER", "NODE", "SPAWN", "BY", "FROM", "OUTCOME", "DETAILS"]);
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
        table.row([
            when(*at).into(),
            audit.order.as_str().into(),
            audit.node.as_ref().map_or("-", NodeId::as_str).into(),
            audit.spawn.map_or_else(|| "-".to_owned(), |spawn| spawn.to_string()).into(),
            audit.by.as_deref().unwrap_or("-").into(),
            audit.from.as_deref().unwrap_or("-").into(),
            outcome.into(),
            details.join(", ").into(),
        ]);
    }
    table
}
