//! From when until when a certificate is valid. `webpki` checks the validity and does not expose it, so these few fields of the DER (RFC
//! 5280, 4.1) are read here.

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The `notAfter` of a certificate in DER, in seconds since 1970; `None` when it cannot be parsed.
pub(crate) fn not_after(certificate: &[u8]) -> Option<u64> {
    valid_between(certificate).map(|(_, end)| end)
}

/// Its `notBefore` and `notAfter`.
pub(crate) fn valid_between(certificate: &[u8]) -> Option<(u64, u64)> {
    let (signed, _) = expect(certificate, SEQUENCE)?;
    let (mut fields, _) = expect(signed, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = next(fields)?.2;
    }
    // Serial number, algorithm and issuer come first.
    for _ in 0..3 {
        fields = next(fields)?.2;
    }
    let (validity, _) = expect(fields, SEQUENCE)?;
    let (begin, begin_text, end) = next(validity)?;
    let (end, end_text, _) = next(end)?;
    let read = |tag, text| moment(tag, std::str::from_utf8(text).ok()?);
    Some((read(begin, begin_text)?, read(end, end_text)?))
}

fn expect(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, inside, rest) = next(bytes)?;
    (tag == wanted).then_some((inside, rest))
}

/// The first element: its tag, what is in it, and what comes after it.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (inside, rest) = rest.split_at_checked(length)?;
    Some((tag, inside, rest))
}

/// `YYMMDDHHMMSSZ`, or with the century.
fn moment(tag: u8, text: &str) -> Option<u64> {
    let digits = text.strip_suffix('Z').filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: u64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<u64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let seconds = part(4)? * 3600 + part(6)? * 60 + part(8)?;
    if year < 1970 || !(1..=12).contains(&month) || rest.len() != 10 {
        return None;
    }
    // Years begin in March, so that the odd day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    Some((days.checked_sub(719_469)?) * 86_400 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_counted_from_1970() {
        for (tag, text, seconds) in [
            (GENERALIZED_TIME, "19700101000000Z", Some(0)),
            (UTC_TIME, "700101000001Z", Some(1)),
            (UTC_TIME, "240229120000Z", Some(1_709_208_000)),
            (GENERALIZED_TIME, "20380119031408Z", Some(2_147_483_648)),
            (GENERALIZED_TIME, "20501231235959Z", Some(2_556_143_999)),
            (UTC_TIME, "2402291200Z", None),
            (UTC_TIME, "240229120000", None),
            (SEQUENCE, "240229120000Z", None),
        ] {
            assert_eq!(moment(tag, text), seconds, "{text}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for bytes in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x02\x30\x00", &[0x30, 0x80]] {
            assert_eq!(not_after(bytes), None, "{bytes:?}");
        }
    }
}
