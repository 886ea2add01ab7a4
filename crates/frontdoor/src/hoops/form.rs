//! Form bodies with names in brackets, `class=ssr_session&params[model]=bolt`, as JSON.
//!
//! As much of the vendor's form parser as the interface needs: one level of names below `params`, and lists below these. Values
//! that come twice are a list, as they are there.

use form_urlencoded::parse;
use serde_json::{Map, Value};

/// Pairs that a form may have.
const MAX_PAIRS: usize = 1000;

/// A form with too many pairs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyPairs;

/// The form as the JSON object that says the same.
pub(super) fn to_json(body: &[u8]) -> Result<Map<String, Value>, TooManyPairs> {
    if body.iter().filter(|byte| **byte == b'&').count() >= MAX_PAIRS {
        return Err(TooManyPairs);
    }
    let (mut top, mut params) = (Map::new(), Map::new());
    for (key, value) in parse(body) {
        let value = Value::String(value.into_owned());
        let Some(below) = key.strip_prefix("params[") else {
            if !key.contains('[') {
                add(&mut top, &key, value, false);
            }
            continue;
        };
        let Some((name, rest)) = below.split_once(']') else { continue };
        match rest {
            "" => add(&mut params, name, value, false),
            _ if is_index(rest) => add(&mut params, name, value, true),
            // An object, which no value of the interface is.
            _ => add(&mut params, name, Value::Object(Map::new()), false),
        }
    }
    if !params.is_empty() {
        top.insert("params".to_owned(), Value::Object(params));
    }
    Ok(top)
}

/// `[]`, or a number in brackets.
fn is_index(rest: &str) -> bool {
    let inside = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `listed`: its name says that it is one of a list.
fn add(to: &mut Map<String, Value>, name: &str, value: Value, listed: bool) {
    match to.get_mut(name) {
        Some(Value::Array(list)) => list.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
        None => {
            to.insert(name.to_owned(), if listed { Value::Array(vec![value]) } else { value });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_resembles_a_form_is_an_object_that_says_no_more_than_it() {
        let words = ["params[", "]", "[]", "=", "&", "%5B", "class=", "+"];
        fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/forms"), &words, |bytes| {
            if let Ok(object) = to_json(bytes) {
                let texts = serde_json::to_string(&object).unwrap();
                // Each byte that is no letter may need six to be written, or three for one that is no text, and each pair a little around it.
                assert!(texts.len() <= 2 + bytes.len() * 18 + 64, "{texts}");
            }
        });
    }

    #[test]
    fn names_in_brackets_become_members() {
        for (form, wanted) in [
            ("", json!({})),
            ("class=ssr_session", json!({"class": "ssr_session"})),
            ("class=a&class=b", json!({"class": ["a", "b"]})),
            ("class", json!({"class": ""})),
            ("params%5Bmodel%5D=a%20b+c", json!({"params": {"model": "a b c"}})),
            ("params[model]=a&params[model]=b", json!({"params": {"model": ["a", "b"]}})),
            ("params[model][x]=a", json!({"params": {"model": {}}})),
            ("params[d][]=/a&params[d][]=/b", json!({"params": {"d": ["/a", "/b"]}})),
            ("params[d][0]=/a&params[d][7]=/b", json!({"params": {"d": ["/a", "/b"]}})),
            ("params=x", json!({"params": "x"})),
            ("params[=x&params]=y&[a]=b&a[b]=c&=", json!({"": "", "params]": "y"})),
            ("%zz=%&&&class=%ff", json!({"%zz": "%", "class": "\u{fffd}"})),
        ] {
            assert_eq!(Value::Object(to_json(form.as_bytes()).unwrap()), wanted, "{form}");
        }
    }

    #[test]
    fn a_form_of_too_many_pairs_is_not_read() {
        let pairs = |count| vec!["a"; count].join("&");
        assert!(to_json(pairs(MAX_PAIRS).as_bytes()).is_ok());
        assert_eq!(to_json(pairs(MAX_PAIRS + 1).as_bytes()), Err(TooManyPairs));
    }
}
