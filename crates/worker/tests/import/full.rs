//! Volumes and registries that have no room.

use super::*;

/// A filesystem of its own.
struct Mounted(String);

impl Mounted {
    fn new(path: &str, megabytes: usize) -> Self {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs", path])
            .status()
            .unwrap();
        assert!(status.success(), "these tests need root");
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[test]
fn a_volume_that_runs_full_is_waited_for() {
    let disk: Vec<u8> = (0..8 * MIB).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let nginx = Nginx::new().rate(2 << 20).start();
    fs::write(nginx.root().join("a.raw"), &disk).unwrap();
    let pod = from_url(&nginx.url(Origin::Plain, "/a.raw")).with(&[
        ("DISKFERRY_PATIENCE", "60s"),
        ("FILESYSTEM_OVERHEAD", "0"),
        ("DISKFERRY_JOURNAL_EVERY", "1Mi"),
    ]);
    let mounted = Mounted::new(&pod.text("data"), 12);
    let child = pod.command(&["import"]).spawn().unwrap();
    // Somebody else takes the room while it comes.
    pod.wait_for(|_| names(&pod.path("data")).iter().any(|name| name == ".disk.img.journal.diskferry"));
    let _ = fs::write(pod.path("data/other"), vec![1; 12 * MIB]);
    pod.wait_for(|status| status["reason"] == "QuotaExceeded" && status["attempt"].as_u64() > Some(1));
    fs::remove_file(pod.path("data/other")).unwrap();
    let ended = pod.end(child);
    ended.assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert_eq!(names(&pod.path("data")), ["disk.img"]);
    let says = |event: &serde_json::Value| event["message"].as_str().is_some_and(|text| text.contains("goes on where"));
    assert!(ended.events.iter().any(says), "what was there before is not fetched again: {ended:?}");
    drop(mounted);
}

#[test]
fn a_registry_that_is_full_says_so_in_words_that_controllers_look_for() {
    let (image, _) = qcow2();
    let (nginx, registry) = (nginx(&[("a.qcow2", &image)]), Registry::default().start());
    let data = registry.blobs().ancestors().nth(4).unwrap().to_owned();
    fs::create_dir_all(&data).unwrap();
    let mounted = Mounted::new(data.to_str().unwrap(), 1);
    fs::write(data.join("other"), vec![1; MIB - 4096]).unwrap_or_default();
    let ended = to_registry(&nginx.url(Origin::Plain, "/a.qcow2"), &registry, "a").import();
    let text = ended.assert_bad(75, "target-no-space");
    assert!(text.contains(&registry.host()) && text.contains("POST") && text.contains("Err:28)"), "{text}");
    drop(registry);
    drop(mounted);
}

#[test]
fn a_disk_goes_first_where_there_is_no_room_for_two() {
    let (image, disk) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image)]);
    let pod = from_url(&nginx.url(Origin::Plain, "/a.qcow2")).with(&[("FILESYSTEM_OVERHEAD", "0.05")]);
    let mounted = Mounted::new(&pod.text("data"), 10);
    fs::write(pod.path("data/disk.img"), vec![1; 9 * MIB]).unwrap();
    let ended = pod.import();
    ended.assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    // A disk that cannot fit whatever goes leaves what is there alone.
    let small = pod.with(&[("FILESYSTEM_OVERHEAD", "0.5")]);
    small.import().assert_bad(5, "target-too-small");
    assert!(fs::read(small.path("data/disk.img")).unwrap() == disk);
    drop(mounted);
}

#[test]
fn a_disk_goes_first_where_all_of_the_new_one_is_reserved() {
    let (image, disk) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image), ("a.raw.gz", &wrap::gzip(&disk))]);
    for name in ["/a.qcow2", "/a.raw.gz"] {
        let pod = from_url(&nginx.url(Origin::Plain, name)).with(&[
            ("FILESYSTEM_OVERHEAD", "0"),
            ("IMPORTER_IMAGE_SIZE", "14Mi"),
            ("PREALLOCATION", "true"),
            ("DISKFERRY_PATIENCE", "0s"),
        ]);
        let mounted = Mounted::new(&pod.text("data"), 18);
        // Beside it there is room for what the image has, and not for what is asked for.
        fs::write(pod.path("data/disk.img"), vec![1; 8 * MIB]).unwrap();
        pod.import().assert_good();
        let found = fs::read(pod.path("data/disk.img")).unwrap();
        assert!(found.len() == 14 * MIB && found[..8 * MIB] == disk[..], "{name}");
        drop(mounted);
    }
}

#[test]
fn a_disk_goes_on_the_way_where_an_image_turns_out_to_need_its_room() {
    let disk = noise(8 * MIB);
    let packed = wrap::gzip(&disk);
    let nginx = nginx(&[("a.raw.gz", &packed), ("cut.raw.gz", &packed[..2 * MIB])]);
    let at = |name: &str| nginx.url(Origin::Plain, name);
    let pod = from_url(&at("/cut.raw.gz")).with(&[("FILESYSTEM_OVERHEAD", "0")]);
    let mounted = Mounted::new(&pod.text("data"), 12);
    let old = vec![1; 8 * MIB];
    fs::write(pod.path("data/disk.img"), &old).unwrap();
    // It comes to its end before there is need of that room.
    pod.import().assert_bad(3, "gzip-ends-early");
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == old);
    let pod = pod.with(&[("IMPORTER_ENDPOINT", &at("/a.raw.gz"))]);
    pod.import().assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    drop(mounted);
}
