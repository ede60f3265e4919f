//! Text from an image, a server or a file name, made safe to print: a backing file's name can hold terminal commands.

use std::fmt::Write;

use diskferry::error::is_command;
use serde::Serialize;

/// `text` on one line, with everything that a terminal would obey shown as an escape.
pub fn for_people(text: &str) -> String {
    replace(text, |c, out| out.extend(c.escape_default()))
}

/// JSON `text` with the same characters as `\u` escapes, which parse back to what they were. JSON itself allows some of them in strings.
pub fn for_json(text: &str) -> String {
    replace(text, |c, out| {
        if c == '\n' {
            out.push(c);
        } else {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
    })
}

/// `value` as one line of JSON, with the same escapes. What cannot be JSON is an empty line.
pub fn json_line(value: &impl Serialize) -> String {
    for_json(&serde_json::to_string(value).unwrap_or_default())
}

fn replace(text: &str, mut escape: impl FnMut(char, &mut String)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) { escape(c, &mut out) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_commands_are_shown_not_obeyed() {
        assert_eq!(for_people("a\u{1b}[2J\n\u{9b}1m\u{202e}ö"), "a\\u{1b}[2J\\n\\u{9b}1m\\u{202e}ö");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "name": "a\u{7f}\u{9b}\u{1b}\n\u{202e}ö" });
        let escaped = for_json(&format!("{value:#}"));
        assert!(escaped.contains("\\u009b") && escaped.contains("\\u007f") && escaped.contains('\n'), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
