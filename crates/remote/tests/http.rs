//! What is done about servers, one decision after the other: which bytes come, and what the server was asked for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{Fetcher, outcome};
use diskferry::digest::Checksum;
use diskferry::{Error, Input, Options, Progress};
use diskferry_remote::http::{How, Patience};
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::random::Random;
use diskferry_testkit::serve::fault::{
    Answer, Chunks, End, Expect, File, Framing, Greeting, Ranges, Request, Schedule, Server, Tag,
};
use diskferry_testkit::vdi::Vdi;
use diskferry_testkit::vmdk::{Style, Vmdk};
use diskferry_testkit::wrap;

const LEN: usize = 500_000;
/// More than a few parts of [`Fetcher::parallel`].
const LONG: usize = 9_000_000;
const PATIENT: Duration = Duration::from_secs(20);

fn disk(len: usize) -> Vec<u8> {
    Random::new(len as u64).bytes(len)
}

fn serve(file: File) -> (Server, String) {
    let server = Server::start();
    server.put("/disk", file);
    let url = server.url("/disk");
    (server, url)
}

fn raw() -> Fetcher {
    let mut fetcher = Fetcher::new();
    fetcher.how.format = Some("raw".parse().unwrap());
    fetcher
}

fn parallel(connections: usize) -> Fetcher {
    let mut fetcher = raw();
    fetcher.how.connections = connections;
    fetcher
}

fn sha256(bytes: &[u8]) -> Checksum {
    let said = String::from_utf8(wrap::filter("sha256sum", &[], bytes)).unwrap();
    format!("sha256:{}", &said[..64]).parse().unwrap()
}

/// What comes of a file of [`LEN`] bytes, and what was asked for: `all`, or the first byte of a range and `!` if it was one of any
/// version.
fn fetched(file: File) -> (String, Vec<String>) {
    let (server, url) = serve(file);
    let came = raw().fetch(&url);
    let came = came.map_or_else(|e| e.code(), |bytes| if bytes == disk(LEN) { "whole".into() } else { "wrong".into() });
    (came, server.requests().iter().map(asked).collect())
}

fn asked(request: &Request) -> String {
    assert_eq!((request.method.as_str(), request.header("accept-encoding")), ("GET", Some("identity")));
    match request.range {
        None => "all".into(),
        Some((first, _)) if request.header("if-range").is_none() => format!("{first}!"),
        Some((first, None)) => format!("{first}-"),
        Some((first, Some(last))) => format!("{first}-{last}"),
    }
}

#[track_caller]
fn check(file: File, came: &str, requests: &[&str]) {
    assert_eq!(fetched(file), (came.to_owned(), requests.iter().map(|&request| request.to_owned()).collect()));
}

fn file(answers: impl Into<Vec<Answer>>) -> File {
    File::new(disk(LEN)).version(vec![7; LEN]).gets(answers)
}

fn right() -> Answer {
    Answer::right()
}

// Resuming.

#[test]
fn good_server_is_asked_once_for_all() {
    check(file([]), "whole", &["all"]);
}

#[test]
fn cut_or_reset_connection_goes_on_at_the_byte_reached() {
    check(
        file([right().cut(100_000, End::Close), right().cut(60_000, End::Close)]),
        "whole",
        &["all", "100000-", "160000-"],
    );
    // What the kernel had not handed over is lost with a reset.
    let (came, requests) = fetched(file([right().cut(400_000, End::Reset)]));
    assert_eq!((came.as_str(), requests.len()), ("whole", 2), "{requests:?}");
}

#[test]
fn connection_that_ends_before_the_first_byte_is_made_again() {
    check(file([Answer::nothing(End::Close), Answer::nothing(End::Reset)]), "whole", &["all"; 3]);
    let (server, url) = serve(file([]));
    server.greet([Greeting::End(End::Reset), Greeting::Mute, Greeting::End(End::Close)]);
    assert_eq!(raw().fetch(&url).unwrap(), disk(LEN));
}

#[test]
fn stalled_server_is_left_and_asked_for_the_rest() {
    check(file([right().stall(100_000, Server::LIFE)]), "whole", &["all", "100000-"]);
    check(file([right().wait(Server::LIFE)]), "whole", &["all", "all"]);
    let (server, url) = serve(File::new(disk(LEN)).gets_then([], right().stall(0, Server::LIFE)));
    let mut fetcher = raw();
    fetcher.how.patience.retries = 1;
    let error = fetcher.fetch(&url).unwrap_err();
    assert_eq!((error.code().as_str(), error.is_transient(), server.requests().len()), ("source-stalled", true, 2));
}

#[test]
fn server_that_pauses_for_less_than_the_stall_time_is_heard_to_the_end() {
    let stall = Duration::from_secs(2);
    let pauses = (1..=4).fold(right().wait(stall / 2), |answer, nth| answer.stall(nth * 100_000, stall / 2));
    let (server, url) = serve(file([pauses]));
    let mut fetcher = raw();
    fetcher.how.patience.stall = stall;
    let began = Instant::now();
    assert_eq!(fetcher.fetch(&url).unwrap(), disk(LEN));
    assert!(began.elapsed() > 2 * stall, "{:?}", began.elapsed());
    assert_eq!(server.requests().iter().map(asked).collect::<Vec<_>>(), ["all"]);
    assert_eq!(server.connections(), 1);
}

#[test]
fn server_that_gives_nothing_new_is_given_up() {
    let (server, url) =
        serve(File::new(disk(LEN)).gets_then([right().cut(1000, End::Close)], right().cut(0, End::Close)));
    let error = raw().fetch(&url).unwrap_err();
    assert_eq!((error.code().as_str(), error.is_transient()), ("source-interrupted", true));
    assert!(error.to_string().contains("tried again 4 times"), "{error}");
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn server_that_gives_nothing_new_is_asked_eight_times_more_where_nothing_else_is_said() {
    let (server, url) = serve(File::new(disk(LEN)).gets_then([], Answer::status(503)));
    let mut fetcher = raw();
    fetcher.how.patience.retries = How::default().patience.retries;
    let error = fetcher.fetch(&url).unwrap_err();
    assert!(error.to_string().ends_with("(tried again 8 times; --retries)"), "{error}");
    assert_eq!(server.requests().len(), 9);
}

#[test]
fn server_that_dies_often_and_gives_something_is_not_given_up() {
    let (server, url) = serve(File::new(disk(LEN)).gets_then([], right().cut(70_000, End::Close)));
    assert_eq!(raw().fetch(&url).unwrap(), disk(LEN));
    assert_eq!(server.requests().len(), 8);
}

#[test]
fn date_is_a_validator_and_a_weak_tag_or_none_is_not() {
    // The fault server sends no Date; without it nobody knows whether Last-Modified is strong.
    let date = |answer: Answer| answer.tag(Tag::Weak).header("Date", "Tue, 02 Jan 2024 00:00:00 GMT");
    check(file([date(right()).cut(100_000, End::Close), date(right())]), "whole", &["all", "100000-"]);
    for tag in [Tag::Weak, Tag::None, Tag::Literal("unquoted".into())] {
        let plain = right().tag(tag).undated();
        check(file([plain.clone().cut(100_000, End::Close), plain]), "whole", &["all", "all"]);
    }
}

#[test]
fn whole_answer_to_a_range_is_proved_and_skipped_forward() {
    check(file([right().cut(100_000, End::Close), right().ranges(Ranges::Ignored)]), "whole", &["all", "100000-"]);
}

#[test]
fn whole_answer_with_other_bytes_is_a_change() {
    let changed = [right().cut(100_000, End::Close), right().version(1).ranges(Ranges::Ignored)];
    check(file(changed), "source-changed", &["all", "100000-"]);
}

#[test]
fn whole_answer_that_goes_on_behind_the_end_is_a_change() {
    let longer = [disk(LEN), vec![7; 1000]].concat();
    let unbounded = right().version(1).ranges(Ranges::Ignored).framing(Framing::Close);
    let served = File::new(disk(LEN)).version(longer).gets([right().cut(100_000, End::Close), unbounded]);
    check(served, "source-changed", &["all", "100000-"]);
}

#[test]
fn new_tag_on_the_same_bytes_is_the_same_image_and_becomes_its_name() {
    let renamed = || right().tag(Tag::Literal("\"new\"".into()));
    let (server, url) = serve(file([right().cut(100_000, End::Close), renamed().cut(200_000, End::Close), renamed()]));
    assert_eq!(raw().fetch(&url).unwrap(), disk(LEN));
    let requests = server.requests();
    assert_eq!(requests.iter().map(asked).collect::<Vec<_>>(), ["all", "100000-", "200000-"]);
    assert_eq!(requests[2].header("if-range"), Some("\"new\""));
}

#[test]
fn tag_that_comes_and_goes_never_mixes_two_images() {
    // The second version begins as the first does, and is left after what they have in common.
    let [mut first, mut second] = [disk(LEN), vec![7; LEN]];
    second[..100_000].copy_from_slice(&first[..100_000]);
    let script = [right().cut(100_000, End::Close), right().version(1).cut(200_000, End::Close)];
    let (server, url) = serve(File::new(first.clone()).version(second.clone()).gets(script));
    assert_eq!(outcome(raw().fetch(&url)), "source-changed");
    assert_eq!(server.requests().iter().map(asked).collect::<Vec<_>>(), ["all", "100000-", "200000-"]);
    first.truncate(0);
}

#[test]
fn part_of_another_version_is_a_change_even_if_the_server_ignores_if_range() {
    let by = |request: &Request, nth: usize| match (nth, request.range) {
        (0, _) => right().cut(100_000, End::Close),
        // As the second version's, but for the first one's condition.
        _ => right()
            .tag(Tag::Literal("\"other\"".into()))
            .header("Content-Range", &format!("bytes 100000-{}/{LEN}", LEN - 1)),
    };
    let (server, url) = serve(File::new(disk(LEN)).gets_by(by));
    // The condition does not hold there, so the answer is a 200 with all: the same bytes, whatever it says of a range.
    assert_eq!(raw().fetch(&url).unwrap(), disk(LEN));
    assert_eq!(server.requests().len(), 2);
}

/// When it is by a server whose file is older than that.
const TODAY: &str = "Wed, 01 Jan 2025 00:00:00 GMT";

#[test]
fn part_whose_weak_tag_or_date_is_another_is_a_change() {
    // Replaced right now, a file has a date that is no name for its version yet.
    let now = "Thu, 31 Dec 2099 00:00:00 GMT";
    let first = |tag| right().tag(tag).header("Date", TODAY).cut(100_000, End::Close);
    for (tag, part) in [
        (Tag::None, right().tag(Tag::None).header("Last-Modified", now)),
        (Tag::Literal("W/\"one\"".into()), right().tag(Tag::Literal("W/\"other\"".into()))),
        (Tag::Literal("W/\"one\"".into()), right().tag(Tag::Literal("W/\"one\"".into())).header("Last-Modified", now)),
    ] {
        let other = part.header("Date", TODAY).version(1);
        let (server, url) = serve(File::new(disk(LEN)).version(vec![7; LEN]).gets([first(tag), other]));
        assert_eq!(raw().fetch(&url).unwrap_err().code(), "source-changed");
        assert_eq!(server.requests().iter().map(asked).collect::<Vec<_>>(), ["all", "100000-"]);
    }
}

#[test]
fn part_that_has_no_date_where_that_was_the_name_is_not_used() {
    let answer = || right().tag(Tag::None).header("Date", TODAY);
    let (server, url) =
        serve(file([answer().cut(100_000, End::Close), answer().header("Last-Modified", ""), answer()]));
    assert_eq!(raw().fetch(&url).unwrap(), disk(LEN));
    assert_eq!(server.requests().iter().map(asked).collect::<Vec<_>>(), ["all", "100000-", "all"]);
}

#[test]
fn part_that_does_not_say_of_which_version_it_is_is_not_used() {
    // It honours If-Range by the date, and leaves the tag out of its parts.
    let (server, url) = serve(file([right().cut(100_000, End::Close), right().header("ETag", "")]));
    assert_eq!(raw().fetch(&url).unwrap(), disk(LEN));
    assert_eq!(server.requests().iter().map(asked).collect::<Vec<_>>(), ["all", "100000-", "all"]);
}

#[test]
fn wrong_parts_are_not_used_and_the_whole_is_asked_for() {
    for wrong in [Ranges::Shifted(1), Ranges::Unlabelled, Ranges::Multipart, Ranges::Refused] {
        let answers = [right().cut(100_000, End::Close), right().ranges(wrong)];
        check(file(answers), "whole", &["all", "100000-", "all"]);
    }
    let other_total = [right().cut(100_000, End::Close), right().ranges(Ranges::Total(LEN as u64 + 1))];
    check(file(other_total), "source-changed", &["all", "100000-"]);
}

#[test]
fn wrong_part_is_the_error_where_nothing_may_be_asked_for_again() {
    let range = |said: &str| right().header("Content-Range", said);
    for wrong in [
        right().ranges(Ranges::Shifted(1)),
        right().ranges(Ranges::Unlabelled),
        right().ranges(Ranges::Multipart),
        right().ranges(Ranges::Refused),
        right().header("ETag", ""),
        range(&format!("bytes 100000-104999/{LEN}")).ranges(Ranges::AtMost(10_000)).framing(Framing::Close),
    ] {
        let told = format!("{wrong:?}");
        let (server, url) = serve(file([right().cut(100_000, End::Close), wrong]));
        let mut fetcher = raw();
        // The one that the broken connection takes.
        fetcher.how.patience.retries = 1;
        assert_eq!(outcome(fetcher.fetch(&url)), "source-wrong-range", "{told}");
        assert_eq!(server.requests().iter().map(asked).collect::<Vec<_>>(), ["all", "100000-"], "{told}");
    }
}

#[test]
fn an_error_says_where_redirects_led_and_only_then() {
    let server = Server::start();
    server.put("/b", File::new([]).gets_then([], Answer::redirect(302, &server.url("/nothing?token=hunter2"))));
    let said = |url: &str| raw().fetch(url).unwrap_err().to_string();
    let led = said(&server.url("/b"));
    assert!(led.ends_with(&format!(" (redirects led to {})", server.url("/nothing"))), "{led}");
    for url in [server.url("/none"), server.url("/none#part"), server.url("/none").replace("//", "//me:hunter2@")] {
        let text = said(&url);
        assert!(text.contains("no such file") && !text.contains("redirects") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn mislabelled_part_is_found_by_the_checksum_only() {
    let (_server, url) = serve(file([right().cut(100_000, End::Close), right().ranges(Ranges::Mislabelled(100))]));
    let options = Options { checksums: vec![sha256(&disk(LEN))], ..Options::default() };
    assert_eq!(raw().convert(&url, &options).unwrap_err().code(), "mismatch");
}

#[test]
fn capped_parts_are_put_together_without_a_pause() {
    let capped = right().ranges(Ranges::AtMost(30_000));
    let (server, url) = serve(File::new(disk(LEN)).gets_then([right().cut(1000, End::Close)], capped));
    let mut fetcher = raw();
    fetcher.how.patience.retries = 1;
    assert_eq!(fetcher.fetch(&url).unwrap(), disk(LEN));
    assert_eq!(server.requests().len(), 1 + 17);
}

#[test]
fn parts_of_a_few_bytes_are_not_asked_for_without_end() {
    let crumbs = || right().ranges(Ranges::AtMost(1));
    let few = |server: &Server| assert!(server.requests().len() <= 7, "{}", server.requests().len());
    let (server, url) = serve(File::new(disk(LEN)).gets_then([right().cut(1000, End::Close)], crumbs()));
    assert_eq!(raw().fetch(&url).unwrap_err().code(), "source-interrupted");
    few(&server);

    let (server, url) = serve(File::new(disk(LEN)).gets_then([], crumbs()));
    let mut look = Fetcher::new();
    look.how.look = true;
    let error = diskferry::inspect(look.open(&url).unwrap(), &Options::default()).unwrap_err();
    assert_eq!(error.code(), "source-interrupted");
    few(&server);

    let (server, url) = serve(File::new(disk(LEN)).gets_then([right()], crumbs()));
    let Input::Ranged { mut ranges, .. } = raw().open(&url).unwrap() else { panic!("it has ranges") };
    let error = Error::reading(0, ranges.read_at(&mut [0; 8192], 400_000).unwrap_err());
    assert_eq!(error.code(), "source-interrupted");
    few(&server);
}

#[test]
fn part_longer_than_announced_is_not_used() {
    let longer = right().ranges(Ranges::AtMost(10_000)).framing(Framing::Close);
    let lies = longer.header("Content-Range", &format!("bytes 100000-104999/{LEN}"));
    check(file([right().cut(100_000, End::Close), lies]), "whole", &["all", "100000-", "all"]);
}

// Lengths.

#[test]
fn every_framing_brings_the_whole_image() {
    let trailers = Chunks::Trailers(vec![("X-Checked".into(), "yes".into())]);
    for framing in [Framing::Length, Framing::Chunked(7777, Chunks::Clean), Framing::Chunked(100_000, trailers)] {
        check(file([right().framing(framing)]), "whole", &["all"]);
    }
}

#[test]
fn end_of_the_connection_is_the_end_of_the_image_if_nothing_follows_it() {
    // A server with ranges can be asked whether that was all, and one without cannot.
    check(file([right().framing(Framing::Close)]), "whole", &["all", "500000-"]);
    check(file([right().framing(Framing::Close).ranges(Ranges::Ignored)]), "whole", &["all"]);
    check(file([right().framing(Framing::Close).cut(100_000, End::Close)]), "whole", &["all", "100000-"]);
}

#[test]
fn chunks_without_an_end_are_asked_for_again() {
    check(file([right().framing(Framing::Chunked(5000, Chunks::Unended))]), "whole", &["all", "500000-"]);
    let cut = right().framing(Framing::Chunked(5000, Chunks::Clean)).cut(7000, End::Close);
    check(file([cut]), "whole", &["all", "7000-"]);
}

#[test]
fn length_that_is_too_large_is_an_error_and_no_shorter_image() {
    check(file([right().framing(Framing::LongBy(10))]), "source-changed", &["all", "500000-"]);
}

#[test]
fn length_that_is_too_small_is_what_the_image_has() {
    let (_server, url) = serve(file([right().framing(Framing::ShortBy(10))]));
    assert_eq!(raw().fetch(&url).unwrap(), disk(LEN)[..LEN - 10]);
}

#[test]
fn empty_file_is_an_empty_image() {
    for fetcher in [raw(), parallel(3)] {
        let (_server, url) = serve(File::new([]));
        assert!(fetcher.fetch(&url).unwrap().is_empty());
        assert_eq!(fetcher.convert(&url, &Options::default()).unwrap_err().code(), "raw-empty");
    }
    let (_server, url) = serve(File::new([]));
    let mut look = Fetcher::new();
    look.how.look = true;
    assert_eq!(diskferry::inspect(look.open(&url).unwrap(), &Options::default()).unwrap_err().code(), "raw-empty");
}

#[test]
fn encoding_of_the_server_is_a_wrapping_like_others_unless_another_was_stated() {
    let packed = || File::new([&disk(1000)[..], &[0; 200_000]].concat()).gets_then([], right().gzip());
    let (_server, url) = serve(packed());
    let (bytes, report) = Fetcher::new().convert(&url, &Options::default()).unwrap();
    assert_eq!((bytes.len(), report.inspection.wrappings), (201_000, vec!["gzip"]));
    // Of a raw disk nobody can tell whether it has been packed once more.
    for (stated, came) in
        [("raw", "source-encoding"), ("raw.gz", "source-encoding"), ("qcow2.gz", "qcow2-not-this-format")]
    {
        let mut fetcher = Fetcher::new();
        fetcher.how.format = Some(stated.parse().unwrap());
        let found = fetcher.convert(&url, &Options::default());
        assert_eq!(found.map_or_else(|e| e.code(), |(bytes, _)| bytes.len().to_string()), came, "{stated}");
    }
    let (_server, url) = serve(File::new(disk(1000)).gets_then([], right().header("Content-Encoding", "br")));
    assert_eq!(outcome(Fetcher::new().fetch(&url)), "source-encoding");
}

#[test]
fn claimed_encoding_of_a_packed_file_is_that_of_the_file() {
    let packed = wrap::gzip(&[&disk(1000)[..], &[0; 200_000]].concat());
    let (_server, url) = serve(File::new(packed).gets_then([], right().claim_gzip()));
    let (bytes, report) = Fetcher::new().convert(&url, &Options::default()).unwrap();
    assert_eq!((bytes.len(), report.inspection.wrappings), (201_000, vec!["gzip"]));
}

// What is no image.

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

// Several connections.

#[test]
fn parts_are_fetched_while_the_target_takes_nothing() {
    // The third one, late and with two answers: by then the second one waits for the target.
    let third = |request: &Request, _: usize| match asked(request).starts_with("4194304-") {
        true => right().wait(Duration::from_millis(500)).cut(100_000, End::Close),
        false => right(),
    };
    let (server, url) = serve(File::new(disk(LONG)).gets_by(third));
    let mut fetcher = parallel(3);
    fetcher.how.patience.stall = PATIENT;
    let Ok(Input::Ranged { mut reader, .. }) = fetcher.open(&url) else { panic!() };
    let began = Instant::now();
    while !server.requests().iter().any(|request| asked(request).starts_with("4294304-")) {
        assert!(began.elapsed() < PATIENT, "{:?}", server.requests());
        thread::sleep(Duration::from_millis(10));
    }
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == disk(LONG));
}

#[test]
fn parts_come_in_order_over_several_connections() {
    let slow = |_: &Request, nth: usize| right().wait(Duration::from_millis([40, 20, 0][nth % 3]));
    let (server, url) = serve(File::new(disk(LONG)).gets_by(slow));
    assert!(parallel(3).fetch(&url).unwrap() == disk(LONG));
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    assert!(requests.iter().skip(1).all(|request| request.header("if-range").is_some()));
    assert!((2..=4).contains(&server.connections()), "{}", server.connections());
}

#[test]
fn parts_that_break_are_completed_in_place() {
    let breaks = |request: &Request, nth: usize| match request.range {
        Some((first, _)) if first > 0 && nth.is_multiple_of(2) => right().cut(300_000, End::Reset),
        _ => right(),
    };
    let (_server, url) = serve(File::new(disk(LONG)).gets_by(breaks));
    assert!(parallel(4).fetch(&url).unwrap() == disk(LONG));
}

#[test]
fn parts_of_no_version_or_of_no_length_are_not_put_together() {
    for unnamed in
        [right().tag(Tag::None).undated(), right().ranges(Ranges::UnknownTotal), right().ranges(Ranges::Ignored)]
    {
        let (server, url) = serve(File::new(disk(LONG)).gets_then([], unnamed));
        assert!(parallel(4).fetch(&url).unwrap() == disk(LONG));
        assert!(server.requests().len() <= 2, "{:?}", server.requests());
    }
}

#[test]
fn image_replaced_between_parts_is_a_change() {
    let replaced = |_: &Request, nth: usize| right().version(usize::from(nth > 1));
    let (_server, url) = serve(File::new(disk(LONG)).version(vec![7; LONG]).gets_by(replaced));
    assert_eq!(outcome(parallel(2).fetch(&url)), "source-changed");
}

#[test]
fn server_that_stops_giving_parts_is_read_from_the_beginning() {
    let stops = |_: &Request, nth: usize| if nth < 2 { right() } else { right().ranges(Ranges::Ignored) };
    let (_server, url) = serve(File::new(disk(LONG)).gets_by(stops));
    assert!(parallel(3).fetch(&url).unwrap() == disk(LONG));
}

// Metadata far ahead.

const CLUSTER: usize = 65536;

/// An image of 8 MiB whose L1 and L2 tables lie behind its data.
fn tables_behind() -> Qcow2 {
    let mut image = Qcow2::new(8 << 20);
    image.l1 = Place::Behind;
    image.l2 = Place::Behind;
    image.clusters = (0..96).map(|guest| (guest, Cluster::Plain(Random::new(guest).bytes(CLUSTER)))).collect();
    image
}

#[test]
fn tables_at_the_end_cost_a_small_request_and_no_spool() {
    let image = tables_behind();
    let bytes = image.build().image;
    let (server, url) = serve(File::new(bytes.clone()));
    let (disk, report) = Fetcher::new().convert(&url, &Options::default()).unwrap();
    assert!(disk == image.disk());
    // What lies between the header and the first cluster.
    assert!(report.spooled < CLUSTER as u64, "{}", report.spooled);
    let requests = server.requests();
    assert_eq!(requests[0].range, None);
    assert!((2..=3).contains(&requests.len()), "{requests:?}");
    for request in &requests[1..] {
        assert!(request.header("if-range").is_some() && request.sent <= 128 << 10, "{request:?}");
    }
    assert!(report.transferred <= bytes.len() as u64 + (256 << 10));
}

#[test]
fn tables_at_the_end_are_spooled_for_where_there_are_no_ranges() {
    let refused = |request: &Request, _: usize| if request.range.is_some() { Answer::status(403) } else { right() };
    let image = tables_behind();
    for file in [
        File::new(image.build().image).gets_then([], right().ranges(Ranges::Ignored)),
        File::new(image.build().image).gets_then([], right().header("Accept-Ranges", "none")),
        File::new(image.build().image).gets_then([], right().ranges(Ranges::Refused)),
        File::new(image.build().image).gets_by(refused),
    ] {
        let (server, url) = serve(file);
        let (disk, report) = Fetcher::new().convert(&url, &Options::default()).unwrap();
        assert!(disk == image.disk());
        assert!(report.spooled >= 95 * CLUSTER as u64, "{}", report.spooled);
        assert!(server.requests().len() <= 2);
    }
}

#[test]
fn tables_that_the_stream_does_not_confirm_are_refused_even_with_the_right_checksum() {
    let image = tables_behind();
    let built = image.build();
    let mut bent = built.image.clone();
    // The table says that the second cluster is what the first one is.
    let l2 = usize::try_from(*built.l2.values().next().unwrap()).unwrap();
    bent.copy_within(l2..l2 + 8, l2 + 8);
    let sum = sha256(&built.image);
    // Both claim to be one version.
    let same = || right().tag(Tag::Literal("\"same\"".into()));
    let lies = move |request: &Request, _: usize| same().version(usize::from(request.range.is_some()));
    let (_server, url) = serve(File::new(built.image).version(bent).gets_by(lies));
    for checksums in [vec![], vec![sum]] {
        let options = Options { checksums, ..Options::default() };
        let error = Fetcher::new().convert(&url, &options).unwrap_err();
        assert!(
            matches!(error.code().as_str(), "source-changed" | "qcow2-mapped-twice" | "qcow2-overlap"),
            "{error} {}",
            error.code()
        );
    }
}

// Looking.

/// Images that are longer than what looking at them may take, and what they are.
fn images() -> Vec<(&'static str, Vec<u8>, &'static str, Option<u64>)> {
    let noise = disk(6 << 20);
    let size = Some(noise.len() as u64);
    let mut marked = noise.clone();
    marked[510..512].copy_from_slice(b"\x55\xaa");
    let qcow2 = tables_behind();
    let sparse = Vmdk::new(Style::Sparse, 16 << 11).fill(1);
    let stream = Vmdk::new(Style::StreamTail, 24 << 11).fill(1);
    let vdi = Vdi::qemu(16 << 20).fill(1);
    let q = qcow2.build().image;
    let q_size = Some(qcow2.size);
    vec![
        ("raw", marked.clone(), "raw", size),
        ("raw.gz", wrap::gzip(&marked), "raw", None),
        ("raw.xz", wrap::xz(&marked, &["-0", "--block-size=1MiB"]), "raw", size),
        ("raw.xz in one block", wrap::xz(&marked, &["-0"]), "raw", size),
        ("raw.zst", wrap::zstd(&marked, &["-1", "--stream-size=6291456"]), "raw", size),
        ("raw.bz2", wrap::bzip2(&marked), "raw", None),
        ("qcow2", q.clone(), "qcow2", q_size),
        ("qcow2.xz", wrap::xz(&q, &["-0", "--block-size=1MiB"]), "qcow2", q_size),
        ("qcow2.gz", wrap::gzip(&q), "qcow2", q_size),
        ("qcow2.zst", wrap::zstd(&q, &["-1"]), "qcow2", q_size),
        ("qcow2.bz2", wrap::bzip2(&q), "qcow2", q_size),
        ("vmdk", sparse.build().image, "vmdk", Some(16 << 20)),
        ("vmdk stream", stream.build().image, "vmdk", Some(24 << 20)),
        ("vdi", vdi.build().image, "vdi", Some(16 << 20)),
    ]
}

#[test]
fn looking_takes_less_than_a_mebibyte_of_every_image() {
    let mut most = Vec::new();
    for (name, bytes, format, size) in images() {
        assert!(bytes.len() > 3 << 20, "{name}: {} bytes show nothing", bytes.len());
        let (server, url) = serve(File::new(bytes.clone()));
        let mut look = Fetcher::new();
        look.how.look = true;
        let found = diskferry::inspect(look.open(&url).unwrap(), &Options::default()).unwrap();
        assert_eq!((found.image.format, found.unpacked_size), (format, size), "{name}");
        assert_eq!(found.stored_size, Some(bytes.len() as u64), "{name}");
        assert!(server.sent() < 1 << 20, "{name}: {} bytes", server.sent());
        assert!(server.requests().iter().all(|request| request.range.is_some()), "{name}");
        most.push((server.sent(), server.requests().len(), name));
    }
    eprintln!("{most:?}");
}

#[test]
fn looking_goes_on_after_a_broken_connection_and_with_servers_without_ranges() {
    let image = tables_behind();
    let breaks =
        |_: &Request, nth: usize| if nth.is_multiple_of(2) { right().cut(50_000, End::Close) } else { right() };
    for file in [
        File::new(image.build().image).gets_by(breaks),
        File::new(image.build().image)
            .gets_then([right().ranges(Ranges::Ignored).cut(50_000, End::Close)], right().ranges(Ranges::Ignored)),
        File::new(image.build().image).gets_then([], right().ranges(Ranges::Refused)),
        File::new(image.build().image).gets_then([], right().ranges(Ranges::UnknownTotal)),
        File::new(image.build().image).gets_then([], right().tag(Tag::None).undated()),
    ] {
        let (_server, url) = serve(file);
        let mut look = Fetcher::new();
        look.how.look = true;
        let found = diskferry::inspect(look.open(&url).unwrap(), &Options::default()).unwrap();
        assert_eq!((found.image.format, found.unpacked_size), ("qcow2", Some(8 << 20)));
    }
}

#[test]
fn reader_that_is_dropped_closes_its_connections() {
    for connections in [1, 3] {
        let (server, url) =
            serve(File::new(disk(LONG)).gets_then([], right().trickle(1000, Duration::from_millis(20))));
        let Input::Ranged { mut reader, ranges, .. } = parallel(connections).open(&url).unwrap() else { panic!() };
        if connections == 1 {
            reader.read_exact(&mut [0; 100]).unwrap();
        }
        drop((reader, ranges));
        thread::sleep(Duration::from_millis(200));
        let sent = server.sent();
        thread::sleep(Duration::from_millis(200));
        assert_eq!(server.sent(), sent, "it is still sent over {connections} connections");
    }
}

#[test]
fn stopped_job_waits_for_nobody() {
    let stall = right().stall(1000, Server::LIFE);
    let waits = [
        File::new(disk(LEN)).gets_then([], stall),
        File::new(disk(LEN)).gets_then([], Answer::nothing(End::Close).wait(Server::LIFE)),
        File::new(disk(LEN)).gets_then([], Answer::status(503).header("Retry-After", "60")),
    ];
    for file in waits {
        let (_server, url) = serve(file);
        let mut fetcher = raw();
        fetcher.how.patience.stall = Duration::from_secs(60);
        fetcher.how.patience.longest_pause = Duration::from_secs(60);
        let progress = Progress::default();
        let stopper = progress.clone();
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(200));
                stopper.stop();
            });
            let opened = diskferry_remote::http::open(
                &fetcher.runtime,
                &fetcher.client,
                &url.parse().unwrap(),
                &fetcher.how,
                &progress,
            );
            let ended = opened.and_then(|input| match input {
                Input::Ranged { mut reader, .. } => {
                    reader.read_to_end(&mut Vec::new()).map_err(|error| Error::reading(0, error))
                }
                _ => panic!("it has ranges"),
            });
            assert_eq!(ended.unwrap_err().code(), "stopped");
        });
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

// Everything at once.

/// The schedules are for files of some bytes. What comes in pieces of a few bytes would take hours for an image.
fn in_time(answer: &Answer) -> Answer {
    let told = format!("{answer:?}");
    if told.contains("pace:") || told.contains("Chunked(") {
        return right().framing(Framing::Chunked(50_000, Chunks::Clean)).cut(300_000, End::Close);
    }
    answer.clone()
}

#[test]
fn random_schedules_never_make_a_wrong_disk() {
    const SEEDS: u64 = 240;
    let qcow2 = |seed| {
        let mut image = Qcow2::new((4 << 20) - 512).fill(seed);
        (image.l1, image.l2) = (Place::Behind, Place::Behind);
        image.shuffle = Some(seed);
        (image.build().image, image.disk())
    };
    let stream = |seed| {
        let image = Vmdk::new(Style::StreamTail, 6 << 11).fill(seed);
        (image.build().image, image.disk())
    };
    let packed = |seed| {
        let disk = Random::new(seed).text(1_500_032);
        (wrap::gzip(&disk), disk)
    };
    let kinds = [("qcow2", [qcow2(1), qcow2(2)]), ("vmdk", [stream(1), stream(2)]), ("raw.gz", [packed(1), packed(2)])];
    let (next, wrong, whole) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let shared = Fetcher::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        break;
                    }
                    let schedule = Schedule::random(seed + 5000);
                    let (format, [(image, disk), (other, other_disk)]) = &kinds[usize::try_from(seed % 3).unwrap()];
                    let answers: Vec<_> = schedule.answers.iter().map(in_time).collect();
                    let script = File::new(image.clone()).version(other.clone());
                    let (_server, url) = serve(script.gets_then(answers, schedule.rest.clone()));
                    let mut fetcher = Fetcher {
                        runtime: shared.runtime.clone(),
                        client: shared.client.clone(),
                        how: shared.how.clone(),
                    };
                    fetcher.how.format = Some(format.parse().unwrap());
                    fetcher.how.connections = if seed % 6 < 3 { 1 } else { 2 };
                    fetcher.how.patience.retries = 3 * u32::try_from(schedule.tries()).unwrap();
                    match fetcher.convert(&url, &Options::default()) {
                        Ok((found, _)) if found == *disk => drop(whole.fetch_add(1, Ordering::Relaxed)),
                        Ok((found, _)) if found == *other_disk && schedule.expect != Expect::Whole => {}
                        Ok(_) => wrong.lock().unwrap().push(format!("{format}: another disk: {schedule:?}")),
                        Err(error) if schedule.expect != Expect::Whole && error.code().starts_with("source-") => {}
                        Err(error) => {
                            wrong.lock().unwrap().push(format!("{format}: {error} ({}): {schedule:?}", error.code()))
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(whole.into_inner() > SEEDS / 2);
}
