//! Disks on filesystems: which fit, and what becomes of those that are there.

use super::*;

#[test]
fn a_disk_that_does_not_fit_is_refused_before_a_byte_is_written() {
    let (image, _) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image), ("a.raw.gz", &wrap::gzip(&vec![7; 8 * MIB]))]);
    let pod = from_url(&nginx.url(Origin::Plain, "/a.qcow2")).with(&[("IMPORTER_IMAGE_SIZE", "4Mi")]);
    let text = pod.import().assert_bad(5, "target-too-small").to_owned();
    assert_eq!(text, "the disk takes 8388608 bytes (8 MiB), 4194304 bytes (4 MiB) were asked for");
    assert!(names(&pod.path("data")).is_empty());
    // Nobody knows how large this one is before it has been unpacked.
    let pod = from_url(&nginx.url(Origin::Plain, "/a.raw.gz")).with(&[("IMPORTER_IMAGE_SIZE", "4Mi")]);
    pod.import().assert_bad(5, "target-too-small");
    assert!(names(&pod.path("data")).is_empty());
}

#[test]
fn a_disk_on_a_filesystem_may_be_of_any_format() {
    let (image, disk) = qcow2();
    let pod = Pod::new(&[("IMPORTER_SOURCE", "filesystem")]);
    let file = pod.write("source.img", &image);
    let registry = Registry::default().start();
    let endpoint = format!("{}/vd/a:1", registry.host());
    let pod = pod.with(&[
        ("IMPORTER_ENDPOINT", &file),
        ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
        ("DISKFERRY_DESTINATION_PLAIN_HTTP", "true"),
        ("DISKFERRY_STORE_AS", "raw-zstd"),
    ]);
    let ended = pod.import();
    ended.assert_good();
    let endpoint = format!("docker://{endpoint}");
    let back = file_of(Pod::new(&[
        ("IMPORTER_SOURCE", "registry"),
        ("IMPORTER_ENDPOINT", &endpoint),
        ("DISKFERRY_PLAIN_HTTP", "true"),
        ("PREALLOCATION", "true"),
    ]));
    let ended = back.import();
    ended.assert_good();
    assert_eq!(ended.termination["preallocationApplied"], true);
    assert!(fs::read(back.path("data/disk.img")).unwrap() == disk);
}

#[test]
fn a_disk_stays_until_an_image_whose_size_nobody_knows_has_come_whole() {
    let (disk, old) = (noise(2 * MIB), vec![7; MIB]);
    let packed = wrap::gzip(&disk);
    let nginx = nginx(&[("a.raw.gz", &packed), ("cut.raw.gz", &packed[..packed.len() / 2])]);
    let from = |name: &str| {
        let pod = from_url(&nginx.url(Origin::Plain, name));
        fs::write(pod.path("data/disk.img"), &old).unwrap();
        pod
    };
    let wrong = from("/a.raw.gz").with(&[("IMPORTER_CHECKSUMS", "md5:00000000000000000000000000000000")]);
    wrong.import().assert_bad(6, "mismatch");
    let cut = from("/cut.raw.gz");
    cut.import().assert_bad(3, "gzip-ends-early");
    for pod in [wrong, cut] {
        assert!(fs::read(pod.path("data/disk.img")).unwrap() == old);
        assert_eq!(names(&pod.path("data")), ["disk.img"]);
    }
    let good = from("/a.raw.gz");
    good.import().assert_good();
    assert!(fs::read(good.path("data/disk.img")).unwrap() == disk);
}

/// QEMU says by its locks what it does with a disk.
#[test]
fn a_disk_that_qemu_has_open_is_not_replaced() {
    let (image, disk) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image)]);
    let pod = from_url(&nginx.url(Origin::Plain, "/a.qcow2")).with(&[("DISKFERRY_PATIENCE", "0s")]);
    let old = vec![7; MIB];
    let target = pod.write("data/disk.img", &old);
    let open = || {
        let mut qemu = Command::new("qemu-io");
        let mut qemu = qemu.args(["-f", "raw", &target]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It answers when it has the file open.
        qemu.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
        qemu
    };
    let close = |mut qemu: Child| {
        drop(qemu.stdin.take());
        assert!(qemu.wait().unwrap().success());
    };
    let is_kept = |pod: &Pod| {
        assert!(fs::read(&target).unwrap() == old);
        assert_eq!(names(&pod.path("data")), ["disk.img"]);
    };
    let qemu = open();
    pod.import().assert_bad(75, "target-in-use");
    is_kept(&pod);
    close(qemu);
    // It may come while another disk is on its way.
    let slow = Nginx::new().rate(1_000_000).start();
    fs::write(slow.root().join("a.qcow2"), &image).unwrap();
    let pod = pod.with(&[("IMPORTER_ENDPOINT", &slow.url(Origin::Plain, "/a.qcow2"))]);
    let child = pod.command(&["import"]).spawn().unwrap();
    pod.wait_for(|status| status["passed"].as_u64() > Some(0));
    let qemu = open();
    pod.end(child).assert_bad(75, "target-in-use");
    is_kept(&pod);
    close(qemu);
    let pod = pod.with(&[("IMPORTER_ENDPOINT", &nginx.url(Origin::Plain, "/a.qcow2"))]);
    pod.import().assert_good();
    assert!(fs::read(&target).unwrap() == disk);
}
