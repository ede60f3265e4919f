//! What servers do.

use std::fs;
use std::time::Duration;

use diskferry_testkit::qcow2::{Cluster, Place, Qcow2};
use diskferry_testkit::random::Random;
use diskferry_testkit::serve::fault::{Answer, Chunks, End, File, Framing, Greeting, Ranges, Server, Tag};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::tls::{Authority, Identity};
use diskferry_testkit::wrap;

use super::With;

/// Of a raw disk, which cannot show by itself that something is missing of it.
pub const LEN: usize = 1 << 20;

/// What a server does.
pub struct Row {
    pub name: &'static str,
    /// What comes of it when nothing else fails: the code of an error, or `done`.
    pub alone: &'static str,
    pub does: Does,
    /// How it is asked.
    pub format: &'static str,
    pub more: &'static [&'static str],
}

pub enum Does {
    /// The first connections are greeted so.
    Answers(File, Vec<Greeting>),
    /// All that happens to a connection happens before anybody has spoken TLS.
    Shakes(Vec<Greeting>),
    Is(String),
}

pub fn disk() -> Vec<u8> {
    noise(1)
}

fn noise(seed: u64) -> Vec<u8> {
    let mut disk = Random::new(seed).bytes(LEN);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

/// What is served.
struct Image {
    format: &'static str,
    /// The disk as this image, and another one.
    versions: [Vec<u8>; 2],
}

impl Image {
    /// Of what is packed no byte can be had before those in front of it, and the tables lie behind all data, which has to wait for them.
    fn that_spools() -> Self {
        let mapped = |disk: Vec<u8>| {
            let mut image = Qcow2 { l1: Place::Behind, l2: Place::Behind, ..Qcow2::new(LEN as u64) };
            let clusters = disk.chunks(64 << 10).map(|data| Cluster::Plain(data.to_vec()));
            image.clusters = (0..).zip(clusters).collect();
            wrap::gzip(&image.build().image)
        };
        Self { format: "qcow2.gz", versions: [1, 2].map(noise).map(mapped) }
    }
}

/// What needs more than a script.
pub struct Stage {
    raw: Image,
    spooling: Image,
    nginx: [RunningNginx; 4],
    /// Where the one authority that is believed is written.
    pub ca: tempfile::NamedTempFile,
    /// Whom it knows as 127.0.0.1.
    pub identity: Identity,
}

impl Stage {
    pub fn new() -> Self {
        let (known, stranger) = (Authority::new(), Authority::new());
        let serving = |identity| {
            let nginx = Nginx::new().tls(identity).redirect("/down", 302, Origin::Plain, "/disk").start();
            fs::write(nginx.root().join("disk"), disk()).unwrap();
            nginx
        };
        let names = ["127.0.0.1"];
        let nginx = [
            serving(stranger.server(&names)),
            serving(known.expired_server(&names)),
            serving(known.server(&["host.example"])),
            serving(known.server(&names)),
        ];
        let ca = tempfile::NamedTempFile::new().unwrap();
        fs::write(&ca, known.certificate()).unwrap();
        let raw = Image { format: "raw", versions: [1, 2].map(noise) };
        Self { raw, spooling: Image::that_spools(), nginx, ca, identity: known.server(&names) }
    }

    /// Every row of the matrix, in its order.
    pub fn rows(&self, with: With) -> Vec<Row> {
        let Image { format, versions: [image, other] } = if with.spools() { &self.spooling } else { &self.raw };
        let (format, len) = (*format, image.len());
        let right = Answer::right;
        let file = || File::new(image.as_slice()).version(other.as_slice());
        let slow = |millis| right().trickle(1, Duration::from_millis(millis));
        let answers = |file| Does::Answers(file, Vec::new());
        let gets = |given: &[Answer]| answers(file().gets(given.to_vec()));
        let always = |answer: Answer| answers(file().gets_then([], answer));
        // What a range gets whose first part has come.
        let resumed = |rest: Answer| gets(&[right().cut(300_000, End::Close), rest]);
        let tls = |at: usize, path: &str| Does::Is(self.nginx[at].url(Origin::Tls, path));
        let chunked = |chunks| right().framing(Framing::Chunked(50_000, chunks));
        let away = |to: &str| always(Answer::redirect(302, to));
        // No server of a test that runs beside this one is ever given this port.
        let nobody = "127.0.0.1:1";
        let trailing = |header: &str, body: &[u8]| {
            let head = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
            always(Answer::raw([head.as_bytes(), body, b"more than was said"].concat()))
        };
        let only_chunk = || [format!("{len:x}\r\n").as_bytes(), image, b"\r\n0\r\n\r\n"].concat();
        // Of what is packed anyway it may be the packing that is meant.
        let encoded = if with.spools() { "qcow2-not-this-format" } else { "source-encoding" };
        // No certificate is valid yet.
        let downgraded = if matches!(with, With::Clock) { "source-tls" } else { "source-redirect" };
        let greets = |greetings| Does::Answers(file(), greetings);
        let rows = [
            ("refused", "source-unreachable", Does::Is(format!("http://{nobody}/disk"))),
            ("DNS fails", "source-unreachable", Does::Is("http://images.invalid/disk".into())),
            ("TLS untrusted", "source-tls", tls(0, "/disk")),
            ("TLS expired", "source-tls", tls(1, "/disk")),
            ("TLS wrong host", "source-tls", tls(2, "/disk")),
            ("TLS without a handshake", "source-stalled", Does::Shakes(vec![Greeting::Mute; 64])),
            ("TLS reset in the handshake", "source-unreachable", Does::Shakes(vec![Greeting::End(End::Reset); 64])),
            (
                "TLS answered in plain",
                "source-tls",
                Does::Is(self.nginx[3].url(Origin::Plain, "/disk").replace("http:", "https:")),
            ),
            ("401", "source-denied", always(Answer::status(401))),
            ("403", "source-denied", always(Answer::status(403))),
            ("404", "source-not-found", always(Answer::status(404))),
            ("429 + Retry-After once", "done", gets(&[Answer::status(429).header("Retry-After", "1")])),
            ("429 + Retry-After", "source-http-status", always(Answer::status(429).header("Retry-After", "1"))),
            ("500", "source-http-status", always(Answer::status(500))),
            ("503 once", "done", gets(&[Answer::status(503)])),
            ("503", "source-http-status", always(Answer::status(503))),
            (
                "200 with no length and early close",
                "done",
                gets(&[right().framing(Framing::Close).cut(300_000, End::Close)]),
            ),
            ("Content-Length too long", "source-changed", gets(&[right().framing(Framing::LongBy(10))])),
            ("body longer than Content-Length", "done", trailing(&format!("Content-Length: {len}"), image)),
            ("chunked cut mid-chunk", "done", gets(&[chunked(Chunks::Clean).cut(70_001, End::Close)])),
            ("chunked without last chunk", "done", gets(&[chunked(Chunks::Unended)])),
            ("chunked with trailing bytes", "done", trailing("Transfer-Encoding: chunked", &only_chunk())),
            (
                "chunked with trailers",
                "done",
                gets(&[chunked(Chunks::Trailers(vec![("X-More".into(), "yes".into())]))]),
            ),
            ("reset at 0", "done", gets(&[right().cut(0, End::Reset)])),
            ("reset at 1", "done", gets(&[right().cut(1, End::Reset)])),
            ("reset at 512", "done", gets(&[right().cut(512, End::Reset)])),
            ("reset in the middle", "done", gets(&[right().cut(len / 2, End::Reset)])),
            ("reset at the last byte", "done", gets(&[right().cut(len - 1, End::Reset)])),
            ("reset before the head", "done", greets(vec![Greeting::End(End::Reset)])),
            ("mute for ever", "source-stalled", greets(vec![Greeting::Mute; 64])),
            ("stall", "done", gets(&[right().stall(300_000, Server::LIFE)])),
            ("stall for ever", "source-stalled", always(right().stall(0, Server::LIFE))),
            ("5 bytes at 1 byte/s, then a cut", "done", gets(&[slow(900).cut(5, End::Close)])),
            ("Range ignored", "done", resumed(right().ranges(Ranges::Ignored))),
            ("206 at another offset", "done", resumed(right().ranges(Ranges::Shifted(1)))),
            ("206 without Content-Range", "done", resumed(right().ranges(Ranges::Unlabelled))),
            (
                "ETag changed between ranges",
                "source-changed",
                answers(file().gets_then([right().cut(300_000, End::Close)], right().version(1))),
            ),
            (
                "weak ETag",
                "done",
                answers(file().gets_then(
                    [right().tag(Tag::Weak).undated().cut(300_000, End::Close)],
                    right().tag(Tag::Weak).undated(),
                )),
            ),
            ("size changed", "source-changed", resumed(right().ranges(Ranges::Total(len as u64 + 512)))),
            ("Content-Encoding: gzip added", encoded, always(right().gzip())),
            ("redirect loop", "source-redirect", away("/disk")),
            ("redirect to file:", "source-redirect", away("file:///etc/passwd")),
            ("redirect to ftp:", "source-redirect", away("ftp://127.0.0.1/disk")),
            ("redirect from https to http", downgraded, tls(3, "/down")),
            ("redirect to link-local", "source-forbidden-host", away("https://169.254.169.254/latest")),
            ("multipart/byteranges", "done", resumed(right().ranges(Ranges::Multipart))),
            ("200 with an HTML error page", "source-web-page", always(Answer::html())),
        ];
        let rows = rows.into_iter().map(|(name, alone, does)| Row { name, alone, does, format, more: &[] });
        let packed = File::new(wrap::gzip(&disk()));
        let others = [
            // Of a raw disk nobody can tell that its end is missing.
            Row {
                name: "Content-Length too short",
                alone: "gzip-ends-early",
                does: answers(packed.gets_then([], right().framing(Framing::ShortBy(10)))),
                format: "raw.gz",
                more: &[],
            },
            Row {
                name: "1 byte/s for ever",
                alone: "source-timeout",
                does: always(slow(500)),
                format,
                more: &["--timeout", "5"],
            },
        ];
        rows.chain(others).collect()
    }
}
