//! `diskferry verify`.

use diskferry::{Error, Kind, Progress};
use diskferry_remote::escape;
use diskferry_remote::oci::stock::{Stock, Verdict};
use serde_json::json;

use crate::args::VerifyArgs;
use crate::exit::Failure;
use crate::size::iec;
use crate::{json, output, signals};

/// Reads the images of a store, and says which are not whole.
pub fn run(args: VerifyArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    let verify = |stock: &Stock| stock.verify(args.image.as_deref(), &progress);
    let verdicts = args.dealing.during(&args.store.store, &progress, verify)?;
    let text = if args.store.json {
        json::store(&args.store.store.to_string(), verdicts.iter().map(object))
    } else if verdicts.is_empty() {
        "no images".to_owned()
    } else {
        verdicts.iter().map(lines).collect::<Vec<_>>().join("\n")
    };
    output::result(&text)?;
    let bad: Vec<_> = verdicts.iter().filter(|verdict| !verdict.findings.is_empty()).collect();
    let worst = bad.iter().flat_map(|verdict| &verdict.findings).max_by_key(|finding| weight(&finding.error));
    match worst {
        None => Ok(()),
        Some(worst) => {
            let what = format!("{} of {} images are not whole", bad.len(), verdicts.len());
            Err(Failure::Found(what, worst.error.kind()))
        }
    }
}

/// What was damaged weighs more than what is not there: it may be used and do harm.
fn weight(error: &Error) -> u8 {
    match error.kind() {
        Kind::Mismatch => 3,
        Kind::Image => 2,
        _ => 1,
    }
}

fn object(verdict: &Verdict) -> serde_json::Value {
    let findings: Vec<_> = verdict
        .findings
        .iter()
        .map(|finding| {
            json!({ "digest": finding.digest, "code": finding.error.code(), "message": finding.error.to_string() })
        })
        .collect();
    json!({
        "name": verdict.name, "digest": verdict.digest, "size": verdict.size, "whole": findings.is_empty(),
        "findings": findings,
    })
}

fn lines(verdict: &Verdict) -> String {
    let name = escape::for_people(&verdict.name);
    if verdict.findings.is_empty() {
        return format!("{name}: whole, {}", iec(verdict.size));
    }
    let line = |finding: &diskferry_remote::oci::stock::Finding| {
        let part = finding.digest.as_deref().unwrap_or("manifest");
        let what = format!("{}: {part}: {}", finding.error.code(), finding.error);
        format!("{name}: {}", escape::for_people(&what))
    };
    verdict.findings.iter().map(line).collect::<Vec<_>>().join("\n")
}
