//! What programs read. Keys are those of `qemu-img info --output=json` where it has them.

use std::ffi::OsStr;

use diskferry::format::{Detail, ImageInfo};
use diskferry::{Error, Inspection, Report};
use diskferry_remote::Sandbox;
use diskferry_remote::escape;
use diskferry_remote::oci::{Copied, Pushed};
use serde_json::{Map, Value, json};

use crate::exit::Failure;

/// `value` as it is printed.
pub fn text(value: &Value) -> String {
    escape::for_json(&format!("{value:#}"))
}

/// What there is in a store, as it is printed: one image after the other, since a tree of all would take ten times the text.
pub fn store(store: &str, images: impl Iterator<Item = Value>) -> String {
    let image = |image: Value| format!("    {}", escape::for_json(&format!("{image:#}")).replace('\n', "\n    "));
    let images = images.map(image).collect::<Vec<_>>().join(",\n");
    let images = if images.is_empty() { images } else { format!("\n{images}\n  ") };
    format!("{{\n  \"images\": [{images}],\n  \"store\": {}\n}}", text(&json!(store)))
}

/// What `info` says.
pub fn inspection(source: &OsStr, inspection: &Inspection) -> Value {
    Value::Object(inspected(source, inspection))
}

/// What `info` says of a container image by its labels alone.
pub fn claimed(source: &OsStr, inspection: &Inspection) -> Value {
    let mut object = inspected(source, inspection);
    // Labels do not speak of wrappings.
    object.extend([("claimed".into(), json!(true)), ("compression".into(), Value::Null)]);
    Value::Object(object)
}

/// What `convert` and `info --full` say. Of an image that cannot be carried nothing has been read to the end, and nothing is said about that.
pub fn report(source: &OsStr, report: &Report) -> Value {
    let mut object = inspected(source, &report.inspection);
    if report.inspection.image.refusals.is_empty() {
        let digests = report.digests.iter().map(|sum| (sum.algorithm.to_string(), json!(sum.hex)));
        object.extend([
            ("allocated-size".into(), json!(report.allocated)),
            ("transferred".into(), json!(report.transferred)),
            ("spooled".into(), json!(report.spooled)),
            ("digests".into(), Value::Object(digests.collect())),
            ("seconds".into(), json!(report.elapsed.as_secs_f64())),
        ]);
    }
    Value::Object(object)
}

/// The same, with what confined the threads that have decoded.
pub fn within(mut report: Value, sandbox: &Sandbox) -> Value {
    if let Some(object) = report.as_object_mut() {
        object.insert("sandbox".into(), json!(sandbox.layers()));
    }
    report
}

/// What `push` says.
pub fn pushed(source: &OsStr, target: &OsStr, pushed: &Pushed) -> Value {
    let mut object = report(source, &pushed.report);
    if let Some(object) = object.as_object_mut() {
        object.extend([
            ("target".into(), json!(target.to_string_lossy())),
            ("layer-digest".into(), json!(pushed.layer.to_string())),
            ("manifest-digest".into(), json!(pushed.manifest.to_string())),
            ("uploaded".into(), json!(pushed.uploaded)),
            ("skipped".into(), json!(pushed.skipped)),
        ]);
    }
    object
}

/// What `copy` says.
pub fn copied(source: &OsStr, target: &OsStr, copied: &Copied) -> Value {
    json!({
        "source": source.to_string_lossy(),
        "target": target.to_string_lossy(),
        "manifest-digest": copied.digest.to_string(),
        "manifests": copied.documents,
        "blobs": copied.blobs,
        "size": copied.size,
        "uploaded": copied.uploaded,
        "skipped": copied.skipped,
        "mounted": copied.mounted,
    })
}

fn inspected(source: &OsStr, inspection: &Inspection) -> Map<String, Value> {
    let image = &inspection.image;
    let mut object = Map::from_iter([
        ("filename".into(), json!(source.to_string_lossy())),
        ("format".into(), json!(image.format)),
        ("virtual-size".into(), json!(image.virtual_size.or(inspection.unpacked_size))),
        ("compression".into(), json!(inspection.wrappings)),
        ("stored-size".into(), json!(inspection.stored_size)),
        ("unpacked-size".into(), json!(inspection.unpacked_size)),
        ("cdrom".into(), json!(image.cdrom)),
        ("warnings".into(), json!(image.warnings)),
        ("refusals".into(), refusals(image)),
    ]);
    let present = [
        ("cluster-size", image.cluster_size.map(Value::from)),
        ("backing-filename", image.backing.as_deref().map(Value::from)),
        ("format-specific", format_specific(image)),
    ];
    object.extend(present.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    object
}

fn refusals(image: &ImageInfo) -> Value {
    let refusals = image.refusals.iter();
    refusals
        .map(|refusal| json!({ "code": format!("{}-{}", image.format, refusal.code), "message": refusal.what }))
        .collect()
}

fn format_specific(image: &ImageInfo) -> Option<Value> {
    let data: Map<_, _> = image.details.iter().map(|(name, detail)| ((*name).to_owned(), value(detail))).collect();
    (!data.is_empty()).then(|| json!({ "type": image.format, "data": data }))
}

fn value(detail: &Detail) -> Value {
    match detail {
        Detail::Text(text) => json!(text),
        Detail::Number(number) => json!(number),
        Detail::Flag(flag) => json!(flag),
        Detail::List(names) => json!(names),
    }
}

/// Why there is no report.
pub fn error(failure: &Failure) -> Value {
    let mut object = Map::from_iter([
        ("kind".into(), json!(failure.kind_name())),
        ("code".into(), json!(failure.code())),
        ("message".into(), json!(failure.message())),
    ]);
    if let Failure::Job(error) = failure {
        object.extend(particulars(error).into_iter().map(|(key, value)| (key.to_owned(), value)));
    }
    json!({ "error": object })
}

/// What an error knows besides its text.
fn particulars(error: &Error) -> Vec<(&'static str, Value)> {
    match error {
        Error::Io { at: Some(at), .. } => vec![("at", json!(at))],
        Error::Corrupt { format, at, .. } => vec![("format", json!(format)), ("at", json!(at))],
        Error::Unsupported { format, .. } => vec![("format", json!(format))],
        Error::Limit { wanted, limit, option, .. } => {
            vec![("wanted", json!(wanted)), ("limit", json!(limit)), ("option", json!(option))]
        }
        Error::Mismatch { expected, found, .. } => vec![("expected", json!(expected)), ("found", json!(found))],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskferry::format::Refusal;

    fn hostile() -> Inspection {
        Inspection {
            image: ImageInfo {
                format: "qcow2",
                virtual_size: Some(1 << 30),
                cluster_size: Some(65536),
                backing: Some("\u{1b}]0;owned\u{7}base.qcow2".into()),
                refusals: vec![Refusal { code: "backing-file", what: "it has a backing file".into() }],
                details: vec![("compat", Detail::Text("1.1".into())), ("lazy-refcounts", Detail::Flag(false))],
                ..ImageInfo::default()
            },
            wrappings: vec!["xz"],
            stored_size: None,
            unpacked_size: Some(1 << 30),
        }
    }

    #[test]
    fn an_inspection_has_the_keys_of_qemu_img() {
        let value = inspection(OsStr::new("disk.qcow2.xz"), &hostile());
        let expected = json!({
            "filename": "disk.qcow2.xz", "format": "qcow2", "virtual-size": 1 << 30, "cluster-size": 65536,
            "backing-filename": "\u{1b}]0;owned\u{7}base.qcow2", "compression": ["xz"], "stored-size": null,
            "unpacked-size": 1 << 30, "cdrom": false, "warnings": [],
            "refusals": [{ "code": "qcow2-backing-file", "message": "it has a backing file" }],
            "format-specific": { "type": "qcow2", "data": { "compat": "1.1", "lazy-refcounts": false } },
        });
        assert_eq!(value, expected);
        assert!(!text(&value).contains('\u{1b}'));
    }

    #[test]
    fn what_is_not_there_has_no_key_and_what_is_not_known_is_null() {
        let value = inspection(OsStr::new("-"), &Inspection::default());
        assert!(value.get("backing-filename").is_none() && value.get("cluster-size").is_none());
        assert_eq!(value.get("unpacked-size"), Some(&Value::Null));
    }

    #[test]
    fn a_refused_image_has_no_figures_of_a_job() {
        let refused = Report { inspection: hostile(), ..Report::default() };
        assert!(report(OsStr::new("-"), &refused).get("allocated-size").is_none());
        assert_eq!(report(OsStr::new("-"), &Report::default()).get("allocated-size"), Some(&json!(0)));
    }

    #[test]
    fn an_error_says_what_it_knows() {
        let limit = Error::Limit { what: "bytes of L1 table", wanted: 2, limit: 1, option: "--limit-table" };
        let expected = json!({ "error": {
            "kind": "image", "code": "limit-table", "wanted": 2, "limit": 1, "option": "--limit-table",
            "message": "bytes of L1 table: 2 wanted, the limit is 1 (--limit-table)",
        }});
        assert_eq!(error(&Failure::Job(limit)), expected);
    }
}
