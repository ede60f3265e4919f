use diskferry_testkit::vdi::Vdi;

use super::super::testing::{Bytes, code, every_way, open};
use super::*;

#[test]
fn a_format_is_told_by_its_content_from_a_file_and_from_a_pipe() {
    let mut disc = vec![0; 40 << 10];
    disc[32768..32774].copy_from_slice(b"\x01CD001");
    for (image, expected) in [(Vdi::qemu(4096).build().image, "vdi"), (disc, "iso"), (vec![0; 1024], "raw")] {
        for mut source in every_way(&image) {
            assert_eq!(detect(&mut source).unwrap().name, expected);
        }
    }
}

#[test]
fn what_is_not_carried_is_refused_when_it_is_opened_even_where_a_disc_follows() {
    let mut image = vec![0; 40 << 10];
    image[..8].copy_from_slice(b"conectix");
    image[32768..32774].copy_from_slice(b"\x01CD001");
    for mut source in every_way(&image) {
        let format = detect(&mut source).unwrap();
        assert_eq!(code(open(format, &mut source)), "vhd-not-carried");
    }
}

#[test]
fn nothing_is_left_to_raw_to_refuse() {
    assert_eq!(detect(&mut Bytes::file([])).unwrap().name, "raw");
}

#[test]
fn what_has_its_signature_at_the_beginning_is_told_by_little() {
    let image = [Vdi::qemu(4096).build().image, vec![0; 1 << 20]].concat();
    for mut source in every_way(&image) {
        assert_eq!(detect(&mut source).unwrap().name, "vdi");
        assert!(source.looked_at() <= NEAR as u64, "{}", source.looked_at());
    }
    for blank in [0, 100, NEAR - 100, NEAR, 10_000] {
        let head = [&vec![b' '; blank], &b"# Disk DescriptorFile\n"[..], &[b'\n'; HEAD]].concat();
        for format in FORMATS.iter().filter(|format| (format.head)(&[]) == NEAR) {
            assert_eq!((format.probe)(&head[..NEAR]), (format.probe)(&head[..HEAD]), "{}, {blank}", format.name);
        }
    }
}

#[test]
fn a_long_text_at_the_beginning_of_a_disk_makes_it_none() {
    let text = b"once upon a time\n".repeat(50_000);
    for (text, found) in [(&text[..], "text-not-carried"), (&text[..100_000], "no error")] {
        for mut source in every_way(&[text, &[0; 1 << 20]].concat()) {
            let format = detect(&mut source).unwrap();
            assert_eq!((format.name, &*code(open(format, &mut source))), ("raw", found));
        }
    }
}

#[test]
fn only_for_a_disc_that_speaks_of_udf_is_looked_far_ahead() {
    let mut disc = vec![0; 1 << 20];
    for (signature, reach, told) in [(b"\0NSR02", 524_290, "iso"), (b"\0NSR01", HEAD as u64, "raw")] {
        disc[34816..34822].copy_from_slice(signature);
        disc[524_288] = 2;
        for mut source in every_way(&disc) {
            assert_eq!((detect(&mut source).unwrap().name, source.looked_at()), (told, reach));
        }
    }
}

#[test]
fn no_two_formats_share_a_name() {
    for format in FORMATS {
        assert_eq!(by_name(format.name).unwrap().name, format.name);
        assert_eq!(FORMATS.iter().filter(|other| other.name == format.name).count(), 1);
    }
}
