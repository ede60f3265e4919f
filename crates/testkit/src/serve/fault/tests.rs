mod client;

use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::*;
use crate::random::Random;
use client::{Client, ask, fetch};

/// A server with `file` at `/disk`.
fn server(file: File) -> Server {
    let server = Server::start();
    server.put("/disk", file);
    server
}

fn disk(len: usize) -> Vec<u8> {
    Random::new(1).bytes(len)
}

/// The answer to a GET, with these headers, of a disk of 1000 bytes.
fn answer_to(answer: Answer, headers: &[(&str, &str)]) -> client::Seen {
    let server = server(File::new(disk(1000)).version(vec![0; 1000]).gets([answer]));
    ask(server.address(), "GET", "/disk", headers)
}

#[test]
fn a_file_without_a_script_is_served_well() {
    let server = server(File::new(disk(1000)));
    let mut client = Client::connect(server.address());
    let whole = client.ask("GET", "/disk", &[]);
    assert_eq!((whole.status, whole.header("content-length"), whole.complete), (200, Some("1000"), true));
    assert!(whole.body == disk(1000));
    let tag = whole.header("etag").unwrap();
    assert!(tag.starts_with('"'));
    let part = client.ask("GET", "/disk?signed=1", &[("Range", "bytes=10-19"), ("If-Range", tag)]);
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 10-19/1000")));
    assert!(part.body == disk(1000)[10..20]);
    let head = client.ask("HEAD", "/disk", &[]);
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("1000"), 0));
    let date = head.header("last-modified").unwrap();
    assert_eq!(client.ask("GET", "/disk", &[("Range", "bytes=-1"), ("If-Range", date)]).body, disk(1000)[999..]);

    assert_eq!((server.connections(), server.sent()), (1, 1000 + 10 + 1));
    let requests = server.requests();
    let seen: Vec<_> =
        requests.iter().map(|r| (r.method.as_str(), r.path.as_str(), r.range, r.status, r.sent)).collect();
    assert_eq!(
        seen,
        [
            ("GET", "/disk", None, Some(200), 1000),
            ("GET", "/disk?signed=1", Some((10, Some(19))), Some(206), 10),
            ("HEAD", "/disk", None, Some(200), 0),
            ("GET", "/disk", None, Some(206), 1),
        ]
    );
    assert_eq!(requests[1].header("if-range"), Some(tag));
}

#[test]
fn validators_decide_about_ranges() {
    let range = ("Range", "bytes=990-2000");
    assert_eq!(answer_to(Answer::right(), &[range]).header("content-range"), Some("bytes 990-999/1000"));
    assert_eq!(answer_to(Answer::right(), &[range, ("If-Range", "\"other\"")]).status, 200);
    let weak = Answer::right().tag(Tag::Weak);
    assert_eq!(answer_to(weak.clone(), &[range, ("If-Range", "W/\"version-0-of-1000\"")]).status, 200);
    assert_eq!(answer_to(weak, &[range, ("If-Range", "Mon, 01 Jan 2024 00:00:00 GMT")]).status, 206);
    assert_eq!(answer_to(Answer::right(), &[range, ("If-Match", "\"version-0-of-1000\"")]).status, 206);
    assert_eq!(answer_to(Answer::right(), &[range, ("If-Match", "\"other\"")]).status, 412);
    let none = answer_to(Answer::right().tag(Tag::None).undated(), &[]);
    assert_eq!((none.header("etag"), none.header("last-modified")), (None, None));
    assert_eq!(answer_to(Answer::right().tag(Tag::Literal("bare".into())), &[]).header("etag"), Some("bare"));
    let outside = answer_to(Answer::right(), &[("Range", "bytes=1000-")]);
    assert_eq!((outside.status, outside.header("content-range"), outside.body.len()), (416, Some("bytes */1000"), 0));
    assert_eq!(answer_to(Answer::right(), &[("Range", "bytes=0-1,5-6")]).status, 200);
}

#[test]
fn ranges_go_wrong_in_every_way() {
    let cases = [
        (Ranges::Ignored, 200, None, 0..1000),
        (Ranges::Shifted(7), 206, Some("bytes 107-206/1000"), 107..207),
        (Ranges::Mislabelled(7), 206, Some("bytes 100-199/1000"), 107..207),
        (Ranges::AtMost(7), 206, Some("bytes 100-106/1000"), 100..107),
        (Ranges::Total(7000), 206, Some("bytes 100-199/7000"), 100..200),
        (Ranges::UnknownTotal, 206, Some("bytes 100-199/*"), 100..200),
        (Ranges::Unlabelled, 206, None, 100..200),
        (Ranges::Refused, 416, Some("bytes */1000"), 0..0),
    ];
    for (ranges, status, label, body) in cases {
        let seen = answer_to(Answer::right().ranges(ranges), &[("Range", "bytes=100-199")]);
        assert_eq!((seen.status, seen.header("content-range")), (status, label), "{ranges:?}");
        assert!(seen.body == disk(1000)[body], "{ranges:?}");
    }
    let seen = answer_to(Answer::right().ranges(Ranges::Mislabelled(7)), &[("Range", "bytes=100-")]);
    assert!(seen.body == disk(1000)[93..993]);
    let seen = answer_to(Answer::right().ranges(Ranges::Multipart), &[("Range", "bytes=100-199")]);
    assert_eq!(seen.header("content-type"), Some("multipart/byteranges; boundary=boundary-of-parts"));
    assert!(seen.body.windows(100).any(|window| window == &disk(1000)[100..200]) && seen.body.len() > 200);
    let seen = answer_to(Answer::right().ranges(Ranges::Html), &[("Range", "bytes=100-199")]);
    assert_eq!((seen.status, seen.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(answer_to(Answer::right().ranges(Ranges::Html), &[("Range", "bytes=0-")]).body.len(), 1000);
}

#[test]
fn a_body_ends_where_the_script_says() {
    let closed = answer_to(Answer::right().cut(400, End::Close), &[]);
    assert_eq!((closed.body.len(), closed.complete, closed.error), (400, false, None));
    let reset = answer_to(Answer::right().cut(400, End::Reset), &[]);
    assert_eq!((reset.body.len(), reset.error), (400, Some(ErrorKind::ConnectionReset)));
    let nothing = answer_to(Answer::nothing(End::Reset), &[]);
    assert_eq!((nothing.status, nothing.error), (0, Some(ErrorKind::ConnectionReset)));
    let part = answer_to(Answer::right().cut(30, End::Close), &[("Range", "bytes=100-")]);
    assert!(part.body == disk(1000)[100..130]);
}

#[test]
fn every_framing_tells_the_end_or_lies_about_it() {
    let long = answer_to(Answer::right().framing(Framing::LongBy(5)), &[]);
    assert_eq!((long.header("content-length"), long.body.len(), long.complete), (Some("1005"), 1000, false));
    let short = answer_to(Answer::right().framing(Framing::ShortBy(5)), &[]);
    assert_eq!((short.header("content-length"), short.body.len(), short.complete), (Some("995"), 995, true));
    let close = answer_to(Answer::right().framing(Framing::Close), &[]);
    assert_eq!((close.header("content-length"), close.body.len()), (None, 1000));
    assert_eq!(close.header("connection"), Some("close"));
    let chunked = |chunks| Answer::right().framing(Framing::Chunked(300, chunks));
    let clean = answer_to(chunked(Chunks::Clean), &[]);
    assert!(clean.complete && clean.body == disk(1000));
    let unended = answer_to(chunked(Chunks::Unended), &[]);
    assert!(!unended.complete && unended.body == disk(1000));
    let trailers = answer_to(chunked(Chunks::Trailers(vec![("X-Digest".into(), "1".into())])), &[]);
    assert_eq!((trailers.complete, trailers.trailers), (true, vec![("X-Digest".into(), "1".into())]));
    let cut = answer_to(chunked(Chunks::Clean).cut(450, End::Close), &[]);
    assert_eq!((cut.complete, cut.body.len()), (false, 450));
    assert!(answer_to(chunked(Chunks::Clean).cut(1000, End::Close), &[]).complete);
}

#[test]
fn gzip_is_sent_or_only_claimed() {
    let gzip = answer_to(Answer::right().gzip().framing(Framing::Chunked(100, Chunks::Clean)).tag(Tag::Weak), &[]);
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == disk(1000));
    let claimed = answer_to(Answer::right().claim_gzip(), &[]);
    assert_eq!((claimed.header("content-encoding"), &claimed.body), (Some("gzip"), &disk(1000)));
}

#[test]
fn a_file_changes_between_requests_and_within_one() {
    let file = File::new(vec![1; 100]).version(vec![2; 100]);
    let file = file.gets_then([Answer::right(), Answer::right().swap(60, 1)], Answer::right().version(1));
    let server = server(file);
    let [first, mixed, second] = [(); 3].map(|()| ask(server.address(), "GET", "/disk", &[]));
    assert_eq!((first.body, mixed.body), (vec![1; 100], [vec![1; 60], vec![2; 40]].concat()));
    assert_eq!(first.headers, mixed.headers);
    assert_eq!(second.body, [2; 100]);
    for header in ["etag", "last-modified"] {
        let find =
            |headers: &[(String, String)]| headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header)).cloned();
        assert_ne!(find(&mixed.headers), find(&second.headers), "{header}");
    }
}

#[test]
fn statuses_carry_their_headers() {
    let busy = answer_to(Answer::status(503).header("Retry-After", "1"), &[]);
    assert_eq!((busy.status, busy.header("retry-after"), busy.complete), (503, Some("1"), true));
    let moved = answer_to(Answer::redirect(301, "https://[::1]:1/disk"), &[]);
    assert_eq!((moved.status, moved.header("location")), (301, Some("https://[::1]:1/disk")));
    assert_eq!(answer_to(Answer::html(), &[]).header("content-type"), Some("text/html; charset=utf-8"));
    let own = answer_to(Answer::right().header("content-type", "text/plain"), &[]);
    assert_eq!(own.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("content-type")).count(), 1);
    let server = server(File::new([]).heads(Answer::status(405)));
    assert_eq!(ask(server.address(), "HEAD", "/disk", &[]).status, 405);
    assert_eq!(ask(server.address(), "PUT", "/disk", &[("Content-Length", "0")]).status, 405);
    assert_eq!(ask(server.address(), "GET", "/other", &[]).status, 404);
}

#[test]
fn heads_are_garbage_endless_or_late() {
    assert_eq!(answer_to(Answer::raw(*b"\0\x01\x02\r\n\r\n"), &[]).error, Some(ErrorKind::InvalidData));
    assert_eq!(answer_to(Answer::raw(*b"HTTP/1.1 200 OK\r\nContent-Le"), &[]).error, Some(ErrorKind::UnexpectedEof));
    assert_eq!(answer_to(Answer::endless_head(), &[]).error, Some(ErrorKind::InvalidData));
    assert_eq!(answer_to(Answer::right().wait(Server::LIFE), &[]).error, Some(ErrorKind::WouldBlock));
    let informed = answer_to(Answer::right().interim(&[100, 103, 103]), &[]);
    assert_eq!((informed.status, informed.body.len()), (200, 1000));
}

#[test]
fn a_stall_lasts_until_the_client_leaves() {
    let server = server(File::new(disk(1000)).gets([Answer::right().stall(400, Server::LIFE)]));
    let seen = ask(server.address(), "GET", "/disk", &[]);
    assert_eq!((seen.body.len(), seen.error), (400, Some(ErrorKind::WouldBlock)));
    let trickled =
        answer_to(Answer::right().trickle(100, Duration::from_millis(2)).stall(5, Duration::from_millis(2)), &[]);
    assert!(trickled.complete && trickled.body == disk(1000));
}

#[test]
fn connections_are_kept_closed_or_lost() {
    let answers = [Answer::right(), Answer::right().after(After::Close), Answer::right().after(After::Vanish)];
    let server = server(File::new(disk(10)).gets(answers));
    let mut client = Client::connect(server.address());
    assert_eq!(client.ask("GET", "/disk", &[]).header("connection"), Some("keep-alive"));
    assert_eq!(client.ask("GET", "/disk", &[]).header("connection"), Some("close"));
    assert_eq!(client.ask("GET", "/disk", &[]).status, 0);
    let mut client = Client::connect(server.address());
    let lost = client.ask("GET", "/disk", &[]);
    assert_eq!((lost.complete, lost.header("connection")), (true, Some("keep-alive")));
    assert_eq!(client.ask("GET", "/disk", &[]).status, 0);
    assert_eq!((server.connections(), server.requests().len()), (2, 3));

    server.greet([Greeting::End(End::Reset), Greeting::End(End::Close), Greeting::Mute]);
    let [reset, closed, mute] = [(); 3].map(|()| ask(server.address(), "GET", "/disk", &[]));
    assert!(matches!(reset.error, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{reset:?}");
    assert_eq!((closed.status, closed.error), (0, Some(ErrorKind::UnexpectedEof)));
    assert_eq!(mute.error, Some(ErrorKind::WouldBlock));
    assert_eq!((ask(server.address(), "GET", "/disk", &[]).status, server.requests().len()), (200, 4));
}

#[test]
fn a_script_may_look_at_the_request() {
    let file = File::new(disk(10)).gets_by(|request, _| match request.header("authorization") {
        Some("Basic dXNlcjpwYXNz") => Answer::right(),
        _ => Answer::status(401).header("WWW-Authenticate", "Basic realm=\"disks\""),
    });
    let server = server(file);
    let mut client = Client::connect(server.address());
    assert_eq!(client.ask("GET", "/disk", &[]).header("www-authenticate"), Some("Basic realm=\"disks\""));
    assert_eq!(client.ask("GET", "/disk", &[("Authorization", "Basic dXNlcjpwYXNz")]).status, 200);
}

#[test]
fn a_dropped_server_leaves_nobody_waiting() {
    let server = server(File::new(disk(10)).gets([Answer::right().stall(5, Server::LIFE)]));
    let mut client = Client::connect(server.address());
    let (address, began) = (server.address(), Instant::now());
    // The client gives up with an error and stays connected; only the drop can end the stall.
    assert_eq!(client.ask("GET", "/disk", &[]).body.len(), 5);
    drop(server);
    assert!(began.elapsed() < Server::LIFE / 4, "{:?}", began.elapsed());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn schedules_repeat_themselves_and_cover_both_expectations() {
    let print = |seed| format!("{:?}", Schedule::random(seed));
    assert_eq!(print(3), print(3));
    let whole = (0..1000).filter(|&seed| Schedule::random(seed).expect == Expect::Whole).count();
    assert!((500..800).contains(&whole), "{whole}");
    assert!((0..1000).all(|seed| Schedule::random(seed).tries() <= Schedule::MOST + 3));
}

#[test]
fn a_good_client_ends_every_schedule_as_expected() {
    let server = Server::start();
    thread::scope(|scope| {
        for worker in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for seed in (worker..200).step_by(4) {
                    let (schedule, path) = (Schedule::random(seed), format!("/{seed}"));
                    server.put(&path, schedule.file());
                    match (fetch(server.address(), &path, schedule.tries()), &schedule.expect) {
                        (Ok(bytes), _) => assert!(schedule.is_whole(&bytes), "wrong bytes of {schedule:?}"),
                        (Err(finding), Expect::WholeOr(findings)) if findings.contains(&finding) => {}
                        (Err(finding), _) => panic!("{finding:?} of {schedule:?}"),
                    }
                }
            });
        }
    });
}
