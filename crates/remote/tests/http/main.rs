//! What is done about servers, one decision after the other: which bytes come, and what the server was asked for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod everything;
mod lengths;
mod looking;
mod refused;
mod resuming;

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
const CLUSTER: usize = 65536;
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

/// An image of 8 MiB whose L1 and L2 tables lie behind its data.
fn tables_behind() -> Qcow2 {
    let mut image = Qcow2::new(8 << 20);
    image.l1 = Place::Behind;
    image.l2 = Place::Behind;
    image.clusters = (0..96).map(|guest| (guest, Cluster::Plain(Random::new(guest).bytes(CLUSTER)))).collect();
    image
}
