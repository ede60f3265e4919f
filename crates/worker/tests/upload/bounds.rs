//! What nobody may have more of: places, time, bytes.

use super::*;

/// The next answer: its head in lower case, and its body.
fn answer(stream: &TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "the connection ended behind {head:?}");
    }
    head.make_ascii_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; len.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn one_of_many_who_come_at_once_wins() {
    const MANY: usize = 50;
    const SOON: Duration = Duration::from_secs(10);
    let image = Qcow2::new(1 << 20).fill(1);
    let (image, disk) = (image.clone().build().image, image.disk());
    let (most, last) = image.split_at(image.len() - 1);
    let mut door = Door::open(&[]);
    let connect = |_| {
        let stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        stream.set_read_timeout(Some(2 * SOON)).unwrap();
        stream.set_write_timeout(Some(2 * SOON)).unwrap();
        stream
    };
    let streams: Vec<_> = (0..MANY).map(connect).collect();
    let together = Barrier::new(MANY);
    thread::scope(|scope| {
        let (answered, answers) = mpsc::channel();
        for (who, mut stream) in streams.iter().enumerate() {
            let (answered, together, len) = (answered.clone(), &together, image.len());
            scope.spawn(move || {
                together.wait();
                write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n").unwrap();
                stream.write_all(most).unwrap();
                answered.send((who, answer(stream))).unwrap();
            });
        }
        // All but one are answered before that one has sent its last byte.
        let begun = Instant::now();
        let mut waiting: BTreeSet<_> = (0..MANY).collect();
        while waiting.len() > 1 {
            let (who, (head, body)) = answers.recv_timeout(SOON.saturating_sub(begun.elapsed())).unwrap();
            assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: "), "{head}");
            assert_error(&(503, body), 503, "busy");
            waiting.remove(&who);
        }
        let winner = waiting.pop_first().unwrap();
        while door.offset("/upload") < most.len() as u64 {
            assert!(begun.elapsed() < SOON, "{}", door.offset("/upload"));
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(answers.try_recv(), Err(TryRecvError::Empty), "nothing is said before the last byte");
        (&streams[winner]).write_all(last).unwrap();
        let (who, (head, body)) = answers.recv_timeout(2 * SOON).unwrap();
        assert!(who == winner && head.starts_with("http/1.1 200 "), "{head}{body}");
    });
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

/// This process holds both ends of what it tries.
fn more_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    assert!(limit.current.is_none_or(|most| most > 1200), "{limit:?}");
}

#[test]
fn a_thousand_who_are_slow_do_not_keep_a_good_one_out() {
    more_files();
    let (image, disk) = qcow2();
    // It lives until its memory has been looked at.
    let mut door = Door::open(&[("DISKFERRY_UPLOAD_TOKEN", TOKEN), ("DISKFERRY_LINGER", "60s")]);
    let file = door.pod.write("a.qcow2", &image);
    // Some say nothing, some begin a head, some send a body to nowhere.
    let said = ["", "PUT /upl", "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\nx"];
    let begun = Instant::now();
    let mut slow: Vec<_> = (0..1000)
        .map(|at| {
            let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
            stream.write_all(said[at % 3].as_bytes()).unwrap();
            stream
        })
        .collect();
    // All the while that they are let wait, and each sends another byte now and then.
    let (path, mut longest) = (format!("/upload/{TOKEN}"), Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(8) {
        for stream in slow.iter_mut().skip(1).step_by(3) {
            stream.write_all(b"o").unwrap();
        }
        // One begins an image and goes away; one without the token has more than any disk.
        for (path, len) in [(path.as_str(), "1000"), ("/upload/x", "9000000000000000000")] {
            let mut other = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
            write!(other, "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\nx").unwrap();
        }
        let asked = Instant::now();
        assert_eq!(door.curl(&[], &path).0, 200);
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // The last one who went away is gone by then.
    thread::sleep(Duration::from_secs(1));
    let (status, said) = door.curl(&["-T", &file], &path);
    assert_eq!(status, 200, "{said}");
    let id = door.child.as_ref().unwrap().id().to_string();
    let memory = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    let kibibytes: u64 = peak.trim().parse().unwrap();
    assert!(kibibytes < 100 << 10, "{kibibytes}");
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    eprintln!("the longest answer took {longest:?}, the peak was {kibibytes} KiB");
    drop(slow);
    let (data, ended) = (door.pod.path("data/disk.img"), door.end());
    assert_eq!(ended.code, Some(0));
    assert!(fs::read(data).unwrap() == disk);
}

#[test]
fn a_head_that_takes_too_long_is_answered_408_and_cut() {
    let door = Door::open(&[]);
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nX-Sl").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let took = begun.elapsed();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    assert!((9..15).contains(&took.as_secs()), "{took:?}");
    door.kill();
}

#[test]
fn a_body_of_a_few_bytes_a_second_is_answered_408() {
    let door = Door::open(&[("DISKFERRY_UPLOAD_STALL_TIMEOUT", "2s")]);
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
    let mut sender = stream.try_clone().unwrap();
    // It never says nothing for long.
    let sending = thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) && sender.write_all(&[7; 100]).is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
        begun.elapsed()
    });
    let mut answer = [0; 4096];
    let got = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..got]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"stalled\""), "{answer:?}");
    drop(stream);
    assert!(sending.join().unwrap() < Duration::from_secs(10));
    let (_, said) = door.curl(&[], "/upload");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["upload-busy"], false);
    door.kill();
}

#[test]
fn an_aborted_body_frees_its_place_within_a_second() {
    let door = Door::open(&[]);
    for reset in [false, true] {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
        stream.write_all(&noise(1 << 20)).unwrap();
        let busy = || serde_json::from_str::<Value>(&door.curl(&[], "/upload").1).unwrap()["upload-busy"] == true;
        while !busy() || door.offset("/upload") < 1 << 20 {
            thread::sleep(Duration::from_millis(20));
        }
        let gone = Instant::now();
        if reset {
            // Closed with an answer unread or not, this is a reset.
            set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        while busy() {
            assert!(gone.elapsed() < Duration::from_secs(1), "reset {reset}: still busy");
        }
        eprintln!("reset {reset}: free after {:?}", gone.elapsed());
    }
    door.kill();
}

#[test]
fn what_is_larger_than_the_disk_may_be_is_refused_by_what_is_said_and_by_what_comes() {
    let mut disk = noise(8 << 20);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    // Said: refused with a mebibyte sent of a terabyte.
    let mut door = Door::open(&[("UPLOAD_IMAGE_SIZE", "4Mi")]);
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n").unwrap();
    stream.write_all(&disk[..1 << 20]).unwrap();
    let mut answer = vec![0; 4096];
    let got = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..got]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"target-too-small\""), "{answer}");
    let data = door.pod.path("data");
    assert_eq!(door.end().code, Some(5));
    assert!(names(&data).is_empty());
    // And what says nothing of its length.
    let mut door = Door::open(&[("UPLOAD_IMAGE_SIZE", "4Mi")]);
    let file = door.pod.write("disk.img", &disk);
    let (status, said) = door.curl(&["-H", "Transfer-Encoding: chunked", "-T", &file], "/upload");
    assert_error(&(status, said), 413, "target-too-small");
    let data = door.pod.path("data");
    assert_eq!(door.end().code, Some(5));
    assert!(names(&data).is_empty());
}

#[test]
fn a_disk_may_be_as_large_as_is_allowed_whatever_is_asked_for() {
    let mut disk = noise(8 << 20);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
        let mut door = Door::open(&[("DISKFERRY_MAX_SIZE", "8Mi")]);
        let file = door.pod.write("disk.img", &disk);
        assert_eq!(door.curl(&[more, &["-T", &file]].concat(), "/upload").0, 200, "{more:?}");
        assert_eq!(door.end().code, Some(0));
    }
    for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
        let mut door = Door::open(&[("DISKFERRY_MAX_SIZE", "8388607")]);
        let file = door.pod.write("disk.img", &disk);
        assert_error(&door.curl(&[more, &["-T", &file]].concat(), "/upload"), 413, "max-size");
        let data = door.pod.path("data");
        assert_eq!(door.end().code, Some(3));
        assert!(names(&data).is_empty());
    }
}

#[test]
fn bodies_that_are_not_what_they_say_are_refused() {
    let door = Door::open(&[]);
    let raw = |text: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    };
    let put = |more: &str| raw(&format!("PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n{more}\r\nabcd"));
    assert_error(&put("Content-Range: bytes 0-9/10\r\n"), 400, "content-range");
    assert_error(&put("Content-Range: nonsense\r\n"), 400, "content-range");
    assert_error(&put("Content-Range: bytes 6-9/10\r\n"), 409, "wrong-offset");
    assert_error(&put("Content-Type: multipart/form-data; boundary=x\r\n"), 415, "form");
    assert_error(&put("x-cdi-content-type: blockdevice-clone\r\n"), 415, "clone");
    assert_error(&door.curl(&["-X", "DELETE"], "/upload"), 405, "method");
    // What brings no byte is no image yet, and ends nothing.
    let nothing = |length: &str| raw(&format!("POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n"));
    assert_error(&nothing(""), 400, "nothing");
    assert_error(&nothing("Content-Length: 0\r\n"), 400, "nothing");
    // A head has 16 KiB at most.
    let head = |len: usize| {
        let (before, behind) = ("GET /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nA: ", "\r\n\r\n");
        raw(&format!("{before}{}{behind}", "a".repeat(len - before.len() - behind.len()))).0
    };
    assert_eq!([(16 << 10) - 1, (16 << 10) + 1, 200_000].map(head), [200, 431, 431]);
    assert_eq!(door.curl(&[], "/healthz"), (200, "ok\n".into()));
    let (_, said) = door.curl(&[], "/upload");
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["phase"], "WaitForUserUpload");
    door.kill();
}

#[test]
fn what_takes_too_long_ends() {
    let mut door = Door::open(&[("DISKFERRY_FIRST_BYTE_TIMEOUT", "1s")]);
    let ended = door.end();
    assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")));
    assert_eq!(ended.events.last().unwrap()["reason"], "WaitForUserUploadTimeout");

    let begin = |door: &Door| {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n").unwrap();
        stream.write_all(&noise(1 << 20)).unwrap();
        stream
    };
    let mut door = Door::open(&[("DISKFERRY_UPLOAD_STALL_TIMEOUT", "1s"), ("DISKFERRY_RESUME_TIMEOUT", "1s")]);
    let mut stream = begin(&door);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"stalled\""), "{answer}");
    let ended = door.end();
    assert_eq!((ended.code, &ended.termination["error-code"]), (Some(75), &json!("source-stalled")), "{ended:?}");

    let mut door = Door::open(&[("DEADLINE", "2s")]);
    let _stream = begin(&door);
    door.end().assert_bad(75, "source-deadline");
    // All bytes have come, and stand for 1 TiB.
    let image = wrap::bzip2(&wrap::bzip2(&vec![0; 64 << 20]).repeat(1 << 14));
    let mut door = Door::open(&[("DEADLINE", "3s")]);
    let file = door.pod.write("zeroes.raw.bz2.bz2", &image);
    let (status, said) = door.curl(&["-T", &file], "/upload");
    assert!(status == 408 && said.contains("not carried after 3 s"), "{status} {said}");
    door.end().assert_bad(75, "source-deadline");
    assert!(names(&door.pod.path("data")).is_empty());
    // The last one is missing, and is not asked for before.
    for (variable, code) in [("DEADLINE", "source-deadline"), ("DISKFERRY_RESUME_TIMEOUT", "source-stalled")] {
        let mut door = Door::open(&[(variable, "3s"), ("DISKFERRY_UPLOAD_STALL_TIMEOUT", "1s")]);
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
        write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", image.len() + 1).unwrap();
        stream.write_all(&image).unwrap();
        door.end().assert_bad(75, code);
        assert!(names(&door.pod.path("data")).is_empty());
    }
    // Who is started again has the same one.
    let mut late = Door::open(&[("DEADLINE", "2020-01-01T00:00:00Z")]);
    let ended = late.end();
    ended.assert_bad(75, "source-deadline");
    assert_eq!(ended.events.last().unwrap()["reason"], "WaitForUserUploadTimeout");
    assert_eq!(
        (&ended.termination["deadlinePassed"], &ended.termination["message"]),
        (&json!(true), &json!("Deadline Passed"))
    );
    let mut late = Door::open(&[("DEADLINE", "2020-01-01T00:00:00Z"), ("DISKFERRY_PERMANENT_EXIT", "zero")]);
    assert_eq!(late.end().code, Some(0));
}

#[test]
fn what_takes_no_longer_than_it_may_and_is_as_large_as_the_disk_is_carried() {
    let mut disk = noise(8 << 20);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    let len = disk.len();
    let pause = || thread::sleep(Duration::from_secs(1));
    let variables = ["FIRST_BYTE", "UPLOAD_STALL", "RESUME"].map(|which| format!("DISKFERRY_{which}_TIMEOUT"));
    let mut settings: Vec<_> = variables.iter().map(|name| (name.as_str(), "5s")).collect();
    settings.extend([("UPLOAD_IMAGE_SIZE", "8Mi"), ("DEADLINE", "60s")]);
    let mut door = Door::open(&settings);
    pause();
    let mut stream = TcpStream::connect(("127.0.0.1", door.port)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n").unwrap();
    stream.write_all(&disk[..1 << 20]).unwrap();
    pause();
    stream.write_all(&disk[1 << 20..2 << 20]).unwrap();
    drop(stream);
    pause();
    let come = usize::try_from(door.offset("/upload")).unwrap();
    assert!(come > 0, "what came is kept");
    let (status, said) = door.put_part(&format!("{come}-{}/{len}", len - 1), &disk[come..]);
    assert_eq!(status, 200, "{said}");
    assert_eq!(door.end().code, Some(0));
    assert!(fs::read(door.pod.path("data/disk.img")).unwrap() == disk);
}
