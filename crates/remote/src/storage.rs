//! What a block device lies on, as the kernel tells it: nothing must be written over what is being read.
//!
//! An exclusive open refuses what is mounted or claimed, but a disk is not claimed by somebody who reads one of its partitions,
//! nor are a RAID or a logical volume by who reads a disk under them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use diskferry::names;
use rustix::fs::{major, minor};

const SYSFS: &str = "/sys";

/// Something that holds bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Store {
    /// A block device's number, as in `8:1`.
    Device(String),
    /// Any other file: its filesystem and its number there.
    File(u64, u64),
}

impl Store {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            return Self::Device(format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev())));
        }
        Self::File(metadata.dev(), metadata.ino())
    }

    /// The device whose directory in sysfs is `dir`.
    fn at(dir: &Path) -> Option<Self> {
        fs::read_to_string(dir.join("dev")).ok().map(|number| Self::Device(number.trim().to_owned()))
    }
}

/// Whether one of the two is the other, or lies on it: then writing one changes the other.
///
/// Two that lie on the same third, as two partitions do, have nothing to do with each other.
pub(crate) fn is_shared(one: &Metadata, other: &Metadata) -> bool {
    let (one, other) = (Store::of(one), Store::of(other));
    let sysfs = Path::new(SYSFS);
    below(sysfs, &one).contains(&other) || below(sysfs, &other).contains(&one)
}

/// `store` and everything that it lies on. What sysfs does not tell is left out.
fn below(sysfs: &Path, store: &Store) -> BTreeSet<Store> {
    let mut found = BTreeSet::new();
    add(sysfs, store.clone(), &mut found);
    found
}

fn add(sysfs: &Path, store: Store, found: &mut BTreeSet<Store>) {
    let dir = match &store {
        Store::Device(number) => fs::canonicalize(sysfs.join("dev/block").join(number)).ok(),
        Store::File(..) => None,
    };
    if !found.insert(store) {
        return;
    }
    let Some(dir) = dir else { return };
    let disk = dir.parent().filter(|_| dir.join("partition").exists()).and_then(Store::at);
    // Of device mapper, RAID and the like.
    let slaves = dir.join("slaves");
    let slaves = names(&slaves).into_iter().flatten().flatten().filter_map(|name| Store::at(&slaves.join(name)));
    let backing = fs::read(dir.join("loop/backing_file")).ok();
    let backing = backing.and_then(|path| fs::metadata(OsStr::from_bytes(path.trim_ascii_end())).ok());
    for next in disk.into_iter().chain(slaves).chain(backing.map(|metadata| Store::of(&metadata))) {
        add(sysfs, next, found);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// Devices as sysfs shows them: number, directory, and the directories of what they lie on.
    fn sysfs(devices: &[(&str, &str, &[&str])]) -> TempDir {
        let sysfs = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(sysfs.path()).unwrap();
        fs::create_dir_all(root.join("dev/block")).unwrap();
        for (number, dir, slaves) in devices {
            let dir = root.join("devices").join(dir);
            fs::create_dir_all(dir.join("slaves")).unwrap();
            fs::write(dir.join("dev"), format!("{number}\n")).unwrap();
            symlink(&dir, root.join("dev/block").join(number)).unwrap();
            for slave in *slaves {
                let name = Path::new(slave).file_name().unwrap();
                symlink(root.join("devices").join(slave), dir.join("slaves").join(name)).unwrap();
            }
        }
        sysfs
    }

    #[test]
    fn a_volume_on_a_raid_of_partitions_lies_on_both_disks() {
        let sysfs = sysfs(&[
            ("8:0", "pci/block/sda", &[]),
            ("8:1", "pci/block/sda/sda1", &[]),
            ("8:2", "pci/block/sda/sda2", &[]),
            ("8:17", "pci/block/sdb/sdb1", &[]),
            ("8:16", "pci/block/sdb", &[]),
            ("9:0", "virtual/block/md0", &["pci/block/sda/sda1", "pci/block/sdb/sdb1"]),
            ("254:0", "virtual/block/dm-0", &["virtual/block/md0"]),
        ]);
        for partition in ["sda/sda1", "sda/sda2", "sdb/sdb1"] {
            fs::write(sysfs.path().join("devices/pci/block").join(partition).join("partition"), "1\n").unwrap();
        }
        let below = |number: &str| {
            let found = below(sysfs.path(), &Store::Device(number.to_owned()));
            let number = |store| if let Store::Device(number) = store { number } else { panic!("{store:?}") };
            found.into_iter().map(number).collect::<Vec<_>>()
        };
        assert_eq!(below("254:0"), ["254:0", "8:0", "8:1", "8:16", "8:17", "9:0"]);
        assert_eq!(below("8:2"), ["8:0", "8:2"]);
        assert_eq!(below("8:0"), ["8:0"]);
        assert_eq!(below("7:7"), ["7:7"], "what is not there lies on nothing");
    }
}
