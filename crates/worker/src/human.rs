//! What people read: lines on stderr, sizes, times.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use diskferry_remote::escape;
use jiff::Timestamp;

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

/// `time` as [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339) has it, in UTC and to the second: `2026-01-31T23:59:59Z`. What a calendar
/// has no year for is shown as its end.
pub fn rfc3339(time: SystemTime) -> String {
    let moment = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    format!("{moment:.0}")
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
        for (seconds, text) in
            [(0, "1970-01-01T00:00:00Z"), (1_709_210_096, "2024-02-29T12:34:56Z"), (1 << 40, "9999-12-30T22:00:00Z")]
        {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(999);
            assert_eq!(rfc3339(time), text);
        }
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31T23:59:59Z");
    }
}
