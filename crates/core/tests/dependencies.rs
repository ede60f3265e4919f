//! What the library is built from. A crate more is a crate more to be trusted with every byte of a stranger's image: it comes in by being
//! written here, and not by being somebody else's dependency.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::process::Command;

/// What the program has in it.
const LINKED: &str = "bitflags block-buffer bzip2 cfg-if const-oid cpufeatures crypto-common digest diskferry fastrand flate2 getrandom \
    hybrid-array libbz2-rs-sys libc libdeflate-sys libdeflater liblzma liblzma-sys linux-raw-sys md-5 once_cell rustix sha1 sha2 streebog tempfile thiserror typenum \
    zerocopy zlib-rs zstd zstd-safe zstd-sys";

/// What runs only while it is built.
const BUILDING: &str =
    "cc find-msvc-tools jobserver pkg-config proc-macro2 quote shlex syn thiserror-impl unicode-ident zerocopy-derive";

#[test]
fn the_library_is_built_from_what_is_listed_here() {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--offline", "-p", "diskferry", "-e", "normal,build", "--prefix", "none"]);
    tree.args(["--target", "x86_64-unknown-linux-gnu"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let found: BTreeSet<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let listed: BTreeSet<_> = LINKED.split_whitespace().chain(BUILDING.split_whitespace()).collect();
    let (new, gone): (Vec<_>, Vec<_>) = (found.difference(&listed).collect(), listed.difference(&found).collect());
    assert!(new.is_empty() && gone.is_empty(), "new: {new:?}, gone: {gone:?}");
}
