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
    let listed = SIGNATURES.iter().chain(TRAILERS).map(|(_, _, foreign)| foreign);
    for foreign in listed.chain(TEXTS.iter().map(|(_, foreign)| foreign)).chain([&LZMA]) {
        assert!(page.contains(&format!("`{}-not-carried`", foreign.format)), "{}", foreign.format);
    }
}
