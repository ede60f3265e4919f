//! What a container image says of itself and of the disk image in it: the documents that are written.
//!
//! [Manifest](https://github.com/opencontainers/image-spec/blob/main/manifest.md) and
//! [configuration](https://github.com/opencontainers/image-spec/blob/main/config.md) of OCI: those of Docker have neither annotations nor
//! layers in zstd. Nothing in them says when or by whom, so that the same image gives the same digest.

use diskferry::Inspection;
use diskferry::digest::Checksum;
use serde_json::{Value, json};

use super::manifest::MANIFEST;
use super::push::{Form, Layer, Plan, Sent};

/// Types of what is written.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const PACKED_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// When everything was made.
const TIME: &str = "1970-01-01T00:00:00Z";

/// What is said of the file in the layer.
pub(super) struct Described {
    format: &'static str,
    stored_size: u64,
    unpacked_size: u64,
    cdrom: bool,
}

impl Described {
    /// What is to be said of an image of which that was stored.
    pub(super) fn of(found: &Inspection, form: Form) -> Self {
        let unpacked_size = found.unpacked_size.unwrap_or_default();
        let cdrom = found.image.cdrom;
        let (format, stored_size) = match form {
            Form::Stored => (found.image.format, found.stored_size.unwrap_or_default()),
            // The disk of an ISO image is that image.
            Form::Raw | Form::RawZstd => (if cdrom { found.image.format } else { "raw" }, unpacked_size),
        };
        Self { format, stored_size, unpacked_size, cdrom }
    }

    /// Labels by which platforms know what is in an image.
    fn labels(&self) -> Vec<(&'static str, String)> {
        vec![
            ("source-image-size", self.stored_size.to_string()),
            ("source-image-virtual-size", self.unpacked_size.to_string()),
            ("source-image-format", self.format.to_owned()),
        ]
    }
}

/// The configuration.
pub(super) fn config(plan: &Plan, found: &Described, diff: &Checksum) -> Value {
    let mut labels = found.labels();
    labels.push(("erofs-compatible-layers", "true".into()));
    let mut config = json!({
        "created": TIME,
        "config": { "Labels": object(labels), "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [diff.to_string()] },
        "history": [{ "created": TIME, "created_by": "diskferry push" }],
    });
    // os, architecture and variant.
    if let (Some(config), Ok(Value::Object(platform))) = (config.as_object_mut(), serde_json::to_value(&plan.platform))
    {
        config.extend(platform);
    }
    config
}

/// The manifest.
pub(super) fn image(plan: &Plan, found: &Described, layer: &Layer, config: &Sent) -> Value {
    let layer_type = if layer.form == Form::RawZstd { PACKED_LAYER } else { LAYER };
    let descriptor = |media_type: &str, blob: &Sent| json!({ "mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.size });
    let mut annotations = found.labels();
    annotations.extend([
        ("source-image-cdrom", found.cdrom.to_string()),
        ("org.opencontainers.image.title", plan.name.clone()),
        ("org.opencontainers.image.created", TIME.into()),
    ]);
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(layer_type, &layer.blob)],
        "annotations": object(annotations),
    })
}

fn object(pairs: Vec<(&'static str, String)>) -> Value {
    Value::Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value))).collect())
}
