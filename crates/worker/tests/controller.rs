//! A controller that was written for the importers of Deckhouse, and one that was written for CDI's: what they read of a pod, they find.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;

use common::{Ended, Pod};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::nginx::{Nginx, Origin};
use diskferry_testkit::serve::registry::Registry;
use serde::Deserialize;

/// What Deckhouse's controller takes out of a termination message: numbers are unsigned, what is missing is nothing.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", default)]
struct Report {
    source_image_size: u64,
    source_image_virtual_size: u64,
    source_image_format: String,
    duration: i64,
    average_speed: u64,
    error_message: String,
}

/// What CDI's takes.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Message {
    scratch_space_required: Option<bool>,
    preallocation_applied: Option<bool>,
    deadline_passed: Option<bool>,
    message: Option<String>,
}

/// How the controller sees a pod.
#[derive(Debug, PartialEq, Eq)]
enum Pods {
    /// With stored and unpacked size, and whether it is a CD-ROM.
    Succeeded(u64, u64, bool),
    /// It is not started again.
    Verdict(String),
    /// It is started again.
    Failed,
}

fn deckhouse(ended: &Ended) -> Pods {
    let report: Report = serde_json::from_value(ended.termination.clone()).unwrap();
    match (report.error_message.is_empty(), ended.code) {
        (false, code) => {
            // Of a pod that has succeeded it reads the sizes, whatever else is said.
            assert_ne!(code, Some(0));
            Pods::Verdict(report.error_message)
        }
        (true, Some(0)) => {
            assert!(report.duration > 0 && report.average_speed > 0, "{report:?}");
            let cdrom = report.source_image_format == "iso";
            Pods::Succeeded(report.source_image_size, report.source_image_virtual_size, cdrom)
        }
        (true, _) => Pods::Failed,
    }
}

fn cdi(ended: &Ended) -> Message {
    serde_json::from_value(ended.termination.clone()).unwrap()
}

#[test]
fn controllers_find_what_they_look_for() {
    let image = Qcow2::new(8 << 20).fill(1).build().image;
    let cd = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/cd.iso");
    let cd = fs::read(cd).unwrap();
    let (nginx, registry) = (Nginx::new().start(), Registry::default().start());
    for (name, bytes) in [("debian.qcow2", &image), ("cd.iso", &cd), ("half.qcow2", &image[..image.len() / 2].to_vec())]
    {
        fs::write(nginx.root().join(name), bytes).unwrap();
    }
    let import = |name: &str| {
        let url = nginx.url(Origin::Plain, &format!("/{name}"));
        let endpoint = format!("{}/cvi/{}:uid", registry.host(), name.replace('.', "-"));
        // As its pods are made.
        Pod::new(&[
            ("IMPORTER_SOURCE", "http"),
            ("IMPORTER_ENDPOINT", &url),
            ("IMPORTER_CONTENTTYPE", ""),
            ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
            ("INSECURE_TLS", "false"),
            ("DESTINATION_INSECURE_TLS", "true"),
        ])
        .import()
    };
    let (debian, iso, half, none) = (import("debian.qcow2"), import("cd.iso"), import("half.qcow2"), import("none"));
    let length = |bytes: &[u8]| bytes.len() as u64;
    assert_eq!(deckhouse(&debian), Pods::Succeeded(length(&image), 8 << 20, false));
    assert_eq!(deckhouse(&iso), Pods::Succeeded(length(&cd), length(&cd), true));
    assert!(matches!(deckhouse(&half), Pods::Verdict(why) if why.starts_with("qcow2: ")));
    assert!(matches!(deckhouse(&none), Pods::Verdict(why) if why.contains("404")));

    let good = cdi(&debian);
    assert_eq!((good.message.as_deref(), good.scratch_space_required), (Some("Import Complete"), Some(false)));
    assert_eq!((good.preallocation_applied, good.deadline_passed), (Some(false), None));
    assert!(cdi(&half).message.unwrap().starts_with("Unable to process data: qcow2: "));
}
