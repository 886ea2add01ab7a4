//! JSON as YAML in block style, as people expect of `-o yaml`.
//!
//! Only writing is needed, and only of JSON. Every JSON string is a YAML string in double quotes, so whatever is not plainly a word keeps
//! its quotes, and no rule about what a plain scalar may be is stretched.

use std::fmt::Write as _;

use serde_json::Value;

/// What other readers of YAML take for something else than a word, in small letters (YAML 1.1 and 1.2).
const NO_WORDS: [&str; 12] =
    ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf", "infinity"];

/// The value as YAML, with a line end.
pub(crate) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => block(value, 0, &mut text),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut text),
        other => {
            text += &scalar(other);
            text.push('\n');
        }
    }
    text
}

/// Writes an object or a list that is not empty, each line with so many spaces before it.
fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                write!(text, "{:indent$}{}:", "", word(name)).ok();
                below(value, indent, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                let begin = text.len();
                if is_block(item) {
                    // Its first line stands behind the dash.
                    block(item, indent + 2, text);
                    text.replace_range(begin + indent..begin + indent + 1, "-");
                } else {
                    writeln!(text, "{:indent$}- {}", "", scalar(item)).ok();
                }
            }
        }
        _ => {}
    }
}

/// Writes what belongs to a name: behind it, or in the lines below it.
fn below(value: &Value, indent: usize, text: &mut String) {
    if is_block(value) {
        text.push('\n');
        // A list stands under its name, as most tools write it.
        let deeper = if value.is_array() { indent } else { indent + 2 };
        block(value, deeper, text);
    } else {
        writeln!(text, " {}", scalar(value)).ok();
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        other => other.to_string(),
    }
}

/// A string as it is where it can only be a word, else in quotes.
fn word(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = begins && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b));
    if plain && !NO_WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return text.to_owned();
    }
    // JSON leaves DEL and what steers a terminal as they are; YAML wants the first escaped, people the rest.
    let quoted = Value::from(text).to_string();
    quoted.chars().fold(String::with_capacity(quoted.len()), |mut shown, c| {
        if c != '"' && c != '\\' && (model::text::is_deceptive(c) || c == '\u{7f}' || c == '\u{feff}') {
            write!(shown, "\\U{:08x}", u32::from(c)).ok();
        } else {
            shown.push(c);
        }
        shown
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_becomes_blocks() {
        let value = json!({"nodes": [
            {"id": "node-a", "slots": {"total": 4, "used": 0}, "gpus": [], "labels": {}, "dedicated": true},
            {"id": "node-b", "at": "2026-01-31T12:00:00Z", "list": [[1, 2], "x"], "none": null},
        ], "nextCursor": "a b"});
        assert_eq!(
            yaml(&value),
            "nextCursor: \"a b\"\nnodes:\n- dedicated: true\n  gpus: []\n  id: node-a\n  labels: {}\n  slots:\n    total: 4\n    \
             used: 0\n- at: \"2026-01-31T12:00:00Z\"\n  id: node-b\n  list:\n  - - 1\n    - 2\n  - x\n  none: null\n",
        );
        assert_eq!(yaml(&json!([])), "[]\n");
        assert_eq!(yaml(&json!({})), "{}\n");
        assert_eq!(yaml(&json!(["a"])), "- a\n");
    }

    #[test]
    fn what_could_be_read_as_something_else_keeps_its_quotes() {
        for (text, written) in [
            ("node-a", "node-a"),
            ("spawn.ready", "spawn.ready"),
            ("", "\"\""),
            ("yes", "\"yes\""),
            ("No", "\"No\""),
            ("NULL", "\"NULL\""),
            ("1.0", "\"1.0\""),
            ("-", "\"-\""),
            ("a: b", "\"a: b\""),
            ("a #b", "\"a #b\""),
            ("ws://h:1", "\"ws://h:1\""),
            ("a\"b\\\n", "\"a\\\"b\\\\\\n\""),
            ("\u{1b}[2J", "\"\\u001b[2J\""),
            ("\u{202e}x", "\"\\U0000202ex\""),
            ("漢", "\"漢\""),
        ] {
            assert_eq!(word(text), written, "{text:?}");
        }
    }
}
