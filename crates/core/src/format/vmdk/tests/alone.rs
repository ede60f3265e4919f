//! What is only looked at: descriptors without data and single extents say what they are, and are refused.

use diskferry_testkit::field::poke;
use diskferry_testkit::vmdk::{Descriptor, field};

use super::*;
use crate::format::{Detail, ImageInfo};

fn info(image: &[u8]) -> ImageInfo {
    let [file, pipe] = Bytes::both(image).map(|mut source| open(&mut source).unwrap().info().clone());
    assert_eq!(file, pipe);
    file
}

fn codes(info: &ImageInfo) -> Vec<&'static str> {
    info.refusals.iter().map(|refusal| refusal.code).collect()
}

fn detail(info: &ImageInfo, name: &str) -> Option<Detail> {
    info.details.iter().find(|(found, _)| *found == name).map(|(_, detail)| detail.clone())
}

fn names(info: &ImageInfo) -> Vec<String> {
    match detail(info, "extents") {
        Some(Detail::List(names)) => names,
        None => Vec::new(),
        Some(other) => panic!("{other:?}"),
    }
}

fn descriptor(create_type: &str, extents: &[&str]) -> Descriptor {
    let extents = extents.iter().map(|line| (*line).to_owned()).collect();
    Descriptor { extents, ..Descriptor::new(create_type, 0, "") }
}

#[test]
fn a_text_of_each_kind_says_its_size_and_its_files() {
    for (create_type, extents, sectors, files) in [
        ("monolithicFlat", &["RW 2048 FLAT \"disk-flat.vmdk\" 0"][..], 2048, &["disk-flat.vmdk"][..]),
        (
            "twoGbMaxExtentSparse",
            &["RW 4192256 SPARSE \"disk-s001.vmdk\"", "RW 2048 SPARSE \"disk-s002.vmdk\""],
            4_194_304,
            &["disk-s001.vmdk", "disk-s002.vmdk"],
        ),
        (
            "twoGbMaxExtentFlat",
            &["RW 4 FLAT \"a-f001.vmdk\" 0", "RDONLY 4 FLAT \"a-f002.vmdk\" 0", "NOACCESS 2 ZERO"],
            10,
            &["a-f001.vmdk", "a-f002.vmdk"],
        ),
        ("vmfs", &["RW 8 VMFS \"disk-flat.vmdk\""], 8, &["disk-flat.vmdk"]),
        ("vmfsSparse", &["RW 8 VMFSSPARSE \"disk-delta.vmdk\""], 8, &["disk-delta.vmdk"]),
        ("seSparse", &["RW 8 SESPARSE \"disk-sesparse.vmdk\""], 8, &["disk-sesparse.vmdk"]),
        ("vmfsRawDeviceMap", &["RW 8 VMFSRDM \"disk-rdm.vmdk\""], 8, &["disk-rdm.vmdk"]),
        ("fullDevice", &["RW 8 FLAT \"/dev/sda\" 0"], 8, &["/dev/sda"]),
        ("custom", &["RW 8 FLAT \"\\\\.\\PhysicalDrive0\" 0"], 8, &["\\\\.\\PhysicalDrive0"]),
    ] {
        let info = info(descriptor(create_type, extents).text().as_bytes());
        assert_eq!(
            (info.virtual_size, names(&info)),
            (Some(sectors * SECTOR), files.iter().map(|&f| f.into()).collect())
        );
        assert_eq!(detail(&info, "create-type"), Some(Detail::Text(create_type.into())));
        assert_eq!(detail(&info, "cid"), Some(Detail::Number(0x5a1d_0c3e)));
        assert_eq!((codes(&info), info.backing.as_deref()), (vec!["descriptor-only"], None), "{create_type}");
        assert!(info.refusals[0].what.contains(&format!("{:?}", files[0])), "{:?}", info.refusals);
    }
}

#[test]
fn a_text_over_a_parent_names_it() {
    let text = Descriptor { parent_cid: "0000abcd".into(), ..descriptor("vmfs", &["RW 8 VMFSSPARSE \"delta\""]) };
    let info = info(text.with("parentFileNameHint", "/base/base.vmdk").text().as_bytes());
    assert_eq!((codes(&info), info.backing.as_deref()), (vec!["descriptor-only", "parent"], Some("/base/base.vmdk")));
}

#[test]
fn what_a_text_does_not_say_is_not_known() {
    let many = format!("RW {} FLAT \"a\" 0", u64::MAX / 512);
    for (extents, files) in [
        (&[][..], 0),
        (&["RW many FLAT \"a\" 0"], 1),
        (&["RW 0 FLAT \"a\" 0"], 1),
        (&[&many, &many], 2),
        (&["RW 18446744073709551615 FLAT \"a\" 0"], 1),
        (&["RW 8 FLAT \"a\" 0", "RW"], 1),
        (&["RW 8 FLAT \"a\" 0", "RW "], 1),
        (&["RW 8 FLAT \"a\" 0", "RW x"], 1),
    ] {
        let text = descriptor("monolithicFlat", extents).text();
        let found = info(text.as_bytes());
        // A line that is cut after its access is no extent.
        let known = extents.last().is_some_and(|line| *line == "RW" || *line == "RW ");
        assert_eq!(found.virtual_size, known.then_some(8 * SECTOR), "{extents:?}");
        assert_eq!((names(&found).len(), codes(&found)), (files, vec!["descriptor-only"]), "{extents:?}");
    }
    let odd = "# Disk DescriptorFile\nCID=xyz\nparentCID\nRW 8 FLAT \"a\"";
    let found = info(odd.as_bytes());
    assert_eq!(
        (names(&found), detail(&found, "cid"), codes(&found)),
        (vec!["a".into()], Some(Detail::Text("xyz".into())), vec!["descriptor-only"])
    );
}

#[test]
fn a_text_may_be_cut_anywhere_and_go_on_for_ever() {
    let mut text = descriptor("monolithicFlat", &["RW 8 FLAT \"a\" 0", "RW 8 FLAT \"b\" 0"]).text().into_bytes();
    for len in 30..text.len() {
        assert_eq!(codes(&info(&text[..len]))[0], "descriptor-only", "{len} bytes");
    }
    // A disk whose guest has begun it so.
    text.extend(b"\nRW 8 FLAT \"c\" 0".repeat(200_000));
    let mut source = Bytes::pipe(&text);
    let found = open(&mut source).unwrap().info().clone();
    assert!(source.read < 1 << 20 && names(&found).len() > 60_000);
}

#[test]
fn a_header_in_front_of_a_descriptor_alone_is_looked_through() {
    let text = descriptor("vmfs", &["RW 2048 VMFS \"disk-flat.vmdk\""]).text().into_bytes();
    let mut image = Vmdk { descriptor: text, ..Vmdk::new(Style::Sparse, 8) }.build().image;
    poke(&mut image, field::CAPACITY, 0);
    // Nobody knows what such a header says besides.
    poke(&mut image, field::GRAIN, 0);
    let found = info(&image);
    assert_eq!((found.virtual_size, names(&found)), (Some(1 << 20), vec!["disk-flat.vmdk".to_owned()]));
    assert_eq!(codes(&found), ["descriptor-only"]);
    let cut = &image[..1024];
    assert_eq!(Bytes::both(cut).map(|mut source| code_of(&mut source)), ["vmdk-ends-early"; 2]);
    poke(&mut image, field::DESCRIPTOR_OFFSET, 0);
    assert_eq!(code_of(&mut Bytes::file(&image)), "vmdk-descriptor-only");
}

#[test]
fn a_sparse_image_of_several_files_names_them() {
    let text = descriptor("monolithicSparse", &["RW 8 SPARSE \"a.vmdk\"", "RW 240 SPARSE \"b.vmdk\""]).text();
    let found = info(&Vmdk { descriptor: text.into_bytes(), ..small(Style::Sparse) }.build().image);
    assert_eq!((codes(&found), names(&found)), (vec!["extents"], vec!["a.vmdk".to_owned(), "b.vmdk".to_owned()]));
    let whole = info(&small(Style::Sparse).build().image);
    assert_eq!((codes(&whole), names(&whole)), (Vec::new(), Vec::new()), "what is carried is all here");
}

#[test]
fn single_extents_of_esx_say_their_size() {
    let cowd = [&b"COWD"[..], &[1, 0, 0, 0], &[3, 0, 0, 0], &4096_u32.to_le_bytes(), &[0; 2032]].concat();
    let sesparse = [&super::super::SESPARSE_MAGIC[..], &(1_u64 << 33).to_le_bytes(), &[0; 4072]].concat();
    for (image, code, size) in [(&cowd, "cowd", 2 << 20), (&sesparse, "sesparse", 1 << 42)] {
        let found = info(image);
        assert_eq!((found.virtual_size, codes(&found)), (Some(size), vec![code]));
        assert_eq!(info(&image[..16]).virtual_size, (code == "cowd").then_some(size));
        assert_eq!(code_of(&mut Bytes::file(image)), format!("vmdk-{code}"));
    }
}
