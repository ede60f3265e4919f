//! Inputs that stream and answer requests for what lies far ahead, as HTTP servers do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use common::{by_ranges, carry, from_pipe, sample};
use diskferry::digest::{Algorithm, Checksum};
use diskferry::sink::Discard;
use diskferry::source::Ranges;
use diskferry::{Input, Kind, Limits, Options, Progress, convert, inspect};
use diskferry_testkit::oracle::{Scratch, assert_same_disk, qemu_img, qemu_io, raw_file_of};
use diskferry_testkit::wrap;
use sha2::{Digest, Sha256};

const MIB: u64 = 1 << 20;

/// An image whose L1 table was too small in the end, and moved behind all data.
fn l1_at_the_end(scratch: &Scratch) -> PathBuf {
    let image = scratch.path("grown.qcow2");
    let name = image.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", name, "16M"]);
    qemu_io(&image, "qcow2", &["write -P 7 0 12M"]);
    qemu_img(&["resize", "-q", name, "4G"]);
    qemu_io(&image, "qcow2", &["write -P 9 3G 64k"]);
    image
}

/// Answers with the same byte everywhere, or, with none, as one who has no ranges.
struct Liar(Option<u8>);

impl Ranges for Liar {
    fn read_at(&mut self, buf: &mut [u8], _: u64) -> io::Result<Option<usize>> {
        Ok(self.0.map(|byte| {
            buf.fill(byte);
            buf.len()
        }))
    }
}

fn lied_to(path: &Path, byte: Option<u8>) -> Input {
    let bytes = fs::read(path).unwrap();
    let len = Some(bytes.len() as u64);
    Input::Ranged { reader: Box::new(Cursor::new(bytes)), len, ranges: Box::new(Liar(byte)) }
}

#[test]
fn a_table_behind_the_data_costs_a_request_and_no_spool() {
    let scratch = Scratch::new();
    let image = l1_at_the_end(&scratch);
    let expected = scratch.path("expected.raw");
    raw_file_of(&image, "qcow2", &expected);
    let target = scratch.path("disk.raw");
    let stored = fs::metadata(&image).unwrap().len();
    for (input, spools) in [(from_pipe(&image), true), (by_ranges(&image), false), (lied_to(&image, None), true)] {
        let report = carry(input, &target, &Options::default()).unwrap();
        assert_same_disk(&target, &expected);
        assert_eq!(report.spooled > 8 * MIB, spools, "{report:?}");
        assert!(report.transferred < stored + MIB, "{report:?}");
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn metadata_that_are_not_the_streams_are_refused_although_the_streams_digest_is_right() {
    let scratch = Scratch::new();
    let image = l1_at_the_end(&scratch);
    let hex = Sha256::digest(fs::read(&image).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    let checksums = vec![Checksum { algorithm: Algorithm::Sha256, hex }];
    let options = Options { checksums, ..Options::default() };
    let error = carry(lied_to(&image, Some(0)), &scratch.path("disk.raw"), &options).unwrap_err();
    assert_eq!(error.code(), "source-changed", "{error}");
    assert!(error.is_transient());
}

#[test]
fn damage_that_only_the_ranges_show_is_a_source_that_has_changed() {
    let scratch = Scratch::new();
    let image = l1_at_the_end(&scratch);
    let target = scratch.path("disk.raw");
    // No L2 table lies where these entries say.
    let error = carry(lied_to(&image, Some(0xff)), &target, &Options::default()).unwrap_err();
    assert_eq!(error.code(), "source-changed", "{error}");
    let mut bytes = fs::read(&image).unwrap();
    let l1 = usize::try_from(u64::from_be_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    assert!(l1 > 12 << 20, "the table lies behind the data");
    bytes[l1..l1 + 8].fill(0xff);
    let bent = scratch.write("bent.qcow2", &bytes);
    let of_pipe = carry(from_pipe(&bent), &target, &Options::default()).unwrap_err();
    let of_ranges = carry(by_ranges(&bent), &target, &Options::default()).unwrap_err();
    assert_eq!((of_ranges.kind(), of_ranges.code()), (Kind::Image, of_pipe.code()), "{of_ranges}");
}

#[test]
fn an_image_that_ends_early_is_damaged_and_has_not_changed() {
    let scratch = Scratch::new();
    let bytes = fs::read(l1_at_the_end(&scratch)).unwrap();
    let target = scratch.path("disk.raw");
    // In front of its L1 table, which the ranges do not have either.
    for len in [1 << 20, 5 << 20, 12 << 20] {
        let cut = scratch.write("cut.qcow2", &bytes[..len]);
        let of_pipe = carry(from_pipe(&cut), &target, &Options::default()).unwrap_err();
        for input in [by_ranges(&cut), without_length(by_ranges(&cut))] {
            let of_ranges = carry(input, &target, &Options::default()).unwrap_err();
            assert_eq!((of_ranges.kind(), of_ranges.code()), (Kind::Image, of_pipe.code()), "{len} {of_ranges}");
        }
    }
}

#[test]
fn a_bent_image_is_the_same_by_ranges_as_from_a_pipe() {
    let scratch = Scratch::new();
    let whole = fs::read(l1_at_the_end(&scratch)).unwrap();
    let place =
        |at: usize| usize::try_from(u64::from_be_bytes(whole[at..at + 8].try_into().unwrap()) & !(1 << 63)).unwrap();
    let (l1, end) = (place(40), whole.len() as u64);
    let tables: Vec<_> = (0..2048).map(|entry| l1 + 8 * entry).filter(|at| place(*at) > 0).collect();
    assert!(l1 > 12 << 20 && tables.len() > 6);
    let (first, last) = (place(tables[0]), place(*tables.last().unwrap()));
    // Far and near, within and behind, on clusters and beside them, of one another and of the header.
    let places = [
        0,
        512,
        4096,
        l1 as u64,
        first as u64,
        last as u64,
        end - 4096,
        end,
        end + 4096,
        1 << 30,
        1 << 50,
        u64::MAX >> 9,
    ];
    let header =
        (4..112).step_by(4).flat_map(|at| [0, 1, 8, 1 << 31, u32::MAX].map(|value| (at, value.to_be_bytes().to_vec())));
    let entries = [40, 48, tables[0], *tables.last().unwrap(), first, first + 8, last].into_iter().flat_map(|at| {
        places
            .into_iter()
            .flat_map(move |place| [place, place | 1 << 63, place | 1 << 62])
            .map(move |value| (at, value.to_be_bytes().to_vec()))
    });
    let code = |outcome: diskferry::Result<_>| {
        outcome.map_or_else(|error: diskferry::Error| error.code(), |_| "carried".into())
    };
    let (mut seen, mut wrong) = (0, Vec::new());
    for (at, bytes) in header.chain(entries) {
        let mut bent = whole.clone();
        bent[at..at + bytes.len()].copy_from_slice(&bytes);
        let path = scratch.write("bent.qcow2", &bent);
        let options =
            || Options { limits: Limits { virtual_size: 64 << 30, ..Limits::default() }, ..Options::default() };
        let carried = |input| code(convert(input, &Discard, &options(), &Progress::default()));
        let (of_pipe, of_ranges) = (carried(from_pipe(&path)), carried(by_ranges(&path)));
        seen += 1;
        if of_pipe != of_ranges {
            wrong.push(format!("{at}: {bytes:x?}: {of_pipe} from a pipe, {of_ranges} by ranges"));
        }
    }
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The same from a server that does not say how long it is.
fn without_length(input: Input) -> Input {
    let Input::Ranged { reader, ranges, .. } = input else { panic!("it has no ranges") };
    Input::Ranged { reader, len: None, ranges }
}

#[test]
fn what_is_looked_at_besides_is_no_part_of_the_stored_size() {
    let scratch = Scratch::new();
    let image = l1_at_the_end(&scratch);
    let packed = wrap::zstd(&fs::read(sample(&scratch, 8 * MIB)).unwrap(), &["--stream-size=8388608"]);
    let packed = scratch.write("disk.raw.zst", &packed);
    for path in [image, packed] {
        let mut opened =
            diskferry::open(without_length(by_ranges(&path)), &Options::default(), &Progress::default()).unwrap();
        opened.look_for_unpacked_size().unwrap();
        let report = opened.convert(&Discard).unwrap();
        assert_eq!(report.inspection.stored_size, Some(fs::metadata(&path).unwrap().len()), "{path:?}");
    }
}

/// Answers no request.
struct Failing;

impl Ranges for Failing {
    fn read_at(&mut self, _: &mut [u8], _: u64) -> io::Result<Option<usize>> {
        Err(io::Error::other("not now"))
    }
}

#[test]
fn an_image_is_carried_although_what_is_only_looked_at_cannot_be_had() {
    let scratch = Scratch::new();
    let raw = fs::read(sample(&scratch, 8 * MIB)).unwrap();
    for bytes in [wrap::xz(&raw, &[]), wrap::zstd(&raw, &["--stream-size=8388608"])] {
        let len = Some(bytes.len() as u64);
        let input = Input::Ranged { reader: Box::new(Cursor::new(bytes)), len, ranges: Box::new(Failing) };
        let mut opened = diskferry::open(input, &Options::default(), &Progress::default()).unwrap();
        opened.look_for_unpacked_size().unwrap();
        assert_eq!(opened.inspection().unpacked_size, None);
        assert_eq!(opened.convert(&Discard).unwrap().inspection.unpacked_size, Some(8 * MIB));
    }
}

#[test]
fn of_a_file_of_unknown_length_no_frame_speaks_for_all() {
    let scratch = Scratch::new();
    let raw = fs::read(sample(&scratch, 8 * MIB)).unwrap();
    let twice = wrap::zstd(&raw, &["--stream-size=8388608"]).repeat(2);
    let path = scratch.write("twice.zst", &twice);
    assert_eq!(inspect(without_length(by_ranges(&path)), &Options::default()).unwrap().unpacked_size, None);
}

#[test]
fn looking_finds_the_unpacked_size_that_the_wrapping_keeps() {
    let scratch = Scratch::new();
    let raw = fs::read(sample(&scratch, 8 * MIB)).unwrap();
    let (xz, zst, gz) = (wrap::xz(&raw, &[]), wrap::zstd(&raw, &["--stream-size=8388608"]), wrap::gzip(&raw));
    for (name, bytes, size) in [
        ("xz", xz.clone(), Some(8 * MIB)),
        ("zst", zst.clone(), Some(8 * MIB)),
        ("gz", gz, None),
        ("many frames, a table of them in front", wrap::filter("pzstd", &["-c", "-p", "2"], &raw), None),
        ("a frame without its size", wrap::zstd(&raw, &[]), None),
        ("two wrappings", wrap::zstd(&xz, &[]), None),
    ] {
        let path = scratch.write("image", &bytes);
        let of_ranges = inspect(by_ranges(&path), &Options::default()).unwrap();
        let of_file = inspect(Input::File(File::open(&path).unwrap()), &Options::default()).unwrap();
        assert_eq!(of_ranges.unpacked_size, size, "{name}");
        assert_eq!(of_ranges, of_file, "{name}");
    }
    let path = scratch.write("image", &zst.repeat(2));
    let of_file = inspect(Input::File(File::open(&path).unwrap()), &Options::default()).unwrap();
    assert_eq!(of_file.unpacked_size, None, "the first of two frames does not speak for the file");
}
