//! The page for a person: one file without anything from elsewhere, and a policy under which no other script runs.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diskferry::digest::{Algorithm, Digester};

/// The page.
pub const HTML: &str = include_str!("page.html");

/// What a browser may do on it, as [CSP](https://www.w3.org/TR/CSP3/) says it: run the script and the style that are in it, and talk to where
/// it is from.
pub fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            hash(inside("script")),
            hash(inside("style"))
        )
    });
    &POLICY
}

fn inside(tag: &str) -> &'static str {
    let (_, rest) = HTML.split_once(&format!("<{tag}>")).unwrap_or_default();
    rest.split_once(&format!("</{tag}>")).map_or("", |(text, _)| text)
}

fn hash(text: &str) -> String {
    let mut digester = Digester::new([Algorithm::Sha256]);
    digester.update(text.as_bytes());
    let hex = digester.finish().into_iter().next().map(|sum| sum.hex).unwrap_or_default();
    let byte = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    STANDARD.encode((0..hex.len()).step_by(2).filter_map(byte).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_has_the_hashes_of_what_is_in_the_page() {
        assert!(inside("script").contains("upload-offset") && inside("style").contains("body"));
        assert_eq!(hash("abc"), "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
        assert!(policy().contains(&hash(inside("script"))) && !HTML.contains("http"), "nothing from elsewhere");
        assert!(!HTML.contains(" style=") && !HTML.contains(" onclick="), "the policy would stop it");
    }
}
