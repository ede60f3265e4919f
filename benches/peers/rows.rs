//! Who converts what: every row names an image and the peers that can do it, each at its best setting.
//!
//! Commands find `$disk`, `$image`, `$out` and `$scratch` in their environment, and `$url` where the image is served by nginx. Nobody waits for stable storage: the peers
//! cannot be told to, and diskferry is told not to.

use std::env;

use crate::disks::{HUGE, LARGE, SMALL, SYSTEM};

/// An image to be converted by everybody.
pub struct Row {
    pub name: &'static str,
    /// The disk that it is made from and that must come out.
    pub disk: &'static str,
    /// Makes `$image` from `$disk`.
    pub make: &'static str,
    /// How the image is reached.
    pub reached: Reached,
    ours: &'static Contestant,
    peers: &'static [&'static [Contestant]],
}

/// Where a row's image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// In a file.
    File,
    /// On a server on the same machine.
    Http,
    /// On a server at the other end of a cable that carries 200 Mbit/s.
    Cable,
}

impl Row {
    /// Ours first.
    pub fn contestants(&self) -> impl Iterator<Item = &'static Contestant> {
        std::iter::once(self.ours).chain(self.peers.iter().copied().flatten())
    }
}

/// A tool, or a pipe of them, that makes `$out` from `$image`.
pub struct Contestant {
    pub name: &'static str,
    pub command: &'static str,
    /// The tool that not everybody has.
    needs: &'static str,
    /// Whether it makes the disk. What does not is there to show what the others cannot be faster than.
    pub makes_disk: bool,
}

impl Contestant {
    /// Whether its tool is there.
    pub fn is_installed(&self) -> bool {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).any(|dir| dir.join(self.needs).exists())
    }
}

const fn peer(name: &'static str, needs: &'static str, command: &'static str) -> Contestant {
    Contestant { name, command, needs, makes_disk: true }
}

/// The transfer by itself.
const DOWNLOAD: &[Contestant] = &[Contestant {
    name: "the download alone",
    command: "curl -sSf -o /dev/null \"$url\"",
    needs: "curl",
    makes_disk: false,
}];

const URL: Contestant = peer("diskferry", "sh", "\"$diskferry\" convert -q --no-sync \"$url\" \"$out\"");

const CURL_QEMU_IMG: &[Contestant] = &[
    peer(
        "curl; qemu-img -W",
        "curl",
        "curl -sSf -o \"$scratch\" \"$url\"; qemu-img convert -W -O raw \"$scratch\" \"$out\"",
    ),
    peer(
        "nbdkit curl, qemu-img",
        "nbdkit",
        "nbdkit -U - curl \"url=$url\" --run 'qemu-img convert -m 16 -W -O raw \"$uri\" \"$out\"'",
    ),
];

const CURL_GZIP: &[Contestant] = &[
    peer(
        "curl \\| gzip \\| dd",
        "gzip",
        "curl -sSf \"$url\" | gzip -dc | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none",
    ),
    peer(
        "curl \\| pigz \\| dd",
        "pigz",
        "curl -sSf \"$url\" | pigz -dc | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none",
    ),
    peer(
        "curl \\| igzip \\| dd",
        "igzip",
        "curl -sSf \"$url\" | igzip -dc | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none",
    ),
];

const CURL_XZ: &[Contestant] = &[
    peer(
        "curl \\| xz \\| dd",
        "xz",
        "curl -sSf \"$url\" | xz -T0 -dc | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none",
    ),
    peer("curl \\| xz > file", "xz", "curl -sSf \"$url\" | xz -T0 -dc > \"$out\""),
];

const FILE: Contestant = peer("diskferry", "sh", "\"$diskferry\" convert -q --no-sync \"$image\" \"$out\"");
const PIPE: Contestant = peer("diskferry", "sh", "cat \"$image\" | \"$diskferry\" convert -q --no-sync - \"$out\"");

const QEMU_IMG: &[Contestant] = &[
    peer("qemu-img", "qemu-img", "qemu-img convert -O raw \"$image\" \"$out\""),
    peer("qemu-img -W", "qemu-img", "qemu-img convert -W -O raw \"$image\" \"$out\""),
    peer("qemu-img -m 16 -W", "qemu-img", "qemu-img convert -m 16 -W -O raw \"$image\" \"$out\""),
];

/// Where qemu-img takes so long that its settings, which change nothing, are not worth the wait.
const QEMU_IMG_ALONE: &[Contestant] = &[peer("qemu-img", "qemu-img", "qemu-img convert -O raw \"$image\" \"$out\"")];

const NBDCOPY: &[Contestant] =
    &[peer("nbdcopy", "nbdcopy", "nbdcopy -- [ qemu-nbd --read-only --format=qcow2 \"$image\" ] \"$out\"")];

const COPIERS: &[Contestant] = &[
    peer("qemu-img", "qemu-img", "qemu-img convert -f raw -O raw \"$image\" \"$out\""),
    peer("qemu-img -m 16 -W", "qemu-img", "qemu-img convert -f raw -m 16 -W -O raw \"$image\" \"$out\""),
    peer("cp", "cp", "cp \"$image\" \"$out\""),
    peer("cp --sparse=always", "cp", "cp --sparse=always \"$image\" \"$out\""),
    peer("nbdcopy", "nbdcopy", "nbdcopy \"$image\" \"$out\""),
];

const GZIP: &[Contestant] = &[
    peer("gzip \\| dd", "gzip", "gzip -dc \"$image\" | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none"),
    peer("pigz \\| dd", "pigz", "pigz -dc \"$image\" | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none"),
];

const XZ: &[Contestant] = &[
    peer("xz \\| dd", "xz", "xz -dc \"$image\" | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none"),
    // xz itself leaves holes when it writes to a file.
    peer("xz -T1 > file", "xz", "xz -T1 -dc \"$image\" > \"$out\""),
    peer("xz -T0 > file", "xz", "xz -T0 -dc \"$image\" > \"$out\""),
];

const ZSTD: &[Contestant] = &[
    peer("zstd \\| dd", "zstd", "zstd -dc \"$image\" | dd of=\"$out\" bs=1M iflag=fullblock conv=sparse status=none"),
    peer("zstd --sparse", "zstd", "zstd -dq --sparse -o \"$out\" < \"$image\""),
];

const SCRATCH: &[Contestant] = &[peer(
    "cat; qemu-img -W",
    "qemu-img",
    "cat \"$image\" | cat > \"$scratch\"; qemu-img convert -W -O raw \"$scratch\" \"$out\"",
)];

const GZIP_SCRATCH: &[Contestant] = &[
    peer(
        "gzip; qemu-img -W",
        "gzip",
        "cat \"$image\" | gzip -dc > \"$scratch\"; qemu-img convert -W -O raw \"$scratch\" \"$out\"",
    ),
    peer(
        "pigz; qemu-img -W",
        "pigz",
        "cat \"$image\" | pigz -dc > \"$scratch\"; qemu-img convert -W -O raw \"$scratch\" \"$out\"",
    ),
];

const XZ_SCRATCH: &[Contestant] = &[peer(
    "xz; qemu-img -W",
    "xz",
    "cat \"$image\" | xz -T0 -dc > \"$scratch\"; qemu-img convert -W -O raw \"$scratch\" \"$out\"",
)];

const fn row(
    name: &'static str,
    disk: &'static str,
    make: &'static str,
    ours: &'static Contestant,
    peers: &'static [&'static [Contestant]],
) -> Row {
    Row { name, disk, make, reached: Reached::File, ours, peers }
}

/// The image of `make`, on a server.
const fn served(
    name: &'static str,
    disk: &'static str,
    make: &'static str,
    reached: Reached,
    peers: &'static [&'static [Contestant]],
) -> Row {
    Row { name, disk, make, reached, ours: &URL, peers }
}

const MAKE_QCOW2: &str = "qemu-img convert -f raw -O qcow2 $disk $image";
const MAKE_QCOW2_ZLIB: &str = "qemu-img convert -f raw -O qcow2 -c -W $disk $image";
const MAKE_STREAM: &str = "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized $disk $image";
const MAKE_GZ: &str = "gzip -c $disk > $image";
const MAKE_XZ: &str = "xz -T0 -3 --block-size=16MiB -c $disk > $image";

/// Every row, in the order of the table.
pub static ROWS: &[Row] = &[
    row("qcow2", SYSTEM, "qemu-img convert -f raw -O qcow2 $disk $image", &FILE, &[QEMU_IMG, NBDCOPY]),
    row("qcow2, from a pipe", SYSTEM, "qemu-img convert -f raw -O qcow2 $disk $image", &PIPE, &[SCRATCH]),
    row("qcow2, zlib", SYSTEM, "qemu-img convert -f raw -O qcow2 -c -W $disk $image", &FILE, &[QEMU_IMG, NBDCOPY]),
    row(
        "qcow2, zstd",
        SYSTEM,
        "qemu-img convert -f raw -O qcow2 -c -W -o compression_type=zstd $disk $image",
        &FILE,
        &[QEMU_IMG, NBDCOPY],
    ),
    row(
        "qcow2, clusters of 4 KiB",
        SYSTEM,
        "qemu-img convert -f raw -O qcow2 -o cluster_size=4k $disk $image",
        &FILE,
        &[QEMU_IMG],
    ),
    row(
        "qcow2, clusters of 512 bytes",
        SMALL,
        "qemu-img convert -f raw -O qcow2 -o cluster_size=512 $disk $image",
        &FILE,
        &[QEMU_IMG],
    ),
    row("vmdk, monolithicSparse", SYSTEM, "qemu-img convert -f raw -O vmdk $disk $image", &FILE, &[QEMU_IMG]),
    row(
        "vmdk, streamOptimized",
        SYSTEM,
        "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized $disk $image",
        &FILE,
        &[QEMU_IMG],
    ),
    row("vdi", SYSTEM, "qemu-img convert -f raw -O vdi $disk $image", &FILE, &[QEMU_IMG]),
    row("raw", SYSTEM, "cp --sparse=always $disk $image", &FILE, &[COPIERS]),
    row("raw.gz", SYSTEM, "gzip -c $disk > $image", &FILE, &[GZIP]),
    row("raw.xz, one block", SMALL, "xz -T1 -3 -c $disk > $image", &FILE, &[XZ]),
    row("raw.xz, many blocks", SMALL, "xz -T0 -3 --block-size=16MiB -c $disk > $image", &FILE, &[XZ]),
    row("raw.zst", SYSTEM, "zstd -q -T0 -o $image $disk", &FILE, &[ZSTD]),
    row(
        "qcow2.gz, from a pipe",
        SYSTEM,
        "qemu-img convert -f raw -O qcow2 $disk $scratch; gzip -c $scratch > $image; rm $scratch",
        &PIPE,
        &[GZIP_SCRATCH],
    ),
    row(
        "qcow2.xz, from a pipe",
        SMALL,
        "qemu-img convert -f raw -O qcow2 $disk $scratch; xz -T0 -3 --block-size=16MiB -c $scratch > $image; rm $scratch",
        &PIPE,
        &[XZ_SCRATCH],
    ),
    row("qcow2, 8 TiB almost empty", HUGE, "qemu-img convert -f raw -O qcow2 $disk $image", &FILE, &[QEMU_IMG]),
    row("vdi, 8 TiB almost empty", HUGE, "qemu-img convert -f raw -O vdi $disk $image", &FILE, &[QEMU_IMG]),
    row("vmdk, 1 TiB almost empty", LARGE, "qemu-img convert -f raw -O vmdk $disk $image", &FILE, &[QEMU_IMG_ALONE]),
    served("http, qcow2", SYSTEM, MAKE_QCOW2, Reached::Http, &[CURL_QEMU_IMG, DOWNLOAD]),
    served("http, qcow2, zlib", SYSTEM, MAKE_QCOW2_ZLIB, Reached::Http, &[CURL_QEMU_IMG, DOWNLOAD]),
    served("http, vmdk, streamOptimized", SYSTEM, MAKE_STREAM, Reached::Http, &[CURL_QEMU_IMG, DOWNLOAD]),
    served("http, raw.gz", SYSTEM, MAKE_GZ, Reached::Http, &[CURL_GZIP, DOWNLOAD]),
    served("http, raw.xz, many blocks", SMALL, MAKE_XZ, Reached::Http, &[CURL_XZ, DOWNLOAD]),
    served("http at 200 Mbit/s, qcow2", SYSTEM, MAKE_QCOW2, Reached::Cable, &[CURL_QEMU_IMG, DOWNLOAD]),
    served("http at 200 Mbit/s, qcow2, zlib", SYSTEM, MAKE_QCOW2_ZLIB, Reached::Cable, &[CURL_QEMU_IMG, DOWNLOAD]),
    served(
        "http at 200 Mbit/s, vmdk, streamOptimized",
        SYSTEM,
        MAKE_STREAM,
        Reached::Cable,
        &[CURL_QEMU_IMG, DOWNLOAD],
    ),
    served("http at 200 Mbit/s, raw.gz", SYSTEM, MAKE_GZ, Reached::Cable, &[CURL_GZIP, DOWNLOAD]),
    served("http at 200 Mbit/s, raw.xz, many blocks", SMALL, MAKE_XZ, Reached::Cable, &[CURL_XZ, DOWNLOAD]),
];
