//! The progress of a drain that is waited for: a bar on a terminal, lines elsewhere, nothing where a program reads.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::NodeId;
use model::api::EligibilityAnswer;

#[derive(Debug)]
pub(super) struct Progress {
    shown: Shown,
    left: u32,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines,
    Nothing,
}

impl Progress {
    /// Begins with what a drain was answered with.
    pub(super) fn show(json: bool, answer: &EligibilityAnswer) -> io::Result<Self> {
        let left = answer.remaining;
        let shown = if json {
            Shown::Nothing
        } else if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(u64::from(left)), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(answer.node.to_string());
            bar.set_message(words(left));
            Shown::Bar(bar)
        } else {
            let deadline = answer.deadline.map(|at| format!(", deadline {at}")).unwrap_or_default();
            let mut out = io::stdout().lock();
            writeln!(out, "{}  draining, {}{deadline}", answer.node, words(left))?;
            Shown::Lines
        };
        Ok(Self { shown, left })
    }

    /// How many still run.
    pub(super) fn set(&mut self, node: &NodeId, left: u32) -> io::Result<()> {
        if std::mem::replace(&mut self.left, left) == left {
            return Ok(());
        }
        match &self.shown {
            Shown::Bar(bar) => {
                // What was under way when the drain began may have added to it.
                let all = bar.length().unwrap_or_default().max(u64::from(left));
                bar.set_length(all);
                bar.set_position(all - u64::from(left));
                bar.set_message(words(left));
            }
            Shown::Lines => writeln!(io::stdout().lock(), "{node}  {}", words(left))?,
            Shown::Nothing => {}
        }
        Ok(())
    }

    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// Takes the bar away.
    pub(super) fn clear(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    pub(super) fn done(&self, node: &NodeId) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{node}  drained")
    }
}

fn words(left: u32) -> String {
    format!("{left} running")
}
