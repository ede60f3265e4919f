//! Settings, and what of them may be seen.

use super::*;

#[test]
fn credentials_and_certificates_come_from_the_environment_and_from_files() {
    let (image, _) = qcow2();
    let authority = Authority::new();
    let identity = || authority.server(&["127.0.0.1"]);
    let nginx = Nginx::new().tls(identity()).user(USER.0, USER.1).start();
    fs::write(nginx.root().join("a.qcow2"), &image).unwrap();
    let registry = Registry::default().tls(identity()).locked().start();
    let endpoint = format!("{}/vi/a:1", registry.host());
    let url = nginx.url(Origin::Tls, "/a.qcow2");
    let pod = || {
        let pod = Pod::new(&[("IMPORTER_ENDPOINT", &url), ("IMPORTER_DESTINATION_ENDPOINT", &endpoint)]);
        let certificates = pod.text("certificates");
        fs::create_dir(&certificates).unwrap();
        fs::write(format!("{certificates}/ca.crt"), authority.certificate()).unwrap();
        pod.with(&[
            ("IMPORTER_CERT_DIR", &certificates),
            ("DISKFERRY_DESTINATION_CERT_DIR", &certificates),
            ("IMPORTER_ACCESS_KEY_ID", USER.0),
            ("IMPORTER_SECRET_KEY", USER.1),
        ])
    };
    let by_name = [("IMPORTER_DESTINATION_ACCESS_KEY_ID", USER.0), ("IMPORTER_DESTINATION_SECRET_KEY", USER.1)];
    pod().with(&by_name).import().assert_good();
    let by_file = pod();
    let auth = by_file.write(
        "config.json",
        format!(r#"{{"auths":{{"{}":{{"username":"{}","password":"{}"}}}}}}"#, registry.host(), USER.0, USER.1)
            .as_bytes(),
    );
    by_file.with(&[("IMPORTER_DESTINATION_AUTH_CONFIG", &auth)]).import().assert_good();
    pod().import().assert_bad(5, "target-denied");
    let wrong = [("IMPORTER_DESTINATION_ACCESS_KEY_ID", "you"), ("IMPORTER_DESTINATION_SECRET_KEY", SECRET)];
    pod().with(&wrong).import().assert_bad(5, "target-denied");
    pod().with(&by_name).with(&[("IMPORTER_SECRET_KEY", "other")]).import().assert_bad(4, "source-denied");
    pod().with(&by_name).with(&[("IMPORTER_CERT_DIR", "")]).import().assert_bad(4, "source-tls");
    let believing = [("IMPORTER_CERT_DIR", ""), ("INSECURE_TLS", "true")];
    pod().with(&by_name).with(&believing).import().assert_good();
}

#[test]
fn flags_go_before_variables_and_these_before_the_file() {
    let (image, disk) = qcow2();
    let nginx = nginx(&[("a.qcow2", &image)]);
    let pod = from_url("http://127.0.0.1:1/wrong");
    let url = nginx.url(Origin::Plain, "/a.qcow2");
    let config =
        pod.write("worker.toml", format!("source = \"dvcr\"\nimage-size = \"16Mi\"\nendpoint = {url:?}\n").as_bytes());
    let child = pod.command(&["import", "--endpoint", &url, "--config", &config]).spawn().unwrap();
    pod.end(child).assert_good();
    let found = fs::read(pod.path("data/disk.img")).unwrap();
    assert_eq!(found.len(), 16 * MIB, "what the file says holds where nobody else says anything");
    assert!(found.starts_with(&disk) && found[disk.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn settings_that_are_not_understood_are_a_verdict_that_names_them() {
    for (name, value) in [("PREALLOCATION", "maybe"), ("IMPORTER_IMAGE_SIZE", "2 GB"), ("IMPORTER_SOURCE", "gcs")] {
        let pod = from_url("http://127.0.0.1:1/a").with(&[(name, value)]);
        let ended = pod.import();
        assert!(ended.assert_bad(2, "usage").starts_with(&format!("{name}: ")), "{ended:?}");
    }
}

#[test]
fn flags_that_are_not_understood_are_a_verdict_too() {
    let pod = from_url("http://127.0.0.1:1/a");
    let run = |args: &[&str]| pod.end(pod.command(args).spawn().unwrap());
    let ended = run(&["import", "--bogus"]);
    assert_eq!(ended.assert_bad(2, "usage"), "unexpected argument '--bogus' found");
    let ended = run(&["import", "--image-size"]);
    assert!(ended.assert_bad(2, "usage").contains("--image-size <QUANTITY>"), "{ended:?}");
    let ended = run(&["import", &format!("http://me:{SECRET}@host/")]);
    assert_eq!(ended.assert_bad(2, "usage"), "unexpected argument '…' found");
    assert_eq!(
        run(&["import", "--bogus", "--permanent-exit", "zero"]).code,
        Some(2),
        "what stands behind it is not read"
    );
    assert_eq!(run(&["import", "--permanent-exit", "zero", "--bogus"]).code, Some(0));
    let ended = run(&["upload", "--bogus"]);
    assert_eq!(ended.assert_bad(2, "usage"), "unexpected argument '--bogus' found");
}

#[test]
fn what_cannot_be_read_takes_no_other_setting_with_it() {
    let pod = from_url("http://127.0.0.1:1/a").with(&[("DISKFERRY_PERMANENT_EXIT", "zero")]);
    let mistyped = pod.write("worker.toml", b"sise = 1\nimage-size = [1]\n");
    for (flag, value, why) in [
        ("--config", "/nowhere", "/nowhere: No such file"),
        ("--config", &mistyped, "worker.toml: image-size: expected"),
        ("--secret-key-file", "/nowhere", "--secret-key-file: /nowhere: No such file"),
    ] {
        for work in ["import", "upload"] {
            let ended = pod.end(pod.command(&[work, flag, value]).spawn().unwrap());
            let is_of = work == "upload" && flag == "--secret-key-file";
            let why = if is_of { "unexpected argument" } else { why };
            assert_eq!((ended.code, &ended.termination["error-code"]), (Some(0), &"usage".into()), "{ended:?}");
            assert!(ended.termination["error-message"].as_str().unwrap().contains(why), "{ended:?}");
            assert_eq!(pod.status()["phase"], "Failed");
        }
    }
    // So it is with those that stand in the same file.
    let file = pod.write("worker.toml", b"permanent-exit = \"zero\"\nsise = 1\n");
    let pod = from_url("http://127.0.0.1:1/a");
    let ended = pod.end(pod.command(&["import", "--config", &file]).spawn().unwrap());
    assert_eq!((ended.code, &ended.termination["verdict"]), (Some(0), &"permanent".into()), "{ended:?}");
}

#[test]
fn headers_and_proxies_come_from_the_environment() {
    let (image, _) = qcow2();
    let server = Server::start();
    server.put("/a.qcow2", File::new(image));
    let pod = from_url(&server.url("/a.qcow2"))
        .with(&[("IMPORTER_EXTRA_HEADER_0", "X-One: 1"), ("DISKFERRY_HEADERS", "X-Two: 2")]);
    pod.import().assert_good();
    let request = format!("{:?}", server.requests()[0]).to_lowercase();
    assert!(request.contains("x-one") && request.contains("x-two"), "{request}");
    // Nobody listens there, so that a proxy that is used is one that fails.
    for variable in ["http_proxy", "HTTP_PROXY"] {
        let pod =
            from_url("http://images.example/a").with(&[(variable, "http://127.0.0.1:1"), ("DISKFERRY_PATIENCE", "0s")]);
        let ended = pod.import();
        assert!(
            ended.assert_bad(75, "source-unreachable").contains("through the proxy http://127.0.0.1:1"),
            "{ended:?}"
        );
    }
    let pod =
        from_url(&server.url("/a.qcow2")).with(&[("http_proxy", "http://127.0.0.1:1"), ("no_proxy", "127.0.0.1")]);
    pod.import().assert_good();
}

/// As people give them, and as they are sent: `me:s3cr3t` and `s3cr3t:s3cr3t` in base64.
const SECRETS: [&str; 3] = [SECRET, "bWU6czNjcjN0", "czNjcjN0OnMzY3IzdA"];

#[test]
fn an_import_shows_no_secret_while_it_runs() {
    let (image, _) = qcow2();
    let registry = Registry::default().locked().start();
    let endpoint = format!("{}/vi/a:1", registry.host());
    let slow = || Answer::right().trickle(1 + image.len() / 8, Duration::from_millis(100));
    for (in_files, path, exit, code) in [
        (true, "/good", 0, ""),
        (false, "/good", 0, ""),
        (true, "/denied", 4, "source-denied"),
        (false, "/denied", 4, "source-denied"),
    ] {
        let server = Server::start();
        server.put("/good", File::new(image.clone()).gets_then([], slow()));
        server.put(
            "/denied",
            File::new(image.clone()).gets_then([slow().cut(image.len() / 2, End::Reset)], Answer::status(401)),
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listen = format!("127.0.0.1:{port}");
        // Somebody else's proxy, which is not asked.
        let proxy = format!("http://me:{SECRET}@127.0.0.1:1");
        let pod = Pod::new(&[
            ("IMPORTER_ENDPOINT", &server.url(path)),
            ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
            ("DESTINATION_INSECURE_TLS", "true"),
            ("DISKFERRY_LISTEN", &listen),
            ("no_proxy", "127.0.0.1"),
        ]);
        let secrets = [
            ("IMPORTER_ACCESS_KEY_ID", "access-key-id", SECRET),
            ("IMPORTER_SECRET_KEY", "secret-key", SECRET),
            ("IMPORTER_DESTINATION_ACCESS_KEY_ID", "destination-access-key-id", USER.0),
            ("IMPORTER_DESTINATION_SECRET_KEY", "destination-secret-key", USER.1),
            ("DISKFERRY_HEADERS", "headers", "X-Key: s3cr3t"),
            ("http_proxy", "http-proxy", &proxy),
        ];
        let (pod, flags) = if in_files {
            let flag =
                |(_, name, value): (&str, &str, &str)| [format!("--{name}-file"), pod.write(name, value.as_bytes())];
            let flags: Vec<_> = secrets.into_iter().flat_map(flag).collect();
            (pod, flags)
        } else {
            (pod.with(&secrets.map(|(variable, _, value)| (variable, value))), Vec::new())
        };
        let mut command = pod.command(&["import"]);
        let child = command.args(&flags).spawn().unwrap();
        let (watched, told) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(child, &SECRETS));
            pod.wait_for(|status| status["percent"].as_f64() > Some(0.0));
            let told = ["/metrics", "/status"].map(|path| {
                let url = format!("https://{listen}{path}");
                let output = Command::new("curl").args(["-sSk", "--max-time", "5", &url]).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                String::from_utf8(output.stdout).unwrap()
            });
            (watching.join().unwrap(), told)
        });
        let what = format!("{path}, {}", if in_files { "files" } else { "variables" });
        let own = if in_files { vec![] } else { vec!["environ"] };
        assert!(watched.looks > 3, "{what}: {} looks", watched.looks);
        assert_eq!(watched.shown.into_iter().collect::<Vec<_>>(), own, "{what}");
        let left = ["termination", "status"].map(|name| fs::read_to_string(pod.path(name)).unwrap());
        let said = format!("{:?}{told:?}{left:?}", watched.output);
        assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{what}: {said}");
        // And they were known, and used.
        let requests = format!("{:?}", server.requests());
        assert!(SECRETS.iter().any(|secret| requests.contains(secret)), "{what}: {requests}");
        let ended = pod.ended(watched.output);
        if exit == 0 {
            ended.assert_good()
        } else {
            ended.assert_bad(exit, code);
            &ended
        };
    }
}
