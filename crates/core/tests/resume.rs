//! A conversion that goes on where another one was interrupted ends with the same disk, wherever that was.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use diskferry::sink::Sink;
use diskferry::source::Ranges;
use diskferry::{Course, Input, Options, Progress, Result, open};

const SIZE: usize = 24 << 20;

/// A disk in memory.
#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl Sink for Memory {
    fn prepare(&self, size: Option<u64>) -> Result<()> {
        self.0.lock().unwrap().resize(usize::try_from(size.unwrap()).unwrap(), 0);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[start..start + usize::try_from(len).unwrap()].fill(0);
        Ok(())
    }

    fn is_resumable(&self) -> bool {
        true
    }

    fn finish(&self, size: u64) -> Result<()> {
        assert_eq!(self.0.lock().unwrap().len() as u64, size);
        Ok(())
    }
}

/// A server, and how many bytes it was asked for since the stream began anew.
struct Server {
    image: Arc<Vec<u8>>,
    sent: Arc<AtomicU64>,
}

struct Counted(Cursor<Vec<u8>>, Arc<AtomicU64>);

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(buf)?;
        self.1.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

impl Ranges for Server {
    fn read_at(&mut self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        let rest = self.image.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(Some(len))
    }

    fn forward(&mut self, at: u64) -> io::Result<Option<Box<dyn Read + Send>>> {
        let rest = self.image[usize::try_from(at).unwrap()..].to_vec();
        Ok(Some(Box::new(Counted(Cursor::new(rest), Arc::clone(&self.sent)))))
    }
}

fn ranged(image: &Arc<Vec<u8>>, sent: &Arc<AtomicU64>) -> Input {
    let whole = Counted(Cursor::new(image.to_vec()), Arc::clone(sent));
    let ranges = Server { image: Arc::clone(image), sent: Arc::clone(sent) };
    Input::Ranged { reader: Box::new(whole), len: Some(image.len() as u64), ranges: Box::new(ranges) }
}

/// A disk with data that packs and data that does not, and with holes.
fn disk() -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut disk = vec![0; SIZE];
    for (number, part) in disk.chunks_mut(192 << 10).enumerate() {
        for word in part.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match number % 5 {
                0 => {}
                1 => word.fill(u8::try_from(number % 251).unwrap()),
                _ => word.copy_from_slice(&state.to_le_bytes()[..word.len()]),
            }
        }
    }
    disk
}

fn image(dir: &Path, disk: &[u8], args: &[&str]) -> Vec<u8> {
    let (from, to) = (dir.join("disk"), dir.join("image"));
    fs::write(&from, disk).unwrap();
    let made = Command::new("qemu-img").args(["convert", "-f", "raw"]).args(args).args([&from, &to]).status().unwrap();
    assert!(made.success());
    fs::read(to).unwrap()
}

/// What `qemu-img` does not make: a disc.
const ISO: &[&str] = &["-O", "iso"];

/// A disc with `data` on it.
fn disc(dir: &Path, data: &[u8]) -> Vec<u8> {
    let (tree, disc) = (dir.join("tree"), dir.join("disc"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("data"), data).unwrap();
    let made = Command::new("genisoimage").args(["-quiet", "-o"]).args([&disc, &tree]).status().unwrap();
    assert!(made.success());
    fs::read(disc).unwrap()
}

#[test]
fn a_conversion_that_goes_on_ends_with_the_same_disk() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), disk());
    let kinds: [&[&str]; 9] = [
        &["-O", "raw"],
        ISO,
        &["-O", "qcow2"],
        // With more tables than are read ahead of a stream.
        &["-O", "qcow2", "-o", "cluster_size=512"],
        &["-O", "qcow2", "-c"],
        &["-O", "qcow2", "-c", "-o", "compression_type=zstd,cluster_size=4k"],
        &["-O", "vmdk"],
        &["-O", "vmdk", "-o", "subformat=streamOptimized"],
        &["-O", "vdi"],
    ];
    for kind in kinds {
        let image = Arc::new(if kind == ISO { disc(dir.path(), &disk) } else { image(dir.path(), &disk, kind) });
        let disk = if kind == ISO { image.to_vec() } else { disk.clone() };
        let from_file = || {
            let path = dir.path().join("source");
            fs::write(&path, image.as_slice()).unwrap();
            Input::File(File::open(path).unwrap())
        };
        let sent = Arc::new(AtomicU64::new(0));
        for is_file in [false, true] {
            let input = || if is_file { from_file() } else { ranged(&image, &sent) };
            let options = Options { threads: 2, ..Options::default() };
            let opened = || open(input(), &options, &Progress::default()).unwrap();
            let (sink, marks) = (Memory::default(), Mutex::new(Vec::new()));
            let mark = |named| {
                marks.lock().unwrap().push((named, sink.0.lock().unwrap().clone()));
                Ok(())
            };
            assert!(opened().is_resumable());
            opened().convert_along(&sink, Some(&Course { from: 0, every: 2 << 20, mark: &mark })).unwrap();
            assert!(*sink.0.lock().unwrap() == disk, "{kind:?}");
            let marks = marks.into_inner().unwrap();
            assert!(marks.len() >= 6, "{kind:?}: {} marks", marks.len());
            assert!(marks.is_sorted_by(|one, next| one.0 < next.0));
            for (number, (from, begun)) in marks.iter().enumerate() {
                sent.store(0, Ordering::Relaxed);
                let sink = Memory(Mutex::new(begun.clone()));
                let ignored = |_| Ok(());
                let course = Course { from: *from, every: u64::MAX, mark: &ignored };
                let report = opened().convert_along(&sink, Some(&course)).unwrap();
                assert!(*sink.0.lock().unwrap() == disk, "{kind:?} from {from}");
                // Where tables and markers are everywhere, they are read with what is beside them.
                let most = image.len() as u64 + (2 << 20);
                assert!(report.transferred <= most, "{kind:?} from {from}: {} of {most}", report.transferred);
                assert!(report.spooled <= 2 << 20, "{kind:?} from {from}: {}", report.spooled);
                // What has passed by then is not asked for again, but for metadata and what is read ahead. Packed units count as
                // what they may take at most.
                if kind.contains(&"subformat=streamOptimized") {
                    continue; // it is read by the markers between its grains, which are everywhere
                }
                let is_last = number + 1 == marks.len();
                let passed = if kind.len() == 2 { (number as u64 + 1) * (2 << 20) } else { 0 };
                let rest = image.len() as u64 - passed + (3 << 20);
                let most = if is_last { 6 << 20 } else { rest };
                assert!(sent.load(Ordering::Relaxed) <= most, "{kind:?} from {from}: {sent:?} of {most}");
            }
        }
    }
}

#[test]
fn what_cannot_go_on_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), &disk(), &["-O", "qcow2"]);
    let resumable = |input, options: &Options| open(input, options, &Progress::default()).unwrap().is_resumable();
    let stream = |bytes: &[u8]| Input::Stream { reader: Box::new(Cursor::new(bytes.to_vec())), len: None };
    assert!(!resumable(stream(&image), &Options::default()));
    let packed = Arc::new(diskferry_testkit::wrap::xz(&image, &[]));
    assert!(!resumable(ranged(&packed, &Arc::default()), &Options::default()));
    let digests = Options { digests: vec![diskferry::digest::Algorithm::Sha256], ..Options::default() };
    assert!(!resumable(ranged(&Arc::new(image), &Arc::default()), &digests));
}
