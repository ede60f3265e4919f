//! Who may send.

use super::*;

#[test]
fn only_who_has_the_token_finds_the_path() {
    let (image, disk) = qcow2();
    let mut door = Door::open(&[("DISKFERRY_UPLOAD_TOKEN", TOKEN)]);
    let file = door.pod.write("a.qcow2", &image);
    let right = format!("/upload/{TOKEN}");
    for path in ["/upload", "/upload/", &format!("{right}x"), &right[..right.len() - 1], "/", "/status", "/metrics"] {
        assert_error(&door.curl(&["-T", &file], path), 404, "not-found");
        assert_error(&door.curl(&[], path), 404, "not-found");
    }
    assert_eq!(door.curl(&[], &right).0, 200);
    assert_eq!(door.curl(&["-T", &file], &right).0, 200);
    let data = door.pod.path("data/disk.img");
    let ended = door.end();
    assert!(fs::read(data).unwrap() == disk);
    let said = format!("{ended:?}");
    assert!(!said.contains(TOKEN), "{said}");
    let weak = Pod::new(&[("DISKFERRY_UPLOAD_TOKEN", "guess-me")]);
    let refused = weak.end(weak.command(&["upload"]).spawn().unwrap());
    let message = refused.assert_bad(2, "usage");
    assert!(message.starts_with("DISKFERRY_UPLOAD_TOKEN: ") && !message.contains("guess-me"), "{message}");
}

#[test]
fn who_is_refused_is_not_told_to_send_the_body() {
    let door = Door::open(&[("DISKFERRY_UPLOAD_TOKEN", TOKEN)]);
    let ask = |path: &str, more: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        let head = "Host: x\r\nContent-Length: 50000000\r\nExpect: 100-continue\r\n";
        write!(stream, "PUT {path} HTTP/1.1\r\n{head}{more}\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split("\r\n").next().unwrap().to_owned()
    };
    let right = format!("/upload/{TOKEN}");
    for _ in 0..20 {
        assert_eq!(ask("/upload/wrong", ""), "HTTP/1.1 404 Not Found");
        assert_eq!(ask(&right, "Content-Type: multipart/form-data\r\n"), "HTTP/1.1 415 Unsupported Media Type");
        assert_eq!(ask(&right, "Content-Range: bytes 5-50000004/60000000\r\n"), "HTTP/1.1 409 Conflict");
    }
    door.kill();
}

#[test]
fn clients_prove_who_they_are() {
    let (image, disk) = qcow2();
    let (authority, other) = (Authority::new(), Authority::new());
    let pod = Pod::new(&[]);
    let server = authority.server(&["127.0.0.1"]);
    let file = |name: &str, text: &str| pod.write(name, text.as_bytes());
    let (cert, key) = (file("cert", &server.certificate), file("key", &server.key));
    let ca = file("ca", &authority.certificate());
    let client = |name: &str, authority: &Authority, file_name: &str| {
        let identity = authority.client(name);
        file(file_name, &format!("{}{}", identity.certificate, identity.key))
    };
    let (good, bad) = (client("uploader", &authority, "good"), client("somebody", &authority, "bad"));
    let stranger = client("uploader", &other, "stranger");
    let image_file = pod.write("a.qcow2", &image);
    let mut door = Door::open(&[
        ("TLS_CERT_FILE", &cert),
        ("TLS_KEY_FILE", &key),
        ("CLIENT_CA_FILE", &ca),
        ("CLIENT_NAME", "uploader"),
    ]);
    let curl = |cert: &str| {
        let url = format!("https://127.0.0.1:{}/upload", door.port);
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "-m",
            "60",
            "-w",
            "\n%{http_code}",
            "--cacert",
            &ca,
            "--cert",
            cert,
            "-T",
            &image_file,
            &url,
        ]);
        command.output().unwrap()
    };
    assert_error(&parted(&curl(&bad)), 401, "wrong-client");
    assert!(!curl(&stranger).status.success());
    assert_eq!(parted(&curl(&good)).0, 200);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}
