//! What lists have in common: the form of the output, and the last line with the totals.

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::write_json;
use crate::yaml::yaml;

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A table for people.
    #[value(skip)]
    Table,
    /// A table with more columns.
    Wide,
    /// The front door's JSON.
    Json,
    /// The same as YAML.
    Yaml,
    /// Ids or names alone, one a line.
    Name,
}

/// The flag that says the form.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct FormFlag {
    /// Form of the output; json is the same as --json
    #[arg(short, long, value_enum, value_name = "FORM")]
    output: Option<Form>,
}

impl FormFlag {
    /// Whether it says the same as `--json`, which also counts for failures.
    pub(crate) fn is_json(self) -> bool {
        self.output == Some(Form::Json)
    }

    /// The form that is asked for.
    ///
    /// # Errors
    /// `--json` says another one.
    pub(crate) fn form(self, context: &Context) -> Result<Form, Failure> {
        match self.output {
            Some(form) if context.json && form != Form::Json => {
                Err(Failure::usage("--json and --output say different forms: give one of them"))
            }
            Some(form) => Ok(form),
            None => Ok(if context.json { Form::Json } else { Form::Table }),
        }
    }
}

/// The flags of every list.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct ListFlags {
    #[command(flatten)]
    output: FormFlag,
    /// Print ids or names alone, as -o name does
    #[arg(short, long, conflicts_with = "output")]
    quiet: bool,
    /// Turn the order round
    #[arg(short, long)]
    pub(crate) reverse: bool,
}

impl ListFlags {
    /// Whether they say the same as `--json`, which also counts for failures.
    pub(crate) fn is_json(self) -> bool {
        self.output.is_json()
    }

    /// The form that is asked for.
    ///
    /// # Errors
    /// Two flags say different ones.
    pub(crate) fn form(self, context: &Context) -> Result<Form, Failure> {
        match (self.quiet, context.json) {
            (true, true) => Err(Failure::usage("--json and --quiet say different forms: give one of them")),
            (true, false) => Ok(Form::Name),
            (false, _) => self.output.form(context),
        }
    }

    /// The form of a table that follows the farm.
    ///
    /// # Errors
    /// It is one of a list that is printed once, or two flags say different ones.
    pub(crate) fn form_to_follow(self, context: &Context) -> Result<Form, Failure> {
        match self.form(context)? {
            form @ (Form::Table | Form::Wide | Form::Json) => Ok(form),
            Form::Yaml | Form::Name => {
                Err(Failure::usage("--watch goes with a table or JSON, not with yaml or name"))
            }
        }
    }
}

/// Writes a value in a form for programs.
pub(crate) fn write_value(out: &mut impl Write, form: Form, value: &Value) -> io::Result<()> {
    if form == Form::Yaml {
        out.write_all(yaml(value).as_bytes())?;
        return out.flush();
    }
    write_json(out, value.to_string().as_bytes())
}

/// `2 ready, 1 exited`: how many there are of each word, in the order in which the words come.
pub(crate) fn tally<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut order = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words {
        let count = counts.entry(word).or_insert_with(|| {
            order.push(word);
            0
        });
        *count += 1;
    }
    let each: Vec<String> = order.into_iter().map(|word| format!("{} {word}", counts[word])).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_counts_words_in_their_order() {
        assert_eq!(tally(["ready", "exited", "ready"].into_iter()), "2 ready, 1 exited");
        assert_eq!(tally(std::iter::empty()), "");
    }
}
