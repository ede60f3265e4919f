//! Block devices as a person names them. These need root and loop devices; their module is what `scripts/test` skips without.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

mod device {
    use std::fs;
    use std::path::PathBuf;
    use std::thread;
    use std::time::{Duration, Instant};

    use diskferry_testkit::places::{attach, run as run_tool};
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
            let disk = attach(&["-P", "--show", "-f", image.to_str().unwrap()]);
            let device = Self { disk, image, _dir: dir };
            // The kernel is told of the partitions, as not every one reads every kind of table.
            for number in 1..=2 {
                let start = (number * 4096).to_string();
                run_tool("addpart", &[device.disk.to_str().unwrap(), &number.to_string(), &start, "2048"]).unwrap();
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
                let _ = run_tool("delpart", &[disk, number]);
            }
            let _ = run_tool("losetup", &["-d", disk]);
        }
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
