//! The server that most images come from, with and without what it can be told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::Fetcher;
use diskferry::Options;
use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::random::Random;
use diskferry_testkit::serve::nginx::{Access, Nginx, Origin, RunningNginx};

const MIB: usize = 1 << 20;

/// An image of `len` MiB whose tables lie behind its data.
fn image(len: usize) -> Qcow2 {
    let mut image = Qcow2::new((len * MIB) as u64);
    (image.l1, image.l2) = (Place::Behind, Place::Behind);
    let cluster = |guest| Cluster::Plain(Random::new(guest).bytes(65536));
    image.clusters = (0..len as u64 * 16).map(|guest| (guest, cluster(guest))).collect();
    image
}

fn start(settings: &Nginx, image: &Qcow2) -> (RunningNginx, String) {
    let nginx = settings.start();
    fs::write(nginx.root().join("disk"), image.build().image).unwrap();
    let url = nginx.url(Origin::Plain, "/disk");
    (nginx, url)
}

fn statuses(accesses: &[Access]) -> Vec<u16> {
    accesses.iter().map(|access| access.status).collect()
}

#[test]
fn tables_come_by_ranges_of_the_same_version() {
    let image = image(8);
    let (nginx, url) = start(&Nginx::new(), &image);
    let (disk, report) = Fetcher::new().convert(&url, &Options::default()).unwrap();
    assert!(disk == image.disk());
    assert!(report.spooled < 65536, "{}", report.spooled);
    let accesses = nginx.accesses(2);
    assert!(
        accesses
            .iter()
            .filter(|access| access.range.is_some())
            .all(|part| part.status == 206 && part.if_range.is_some())
    );
    assert_eq!(accesses.iter().filter(|access| access.range.is_none()).count(), 1);
}

#[test]
fn without_ranges_tables_are_spooled_for() {
    let image = image(8);
    let (nginx, url) = start(&Nginx::new().without_ranges(), &image);
    let (disk, report) = Fetcher::new().convert(&url, &Options::default()).unwrap();
    assert!(disk == image.disk());
    assert!(report.spooled >= 7 * MIB as u64, "{}", report.spooled);
    assert!(statuses(&nginx.accesses(1)).iter().all(|&status| status == 200));
}

#[test]
fn looking_takes_less_than_a_mebibyte_with_ranges() {
    let image = image(16);
    let (nginx, url) = start(&Nginx::new(), &image);
    let mut look = Fetcher::new();
    look.how.look = true;
    let found = diskferry::inspect(look.open(&url).unwrap(), &Options::default()).unwrap();
    assert_eq!(found.unpacked_size, Some(16 * MIB as u64));
    let accesses = nginx.accesses(1);
    let sent: u64 = accesses.iter().map(|access| access.sent).sum();
    assert!(sent < MIB as u64, "{sent} bytes");
    assert!(statuses(&accesses).iter().all(|&status| status == 206), "{accesses:?}");
}

#[test]
fn compression_of_the_server_is_not_asked_for() {
    let image = image(2);
    let (nginx, url) = start(&Nginx::new().gzip(), &image);
    let (disk, report) = Fetcher::new().convert(&url, &Options::default()).unwrap();
    assert!(disk == image.disk() && report.inspection.wrappings.is_empty());
    assert_eq!(nginx.accesses(1)[0].accept_encoding.as_deref(), Some("identity"));
}

#[test]
fn four_connections_are_faster_where_each_is_slowed_down_and_keep_the_order() {
    let image = image(12);
    let (nginx, url) = start(&Nginx::new().rate(6 * MIB as u64), &image);
    let took = |connections| {
        let mut fetcher = Fetcher::new();
        fetcher.how.connections = connections;
        // Between its portions such a server is silent for longer than other tests allow.
        fetcher.how.patience.stall = Duration::from_secs(20);
        let began = Instant::now();
        let (disk, _) = fetcher.convert(&url, &Options::default()).unwrap();
        assert!(disk == image.disk());
        began.elapsed().as_secs_f64()
    };
    let (one, four) = (took(1), took(4));
    eprintln!("{one:.2} s over one connection, {four:.2} s over four");
    // Where nothing else is in the way it is nearly four.
    assert!(one / four > 1.4, "{one:.2} s over one connection, {four:.2} s over four");
    assert!(nginx.accesses(7).iter().filter(|access| access.status == 206).count() >= 6);
}
