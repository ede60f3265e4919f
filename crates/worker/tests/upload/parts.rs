//! Images that come in parts, and those that broke off.

use super::*;

#[test]
fn an_upload_that_broke_off_goes_on_where_it_was() {
    let disk = noise(24 << 20);
    let registry = Registry::default().start();
    for volume in [true, false] {
        let mut door = if volume { Door::open(&[]) } else { Door::to_registry(&registry, &[]) };
        let file = door.pod.write("disk.img", &disk);
        let mut curl = door.curl_command(&["--limit-rate", "20M", "-T", &file], "/upload").spawn().unwrap();
        let begun = Instant::now();
        while door.offset("/upload") < 3 << 20 {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(50));
        }
        curl.kill().unwrap();
        curl.wait().unwrap();
        let mut offset = 0;
        // Until the worker has noticed.
        while offset == 0 || door.offset("/upload") != offset {
            offset = door.offset("/upload");
            thread::sleep(Duration::from_millis(100));
        }
        assert!(offset > 0 && offset < 24 << 20);
        // Elsewhere is wrong.
        let wrong = (offset - 1).to_string();
        let refused = door.curl(&["-C", &wrong, "-T", &file], "/upload");
        assert_error(&refused, 409, "wrong-offset");
        let (status, said) = door.curl(&["-C", &offset.to_string(), "-T", &file], "/upload");
        assert_eq!(status, 200, "{said}");
        let (data, ended) = (door.pod.path("data/disk.img"), door.end());
        assert_eq!((ended.code, &ended.termination["source-image-size"]), (Some(0), &json!(24 << 20)));
        assert!(!volume || fs::read(data).unwrap() == disk);
    }
}

#[test]
fn an_upload_that_broke_off_may_be_begun_anew() {
    let (image, disk) = qcow2();
    let mut door = Door::open(&[]);
    let file = door.pod.write("a.qcow2", &image);
    let mut half = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(half, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
    half.write_all(&noise(1 << 20)).unwrap();
    while door.offset("/upload") < 1 << 20 {
        thread::sleep(Duration::from_millis(20));
    }
    assert_error(&door.curl(&["-T", &file], "/upload"), 503, "busy");
    drop(half);
    let begun = Instant::now();
    // -C - has no other offset for HTTP than 0.
    let said = loop {
        let (status, said) = door.curl(&["-C", "-", "-T", &file], "/upload");
        if status != 503 || begun.elapsed() > Duration::from_secs(20) {
            assert_eq!(status, 200, "{said}");
            break said;
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(said.contains("\"format\":\"qcow2\""), "{said}");
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

#[test]
fn the_words_of_tus_are_understood() {
    let (image, disk) = qcow2();
    let mut door = Door::open(&[]);
    let (first, second) = image.split_at(image.len() / 2);
    let tus = ["-H", "Tus-Resumable: 1.0.0"];
    let with = |more: &[&str]| door.curl(&[&tus[..], more].concat(), "/upload");
    let options = door.curl(&["-i", "-X", "OPTIONS"], "/upload").1.to_ascii_lowercase();
    assert!(options.contains("tus-version: 1.0.0") && options.contains("tus-extension: creation"), "{options}");
    let length = format!("Upload-Length: {}", image.len());
    let (status, created) = with(&["-i", "-X", "POST", "-H", &length]);
    assert!(status == 201 && created.to_ascii_lowercase().contains("location: /upload"), "{created}");
    assert_eq!(door.patch(0, None, first).0, 204);
    assert_eq!(door.offset("/upload"), first.len() as u64);
    assert_error(&door.patch(0, None, first), 409, "wrong-offset");
    assert_eq!(door.patch(first.len(), None, second).0, 204);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

/// A raw disk is a disk wherever it ends.
#[test]
fn an_image_whose_length_is_said_later_ends_where_it_says_and_not_with_a_part() {
    let disk = noise(4 << 20);
    let (half, whole) = (disk.len() / 2, disk.len());
    for is_said_with_bytes in [true, false] {
        let mut door = Door::open(&[]);
        door.defer();
        assert_eq!(door.header("/upload", "upload-defer-length").as_deref(), Some("1"));
        assert_eq!(door.patch(0, None, &disk[..half]).0, 204);
        assert_eq!(door.offset("/upload"), half as u64);
        assert_eq!(door.header("/upload", "upload-defer-length").as_deref(), Some("1"));
        assert_eq!(door.header("/upload", "upload-length"), None);
        if is_said_with_bytes {
            assert_eq!(door.patch(half, Some(whole), &disk[half..]).0, 204);
        } else {
            assert_eq!(door.patch(half, None, &disk[half..]).0, 204);
            assert!(!door.pod.path("data/disk.img").exists());
            assert_eq!(door.patch(whole, Some(whole), b"").0, 204);
        }
        let (data, ended) = (door.pod.path("data/disk.img"), door.end());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(fs::read(data).unwrap() == disk);
    }
}

#[test]
fn a_length_that_was_said_stays() {
    let disk = noise(3 << 20);
    let (mib, whole) = (1 << 20, disk.len());
    let door = Door::open(&[]);
    door.defer();
    let length = ["-H", "Tus-Resumable: 1.0.0", "-H", "Upload-Defer-Length: 0"];
    assert_error(&door.curl(&[&["-X", "POST"][..], &length].concat(), "/upload"), 400, "no-length");
    assert_eq!(door.patch(0, Some(whole), &disk[..mib]).0, 204);
    assert_eq!(door.header("/upload", "upload-length"), Some(whole.to_string()));
    assert_eq!(door.header("/upload", "upload-defer-length"), None);
    assert_error(&door.patch(mib, Some(whole + 1), &disk[mib..]), 409, "other-length");
    assert_error(&door.patch(mib, Some(2 * mib - 1), &disk[mib..2 * mib]), 400, "too-many");
    assert_eq!(door.patch(mib, None, &disk[mib..2 * mib]).0, 204);
    assert_error(&door.patch(2 * mib, None, &noise(2 << 20)), 400, "too-many");
    let come = usize::try_from(door.offset("/upload")).unwrap();
    assert!((2 * mib..=whole).contains(&come), "{come}");
    door.kill();

    let mut door = Door::open(&[]);
    door.defer();
    assert_eq!(door.patch(0, None, &disk[..mib]).0, 204);
    assert_eq!(door.patch(mib, Some(whole), &disk[mib..2 * mib]).0, 204);
    assert_eq!(door.patch(2 * mib, Some(whole), &disk[2 * mib..]).0, 204);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(data).unwrap() == disk);
}

#[test]
fn a_range_of_an_unknown_whole_is_never_its_end() {
    let disk = noise(4 << 20);
    let half = disk.len() / 2;
    let (first, second) = (format!("0-{}", half - 1), format!("{half}-{}", disk.len() - 1));
    let mut door = Door::open(&[]);
    assert_eq!(door.put_part(&format!("{first}/*"), &disk[..half]).0, 202);
    assert_eq!(door.put_part(&format!("{second}/{}", disk.len()), &disk[half..]).0, 200);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(data).unwrap() == disk);

    let mut door = Door::open(&[("DISKFERRY_RESUME_TIMEOUT", "1s")]);
    assert_eq!(door.put_part(&format!("{first}/*"), &disk[..half]).0, 202);
    let status: Value = serde_json::from_str(&door.curl(&[], "/upload").1).unwrap();
    assert_eq!((&status["upload-offset"], &status["upload-busy"]), (&json!(half), &json!(false)));
    assert_eq!(door.put_part(&format!("{second}/*"), &disk[half..]).0, 202);
    let (data, ended) = (door.pod.path("data"), door.end());
    assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")), "{ended:?}");
    assert!(names(&data).is_empty());
}

#[test]
fn an_upload_is_gone_on_with_by_its_own_id_or_by_none() {
    let disk = noise(3 << 20);
    let (mib, whole) = (1 << 20, disk.len());
    let range = |at: usize| format!("{}-{}/{whole}", at * mib, (at + 1) * mib - 1);
    let part = |at: usize| &disk[at * mib..(at + 1) * mib];
    let mut door = Door::open(&[]);
    let id = || door.header("/upload", "upload-id");
    assert_eq!(id(), None);
    // What nobody has named is nobody's.
    assert_eq!(door.put_part(&range(0), part(0)).0, 202);
    assert_eq!(id(), None);
    assert_error(&door.put_part_of("mine", &range(1), part(1)), 409, "begun-anew");
    // Whoever begins anew gives it a name.
    assert_eq!(door.put_part_of("yours", &range(0), part(0)).0, 202);
    assert_eq!(door.put_part_of("mine", &range(0), part(0)).0, 202);
    assert_eq!(id().as_deref(), Some("mine"));
    assert_error(&door.put_part_of("yours", &range(1), part(1)), 409, "begun-anew");
    assert_error(&door.put_part_of("not good", &range(1), part(1)), 400, "upload-id");
    assert_eq!(door.offset("/upload"), mib as u64);
    assert_eq!(door.put_part_of("mine", &range(1), part(1)).0, 202);
    assert_eq!(door.put_part(&range(2), part(2)).0, 200);
    // And it is told whose the image is that is there.
    let file = door.pod.write("disk", &disk);
    let (status, said) = door.curl(&["-i", "-T", &file], "/upload");
    assert!(status == 409 && said.contains("upload-id: mine") && said.contains("already-done"), "{said}");
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(data).unwrap() == disk);
}
