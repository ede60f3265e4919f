//! The board as Prometheus reads it, in its [text format](https://prometheus.io/docs/instrumenting/exposition_formats/).
//!
//! Controllers look for the first five with regular expressions, one label and no other; their names have no unit. Ours have.

use std::fmt::Write;

use crate::status::{Board, Phase};

const PHASES: [(Phase, &str); 8] = [
    (Phase::Pending, "Pending"),
    (Phase::WaitForUserUpload, "WaitForUserUpload"),
    (Phase::Provisioning, "Provisioning"),
    (Phase::Ready, "Ready"),
    (Phase::Failed, "Failed"),
    (Phase::Terminating, "Terminating"),
    (Phase::ImageLost, "ImageLost"),
    (Phase::PvcLost, "PVCLost"),
];

/// All metrics.
pub fn metrics(board: &Board) -> String {
    let now = board.snapshot();
    let mut page = Page { text: String::new(), owner: escape(board.owner()) };
    let average = now.average_speed;
    page.one("registry_progress", "gauge", "Percent of the image that have passed", now.percent);
    page.one("registry_average_speed", "gauge", "Bytes a second since the work has begun", average);
    page.one("registry_current_speed", "gauge", "Bytes a second in the last seconds", now.current_speed);
    page.one("kubevirt_cdi_import_progress_total", "counter", "Percent of the image that have passed", now.percent);
    page.one("diskferry_progress_ratio", "gauge", "Part of the image that has passed", now.percent / 100.0);
    if let Some(size) = now.stored_size {
        page.one("diskferry_stored_bytes", "gauge", "Length of the image as it is stored", size);
    }
    if let Some(size) = now.unpacked_size {
        page.one("diskferry_unpacked_bytes", "gauge", "Size of the disk in the image", size);
    }
    page.one(
        "diskferry_passed_bytes_total",
        "counter",
        "Bytes of the source that have passed, in all attempts",
        now.passed,
    );
    page.one("diskferry_average_bytes_per_second", "gauge", "Speed since the work has begun", average);
    page.one("diskferry_current_bytes_per_second", "gauge", "Speed in the last seconds", now.current_speed);
    page.one("diskferry_work_seconds", "gauge", "Time since the work has begun", now.seconds);
    page.one("diskferry_attempts_total", "counter", "Attempts that were begun", now.attempt);
    page.head("diskferry_phase", "gauge", "1 for the phase that the image is in");
    for (phase, name) in PHASES {
        let value = u8::from(phase == now.phase);
        let _ = writeln!(page.text, "diskferry_phase{{ownerUID=\"{}\",phase=\"{name}\"}} {value}", page.owner);
    }
    page.text
}

struct Page {
    text: String,
    owner: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.text, "{name}{{ownerUID=\"{}\"}} {value}", self.owner);
    }
}

/// The value of a label.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Facts, Outlets, Work};

    #[test]
    fn names_in_use_have_the_owner_as_their_only_label() {
        let board = Board::new("b856691e", Outlets::none(Work::Import));
        board.begin("").unwrap();
        board.measure(47_681, Some(100_000));
        board.learn(Facts { stored_size: Some(100_000), unpacked_size: Some(1 << 30), ..Facts::default() });
        let text = metrics(&board);
        for line in [
            "registry_progress{ownerUID=\"b856691e\"} 47.68",
            "kubevirt_cdi_import_progress_total{ownerUID=\"b856691e\"} 47.68",
            "diskferry_stored_bytes{ownerUID=\"b856691e\"} 100000",
            "diskferry_unpacked_bytes{ownerUID=\"b856691e\"} 1073741824",
            "diskferry_phase{ownerUID=\"b856691e\",phase=\"Provisioning\"} 1",
            "diskferry_phase{ownerUID=\"b856691e\",phase=\"Ready\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for name in ["registry_average_speed", "registry_current_speed"] {
            let start = format!("{name}{{ownerUID=\"b856691e\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
            assert!(value.parse::<u64>().unwrap() > 0, "{value}");
        }
        board.ready(Facts::default(), "").unwrap();
        assert!(metrics(&board).contains("registry_progress{ownerUID=\"b856691e\"} 100\n"));
    }

    #[test]
    fn every_line_is_one_that_prometheus_reads() {
        let board = Board::new("a\"b\\c\nd", Outlets::none(Work::Import));
        let text = metrics(&board);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = line.split_once('{').unwrap();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            assert!(labels.starts_with(r#"ownerUID="a\"b\\c\nd""#), "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
