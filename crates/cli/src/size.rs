//! Sizes as people write and read them: `10Gi` and `10GiB` are binary, `10G` and `10GB` decimal, as in Kubernetes.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, as an option takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

const PREFIXES: [&str; 6] = ["K", "M", "G", "T", "P", "E"];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err("expected a whole number and a unit, as in 10Gi (binary) or 10G (decimal)".into());
        }
        let factor = factor(unit).ok_or_else(|| {
            format!("unknown unit {unit:?}: known are Ki, Mi, Gi, Ti, Pi, Ei (binary), K, M, G, T, P, E (decimal)")
        })?;
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| format!("more than {} bytes", u64::MAX))
    }
}

/// Bytes in one `unit`. Case is not told apart: nobody means a millibyte by `10m`.
fn factor(unit: &str) -> Option<u64> {
    let upper = unit.to_ascii_uppercase();
    let prefix = upper.strip_suffix('B').unwrap_or(&upper);
    let (prefix, base) = match prefix.strip_suffix('I') {
        Some(binary) => (binary, 1024_u64),
        None if prefix.is_empty() => return Some(1),
        None => (prefix, 1000),
    };
    let power = PREFIXES.iter().position(|known| *known == prefix)?;
    base.checked_pow(u32::try_from(power).ok()? + 1)
}

impl fmt::Display for Size {
    /// Exact: in the largest binary unit that divides it, in a form that parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = (self.0.trailing_zeros() / 10).min(6);
        match prefix(power) {
            Some(prefix) if self.0 > 0 => write!(f, "{}{prefix}i", self.0 >> (10 * power)),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// The letter for 1024 or 1000 to the `power`.
fn prefix(power: u32) -> Option<&'static str> {
    PREFIXES.get(power.checked_sub(1)? as usize).copied()
}

/// `bytes` for the eye, with one decimal: `2.2 GiB`.
pub fn iec(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).min(6);
    let prefix = prefix(power).unwrap_or_default();
    let number = format!("{:.1}", bytes as f64 / (1_u64 << (10 * power)) as f64);
    format!("{} {prefix}iB", number.strip_suffix(".0").unwrap_or(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_kubernetes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("10Gi", 10 << 30),
            ("10GiB", 10 << 30),
            ("10gib", 10 << 30),
            ("10G", 10_000_000_000),
            ("10GB", 10_000_000_000),
            ("1K", 1000),
            ("15Ei", 15 << 60),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "G", "-1", "+1", "1.5G", "1 G", "10Q", "10i", "10iB", "10BB", "16Ei", "99999999999999999999", "1G1"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn defaults_are_shown_in_a_form_that_parses_back() {
        for (bytes, text) in [(0, "0"), (1000, "1000"), (64 << 40, "64Ti"), ((128 << 20) + (64 << 10), "131136Ki")] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
    }

    #[test]
    fn sizes_for_the_eye_have_one_decimal_where_it_says_something() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (65536, "64 KiB"), (2_361_393_152, "2.2 GiB"), (u64::MAX, "16 EiB")]
        {
            assert_eq!(iec(bytes), text);
        }
    }
}
