//! What people read.

use std::fmt::Display;

use diskferry::format::Detail;
use diskferry::{Inspection, Report};
use diskferry_remote::escape;
use diskferry_remote::oci::{Copied, Pushed};

use crate::size::iec;

/// Names and values under each other, values aligned.
#[derive(Default)]
struct Table(Vec<(String, String)>);

impl Table {
    fn row(&mut self, name: &str, value: impl Display) {
        self.0.push((format!("{}:", escape::for_people(name)), escape::for_people(&value.to_string())));
    }

    fn row_if(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.row(name, value);
        }
    }

    fn text(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        let lines = self.0.iter().map(|(name, value)| format!("{name:width$}  {value}"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// What `info` says.
pub fn inspection(inspection: &Inspection) -> String {
    inspected(inspection).text()
}

/// What `info` says of a container image by its labels alone, which do not speak of wrappings.
pub fn claimed(inspection: &Inspection) -> String {
    let mut table = Table::default();
    table.row("format", inspection.image.format);
    table.row("unpacked size", known(inspection.unpacked_size));
    table.row("stored size", known(inspection.stored_size));
    table.row_if("cdrom", inspection.image.cdrom.then_some("yes"));
    table.row("claimed", "yes, by labels of the container image");
    table.text()
}

/// What `info --full` says. Of an image that cannot be carried nothing has been read to the end.
pub fn report(report: &Report) -> String {
    let mut table = inspected(&report.inspection);
    if report.inspection.image.refusals.is_empty() {
        table.row("allocated size", bytes(report.allocated));
        table.row("transferred", bytes(report.transferred));
        table.row("spooled", bytes(report.spooled));
        for sum in &report.digests {
            table.row(&sum.algorithm.to_string(), &sum.hex);
        }
    }
    table.text()
}

/// What a finished conversion says, on one line.
pub fn summary(report: &Report) -> String {
    let unpacked = report.inspection.unpacked_size.unwrap_or_default();
    let image = &report.inspection.image;
    let wrappings: String = report.inspection.wrappings.iter().rev().map(|name| format!(" in {name}")).collect();
    format!(
        "{}, of which {} data, from {} of {}{wrappings} in {:.1} s",
        bytes(unpacked),
        iec(report.allocated),
        iec(report.transferred),
        image.format,
        report.elapsed.as_secs_f64(),
    )
}

/// What a finished push says, on one line.
pub fn pushed(pushed: &Pushed) -> String {
    let found = &pushed.report.inspection;
    let wrappings: String = found.wrappings.iter().rev().map(|name| format!(" in {name}")).collect();
    format!(
        "{} of {}{wrappings}, unpacked {}, as {} in {:.1} s",
        bytes(found.stored_size.unwrap_or_default()),
        found.image.format,
        iec(found.unpacked_size.unwrap_or_default()),
        pushed.manifest,
        pushed.report.elapsed.as_secs_f64(),
    )
}

/// What a finished copy says, on one line.
pub fn copied(copied: &Copied) -> String {
    format!(
        "{}: {} manifests, {} blobs, {}, of which {} were sent",
        copied.digest,
        copied.documents,
        copied.blobs,
        iec(copied.size),
        iec(copied.uploaded),
    )
}

fn inspected(inspection: &Inspection) -> Table {
    let image = &inspection.image;
    let mut table = Table::default();
    table.row("format", image.format);
    let wrappings = inspection.wrappings.join(", then ");
    table.row("compression", if wrappings.is_empty() { "none" } else { &wrappings });
    match inspection.unpacked_size {
        None if !image.refusals.is_empty() => table.row("unpacked size", "unknown"),
        size => table.row("unpacked size", known(size)),
    }
    table.row("stored size", known(inspection.stored_size));
    table.row_if("cluster size", image.cluster_size.map(bytes));
    table.row_if("cdrom", image.cdrom.then_some("yes"));
    table.row_if("backing file", image.backing.as_ref());
    for (name, detail) in &image.details {
        for value in values(detail) {
            table.row(name, value);
        }
    }
    for refusal in &image.refusals {
        table.row("not convertible", &refusal.what);
    }
    table
}

fn values(detail: &Detail) -> Vec<String> {
    match detail {
        Detail::Text(text) => vec![text.clone()],
        Detail::Number(number) => vec![number.to_string()],
        Detail::Flag(flag) => vec![if *flag { "yes" } else { "no" }.into()],
        Detail::List(names) => names.clone(),
    }
}

fn known(size: Option<u64>) -> String {
    size.map_or_else(|| "unknown until read to the end (--full does)".into(), bytes)
}

fn bytes(count: u64) -> String {
    format!("{count} bytes ({})", iec(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diskferry::format::{ImageInfo, Refusal};
    use std::time::Duration;

    #[test]
    fn values_are_aligned_and_sizes_given_both_ways() {
        let found = Inspection {
            image: ImageInfo { format: "qcow2", cluster_size: Some(65536), ..ImageInfo::default() },
            wrappings: vec!["xz"],
            stored_size: None,
            unpacked_size: Some(2_361_393_152),
        };
        let expected = "\
format:         qcow2
compression:    xz
unpacked size:  2361393152 bytes (2.2 GiB)
stored size:    unknown until read to the end (--full does)
cluster size:   65536 bytes (64 KiB)";
        assert_eq!(inspection(&found), expected);
    }

    #[test]
    fn of_what_is_refused_nothing_more_can_be_found_out() {
        let image = ImageInfo {
            format: "vmdk",
            refusals: vec![Refusal { code: "descriptor-only", what: "no data".into() }],
            details: vec![("extents", Detail::List(vec!["a.vmdk".into(), "\u{1b}[2J\nb.vmdk".into()]))],
            ..ImageInfo::default()
        };
        let found = Inspection { image, stored_size: Some(300), ..Inspection::default() };
        let expected = "\
format:           vmdk
compression:      none
unpacked size:    unknown
stored size:      300 bytes (300 B)
extents:          a.vmdk
extents:          \\u{1b}[2J\\nb.vmdk
not convertible:  no data";
        assert_eq!(inspection(&found), expected);
    }

    #[test]
    fn names_from_an_image_cannot_write_to_the_terminal() {
        let image = ImageInfo {
            backing: Some("\u{1b}[2Jbase\nformat: raw".into()),
            refusals: vec![Refusal { code: "backing-file", what: "it wants \u{1b}[2Jbase".into() }],
            ..ImageInfo::default()
        };
        let text = inspection(&Inspection { image, ..Inspection::default() });
        assert!(text.contains("\\u{1b}[2Jbase\\nformat: raw") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_summary_names_the_image_with_its_wrappings() {
        let report = Report {
            inspection: Inspection {
                image: ImageInfo { format: "qcow2", ..ImageInfo::default() },
                wrappings: vec!["gzip", "xz"],
                stored_size: Some(10 << 20),
                unpacked_size: Some(1 << 30),
            },
            allocated: 96 << 20,
            transferred: 10 << 20,
            elapsed: Duration::from_millis(1540),
            ..Report::default()
        };
        let expected = "1073741824 bytes (1 GiB), of which 96 MiB data, from 10 MiB of qcow2 in xz in gzip in 1.5 s";
        assert_eq!(summary(&report), expected);
    }
}
