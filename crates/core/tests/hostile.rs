//! Images that lie: what is carried is what qemu-img reads of the same lie, all else is refused as an image's fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::judge::{Judge, Verdict, is_known};
use common::refusal;
use diskferry::Options;
use diskferry_testkit::hostile::{subjects, tiny_subjects};
use diskferry_testkit::{Random, wrap};

#[test]
fn a_bent_qcow2_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("qcow2", 800);
}

#[test]
fn a_bent_vdi_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("vdi", 300);
}

#[test]
fn a_bent_vmdk_is_read_as_qemu_reads_it_or_refused() {
    assert_all_judged("vmdk", 800);
}

/// `at_least`: so that the generator cannot shrink unseen.
fn assert_all_judged(format: &str, at_least: usize) {
    let (mut seen, mut carried, mut known, mut wrong) = (0, 0, 0, Vec::new());
    let court = Judge::new();
    for subject in subjects(format) {
        for variant in subject.variants() {
            // Shown when something below panics.
            println!("{}", variant.name);
            seen += 1;
            match court.judge(format, &variant.image) {
                Ok(verdict) => carried += usize::from(matches!(verdict, Verdict::Carried { .. })),
                Err(why) if is_known(&variant.name, &why) => known += 1,
                Err(why) => wrong.push(format!("{}: {why}", variant.name)),
            }
        }
    }
    println!(
        "{seen} bent images of {format}: {carried} carried as qemu-img does, {known} not for a reason, the rest refused"
    );
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen >= at_least, "only {seen} variants");
}

#[test]
fn a_head_that_is_cut_short_is_of_its_format_and_no_raw_disk() {
    let gzip = wrap::gzip(&Random::new(1).bytes(5000));
    let xz = wrap::xz(&Random::new(1).bytes(5000), &[]);
    let zstd = wrap::zstd(&Random::new(1).bytes(5000), &[]);
    let images = ["qcow2", "vdi", "vmdk"].map(|format| (format, tiny_subjects(format).remove(0).image));
    // From how many bytes on it can be told: the magic, and of a VDI the beginning of the text in front of it.
    let images = images.into_iter().zip([4, 4, 4]).map(|((format, image), from)| (format, image, from));
    for (format, image, from) in images.chain([("gzip", gzip, 3), ("xz", xz, 6), ("zstd", zstd, 4)]) {
        for len in (from..64).chain([72, 103, 104, 400, 511]) {
            let code = refusal(&image[..len], &Options::default()).code();
            assert!(code.starts_with(format), "{len} bytes of {format}: {code}");
        }
    }
}
