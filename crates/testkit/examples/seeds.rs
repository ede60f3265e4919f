//! Writes the seeds of the fuzz targets: tiny images that show each structure once. Called by scripts/make-testdata.
//!
//!     cargo run -p diskferry-testkit --example seeds -- fuzz/corpus

#![allow(clippy::unwrap_used, reason = "a tool for developers")]

use std::path::PathBuf;
use std::{env, fs};

use diskferry_testkit::container::{digest, tar};
use diskferry_testkit::qcow2::{Compression, Place, Qcow2};
use diskferry_testkit::vdi::Vdi;
use diskferry_testkit::vmdk::descriptor::Spelling;
use diskferry_testkit::vmdk::{Descriptor, Style, Vmdk};
use diskferry_testkit::{Random, wrap};

fn main() {
    let corpus = PathBuf::from(env::args_os().nth(1).unwrap());
    let formats: Vec<_> = qcow2().into_iter().chain(vdi()).chain(vmdk()).collect();
    let same = formats.iter().filter(|(target, ..)| *target != "detect").map(in_chunks).collect::<Vec<_>>();
    for (target, name, bytes) in formats
        .into_iter()
        .chain(descriptors())
        .chain(wrappings())
        .chain(archives())
        .chain(scripts())
        .chain(network())
        .chain(same)
    {
        let dir = corpus.join(target);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
    }
}

type Seed = (&'static str, &'static str, Vec<u8>);

/// In front of the image stands the size of chunks.
fn in_chunks((_, name, image): &Seed) -> Seed {
    in_chunks_of("same", name, image)
}

fn in_chunks_of(target: &'static str, name: &'static str, image: &[u8]) -> Seed {
    (target, name, [&[5], image].concat())
}

/// Scripts by which sound images are bent: which image, the size of chunks, and each field with how and to what.
fn scripts() -> Vec<Seed> {
    let steps = |count: u8| {
        let step = |n: u8| [n.wrapping_mul(7), 0, n, n, 0, 0, 0, 0, 0, 0, 0];
        [vec![count, 5], (0..count).flat_map(step).collect()].concat()
    };
    let of = |target| [(target, "sound", steps(0)), (target, "one", steps(1)), (target, "three", steps(3))];
    ["bent-qcow2", "bent-vdi", "bent-vmdk"].into_iter().flat_map(of).collect()
}

fn archives() -> Vec<Seed> {
    let whiteout = tar(&[("disk/.wh.old", b""), ("disk/a", b"image")]);
    vec![
        ("archive", "image", tar(&[("etc/x", b"x"), ("./disk/a.raw", &[7; 700])])),
        ("archive", "whiteout", whiteout),
        ("archive", "opaque", tar(&[("disk/.wh..wh..opq", b"")])),
        ("archive", "two", tar(&[("disk/a", b"a"), ("disk/b", b"b")])),
        ("archive", "empty", vec![0; 1024]),
    ]
}

fn qcow2() -> Vec<Seed> {
    // One cluster more than an L2 table of 512 bytes maps.
    let small = || Qcow2 { cluster_bits: 9, ..Qcow2::new(64 * 512 + 100) };
    let tiny = || Qcow2 { cluster_bits: 9, ..Qcow2::new(20 * 512) };
    let subclusters = Qcow2 { cluster_bits: 14, extended_l2: true, ..Qcow2::new(1 << 14) };
    let seed = |name, spec: Qcow2| ("qcow2", name, spec.fill(1).build().image);
    vec![
        seed("v2", Qcow2 { version: 2, ..tiny() }),
        seed("v3", small()),
        seed("zstd", Qcow2 { compression: Compression::Zstd, ..tiny() }),
        seed("tables-behind", Qcow2 { l1: Place::Behind, l2: Place::Behind, shuffle: Some(1), ..tiny() }),
        seed("subclusters", subclusters),
        ("detect", "qcow2", Qcow2::new(0).build().image[..512].to_vec()),
    ]
}

fn vdi() -> Vec<Seed> {
    let spec = Vdi { block_size: 2048, extra: 512, shuffle: Some(1), ..Vdi::qemu(5 * 2048 + 100) };
    vec![
        ("vdi", "dynamic", spec.clone().fill(1).build().image),
        ("vdi", "static", Vdi { kind: 2, ..spec }.build().image),
    ]
}

fn vmdk() -> Vec<Seed> {
    let seed = |name, style, version| {
        let spec = Vmdk { grain: 8, version, ..Vmdk::new(style, 3 * 8 + 3) };
        ("vmdk", name, spec.fill(1).build().image)
    };
    vec![
        seed("sparse", Style::Sparse, 2),
        seed("stream-qemu", Style::StreamQemu, 3),
        seed("stream-tail", Style::StreamTail, 3),
        seed("stream-vmdktool", Style::StreamVmdktool, 3),
        seed("stream-xen-orchestra", Style::StreamXenOrchestra, 3),
    ]
}

fn descriptors() -> Vec<Seed> {
    let of = |create_type| Descriptor::new(create_type, 8, "disk.vmdk");
    let sparse = of("monolithicSparse");
    let seed = |name, descriptor: Descriptor| ("descriptor", name, descriptor.text().into_bytes());
    let parent = sparse.clone().with("parentFileNameHint", "base.vmdk").with("ddb.uuid.parent", "5b7a0e1c");
    let extents = ["RW 8 FLAT \"flat.vmdk\" 0", "RDONLY 8 ZERO", "NOACCESS 8 VMFS \"/dev/sda\" 8"];
    vec![
        seed("stream", of("streamOptimized")),
        seed("spaced", Descriptor { spelling: Spelling::Spaced, ..sparse.clone() }),
        seed("dos", Descriptor { spelling: Spelling::Crlf, ..sparse.clone() }),
        seed("parent", Descriptor { parent_cid: "12345678".to_owned(), ..parent }),
        seed("extents", Descriptor { extents: extents.map(str::to_owned).to_vec(), ..of("custom") }),
        seed("sparse", sparse),
    ]
}

fn wrappings() -> Vec<Seed> {
    let disk = Random::new(1).text(2000);
    let seed = |target, name, bytes: Vec<u8>| in_chunks_of(target, name, &bytes);
    let (one, other) = disk.split_at(700);
    let noise = Random::new(2).bytes(300);
    let xz_with = |check| wrap::xz(one, &[check]);
    let skippable = |len: u32| [&b"\x53\x2a\x4d\x18"[..], &len.to_le_bytes(), &vec![9; len as usize]].concat();
    let zstd_of_known_size = wrap::zstd(one, &["--no-check", "--stream-size=700"]);
    vec![
        seed("gzip", "members", wrap::gzip_members(&disk, 900)),
        seed("gzip", "bgzf-and-others", [wrap::bgzf(one), wrap::gzip(other), wrap::bgzf(&noise)].concat()),
        seed("gzip", "fields", [wrap::gzip_with_all_fields(&disk), wrap::gzip(b"")].concat()),
        seed("gzip", "noise-and-padding", [wrap::gzip(&noise), vec![0; 100]].concat()),
        seed("xz", "blocks", wrap::xz(&disk, &["--block-size=1000"])),
        seed(
            "xz",
            "checks",
            ["--check=none", "--check=crc32", "--check=crc64", "--check=sha256"].map(xz_with).concat(),
        ),
        seed("xz", "padding", [wrap::xz(b"", &[]), vec![0; 4], wrap::xz(&noise, &["-0"]), vec![0; 8]].concat()),
        seed("xz", "filters", wrap::xz(&disk, &["--x86", "--delta=dist=4", "--lzma2=dict=4KiB,lc=1,lp=2,pb=0"])),
        seed("xz", "threads", wrap::xz(&disk, &["--threads=2", "--block-size=600"])),
        seed("zstd", "frame", wrap::zstd(&disk, &["--check"])),
        seed(
            "zstd",
            "frames",
            [skippable(40), zstd_of_known_size.clone(), skippable(0), wrap::zstd(other, &["--check"])].concat(),
        ),
        seed("zstd", "noise", [wrap::zstd(&noise, &["--no-check"]), wrap::zstd(b"", &["--check"])].concat()),
        seed("zstd", "long", wrap::zstd(&disk, &["-19", "--long=22"])),
        seed("zstd", "dictionary", with_dictionary(&zstd_of_known_size)),
        seed("bzip2", "stream", wrap::bzip2(&disk)),
        seed("bzip2", "streams", [one, b"", other, &noise].map(wrap::bzip2).concat()),
        seed("bzip2", "runs", wrap::bzip2(&[vec![7; 1000], vec![0; 3000], one.to_vec()].concat())),
        ("detect", "raw-gzip-xz", wrap::xz(&wrap::gzip(&disk), &[])),
        ("raw", "partition-table", partition_table()),
        ("convert", "raw-gzip-xz", wrap::xz(&wrap::gzip(&disk), &[])),
        ("convert", "qcow2-gzip", wrap::gzip(&Qcow2::new(1 << 16).fill(1).build().image)),
        ("detect", "html", b"<!DOCTYPE html><html><title>404</title></html>".to_vec()),
    ]
}

/// The frame of a single segment, whose header names a dictionary.
fn with_dictionary(frame: &[u8]) -> Vec<u8> {
    const DESCRIPTOR: usize = 4;
    const ONE_BYTE: u8 = 1;
    let (head, rest) = frame.split_at(DESCRIPTOR + 1);
    [&head[..DESCRIPTOR], &[head[DESCRIPTOR] | ONE_BYTE, 77], rest].concat()
}

/// Conversations: how is fetched, then what is said, each part behind the one before and this byte.
fn network() -> Vec<Seed> {
    let said = |flags: u8, parts: &[&[u8]]| [&[flags][..], &parts.join(&0x1e)].concat();
    let disk: &[u8] = &[7; 700];
    let part = |text: &str, body: &[u8]| [text.as_bytes(), body].concat();
    let whole = part("HTTP/1.1 200 OK\r\nContent-Length: 700\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n\r\n", disk);
    let half = &whole[..whole.len() - 350];
    let rest = part(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 350-699/700\r\nContent-Length: 350\r\nETag: \"a\"\r\n\r\n",
        &disk[..350],
    );
    let chunks = part("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n\r\n", b"");
    let moved: &[u8] = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
    let busy: &[u8] = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    let manifest: &[u8] = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"@1","size":#1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"@2","size":#2}]}"#;
    let layer = tar(&[("disk/a.raw", &[7; 700])]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}},"config":{{"Labels":{{"source-image-format":"raw","source-image-size":"700","source-image-virtual-size":"700"}}}}}}"#,
        digest(&layer)
    );
    let index: &[u8] = br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"@1","size":#1,"platform":{"os":"linux","architecture":"amd64"}}]}"#;
    let below = String::from_utf8_lossy(manifest).replace("@2", "@3").replace("#2", "#3");
    let below = below.replace("@1", "@2").replace("#1", "#2");
    let (config, layer) = (config.as_bytes(), layer.as_slice());
    let token: &[u8] = br#"{"token":"abc","expires_in":300}"#;
    let challenge: &[u8] = br#"Bearer realm="/token",service="x",scope="repository:image:pull""#;
    let put: &[u8] = b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nimage";
    let begun: &[u8] = b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Range: bytes 0-2/5\r\nContent-Length: 3\r\n\r\nima";
    let gone_on: &[u8] =
        b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Range: bytes 3-4/5\r\nContent-Length: 2\r\n\r\nge";
    let created: &[u8] =
        b"POST /upload HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 5\r\nContent-Length: 0\r\n\r\n";
    let patched: &[u8] = b"PATCH /upload HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\nContent-Length: 5\r\n\r\nimage";
    let chunked: &[u8] =
        b"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nimage\r\n0\r\n\r\n";
    let asked: &[u8] = b"HEAD /upload HTTP/1.1\r\nHost: x\r\n\r\n";
    let bent = |which: u8| [&[which, 0, 5][..], &[7, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]].concat();
    vec![
        ("answers", "whole", said(0, &[&whole])),
        ("answers", "carried", said(4, &[&whole])),
        ("answers", "resumed", said(0, &[half, &rest])),
        ("answers", "looked-at", said(1, &[&rest, &whole])),
        ("answers", "parts", said(2, &[&rest, &rest])),
        ("answers", "chunked", said(0, &[&chunks])),
        ("answers", "moved-and-busy", said(0, &[moved, busy, &whole])),
        ("registry", "manifest", said(0, &[manifest, config, layer])),
        ("registry", "index", said(0, &[index, below.as_bytes(), config, layer])),
        ("registry", "token", said(4, &[manifest, config, layer, token, challenge])),
        ("upload", "whole", said(put[0], &[&put[1..]])),
        ("upload", "gone-on", said(begun[0], &[&begun[1..], asked, gone_on])),
        ("upload", "tus", said(created[0], &[&created[1..], patched])),
        ("upload", "chunked", said(chunked[0], &[&chunked[1..]])),
        ("oracle", "qcow2", bent(0)),
        ("oracle", "vmdk", bent(1)),
        ("oracle", "vdi", bent(2)),
    ]
}

/// A disk with nothing but the mark of a partition table.
fn partition_table() -> Vec<u8> {
    [vec![0; 510], vec![0x55, 0xaa], vec![0; 512]].concat()
}
