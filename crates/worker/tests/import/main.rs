//! Imports as platforms start them: with variables, against real servers and real volumes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod device;
mod disks;
mod failures;
mod full;
mod settings;
mod sources;

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Pod, SECRET, names};
use diskferry_testkit::container::{Layout, MANIFEST};
use diskferry_testkit::processes::watch;
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::fault::{Answer, Chunks, End, File, Framing, Server};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::registry::{Registry, RunningRegistry, USER};
use diskferry_testkit::serve::tls::Authority;
use diskferry_testkit::{Random, wrap};

const MIB: usize = 1 << 20;

fn qcow2() -> (Vec<u8>, Vec<u8>) {
    let image = Qcow2::new(8 << 20).fill(1);
    (image.clone().build().image, image.disk())
}

/// Bytes that nothing makes smaller.
fn noise(len: usize) -> Vec<u8> {
    Random::new(1).bytes(len)
}

fn nginx(files: &[(&str, &[u8])]) -> RunningNginx {
    let nginx = Nginx::new().start();
    for (name, bytes) in files {
        fs::write(nginx.root().join(name), bytes).unwrap();
    }
    nginx
}

/// From a server to a registry without TLS.
fn to_registry(url: &str, registry: &RunningRegistry, name: &str) -> Pod {
    let endpoint = format!("{}/vi/team/{name}:uid-1", registry.host());
    Pod::new(&[
        ("IMPORTER_SOURCE", "http"),
        ("IMPORTER_ENDPOINT", url),
        ("IMPORTER_DESTINATION_ENDPOINT", &endpoint),
        ("DESTINATION_INSECURE_TLS", "true"),
    ])
}

/// From a registry without TLS to a file.
fn to_file(registry: &RunningRegistry, name: &str) -> Pod {
    let endpoint = format!("docker://{}/vi/team/{name}:uid-1", registry.host());
    let pod = Pod::new(&[("IMPORTER_SOURCE", "registry"), ("IMPORTER_ENDPOINT", &endpoint), ("INSECURE_TLS", "true")]);
    file_of(pod)
}

/// With a filesystem as the destination.
fn file_of(pod: Pod) -> Pod {
    fs::create_dir(pod.path("data")).unwrap();
    let path = pod.text("data/disk.img");
    pod.with(&[("DISKFERRY_DESTINATION", "filesystem"), ("DISKFERRY_DESTINATION_PATH", &path)])
}

fn from_url(url: &str) -> Pod {
    file_of(Pod::new(&[("IMPORTER_SOURCE", "http"), ("IMPORTER_ENDPOINT", url)]))
}

fn kill(child: &std::process::Child, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}
