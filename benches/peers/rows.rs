//! Who converts what: every row names an image, the peers that can do it, each at its best setting, and our goal.
//!
//! Commands find `$disk`, `$image`, `$out` and `$scratch` in their environment, `$url` where the image is served by nginx, and
//! `$registry`. `sparse` writes what it is fed to `$out`, with holes; `twenty` runs a command so often. Nobody waits for stable
//! storage: the peers cannot be told to, and diskferry is told not to.

use std::env;
use std::ffi::OsStr;

use crate::goal::Goal::{self, Beyond, Cpu, Memory, Stored, Time, TimeOf};

/// An image to be converted by everybody.
pub struct Row {
    pub name: &'static str,
    /// The image's name.
    pub image: &'static str,
    /// How the image is reached.
    pub reached: Reached,
    /// Where it is done.
    pub place: Place,
    ours: &'static Contestant,
    peers: &'static [&'static [Contestant]],
    pub goals: &'static [Goal],
    /// Whether system calls are counted too.
    pub counted: bool,
}

/// Where a row's image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// In a file.
    File,
    /// On a server on the same machine.
    Http,
    /// On a server at the other end of a cable that carries 200 Mbit/s. It is the cable that takes the time: one round is enough.
    Cable,
    /// Nowhere yet: a registry that is empty wants it.
    Push,
    /// In a registry on the same machine.
    Pull,
}

/// Where disks are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the caller wants them.
    Given,
    /// On a file system of its own, which can share blocks between files. The image and the disk are on it too.
    Own(&'static [&'static str]),
}

impl Row {
    /// Ours first.
    pub fn contestants(&self) -> impl Iterator<Item = &'static Contestant> {
        std::iter::once(self.ours).chain(self.peers.iter().copied().flatten())
    }

    /// Whether it matters where disks are written to.
    pub fn goes_anywhere(&self) -> bool {
        self.place == Place::Given
            && matches!(self.reached, Reached::File | Reached::Http)
            && self.ours.role == Role::Disk
    }

    const fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    const fn by(mut self, ours: &'static Contestant) -> Self {
        self.ours = ours;
        self
    }

    const fn on(mut self, mkfs: &'static [&'static str]) -> Self {
        self.place = Place::Own(mkfs);
        self
    }
}

/// A tool, or a pipe of them.
pub struct Contestant {
    pub name: &'static str,
    pub command: &'static str,
    /// The tool that not everybody has.
    pub needs: &'static str,
    pub role: Role,
}

/// What a contestant makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The disk, in `$out`.
    Disk,
    /// A copy of the image, out of which this command makes the disk, for it to be compared.
    Copy(&'static str),
    /// Nothing that could be compared.
    Words,
    /// Nothing: it is there to show what the others cannot be faster than.
    Bound,
}

impl Contestant {
    /// Whether its tool is in `path`.
    pub fn is_installed(&self, path: &OsStr) -> bool {
        env::split_paths(path).any(|dir| dir.join(self.needs).exists())
    }

    const fn making(mut self, role: Role) -> Self {
        self.role = role;
        self
    }
}

const fn peer(name: &'static str, needs: &'static str, command: &'static str) -> Contestant {
    Contestant { name, command, needs, role: Role::Disk }
}

/// Our name.
pub const OURS: &str = "diskferry";

const fn ours(command: &'static str) -> Contestant {
    peer(OURS, "sh", command)
}

const FILE: Contestant = ours("$diskferry convert -q --no-sync $image $out");
const PIPE: Contestant = ours("cat $image | $diskferry convert -q --no-sync - $out");
const URL: Contestant = ours("$diskferry convert -q --no-sync $url $out");
const PUSH: Contestant = ours("$diskferry push -q --plain-http $disk docker://$registry/disk:1").making(PUSHED);
const PULL: Contestant =
    ours("$diskferry copy -q --plain-http docker://$registry/disk:1 oci:$scratch:disk").making(PULLED);
const INFO: Contestant = ours("twenty $diskferry info $image").making(Role::Words);
const VERSION: Contestant = ours("twenty $diskferry --version").making(Role::Words);
const CONVERT_TWENTY: Contestant = ours("twenty $diskferry convert -q --no-sync $image $out");

const PUSHED: Role = Role::Copy("$diskferry convert -q --no-sync --plain-http docker://$registry/disk:1 $out");
const PULLED: Role = Role::Copy("$diskferry convert -q --no-sync oci:$scratch:disk $out");

const QEMU_IMG: &[Contestant] = &[
    peer("qemu-img", "qemu-img", "qemu-img convert -O raw $image $out"),
    peer("qemu-img -W", "qemu-img", "qemu-img convert -W -O raw $image $out"),
    peer("qemu-img -m 16 -W", "qemu-img", "qemu-img convert -m 16 -W -O raw $image $out"),
];

/// Where qemu-img takes so long that its settings, which change nothing, are not worth the wait.
const QEMU_IMG_ALONE: &[Contestant] = &[peer("qemu-img", "qemu-img", "qemu-img convert -O raw $image $out")];

const QEMU_IMG_INFO: &[Contestant] =
    &[peer("qemu-img info", "qemu-img", "twenty qemu-img info $image").making(Role::Words)];

const NBDCOPY: &[Contestant] =
    &[peer("nbdcopy", "nbdcopy", "nbdcopy -- [ qemu-nbd --read-only -f ${image##*.} $image ] $out")];

const COPIERS: &[Contestant] = &[
    peer("qemu-img", "qemu-img", "qemu-img convert -f raw -O raw $image $out"),
    peer("qemu-img -m 16 -W", "qemu-img", "qemu-img convert -f raw -m 16 -W -O raw $image $out"),
    peer("cp", "cp", "cp $image $out"),
    peer("cp --sparse=always", "cp", "cp --sparse=always $image $out"),
    peer("nbdcopy", "nbdcopy", "nbdcopy $image $out"),
];

const REFLINK: &[Contestant] = &[peer("cp --reflink", "cp", "cp --reflink=always $disk $out")];

const GZIP: &[Contestant] = &[
    peer("gzip \\| dd", "gzip", "gzip -dc $image | sparse"),
    peer("pigz \\| dd", "pigz", "pigz -dc $image | sparse"),
    peer("igzip \\| dd", "igzip", "igzip -dc $image | sparse"),
    peer("rapidgzip -P2 \\| dd", "rapidgzip", "rapidgzip -P2 -dc $image | sparse"),
];

const BGZF: &[Contestant] = &[peer("bgzip -@2 \\| dd", "bgzip", "bgzip -@2 -dc $image | sparse")];

const XZ: &[Contestant] = &[
    peer("xz \\| dd", "xz", "xz -dc $image | sparse"),
    peer("xz -T2 \\| dd", "xz", "xz -dc -T2 $image | sparse"),
    // xz itself leaves holes when it writes to a file.
    peer("xz -T1 > file", "xz", "xz -T1 -dc $image > $out"),
    peer("xz -T2 > file", "xz", "xz -T2 -dc $image > $out"),
    peer("pixz \\| dd", "pixz", "pixz -d -i $image | sparse"),
];

const ZSTD: &[Contestant] = &[
    peer("zstd \\| dd", "zstd", "zstd -dc $image | sparse"),
    peer("zstd --sparse", "zstd", "zstd -dq --sparse -o $out < $image"),
];

const SCRATCH: &[Contestant] =
    &[peer("cat; qemu-img -W", "qemu-img", "cat $image | cat > $scratch; qemu-img convert -W -O raw $scratch $out")];

const GZIP_SCRATCH: &[Contestant] = &[
    peer("gzip; qemu-img -W", "gzip", "cat $image | gzip -dc > $scratch; qemu-img convert -W -O raw $scratch $out"),
    peer("pigz; qemu-img -W", "pigz", "cat $image | pigz -dc > $scratch; qemu-img convert -W -O raw $scratch $out"),
    peer("igzip; qemu-img -W", "igzip", "cat $image | igzip -dc > $scratch; qemu-img convert -W -O raw $scratch $out"),
    peer(
        "rapidgzip; qemu-img -W",
        "rapidgzip",
        "cat $image | rapidgzip -P2 -dc > $scratch; qemu-img convert -W -O raw $scratch $out",
    ),
];

const XZ_SCRATCH: &[Contestant] = &[
    peer("xz; qemu-img -W", "xz", "cat $image | xz -T0 -dc > $scratch; qemu-img convert -W -O raw $scratch $out"),
    peer("pixz; qemu-img -W", "pixz", "cat $image | pixz -d > $scratch; qemu-img convert -W -O raw $scratch $out"),
];

const CURL_QEMU_IMG: &[Contestant] = &[
    peer("curl; qemu-img -W", "curl", "curl -sSf -o $scratch $url; qemu-img convert -m 16 -W -O raw $scratch $out"),
    peer(
        "nbdkit curl, qemu-img",
        "nbdkit",
        "nbdkit -U - curl url=$url --run 'qemu-img convert -m 16 -W -O raw \"$uri\" $out'",
    ),
];

const CURL_GZIP: &[Contestant] = &[
    peer("curl \\| gzip \\| dd", "curl", "curl -sSf $url | gzip -dc | sparse"),
    peer("curl \\| pigz \\| dd", "pigz", "curl -sSf $url | pigz -dc | sparse"),
    peer("curl \\| igzip \\| dd", "igzip", "curl -sSf $url | igzip -dc | sparse"),
];

const CURL_XZ: &[Contestant] = &[
    peer("curl \\| xz \\| dd", "xz", "curl -sSf $url | xz -T0 -dc | sparse"),
    peer("curl \\| xz > file", "xz", "curl -sSf $url | xz -T0 -dc > $out"),
];

/// The transfer by itself.
const DOWNLOAD: &[Contestant] =
    &[peer("the download alone", "curl", "curl -sSf -o /dev/null $url").making(Role::Bound)];

const SKOPEO_PUSH: &[Contestant] = &[peer(
    "skopeo copy",
    "skopeo",
    "skopeo copy -q --preserve-digests --dest-tls-verify=false oci:$image:disk docker://$registry/disk:1",
)
.making(PUSHED)];

const SKOPEO_PULL: &[Contestant] = &[peer(
    "skopeo copy",
    "skopeo",
    "skopeo copy -q --preserve-digests --src-tls-verify=false docker://$registry/disk:1 oci:$scratch:disk",
)
.making(PULLED)];

/// Ourselves without the sandbox.
const UNCONFINED: &[Contestant] =
    &[peer("--sandbox off", "sh", "$diskferry convert -q --no-sync --sandbox off $image $out")];
const UNCONFINED_INFO: &[Contestant] =
    &[peer("--sandbox off", "sh", "twenty $diskferry info --sandbox off $image").making(Role::Words)];

const TRUE: &[Contestant] = &[peer("true", "true", "twenty /bin/true").making(Role::Words)];
const CP_TWENTY: &[Contestant] = &[peer("cp", "cp", "twenty cp $disk $out")];

const XFS: &[&str] = &["mkfs.xfs", "-q", "-m", "reflink=1"];
const BTRFS: &[&str] = &["mkfs.btrfs", "-q"];

const fn row(
    name: &'static str,
    image: &'static str,
    peers: &'static [&'static [Contestant]],
    goals: &'static [Goal],
) -> Row {
    let (reached, place) = (Reached::File, Place::Given);
    Row { name, image, reached, place, ours: &FILE, peers, goals, counted: false }
}

/// An image on a server.
const fn served(
    name: &'static str,
    image: &'static str,
    reached: Reached,
    peers: &'static [&'static [Contestant]],
    goals: &'static [Goal],
) -> Row {
    Row { reached, ours: &URL, ..row(name, image, peers, goals) }
}

/// Every row, in the order of the table.
pub static ROWS: &[Row] = &[
    row("qcow2", "system.qcow2", &[QEMU_IMG, NBDCOPY], &[Time(0.80), Cpu(0.70)]).counted(),
    row("qcow2, from a pipe", "system.qcow2", &[SCRATCH], &[]).by(&PIPE),
    row("qcow2, zlib", "zlib.qcow2", &[QEMU_IMG, NBDCOPY], &[Time(0.40), Cpu(0.45)]).counted(),
    row("qcow2, zstd", "zstd.qcow2", &[QEMU_IMG, NBDCOPY], &[Time(0.60)]),
    row("qcow2, clusters of 4 KiB", "4k.qcow2", &[QEMU_IMG], &[Time(0.45)]),
    row("qcow2, clusters of 4 KiB, zlib", "4k-zlib.qcow2", &[QEMU_IMG_ALONE], &[Time(0.10)]),
    row("qcow2, clusters of 512 bytes", "512.qcow2", &[QEMU_IMG], &[Time(0.10)]),
    row("qcow2, clusters in no order", "shuffled.qcow2", &[QEMU_IMG], &[Time(0.30)]),
    row("vmdk, monolithicSparse", "system.vmdk", &[QEMU_IMG, NBDCOPY], &[Time(0.80)]),
    row("vmdk, streamOptimized", "stream.vmdk", &[QEMU_IMG, NBDCOPY], &[Time(0.28)]).counted(),
    row("vdi", "system.vdi", &[QEMU_IMG, NBDCOPY], &[Time(0.80)]),
    row("raw", "system.raw", &[COPIERS], &[Time(1.0)]).counted(),
    row("raw.gz", "system.raw.gz", &[GZIP], &[Time(0.60), TimeOf("gzip \\| dd", 0.12)]).counted(),
    row("raw.gz, BGZF", "blocks.raw.gz", &[BGZF, GZIP], &[]),
    row("raw.xz, one block", "small.raw.xz", &[XZ], &[Time(0.88), Memory(40)]),
    row("raw.xz, many blocks", "blocks.raw.xz", &[XZ], &[Time(0.90)]),
    row("raw.zst", "system.raw.zst", &[ZSTD], &[Time(0.85)]),
    row("qcow2.gz, from a pipe", "system.qcow2.gz", &[GZIP_SCRATCH], &[Time(0.80), TimeOf("gzip; qemu-img -W", 0.30)])
        .by(&PIPE),
    row("qcow2.xz, from a pipe", "small.qcow2.xz", &[XZ_SCRATCH], &[Time(0.80)]).by(&PIPE),
    row("qcow2, 8 TiB almost empty", "huge.qcow2", &[QEMU_IMG], &[Time(0.10)]),
    row("qcow2, 8 TiB, 8192 clusters", "scattered.qcow2", &[QEMU_IMG_ALONE], &[Time(0.05)]),
    row("vdi, 8 TiB almost empty", "huge.vdi", &[QEMU_IMG_ALONE], &[Time(0.05)]),
    row("vmdk, 1 TiB almost empty", "large.vmdk", &[QEMU_IMG_ALONE], &[Time(0.05)]),
    row("qcow2, 256 GiB preallocated, empty", "preallocated.qcow2", &[QEMU_IMG], &[Time(2.0)]),
    row("qcow2, shared on XFS", "system.qcow2", &[REFLINK, QEMU_IMG], &[TimeOf("cp --reflink", 2.0), Stored(0.05)])
        .on(XFS),
    row("qcow2, shared on btrfs", "system.qcow2", &[REFLINK, QEMU_IMG], &[TimeOf("cp --reflink", 2.0), Stored(0.05)])
        .on(BTRFS),
    row("raw, shared on XFS", "system.raw", &[REFLINK, COPIERS], &[TimeOf("cp --reflink", 2.0), Stored(0.05)]).on(XFS),
    row("raw, shared on btrfs", "system.raw", &[REFLINK, COPIERS], &[TimeOf("cp --reflink", 2.0), Stored(0.05)])
        .on(BTRFS),
    served("http, qcow2", "system.qcow2", Reached::Http, &[CURL_QEMU_IMG, DOWNLOAD], &[Time(0.85)]),
    served("http, qcow2, zlib", "zlib.qcow2", Reached::Http, &[CURL_QEMU_IMG, DOWNLOAD], &[Time(0.40)]),
    served("http, vmdk, streamOptimized", "stream.vmdk", Reached::Http, &[CURL_QEMU_IMG, DOWNLOAD], &[Time(0.40)]),
    served("http, raw.gz", "system.raw.gz", Reached::Http, &[CURL_GZIP, DOWNLOAD], &[Time(0.60)]),
    served("http, raw.xz, many blocks", "blocks.raw.xz", Reached::Http, &[CURL_XZ, DOWNLOAD], &[]),
    served("http at 200 Mbit/s, qcow2", "small.qcow2", Reached::Cable, &[CURL_QEMU_IMG, DOWNLOAD], &[]),
    served("http at 200 Mbit/s, qcow2, zlib", "small-zlib.qcow2", Reached::Cable, &[CURL_QEMU_IMG, DOWNLOAD], &[]),
    served(
        "http at 200 Mbit/s, vmdk, streamOptimized",
        "small-stream.vmdk",
        Reached::Cable,
        &[CURL_QEMU_IMG, DOWNLOAD],
        &[],
    ),
    served("http at 200 Mbit/s, raw.gz", "small.raw.gz", Reached::Cable, &[CURL_GZIP, DOWNLOAD], &[]),
    served("http at 200 Mbit/s, raw.xz, many blocks", "blocks.raw.xz", Reached::Cable, &[CURL_XZ, DOWNLOAD], &[]),
    Row { reached: Reached::Push, ours: &PUSH, ..row("registry, push", "layout", &[SKOPEO_PUSH], &[Time(1.0)]) },
    Row { reached: Reached::Pull, ours: &PULL, ..row("registry, pull", "layout", &[SKOPEO_PULL], &[Time(1.0)]) },
    row("info x 20, qcow2", "system.qcow2", &[QEMU_IMG_INFO], &[Time(0.5)]).by(&INFO),
    row("info x 20, vmdk, streamOptimized", "stream.vmdk", &[QEMU_IMG_INFO], &[Time(0.5)]).by(&INFO),
    row("info x 20, vdi of 8 TiB", "huge.vdi", &[QEMU_IMG_INFO], &[Time(0.5)]).by(&INFO),
    row("sandbox, qcow2, zlib", "zlib.qcow2", &[UNCONFINED], &[]),
    row("sandbox, info x 20", "small.qcow2.xz", &[UNCONFINED_INFO], &[]).by(&INFO),
    row("start x 20", "tiny.raw", &[TRUE], &[Beyond(200)]).by(&VERSION),
    row("10 MiB x 20, raw", "tiny.raw", &[CP_TWENTY], &[Beyond(200)]).by(&CONVERT_TWENTY),
    row("10 MiB x 20, qcow2", "tiny.qcow2", &[CP_TWENTY], &[Beyond(200)]).by(&CONVERT_TWENTY),
];
