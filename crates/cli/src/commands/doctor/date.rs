//! The clock of the server that answers a call, by the `Date` header of the answer. It is in whole seconds.

use std::time::SystemTime;

use hyper::header::{DATE, HeaderMap};
use model::Timestamp;

/// How far the clock of an answer's sender is ahead of this machine's, in milliseconds; the call was made at `asked` and has its answer now.
pub(super) fn ahead(headers: &HeaderMap, asked: Timestamp) -> Option<i64> {
    between(headers, asked, Timestamp::now())
}

fn between(headers: &HeaderMap, asked: Timestamp, answered: Timestamp) -> Option<i64> {
    let theirs = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    let theirs = theirs.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let ours = asked.millis().midpoint(answered.millis());
    Some(i64::try_from(theirs).ok()? - i64::try_from(ours).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_compared_with_the_middle_of_the_call() {
        let mut headers = HeaderMap::new();
        let at = Timestamp::from_millis;
        assert_eq!(between(&headers, at(0), at(0)), None);
        headers.insert(DATE, "Thu, 01 Jan 1970 00:02:00 GMT".parse().unwrap());
        assert_eq!(between(&headers, at(59_000), at(61_000)), Some(60_000));
        assert_eq!(between(&headers, at(125_000), at(125_000)), Some(-5_000));
    }
}
