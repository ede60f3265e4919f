//! VMDK against qemu-img, and in the layouts of producers that are not at hand, from a file and from a pipe.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{assert_carried, by_bytes, carry, from_file, from_pipe, refusal, sample};
use diskferry::format::Detail;
use diskferry::sink::PipeSink;
use diskferry::{Error, Input, Limits, Options, Progress, Report, convert, inspect};
use diskferry_testkit::field::poke;
use diskferry_testkit::oracle::{Scratch, assert_same_disk, qemu_img, qemu_io, raw_file_of};
use diskferry_testkit::random::Random;
use diskferry_testkit::vmdk::descriptor::Spelling;
use diskferry_testkit::vmdk::{Descriptor, Grain, Style, Vmdk, field};

const MIB: u64 = 1 << 20;
fn vmdk_of(raw: &Path, options: &str) -> PathBuf {
    let image = raw.with_extension("vmdk");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let fixed = ["convert", "-f", "raw", "-O", "vmdk", "-o", options].map(str::to_owned);
    qemu_img(&[&fixed[..], &[path(raw), path(&image)]].concat());
    image
}

/// Compares with what qemu-img reads of `image` now.
fn assert_as_qemu_reads(scratch: &Scratch, image: &Path) {
    let expected = scratch.path("expected.raw");
    raw_file_of(image, "vmdk", &expected);
    assert_carried(image, &expected, &Options::default());
}

#[test]
fn every_option_of_qemu_img_gives_the_disk_it_was_made_of() {
    let scratch = Scratch::new();
    for size in [512, 40 * MIB + 7 * 512, 70 * MIB] {
        let raw = sample(&scratch, size);
        for options in [
            "subformat=monolithicSparse",
            "subformat=monolithicSparse,compat6=on",
            "subformat=monolithicSparse,zeroed_grain=on",
            "subformat=streamOptimized",
        ] {
            assert_carried(&vmdk_of(&raw, options), &raw, &Options::default());
        }
    }
}

#[test]
fn a_stream_of_noise_ends_without_what_looks_like_an_end() {
    let scratch = Scratch::new();
    let raw = scratch.write("noise.raw", &Random::new(9).bytes(10 << 20));
    assert_carried(&vmdk_of(&raw, "subformat=streamOptimized"), &raw, &Options::default());
}

/// A number of a table, or of a marker.
fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Where the entries are that name grains, in each of the two tables of a stream made by qemu-img.
fn entries(bytes: &[u8]) -> [Vec<usize>; 2] {
    [48, 56].map(|at| {
        // The directories have one table each.
        let table = number(bytes, number(bytes, at) * 512) * 512;
        (table..).step_by(4).take(512).filter(|entry| number(bytes, *entry) > 0).collect()
    })
}

/// Lays the grains of a stream made by qemu-img where `place` says: the next place of a grain that ends up to there.
fn lay(image: &[u8], place: impl Fn(usize, usize) -> usize) -> Vec<u8> {
    let [first, second] = entries(image);
    let mut bent = image[..number(image, first[0]) * 512].to_vec();
    for (index, (a, b)) in first.into_iter().zip(second).enumerate() {
        let from = number(image, a) * 512;
        let to = place(index, bent.len());
        bent.resize(to, 0);
        bent.extend_from_slice(&image[from..from + 12 + number(image, from + 8)]);
        for entry in [a, b] {
            bent[entry..entry + 4].copy_from_slice(&((to / 512) as u32).to_le_bytes());
        }
    }
    bent
}

#[test]
fn a_marker_of_vsphere_that_no_specification_knows_is_passed_over() {
    let scratch = Scratch::new();
    let raw = scratch.write("raw", &[Random::new(1).bytes(300 << 10), vec![7; 200 << 10]].concat());
    let image = fs::read(vmdk_of(&raw, "subformat=streamOptimized")).unwrap();
    let mut bent = lay(&image, |index, end| end.next_multiple_of(512) + if index == 2 { 512 } else { 0 });
    let third = number(&bent, entries(&bent)[0][2]) * 512;
    bent[third - 512 + 12] = 4;
    bent.resize(bent.len().next_multiple_of(512), 0);
    assert_as_qemu_reads(&scratch, &scratch.write("bent.vmdk", &bent));
}

#[test]
fn streams_of_older_qemu_have_zeroes_between_their_grains_and_end_with_the_last_one() {
    let scratch = Scratch::new();
    // The last grain of noise takes more than its size.
    let raw = scratch
        .write("raw", &[Random::new(1).bytes(200 << 10), vec![7; 300 << 10], Random::new(2).bytes(64 << 10)].concat());
    let image = fs::read(vmdk_of(&raw, "subformat=streamOptimized")).unwrap();
    for grid in [512, 64 << 10] {
        let mut bent = lay(&image, |_, end| end.next_multiple_of(grid));
        for len in [bent.len(), bent.len().next_multiple_of(grid)] {
            bent.resize(len, 0);
            assert_as_qemu_reads(&scratch, &scratch.write(&format!("{grid}-{len}.vmdk"), &bent));
        }
        let whole = lay(&image, |_, end| end.next_multiple_of(grid));
        assert_eq!(codes(&scratch, &whole[..whole.len() - 1]), ["vmdk-ends-early"; 4].map(str::to_owned), "{grid}");
        let third = number(&whole, entries(&whole)[0][2]) * 512;
        assert_eq!(codes(&scratch, &whole[..third + 20]), ["vmdk-ends-early"; 4].map(str::to_owned), "{grid}");
    }
    let far = lay(&image, |index, end| end.next_multiple_of(512) + if index == 2 { (64 << 10) + 1024 } else { 0 });
    assert_eq!(codes(&scratch, &far), ["vmdk-trailing-data"; 4].map(str::to_owned));
}

#[test]
fn an_empty_disk_and_one_written_in_any_order() {
    let scratch = Scratch::new();
    for options in ["subformat=monolithicSparse,zeroed_grain=on", "subformat=streamOptimized"] {
        let image = scratch.path("disk.vmdk");
        qemu_img(&["create", "-f", "vmdk", "-o", options, image.to_str().unwrap(), "200M"]);
        assert_as_qemu_reads(&scratch, &image);
        if options.contains("monolithic") {
            let writes = ["write -P 1 190M 70k", "write -P 2 0 1M", "write -P 3 100M 3k", "write -z 64k 128k"];
            qemu_io(&image, "vmdk", &writes);
            assert_as_qemu_reads(&scratch, &image);
        }
    }
}

#[test]
fn the_layout_of_every_producer() {
    let scratch = Scratch::new();
    for style in Style::ALL {
        for spec in [
            Vmdk { grain: 8, ..Vmdk::new(style, 2100 * 8 - 3) }.fill(3),
            Vmdk::new(style, 10 * 128 + 5).fill(5),
            Vmdk { version: 2, ..Vmdk::new(style, 40 * 128) }.fill(7),
            Vmdk { grain: 8, ..Vmdk::new(style, 3000 * 8) },
            Vmdk { redundant: false, ..Vmdk::new(style, 40 * 128) }.fill(11),
            Vmdk { shuffle: Some(1), ..Vmdk::new(style, 40 * 128) }.fill(13),
            Vmdk { grain: 8, shuffle: Some(2), ..Vmdk::new(style, 2100 * 8) }.fill(15),
            Vmdk { grain: 8, padding: 999, ..Vmdk::new(style, 2100 * 8) }.fill(17),
        ] {
            let expected = scratch.write("expected", &spec.disk());
            let image = scratch.write("disk.vmdk", &spec.build().image);
            assert_carried(&image, &expected, &Options::default());
            assert_as_qemu_reads(&scratch, &image);
        }
    }
}

#[test]
fn one_byte_at_a_time() {
    let scratch = Scratch::new();
    for style in Style::ALL {
        let spec = Vmdk { grain: 8, ..Vmdk::new(style, 60 * 8) }.fill(3);
        let (target, image) = (scratch.path("disk.raw"), scratch.write("disk.vmdk", &spec.build().image));
        carry(by_bytes(&image), &target, &Options::default()).unwrap();
        assert_same_disk(&target, &scratch.write("expected", &spec.disk()));
        fs::remove_file(target).unwrap();
    }
}

#[test]
fn a_stream_spools_no_data() {
    let scratch = Scratch::new();
    for style in Style::ALL {
        let image = scratch.write("disk.vmdk", &Vmdk::new(style, 400 * 128).fill(3).build().image);
        let report = carry(from_pipe(&image), &scratch.path("disk.raw"), &Options::default()).unwrap();
        // The redundant tables, which are jumped over.
        assert!(report.spooled <= 4096, "{style:?}: {} bytes spooled", report.spooled);
        fs::remove_file(scratch.path("disk.raw")).unwrap();
    }
}

/// Carries the image to what can only be written forward.
fn carry_forward(input: Input, target: &Path) -> Result<Report, Error> {
    let sink = PipeSink::new(fs::File::create(target).unwrap(), &Limits::default(), None);
    convert(input, &sink, &Options::default(), &Progress::default())
}

#[test]
fn a_file_goes_to_a_pipe_without_spooling() {
    let scratch = Scratch::new();
    for style in Style::ALL {
        let spec = Vmdk { grain: 8, ..Vmdk::new(style, 2100 * 8) }.fill(3);
        let image = scratch.write("disk.vmdk", &spec.build().image);
        let expected = scratch.write("expected", &spec.disk());
        for (feed, input) in [("file", from_file(&image)), ("pipe", from_pipe(&image))] {
            let target = scratch.path("disk.raw");
            let report = carry_forward(input, &target).unwrap();
            assert_same_disk(&target, &expected);
            assert!(report.spooled == 0 || feed == "pipe", "{style:?}: {} bytes spooled", report.spooled);
        }
    }
}

#[test]
fn grains_in_any_order_go_to_a_pipe() {
    let scratch = Scratch::new();
    for style in Style::ALL {
        for seed in 1..5 {
            let spec = Vmdk { grain: 8, shuffle: Some(seed), ..Vmdk::new(style, 2100 * 8) }.fill(seed);
            let image = scratch.write("disk.vmdk", &spec.build().image);
            let expected = scratch.write("expected", &spec.disk());
            for input in [from_file(&image), from_pipe(&image)] {
                let target = scratch.path("disk.raw");
                carry_forward(input, &target).unwrap();
                assert_same_disk(&target, &expected);
            }
        }
    }
}

/// The code of what is wrong with `image`, from a file and a pipe to a file and a pipe.
fn codes(scratch: &Scratch, image: &[u8]) -> [String; 4] {
    let (image, target) = (scratch.write("disk.vmdk", image), scratch.path("disk.raw"));
    let code = |result: Result<Report, Error>| result.map_or_else(|error| error.code(), |_| "carried".to_owned());
    [
        code(carry(from_file(&image), &target, &Options::default())),
        code(carry(from_pipe(&image), &target, &Options::default())),
        code(carry_forward(from_file(&image), &scratch.path("forward"))),
        code(carry_forward(from_pipe(&image), &scratch.path("forward"))),
    ]
}

#[test]
fn a_grain_named_twice_is_the_same_error_wherever_the_disk_goes() {
    let scratch = Scratch::new();
    for style in [Style::StreamQemu, Style::StreamOpenVmdk, Style::StreamTail] {
        let built = Vmdk { grain: 8, ..Vmdk::new(style, 2100 * 8) }.fill(3).build();
        let markers: Vec<_> = built.grains.values().map(|at| field::MARKER_VALUE.after(*at as usize)).collect();
        let last = markers.len() - 1;
        // Which grain is named in the place of which other.
        for (named, instead_of) in
            [(3, 4), (4, 3), (2, last - 3), (last - 3, 2), (0, 9), (0, last), (last, 0), (last, 9)]
        {
            let mut image = built.image.clone();
            let table_of = |grain: usize| markers[grain].peek(&built.image) / (8 * 512);
            poke(&mut image, markers[instead_of], markers[named].peek(&built.image));
            let expected = match table_of(named).cmp(&table_of(instead_of)) {
                _ if style != Style::StreamTail => "vmdk-table-disagrees",
                Ordering::Equal => "vmdk-grain-twice",
                Ordering::Less => "vmdk-grain-after-table",
                // The table that lacks a grain comes before the grain comes again.
                Ordering::Greater => "vmdk-table-disagrees",
            };
            assert_eq!(codes(&scratch, &image), [expected; 4], "{style:?}, {named} for {instead_of}");
        }
    }
}

#[test]
fn a_grain_too_many_is_the_same_error_wherever_the_disk_goes() {
    let scratch = Scratch::new();
    let built = Vmdk { grain: 8, ..Vmdk::new(Style::StreamOpenVmdk, 2100 * 8) }.fill(3).build();
    let stored: Vec<_> = built.grains.values().copied().chain([built.end_of_stream]).collect();
    let end = built.end_of_stream as usize;
    for again in [0, 1, stored.len() / 2, stored.len() - 2] {
        let grain = stored[again] as usize..stored[again + 1] as usize;
        let mut image = built.image.clone();
        image.splice(end..end, built.image[grain].iter().copied());
        assert_eq!(codes(&scratch, &image), ["vmdk-grain-count"; 4], "grain {again}");
    }
}

#[test]
fn a_grain_in_a_hole_of_the_tables_is_the_same_error_wherever_the_disk_goes() {
    let scratch = Scratch::new();
    for style in [Style::StreamQemu, Style::StreamOpenVmdk, Style::StreamTail] {
        let mut spec = Vmdk { grain: 8, ..Vmdk::new(style, 2100 * 8) }.fill(3);
        spec.grains.retain(|index, _| !(700..800).contains(index));
        let built = spec.build();
        let mut image = built.image.clone();
        let moved = built.grains.range(600..).next().unwrap().1;
        poke(&mut image, field::MARKER_VALUE.after(*moved as usize), 750 * 8);
        assert_eq!(codes(&scratch, &image), ["vmdk-table-disagrees"; 4], "{style:?}");
    }
}

#[test]
fn the_extent_line_wins_over_a_capacity_rounded_up() {
    let scratch = Scratch::new();
    for style in [Style::Sparse, Style::StreamTail] {
        let mut spec = Vmdk::new(style, 1280);
        spec.descriptor = String::from_utf8(spec.descriptor).unwrap().replace("1280", "1277").into_bytes();
        spec.grains.insert(9, Grain::Data(vec![7; 1 << 16]));
        let expected = scratch.write("expected", &spec.disk()[..1277 * 512]);
        assert_carried(&scratch.write("disk.vmdk", &spec.build().image), &expected, &Options::default());
    }
}

#[test]
fn a_descriptor_may_be_spelt_in_any_way() {
    let scratch = Scratch::new();
    for spelling in [Spelling::LowerKeys, Spelling::UpperKeys, Spelling::Spaced, Spelling::Crlf] {
        let text = Descriptor { spelling, ..Descriptor::new("monolithicSparse", 1280, "any name at all") }.text();
        let spec = Vmdk { descriptor: text.into_bytes(), ..Vmdk::new(Style::Sparse, 1280) }.fill(17);
        let expected = scratch.write("expected", &spec.disk());
        assert_carried(&scratch.write("disk.vmdk", &spec.build().image), &expected, &Options::default());
    }
}

#[test]
fn a_descriptor_may_say_what_qemu_takes_as_well() {
    let scratch = Scratch::new();
    let plain = || Descriptor::new("monolithicSparse", 1280, "disk.vmdk");
    for descriptor in [
        // Xen Orchestra writes ten decimal digits.
        Descriptor { cid: "3984736254".into(), ..plain() },
        Descriptor { cid: "0x0abc1234".into(), ..plain() },
        Descriptor { parent_cid: "0xFFFFFFFF".into(), ..plain() },
        // rPath's tools and FreeBSD's mkimg name no file.
        Descriptor { extents: vec!["RO 1280 SPARSE".into()], ..plain() },
        Descriptor { extents: vec!["RW 1280 SPARSE \"\"".into()], ..plain() },
    ] {
        let spec = Vmdk { descriptor: descriptor.text().into_bytes(), ..Vmdk::new(Style::Sparse, 1280) }.fill(19);
        let expected = scratch.write("expected", &spec.disk());
        let image = scratch.write("disk.vmdk", &spec.build().image);
        assert_carried(&image, &expected, &Options::default());
        assert_as_qemu_reads(&scratch, &image);
    }
}

#[test]
fn one_directory_may_be_the_redundant_one_as_well() {
    let scratch = Scratch::new();
    let spec = Vmdk { grain: 16, ..Vmdk::new(Style::Sparse, 16 * 1100) }.fill(21);
    let mut image = spec.build().image;
    poke(&mut image, field::REDUNDANT_OFFSET, field::DIRECTORY_OFFSET.peek(&spec.build().image));
    let expected = scratch.write("expected", &spec.disk());
    let image = scratch.write("disk.vmdk", &image);
    assert_carried(&image, &expected, &Options::default());
    assert_as_qemu_reads(&scratch, &image);
}

#[test]
fn an_extent_that_is_not_this_file_is_refused() {
    let spec = Vmdk::new(Style::Sparse, 2 * 128).fill(1);
    let code = |extents: &[&str]| {
        let extents = extents.iter().map(|line| (*line).to_owned()).collect();
        let text = Descriptor { extents, ..Descriptor::new("monolithicSparse", 0, "") }.text();
        let image = Vmdk { descriptor: text.into_bytes(), ..spec.clone() }.build().image;
        refusal(&image, &Options::default()).code()
    };
    assert_eq!(code(&[]), "vmdk-extents");
    assert_eq!(code(&["RW 128 SPARSE \"a.vmdk\"", "RW 128 SPARSE \"b.vmdk\""]), "vmdk-extents");
    for kind in ["RW 256 FLAT", "RW 256 VMFS", "NOACCESS 256 SPARSE", "RW many SPARSE"] {
        assert_eq!(code(&[&format!("{kind} \"a.vmdk\"")]), "vmdk-extent-kind", "{kind}");
    }
    for path in ["/etc/passwd", "../a.vmdk", "b\\a.vmdk"] {
        assert_eq!(code(&[&format!("RW 256 SPARSE \"{path}\"")]), "vmdk-extent-path", "{path}");
    }
}

#[test]
fn what_qemu_img_makes_of_several_files_is_refused() {
    let scratch = Scratch::new();
    let raw = sample(&scratch, MIB);
    for (subformat, piece) in
        [("monolithicFlat", None), ("twoGbMaxExtentFlat", None), ("twoGbMaxExtentSparse", Some("vmdk-piece"))]
    {
        let descriptor = vmdk_of(&raw, &format!("subformat={subformat}"));
        let error = refusal(&fs::read(&descriptor).unwrap(), &Options::default());
        assert_eq!(error.code(), "vmdk-descriptor-only", "{subformat}");
        for info in [from_file, from_pipe].map(|open| inspect(open(&descriptor), &Options::default()).unwrap().image) {
            let Some((_, Detail::List(names))) = info.details.iter().find(|(name, _)| *name == "extents") else {
                panic!("{subformat}: no extents in {info:?}")
            };
            assert!(!names.is_empty() && names.iter().all(|name| scratch.path(name).exists()), "{names:?}");
            let create_type = ("create-type", Detail::Text(subformat.into()));
            assert!(info.virtual_size == Some(MIB) && info.details.contains(&create_type), "{info:?}");
        }
        if let Some(code) = piece {
            let name = format!("{}-s001.vmdk", raw.file_stem().unwrap().to_str().unwrap());
            let error = refusal(&fs::read(raw.with_file_name(name)).unwrap(), &Options::default());
            assert_eq!(error.code(), code, "{subformat}");
        }
    }
    let image = vmdk_of(&raw, "subformat=monolithicSparse");
    let delta = scratch.path("delta.vmdk");
    qemu_img(&["create", "-f", "vmdk", "-F", "vmdk", "-b", image.to_str().unwrap(), delta.to_str().unwrap()]);
    assert_eq!(refusal(&fs::read(delta).unwrap(), &Options::default()).code(), "vmdk-parent");
}

#[test]
fn the_facts_have_the_values_that_qemu_img_info_gives() {
    let scratch = Scratch::new();
    let image = vmdk_of(&sample(&scratch, MIB), "subformat=streamOptimized");
    let qemu = qemu_img(&["info", "--output=json", image.to_str().unwrap()]);
    let info = inspect(from_pipe(&image), &Options::default()).unwrap().image;
    assert_eq!((info.format, info.virtual_size, info.cluster_size), ("vmdk", Some(MIB), Some(64 << 10)));
    for (name, value) in &info.details {
        let json = match value {
            Detail::Text(text) => format!("\"{name}\": \"{text}\""),
            Detail::Number(number) => format!("\"{name}\": {number}"),
            Detail::Flag(flag) => format!("\"{name}\": {flag}"),
            Detail::List(_) => panic!("{name} matters to what is refused only"),
        };
        assert!(qemu.contains(&json) || *name == "version", "{json} is not in {qemu}");
    }
    assert!(info.warnings.is_empty() && info.refusals.is_empty() && info.backing.is_none());
}

#[test]
fn eight_tebibytes_with_little_in_them_take_the_time_of_the_little() {
    let scratch = Scratch::new();
    let (image, target) = (scratch.path("disk.vmdk"), scratch.path("disk.raw"));
    for (subformat, write) in [("monolithicSparse", "write"), ("streamOptimized", "write -c")] {
        let options = format!("subformat={subformat}");
        qemu_img(&["create", "-f", "vmdk", "-o", &options, image.to_str().unwrap(), "8T"]);
        qemu_io(&image, "vmdk", &[&format!("{write} -P 1 3T 64k"), &format!("{write} -P 2 7T 64k")]);
        let started = Instant::now();
        let report = carry(from_file(&image), &target, &Options::default()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(10), "{subformat}: {:?}", started.elapsed());
        assert!(report.transferred < 16 * MIB, "{subformat}: {} bytes read", report.transferred);
        assert_eq!((fs::metadata(&target).unwrap().len(), report.allocated), (8 << 40, 128 << 10), "{subformat}");
        for path in [&image, &target] {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn tables_cut_off_are_missed_although_a_sparse_file_has_holes_there() {
    let scratch = Scratch::new();
    let image = scratch.path("disk.vmdk");
    qemu_img(&["create", "-f", "vmdk", image.to_str().unwrap(), "1T"]);
    let file = fs::File::options().write(true).open(&image).unwrap();
    file.set_len(100 * MIB).unwrap();
    let error = carry(from_file(&image), &scratch.path("disk.raw"), &Options::default()).unwrap_err();
    assert_eq!(error.code(), "vmdk-ends-early");
}
