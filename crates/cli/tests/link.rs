//! An import over a bad link: slow, with packets that get lost and connections that are reset or fall silent on their way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

/// `scripts/test` leaves this out, loudly, where there are no network namespaces.
mod link {
    use std::fs;
    use std::net::TcpListener;
    use std::process::Output;

    use diskferry_testkit::qcow2::{Place, Qcow2};
    use diskferry_testkit::serve::fault::{File, Server};
    use diskferry_testkit::serve::link::{Link, Side};

    /// What comes of an image of some 20 MiB over `link`, once its faults are there.
    fn import(connections: &str, worsen: impl FnOnce(&Link, u16)) -> (Output, Server) {
        let link = Link::new().unwrap();
        let mut image = Qcow2::new(48 << 20).fill(7);
        (image.l1, image.l2) = (Place::Behind, Place::Behind);
        let listener = link.inside(Side::Far, || TcpListener::bind((link.address(Side::Far), 0)).unwrap());
        let server = Server::on(listener);
        server.put("/disk", File::new(image.build().image));
        link.rate(Side::Far, "200mbit");
        worsen(&link, server.address().port());
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk.raw");
        let mut command = link.command(Side::Near, env!("CARGO_BIN_EXE_diskferry"));
        command.args(["convert", "--stall-timeout", "1", "--connections", connections, &server.url("/disk")]);
        let output = command.arg(&target).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(fs::read(&target).unwrap() == image.disk(), "another disk");
        (output, server)
    }

    #[test]
    fn connections_that_are_reset_go_on() {
        let (_, server) = import("1", |link, port| link.reset_after(port, 4_000_000));
        assert!(server.connections() > 3, "{}", server.connections());
    }

    #[test]
    fn connections_that_fall_silent_are_left() {
        let (_, server) = import("1", |link, port| link.silence_after(port, 8_000_000));
        assert!(server.connections() > 2, "{}", server.connections());
    }

    #[test]
    fn parts_over_a_link_that_loses_packets_and_resets_come_in_order() {
        let (_, server) = import("4", |link, port| {
            link.lose_every(Side::Near, 100);
            link.reset_after(port, 5_000_000);
        });
        assert!(server.connections() > 4, "{}", server.connections());
    }
}
