//! What is done to a file, in which order: the kernel's record of all calls says so.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

/// What a test run without the right to trace leaves out.
mod traced {
    use std::fs;
    use std::process::Command;

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
}
