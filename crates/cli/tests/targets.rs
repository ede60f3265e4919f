//! Targets that are full, closed, shared with others or full of old bytes, and jobs that have too little memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::judge::is_temporary;
use common::{assert_fails, diskferry, json, names, run};
use diskferry_testkit::oracle::Scratch;
use diskferry_testkit::random::Random;
use rustix::process::{Pid, Signal, kill_process};

/// A raw disk of noise.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut disk = Random::new(seed).bytes(len);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

/// Two directories: the image `disk.img` lies in the one, and the other is for targets.
struct Lab {
    scratch: Scratch,
}

impl Lab {
    fn new() -> Self {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("to")).unwrap();
        Self { scratch }
    }

    fn target(&self) -> String {
        text(self.scratch.path("to/disk.raw"))
    }

    fn names(&self) -> Vec<String> {
        names(&self.scratch.path("to"))
    }

    /// A job that has begun and waits for the rest of its image.
    fn waiting(&self, disk: &[u8]) -> Child {
        let before = self.begun().len();
        let mut command = diskferry(["convert", "-f", "raw", "-", &self.target()]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(&disk[..disk.len() / 2]).unwrap();
        let began = Instant::now();
        while self.begun().len() <= before {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not begin");
            thread::sleep(Duration::from_millis(5));
        }
        child
    }

    fn temporaries(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| is_temporary(name)).collect()
    }

    /// The temporaries that disks are in: others are empty, and gone the next moment.
    fn begun(&self) -> Vec<String> {
        let length = |name: &String| fs::metadata(self.scratch.path("to").join(name)).map_or(0, |file| file.len());
        self.temporaries().into_iter().filter(|name| length(name) > 0).collect()
    }
}

#[test]
fn options_for_files_are_refused_where_the_target_is_none() {
    let lab = Lab::new();
    let image = text(lab.scratch.path("disk.img"));
    fs::write(&image, noise(1, 4096)).unwrap();
    for option in ["--preallocate", "--no-sparse"] {
        for target in ["-", "/dev/null"] {
            let output = run(["convert", option, &image, target]);
            assert_fails(&output, 2);
            assert!(output.stdout.is_empty());
        }
        assert!(run(["convert", option, &image, &lab.target()]).status.success());
    }
}

/// Gives a waiting job the rest of its image.
fn go_on(mut child: Child, disk: &[u8]) -> Output {
    child.stdin.take().unwrap().write_all(&disk[disk.len() / 2..]).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn of_two_jobs_for_one_target_neither_touches_the_others_and_the_last_wins() {
    let (lab, disks) = (Lab::new(), [noise(1, 2 << 20), noise(2, 3 << 20)]);
    let first = lab.waiting(&disks[0]);
    let second = lab.waiting(&disks[1]);
    assert_eq!(lab.temporaries().len(), 2);
    assert!(go_on(second, &disks[1]).status.success());
    assert!(fs::read(lab.target()).unwrap() == disks[1]);
    assert!(go_on(first, &disks[0]).status.success());
    assert!(fs::read(lab.target()).unwrap() == disks[0]);
    assert_eq!(lab.names(), ["disk.raw"]);
}

#[test]
fn what_a_killed_job_left_goes_with_the_next_and_what_a_living_one_writes_stays() {
    let (lab, disk) = (Lab::new(), noise(1, 2 << 20));
    let mut killed = lab.waiting(&disk);
    kill_process(Pid::from_child(&killed), Signal::KILL).unwrap();
    killed.wait().unwrap();
    let left = lab.temporaries();
    assert_eq!(left.len(), 1);
    // The empty one that only asked for permissions is found in the same way.
    fs::write(lab.scratch.path("to/.disk.raw.abcdef.diskferry"), "").unwrap();

    let mut begun = diskferry(["convert", "-f", "raw", "-", &lab.target()]);
    let mut living = begun.stdin(Stdio::piped()).spawn().unwrap();
    living.stdin.as_mut().unwrap().write_all(&disk[..1 << 20]).unwrap();
    let began = Instant::now();
    let writes = loop {
        match &lab.begun()[..] {
            [only] if *only != left[0] => break only.clone(),
            _ => assert!(began.elapsed() < Duration::from_secs(20), "{:?} is left", lab.names()),
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(lab.temporaries(), [&*writes], "what was left is gone");
    let image = text(lab.scratch.write("disk.img", &disk));
    assert!(run(["convert", "-f", "raw", &image, &lab.target()]).status.success());
    assert_eq!(lab.temporaries(), [writes]);
    living.stdin.take().unwrap().write_all(&disk[1 << 20..]).unwrap();
    assert!(living.wait_with_output().unwrap().status.success());
    assert_eq!(lab.names(), ["disk.raw"]);
}

#[test]
fn a_closed_stdout_takes_no_disk_and_is_in_nobodys_way_otherwise() {
    let (lab, disk) = (Lab::new(), noise(1, 1 << 20));
    let image = text(lab.scratch.write("disk.img", &disk));
    let to = |target: &str, stdout: &str| {
        let script = format!("exec \"$0\" convert -f raw \"$1\" \"$2\" {stdout}");
        let args = ["-c", &script, env!("CARGO_BIN_EXE_diskferry"), &image, target];
        Command::new("sh").args(args).stdin(Stdio::null()).output().unwrap()
    };
    let refused = to("-", ">&-");
    assert_fails(&refused, 5);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stdout is closed"), "{refused:?}");
    assert!(to("-", ">/dev/null").status.success(), "thrown away on purpose");
    assert!(to(&lab.target(), ">&-").status.success());
    assert!(fs::read(lab.target()).unwrap() == disk);
}

/// Filesystems that have no room. They need root; `scripts/test` leaves the module out, loudly, where they cannot be had.
mod full {
    use diskferry_testkit::places::{Loop, Mount};
    use diskferry_testkit::qcow2::{Place, Qcow2};

    use super::*;

    /// Carries `len` bytes of noise to a file on `mount`, where there is none and where there is one; both times there is an error of
    /// one of these codes and nothing has changed.
    fn assert_no_room(mount: &Mount, len: usize, codes: &[&str]) {
        let scratch = Scratch::new();
        let image = text(scratch.write("disk.img", &noise(1, len)));
        let target = mount.path.join("disk.raw");
        let is_there = |there: bool| if there { vec!["disk.raw".to_owned()] } else { Vec::new() };
        let mut own = names(&mount.path);
        own.retain(|name| name != "disk.raw");
        for there in [false, true] {
            if there && fs::write(&target, "what it was").is_err() {
                break; // not even that
            }
            let output = run(["convert", "--json", "-f", "raw", &image, target.to_str().unwrap()]);
            assert_fails(&output, 5);
            let code = json(&output)["error"]["code"].as_str().unwrap().to_owned();
            assert!(codes.contains(&code.as_str()), "{code}");
            let found: Vec<_> = names(&mount.path).into_iter().filter(|name| !own.contains(name)).collect();
            assert_eq!(found, is_there(there));
            assert!(!there || fs::read(&target).unwrap() == b"what it was");
        }
    }

    #[test]
    fn a_small_filesystem_is_full_in_the_middle() {
        assert_no_room(&Mount::tmpfs("2m"), 3 << 20, &["target-no-space"]);
        // Blocks are reserved for large pieces, which is what fails first, and counted for small ones.
        assert_no_room(&Mount::made_by(&["mke2fs", "-q", "-t", "ext4"], 8 << 20), 9 << 20, &["target-no-space"]);
    }

    #[test]
    fn a_filesystem_that_takes_no_file_refuses_the_first() {
        assert_no_room(&Mount::tmpfs("2m,nr_inodes=1"), 1 << 20, &["target-cannot-create"]);
    }

    #[test]
    fn a_filesystem_that_finds_out_when_it_is_synced_that_there_is_no_room_fails_the_job() {
        let mount = Mount::overcommitted(&["mke2fs", "-q", "-t", "ext4"], 64 << 20, Mount::tmpfs("8m"));
        // Kernels say it in two ways.
        assert_no_room(&mount, 16 << 20, &["target-no-space", "target-write"]);
    }

    #[test]
    fn a_filesystem_that_is_read_only_is_not_changed() {
        let mount = Mount::tmpfs("4m");
        fs::write(mount.path.join("disk.raw"), "what it was").unwrap();
        let path = mount.path.to_str().unwrap();
        assert!(Command::new("mount").args(["-o", "remount,ro", path]).status().unwrap().success());
        let lab = Lab::new();
        let image = text(lab.scratch.write("disk.img", &noise(1, 1 << 20)));
        for name in ["disk.raw", "new.raw"] {
            let output = run(["convert", "--json", "-f", "raw", &image, mount.path.join(name).to_str().unwrap()]);
            assert_fails(&output, 5);
            let error = &json(&output)["error"];
            assert_eq!(error["code"], "target-cannot-create");
            assert!(!error["message"].as_str().unwrap().contains(".diskferry"), "the directory is named once: {error}");
        }
        assert_eq!(names(&mount.path), ["disk.raw"]);
        assert_eq!(fs::read(mount.path.join("disk.raw")).unwrap(), b"what it was");
    }

    #[test]
    fn a_device_that_is_mounted_is_left_alone() {
        let mount = Mount::made_by(&["mke2fs", "-q", "-t", "ext4"], 8 << 20);
        fs::write(mount.path.join("kept"), "kept").unwrap();
        let device = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&mount.path).output().unwrap();
        let lab = Lab::new();
        let image = text(lab.scratch.write("disk.img", &noise(1, 1 << 20)));
        let output = run(["convert", "--json", "-f", "raw", &image, common::stdout(&device).trim()]);
        assert_fails(&output, 5);
        assert_eq!(json(&output)["error"]["code"], "target-in-use");
        assert_eq!(fs::read(mount.path.join("kept")).unwrap(), b"kept");
    }

    #[test]
    fn a_spool_without_room_is_the_targets_fault_and_leaves_nothing() {
        let (lab, mount) = (Lab::new(), Mount::tmpfs("64k"));
        // Its tables come behind what they map: from a pipe all of it has to wait.
        let image = Qcow2 { l2: Place::Behind, ..Qcow2::new(4 << 20) }.fill(1).build().image;
        let spool = mount.path.to_str().unwrap();
        let args = ["convert", "--json", "--limit-spool-memory", "0", "--spool-dir", spool, "-", &lab.target()];
        let output = common::run_with_pipe(args, &image);
        assert_fails(&output, 5);
        assert_eq!(json(&output)["error"]["code"], "target-no-space");
        assert!(lab.names().is_empty() && names(&mount.path).is_empty());
    }

    #[test]
    fn a_device_that_finds_out_late_that_there_is_no_room_is_unfinished() {
        let device = Loop::overcommitted(16 << 20, Mount::tmpfs("4m"));
        let lab = Lab::new();
        let image = text(lab.scratch.write("disk.img", &noise(1, 12 << 20)));
        let output = run(["convert", "--json", "-f", "raw", &image, device.path.to_str().unwrap()]);
        assert_fails(&output, 5);
        let mut head = vec![1; 1 << 20];
        std::io::Read::read_exact(&mut fs::File::open(&device.path).unwrap(), &mut head).unwrap();
        assert!(head.iter().all(|&byte| byte == 0));
    }
}

/// Targets full of somebody else's data, which nobody must find in what was a hole.
mod device {
    use diskferry_testkit::places::{Loop, Mount, OLD};

    use super::*;
    use crate::common::judge::{Feed, Image, State, Target, judge};

    const SIZE: u64 = (3 << 20) + 512;
    const DEVICE: u64 = 5 << 20;
    const IMAGES: [&str; 8] = ["raw", "qcow2", "vmdk", "vdi", "qcow2.xz", "raw.gz", "vdi.zst", "vmdk.bz2"];
    const HANGS: Duration = Duration::from_secs(40);

    #[test]
    fn no_old_byte_is_in_a_disk_of_any_format_and_none_behind_it_changes() {
        let devices = [
            ("small sectors", Loop::full_of_old_bytes(DEVICE, &[])),
            ("large sectors", Loop::full_of_old_bytes(DEVICE, &["--sector-size", "4096"])),
            ("cannot punch holes", Loop::full_of_old_bytes_on(Mount::ramfs(), DEVICE)),
        ];
        let mut runs = 0;
        for name in IMAGES {
            let scratch = Scratch::new();
            fs::create_dir(scratch.path("to")).unwrap();
            let image = Image::make(scratch.dir(), SIZE, name);
            assert!(image.disk.chunks(4096).filter(|page| page.iter().all(|&byte| byte == 0)).count() > 50, "no holes");
            for (which, device) in &devices {
                let target = Target::Device(device.path.clone());
                for feed in [Feed::File, Feed::Pipe] {
                    target.reset();
                    let output = image.carry(feed, &target, &[]).end(HANGS).unwrap();
                    let outcome = judge(&output, &scratch.path("to"), &target, &image.disk, &[]);
                    assert_eq!(outcome.unwrap().state, State::Complete, "{name} to one of {which}");
                    runs += 1;
                }
            }
        }
        println!("{runs} runs");
    }

    #[test]
    fn no_old_byte_is_in_a_file_that_replaces_one() {
        for name in IMAGES {
            let scratch = Scratch::new();
            fs::create_dir(scratch.path("to")).unwrap();
            let image = Image::make(scratch.dir(), SIZE, name);
            let target = Target::Existing(scratch.path("to/disk.raw"));
            fs::write(target.path(), vec![OLD; usize::try_from(DEVICE).unwrap()]).unwrap();
            let output = image.carry(Feed::File, &target, &[]).end(HANGS).unwrap();
            let outcome = judge(&output, &scratch.path("to"), &target, &image.disk, &[]);
            assert_eq!(outcome.unwrap().state, State::Complete, "{name}");
        }
    }
}

/// A job whose memory a control group bounds, with that of the filesystem that it writes to.
mod container {
    use std::os::unix::process::ExitStatusExt;

    use diskferry_testkit::places::{MemoryGroup, Mount};

    use super::*;

    #[test]
    fn a_job_that_is_killed_for_its_memory_leaves_what_the_next_one_removes() {
        let (lab, disk, mount) = (Lab::new(), noise(1, 48 << 20), Mount::tmpfs("64m"));
        let (image, target) = (text(lab.scratch.write("disk.img", &disk)), mount.path.join("disk.raw"));
        fs::write(&target, "what it was").unwrap();
        let group = MemoryGroup::new("little", 32 << 20);
        let script = "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"";
        let program = ["-c", script, "sh", group.path().to_str().unwrap(), env!("CARGO_BIN_EXE_diskferry")];
        let arguments = ["convert", "-f", "raw", &image, target.to_str().unwrap()];
        let killed = Command::new("sh").args(program).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(killed.status.signal(), Some(Signal::KILL.as_raw()), "{killed:?}");
        assert_eq!(fs::read(&target).unwrap(), b"what it was");
        assert!(matches!(&names(&mount.path)[..], [left, own] if is_temporary(left) && own == "disk.raw"));
        assert!(run(["convert", "-f", "raw", &image, target.to_str().unwrap()]).status.success());
        assert!(fs::read(&target).unwrap() == disk);
        assert_eq!(names(&mount.path), ["disk.raw"]);
    }
}

/// Whatever is typed there that can be no file is refused, and none appears.
#[test]
fn what_nobody_means_as_a_file_is_none() {
    let lab = Lab::new();
    fs::write(lab.scratch.path("disk.img"), noise(1, 1 << 20)).unwrap();
    let image = text(lab.scratch.path("disk.img"));
    let there = text(lab.scratch.path("to/there"));
    fs::write(&there, "x").unwrap();
    for (target, code) in [
        (format!("{there}/"), "target-cannot-create"),
        (text(lab.scratch.path("to/new/")), "target-cannot-create"),
        ("docker://127.0.0.1/disk:1".into(), "target-cannot-create"),
        ("oci:layout:disk".into(), "target-cannot-create"),
        ("http://me:s3cr3t@127.0.0.1/disk.raw".into(), "target-cannot-create"),
        ("s3://bucket/disk.raw".into(), "target-cannot-create"),
        ("/dev/diskferry-no-such-device".into(), "target-not-a-device"),
    ] {
        let output =
            diskferry(["convert", "--json", &image, &target]).current_dir(lab.scratch.path("to")).output().unwrap();
        assert_fails(&output, 5);
        assert_eq!(json(&output)["error"]["code"], code, "{target}: {output:?}");
        assert!(![&output.stdout, &output.stderr].iter().any(|said| said.windows(6).any(|word| word == b"s3cr3t")));
        assert_eq!(lab.names(), ["there"], "{target}");
    }
    assert_eq!(fs::read(there).unwrap(), b"x");
}

#[test]
fn no_image_is_replaced_by_its_own_disk() {
    let lab = Lab::new();
    let image = lab.scratch.path("to/disk.img");
    let bytes = noise(1, 1 << 20);
    fs::write(&image, &bytes).unwrap();
    fs::hard_link(&image, lab.scratch.path("to/other-name")).unwrap();
    std::os::unix::fs::symlink("disk.img", lab.scratch.path("to/link")).unwrap();
    for target in ["disk.img", "./disk.img", "link", "other-name"] {
        let output =
            diskferry(["convert", "--json", "disk.img", target]).current_dir(lab.scratch.path("to")).output().unwrap();
        assert_fails(&output, 5);
        assert_eq!(json(&output)["error"]["code"], "target-is-source", "{target}");
        assert!(fs::read(&image).unwrap() == bytes);
    }
}

/// QEMU says by its locks what it does with a disk.
#[test]
fn a_disk_that_qemu_has_open_is_neither_replaced_nor_read_while_it_is_written() {
    let lab = Lab::new();
    let (image, target) = (text(lab.scratch.path("image")), lab.target());
    let bytes = noise(1, 1 << 20);
    fs::write(&image, &bytes).unwrap();
    fs::write(&target, &bytes).unwrap();
    let code = |from: &str, to: &str| {
        let output = run(["convert", "--json", from, to]);
        if output.status.success() {
            "carried".to_owned()
        } else {
            json(&output)["error"]["code"].as_str().unwrap().into()
        }
    };
    let other = text(lab.scratch.path("other"));
    for (held, read_only, from, to, expected) in [
        (&target, true, &image, &target, "target-in-use"),
        (&target, false, &image, &target, "target-in-use"),
        (&image, true, &image, &other, "carried"),
        (&image, false, &image, &other, "source-in-use"),
    ] {
        let options: &[&str] = if read_only { &["-r"] } else { &[] };
        let mut qemu = Command::new("qemu-io");
        let qemu = qemu.args(options).args(["-f", "raw", held]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut qemu = qemu.spawn().unwrap();
        // It answers when it has the file open.
        let mut answer = [0; 1];
        qemu.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        assert_eq!(code(from, to), expected, "{held}, read-only: {read_only}");
        drop(qemu.stdin.take());
        assert!(qemu.wait().unwrap().success());
        assert_eq!(code(from, to), "carried");
    }
    // A lock of all of it is somebody else's.
    let file = fs::File::open(&image).unwrap();
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::LockShared).unwrap();
    assert_eq!(code(&image, &other), "carried");
    drop(file);
    // Who hands it over has decided.
    let mut qemu = Command::new("qemu-io");
    let mut qemu = qemu.args(["-f", "raw", &image]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    qemu.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
    let output = diskferry(["convert", "-", &other]).stdin(fs::File::open(&image).unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    drop(qemu.stdin.take());
    assert!(qemu.wait().unwrap().success());
}

/// What a process may write to one file is an error of the job like any other.
#[test]
fn a_limit_on_the_size_of_files_ends_no_job_by_a_signal() {
    let lab = Lab::new();
    let (image, out) = (text(lab.scratch.path("image")), text(lab.scratch.path("to/out")));
    fs::write(&image, noise(1, 1 << 20)).unwrap();
    let program = env!("CARGO_BIN_EXE_diskferry");
    // In kibibytes.
    let script = format!("ulimit -f 200; exec '{program}' convert '{image}' - >'{out}'");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_fails(&output, 5);
}
