//! Where an image ends.

use super::*;

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
