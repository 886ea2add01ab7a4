//! Lists of `key=value` in the variables `OTEL_…`: `a=1,b=x%20y`. One that is malformed is an error that names the place and not the
//! value, which may be a secret.

use percent_encoding::percent_decode_str;

/// The pairs of a list. The error: what is wrong, without the value, which may be a secret.
pub(crate) fn parse(list: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!("expected key=value,…, and pair {} has no \"=\"", pairs.len() + 1));
        };
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(format!("expected key=value,…, and pair {} has no key", pairs.len() + 1));
        }
        let value = percent_decode_str(value).decode_utf8();
        let value =
            value.map_err(|_| format!("the value of {key:?} is not UTF-8 once it is percent-decoded"))?;
        pairs.push((key.to_owned(), value.into_owned()));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_pairs_and_its_errors_repeat_no_value() {
        let pairs = parse(" a=1, b = x%20y,, c=d=e ").unwrap();
        let expected = [("a", "1"), ("b", "x y"), ("c", "d=e")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        for bad in ["hush", "a=1,hush", "=hush", "a=hush%ff"] {
            let why = parse(bad).unwrap_err();
            assert!(!why.contains("hush"), "{why}");
        }
    }
}
