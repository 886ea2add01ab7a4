//! Escapes characters that could forge a log line or control the terminal that shows it: control characters, and those of
//! the writing direction. An escape is `\u` and four hex digits, which is valid inside JSON strings too.
//!
//! Line ends, tabs and the colors of the formatter (`ESC [ digits m`) stay.

use std::borrow::Cow;

use model::text::is_deceptive;

const ESC: char = '\u{1b}';

pub(crate) fn escaped(lines: &[u8]) -> Cow<'_, [u8]> {
    // Most lines are printable ASCII.
    if lines.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t')) {
        return Cow::Borrowed(lines);
    }
    let text = String::from_utf8_lossy(lines);
    let mut shown = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        let stays = matches!(c, '\n' | '\t') || (c == ESC && is_color(&text[at + 1..])) || !is_deceptive(c);
        if stays {
            shown.push(c);
        } else {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    Cow::Owned(shown.into_bytes())
}

/// Whether an escape character begins a color (SGR), the one escape sequence that is harmless.
fn is_color(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix('[') else { return false };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';');
    end.is_some_and(|end| end <= 20 && rest[end..].starts_with('m'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped_and_nothing_else() {
        for (line, shown) in [
            ("plain \"text\" \\ é 漢\n", "plain \"text\" \\ é 漢\n"),
            ("\u{1b}[2m2026\u{1b}[0m\tx\n", "\u{1b}[2m2026\u{1b}[0m\tx\n"),
            ("a\u{1b}[2Jb\u{1b}]0;title\u{7}\n", "a\\u001b[2Jb\\u001b]0;title\\u0007\n"),
            ("a\u{9b}2Jb\r\u{8}\u{7f}\n", "a\\u009b2Jb\\u000d\\u0008\\u007f\n"),
            ("a\u{202e}b\u{2066}\u{2028}\n", "a\\u202eb\\u2066\\u2028\n"),
            ("\u{1b}", "\\u001b"),
        ] {
            assert_eq!(String::from_utf8_lossy(&escaped(line.as_bytes())), shown, "{line:?}");
        }
        assert_eq!(&*escaped(b"\xff\n"), "\u{fffd}\n".as_bytes());
    }

    #[test]
    fn a_line_of_json_stays_json_and_says_the_same() {
        let line = serde_json::json!({ "message": "a\u{9b}b\u{202e}c\u{7f}\nd" }).to_string();
        let shown = escaped(line.as_bytes()).into_owned();
        assert!(shown.is_ascii());
        let read: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(read["message"], "a\u{9b}b\u{202e}c\u{7f}\nd");
    }
}
