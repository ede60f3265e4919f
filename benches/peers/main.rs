//! diskferry beside the tools that people use today, on the same images.
//!
//!     cargo bench -p diskferry-benches --bench peers
//!
//! Makes disks and images, lets everybody convert each of them in turn, round after round, and prints the medians. Every
//! disk that comes out is compared with the one that went in. How to read it is in docs/performance.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench that cannot run should say why and end"
)]

mod disks;
mod job;
mod rows;
mod table;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;

use crate::disks::{Sizes, make_disks};
use crate::job::{Job, Sample};
use crate::rows::{Contestant, ROWS, Row};

/// Compares diskferry with its peers.
#[derive(Parser)]
struct Args {
    /// Rows to run: those whose name contains this
    #[arg(default_value = "")]
    filter: String,

    /// Data on the disk, in MiB
    #[arg(long, default_value_t = 512)]
    size: u64,

    /// How often everybody converts everything
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Only see that every row runs and that what comes out is right: tiny disks, one round, no table
    #[arg(long)]
    smoke: bool,

    /// Where disks and images are made
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,

    /// Put the tables into this Markdown file as well
    #[arg(long)]
    write: Option<PathBuf>,

    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What became of one row.
struct Outcome {
    row: &'static Row,
    results: Vec<(&'static Contestant, Vec<Sample>)>,
}

fn main() {
    let args = Args::parse();
    // Without `--bench` it is `cargo test` that calls.
    let smoke = args.smoke || !args.bench;
    let sizes = if smoke { Sizes::smoke() } else { Sizes::full(args.size) };
    let rounds = if smoke { 1 } else { args.rounds };

    let diskferry = diskferry();
    let scratch = tempfile::Builder::new().prefix("peers-").tempdir_in(&args.dir).unwrap();
    let mut job = Job::new(scratch.path(), &diskferry);
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.name.contains(&args.filter)).collect();
    make_disks(scratch.path(), &sizes, |disk| rows.iter().any(|row| row.disk == disk));

    // One row after the other, so that its image is in the page cache and no other one is on the disk.
    let outcomes: Vec<Outcome> = rows.into_iter().map(|row| run(row, rounds, &mut job)).collect();
    if smoke {
        return;
    }
    let tables = table::markdown(&outcomes);
    println!("{tables}");
    if let Some(path) = args.write {
        table::put_into(&path, &tables);
    }
}

/// Makes the row's image and lets everybody convert it, in turns.
fn run(row: &'static Row, rounds: usize, job: &mut Job) -> Outcome {
    eprintln!("{}", row.name);
    job.make(row);
    let mut results: Vec<_> =
        row.contestants().filter(|contestant| contestant.is_installed()).map(|one| (one, Vec::new())).collect();
    for _ in 0..rounds {
        for (contestant, samples) in &mut results {
            let sample = job.convert(row, contestant);
            eprintln!("  {:<24} {sample}", contestant.name);
            samples.push(sample);
        }
    }
    job.clear();
    Outcome { row, results }
}

/// The command under test: what DISKFERRY names, or one built like this bench.
fn diskferry() -> PathBuf {
    if let Some(path) = env::var_os("DISKFERRY") {
        return Path::new(&path).canonicalize().expect("DISKFERRY names the command");
    }
    let mut build = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet", "--package", "diskferry-cli"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the command cannot be built");
    let here = env::current_exe().unwrap();
    here.ancestors().nth(2).expect("benches lie in deps").join("diskferry")
}
