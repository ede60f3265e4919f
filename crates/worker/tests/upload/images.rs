//! What becomes of an image that is sent, and of its bytes on the way.

use super::*;

#[test]
fn an_image_that_curl_sends_is_on_the_volume() {
    let (image, disk) = qcow2();
    for how in [
        &["-T"][..],
        &["-H", "Transfer-Encoding: chunked", "-T"],
        &["-X", "POST", "-T"],
        &["-H", "Expect: 100-continue", "-T"],
    ] {
        let mut door = Door::open(&[]);
        let file = door.pod.write("a.qcow2.gz", &wrap::gzip(&image));
        let (status, said) = door.curl(&[how, &[&file]].concat(), "/upload");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(status, 200, "{said}");
        assert_eq!(
            (&said["phase"], &said["format"], &said["unpacked-size"]),
            (&json!("Ready"), &json!("qcow2"), &json!(8 << 20))
        );
        assert_error(&door.curl(&["-T", &file], "/upload"), 409, "already-done");
        let data = door.pod.path("data");
        let ended = door.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.termination["message"], "Upload Complete");
        assert_eq!(names(&data), ["disk.img"]);
        assert!(fs::read(data.join("disk.img")).unwrap() == disk);
    }
}

#[test]
fn an_image_goes_to_a_registry_while_it_comes() {
    let (image, _) = qcow2();
    let registry = Registry::default().start();
    let mut door = Door::to_registry(&registry, &[]);
    let file = door.pod.write("a.qcow2.xz", &wrap::xz(&image, &[]));
    let (status, said) = door.curl(&["-T", &file], "/upload");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &said["unpacked-size"]), (200, &json!(8 << 20)), "{said}");
    let stored = fs::metadata(&file).unwrap().len();
    let ended = door.end();
    assert_eq!((ended.code, &ended.termination["source-image-size"]), (Some(0), &json!(stored)));
    assert_eq!(ended.termination["digest"], said["digest"]);
}

#[test]
fn the_authority_of_the_registry_is_a_file_or_stands_in_the_variable() {
    let (image, disk) = qcow2();
    let authority = Authority::new();
    let registry = Registry::default().tls(authority.server(&["127.0.0.1"])).start();
    let endpoint = format!("{}/vi/team/a:uid-1", registry.host());
    let pod = || Pod::new(&[("UPLOADER_DESTINATION_ENDPOINT", &endpoint)]);
    let file = {
        let pod = pod();
        let path = pod.write("authority.pem", authority.certificate().as_bytes());
        pod.with(&[("UPLOADER_DESTINATION_CA_BUNDLE", &path)])
    };
    let text = pod().with(&[("UPLOADER_DESTINATION_CA_BUNDLE", &authority.certificate())]);
    for pod in [file, text] {
        let mut door = Door::with(pod, &[]);
        let body = door.pod.write("a.qcow2", &image);
        let (status, said) = door.curl(&["-T", &body], "/upload");
        assert_eq!(status, 200, "{said}");
        let ended = door.end();
        assert_eq!((ended.code, &ended.termination["source-image-virtual-size"]), (Some(0), &json!(disk.len())));
    }
    // Nobody is believed whose authority is unknown.
    let mut door = Door::with(pod().with(&[("DISKFERRY_PATIENCE", "1s")]), &[]);
    let body = door.pod.write("a.qcow2", &image);
    let (status, said) = door.curl(&["-T", &body], "/upload");
    assert_ne!(status, 200, "{said}");
    door.end().assert_bad(5, "target-tls");
}

#[test]
fn what_is_no_image_is_refused_with_the_reason() {
    let (image, _) = qcow2();
    let cut = &image[..image.len() / 2];
    let large = [b"<html>", &[b' '; 40 << 20][..]].concat();
    for (bytes, status, code) in [(cut, 422, "qcow2-ends-early"), (&large, 422, "raw-no-disk")] {
        let mut door = Door::open(&[]);
        let file = door.pod.write("bad", bytes);
        let (found, said) = door.curl(&["-T", &file], "/upload");
        let said: Value = serde_json::from_str(&said).unwrap();
        if code != "raw-no-disk" {
            assert_error(&(found, said.to_string()), status, code);
        }
        assert_eq!(found, status, "{said}");
        assert_eq!(said["error"]["verdict"], "permanent");
        let data = door.pod.path("data");
        let ended = door.end();
        assert_eq!(ended.code, Some(3));
        assert_eq!(ended.termination["error-code"], said["error"]["code"]);
        assert!(names(&data).is_empty());
    }
    let mut door = Door::open(&[("UPLOADER_CHECKSUMS", "md5:00000000000000000000000000000000")]);
    let file = door.pod.write("a.qcow2", &image);
    assert_error(&door.curl(&["-T", &file], "/upload"), 422, "mismatch");
    assert_eq!(door.end().code, Some(6));
    let mut door = Door::open(&[("UPLOAD_IMAGE_SIZE", "4Mi")]);
    let file = door.pod.write("a.qcow2", &image);
    assert_error(&door.curl(&["-T", &file], "/upload"), 413, "target-too-small");
    assert_eq!(door.end().code, Some(5));
}

#[test]
fn a_signal_ends_an_upload_and_leaves_nothing() {
    for begun in [false, true] {
        let mut door = Door::open(&[]);
        let stream = begun.then(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
            write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
            stream.write_all(&noise(1 << 20)).unwrap();
            door.pod.wait_for(|status| status["passed"] == 1 << 20);
            stream
        });
        let id = door.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let (data, ended) = (door.pod.path("data"), door.end());
        assert_eq!(ended.code, Some(143), "{ended:?}");
        assert_eq!(ended.events.last().unwrap()["phase"], "Terminating");
        assert!(names(&data).is_empty());
        if let Some(mut stream) = stream {
            let mut answer = String::new();
            // Whoever has ended hears no more of what is sent, and may say so after its answer.
            let _ = stream.read_to_string(&mut answer);
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("stopped"), "{answer}");
        }
    }
}
