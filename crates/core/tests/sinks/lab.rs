//! Loop devices and mounts that go away with the test, and bytes that say where they belong.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use diskferry::Error;
use tempfile::TempDir;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// What was on the target before: somebody else's data.
pub const OLD: u8 = 0xA5;

/// A loop device over a file of its own.
pub struct Loop {
    pub path: PathBuf,
    pub image: PathBuf,
    _place: Place,
}

impl Loop {
    pub fn full_of_old_bytes(size: u64, options: &[&str]) -> Self {
        Self::full_of_old_bytes_in(Place::Dir(tempfile::tempdir().unwrap()), size, options)
    }

    /// A device that can do no more than the filesystem it is kept on.
    pub fn full_of_old_bytes_on(filesystem: Mount, size: u64) -> Self {
        Self::full_of_old_bytes_in(Place::Mount(filesystem), size, &[])
    }

    pub fn blank(size: u64) -> Self {
        let place = Place::Dir(tempfile::tempdir().unwrap());
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

/// Others look for a free device at the same time, and losers are told that it is busy.
fn attach(arguments: &[&str]) -> PathBuf {
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
    pub path: PathBuf,
    _dir: TempDir,
    _device: Option<Box<Loop>>,
}

impl Mount {
    pub fn tmpfs(size: &str) -> Self {
        Self::at_new_place(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], None)
    }

    /// A filesystem that cannot punch holes.
    pub fn ramfs() -> Self {
        Self::at_new_place(&["-t", "ramfs", "ramfs"], None)
    }

    /// A filesystem made by `mkfs` on a device of `size` bytes.
    pub fn made_by(mkfs: &[&str], size: u64) -> Self {
        let device = Loop::blank(size);
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

pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// `len` bytes that say where on the disk they belong; never zero, and never [`OLD`].
pub fn pattern(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(|at| u8::try_from(at % 127).unwrap() + 1).collect()
}

pub fn zeroes(len: u64) -> Vec<u8> {
    vec![0; usize::try_from(len).unwrap()]
}

/// Where `found` first differs from `expected`; byte by byte output of megabytes helps nobody.
pub fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
        panic!("byte {at} is {:#x}, not {:#x}", found[at], expected[at]);
    }
}

pub fn code<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").code()
}
