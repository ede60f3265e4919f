//! What is done to a file, in which order: the kernel's record of all calls says so.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

/// What a test run without the right to trace leaves out.
mod traced {
    use std::fs::{self, File};
    use std::process::{Command, Stdio};

    #[test]
    fn a_new_file_is_its_owners_alone_and_on_the_storage_before_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let [image, disk, log] = ["image", "disk.raw", "calls"].map(|name| dir.path().join(name));
        fs::write(&image, vec![7; 1 << 20]).unwrap();
        let output = Command::new("strace")
            .args(["-f", "-qq", "-y", "-s", "4096", "-e", "trace=openat,fsync,fdatasync,/^rename", "-o"])
            .arg(&log)
            .args([env!("CARGO_BIN_EXE_diskferry"), "convert", "-q"])
            .args([&image, &disk])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let calls = fs::read_to_string(log).unwrap();
        // The first path of the call that gives the file its name is where it was written.
        let named = calls.lines().find(|call| call.contains("rename") && call.contains("disk.raw\"")).unwrap();
        let written = named.split('"').nth(1).unwrap();
        let made: Vec<_> = calls.lines().filter(|call| call.contains("O_CREAT") && call.contains(written)).collect();
        assert!(made.len() == 1 && made[0].contains("O_EXCL") && made[0].contains("0600"), "{calls}");
        let directory = format!("{}>)", dir.path().display());
        let steps = calls.lines().filter_map(|call| match call {
            _ if call.contains("fsync(") && call.contains(".diskferry>)") => Some("content"),
            _ if call.contains("rename") && call.contains("disk.raw\"") => Some("name"),
            _ if call.contains("fsync(") && call.contains(&directory) => Some("directory"),
            _ => None,
        });
        assert_eq!(steps.collect::<Vec<_>>(), ["content", "name", "directory"], "{calls}");
    }

    #[test]
    fn a_disk_for_stdout_is_on_the_storage_where_that_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let [image, disk, log] = ["image", "disk.raw", "calls"].map(|name| dir.path().join(name));
        fs::write(&image, vec![7; 1 << 20]).unwrap();
        let run = |stdout: Stdio, how: &[&str], more: &[&str]| {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-y", "-e", "trace=write,fsync,fdatasync"]).args(how).arg("-o").arg(&log);
            command.args([env!("CARGO_BIN_EXE_diskferry"), "convert", "-q"]).args(more).arg(&image).arg("-");
            let output = command.stdout(stdout).output().unwrap();
            (output, fs::read_to_string(&log).unwrap())
        };
        let file = || File::create(&disk).unwrap().into();
        let (output, calls) = run(file(), &[], &[]);
        assert!(output.status.success() && fs::read(&disk).unwrap() == fs::read(&image).unwrap(), "{output:?}");
        let of_disk: Vec<_> = calls.lines().filter(|call| call.contains("disk.raw>")).collect();
        let (last, before) = of_disk.split_last().unwrap();
        let is_sync = |call: &str| call.contains("sync(");
        assert!(is_sync(last) && !before.is_empty() && !before.iter().any(|call| is_sync(call)), "{calls}");

        let fault = ["-e", "inject=fdatasync:error=EIO"];
        let (output, _) = run(file(), &fault, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(5) && text.contains("making the disk durable: "), "{output:?}");

        // A pipe has no storage.
        for (stdout, more) in [(file(), &["--no-sync"][..]), (Stdio::piped(), &[])] {
            let (output, calls) = run(stdout, &fault, more);
            assert!(output.status.success() && !calls.lines().any(is_sync), "{output:?} {calls}");
        }
    }

    #[test]
    fn a_new_layout_is_on_the_storage_with_all_directories_before_it_has_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let [image, layout, log] = ["image", "new/layout", "calls"].map(|name| dir.path().join(name));
        fs::write(&image, vec![7; 1 << 20]).unwrap();
        let output = Command::new("strace")
            .args(["-f", "-qq", "-y", "-s", "4096", "-e", "trace=fsync,/^mkdir,/^rename", "-o"])
            .arg(&log)
            .args([env!("CARGO_BIN_EXE_diskferry"), "push", "-q"])
            .arg(&image)
            .arg(format!("oci:{}", layout.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let calls = fs::read_to_string(log).unwrap();
        let calls: Vec<_> = calls.lines().collect();
        let named = calls.iter().rposition(|call| call.contains("index.json\"")).unwrap();
        for made in ["new", "new/layout", "new/layout/blobs", "new/layout/blobs/sha256"] {
            let path = dir.path().join(made);
            let [made, parent] = [format!("\"{}\"", path.display()), format!("{}>)", path.parent().unwrap().display())];
            let made = calls.iter().position(|call| call.contains("mkdir") && call.contains(&made)).unwrap();
            let is_synced = |call: &&str| call.contains("fsync(") && call.contains(&parent);
            assert!(calls[made..named].iter().any(is_synced), "{path:?} in {calls:#?}");
        }
    }

    #[test]
    fn a_job_that_is_held_up_where_it_cannot_look_is_ended_when_its_time_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        let [image, disk, log] = ["image", "disk.raw", "calls"].map(|name| dir.path().join(name));
        fs::write(&image, vec![7; 1 << 20]).unwrap();
        let output = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=8000000", "-o"])
            .arg(&log)
            .args([env!("CARGO_BIN_EXE_diskferry"), "convert", "-q", "--timeout", "1"])
            .args([&image, &disk])
            .output()
            .unwrap();
        // If it had waited, there would be a disk.
        let text = String::from_utf8_lossy(&output.stderr);
        let text = text.lines().filter(|line| !line.starts_with("strace: ")).collect::<Vec<_>>();
        assert_eq!(output.status.code(), Some(4), "{text:?}");
        assert!(matches!(text[..], [line] if line.contains(" in 1 s, ") && line.contains("(--timeout)")), "{text:?}");
        let mut left = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        left.sort();
        assert_eq!(left, ["calls", "image"]);
    }

    /// This needs a filesystem of its own as well.
    mod share {
        use std::io::{self, Write};

        use diskferry_testkit::places::Mount;

        use super::*;

        #[test]
        fn whether_blocks_can_be_shared_is_asked_for_a_file_and_for_nothing_else() {
            let mount = Mount::made_by(&["mkfs.xfs", "-q", "-m", "reflink=1"], 400 << 20);
            let [image, disk, log] = ["image", "disk.raw", "calls"].map(|name| mount.path.join(name));
            fs::write(&image, vec![7; 1 << 20]).unwrap();
            // Whether two files were cloned, and how many were made.
            let asked = |image: Stdio| {
                let output = Command::new("strace")
                    .args(["-f", "-qq", "-e", "trace=openat,ioctl", "-o"])
                    .arg(&log)
                    .args([env!("CARGO_BIN_EXE_diskferry"), "convert", "-q", "-f", "raw", "-"])
                    .arg(&disk)
                    .stdin(image)
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{output:?}");
                let calls = fs::read_to_string(&log).unwrap();
                let made = calls.lines().filter(|call| call.contains("O_CREAT") || call.contains("O_TMPFILE")).count();
                (calls.contains("FICLONE"), made)
            };
            // Besides the two of the question: the disk itself, and a file that says what a new one is allowed to.
            assert_eq!(asked(File::open(&image).unwrap().into()), (true, 4));
            fs::remove_file(&disk).unwrap();
            let (reader, mut writer) = io::pipe().unwrap();
            // As much as a pipe takes before anybody reads.
            writer.write_all(&[7; 4096]).unwrap();
            drop(writer);
            assert_eq!(asked(reader.into()), (false, 2));
        }
    }
}
