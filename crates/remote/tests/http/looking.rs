//! Looking at an image, and leaving it.

use super::*;

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
