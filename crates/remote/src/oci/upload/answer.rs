//! What a registry answers to whoever writes to it.

use std::fmt;
use std::time::Duration;

use diskferry::Error;
use diskferry::digest::Checksum;
use reqwest::header::{HeaderName, RANGE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::super::manifest;
use crate::failure::Failure;
use crate::http::refusal;
use crate::shown::Host;

/// Most bytes of an answer that are looked at for a reason.
const REASON: usize = 4 << 10;

/// How many bytes have arrived: `Range: 0-99` says a hundred. Nothing is `0-0`, which could also be one byte.
pub(super) fn offset(answer: &Response) -> Option<u64> {
    let range = header(answer, &RANGE)?;
    let range = range.strip_prefix("bytes=").unwrap_or(&range).to_owned();
    let last = range.split_once('-')?.1.parse::<u64>().ok()?;
    Some(if last == 0 { 0 } else { last.saturating_add(1) })
}

/// That what the registry has of the digest of a `what`, where it says it, is what we have.
pub(super) fn agrees(answer: &Response, digest: &Checksum, what: &str) -> Result<(), Failure> {
    match header(answer, &HeaderName::from_static("docker-content-digest")) {
        Some(found) if found != digest.to_string() => Err(Failure::never(Error::Mismatch {
            what: format!("digest of the {what}, as the registry has it,"),
            expected: digest.to_string(),
            found: manifest::short(&found),
        })),
        _ => Ok(()),
    }
}

pub(super) fn header(answer: &Response, name: &HeaderName) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.trim().to_owned())
}

/// What a registry says when it does not do what it is asked for.
#[derive(Deserialize)]
struct Reasons {
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: Value,
}

/// Why an answer is no success, with the registry's own reason if it gives one.
pub(super) async fn refused(mut answer: Response) -> Failure {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut failure = refusal(answer.status(), answer.headers());
    if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
        // Not now: registries are read-only while they collect their garbage.
        failure = Failure::later(failure.error);
    }
    let mut bytes = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = answer.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > REASON {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
    let reason = serde_json::from_slice::<Reasons>(&bytes).ok().and_then(|reasons| reasons.errors.into_iter().next());
    let Some(Reason { code, message, detail }) = reason else { return failure };
    if answer.status().is_server_error() && is_full(&detail) {
        // Controllers look for the host, the method and the number of the error.
        let what = format!(
            "the registry {} has no space left on its device (Err:{ENOSPC}), and takes no POST until there is some",
            Host(answer.url())
        );
        return Failure { error: Error::Target { code: "no-space", what }, again: failure.again };
    }
    if matches!(code.as_str(), "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN") {
        // It collects what no image names, and what is sent has no name yet.
        let what = manifest::short(&format!("the registry has lost what was sent to it: {code}: {message}"));
        return Failure::never(Error::Target { code: "upload-lost", what });
    }
    if let Error::Source { what, .. } = &mut failure.error {
        what.push_str(&manifest::short(&format!(": {code}: {message}")));
    }
    failure
}

/// What Linux says of a full device, and a registry that keeps its blobs in files repeats.
const ENOSPC: u64 = 28;

/// Whether what a registry says of an error of its own is that its device is full.
fn is_full(detail: &Value) -> bool {
    match detail {
        Value::Object(map) => map.get("Err").and_then(Value::as_u64) == Some(ENOSPC) || map.values().any(is_full),
        Value::Array(list) => list.iter().any(is_full),
        // Of a write that has failed there is only what Go says of it.
        Value::String(text) => text.ends_with("no space left on device"),
        _ => false,
    }
}

/// The same, of an upload that was begun, which the registry may have given up: Docker's does (2.8), when what it has is not as much as
/// stands in its own address of the upload.
pub(super) async fn given_up(answer: Response) -> Failure {
    let is_gone = matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::GONE);
    let failure = refused(answer).await;
    match failure.error {
        Error::Source { what, .. } if is_gone => {
            let what = format!("the registry has given up an upload that broke off: {what}");
            Failure::never(Error::Target { code: "upload-lost", what })
        }
        error => Failure { error, ..failure },
    }
}

/// A registry could have us keep more and more that way.
pub(super) fn untaken(host: &dyn fmt::Display) -> Error {
    Error::Target { code: "refused", what: format!("{host} says that it has bytes that it has not taken") }
}

/// An error of a server that is written to.
pub(super) fn target(error: Error) -> Error {
    let Error::Source { code, what, transient } = error else { return error };
    match code {
        "denied" | "credentials" | "proxy" => Error::Target { code: "denied", what },
        "forbidden-host" => Error::Target { code: "forbidden-host", what },
        "tls" => Error::Target { code: "tls", what },
        "unreachable" | "stalled" | "interrupted" => Error::Target { code: "unreachable", what },
        _ if transient => Error::Target { code: "busy", what },
        _ => Error::Target { code: "refused", what },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_of_a_server_that_is_written_to_are_those_of_a_target() {
        for (code, as_target) in [
            ("denied", "target-denied"),
            ("credentials", "target-denied"),
            ("proxy", "target-denied"),
            ("forbidden-host", "target-forbidden-host"),
            ("tls", "target-tls"),
            ("unreachable", "target-unreachable"),
            ("stalled", "target-unreachable"),
            ("interrupted", "target-unreachable"),
            ("http-status", "target-refused"),
            ("redirect", "target-refused"),
        ] {
            assert_eq!(target(Error::source(code, "")).code(), as_target);
        }
        assert_eq!(target(Error::source("http-status", "").for_now()).code(), "target-busy");
        assert_eq!(target(Error::Stopped).code(), "stopped");
    }

    #[test]
    fn a_registry_that_is_full_says_so_somewhere_within() {
        let detail = json!({ "DriverName": "filesystem", "Enclosed": { "Op": "mkdir", "Path": "/x", "Err": 28 } });
        assert!(is_full(&detail) && is_full(&json!([detail])));
        assert!(is_full(&json!("write /var/lib/registry/x/data: no space left on device")));
        for other in [json!(null), json!("Err:28"), json!({ "Err": 5 }), json!({ "Err": "28" })] {
            assert!(!is_full(&other), "{other}");
        }
    }
}
