//! Loop devices and mounts that go away with the test. They need root; `scripts/test` leaves the modules that use them out where it
//! cannot have them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What was on a target before: somebody else's data.
pub const OLD: u8 = 0xA5;

/// A loop device over a file of its own.
pub struct Loop {
    /// Its name.
    pub path: PathBuf,
    /// The file under it.
    pub image: PathBuf,
    _place: Place,
}

impl Loop {
    /// One of `size` bytes, attached with more `options` of `losetup`.
    pub fn full_of_old_bytes(size: u64, options: &[&str]) -> Self {
        Self::full_of_old_bytes_in(Place::Dir(tempfile::tempdir().unwrap()), size, options)
    }

    /// A device that can do no more than the filesystem it is kept on.
    pub fn full_of_old_bytes_on(filesystem: Mount, size: u64) -> Self {
        Self::full_of_old_bytes_in(Place::Mount(filesystem), size, &[])
    }

    /// One that reads as zero.
    pub fn blank(size: u64) -> Self {
        let place = Place::Dir(tempfile::tempdir().unwrap());
        File::create(place.image()).unwrap().set_len(size).unwrap();
        Self::over(place, &[])
    }

    /// One of `size` bytes that lies on a filesystem with less room.
    pub fn overcommitted(size: u64, below: Mount) -> Self {
        let place = Place::Mount(below);
        File::create(place.image()).unwrap().set_len(size).unwrap();
        Self::over(place, &[])
    }

    fn full_of_old_bytes_in(place: Place, size: u64, options: &[&str]) -> Self {
        fs::write(place.image(), vec![OLD; usize::try_from(size).unwrap()]).unwrap();
        Self::over(place, options)
    }

    fn over(place: Place, options: &[&str]) -> Self {
        let image = place.image();
        let arguments = [&["--show", "-f"], options, &[image.to_str().unwrap()]].concat();
        Self { path: attach(&arguments), image, _place: place }
    }
}

/// What must outlive a loop device.
enum Place {
    Dir(TempDir),
    Mount(Mount),
}

impl Place {
    fn image(&self) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.path(),
            Self::Mount(mount) => &mount.path,
        }
        .join("image")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["-d", self.path.to_str().unwrap()]);
    }
}

/// Attaches a device with these arguments of `losetup`. Others look for a free device at the same time, and losers are told that it is busy.
pub fn attach(arguments: &[&str]) -> PathBuf {
    let mut last = String::new();
    for _ in 0..20 {
        match run("losetup", arguments) {
            Ok(name) => return name.trim().into(),
            Err(error) => last = error,
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("no loop device (these tests need root): {last}");
}

/// A mounted filesystem.
pub struct Mount {
    /// Where it is.
    pub path: PathBuf,
    _dir: TempDir,
    _device: Option<Box<Loop>>,
}

impl Mount {
    /// One in memory, with no more room than `size`.
    pub fn tmpfs(size: &str) -> Self {
        Self::at_new_place(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], None)
    }

    /// A filesystem that cannot punch holes.
    pub fn ramfs() -> Self {
        Self::at_new_place(&["-t", "ramfs", "ramfs"], None)
    }

    /// A filesystem made by `mkfs` on a device of `size` bytes.
    pub fn made_by(mkfs: &[&str], size: u64) -> Self {
        Self::made_by_on(mkfs, Loop::blank(size))
    }

    /// A filesystem that believes to have more room than what it lies on: a `mkfs` on a device of `size` bytes in a file on `below`.
    pub fn overcommitted(mkfs: &[&str], size: u64, below: Self) -> Self {
        Self::made_by_on(mkfs, Loop::overcommitted(size, below))
    }

    fn made_by_on(mkfs: &[&str], device: Loop) -> Self {
        let name = device.path.to_str().unwrap().to_owned();
        run(mkfs[0], &[&mkfs[1..], &[&name]].concat()).unwrap();
        Self::at_new_place(&[&name], Some(device.into()))
    }

    fn at_new_place(arguments: &[&str], device: Option<Box<Loop>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        run("mount", &[arguments, &[path.to_str().unwrap()]].concat()).expect("mounting needs root");
        Self { path, _dir: dir, _device: device }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run("umount", &[self.path.to_str().unwrap()]);
    }
}

/// A control group with bounded memory, pages of files included.
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// One that allows so many bytes, named after `what` it is for.
    pub fn new(what: &str, bytes: u64) -> Self {
        let first = Path::new("/sys/fs/cgroup/memory");
        let (parent, limit) = match first.is_dir() {
            true => (first, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let group = parent.join(format!("diskferry-{}-{what}", std::process::id()));
        fs::create_dir(&group).unwrap();
        fs::write(group.join(limit), bytes.to_string()).unwrap();
        Self(group)
    }

    /// Its directory; who writes its number to `cgroup.procs` in it is in it.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Runs a program, and gives what it printed, or what it printed about its failure.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
