use std::process::Command;

use diskferry_testkit::{Random, Scratch};

use super::super::detect::detect;
use super::super::testing::{Bytes, carry, code, every_way, open};
use super::*;

/// Runs a tool, which must succeed.
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A directory with a little in it, to be put on a disc.
fn tree(scratch: &Scratch) -> String {
    let tree = scratch.path("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("noise"), Random::new(1).bytes(700_000)).unwrap();
    tree.to_str().unwrap().to_owned()
}

fn made_by(program: &str, args: &[&str]) -> Vec<u8> {
    let scratch = Scratch::new();
    let (tree, iso) = (tree(&scratch), scratch.path("cd.iso"));
    let iso_name = iso.to_str().unwrap();
    run(program, &[args, &["-o", iso_name, &tree]].concat());
    std::fs::read(iso).unwrap()
}

fn udf(media: &str, block_size: &str) -> Vec<u8> {
    let scratch = Scratch::new();
    let path = scratch.path("udf");
    std::fs::File::create(&path).unwrap().set_len(4 << 20).unwrap();
    let name = path.to_str().unwrap();
    run("mkudffs", &["--media-type", media, "--blocksize", block_size, name]);
    std::fs::read(path).unwrap()
}

/// What is found in the image, which is carried as it is from a file and from pipes.
fn info(image: &[u8]) -> ImageInfo {
    for mut source in every_way(image) {
        let format = detect(&mut source).unwrap();
        assert!(carry(format, &mut source).unwrap() == image);
    }
    let mut source = Bytes::file(image);
    let format = detect(&mut source).unwrap();
    let opened = open(format, &mut source).unwrap();
    opened.info().clone()
}

fn detail(info: &ImageInfo, name: &str) -> Detail {
    info.details.iter().find(|(found, _)| *found == name).unwrap().1.clone()
}

fn flags(info: &ImageInfo) -> [bool; 3] {
    ["iso9660", "udf", "hybrid"].map(|name| detail(info, name) == Detail::Flag(true))
}

#[test]
fn plain_bridged_and_hybrid_discs_are_told_apart() {
    for (program, args, expected) in [
        ("genisoimage", &["-quiet", "-V", "DISC", "-R", "-J"][..], [true, false, false]),
        ("genisoimage", &["-quiet", "-V", "DISC", "-udf"], [true, true, false]),
        ("genisoimage", &["-quiet", "-V", "DISC", "-no-pad"], [true, false, false]),
        ("xorriso", &["-as", "mkisofs", "-quiet", "-V", "DISC"], [true, false, false]),
        ("xorriso", &["-as", "mkisofs", "-quiet", "-V", "DISC", "--protective-msdos-label"], [true, false, true]),
    ] {
        let image = made_by(program, args);
        let info = info(&image);
        assert_eq!((info.format, info.cdrom, flags(&info)), ("iso", true, expected), "{program} {args:?}");
        assert_eq!(detail(&info, "volume-label"), Detail::Text("DISC".into()));
        assert_eq!(info.virtual_size, Some(image.len() as u64));
        assert_eq!(info.warnings, [""; 0]);
    }
}

#[test]
fn udf_is_a_disc_by_its_sectors_and_a_disk_otherwise() {
    let dvd = info(&udf("dvdram", "2048"));
    assert_eq!((dvd.format, dvd.cdrom, flags(&dvd)), ("iso", true, [false, true, false]));
    let stick = info(&udf("hd", "512"));
    assert_eq!((stick.format, stick.cdrom, stick.warnings), ("raw", false, vec![]));
}

#[test]
fn rescue_images_of_a_distribution_are_hybrid_discs_even_for_floppies() {
    for name in ["cdrom.iso", "floppy.img"] {
        // Only where the package is installed.
        let Ok(image) = std::fs::read(format!("/usr/lib/grub-rescue/grub-rescue-{name}")) else { continue };
        let info = info(&image);
        assert_eq!((info.format, flags(&info), info.warnings), ("iso", [true, false, true], vec![]), "{name}");
    }
}

#[test]
fn a_disc_cut_short_is_an_error_unless_only_padding_is_missing() {
    let image = made_by("genisoimage", &["-quiet"]);
    let padding = usize::try_from(PADDING).unwrap();
    for (missing, expected) in [(1, "no error"), (padding, "no error"), (padding + 1, "iso-ends-early")] {
        let cut = &image[..image.len() - missing];
        for mut source in every_way(cut) {
            assert_eq!(code(carry(&ISO, &mut source)), expected, "{missing}");
        }
    }
    let short = &image[..image.len() - 2048];
    assert_eq!(info(short).warnings.len(), 1);
}

/// What was on a disk before it was partitioned may be larger than the disk that was copied.
#[test]
fn a_partitioned_disk_may_have_kept_a_part_of_a_disc() {
    let mut image = made_by("genisoimage", &["-quiet"]);
    let partition =
        |sectors: u32| [&[0, 0, 0, 0, 0x83, 0, 0, 0][..], &64_u32.to_le_bytes(), &sectors.to_le_bytes()].concat();
    let len = image.len() - usize::try_from(PADDING).unwrap() - 2048;
    let sectors = u32::try_from(len / 512 - 64).unwrap();
    for (sectors, expected) in [(sectors, "no error"), (sectors + 1, "iso-ends-early")] {
        image[446..462].copy_from_slice(&partition(sectors));
        image[510..512].copy_from_slice(b"\x55\xaa");
        for mut source in every_way(&image[..len]) {
            assert_eq!(code(carry(&ISO, &mut source)), expected);
        }
    }
}

#[test]
fn a_disc_cut_within_its_descriptors_is_no_disc() {
    let image = made_by("genisoimage", &["-quiet"]);
    let mut source = Bytes::file(&image[..DESCRIPTORS_AT + 100]);
    assert_eq!(code(open(&ISO, &mut source)), "iso-not-this-format");
}

#[test]
fn a_stated_disc_must_be_one() {
    assert_eq!(code(open(&ISO, &mut Bytes::file(vec![0; 1 << 20]))), "iso-not-this-format");
    assert_eq!(code(open(&ISO, &mut Bytes::pipe(vec![0; 100], 10))), "iso-not-this-format");
}

#[test]
fn a_volume_size_that_contradicts_itself_is_not_believed() {
    let mut image = made_by("genisoimage", &["-quiet"]);
    image[DESCRIPTORS_AT + 83] = 0x7f;
    assert_eq!(detail(&info(&image), "volume-size"), Detail::Number(0));
    image[DESCRIPTORS_AT + 84] = 0x7f;
    assert_eq!(code(open(&ISO, &mut Bytes::file(image))), "iso-ends-early");
}
