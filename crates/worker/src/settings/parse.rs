//! Values as platforms write them.

use std::time::Duration;

/// A switch, as Go reads one.
pub fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// Bytes, as a [quantity](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/) of Kubernetes: `2Gi`, `1.5G`,
/// `500M`, `1e9`. What is no whole byte is rounded up, as there.
pub fn quantity(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no quantity of bytes, as in 10Gi, 500M or 1e9");
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') {
        return Err(wrong());
    }
    let (base, power) = suffix_of(suffix).ok_or_else(wrong)?;
    let part = part.trim_end_matches('0');
    let places = i32::try_from(part.len()).map_err(|_| wrong())?;
    let digits = format!("{whole}{part}");
    let mut value = match digits.trim_start_matches('0') {
        "" => 0,
        digits => digits.parse::<u128>().map_err(|_| wrong())?,
    };
    let large = || format!("{text} are more than {} bytes", u64::MAX);
    // The binary factor first, so that a half of a gibibyte is exact.
    value = value.checked_mul(base).ok_or_else(large)?;
    let power = power - places;
    for _ in 0..power.max(0) {
        value = value.checked_mul(10).ok_or_else(large)?;
    }
    let divisor = u32::try_from(-power.min(0)).ok().and_then(|power| 10_u128.checked_pow(power));
    // What is divided by more than fits is the smallest part of a byte.
    let value = divisor.map_or(u128::from(value > 0), |divisor| value.div_ceil(divisor));
    u64::try_from(value).map_err(|_| large())
}

/// Factor and power of ten of a suffix or an exponent.
fn suffix_of(suffix: &str) -> Option<(u128, i32)> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] =
        [("", 0), ("n", -9), ("u", -6), ("m", -3), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    if let Some(at) = BINARY.iter().position(|known| *known == suffix) {
        return Some((1 << (10 * (at + 1)), 0));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((1, *power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let power = exponent.strip_prefix('+').unwrap_or(exponent).parse::<i32>().ok()?;
    (-30..=30).contains(&power).then_some((1, power))
}

/// A time: `90s`, `17m`, `1h`, or seconds without a unit.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time, as in 90s, 17m or 1h");
    let (number, seconds) = match text.strip_suffix(['s', 'm', 'h']) {
        None => (text, 1),
        Some(number) if text.ends_with('s') => (number, 1),
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) => (number, 3600),
    };
    let number = number.parse::<u64>().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()));
    // A thousand years are for ever, and nothing that is computed from it overflows.
    let most = 1000 * 365 * 86_400;
    number
        .and_then(|number| number.checked_mul(seconds))
        .filter(|time| *time <= most)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// A part of a whole, from 0 up to and without 1, in millionths.
pub fn part(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no part of a whole, as in 0.06");
    let number: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.0..1.0).contains(&number) {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    let millionths = (number * 1e6).round() as u32;
    Ok(millionths.min(999_999))
}

/// A number.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that can be taken here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, bytes) in [
            ("0", 0),
            ("0.0", 0),
            ("4096", 4096),
            ("2Gi", 2 << 30),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("5.Ki", 5120),
            ("500M", 500_000_000),
            ("1k", 1000),
            ("1e9", 1_000_000_000),
            ("1E9", 1_000_000_000),
            ("12e+3", 12_000),
            ("1E", 1_000_000_000_000_000_000),
            ("1500m", 2),
            ("1001m", 2),
            ("1000m", 1),
            ("1n", 1),
            ("1.1", 2),
            ("1.000001Ki", 1025),
            ("10000000000e-9", 10),
            ("10000000001e-9", 11),
            ("0.3Gi", 322_122_548),
            ("15Ei", 15 << 60),
        ] {
            assert_eq!(quantity(text), Ok(bytes), "{text}");
        }
        for text in ["", ".", "1.2.3", "-1", "+1", "1 Gi", "1GiB", "1gi", "1K", "Gi", "1e", "1e99", "16Ei", "1x", "ten"]
        {
            assert!(quantity(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_values_are_what_they_look_like() {
        assert_eq!((switch("True"), switch("0")), (Ok(true), Ok(false)));
        assert!(switch("yes").is_err() && switch("tRUE").is_err());
        for (text, seconds) in [("90", 90), ("90s", 90), ("17m", 1020), ("1h", 3600)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "m", "1d", "-1s", "+1", "1.5h", "99999999999999h"] {
            assert!(span(text).is_err(), "{text}");
        }
        assert_eq!((part("0.06"), part("0"), part("0.055")), (Ok(60_000), Ok(0), Ok(55_000)));
        assert!(part("1").is_err() && part("-0.1").is_err() && part("six").is_err() && part("NaN").is_err());
    }
}
