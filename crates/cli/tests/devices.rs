//! Block devices as a person names them. These need root and loop devices; their module is what `scripts/test` skips without.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

mod device {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::thread;
    use std::time::{Duration, Instant};

    use serde_json::json;
    use tempfile::TempDir;

    use crate::common::{assert_fails, json, run};

    const MIB: usize = 1 << 20;

    /// A loop device of 8 MiB with two partitions of 1 MiB.
    struct Loop {
        disk: PathBuf,
        image: PathBuf,
        _dir: TempDir,
    }

    impl Loop {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().join("image");
            let mut bytes = vec![0xA5; 8 * MIB];
            bytes[510..512].copy_from_slice(b"\x55\xaa");
            fs::write(&image, bytes).unwrap();
            let disk = attach(&image);
            let device = Self { disk, image, _dir: dir };
            // The kernel is told of the partitions, as not every one reads every kind of table.
            for number in 1..=2 {
                let start = (number * 4096).to_string();
                command("addpart", &[device.disk.to_str().unwrap(), &number.to_string(), &start, "2048"]).unwrap();
                let partition = device.partition(number);
                let began = Instant::now();
                while !partition.exists() {
                    assert!(began.elapsed() < Duration::from_secs(10), "{} does not appear", partition.display());
                    thread::sleep(Duration::from_millis(10));
                }
            }
            device
        }

        fn partition(&self, number: u32) -> PathBuf {
            format!("{}p{number}", self.disk.display()).into()
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let disk = self.disk.to_str().unwrap();
            for number in ["1", "2"] {
                let _ = command("delpart", &[disk, number]);
            }
            let _ = command("losetup", &["-d", disk]);
        }
    }

    /// Others look for a free device at the same time, and losers are told that it is busy.
    fn attach(image: &Path) -> PathBuf {
        let mut last = String::new();
        for _ in 0..20 {
            match command("losetup", &["-P", "--show", "-f", image.to_str().unwrap()]) {
                Ok(name) => return name.trim().into(),
                Err(error) => last = error,
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("no loop device (these tests need root): {last}");
    }

    fn command(program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    #[test]
    fn what_lies_on_the_source_or_under_it_is_no_target() {
        let device = Loop::new();
        let (disk, image, first) = (&device.disk, &device.image, &device.partition(1));
        let before = fs::read(image).unwrap();
        for (source, target) in
            [(disk, disk), (first, first), (first, disk), (disk, first), (image, disk), (image, first)]
        {
            let [source, target] = [source, target].map(|path| path.to_str().unwrap());
            let output = run(["convert", "--json", "-f", "raw", source, target]);
            assert_fails(&output, 5);
            assert_eq!(json(&output)["error"]["code"], json!("target-is-source"), "{source} to {target}");
        }
        assert!(fs::read(image).unwrap() == before, "nothing was written");
    }

    #[test]
    fn one_partition_is_written_to_another() {
        let device = Loop::new();
        let [source, target] = [1, 2].map(|number| device.partition(number).into_os_string().into_string().unwrap());
        fs::write(&source, vec![7; MIB]).unwrap();
        let output = run(["convert", "-f", "raw", &source, &target]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(fs::read(&target).unwrap() == vec![7; MIB]);
    }
}
