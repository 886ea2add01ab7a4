//! Texts that people read on a terminal or in a log, and may come from strangers: which characters would deceive them. Refuse such a
//! text, or escape it.

/// Whether a character can make a text look like another one, or control a terminal: control characters (C0, DEL, C1),
/// controls of the writing direction (Unicode UAX #9, the attack of CVE-2021-42574), and separators of lines.
#[must_use]
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_writes_is_harmless_and_what_steers_is_not() {
        assert!("aé\u{a0}漢字🙂 \u{200d}'\"<".chars().all(|c| !is_deceptive(c)));
        for c in
            ['\0', '\n', '\u{1b}', '\u{7f}', '\u{80}', '\u{9b}', '\u{85}', '\u{202e}', '\u{2066}', '\u{2028}']
        {
            assert!(is_deceptive(c), "{c:?}");
        }
    }
}
