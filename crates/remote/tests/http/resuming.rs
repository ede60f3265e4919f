//! How a download goes on.

use super::*;

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
    let [first, mut second] = [disk(LEN), vec![7; LEN]];
    second[..100_000].copy_from_slice(&first[..100_000]);
    let script = [right().cut(100_000, End::Close), right().version(1).cut(200_000, End::Close)];
    let (server, url) = serve(File::new(first.clone()).version(second.clone()).gets(script));
    assert_eq!(outcome(raw().fetch(&url)), "source-changed");
    assert_eq!(server.requests().iter().map(asked).collect::<Vec<_>>(), ["all", "100000-", "200000-"]);
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
fn where_a_mirror_dies_who_has_named_it_is_asked_for_another() {
    let server = Server::start();
    let to = |path: &str| Answer::redirect(302, &server.url(path));
    let asked = || server.requests().iter().map(|request| request.path.clone()).collect::<Vec<_>>();
    server.put("/named", File::new([]).gets_then([to("/first")], to("/second")));
    server.put("/first", File::new(disk(LEN)).gets_then([right().cut(100_000, End::Close)], Answer::status(503)));
    server.put("/second", file([right().cut(100_000, End::Close)]));
    assert_eq!(raw().fetch(&server.url("/named")).unwrap(), disk(LEN));
    // And the second one is stayed with.
    assert_eq!(asked(), ["/named", "/first", "/first", "/named", "/second", "/second"]);

    // One that answers and gives nothing is as good as away.
    let before = server.requests().len();
    server.put("/named", File::new([]).gets_then([to("/first")], to("/second")));
    let silent = right().cut(0, End::Close);
    server.put("/first", File::new(disk(LEN)).gets_then([right().cut(100_000, End::Close)], silent));
    server.put("/second", file([]));
    assert_eq!(raw().fetch(&server.url("/named")).unwrap(), disk(LEN));
    assert_eq!(asked()[before..], ["/named", "/first", "/first", "/named", "/second"]);

    // Another one may have another version, or the same under another name, or be nowhere: then the first one is waited for.
    for other in [
        Answer::right().tag(Tag::Literal("\"other\"".into())),
        Answer::status(404),
        Answer::right().ranges(Ranges::Ignored),
    ] {
        let before = server.requests().len();
        server.put("/named", File::new([]).gets_then([to("/first")], to("/second")));
        server.put("/first", File::new(disk(LEN)).gets([right().cut(100_000, End::Close), Answer::status(503)]));
        server.put("/second", File::new(disk(LEN)).gets_then([], other));
        assert_eq!(raw().fetch(&server.url("/named")).unwrap(), disk(LEN));
        assert_eq!(asked()[before..], ["/named", "/first", "/first", "/named", "/second", "/first"]);
    }
    let before = server.requests().len();
    server.put("/named", File::new([]).gets_then([to("/first")], to("/second")));
    server.put("/first", File::new(disk(LEN)).gets([right().cut(100_000, End::Close), Answer::status(503)]));
    server.put("/second", File::new(disk(LEN + 1)).gets([]));
    assert_eq!(raw().fetch(&server.url("/named")).unwrap(), disk(LEN));
    assert_eq!(asked()[before..], ["/named", "/first", "/first", "/named", "/second", "/first"]);
}

#[test]
fn where_a_mirror_stays_away_another_one_may_begin_anew() {
    let server = Server::start();
    let to = |path: &str| Answer::redirect(302, &server.url(path));
    let asked = || server.requests().iter().map(|request| request.path.clone()).collect::<Vec<_>>();
    for other in [Answer::right().tag(Tag::Literal("\"other\"".into())), Answer::right().ranges(Ranges::Ignored)] {
        let before = server.requests().len();
        server.put("/named", File::new([]).gets_then([to("/first")], to("/second")));
        server.put("/first", File::new(disk(LEN)).gets_then([right().cut(100_000, End::Close)], Answer::status(503)));
        server.put("/second", File::new(disk(LEN)).gets_then([], other));
        assert_eq!(raw().fetch(&server.url("/named")).unwrap(), disk(LEN));
        let twice = ["/first", "/named", "/second"].repeat(2);
        assert_eq!(asked()[before..], [&["/named", "/first"][..], &twice].concat());
    }
    // What passes then is held against what has passed.
    server.put("/named", File::new([]).gets_then([to("/first")], to("/second")));
    server.put("/first", File::new(disk(LEN)).gets_then([right().cut(100_000, End::Close)], Answer::status(503)));
    server.put("/second", File::new(vec![7; LEN]).gets_then([], Answer::right().ranges(Ranges::Ignored)));
    assert_eq!(raw().fetch(&server.url("/named")).unwrap_err().code(), "source-changed");
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
