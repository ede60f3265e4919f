//! The fuzzers' corpora, in everyday tests and with the fuzzers' own drivers: what once broke something does so no more.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests, and drivers of which not all is used"
)]

// A crate of their own, which these drivers come from, would need the network and a C++ compiler.
#[path = "../../../fuzz/src/archive.rs"]
mod archive;
#[path = "../../../fuzz/src/bent.rs"]
mod bent;
#[path = "../../../fuzz/src/descriptor.rs"]
mod descriptor;
#[path = "../../../fuzz/src/disk.rs"]
mod disk;
#[path = "../../../fuzz/src/image.rs"]
mod image;
#[path = "../../../fuzz/src/oracle.rs"]
mod oracle;
#[path = "../../../fuzz/src/same.rs"]
mod same;

use std::fs;
use std::path::Path;

/// Targets of other crates, whose drivers need a network: `scripts/fuzz` replays their corpora.
const ELSEWHERE: [&str; 3] = ["answers", "registry", "upload"];

#[test]
fn every_seed_of_every_target_is_read_or_refused() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut replayed = 0;
    for corpus in fs::read_dir(corpora).unwrap().map(|entry| entry.unwrap().path()) {
        let target = corpus.file_name().unwrap().to_str().unwrap();
        if ELSEWHERE.contains(&target) {
            continue;
        }
        for seed in fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()) {
            // Shown when something below panics.
            println!("{}", seed.display());
            run(target, &fs::read(&seed).unwrap());
            replayed += 1;
        }
    }
    assert!(replayed >= 75, "only {replayed} seeds");
}

#[test]
fn every_image_of_testdata_is_read_or_refused_by_the_targets_that_start_from_it() {
    // Of a wrapping, those whose names say so; with the size of chunks in front, as scripts/fuzz puts it there.
    const WRAPPINGS: [(&str, &str, usize); 4] =
        [("gzip", "gz", 7), ("xz", "xz", 5), ("zstd", "zst", 1), ("bzip2", "bz2", 2)];
    const CHUNK: u8 = 5;
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let files = fs::read_dir(testdata).unwrap().map(|entry| entry.unwrap().path());
    let images: Vec<_> = files.filter(|path| !path.ends_with("INDEX.toml")).collect();
    assert!(images.len() >= 25, "only {images:?}");
    for image in &images {
        println!("{}", image.display());
        let bytes = fs::read(image).unwrap();
        for target in ["detect", "convert", "qcow2", "vmdk", "vdi", "raw"] {
            run(target, &bytes);
        }
        run("same", &[&[CHUNK], &bytes[..]].concat());
    }
    for (target, end, least) in WRAPPINGS {
        let wrapped: Vec<_> = images.iter().filter(|image| image.to_str().unwrap().ends_with(end)).collect();
        assert!(wrapped.len() >= least, "only {wrapped:?} for {target}");
        for image in wrapped {
            println!("{} of {target}", image.display());
            run(target, &[&[CHUNK], &fs::read(image).unwrap()[..]].concat());
        }
    }
    let descriptor = images.iter().find(|image| image.ends_with("flat.vmdk")).unwrap();
    run("descriptor", &fs::read(descriptor).unwrap());
}

/// What `fuzz/fuzz_targets` does with an input.
fn run(target: &str, input: &[u8]) {
    match target {
        "archive" => archive::archive(input),
        "convert" => same::carried(input),
        "descriptor" => descriptor::descriptor(input),
        "detect" => image::detect(input),
        "oracle" => oracle::oracle(input),
        "qcow2" => image::stated(input, "qcow2", &[]),
        "vdi" => image::stated(input, "vdi", &[]),
        "vmdk" => image::stated(input, "vmdk", &[]),
        "raw" => {
            image::stated(input, "raw", &[]);
            image::stated(input, "iso", &[]);
        }
        "same" => same::same(input, None),
        "bent-qcow2" => bent::bent(input, "qcow2"),
        "bent-vdi" => bent::bent(input, "vdi"),
        "bent-vmdk" => bent::bent(input, "vmdk"),
        "gzip" | "xz" | "zstd" | "bzip2" => same::same(input, Some(&format!("raw.{target}"))),
        _ => panic!("what does the target {target} do? say it here, or put it among those of other crates"),
    }
}
