//! Answers that are no image, and how long is heard to what says nothing.

use super::*;

#[test]
fn web_page_with_status_200_is_refused_as_one() {
    for fetcher in [Fetcher::new(), raw(), parallel(2)] {
        let (server, url) = serve(File::new(disk(LEN)).gets_then([], Answer::html()));
        let error = fetcher.convert(&url, &Options::default()).unwrap_err();
        assert_eq!((error.code().as_str(), error.is_transient()), ("source-web-page", false));
        assert_eq!(server.requests().len(), 1);
    }
    check(file([right().cut(1000, End::Close), right().ranges(Ranges::Html)]), "source-web-page", &["all", "1000-"]);
    // Such a type alone makes no page.
    check(file([right().header("Content-Type", "text/html")]), "whole", &["all"]);
}

#[test]
fn final_statuses_cost_one_request() {
    for (status, code) in [
        (400, "source-http-status"),
        (401, "source-denied"),
        (403, "source-denied"),
        (404, "source-not-found"),
        (410, "source-not-found"),
        (501, "source-http-status"),
    ] {
        let (server, url) = serve(File::new(disk(LEN)).gets_then([], Answer::status(status)));
        let error = raw().fetch(&url).unwrap_err();
        assert_eq!(
            (error.code().as_str(), error.is_transient(), server.requests().len()),
            (code, false, 1),
            "{status}"
        );
    }
}

#[test]
fn passing_statuses_are_tried_again_and_say_so_in_the_end() {
    for status in [408, 429, 500, 502, 503, 504] {
        check(file([Answer::status(status), Answer::status(status)]), "whole", &["all"; 3]);
    }
    let (server, url) = serve(File::new(disk(LEN)).gets_then([], Answer::status(503)));
    let error = raw().fetch(&url).unwrap_err();
    assert_eq!((error.code().as_str(), error.is_transient(), server.requests().len()), ("source-http-status", true, 5));
}

#[test]
fn retry_after_is_waited_for() {
    let (_server, url) = serve(file([Answer::status(429).header("Retry-After", "1")]));
    let mut fetcher = raw();
    fetcher.how.patience.longest_pause = Duration::from_secs(20);
    let began = Instant::now();
    assert_eq!(fetcher.fetch(&url).unwrap(), disk(LEN));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn heads_without_sense_are_errors() {
    for answer in
        [Answer::raw(*b"\0\x01\x02\r\n\r\n"), Answer::raw(*b"HTTP/1.1 200 OK\r\nContent-Le"), Answer::endless_head()]
    {
        let (_server, url) = serve(File::new(disk(LEN)).gets_then([], answer));
        let mut fetcher = raw();
        fetcher.how.patience.retries = 1;
        assert_eq!(outcome(fetcher.fetch(&url)), "source-unreachable");
    }
}

/// A server that goes on with `piece` after `begin`, again and again, until the client leaves. Gives how many bytes it has sent in each
/// of its `connections`.
fn endless(
    connections: usize,
    begin: &'static str,
    piece: String,
    pause: Duration,
) -> (String, JoinHandle<Vec<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/disk", listener.local_addr().unwrap());
    let serve = move |stream: TcpStream| {
        BufReader::new(&stream).lines().map(Result::unwrap).find(String::is_empty).unwrap();
        let mut sent = begin.len();
        (&stream).write_all(begin.as_bytes()).unwrap();
        while let Ok(count) = (&stream).write(piece.as_bytes()) {
            sent += count;
            thread::sleep(pause);
        }
        sent
    };
    let server =
        thread::spawn(move || listener.incoming().take(connections).map(|stream| serve(stream.unwrap())).collect());
    (url, server)
}

/// Who tries twice, and waits so long each time.
fn twice(stall: Duration) -> Fetcher {
    let mut fetcher = raw();
    fetcher.how.patience = Patience { retries: 1, stall, ..fetcher.how.patience };
    fetcher
}

#[test]
fn a_head_may_have_a_hundred_headers_and_300_kib() {
    let head = |headers: usize, len: usize| {
        let mut lines: Vec<_> =
            (1..headers).map(|n| format!("X-{n:03}: {}\r\n", "x".repeat(len / headers - 9))).collect();
        lines.push("Content-Length: 512\r\n".into());
        let missing = len - lines.concat().len();
        lines[0] = lines[0].replace(": ", &format!(": {}", "x".repeat(missing)));
        assert_eq!(lines.concat().len(), len);
        Answer::raw(format!("HTTP/1.1 200 OK\r\n{}\r\n{}", lines.concat(), "y".repeat(512)))
    };
    for (answer, is_taken) in [
        (head(100, 4000), true),
        (head(101, 4000), false),
        (head(4, 300 << 10), true),
        (head(4, (300 << 10) + 1), false),
        (head(4, 1 << 20), false),
    ] {
        let (_server, url) = serve(File::new([]).gets_then([], answer));
        match twice(PATIENT).fetch(&url) {
            Ok(bytes) => assert!(is_taken && bytes.len() == 512),
            Err(error) => {
                assert!(!is_taken && error.code() == "source-unreachable", "{error}");
                assert!(error.to_string().contains("more than the 100 headers or 300 KiB that are allowed"), "{error}");
            }
        }
    }
}

#[test]
fn a_head_without_end_is_left() {
    let line = format!("X-Padding: {}\r\n", "x".repeat(8000));
    for (begin, piece) in [("HTTP/1.1 200 OK\r\n", line), ("HTTP/1.1 200 OK\r\nX-Padding: ", "x".repeat(8000))] {
        let (url, server) = endless(2, begin, piece, Duration::ZERO);
        assert_eq!(outcome(twice(PATIENT).fetch(&url)), "source-unreachable");
        let sent = server.join().unwrap();
        // Half a MiB, and what the kernel has of it on its way.
        assert!(sent.iter().all(|sent| *sent < 32 << 20), "{sent:?}");
    }
}

#[test]
fn heads_before_the_answer_are_passed_by_and_not_without_end() {
    check(file([right().interim(&[103; 1000])]), "whole", &["all"]);
    for pause in [Duration::ZERO, Duration::from_millis(50)] {
        for piece in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"] {
            let (url, server) = endless(2, "", piece.into(), pause);
            let began = Instant::now();
            assert_eq!(outcome(twice(Duration::from_millis(250)).fetch(&url)), "source-stalled");
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
            server.join().unwrap();
        }
    }
}

#[test]
fn what_follows_a_body_may_have_16_kib_and_is_not_heard_without_end() {
    let trailers = |len: usize| {
        let trailer = ("X-Padding".to_owned(), "x".repeat(len - "X-Padding: \r\n".len()));
        right().framing(Framing::Chunked(100_000, Chunks::Trailers(vec![trailer])))
    };
    check(file([trailers(16_000)]), "whole", &["all"]);
    check(file([trailers(17_000)]), "whole", &["all", "500000-"]);
    let begin = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n";
    let (url, server) = endless(2, begin, "X: y\r\n".repeat(10), Duration::ZERO);
    let error = twice(PATIENT).fetch(&url).unwrap_err();
    assert_eq!(error.code(), "source-interrupted", "{error}");
    server.join().unwrap();
}

#[test]
fn presigned_address_is_asked_by_get_with_its_query_which_no_error_shows() {
    let signed = "/disk?X-Amz-Signature=s3cr3t";
    for (answer, code) in [
        (right(), None),
        (Answer::status(403), Some("source-denied")),
        (Answer::endless_head(), Some("source-unreachable")),
    ] {
        let server = Server::start();
        let by = move |request: &Request, _: usize| {
            if request.path == signed { answer.clone() } else { Answer::status(403) }
        };
        server.put("/disk", File::new(disk(LEN)).gets_by(by).heads(Answer::status(405)));
        let came = raw().fetch(&server.url(signed));
        assert_eq!(came.as_ref().err().map(Error::code).as_deref(), code);
        if let Err(error) = came {
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
        }
        assert!(server.requests().iter().all(|request| request.method == "GET" && request.path == signed));
    }
}
