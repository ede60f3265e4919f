//! Parts over several connections, and metadata that lies far ahead.

use super::*;

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
