//! Tags: pairs of text by which a caller finds its own spawns again. They mean nothing to Hatchery, and no node is chosen by them.
//!
//! Invariant: the bounds here hold in the request, on the wire and in filters, so that a record of a spawn is bounded.
//!
//! ```
//! use model::tags::{Tag, check_tags};
//!
//! let tag: Tag = "user=ann@example.com".parse()?;
//! assert_eq!((tag.key.as_str(), tag.value.as_str()), ("user", "ann@example.com"));
//! let error = check_tags(&[("user".into(), "a\nb".into())].into()).unwrap_err();
//! assert!(error.starts_with(r#"tag "user" has a value that"#), "{error}");
//! # Ok::<(), String>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::text::is_deceptive;

/// The most tags of a spawn.
pub const MAX_TAGS: usize = 16;
/// The longest key, in characters.
pub const MAX_KEY: usize = 63;
/// The longest value, in characters.
pub const MAX_VALUE: usize = 255;
/// The most that the keys and values of a spawn have together, in bytes of UTF-8. The record, its first event and each
/// report of the agent have them.
pub const MAX_BYTES: usize = 4096;

/// One tag, written `key=value`. The key ends at the first `=`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// What the value says.
    pub key: String,
    /// May be empty.
    pub value: String,
}

impl Tag {
    /// Whether these tags have this one.
    #[must_use]
    pub fn is_in(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(&self.key) == Some(&self.value)
    }
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("must be key=value, not {}", shown(text)))?;
        check_tag(key, value)?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// Checks one tag: a key of 1 to 63 characters without `=`, a value of at most 255, and nothing in either that could steer a
/// terminal or break a line.
///
/// # Errors
/// What is wrong, with the key. The value is not quoted: it may name a person, and errors are logged.
pub fn check_tag(key: &str, value: &str) -> Result<(), String> {
    let named = shown(key);
    match key.chars().count() {
        1..=MAX_KEY => {}
        length => return Err(format!("tag key {named} must have 1 to {MAX_KEY} characters, not {length}")),
    }
    if key.contains('=') {
        return Err(format!("tag key {named} must not contain '='"));
    }
    if let Some(found) = key.chars().find(|c| is_deceptive(*c)) {
        return Err(format!("tag key {named} must not contain the control character {found:?}"));
    }
    let length = value.chars().count();
    if length > MAX_VALUE {
        return Err(format!(
            "tag {named} has a value that must have at most {MAX_VALUE} characters, not {length}"
        ));
    }
    if let Some(found) = value.chars().find(|c| is_deceptive(*c)) {
        return Err(format!("tag {named} has a value that must not contain the control character {found:?}"));
    }
    Ok(())
}

/// Checks all tags of a spawn: each by [`check_tag`], their number, and their bytes together.
///
/// # Errors
/// The first rule that is broken, with the key where one pair breaks it.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > MAX_TAGS {
        return Err(format!("must have at most {MAX_TAGS} pairs, not {}", tags.len()));
    }
    for (key, value) in tags {
        check_tag(key, value)?;
    }
    let bytes: usize = tags.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_BYTES {
        return Err(format!("must have at most {MAX_BYTES} bytes of keys and values together, not {bytes}"));
    }
    Ok(())
}

/// Collects tags that were given one by one; the same tag may come twice.
///
/// # Errors
/// A key that has two values, or a rule of [`check_tags`].
pub fn collect_tags(given: impl IntoIterator<Item = Tag>) -> Result<BTreeMap<String, String>, String> {
    let mut tags = BTreeMap::new();
    for Tag { key, value } in given {
        if let Some(old) = tags.get(&key)
            && *old != value
        {
            return Err(format!("tag {} is given twice, with different values", shown(&key)));
        }
        tags.insert(key, value);
    }
    check_tags(&tags)?;
    Ok(tags)
}

/// The beginning of a text of a caller, in quotes and escaped.
fn shown(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(MAX_KEY).collect();
    if chars.next().is_none() { format!("{head:?}") } else { format!("{:?}", head + "…") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn bounds_are_kept_and_the_error_names_the_pair() {
        let (key, value) = ("k".repeat(63), "é".repeat(255));
        for good in
            [&[][..], &[("user", "ann@example.com")], &[("a b/c", "")], &[(&key, &value)], &[("名", "値 🙂")]]
        {
            assert_eq!(check_tags(&tags(good)), Ok(()), "{good:?}");
        }
        let (long_key, long_value) = ("k".repeat(64), "v".repeat(256));
        for (bad, says) in [
            (("", "v"), r#"tag key "" must have 1 to 63"#),
            ((long_key.as_str(), "v"), "tag key \"kkk"),
            (("a=b", "v"), r#"tag key "a=b" must not contain '='"#),
            (("a\u{202e}b", "v"), r#"control character '\u{202e}'"#),
            (("user", long_value.as_str()), r#"tag "user" has a value that must have at most 255"#),
            (("user", "secret\nword"), r#"tag "user" has a value that must not contain"#),
        ] {
            let error = check_tags(&tags(&[bad])).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("secret") && error.len() < 300, "{error}");
        }
    }

    #[test]
    fn their_number_and_their_bytes_together_are_bounded() {
        let of = |count: usize, length: usize| -> BTreeMap<String, String> {
            (0..count).map(|n| (format!("{n:02}"), "v".repeat(length))).collect()
        };
        assert_eq!(check_tags(&of(16, 254)), Ok(()));
        assert_eq!(check_tags(&of(17, 1)).unwrap_err(), "must have at most 16 pairs, not 17");
        let error = check_tags(&of(16, 255)).unwrap_err();
        assert_eq!(error, "must have at most 4096 bytes of keys and values together, not 4112");
    }

    #[test]
    fn a_key_given_twice_has_one_value() {
        let collect = |texts: &[&str]| collect_tags(texts.iter().map(|text| text.parse().unwrap()));
        assert_eq!(collect(&["a=1", "a=1", "b=x=y"]), Ok(tags(&[("a", "1"), ("b", "x=y")])));
        assert_eq!(collect(&["a=1", "a=2"]).unwrap_err(), r#"tag "a" is given twice, with different values"#);
        assert!("a".parse::<Tag>().unwrap_err().starts_with("must be key=value"));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_read_as_it_was_written(key in ".{0,70}", value in ".{0,260}") {
            let text = format!("{key}={value}");
            if check_tag(&key, &value).is_ok() {
                let tag: Tag = text.parse().unwrap();
                prop_assert_eq!((&tag.key, &tag.value), (&key, &value));
                prop_assert_eq!(tag.to_string(), text);
            } else if let Ok(tag) = text.parse::<Tag>() {
                prop_assert!(key.contains('='), "{:?}", tag);
            }
        }
    }
}
