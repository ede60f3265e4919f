//! The same image is the same disk or the same error, however often it is carried and by however many threads.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{carry, from_file, from_pipe};
use diskferry::digest::Algorithm;
use diskferry::{Limits, Options};
use diskferry_testkit::hostile::subjects;
use diskferry_testkit::oracle::Scratch;

/// The disk's bytes and what is reported of them, or the code of the error.
fn outcome(image: &Path, open: fn(&Path) -> diskferry::Input, threads: usize) -> Result<(Vec<u8>, u64), String> {
    let scratch = Scratch::new();
    let target = scratch.path("disk.raw");
    let limits = Limits { virtual_size: 64 << 20, ..Limits::default() };
    let options = Options { limits, threads, digests: vec![Algorithm::Sha256], ..Options::default() };
    let report = carry(open(image), &target, &options).map_err(|error| error.code())?;
    Ok((fs::read(target).unwrap(), report.allocated))
}

fn assert_repeatable(image: &Path, name: &str) -> bool {
    let mut carried = false;
    for open in [from_file as fn(&Path) -> _, from_pipe] {
        let first = outcome(image, open, 1);
        for threads in [1, 2, 8, 8] {
            let again = outcome(image, open, threads);
            assert!(again == first, "{name}, {threads} threads: {:?}, not {:?}", again.map(drop), first.map(drop));
        }
        carried = first.is_ok();
    }
    carried
}

#[test]
fn images_of_testdata() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let images: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let carried = images.iter().filter(|image| assert_repeatable(image, &image.display().to_string())).count();
    assert!(carried > 10 && images.len() - carried > 5, "{carried} of {}", images.len());
}

#[test]
fn bent_images() {
    /// All of them are judged elsewhere.
    const ONE_OF: usize = 53;
    let scratch = Scratch::new();
    let (mut seen, mut carried) = (0, 0);
    for subject in ["qcow2", "vdi", "vmdk"].into_iter().flat_map(subjects) {
        for variant in subject.variants().step_by(ONE_OF) {
            seen += 1;
            carried += usize::from(assert_repeatable(&scratch.write("image", &variant.image), &variant.name));
        }
    }
    assert!(carried > 3 && seen - carried > 10, "{carried} of {seen}");
}

#[test]
fn an_image_that_is_damaged_in_several_places() {
    use diskferry_testkit::field::poke;
    use diskferry_testkit::qcow2::{Cluster, Qcow2, field};
    let mut image = Qcow2 { cluster_bits: 12, ..Qcow2::new(16 << 20) };
    image.clusters = (0..4096).map(|n: u64| (n, Cluster::Packed(vec![n.to_le_bytes()[0]; 4096]))).collect();
    let mut built = image.build();
    // Damage that a worker finds, and behind it some that the reader finds.
    let packed = usize::try_from(built.clusters[&100]).unwrap();
    built.image[packed..packed + 8].fill(0xff);
    let last = field::entry(built.l2[&7], 511);
    poke(&mut built.image, last, field::PACKED | 1 << 40);
    let scratch = Scratch::new();
    let path = scratch.write("image", &built.image);
    for _ in 0..5 {
        assert!(!assert_repeatable(&path, "two damages"));
    }
    assert_eq!(outcome(&path, from_file, 8).unwrap_err(), "qcow2-packed-data");
}
