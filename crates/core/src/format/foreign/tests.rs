use std::collections::BTreeMap;

use diskferry_testkit::Random;

use super::*;

fn name(head: &[u8]) -> Option<&'static str> {
    recognise(head).map(|foreign| foreign.format)
}

/// What a file of this kind might be: its magic in noise.
fn signed(at: usize, magic: &[u8]) -> Vec<u8> {
    let mut head = Random::new(7).bytes(4096);
    head[at..at + magic.len()].copy_from_slice(magic);
    head
}

#[test]
fn every_signature_is_recognised_and_refused_by_name() {
    for (at, magic, foreign) in SIGNATURES {
        let found = recognise(&signed(*at, magic)).unwrap();
        assert_eq!(found, foreign);
        assert_eq!(found.refusal().code(), format!("{}-not-carried", foreign.format));
    }
}

#[test]
fn a_magic_that_is_cut_or_elsewhere_is_none() {
    for (at, magic, foreign) in SIGNATURES {
        assert_eq!(name(&signed(at + 1, magic)), None);
        assert_ne!(name(&signed(*at, magic)[..at + magic.len() - 1]), Some(foreign.format));
    }
}

#[test]
fn lzma_is_told_by_its_properties_dictionary_and_size() {
    let head = |properties: u8, dictionary: u32, size: u64| {
        [&[properties][..], &dictionary.to_le_bytes(), &size.to_le_bytes(), &[0; 499]].concat()
    };
    for dictionary in [4096, 65536, 3 << 16, 1 << 18, 1 << 23, 3 << 25, 1 << 26, 3 << 29, 1 << 31] {
        assert_eq!(name(&head(0x5d, dictionary, u64::MAX)), Some("lzma"), "{dictionary}");
        assert_eq!(name(&head(0x5d, dictionary, 40 << 20)), Some("lzma"), "{dictionary}");
        assert_eq!(name(&head(0x5c, dictionary, u64::MAX)), None);
    }
    for (dictionary, size) in [(0, 1), (2048, 1), (5 << 20, 1), ((1 << 23) + 1, 1), (1 << 23, 0), (1 << 23, 1 << 38)] {
        assert_eq!(name(&head(0x5d, dictionary, size)), None, "{dictionary} {size}");
    }
    assert_eq!(name(&head(0x5d, 1 << 23, u64::MAX)[..12]), None);
}

#[test]
fn openpgp_is_told_by_its_session_keys() {
    let passphrase =
        |tag: u8, version: u8, cipher: u8| vec![tag, 13, version, cipher, 3, 8, 1, 2, 3, 4, 5, 6, 7, 8, 96];
    let public = |begin: &[u8], len: usize, algorithm: u8| {
        [begin, &[3, 1, 2, 3, 4, 5, 6, 7, 8, algorithm], &vec![9; len - 10]].concat()
    };
    let rsa = public(&[0x85, 1, 0x8c], 0x18c, 1);
    for (keys, behind, expected) in [
        (passphrase(0x8c, 4, 9), 0xd2, Some("openpgp")),
        (passphrase(0xc3, 5, 9), 0xd4, Some("openpgp")),
        (passphrase(0x8c, 4, 3), 0xa7, Some("openpgp")),
        (rsa.clone(), 0xd2, Some("openpgp")),
        (public(&[0x84, 0x5e], 0x5e, 18), 0xc9, Some("openpgp")),
        (public(&[0xc1, 0xc1, 0x4c], 192 + 0x14c, 1), 0xd2, Some("openpgp")),
        ([&rsa[..], &rsa, &passphrase(0x8c, 4, 9)].concat(), 0xd2, Some("openpgp")),
        (vec![], 0xd2, None),
        (passphrase(0x8c, 4, 9), 0xd1, None),
        (passphrase(0x8c, 3, 9), 0xd2, None),
        (passphrase(0x8c, 4, 0), 0xd2, None),
        (public(&[0x84, 0x5e], 0x5e, 17), 0xd2, None),
        (rsa[..100].to_vec(), 0xd2, None),
        // What boot code begins with: mov ax, cs.
        ([&[0x8c, 0xc8][..], &[0x8e; 200]].concat(), 0xd2, None),
    ] {
        assert_eq!(
            name(&[&keys[..], &[behind]].concat()),
            expected,
            "{:02x?} {behind:02x}",
            &keys[..keys.len().min(16)]
        );
    }
}

#[test]
fn ghost_is_told_by_its_first_file_and_packing() {
    assert_eq!(name(&[0xfe, 0xef, 1, 2, 0]), Some("ghost"));
    assert_eq!(name(&[0xfe, 0xef, 1, 11, 0]), None);
    assert_eq!(name(&[0xfe, 0xef, 2, 2, 0]), None);
}

#[test]
fn a_program_that_can_be_booted_as_a_disk_is_let_pass() {
    let mut program = vec![0; 1024];
    program[..2].copy_from_slice(b"MZ");
    assert_eq!(name(&program), None);
    program[60..64].copy_from_slice(&1020_u32.to_le_bytes());
    program[1020..].copy_from_slice(b"PE\0\0");
    assert_eq!(name(&program), Some("pe"));
    assert_eq!(name(&program[..1023]), None);
    program[510..512].copy_from_slice(b"\x55\xaa");
    assert_eq!(name(&program), None);
    program[514..518].copy_from_slice(b"HdrS");
    assert_eq!(name(&program), None, "Memtest86+, which a Linux loader takes as well");
    program[0x24c] = 1;
    assert_eq!(name(&program), Some("pe"), "a Linux kernel");
}

#[test]
fn texts_are_told_by_their_kind() {
    for (text, expected) in [
        (&b"<!DOCTYPE html>\n<html><body>404</body></html>"[..], "html"),
        (b"\n  <HTML lang=en>", "html"),
        // In Latin-1, and in both orders of UTF-16.
        (b"\n<!doctype HTML><p>Anmeldung f\xfcr G\xe4ste", "html"),
        (b"\xff\xfe<\0h\0t\0m\0l\0>\0", "html"),
        (b"\xfe\xff\0<\0h\0t\0m\0l\0>", "html"),
        (b"\xef\xbb\xbf<html>", "html"),
        (b"<?xml version=\"1.0\"?>\r\n<Envelope/>", "xml"),
        (b"{\"errors\":[]}", "json"),
        (b"[]", "json"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "armor"),
        (b"404 page not found\n", "text"),
        ("Größe unbekannt, Übertragung abgebrochen".as_bytes(), "text"),
        // The end of the head goes through a character.
        (b"une image tr\xc3\xa8s l\xc3\xa9g\xc3", "text"),
    ] {
        assert_eq!(name(text), Some(expected), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn what_a_disk_may_begin_with_is_not_foreign() {
    let boot_sector = [b"\xeb\x58\x90mkfs.fat".to_vec(), vec![0; 499], b"\x55\xaa".to_vec()].concat();
    let text_then_disk = [b"hello world\n".to_vec(), vec![0; 500]].concat();
    for head in [
        &b""[..],
        &[0; 65536],
        &[0xff; 512],
        &[b'U'; 512],
        &[b' '; 512],
        &[b'\n'; 512],
        b"caf\xe9 au lait",
        b"MZ\x90\0\x03",
        b"XFSB\0\0\x10\0",
        b"hsqs\x07\0\0\0",
        b"\xfa\x33\xc0\x8e\xd0",
        b"\x33\xc0\x8e\xd0\xbc\0\x7c",
        b"\x28\xb5\x2f\xfd",
        b"\x78\x9c\xed\xc1",
        &boot_sector,
        &text_then_disk,
        &Random::new(3).bytes(65536),
    ] {
        assert_eq!(name(head), None, "{:02x?}", &head[..head.len().min(16)]);
    }
}

#[test]
fn a_short_tail_is_looked_at_safely() {
    for len in 0..TAIL {
        assert!(check_tail(&vec![0; len]).is_ok());
    }
    assert!(check_tail(b"cdsaencr").is_err());
}

#[test]
fn the_page_about_refusals_names_each_of_them() {
    let page = include_str!("../../../../../docs/formats/refused.md");
    let signed = SIGNATURES.iter().chain(TRAILERS).map(|(_, _, foreign)| foreign);
    let shaped = SHAPES.iter().map(|(_, foreign)| foreign);
    let listed = signed.chain(shaped).chain(TEXTS.iter().map(|(_, foreign)| foreign));
    let kinds: BTreeMap<_, _> = listed.map(|foreign| (foreign.format, foreign.name)).collect();
    for (format, name) in &kinds {
        assert!(page.contains(&format!("| `{format}-not-carried` | {name}")), "{format} {name}");
    }
    let told = format!("the names of {} other kinds of file", kinds.len());
    assert!(include_str!("../../../../../docs/security.md").contains(&told), "docs/security.md does not say {told:?}");
}
