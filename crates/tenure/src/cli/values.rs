//! Values as people write them: keys, types, initiator ports, durations.

use scsi::pr::{Key, ReservationType};
use std::time::Duration;

/// A reservation key: up to 16 hex digits, with or without `0x`, as `sg_persist` reads them.
pub(super) fn key(text: &str) -> Result<Key, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let hex = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    match u64::from_str_radix(digits, 16) {
        Ok(key) if hex => Ok(Key(key)),
        _ => Err("a key has 1 to 16 hex digits, with or without 0x".into()),
    }
}

/// A reservation type by its code or by its usual short name; codes that the standard does not define pass,
/// because the device server is the one to reject them.
pub(super) fn any_type(text: &str) -> Result<ReservationType, String> {
    let code = || text.parse().ok().filter(|code| *code < 16).map(ReservationType);
    text.parse().ok().or_else(code).ok_or_else(|| TYPES.into())
}

/// One of the six types of the standard.
pub(super) fn valid_type(text: &str) -> Result<ReservationType, String> {
    any_type(text).ok().filter(|kind| kind.is_valid()).ok_or_else(|| TYPES.into())
}

const TYPES: &str = "the types are 1 (we), 3 (ea), 5 (we-ro), 6 (ea-ro), 7 (we-ar) and 8 (ea-ar)";

/// Seconds, with a fraction if wanted; `ms` and `s` may follow.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, scale) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds: f64 = digits.parse().map_err(|_| DURATION)?;
    Duration::try_from_secs_f64(seconds * scale)
        .ok()
        .filter(|duration| (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(duration))
        .ok_or_else(|| DURATION.into())
}

const DURATION: &str = "a duration is 1ms to 86400s, written as 30, 30s, 2.5 or 500ms";

/// An age: a whole number and `s`, `m`, `h` or `d`.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let split = |(unit, seconds): (char, u64)| Some((text.strip_suffix(unit)?, seconds));
    let (digits, unit) = UNITS.into_iter().find_map(split).unwrap_or(("", 1));
    let number: Option<u64> = digits.parse().ok();
    let seconds = number.and_then(|number| number.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(|| "an age is written as 30s, 10m, 2h or 7d".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        assert_eq!(age("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(age("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "h", "2", "-1h", "1.5h", "2w", "18446744073709551615d"] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_hexadecimal_with_or_without_prefix() {
        assert_eq!(key("0xA"), Ok(Key(10)));
        assert_eq!(key("10"), Ok(Key(16)));
        assert_eq!(key("ffffffffffffffff"), Ok(Key(u64::MAX)));
        for bad in ["", "0x", "+1", "g", "11112222333344445", "0x 1"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_have_codes_and_names() {
        assert_eq!(any_type("we-ro"), Ok(ReservationType(5)));
        assert_eq!(any_type("2"), Ok(ReservationType(2)));
        assert!(valid_type("2").is_err());
        assert_eq!(valid_type("8"), Ok(ReservationType(8)));
        assert!(any_type("16").is_err());
    }

    #[test]
    fn durations_are_bounded() {
        assert_eq!(duration("2.5"), Ok(Duration::from_millis(2500)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "inf", "nan", "1e9", "1h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
