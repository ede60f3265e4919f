//! What people read: lines on stderr, sizes, times.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use diskferry_remote::escape;

use crate::lines::Lines;

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

static STDERR: OnceLock<Option<Lines>> = OnceLock::new();

/// Tells people something, on one line of stderr. A log is shown in terminals, and what is told may be the text of a server or of an image.
pub fn say(text: &str) {
    let line = format!("diskferry-worker: {}", escape::for_people(text));
    match STDERR.get_or_init(|| Lines::start(io::stderr()).ok()) {
        Some(lines) => lines.leave(line),
        // There can be no thread. Where stderr is closed there is nobody to tell that it is.
        None => drop(writeln!(io::stderr().lock(), "{line}")),
    }
}

/// Waits until all that was told is written, for a second at most.
pub fn flush() {
    if let Some(Some(lines)) = STDERR.get() {
        lines.flush();
    }
}

/// `bytes` with one decimal, in binary units: `2.2 GiB`.
pub fn iec(bytes: u64) -> String {
    let power = bytes.checked_ilog2().unwrap_or(0) / 10;
    let Some(unit) = power.checked_sub(1).and_then(|at| UNITS.get(at as usize)) else { return format!("{bytes} B") };
    let number = format!("{:.1}", bytes as f64 / (1_u64 << (10 * power)) as f64);
    format!("{} {unit}", number.strip_suffix(".0").unwrap_or(&number))
}

/// `time` as [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339) has it, in UTC and to the second: `2026-01-31T23:59:59Z`. Times before
/// 1970 are shown as its beginning.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date that is so many days after 1970-01-01, counted in years that begin in March: a leap day is the last of one.
fn date(days: u64) -> (u64, u64, u64) {
    /// Days from 0000-03-01 to 1970-01-01, in 400 years, and in the five months from March to July that the others repeat.
    const EPOCH: u64 = 719_468;
    const ERA: u64 = 146_097;
    let days = days.saturating_add(EPOCH);
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn sizes_have_one_decimal_where_it_says_something() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (65536, "64 KiB"), (2_361_393_152, "2.2 GiB"), (u64::MAX, "16 EiB")]
        {
            assert_eq!(iec(bytes), text);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
