//! The disks that everybody has to bring forth, and the images of them.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use diskferry_testkit::Random;
use diskferry_testkit::qcow2::{Cluster, Qcow2};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A raw disk: its name and what is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disk {
    /// A partition table and a system's programs, libraries and texts in ext4: a quarter is data.
    System,
    /// The same with a quarter of the data, where making the image or a peer is slow.
    Small,
    /// 10 MiB.
    Tiny,
    /// Bytes that nothing can shorten, twice as many as the system has.
    Noise,
    /// 8 TiB, almost only holes.
    Huge,
    /// 8 TiB, with thousands of pieces of 64 KiB spread over them.
    Scattered,
    /// 1 TiB, almost only holes, for peers whose time goes by the virtual size.
    Large,
    /// 256 GiB without data.
    Empty,
}

/// An image, told by the name of its file.
pub struct Image {
    pub name: &'static str,
    pub disk: Disk,
    make: Make,
}

/// How an image is made.
enum Make {
    /// By a shell, `$image` from `$disk`.
    By(&'static str),
    /// By the writer of the testkit: a qcow2 whose clusters lie in a random order.
    Shuffled,
}

const fn image(name: &'static str, disk: Disk, make: &'static str) -> Image {
    Image { name, disk, make: Make::By(make) }
}

/// Every image that a row converts.
static IMAGES: &[Image] = &[
    image("system.qcow2", Disk::System, "qemu-img convert -f raw -O qcow2 $disk $image"),
    image("zlib.qcow2", Disk::System, "qemu-img convert -f raw -O qcow2 -c -m 16 $disk $image"),
    image(
        "zstd.qcow2",
        Disk::System,
        "qemu-img convert -f raw -O qcow2 -c -m 16 -o compression_type=zstd $disk $image",
    ),
    image("4k.qcow2", Disk::System, "qemu-img convert -f raw -O qcow2 -o cluster_size=4k $disk $image"),
    image("4k-zlib.qcow2", Disk::Small, "qemu-img convert -f raw -O qcow2 -c -m 16 -o cluster_size=4k $disk $image"),
    image("512.qcow2", Disk::Small, "qemu-img convert -f raw -O qcow2 -o cluster_size=512 $disk $image"),
    Image { name: "shuffled.qcow2", disk: Disk::Small, make: Make::Shuffled },
    image("system.vmdk", Disk::System, "qemu-img convert -f raw -O vmdk $disk $image"),
    image("stream.vmdk", Disk::System, "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized $disk $image"),
    image("system.vdi", Disk::System, "qemu-img convert -f raw -O vdi $disk $image"),
    image("system.raw", Disk::System, "cp --sparse=always $disk $image"),
    image("system.raw.gz", Disk::System, "gzip -c $disk > $image"),
    image("system.raw.zst", Disk::System, "zstd -q -T0 -o $image $disk"),
    image("blocks.raw.gz", Disk::System, "bgzip -@2 -c $disk > $image"),
    image("small.raw.xz", Disk::Small, "xz -T1 -c $disk > $image"),
    image("blocks.raw.xz", Disk::Small, "xz -T2 -c $disk > $image"),
    image(
        "system.qcow2.gz",
        Disk::System,
        "qemu-img convert -f raw -O qcow2 $disk $image.tmp; gzip -c $image.tmp > $image; rm $image.tmp",
    ),
    image(
        "small.qcow2.xz",
        Disk::Small,
        "qemu-img convert -f raw -O qcow2 $disk $image.tmp; xz -T2 -c $image.tmp > $image; rm $image.tmp",
    ),
    image("small.qcow2", Disk::Small, "qemu-img convert -f raw -O qcow2 $disk $image"),
    image("small-zlib.qcow2", Disk::Small, "qemu-img convert -f raw -O qcow2 -c -m 16 $disk $image"),
    image(
        "small-stream.vmdk",
        Disk::Small,
        "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized $disk $image",
    ),
    image("small.raw.gz", Disk::Small, "gzip -c $disk > $image"),
    image("huge.qcow2", Disk::Huge, "qemu-img convert -f raw -O qcow2 $disk $image"),
    image("huge.vdi", Disk::Huge, "qemu-img convert -f raw -O vdi $disk $image"),
    image("scattered.qcow2", Disk::Scattered, "qemu-img convert -f raw -O qcow2 $disk $image"),
    image("large.vmdk", Disk::Large, "qemu-img convert -f raw -O vmdk $disk $image"),
    image(
        "preallocated.qcow2",
        Disk::Empty,
        "qemu-img create -q -f qcow2 -o preallocation=metadata $image $(stat -c %s $disk)",
    ),
    image("tiny.qcow2", Disk::Tiny, "qemu-img convert -f raw -O qcow2 $disk $image"),
    image("tiny.raw", Disk::Tiny, "cp $disk $image"),
    // A directory: an image layout.
    image("layout", Disk::Noise, "$diskferry push -q $disk oci:$image:disk"),
];

/// The image of that name.
pub fn named(name: &str) -> &'static Image {
    IMAGES.iter().find(|image| image.name == name).unwrap_or_else(|| panic!("no image is named {name}"))
}

/// How large the disks are, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Data on the system's disk.
    data: u64,
    huge: u64,
    large: u64,
    empty: u64,
    /// Pieces of data on a sparse disk, and on the scattered one.
    pieces: [u64; 2],
}

impl Sizes {
    /// With so many MiB of data.
    pub fn full(data: u64) -> Self {
        Self { data: data * MIB, huge: 8 * TIB, large: TIB, empty: 256 * GIB, pieces: [256, 8192] }
    }

    /// As small as can be while every row still does what it does.
    pub fn smoke() -> Self {
        Self { data: 8 * MIB, huge: TIB, large: 4 * GIB, empty: GIB, pieces: [8, 64] }
    }
}

/// Disks and images in a directory. What is there already, made in the same way, is taken as it is.
pub struct Store<'a> {
    pub dir: &'a Path,
    pub sizes: Sizes,
    /// What runs the commands that make images: `$diskferry` and the path are set.
    pub shell: &'a dyn Fn(&str) -> Command,
}

impl Store<'_> {
    /// The path of `disk`.
    pub fn disk(&self, disk: Disk) -> PathBuf {
        let Sizes { data, huge, large, empty, pieces: [few, many] } = self.sizes;
        self.stored(&format!("{disk:?}.disk").to_lowercase(), &format!("{:?}", self.sizes), |path| match disk {
            Disk::System => self.system(path, data),
            Disk::Small => self.system(path, data / 4),
            Disk::Tiny => noise(path, 10 * MIB).unwrap(),
            Disk::Noise => noise(path, data * 2).unwrap(),
            Disk::Huge => sparse(path, huge, few),
            Disk::Scattered => sparse(path, huge, many),
            Disk::Large => sparse(path, large, few),
            Disk::Empty => sparse(path, empty, 0),
        })
    }

    /// The path of `image`.
    pub fn image(&self, image: &Image) -> PathBuf {
        let disk = self.disk(image.disk);
        let how = match image.make {
            Make::By(command) => command,
            Make::Shuffled => "shuffled",
        };
        self.stored(image.name, &format!("{:?} {how}", self.sizes), |path| match image.make {
            Make::By(command) => {
                let status = (self.shell)(command).env("disk", &disk).env("image", path).status().unwrap();
                assert!(status.success(), "{command}: {status}");
            }
            Make::Shuffled => {
                let program = env::current_exe().unwrap();
                let status = Command::new(program).arg("--shuffle").arg(&disk).arg(path).status().unwrap();
                assert!(status.success(), "shuffling {}: {status}", disk.display());
            }
        })
    }

    /// The path of `name`, which `make` makes unless it was made before by what `how` says.
    fn stored(&self, name: &str, how: &str, make: impl FnOnce(&Path)) -> PathBuf {
        let [path, part, note] = ["", ".part", ".how"].map(|end| self.dir.join(format!("{name}{end}")));
        if path.exists() && fs::read_to_string(&note).is_ok_and(|was| was == how) {
            return path;
        }
        for old in [&path, &part] {
            remove(old);
        }
        eprintln!("  making {name}");
        make(&part);
        fs::rename(part, &path).unwrap();
        fs::write(note, how).unwrap();
        path
    }

    /// A disk with one partition, an ext4 file system with `data` bytes in it; it is four times as large.
    fn system(&self, disk: &Path, data: u64) {
        const BEFORE: u64 = MIB;
        let tree = tempfile::tempdir_in(self.dir).unwrap();
        let mut taken = 0;
        for path in files() {
            if taken >= data {
                break;
            }
            let copy = tree.path().join(path.strip_prefix("/").unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            taken += fs::copy(path, copy).unwrap_or(0);
        }
        assert!(taken >= data, "this system has no {data} bytes of programs and libraries: give a smaller --size");
        let kib = data * 4 / KIB;
        // The second table of partitions is behind the last one.
        File::create(disk).unwrap().set_len(BEFORE + kib * KIB + MIB).unwrap();
        let make = format!(
            "echo 'label: gpt\nstart={}, size={}, type=linux' | sfdisk -q $disk\n\
             mke2fs -q -t ext4 -E offset={BEFORE} -d $tree $disk {kib}k",
            BEFORE / 512,
            kib * 2,
        );
        let made = (self.shell)(&make).env("tree", tree.path()).env("disk", disk).status().unwrap();
        assert!(made.success(), "{make}");
    }
}

/// Removes a file or a directory, if it is there.
pub fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    assert!(removed.is_ok_and(|()| true) || !path.exists(), "{} cannot be removed", path.display());
}

/// Files of this system, in an order that mixes programs, libraries and texts, the same every time.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories: Vec<PathBuf> = ["/usr/bin", "/usr/lib", "/usr/share"].map(PathBuf::from).into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort_by_cached_key(|path| {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        hasher.finish()
    });
    files
}

/// A disk of `size` bytes with `pieces` of 64 KiB spread over it.
fn sparse(disk: &Path, size: u64, pieces: u64) {
    let file = File::create(disk).unwrap();
    file.set_len(size).unwrap();
    let random = &mut Random::new(size);
    for n in 0..pieces {
        file.write_all_at(&random.text(64 << 10), (size / pieces * n).next_multiple_of(64 * KIB)).unwrap();
    }
}

/// `size` bytes that nothing can shorten.
fn noise(disk: &Path, size: u64) -> io::Result<()> {
    let mut file = File::create(disk)?;
    let random = &mut Random::new(size);
    let mut buf = vec![0; 1 << 20];
    for _ in 0..size / MIB {
        random.fill(&mut buf);
        file.write_all(&buf)?;
    }
    Ok(())
}

/// `disk` as a qcow2 whose clusters were written in no order.
pub fn shuffled(disk: &Path, image: &Path) -> io::Result<()> {
    let disk = fs::read(disk)?;
    let mut qcow2 = Qcow2 { shuffle: Some(1), ..Qcow2::new(disk.len() as u64) };
    let size = usize::try_from(qcow2.cluster_size()).unwrap();
    let clusters = (0..).zip(disk.chunks(size)).filter(|(_, data)| data.iter().any(|byte| *byte != 0));
    qcow2.clusters = clusters.map(|(guest, data)| (guest, Cluster::Plain(data.to_vec()))).collect();
    fs::write(image, qcow2.build().image)
}
