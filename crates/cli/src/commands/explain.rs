//! `hatchery explain`: where a spawn would be placed and why, and why not on each other node.

use std::io::{self, Write};

use clap::Args;
use model::api::{Explanation, ExplanationSource};

use crate::args::{ClientFlags, SpawnFlags};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Columns, counts, printable, write_json};

/// Says which node a spawn would be placed on and why, and why not on each other one. Nothing is started.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery explain\n  \
    hatchery explain --renderer ssr --label sdk=2025.1\n  \
    hatchery explain --pool gpu --json | jq .reasons\n\n\
    Exit codes: 0 a node would be chosen, 4 none would.")]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    spawn: SpawnFlags,
    #[command(flatten)]
    pub(crate) flags: ClientFlags,
}

pub(crate) async fn run(context: &Context, args: &ExplainArgs) -> Result<Exit, Failure> {
    let answer = context.client.explain(&args.spawn.request()?).await?;
    let mut out = io::stdout().lock();
    if context.json {
        write_json(&mut out, &answer.json)?;
    } else {
        write(&answer.value, &mut out)?;
    }
    Ok(exit(&answer.value))
}

/// As `hatchery spawn` would exit.
fn exit(answer: &Explanation) -> Exit {
    match (&answer.chosen, answer.code) {
        (Some(_), _) => Exit::Done,
        (None, Some(code)) => Exit::of(code),
        (None, None) => Exit::Refused,
    }
}

fn write(answer: &Explanation, out: &mut impl Write) -> io::Result<()> {
    let Explanation { chosen, why, code, reasons, nodes, unlisted, source } = answer;
    let summary = match (chosen, code) {
        (Some(node), _) => format!("{node} would be chosen: {why}"),
        (None, Some(code)) => format!("no node would be chosen: {why} ({})", code.as_str()),
        (None, None) => format!("no node would be chosen: {why}"),
    };
    writeln!(out, "{}", printable(&summary))?;
    if *source == ExplanationSource::Snapshot {
        writeln!(out, "The registry is away: this is what the front door knew before.")?;
    }
    if !nodes.is_empty() {
        let mut table = Columns::new(&["NODE", "VERDICT", "WHY"]);
        for node in nodes {
            table.row([node.node.as_str().into(), node.verdict.as_str().into(), node.why.as_str().into()]);
        }
        writeln!(out)?;
        table.write(out)?;
    }
    if *unlisted > 0 && !reasons.is_empty() {
        let listed = if nodes.is_empty() { "" } else { "all nodes but the chosen one: " };
        writeln!(out, "\n{listed}{}", printable(&counts(reasons)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::api::{ErrorCode, ExplainedNode};

    use super::*;

    fn refused(nodes: Vec<ExplainedNode>, unlisted: u32) -> Explanation {
        Explanation {
            chosen: None,
            why: "every node is full".into(),
            code: Some(ErrorCode::NoCapacity),
            reasons: BTreeMap::from([("full".into(), 12), ("label sdk".into(), 3)]),
            nodes,
            unlisted,
            source: ExplanationSource::Registry,
        }
    }

    fn shown(answer: &Explanation) -> String {
        let mut out = Vec::new();
        write(answer, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_has_the_verdicts_and_what_it_has_no_room_for_is_counted() {
        let node = ExplainedNode {
            node: "a".parse().unwrap(),
            verdict: "full".into(),
            why: "4 of 4 slots are in use".into(),
        };
        let answer = refused(vec![node], 14);
        assert_eq!(
            shown(&answer),
            "no node would be chosen: every node is full (no-capacity)\n\n\
             NODE  VERDICT  WHY\n\
             a     full     4 of 4 slots are in use\n\n\
             all nodes but the chosen one: 12 full, 3 without the label sdk that is asked for\n",
        );
        assert_eq!(exit(&answer), Exit::Refused);
        let counted = shown(&refused(Vec::new(), 15));
        assert!(
            counted.ends_with("(no-capacity)\n\n12 full, 3 without the label sdk that is asked for\n"),
            "{counted}"
        );
    }

    #[test]
    fn a_chosen_node_is_a_success() {
        let answer = Explanation {
            chosen: Some("a".parse().unwrap()),
            why: "a slot is free there".into(),
            code: None,
            reasons: BTreeMap::new(),
            source: ExplanationSource::Snapshot,
            ..refused(Vec::new(), 0)
        };
        assert_eq!(exit(&answer), Exit::Done);
        assert!(shown(&answer).starts_with("a would be chosen: a slot is free there\nThe registry is away"));
    }
}
