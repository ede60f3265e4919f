use std::fs;
use std::io::{self, Cursor, Read};
use std::process::Command;

use super::*;
use crate::layer::testing::Repeated;

/// An entry with its data. `kind` is the type flag.
fn entry(name: &str, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut block = header(name, kind, &format!("{:011o}", data.len()));
    block.extend(data);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

fn header(name: &str, kind: u8, size: &str) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..124 + size.len()].copy_from_slice(size.as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let bare = key.len() + value.len() + 3;
    let len = (1..6).map(|digits| bare + digits).find(|len| len.to_string().len() + bare == *len).unwrap();
    entry("pax", b'x', format!("{len} {key}={value}\n").as_bytes())
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// Gives few bytes at a time.
struct Trickle(Cursor<Vec<u8>>, usize);

impl Read for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.1);
        self.0.read(&mut buf[..n])
    }
}

const ROOM: Room = Room { archive: 1 << 40, beside: 1 << 40, passed: 0 };

/// The image's name and bytes, or `-`, or the error's code.
fn outcome(bytes: &[u8], pick: &Pick, hidden: &mut Hidden) -> String {
    let by = |step: usize, hidden: &mut Hidden| {
        let reader = Box::new(Trickle(Cursor::new(bytes.to_vec()), step));
        match find(reader, pick, hidden, ROOM)? {
            Found::Nothing(_) => Ok("-".to_owned()),
            Found::Image(mut image) => {
                let mut data = Vec::new();
                image.reader.read_to_end(&mut data).map_err(|error| Error::reading(0, error))?;
                assert_eq!(data.len() as u64, image.len);
                let at = usize::try_from(image.at).unwrap();
                assert_eq!(data, bytes[at..at + data.len()], "the image is where it is said to be");
                Ok(format!("{} {}", image.name, String::from_utf8_lossy(&data)))
            }
        }
    };
    let found = [1, 7, 513, 1 << 20].map(|step| {
        let mut noted = hidden.clone();
        let found = by(step, &mut noted).unwrap_or_else(|error: Error| {
            assert!(!error.to_string().contains('\n'), "{error}");
            error.code()
        });
        (found, noted)
    });
    assert!(found.iter().all(|one| *one == found[0]), "however it comes: {found:?}");
    let [(found, noted), ..] = found;
    *hidden = noted;
    found
}

fn under_disk(entries: &[Vec<u8>]) -> String {
    outcome(&archive(entries), &Pick::UnderDisk, &mut Hidden::default())
}

fn named(name: &str, entries: &[Vec<u8>]) -> String {
    outcome(&archive(entries), &Pick::Named(Path::new(name.as_bytes()).unwrap()), &mut Hidden::default())
}

fn file(name: &str, data: &str) -> Vec<u8> {
    entry(name, b'0', data.as_bytes())
}

fn dir(name: &str) -> Vec<u8> {
    entry(name, b'5', b"")
}

#[test]
fn what_lies_beside_the_image_is_bounded_and_the_image_is_no_part_of_it() {
    let image = vec![1; 100_000];
    let files =
        archive(&[entry("etc/a", b'0', &[2; 5000]), entry("disk/a", b'0', &image), entry("etc/b", b'0', &[3; 5000])]);
    // Three headers, and two files with what fills up their last block; what follows the end is bounded by itself.
    let beside = 3 * 512 + 2 * 5120 + (image.len() as u64).next_multiple_of(512) - image.len() as u64;
    let (carried, excess) = ("carried", "tar-too-much-beside");
    for (room, passed, expected) in [
        (beside, 0, carried),
        (beside - 1, 0, excess),
        (512 + 5119, 0, excess),
        (beside + 7, 7, carried),
        (beside + 7, 8, excess),
    ] {
        let room = Room { beside: room, passed, ..ROOM };
        let read = || -> crate::Result<usize> {
            let reader = Box::new(Cursor::new(files.clone()));
            let Found::Image(mut image) = find(reader, &Pick::UnderDisk, &mut Hidden::default(), room)? else {
                panic!("there is an image")
            };
            image.reader.read_to_end(&mut Vec::new()).map_err(|error| Error::reading(0, error))
        };
        assert_eq!(read().map_or_else(|error| error.code(), |_| "carried".to_owned()), expected, "{room:?}");
    }
}

#[test]
fn the_file_under_disk_is_found_however_its_name_is_written() {
    for name in ["disk/a", "./disk/a", "/disk/a", "disk//a", "././/disk/./a", "disk/deep/er"] {
        let found = under_disk(&[dir("disk/"), file("etc/passwd", "root"), file(name, "image"), file("z", "")]);
        assert!(found.ends_with(" image"), "{name}: {found}");
    }
    assert_eq!(under_disk(&[file("disks/a", "no"), file("disk", "no"), file("a/disk/a", "no")]), "-");
    assert_eq!(under_disk(&[]), "-");
    assert_eq!(under_disk(&[file("disk/empty", "")]), "disk/empty ");
}

#[test]
fn a_named_file_is_found_wherever_it_is() {
    let entries = [file("boot/a.img", "one"), file("disk/a", "two"), file("disk/b", "three")];
    assert_eq!(named("/boot/a.img", &entries), "boot/a.img one");
    assert_eq!(named("disk/b", &entries), "disk/b three");
    assert_eq!(named("disk", &entries), "-");
}

#[test]
fn two_files_are_one_too_many() {
    assert_eq!(under_disk(&[file("disk/a", "x"), file("disk/b", "y")]), "tar-several-images");
    assert_eq!(under_disk(&[file("disk/a", "x"), file("./disk/a", "y")]), "tar-several-images");
    assert_eq!(named("a", &[file("a", "x"), file("./a", "y")]), "tar-several-images");
}

#[test]
fn what_is_no_file_is_refused_in_its_place_and_passed_over_elsewhere() {
    for (kind, code) in [(b'1', "tar-link"), (b'2', "tar-link"), (b'3', "tar-special-file"), (b'6', "tar-special-file")]
    {
        assert_eq!(under_disk(&[header("disk/a", kind, "0")]), code);
        assert_eq!(under_disk(&[file("disk/a", "x"), header("disk/b", kind, "0")]), code);
        assert_eq!(under_disk(&[header("dev/a", kind, "0"), file("disk/a", "x")]), "disk/a x");
    }
    assert_eq!(under_disk(&[header("disk/a", b'S', "0")]), "tar-sparse");
    assert_eq!(under_disk(&[pax("GNU.sparse.major", "1"), file("disk/a", "x")]), "tar-sparse");
    assert_eq!(under_disk(&[entry("disk/a", b'Z', b"x")]), "tar-special-file");
}

#[test]
fn a_link_has_no_data_whatever_its_size_says() {
    assert_eq!(under_disk(&[header("a", b'2', "00000002000"), file("disk/a", "x")]), "disk/a x");
}

#[test]
fn long_names_and_sizes_are_understood() {
    let long = format!("disk/{}", "n".repeat(300));
    for ahead in [entry("././@LongLink", b'L', format!("{long}\0").as_bytes()), pax("path", &long)] {
        assert_eq!(under_disk(&[ahead, file("cut", "x")]), format!("{long} x"));
    }
    let mut split = file("a", "x");
    split[345..349].copy_from_slice(b"disk");
    seal(&mut split);
    assert_eq!(under_disk(&[split.clone()]), "disk/a x");
    split[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut split);
    assert_eq!(under_disk(&[split]), "-", "GNU tar has other things there");

    let mut sized = file("disk/a", "image");
    sized[124..136].fill(0);
    seal(&mut sized);
    assert_eq!(under_disk(&[pax("size", "5"), sized]), "disk/a image");
    let mut binary = file("disk/a", "image");
    binary[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    seal(&mut binary);
    assert_eq!(under_disk(&[binary]), "disk/a image");
}

#[test]
fn names_that_lead_out_of_the_archive_are_errors() {
    for name in ["../disk/a", "disk/../../a", "disk/.."] {
        assert_eq!(under_disk(&[file(name, "x")]), "tar-entry-name");
    }
    assert_eq!(under_disk(&[pax("path", &"n/".repeat(2050)), file("a", "x")]), "tar-entry-name");
    let long = entry("long", b'L', "n/".repeat(2050).as_bytes());
    assert_eq!(under_disk(&[long, file("a", "x")]), "tar-entry-name");
}

#[test]
fn bent_headers_are_errors() {
    let bent = |bend: fn(&mut [u8])| {
        let mut bytes = archive(&[file("disk/a", "x"), file("b", "y")]);
        bend(&mut bytes[1024..]);
        outcome(&bytes, &Pick::UnderDisk, &mut Hidden::default())
    };
    assert_eq!(bent(|b| b[0] ^= 1), "tar-entry-header");
    assert_eq!(bent(|b| b[148..156].fill(b'9')), "tar-entry-header");
    assert_eq!(
        bent(|b| {
            b[124] = b'8';
            seal(b)
        }),
        "tar-entry-header"
    );
    assert_eq!(
        bent(|b| {
            b[124] = 0xff;
            seal(b)
        }),
        "tar-entry-header"
    );
    assert_eq!(
        bent(|b| {
            b[124..136].fill(0xbf);
            seal(b)
        }),
        "tar-entry-header",
        "more than 64 bits"
    );
    assert_eq!(
        bent(|b| {
            b[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
            seal(b)
        }),
        "max-size"
    );
    assert_eq!(
        bent(|b| {
            b[124] = b'7';
            seal(b)
        }),
        "tar-ends-early"
    );
    assert_eq!(
        bent(|b| {
            b[156] = b'x';
            seal(b)
        }),
        "tar-extended-header"
    );
    assert_eq!(
        bent(|b| {
            b[156] = b'M';
            seal(b)
        }),
        "tar-entry-header"
    );
    let two = under_disk(&[pax("path", "disk/a"), pax("path", "disk/b"), file("c", "x")]);
    assert_eq!(two, "tar-entry-header");
    let differ = [pax("path", "disk/a"), entry("long", b'L', b"disk/b\0"), file("c", "x")];
    assert_eq!(under_disk(&differ), "tar-entry-header");
    assert_eq!(under_disk(&[file("disk/a", "x"), pax("path", "disk/a")]), "tar-ends-early");
    let mut global = pax("size", "7");
    global[156] = b'g';
    seal(&mut global);
    assert_eq!(under_disk(&[global, file("disk/a", "x")]), "tar-entry-header");
    let mut comment = pax("comment", "made by git");
    comment[156] = b'g';
    seal(&mut comment);
    assert_eq!(under_disk(&[comment, file("disk/a", "x")]), "disk/a x");
}

#[test]
fn a_pax_size_that_is_not_the_headers_is_an_error() {
    // By the header alone, the data of the first entry would be a header of a second one: who looks at one size finds other files
    // than who looks at the other.
    let smuggled = [file("a", &"x".repeat(512)), file("disk/a", "hidden")].concat();
    let carrier = entry("carrier", b'0', &smuggled);
    for (size, kind) in [("512", b'0'), ("1", b'0'), ("99999", b'0'), ("512", b'5'), ("512", b'2'), ("7", b'Z')] {
        let mut bytes = carrier.clone();
        bytes[156] = kind;
        seal(&mut bytes[..512]);
        assert_eq!(under_disk(&[pax("size", size), bytes, file("disk/b", "x")]), "tar-entry-header", "{size}");
    }
    let same = smuggled.len().to_string();
    assert_eq!(under_disk(&[pax("size", &same), carrier, file("disk/b", "x")]), "disk/b x");
    // Both of them in one header: the last one counts for all readers, and is held against the field too.
    let two = entry("pax", b'x', b"9 size=1\n9 size=2\n");
    assert_eq!(under_disk(&[two.clone(), file("disk/a", "x")]), "tar-entry-header");
    assert_eq!(under_disk(&[two, file("disk/a", "xy")]), "disk/a xy");
}

#[test]
fn a_link_never_leads_to_the_disk() {
    // Who unpacks would write where `disk` leads to. Here the bytes are those of the archive, wherever the link points.
    let mut link = header("disk", b'2', "0");
    link[157..161].copy_from_slice(b"/etc");
    seal(&mut link);
    assert_eq!(under_disk(&[link.clone()]), "-");
    assert_eq!(under_disk(&[link.clone(), file("disk/passwd", "x")]), "disk/passwd x");
    assert_eq!(under_disk(&[file("disk/a", "x"), link]), "disk/a x");
    // A link beside, whose target is named in any way, and one that pax gives its place.
    for target in ["../../etc/shadow", "/etc/shadow", "disk/a"] {
        for kind in [b'1', b'2'] {
            let long = entry("././@LongLink", b'K', format!("{target}\0").as_bytes());
            for ahead in [pax("linkpath", target), long] {
                assert_eq!(under_disk(&[ahead.clone(), header("disk/a", kind, "0")]), "tar-link");
                assert_eq!(under_disk(&[ahead, header("beside", kind, "0"), file("disk/a", "x")]), "disk/a x");
            }
            assert_eq!(under_disk(&[pax("path", "disk/a"), header("beside", kind, "0")]), "tar-link");
        }
    }
    // By a name, the same.
    assert_eq!(named("disk/a", &[header("disk/a", b'2', "0")]), "tar-link");
}

#[test]
fn names_in_pax_are_held_to_the_same_rules() {
    for name in ["../a", "disk/../../etc/passwd", "disk/..", "/../disk/a", "..", "disk/a/../../.."] {
        assert_eq!(under_disk(&[pax("path", name), file("disk/a", "x")]), "tar-entry-name", "{name}");
        let long = entry("././@LongLink", b'L', format!("{name}\0").as_bytes());
        assert_eq!(under_disk(&[long, file("disk/a", "x")]), "tar-entry-name", "{name}");
    }
    assert_eq!(under_disk(&[pax("path", "/disk/a"), file("elsewhere", "x")]), "disk/a x", "from the root of the image");
    // A name with a zero in it is one name to some and another to others.
    assert_eq!(under_disk(&[pax("path", "disk/a\0b"), file("c", "x")]), "tar-entry-name");
    assert_eq!(under_disk(&[pax("path", ""), file("disk/a", "x")]), "-", "an empty name is the root");
}

#[test]
fn every_way_to_store_holes_is_refused() {
    let records = |records: &[(&str, &str)]| {
        let all: Vec<u8> = records.iter().flat_map(|(key, value)| pax(key, value)[512..].to_vec()).collect();
        let all: Vec<u8> = all.into_iter().filter(|&byte| byte != 0).collect();
        entry("pax", b'x', &all)
    };
    for way in [
        // The versions 0.0, 0.1 and 1.0 of GNU tar.
        &[("GNU.sparse.size", "9"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.offset", "0")][..],
        &[("GNU.sparse.size", "9"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0,1")],
        &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "disk/a")],
        &[("GNU.sparse.realsize", "9")],
    ] {
        assert_eq!(under_disk(&[records(way), file("disk/a", "x")]), "tar-sparse", "{way:?}");
        // Its own name hides that it is one under disk/.
        assert_eq!(under_disk(&[records(way), file("disk/GNUSparseFile.1/a", "x")]), "tar-sparse", "{way:?}");
    }
    // One that is given its name by the sparse record only.
    let named = records(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "disk/a")]);
    assert_eq!(under_disk(&[named, file("GNUSparseFile.1/a", "x")]), "-", "there is no image, and never a packed one");
}

#[test]
fn an_archive_cut_within_an_entry_is_an_error() {
    let whole = archive(&[dir("disk/"), pax("path", "disk/a"), file("cut", "image"), file("b", "yy")]);
    let image = 512 + 1024 + 512;
    let last = 512 + 1024 + 1024 + 512;
    for cut in 0..whole.len() {
        let found = outcome(&whole[..cut], &Pick::UnderDisk, &mut Hidden::default());
        // What follows the last byte of data does not have to be there: umoci does without it.
        let expected = match cut {
            512 => "-",
            _ if (image + 5..=image + 512).contains(&cut) => "disk/a image",
            _ if (last + 2..=last + 512).contains(&cut) => "disk/a image",
            _ if cut >= last + 1024 => "disk/a image",
            _ => "tar-ends-early",
        };
        assert_eq!(found, expected, "cut at {cut}");
    }
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    let mut disk = vec![0; 4096];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut cd = vec![0; 65536];
    cd[32769..32774].copy_from_slice(b"CD001");
    for bytes in [disk, cd] {
        assert_eq!(outcome(&bytes, &Pick::UnderDisk, &mut Hidden::default()), "tar-not-this-format");
    }
    let garbage = [archive(&[file("disk/a", "x")]), b"more".to_vec()].concat();
    assert_eq!(outcome(&garbage, &Pick::UnderDisk, &mut Hidden::default()), "tar-trailing-garbage");
}

#[test]
fn a_layer_hides_files_of_those_below_and_not_its_own() {
    let below = archive(&[file("disk/a", "old")]);
    for (above, seen) in [
        (file("disk/.wh.b", ""), "disk/a old"),
        (file("disk/.wh..wh.plnk", ""), "disk/a old"),
        (file("disks/.wh..wh..opq", ""), "disk/a old"),
        (dir("disk/"), "disk/a old"),
        (file("disk/.wh.a", ""), "-"),
        (file("./disk/.wh..wh..opq", ""), "-"),
        (file(".wh.disk", ""), "-"),
        (file(".wh..wh..opq", ""), "-"),
        (header("disk", b'2', "0"), "-"),
        (dir("disk/a/"), "-"),
    ] {
        let mut hidden = Hidden::default();
        assert_eq!(outcome(&archive(std::slice::from_ref(&above)), &Pick::UnderDisk, &mut hidden), "-");
        assert_eq!(outcome(&below, &Pick::UnderDisk, &mut hidden), seen, "{}", String::from_utf8_lossy(&above[..30]));
    }
    for whiteout in ["disk/.wh.a", "disk/.wh..wh..opq", ".wh.disk"] {
        assert_eq!(under_disk(&[file("disk/a", "new"), file(whiteout, "")]), "disk/a new");
        assert_eq!(under_disk(&[file(whiteout, ""), file("disk/a", "new")]), "disk/a new");
    }
    let mut hidden = Hidden::default();
    outcome(&archive(&[file("disk/.wh.a", "")]), &Pick::UnderDisk, &mut hidden);
    let two = archive(&[file("disk/a", "removed"), file("disk/b", "left")]);
    assert_eq!(outcome(&two, &Pick::UnderDisk, &mut hidden), "disk/b left");
}

#[test]
fn a_name_has_4096_bytes_at_most() {
    assert!(Path::new(&[b'a'; 4096]).is_some() && Path::new(&[b'a'; 4097]).is_none());
}

#[test]
fn more_whiteouts_than_anybody_has_are_an_error() {
    let found = |many: &[Vec<u8>]| {
        let found = find(Box::new(Cursor::new(archive(many))), &Pick::UnderDisk, &mut Hidden::default(), ROOM);
        found.map_or_else(|error| error.code(), |_| "read".to_owned())
    };
    let many = |most: u64| (0..most).map(|n| file(&format!("disk/.wh.{n}"), "")).collect::<Vec<_>>();
    assert_eq!([4096, 4097].map(|most| found(&many(most))), ["read", "tar-too-many-entries"]);
    // Of 1024 bytes each, with the directory.
    let long = |n: u64| [pax("path", &format!("disk/.wh.{n:01019}")), file("x", "")].concat();
    let long: Vec<_> = (0..1025).map(long).collect();
    assert_eq!([&long[..1024], &long].map(found), ["read", "tar-too-many-entries"]);
}

#[test]
fn an_archive_has_four_mebi_entries_at_most() {
    let found = |entries: u64| {
        let directories = Repeated { bytes: entry("a/", b'5', b""), at: 0 }.take((entries - 1) * 512);
        let archive = Box::new(directories.chain(Cursor::new(archive(&[file("disk/a", "image")]))));
        let found = find(archive, &Pick::UnderDisk, &mut Hidden::default(), ROOM);
        found.map_or_else(|error| error.code(), |_| "read".to_owned())
    };
    assert_eq!([4 << 20, (4 << 20) + 1].map(found), ["read", "tar-too-many-entries"]);
}

#[test]
fn every_format_of_gnu_tar_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let long = format!("disk/{}/{}", "d".repeat(90), "f".repeat(90));
    let path = scratch.path().join(&long);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "image").unwrap();
    for format in ["ustar", "gnu", "oldgnu", "posix"] {
        let out = scratch.path().join("out.tar");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format", format, "--file"]).arg(&out).arg("-C").arg(scratch.path()).arg("./disk");
        assert!(tar.status().unwrap().success());
        let found = outcome(&fs::read(&out).unwrap(), &Pick::UnderDisk, &mut Hidden::default());
        assert_eq!(found, format!("{long} image"), "{format}");
    }
    let sparse = scratch.path().join("disk/sparse");
    fs::remove_dir_all(scratch.path().join("disk")).unwrap();
    fs::create_dir(scratch.path().join("disk")).unwrap();
    fs::File::create(&sparse).unwrap().set_len(1 << 20).unwrap();
    for format in ["gnu", "posix"] {
        let out = scratch.path().join("out.tar");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sparse", "--format", format, "--file"]).arg(&out).arg("-C").arg(scratch.path());
        assert!(tar.arg("disk").status().unwrap().success());
        let found = outcome(&fs::read(&out).unwrap(), &Pick::UnderDisk, &mut Hidden::default());
        assert_eq!(found, "tar-sparse", "{format}");
    }
}

#[test]
fn headers_in_front_of_headers_and_what_follows_the_end_are_bounded() {
    let found = |bytes: Vec<u8>| {
        let found = find(Box::new(Cursor::new(bytes)), &Pick::UnderDisk, &mut Hidden::default(), ROOM);
        found.map_or_else(|error| error.code(), |_| "read".to_owned())
    };
    // A record is its own length, a space, a key and a value.
    let extended = |len: usize| {
        let (head, value) = (format!("{len} comment="), len - format!("{len} comment=").len() - 1);
        let record = [head.into_bytes(), vec![b'a'; value], b"\n".to_vec()].concat();
        assert_eq!(record.len(), len);
        archive(&[entry("x", b'x', &record), file("disk/a", "image")])
    };
    assert_eq!([1 << 20, (1 << 20) + 1].map(extended).map(found), ["read", "tar-extended-header"]);
    let end = archive(&[file("etc/a", "")]);
    let padded = |len: usize| [end.clone(), vec![0; len]].concat();
    // In the first place the archive ends, with two blocks of zeroes; they count.
    assert_eq!([(64 << 20) - 1024, (64 << 20) + 512].map(padded).map(found), ["read", "tar-trailing-garbage"]);
}

/// Fails at its end.
struct Failing(Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            got => Ok(got),
        }
    }
}

#[test]
fn an_archive_that_cannot_be_read_on_is_an_error_of_that_place() {
    let bytes = archive(&[file("a", "beside"), file("disk/a", "image")]);
    for len in [0, 100, 512, 515, 1024, 1500] {
        let reader = Box::new(Failing(Cursor::new(bytes[..len].to_vec())));
        let error = find(reader, &Pick::UnderDisk, &mut Hidden::default(), ROOM).err().unwrap();
        assert_eq!(error.code(), "source-read");
        assert!(error.to_string().contains(&format!("byte {len}")), "{error}");
    }
}

/// Is interrupted before it gives anything, and again before each byte.
struct Interrupted(Cursor<Vec<u8>>, bool);

impl Read for Interrupted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        let len = buf.len().min(100);
        if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(&mut buf[..len]) }
    }
}

#[test]
fn the_name_of_the_volume_is_passed_over_and_interrupted_reads_are_tried_again() {
    let bytes = archive(&[entry("backup", b'V', b""), file("disk/a", "image")]);
    let reader = Box::new(Interrupted(Cursor::new(bytes), false));
    let found = find(reader, &Pick::UnderDisk, &mut Hidden::default(), ROOM).unwrap();
    let Found::Image(image) = found else { panic!("no image") };
    assert_eq!((image.name.as_str(), image.len), ("disk/a", 5));
}
