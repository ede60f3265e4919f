//! What an image may cost: memory and time of the real program, and what it leaves behind when it ends badly.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::extreme::{MIB, fill_every_bound, watch};
use common::{assert_fails, json, names};
use diskferry_testkit::container::{self, Blob, Layout, TAR, digest, tar};
use diskferry_testkit::hostile::subjects;
use diskferry_testkit::oracle::{Scratch, assert_same_disk, qemu_img, qemu_io};
use diskferry_testkit::qcow2::Compression::{Deflate, Zstd};
use diskferry_testkit::qcow2::{Cluster, Qcow2};
use diskferry_testkit::serve::nginx::{Nginx, Origin};
use diskferry_testkit::{Random, wrap};

const TIB: u64 = 1 << 40;
const STDOUT: &str = "-";

/// How an image reaches the program.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Feed<'a> {
    File,
    Pipe,
    /// Under this name, behind options: a server's URL, or a container image.
    Named(&'a [&'a str]),
}

/// A run that has ended, and what it took.
struct Run {
    output: Output,
    /// Largest resident set, in bytes, as last seen.
    peak: u64,
    time: Duration,
}

/// Carries `image` to `target` with two threads. With `memory`, the program gets no more address space than that.
fn convert(image: &Path, feed: Feed, target: &Path, memory: Option<u64>) -> Run {
    run(image, feed, start(image, feed, target, memory, 2))
}

/// Feeds and watches what has been [started](start).
fn run(image: &Path, feed: Feed, mut child: Child) -> Run {
    let begin = Instant::now();
    let peak = thread::scope(|scope| {
        let stdin = child.stdin.take();
        if let (Some(mut stdin), Feed::Pipe) = (stdin, feed) {
            // It may end before it has read everything.
            scope.spawn(move || io::copy(&mut File::open(image).unwrap(), &mut stdin));
        }
        watch(&mut child)
    });
    Run { output: child.wait_with_output().unwrap(), peak, time: begin.elapsed() }
}

fn start(image: &Path, feed: Feed, target: &Path, memory: Option<u64>, threads: u32) -> Child {
    let program = env!("CARGO_BIN_EXE_diskferry");
    let mut command = match memory {
        Some(bytes) => {
            let mut prlimit = Command::new("prlimit");
            prlimit.arg(format!("--as={bytes}")).arg(program);
            prlimit
        }
        None => Command::new(program),
    };
    command.args(["convert", "--threads", &threads.to_string()]);
    match feed {
        Feed::File => command.arg(image),
        Feed::Pipe => command.arg("-"),
        Feed::Named(arguments) => command.args(arguments),
    };
    command.arg(target);
    let stdout = if target == Path::new(STDOUT) {
        Stdio::null()
    } else {
        command.arg("--json");
        Stdio::piped()
    };
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
}

// Images that lie.

#[test]
fn images_that_lie_end_soon_in_little_memory_with_one_line_and_leave_nothing() {
    /// The library's tests judge every one of them.
    const ONE_OF: usize = 127;
    let (mut seen, mut refused) = (0, 0);
    for subject in ["qcow2", "vdi", "vmdk"].into_iter().flat_map(subjects) {
        for variant in subject.variants().step_by(ONE_OF) {
            for feed in [Feed::File, Feed::Pipe] {
                println!("{} by {feed:?}", variant.name);
                seen += 1;
                refused += usize::from(!assert_lie_is_harmless(&variant.image, feed));
            }
        }
    }
    println!("{seen} runs, {refused} refused");
    assert!(seen > 100 && refused > 60, "{seen} runs, {refused} refused");
}

/// Whether the image was carried all the same.
fn assert_lie_is_harmless(image: &[u8], feed: Feed) -> bool {
    let scratch = Scratch::new();
    let (image, target) = (scratch.write("image", image), scratch.write("disk.raw", b"what it was"));
    let run = convert(&image, feed, &target, Some(256 * MIB));
    assert!(run.time < Duration::from_secs(10), "{:?}", run.time);
    assert_eq!(names(scratch.dir()), ["disk.raw", "image"]);
    let was_carried = run.output.status.success();
    if !was_carried {
        assert_fails(&run.output, 3);
        assert_eq!(fs::read(&target).unwrap(), b"what it was");
    }
    was_carried
}

// Memory.

#[test]
fn memory_of_a_conversion_from_a_pipe_does_not_follow_the_image() {
    /// Of the program without any decoder's window.
    const LIMIT: u64 = 64 * MIB;
    let scratch = Scratch::new();
    let large = disk(&scratch, "large", 320 * MIB);
    let small = disk(&scratch, "small", 96 * MIB);
    let grown = qemu_image(&large, "grown", &["-O", "qcow2", "-o", "cluster_size=4k"]);
    qemu_img(&["resize", "-q", grown.to_str().unwrap(), "4G"]);
    let grown_disk = scratch.path("grown.raw");
    fs::copy(&large, &grown_disk).unwrap();
    File::options().write(true).open(&grown_disk).unwrap().set_len(4 << 30).unwrap();
    let small_bytes = fs::read(&small).unwrap();

    let images = [
        ("qcow2", qemu_image(&large, "qcow2", &["-O", "qcow2"]), &large),
        ("qcow2 of 2 MiB clusters", qemu_image(&large, "2m", &["-O", "qcow2", "-o", "cluster_size=2M"]), &large),
        ("qcow2 -c", qemu_image(&small, "c", &["-O", "qcow2", "-c"]), &small),
        (
            "qcow2 -c of 2 MiB clusters",
            qemu_image(&small, "c2m", &["-O", "qcow2", "-c", "-o", "cluster_size=2M"]),
            &small,
        ),
        ("qcow2 that has grown", grown, &grown_disk),
        ("vmdk stream", qemu_image(&small, "vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]), &small),
        ("vdi", qemu_image(&large, "vdi", &["-O", "vdi"]), &large),
        ("raw.gz", scratch.write("raw.gz", &wrap::gzip(&small_bytes)), &small),
        ("raw.xz", scratch.write("raw.xz", &wrap::xz(&small_bytes, &["-0", "-T2"])), &small),
        ("raw.zst", scratch.write("raw.zst", &wrap::zstd(&small_bytes, &["-1"])), &small),
        ("raw.bz2", scratch.write("raw.bz2", &wrap::bzip2(&small_bytes)), &small),
    ];
    let target = scratch.path("disk.raw");
    for (name, image, expected) in images {
        let run = convert(&image, Feed::Pipe, &target, None);
        assert!(run.output.status.success(), "{name}: {:?}", run.output);
        assert_same_disk(&target, expected);
        let spooled = &json(&run.output)["spooled"];
        println!("{name:28} peak {:5.1} MiB, spooled {spooled}, {:.1?}", run.peak as f64 / MIB as f64, run.time);
        assert!(run.peak > 0 && run.peak < LIMIT, "{name} took {} bytes", run.peak);
        fs::remove_file(&target).unwrap();
    }
}

/// A cluster of 2 MiB may be said to take 4 MiB, and each thread has its own.
#[test]
fn packed_units_that_claim_all_they_may_take_no_more_memory_by_eight_threads() {
    const CLAIM: u64 = 0x1fff << 49;
    let random = &mut Random::new(3);
    let mut image = Qcow2::new(80 * MIB);
    image.cluster_bits = 21;
    image.clusters = (0..40).map(|guest| (guest, Cluster::Packed(random.bytes(2 << 20)))).collect();
    let mut built = image.build();
    for guest in 0..40 {
        let at = usize::try_from(built.l2[&0]).unwrap() + guest * 8;
        let entry = u64::from_be_bytes(built.image[at..at + 8].try_into().unwrap());
        built.image[at..at + 8].copy_from_slice(&(entry | CLAIM).to_be_bytes());
    }
    let scratch = Scratch::new();
    let (image, target) = (scratch.write("image", &built.image), scratch.path("disk.raw"));
    for feed in [Feed::File, Feed::Pipe] {
        let run = run(&image, feed, start(&image, feed, &target, None, 8));
        println!("by {feed:?}: peak {:.1} MiB", run.peak as f64 / MIB as f64);
        // A pipe cannot give again what another unit has claimed too.
        assert!(run.output.status.success() || feed == Feed::Pipe, "{:?}", run.output);
        assert!(run.peak > 0 && run.peak < 64 * MIB, "by {feed:?}: {} bytes", run.peak);
    }
}

/// Tables that fill their limit, units that claim all they may, and as much in front of the tables as the spool keeps in memory.
#[test]
fn an_image_that_fills_every_bound_at_once_takes_less_than_64_mib() {
    for (cluster_bits, compression) in [(16, Deflate), (21, Deflate), (16, Zstd), (21, Zstd)] {
        let scratch = Scratch::new();
        let server = Nginx::new().without_ranges().start();
        let (image, url) = (server.root().join("image"), server.url(Origin::Plain, "/image"));
        let target = scratch.path("disk.raw");
        // On stdout, what is in no order waits for its turn.
        for (target, step) in [(target.as_path(), 1), (STDOUT.as_ref(), 7)] {
            fill_every_bound(&image, cluster_bits, compression, step, 0);
            for feed in [Feed::File, Feed::Pipe, Feed::Named(&[&url])] {
                let run = run(&image, feed, start(&image, feed, target, None, 8));
                let peak = run.peak as f64 / MIB as f64;
                let what = format!("2^{cluster_bits}, {compression:?}, by {feed:?} to {target:?}: peak {peak:.1} MiB");
                println!("{what}");
                assert_fails(&run.output, 3);
                // A file is read in the order of the disk for that, which leaves nothing to wait.
                let waits = feed != Feed::File || step == 1;
                assert!(run.peak < 64 * MIB && (run.peak > 32 * MIB) == waits, "{what}");
            }
        }
    }
}

/// The same in wrappings. What lies in front of the tables has filled their windows when all the rest is there.
#[test]
fn an_image_that_fills_every_bound_in_a_wrapping_takes_the_window_of_that_and_less_than_64_mib() {
    let scratch = Scratch::new();
    let server = Nginx::new().without_ranges().start();
    let url = server.url(Origin::Plain, "/image");
    let image = scratch.path("image");
    let of = |cluster_bits, compression, gap| {
        fill_every_bound(&image, cluster_bits, compression, 1, gap);
        fs::read(&image).unwrap()
    };
    // docs/formats/wrappings.md: members that are unpacked at the same time.
    let members = 2 * MIB;
    let (near, far) = (of(16, Deflate, 0), of(16, Deflate, 128 * MIB));
    for (name, wrapped, window) in [
        ("gzip", wrap::gzip(&near), 0),
        ("bgzf", wrap::bgzf(&near), members),
        ("bgzf, 2^21", wrap::bgzf(&of(21, Deflate, 0)), members),
        ("bgzf, zstd", wrap::bgzf(&of(16, Zstd, 0)), members),
        ("bgzf, zstd, 2^21", wrap::bgzf(&of(21, Zstd, 0)), members),
        ("bzip2", wrap::bzip2(&near), 0),
        ("xz", wrap::xz(&far, &["--lzma2=preset=0,dict=64MiB"]), 64 * MIB),
        ("zstd", wrap::zstd(&far, &["-1", "--long=27"]), 128 * MIB),
    ] {
        let path = server.root().join("image");
        fs::write(&path, &wrapped).unwrap();
        for feed in [Feed::File, Feed::Pipe, Feed::Named(&[&url])] {
            let run = run(&path, feed, start(&path, feed, &scratch.path("disk.raw"), None, 8));
            let what = format!("{name} by {feed:?}: peak {:.1} MiB", run.peak as f64 / MIB as f64);
            println!("{what}");
            assert_fails(&run.output, 3);
            assert!(run.peak < 64 * MIB + window && run.peak > 32 * MIB + window, "{what}");
        }
    }
}

#[test]
fn each_further_connection_takes_4_mib_more_at_most() {
    let scratch = Scratch::new();
    let server = Nginx::new().start();
    let (image, url) = (server.root().join("image"), server.url(Origin::Plain, "/image"));
    fill_every_bound(&image, 16, Deflate, 1, 0);
    let peak = |connections: u64| {
        let feed = Feed::Named(&["--connections", &connections.to_string(), &url]);
        let run = run(&image, feed, start(&image, feed, &scratch.path("disk.raw"), None, 8));
        let what = format!("{connections} connections: peak {:.1} MiB", run.peak as f64 / MIB as f64);
        println!("{what}");
        assert_fails(&run.output, 3);
        assert!(run.peak < 64 * MIB + 4 * MIB * (connections - 1) && run.peak > 32 * MIB, "{what}");
        run.peak
    };
    let [two, sixteen] = [2, 16].map(peak);
    assert!(sixteen.saturating_sub(two) < 14 * 4 * MIB, "{two} and {sixteen}");
}

/// Out of container images whose documents are nearly as long as they may be, too, and full of what takes more in memory, and which have as many
/// whiteouts.
#[test]
fn an_image_that_fills_every_bound_in_a_layer_takes_the_windows_and_less_than_64_mib() {
    const NOT_QUITE_4_MIB: usize = (4 << 20) - (64 << 10);
    let (scratch, server) = (Scratch::new(), Nginx::new().start());
    let image = scratch.path("image");
    let of = |gap| {
        fill_every_bound(&image, 16, Deflate, 1, gap);
        fs::read(&image).unwrap()
    };
    let (near, far) = (of(0), of(128 * MIB));
    // What lies in front of the image has filled the layer's window.
    let noise = Random::new(1).bytes(33 << 20);
    let in_layer = |image: &[u8]| tar(&[("etc/noise", &noise), ("disk/image", image)]);
    let whiteouts = (0..4095).map(|number| format!("disk/.wh.{number:088}")).collect::<Vec<_>>();
    let whiteouts = tar(&whiteouts.iter().map(|name| (name.as_str(), &[][..])).collect::<Vec<_>>());
    // A name that is no more the text of the document than its value.
    let long = format!(r#""\u0061{}":"""#, "x".repeat(NOT_QUITE_4_MIB));
    let platform = |os| format!(r#","platform":{{"os":"{os}","architecture":"amd64","variant":"v1"}}"#);
    let other = platform("other") + r#","annotations":{"org.opencontainers.image.created":"x"}"#;
    let other = Blob { media_type: container::MANIFEST.into(), digest: "s".into(), size: 0, more: other };
    let others = vec![other; NOT_QUITE_4_MIB / 210];
    let dir = scratch.path("layout");
    let mut layout = Layout::new(&dir);
    let zstd = |bytes: &[u8], long: &str| wrap::zstd(bytes, &["-1", long]);
    let twice = in_layer(&zstd(&far, "--long=27"));
    // A layer's packing may use a fourth of the window that the image's may.
    for (name, kind, archive, layer, window) in [
        ("plain", "", in_layer(&near), in_layer(&near), 0),
        ("gzip", "+gzip", in_layer(&near), wrap::gzip(&in_layer(&near)), 0),
        ("zstd", "+zstd", in_layer(&far), zstd(&in_layer(&far), "--long=25"), 32 * MIB),
        ("twice", "+zstd", twice.clone(), zstd(&twice, "--long=25"), 160 * MIB),
    ] {
        let layers = [(kind, layer), ("", whiteouts.clone())];
        let mut layers = layers.map(|(kind, layer)| layout.blob(&format!("{TAR}{kind}"), &layer));
        layers[0].more = format!(r#","annotations":{{{long}}}"#);
        let mut container = layout.manifest("linux/amd64", &layers, &[digest(&archive), digest(&whiteouts)], &long);
        for _ in 0..4 {
            container.more = platform("linux");
            container = layout.index(&[others.as_slice(), &[container]].concat());
        }
        layout.name(&container, name);
        // The index of the layout is one more.
        let index = fs::read_to_string(dir.join("index.json")).unwrap();
        let decoys = others.iter().map(|other| other.json()).collect::<Vec<_>>().join(",");
        fs::write(dir.join("index.json"), index.replacen('[', &format!("[{decoys},"), 1)).unwrap();
        let blobs = dir.join("blobs/sha256");
        for kind in ["manifests", "blobs"] {
            let served = server.root().join("v2/image").join(kind);
            fs::create_dir_all(&served).unwrap();
            for blob in names(&blobs) {
                let _ = fs::hard_link(blobs.join(&blob), served.join(format!("sha256:{blob}")));
            }
            fs::hard_link(layout.path(&container.digest), served.join(name)).unwrap();
        }
        let local = format!("oci:{}:{name}", dir.display());
        let remote = server.url(Origin::Plain, &format!("/image:{name}")).replace("http:", "docker:");
        for source in [&[&*local][..], &["--plain-http", &remote]] {
            let feed = Feed::Named(source);
            let run = run(&image, feed, start(&image, feed, &scratch.path("disk.raw"), None, 8));
            let what = format!("{name} by {feed:?}: peak {:.1} MiB", run.peak as f64 / MIB as f64);
            println!("{what}");
            assert_fails(&run.output, 3);
            assert!(run.peak < 64 * MIB + window && run.peak > 32 * MIB + window, "{what}");
        }
    }
}

/// Runs the program, and says what it took, how it ended and what it printed.
fn watched(arguments: &[&str]) -> (u64, Option<i32>, String) {
    let mut command = common::diskferry([]);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let reader = thread::spawn(move || io::read_to_string(stdout).unwrap());
    let peak = watch(&mut child);
    println!("{}: {:.1} MiB", arguments[0], peak as f64 / MIB as f64);
    (peak, child.wait().unwrap().code(), reader.join().unwrap())
}

#[test]
fn copies_and_checks_of_an_image_that_names_all_it_may_take_less_than_64_mib() {
    const NAMED: usize = 1 << 13;
    const LARGEST: usize = 4 << 20;
    let (scratch, server) = (Scratch::new(), Nginx::new().start());
    let dir = scratch.path("layout");
    let mut layout = Layout::new(&dir);
    let blob = |number: usize| {
        let more = r#","platform":{"os":"a","architecture":"b","variant":"c"}"#.into();
        Blob { media_type: format!("{TAR:72}"), digest: format!("sha512:{number:0128}"), size: 0, more }
    };
    // With the index and what that names there are just as many as there may be.
    let wide: Vec<_> = (0..NAMED - 7).map(blob).collect();
    let wide = layout.manifest_of(&wide);
    let padded = (1..4).map(|number| {
        let mut text = fs::read(layout.path(&layout.manifest_of(&[blob(number)]).digest)).unwrap();
        text.resize(LARGEST - 256 + number, b' ');
        layout.blob(container::MANIFEST, &text)
    });
    let image = layout.index(&[wide].into_iter().chain(padded).collect::<Vec<_>>());
    layout.name(&image, "wide");
    let manifests = server.root().join("v2/image/manifests");
    fs::create_dir_all(&manifests).unwrap();
    for blob in names(&dir.join("blobs/sha256")) {
        fs::hard_link(dir.join("blobs/sha256").join(&blob), manifests.join(format!("sha256:{blob}"))).unwrap();
    }
    let remote = server.url(Origin::Plain, &format!("/image@{}", image.digest)).replace("http:", "docker:");
    let store = format!("oci:{}", dir.display());
    let copy = format!("oci:{}:a", scratch.path("copy").display());
    let peak = |arguments: &[&str], least: u64| {
        let (peak, _, said) = watched(arguments);
        assert!(peak < 64 * MIB && peak > least, "{arguments:?}: {peak} bytes");
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    // Blobs are asked for when all documents are in memory, and there are none.
    let copied = peak(&["copy", "--json", "--plain-http", &remote, &copy], 20 * MIB);
    assert_eq!(copied["error"]["code"], "source-not-found");
    let verified = peak(&["verify", "--json", &store], 20 * MIB);
    assert_eq!(verified["images"][0]["findings"].as_array().unwrap().len(), NAMED - 7);
    let checked = peak(&["gc", "check", "--json", "--keep-list", "-", "--keep-nothing", &store], 8 * MIB);
    assert!(checked["unknown"].as_array().unwrap().is_empty() && checked["manifests"] == 1, "{checked}");

    // Of a list there are those layers that an image may have, and a configuration with as many.
    let layers: Vec<_> = (0..1024).map(blob).collect();
    let digests: Vec<_> = layers.iter().map(|layer| layer.digest.clone()).collect();
    let long = format!(r#""\u0061{}":"""#, "x".repeat(LARGEST - (256 << 10)));
    let image = layout.manifest("linux/amd64", &layers, &digests, &long);
    layout.name(&image, "listed");
    let listed = peak(&["list", "--json", &store], 8 * MIB);
    assert_eq!(listed["images"][1]["error"], serde_json::Value::Null, "{}", listed["images"][1]);
}

#[test]
fn a_store_that_fills_what_is_kept_in_mind_takes_less_than_128_mib() {
    let scratch = Scratch::new();
    let dir = scratch.path("layout");
    let layout = Layout::new(&dir);
    let store = format!("oci:{}", dir.display());
    let write = |entries: &[String]| {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        assert!(index.len() < 4 << 20);
        fs::write(dir.join("index.json"), index).unwrap();
    };
    let peak = |arguments: &str, codes: &[i32]| {
        let (peak, code, said) = watched(&arguments.split(' ').chain([&*store]).collect::<Vec<_>>());
        assert!(code.is_some_and(|code| codes.contains(&code)) && said.len() > 1000, "{arguments}: {code:?}");
        assert!(peak < 128 * MIB && peak > 24 * MIB, "{arguments}: {peak} bytes");
    };
    let (check, list, verify) = ("gc check --json --keep-list - --keep-nothing", "list --json", "verify --json");
    // As many names as there may be; as many images that are not there; and so many that an index has no room for more.
    let blob = |image: usize, number: usize| Blob {
        media_type: String::new(),
        digest: format!("sha512:{image:064}{number:064}"),
        size: 0,
        more: String::new(),
    };
    let wide =
        |image: usize| layout.manifest_of(&(0..8187).map(|number| blob(image, number)).collect::<Vec<_>>()).json();
    write(&(0..32).map(wide).collect::<Vec<_>>());
    peak(check, &[0]);
    write(&(0..9362).map(|image| blob(image, 0).json()).collect::<Vec<_>>());
    for (command, codes) in [(check, &[0][..]), (list, &[0]), (verify, &[4])] {
        peak(command, codes);
    }
    let image = layout.image(&[("disk/a", b"")], r#""source-image-format":"raw""#);
    let entry = format!(r#"{{"digest":"{}","size":{}}}"#, image.digest, image.size);
    write(&vec![entry; 43_000]);
    peak(list, &[0]);
}

#[test]
fn memory_of_xz_follows_its_dictionary_or_the_blocks_in_flight_and_never_the_file_or_the_threads() {
    /// Of the program without what is granted to the wrapping.
    const PROGRAM: u64 = 64 * MIB;
    /// docs/formats/wrappings.md: blocks that are decoded at the same time.
    const IN_FLIGHT: u64 = 96 * MIB;
    let scratch = Scratch::new();
    // Repeated at a distance that no dictionary but the largest reaches, so that blocks pack to less than half as disks do.
    let random = &mut Random::new(7);
    let part = [random.bytes(3 << 20), random.text(6 << 20)].concat();
    let expected = repeated(&scratch, "disk", 99 * MIB, &part);
    let bytes = fs::read(&expected).unwrap();
    let pack = |name: &str, arguments: &[&str]| scratch.write(name, &wrap::xz(&bytes, arguments));
    // What the presets ask for, made faster.
    for (name, image, window_of_one, window_of_many) in [
        ("as -6 -T does", pack("6", &["-T2", "--lzma2=preset=0,dict=8MiB", "--block-size=24MiB"]), 8 * MIB, IN_FLIGHT),
        ("large blocks", pack("l", &["-T2", "--lzma2=preset=0,dict=8MiB", "--block-size=64MiB"]), 8 * MIB, 8 * MIB),
        ("as -9 -T does", pack("9", &["-T2", "--lzma2=preset=0,dict=64MiB"]), 64 * MIB, 64 * MIB),
    ] {
        for (threads, window) in [(1, window_of_one), (2, window_of_many), (8, window_of_many)] {
            let target = scratch.path("disk.raw");
            let run = run(&image, Feed::Pipe, start(&image, Feed::Pipe, &target, None, threads));
            assert!(run.output.status.success(), "{name}: {:?}", run.output);
            assert_same_disk(&target, &expected);
            println!("{name:14} -T {threads} peak {:5.1} MiB, {:.1?}", run.peak as f64 / MIB as f64, run.time);
            assert!(run.peak > 0 && run.peak < PROGRAM + window, "{name}, -T {threads}: {} bytes", run.peak);
        }
    }
}

/// A disk without holes: noise and text, both repeated.
fn disk(scratch: &Scratch, name: &str, size: u64) -> PathBuf {
    let random = &mut Random::new(size);
    repeated(scratch, name, size, &[random.bytes(5 << 20), random.text(3 << 20)].concat())
}

fn repeated(scratch: &Scratch, name: &str, size: u64, part: &[u8]) -> PathBuf {
    let path = scratch.path(name);
    let mut file = File::create(&path).unwrap();
    for _ in 0..size / part.len() as u64 {
        file.write_all(part).unwrap();
    }
    path
}

fn qemu_image(disk: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let image = disk.with_extension(name);
    let paths = [disk, &image].map(|path| path.to_str().unwrap());
    qemu_img(&[&["convert", "-f", "raw"], arguments, &paths].concat());
    image
}

// Time.

#[test]
fn nearly_empty_disks_of_8_tib_take_the_time_of_their_data() {
    let tables = Duration::from_secs(5);
    // Its empty tables take a GiB in the image, and all of it comes through the pipe.
    let tables_in_full = Duration::from_secs(30);
    for (format, options, limit) in [
        ("qcow2", "cluster_size=64k", tables),
        ("qcow2", "cluster_size=2M", tables),
        ("vmdk", "subformat=monolithicSparse", tables_in_full),
        ("vdi", "static=off", tables),
    ] {
        let scratch = Scratch::new();
        let image = scratch.path("image");
        qemu_img(&["create", "-q", "-f", format, "-o", options, image.to_str().unwrap(), "8T"]);
        let writes: Vec<_> = spots().map(|(byte, at)| format!("write -q -P {byte} {at} 1M")).collect();
        qemu_io(&image, format, &writes.iter().map(String::as_str).collect::<Vec<_>>());
        for feed in [Feed::File, Feed::Pipe] {
            let target = scratch.path("disk.raw");
            let run = convert(&image, feed, &target, None);
            assert_carried(&run, &target, 8 * TIB);
            println!("{format} {options} by {feed:?}: {:.2?}, peak {} MiB", run.time, run.peak / MIB);
            assert!(run.time < limit, "{format} {options} by {feed:?} took {:?}", run.time);
        }
    }
}

/// A byte, and where a MiB of it lies on the disk.
fn spots() -> impl Iterator<Item = (u8, u64)> {
    (1..=8).map(|n| (n, u64::from(n) * (TIB - 512 * MIB)))
}

fn assert_carried(run: &Run, target: &Path, size: u64) {
    assert!(run.output.status.success(), "{:?}", run.output);
    let disk = File::open(target).unwrap();
    assert_eq!(disk.metadata().unwrap().len(), size);
    assert_eq!(json(&run.output)["allocated-size"], spots().count() as u64 * MIB);
    for (byte, at) in spots() {
        let mut found = [0; 1 << 20];
        disk.read_exact_at(&mut found, at).unwrap();
        assert!(found.iter().all(|other| *other == byte), "the data at {at}");
    }
}

#[test]
fn clusters_on_holes_of_the_image_file_are_not_read() {
    for options in ["preallocation=metadata", "preallocation=metadata,cluster_size=2M"] {
        let scratch = Scratch::new();
        let (image, target) = (scratch.path("image"), scratch.path("disk.raw"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, image.to_str().unwrap(), "256G"]);
        qemu_io(&image, "qcow2", &["write -q -P 7 200G 1M"]);
        let run = convert(&image, Feed::File, &target, None);
        assert!(run.output.status.success(), "{:?}", run.output);
        println!("{options}: {:.2?}, peak {} MiB", run.time, run.peak / MIB);
        assert_eq!(json(&run.output)["allocated-size"], MIB);
        assert!(run.time < Duration::from_secs(5), "{options} took {:?}", run.time);
    }
}

// A sudden end.

#[test]
fn a_killed_job_leaves_the_target_as_it_was_and_the_next_one_works() {
    let scratch = Scratch::new();
    let image = scratch.write("image", &Random::new(1).bytes(4 << 20));
    let target = scratch.write("disk.raw", b"what it was");
    let mut child = start(&image, Feed::Pipe, &target, None, 2);
    child.stdin.as_mut().unwrap().write_all(&fs::read(&image).unwrap()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"what it was");
    let run = convert(&image, Feed::Pipe, &target, None);
    assert!(run.output.status.success(), "{:?}", run.output);
    assert_same_disk(&target, &image);
}
