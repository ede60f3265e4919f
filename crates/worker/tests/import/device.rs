//! Volumes in block mode.

use std::path::{Path, PathBuf};

use diskferry_testkit::{Scratch, raw_of, sample_disk};

use super::*;

/// A loop device, which stands for a volume in block mode.
struct Volume(PathBuf);

impl Volume {
    fn new(dir: &Path, size: usize) -> Self {
        let file = dir.join("volume");
        fs::write(&file, vec![0xA5; size]).unwrap();
        let mut said = String::new();
        for _ in 0..20 {
            let output = Command::new("losetup").args(["--show", "-f"]).arg(&file).output().unwrap();
            if output.status.success() {
                return Self(String::from_utf8(output.stdout).unwrap().trim().into());
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("no loop device (these tests need root): {said}");
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn the_whole_story_ends_with_the_disk_that_it_began_with() {
    let scratch = Scratch::new();
    let raw = sample_disk(scratch.dir(), 64 << 20, 7);
    let image = scratch.path("story.qcow2");
    diskferry_testkit::qemu_img(&["convert", "-c", "-O", "qcow2", raw.to_str().unwrap(), image.to_str().unwrap()]);
    let disk = raw_of(&image, "qcow2");
    let stored = fs::read(&image).unwrap();
    let (nginx, registry) = (nginx(&[("story.qcow2", &stored)]), Registry::default().start());
    to_registry(&nginx.url(Origin::Plain, "/story.qcow2"), &registry, "story").import().assert_good();

    let volume = Volume::new(scratch.dir(), disk.len() + MIB);
    let endpoint = format!("docker://{}/vi/team/story:uid-1", registry.host());
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "registry"),
        ("IMPORTER_ENDPOINT", &endpoint),
        ("INSECURE_TLS", "true"),
        ("DISKFERRY_DESTINATION", "block"),
        ("DISKFERRY_DESTINATION_PATH", volume.text()),
    ]);
    let ended = pod.import();
    ended.assert_good();
    let found = fs::read(&volume.0).unwrap();
    assert!(found[..disk.len()] == disk, "the device has the disk");
    assert!(found[disk.len()..].iter().all(|byte| *byte == 0xA5), "and behind it what it had");
    assert_eq!(ended.termination["source-image-size"], stored.len());

    // And back: a disk of a machine becomes an image.
    let endpoint = format!("{}/vi/team/golden:1", registry.host());
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "blockDevice"),
        ("IMPORTER_ENDPOINT", volume.text()),
        ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
        ("DESTINATION_INSECURE_TLS", "true"),
    ]);
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.termination["source-image-virtual-size"], disk.len() + MIB);
}

#[test]
fn a_device_that_is_too_small_keeps_every_byte() {
    let (image, _) = qcow2();
    let (scratch, nginx) = (Scratch::new(), nginx(&[("a.qcow2", &image)]));
    let volume = Volume::new(scratch.dir(), 4 * MIB);
    let url = nginx.url(Origin::Plain, "/a.qcow2");
    let pod = Pod::new(&[
        ("IMPORTER_ENDPOINT", &url),
        ("DISKFERRY_DESTINATION", "block"),
        ("DISKFERRY_DESTINATION_PATH", volume.text()),
    ]);
    let text = pod.import().assert_bad(5, "target-too-small").to_owned();
    assert_eq!(text, "the disk takes 8388608 bytes (8 MiB), the volume has 4194304 bytes (4 MiB)");
    assert!(fs::read(&volume.0).unwrap().iter().all(|byte| *byte == 0xA5));
}

#[test]
fn the_source_itself_is_no_destination() {
    let scratch = Scratch::new();
    let volume = Volume::new(scratch.dir(), 4 * MIB);
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "blockDevice"),
        ("IMPORTER_ENDPOINT", volume.text()),
        ("DISKFERRY_DESTINATION", "block"),
        ("DISKFERRY_DESTINATION_PATH", volume.text()),
    ]);
    pod.import().assert_bad(5, "target-is-source");
}
