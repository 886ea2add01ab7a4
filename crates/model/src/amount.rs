//! Amounts of memory as people write them: `512MiB`, `2 GB`. Whole numbers alone, so that no amount is rounded to something else.

/// Parses an amount in bytes: a whole number, alone or with a unit, such as `512MiB` or `2 GB`. Units are the powers of 1024 of
/// IEC 80000-13 (`KiB` to `TiB`, or `K` to `T`) and the powers of 1000 (`KB` to `TB`), in any case.
///
/// ```
/// assert_eq!(model::parse_bytes("512MiB"), Ok(536_870_912));
/// assert_eq!(model::parse_bytes("2 GB"), Ok(2_000_000_000));
/// assert!(model::parse_bytes("1.5GiB").is_err(), "whole numbers only");
/// ```
///
/// # Errors
/// The text is something else, or means more than 2⁶⁴−1 bytes. The message quotes it and says what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected bytes, or a number with KiB, MiB, GiB, KB, MB or GB, got {text:?}");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_with_or_without_a_unit() {
        for (text, bytes) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("512MiB", Some(512 << 20)),
            ("2 GB", Some(2_000_000_000)),
            ("1t", Some(1 << 40)),
            ("1x", None),
            ("MiB", None),
            ("", None),
            ("-1", None),
            ("1.5GiB", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(parse_bytes(text).ok(), bytes, "{text:?}");
            assert!(parse_bytes(text).err().is_none_or(|error| error.contains(&format!("{text:?}"))));
        }
    }
}
