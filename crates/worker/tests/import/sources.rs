//! Each kind of source, and what is said of its image.

use super::*;

#[test]
fn an_image_goes_to_a_registry_and_from_there_to_a_volume() {
    let (image, disk) = qcow2();
    let packed = wrap::xz(&image, &[]);
    let (nginx, registry) = (nginx(&[("debian.qcow2.xz", &packed)]), Registry::default().start());
    let ended = to_registry(&nginx.url(Origin::Plain, "/debian.qcow2.xz"), &registry, "debian").import();
    ended.assert_good();
    let left = &ended.termination;
    assert_eq!(left["source-image-size"], packed.len());
    assert_eq!(left["source-image-virtual-size"], disk.len());
    assert_eq!(left["source-image-format"], "qcow2");
    assert!(left["duration"].as_u64().unwrap() > 0 && left["average-speed"].as_u64().unwrap() > 0);
    assert!(left["digest"].as_str().unwrap().starts_with("sha256:"));
    let phases: Vec<_> = ended.events.iter().map(|event| event["phase"].as_str().unwrap()).collect();
    assert_eq!((phases.first(), phases.last()), (Some(&"Provisioning"), Some(&"Ready")));

    let pod = to_file(&registry, "debian");
    let ended = pod.import();
    ended.assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert_eq!(names(&pod.path("data")), ["disk.img"]);
    assert_eq!(ended.termination["source-image-virtual-size"], disk.len());
    assert_eq!(pod.status()["phase"], "Ready");
    assert_eq!(pod.status()["unpacked-size-human"], "8 MiB");
}

#[test]
fn what_is_odd_about_an_image_is_told_to_people_and_to_programs() {
    // One partition, of half a GiB, on a disk of a MiB.
    let mut disk = vec![7; MIB];
    disk[446..510].fill(0);
    disk[450] = 0x83;
    disk[454..462].copy_from_slice(&[0, 8, 0, 0, 0, 0, 16, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let nginx = nginx(&[("cut.raw", &disk)]);
    let pod = from_url(&nginx.url(Origin::Plain, "/cut.raw"));
    let ended = pod.import();
    ended.assert_good();
    let status = pod.status();
    let [warning] = &**status["warnings"].as_array().unwrap() else { panic!("{status}") };
    let warning = warning.as_str().unwrap();
    assert!(warning.contains("partition table"), "{warning}");
    let stderr = String::from_utf8(ended.output.stderr).unwrap();
    assert!(stderr.contains(&format!("diskferry-worker: warning: {warning}\n")), "{stderr}");
}

#[test]
fn a_container_image_is_copied_from_registry_to_registry_as_it_is() {
    let (image, _) = qcow2();
    let (nginx, registry, other) =
        (nginx(&[("a.qcow2", &image)]), Registry::default().start(), Registry::default().start());
    let first = to_registry(&nginx.url(Origin::Plain, "/a.qcow2"), &registry, "a").import();
    first.assert_good();
    let source = format!("{}/vi/team/a:uid-1", registry.host());
    // Within a registry, and to another one.
    for target in [format!("{}/vi/team/b:uid-2", registry.host()), format!("{}/cvi/c:uid-3", other.host())] {
        let pod = Pod::new(&[
            ("IMPORTER_SOURCE", "dvcr"),
            ("IMPORTER_ENDPOINT", &source),
            ("IMPORTER_DESTINATION_ENDPOINT", &target),
            ("DESTINATION_INSECURE_TLS", "true"),
        ]);
        let ended = pod.import();
        ended.assert_good();
        for key in ["digest", "source-image-size", "source-image-virtual-size", "source-image-format"] {
            assert_eq!(ended.termination[key], first.termination[key], "{key}");
        }
    }
    // A volume gets the disk in it.
    let volume =
        file_of(Pod::new(&[("IMPORTER_SOURCE", "dvcr"), ("IMPORTER_ENDPOINT", &source), ("INSECURE_TLS", "true")]));
    volume.import().assert_good();
    assert_eq!(fs::metadata(volume.path("data/disk.img")).unwrap().len(), 8 << 20);
    // What is not there is not there.
    let gone = format!("{}/vi/team/none:1", registry.host());
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "dvcr"),
        ("IMPORTER_ENDPOINT", &gone),
        ("IMPORTER_DESTINATION_ENDPOINT", &source),
        ("DESTINATION_INSECURE_TLS", "true"),
    ]);
    let ended = pod.import();
    ended.assert_bad(4, "source-not-found");
    assert_eq!(ended.events.last().unwrap()["reason"], "ImagePullFailed");
}

#[test]
fn what_is_said_of_a_copy_is_of_what_was_copied_and_not_of_what_has_its_tag_since() {
    let (server, scratch) = (Server::start(), tempfile::tempdir().unwrap());
    let layout = Layout::new(scratch.path());
    let labels = |size: usize| {
        format!(r#""source-image-format":"raw","source-image-size":"{size}","source-image-virtual-size":"{size}""#)
    };
    let [first, second] = [1000, 2000].map(|size| layout.image(&[("disk/a.raw", &vec![7; size])], &labels(size)));
    for entry in fs::read_dir(scratch.path().join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let digest = format!("sha256:{}", entry.file_name().to_str().unwrap());
        for kind in ["blobs", "manifests"] {
            server.put(&format!("/v2/vi/a/{kind}/{digest}"), File::new(fs::read(entry.path()).unwrap()));
        }
    }
    let [old, new] = [&first, &second].map(|image| fs::read(layout.path(&image.digest)).unwrap());
    let right = || Answer::right().header("Content-Type", MANIFEST);
    let tag = File::new(old).version(new).gets_then([right()], right().version(1));
    server.put("/v2/vi/a/manifests/1", tag);
    let registry = Registry::default().start();
    let pod = Pod::new(&[
        ("IMPORTER_SOURCE", "dvcr"),
        ("IMPORTER_ENDPOINT", &format!("{}/vi/a:1", server.address())),
        ("DISKFERRY_PLAIN_HTTP", "true"),
        ("IMPORTER_DESTINATION_ENDPOINT", &format!("{}/vi/a:1", registry.host())),
        ("DESTINATION_INSECURE_TLS", "true"),
    ]);
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.termination["digest"], first.digest);
    assert_eq!(ended.termination["source-image-virtual-size"], 1000);
}

#[test]
fn a_block_of_a_guest_is_raw_whatever_it_looks_like() {
    // A disk with a qcow2 header on it, which a guest could have written.
    let (mut disk, _) = qcow2();
    disk.resize(disk.len().next_multiple_of(512), 0);
    let pod = Pod::new(&[("IMPORTER_SOURCE", "blockDevice")]);
    let device = pod.write("device", &disk);
    let pod = file_of(pod.with(&[("IMPORTER_ENDPOINT", &device)]));
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.termination["source-image-format"], "raw");
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);

    let cd = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/cd.iso");
    let pod = file_of(Pod::new(&[("IMPORTER_SOURCE", "blockDevice"), ("IMPORTER_ENDPOINT", cd)]));
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(
        (&ended.termination["source-image-format"], &ended.termination["source-image-cdrom"]),
        (&"iso".into(), &true.into())
    );
}

#[test]
fn a_source_without_a_length_is_carried_and_shows_no_percentage() {
    let (image, disk) = qcow2();
    let server = Server::start();
    server.put(
        "/a",
        File::new(image.clone()).gets_then([], Answer::right().framing(Framing::Chunked(10_000, Chunks::Clean))),
    );
    let pod = from_url(&server.url("/a"));
    let ended = pod.import();
    ended.assert_good();
    assert_eq!(ended.termination["source-image-size"], image.len());
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    let registry = Registry::default().start();
    let ended = to_registry(&server.url("/a"), &registry, "a").import();
    ended.assert_good();
    assert_eq!(ended.termination["source-image-size"], image.len());
}

#[test]
fn an_object_comes_from_a_store_that_speaks_s3() {
    let (image, disk) = qcow2();
    let server = Server::start();
    server.put("/bucket/a.qcow2", File::new(image));
    let url = server.url("/bucket/a.qcow2");
    let pod = from_url(&url).with(&[
        ("IMPORTER_SOURCE", "s3"),
        ("IMPORTER_ACCESS_KEY_ID", "AKID"),
        ("IMPORTER_SECRET_KEY", SECRET),
    ]);
    pod.import().assert_good();
    assert!(fs::read(pod.path("data/disk.img")).unwrap() == disk);
    assert!(server.requests().iter().all(|request| format!("{request:?}").contains("X-Amz-Signature")));
}
