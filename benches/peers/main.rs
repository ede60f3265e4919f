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
mod goal;
mod job;
mod mount;
mod rows;
mod table;

use std::any::Any;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::{Parser, ValueEnum};

use crate::disks::{Sizes, Store};
use crate::job::{Job, Sample, Tools};
use crate::rows::{Contestant, OURS, ROWS, Reached, Role, Row};
use crate::table::median;

/// A peer that takes so many times as long as the fastest in the first round is not asked again.
const HOPELESS: u32 = 3;

/// Compares diskferry with its peers.
#[derive(Parser)]
struct Args {
    /// Rows to run: those whose name contains one of these
    rows: Vec<String>,

    /// Data on the disk, in MiB
    #[arg(long, default_value_t = 1024)]
    size: u64,

    /// How often everybody converts everything
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Where disks are written to
    #[arg(long, value_enum, default_value = "disk")]
    to: To,

    /// Only see that every row runs and that what comes out is right: tiny disks, one round, no table
    #[arg(long)]
    smoke: bool,

    /// Where disks and images are made, and kept for the next time
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/../peers"))]
    dir: PathBuf,

    /// Put the tables into this Markdown file as well
    #[arg(long)]
    write: Option<PathBuf>,

    /// Write a disk as a qcow2 whose clusters are in no order. In a process of its own: what that takes would be counted with everybody's memory
    #[arg(long, hide = true, num_args = 2, value_names = ["DISK", "IMAGE"])]
    shuffle: Option<Vec<PathBuf>>,

    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where disks are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// The file system that the images are on
    Disk,
    /// /dev/shm. Only rows for which it matters are run
    Tmpfs,
}

/// What became of one row.
pub struct Outcome {
    row: &'static Row,
    results: Vec<(&'static Contestant, Vec<Sample>)>,
    /// Of every GiB of data, where they are counted.
    calls: Vec<(&'static str, u64)>,
    /// Bytes of data on the disk.
    data: u64,
    /// Who is missing.
    missing: Vec<String>,
    /// What went wrong, or could not be done here.
    troubles: Vec<String>,
}

impl Outcome {
    fn is_measured(&self) -> bool {
        self.results.first().is_some_and(|(contestant, samples)| contestant.name == OURS && !samples.is_empty())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some([disk, image]) = args.shuffle.as_deref() {
        disks::shuffled(disk, image).unwrap();
        return ExitCode::SUCCESS;
    }
    // In one line, as it is said again at the end.
    panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    // Without `--bench` it is `cargo test` that calls.
    let smoke = args.smoke || !args.bench;
    let (sizes, rounds) = if smoke { (Sizes::smoke(), 1) } else { (Sizes::full(args.size), args.rounds) };

    let scratch = match args.to {
        _ if smoke => tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")),
        To::Tmpfs => tempfile::tempdir_in("/dev/shm"),
        To::Disk => fs::create_dir_all(&args.dir).and_then(|()| tempfile::tempdir_in(&args.dir)),
    };
    let scratch = scratch.unwrap();
    // A linker writes a program here and there, so that starting it takes a tenth longer than when it was copied, as those of the peers were.
    let program = scratch.path().join("diskferry");
    fs::copy(diskferry(), &program).unwrap();
    let tools = Tools { diskferry: program.canonicalize().unwrap(), path: path(!smoke) };
    let kept = if smoke { scratch.path().join("kept") } else { args.dir.join(args.size.to_string()) };
    fs::create_dir_all(&kept).unwrap();
    let shell = |command: &str| tools.shell(command);
    let store = Store { dir: &kept.canonicalize().unwrap(), sizes, shell: &shell };

    let named = |row: &&Row| args.rows.is_empty() || args.rows.iter().any(|part| row.name.contains(part));
    let rows = ROWS.iter().filter(named).filter(|row| args.to == To::Disk || row.goes_anywhere());
    // One row after the other, so that its image is in the page cache.
    let outcomes: Vec<Outcome> = rows.map(|row| run(row, rounds, smoke, &store, scratch.path(), &tools)).collect();
    assert!(!outcomes.is_empty(), "no row has such a name");

    if !smoke {
        let tables = table::markdown(outcomes.iter());
        println!("{tables}");
        if let Some(path) = args.write {
            // What could not be measured keeps the figures that it has.
            let measured = outcomes.iter().filter(|outcome| outcome.is_measured());
            table::put_into(&path, args.to, &table::markdown(measured));
        }
    } else if let [first, second, ..] = &*outcomes {
        a_page_keeps_rows_that_were_not_run(&scratch.path().join("page.md"), first, second);
    }
    let mut failed = false;
    for Outcome { row, missing, troubles, .. } in &outcomes {
        for name in missing {
            eprintln!("{}: {name} is MISSING", row.name);
        }
        for trouble in troubles {
            eprintln!("{}: {trouble}", row.name);
            failed |= !trouble.starts_with(NOT_HERE);
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Puts two rows into a page, and then, both being older there, one of them again.
fn a_page_keeps_rows_that_were_not_run(page: &Path, first: &Outcome, second: &Outcome) {
    let read = || fs::read_to_string(page).unwrap();
    fs::write(page, "before\n<!-- tables of `--bench peers` -->\n<!-- end of tables -->\nbehind\n").unwrap();
    table::put_into(page, To::Disk, &table::markdown([first, second].into_iter()));
    let older = |text: &str, row: &str| text.replace(&format!("\n| {row} | "), &format!("\n| {row} | older "));
    let (new, half) = (read(), older(&read(), second.row.name));
    assert!(new.starts_with("before\n") && new.ends_with("\nbehind\n") && half != new, "{new}");
    fs::write(page, older(&half, first.row.name)).unwrap();
    table::put_into(page, To::Disk, &table::markdown([first].into_iter()));
    assert_eq!(read(), half);
}

/// What this machine does not allow is said, and is no failure.
const NOT_HERE: &str = "NOT RUN";

/// Makes the row's image and lets everybody convert it, in turns. Whatever goes wrong, the next row has its turn.
fn run(row: &'static Row, rounds: usize, smoke: bool, store: &Store, dir: &Path, tools: &Tools) -> Outcome {
    eprintln!("{}", row.name);
    let began = Instant::now();
    let (there, missing) = row.contestants().partition::<Vec<_>, _>(|contestant| contestant.is_installed(&tools.path));
    let mut outcome = Outcome {
        row,
        results: there.into_iter().map(|contestant| (contestant, Vec::new())).collect(),
        calls: Vec::new(),
        data: 0,
        missing: missing.into_iter().map(|contestant| contestant.name.to_owned()).collect(),
        troubles: Vec::new(),
    };
    let ran = catch_unwind(AssertUnwindSafe(|| match Job::new(row, store, dir, tools) {
        Ok(mut job) => {
            job.clear();
            measure(&mut outcome, &mut job, rounds, smoke);
        }
        Err(reason) => outcome.troubles.push(format!("{NOT_HERE}: {}", reason.trim())),
    }));
    if let Err(panic) = ran {
        outcome.troubles.push(format!("FAILED: {}", message(&*panic)));
    }
    eprintln!("  took {:.1} s", began.elapsed().as_secs_f64());
    outcome
}

fn measure(outcome: &mut Outcome, job: &mut Job, rounds: usize, smoke: bool) {
    let Outcome { row, results, calls, data, troubles, .. } = outcome;
    *data = job.data();
    let rounds = if row.reached == Reached::Cable { 1 } else { rounds };
    if !smoke && matches!(row.reached, Reached::File | Reached::Http) {
        // Brings the image into the page cache, and what runs as well.
        let _ = job.convert(results[0].0);
        job.clear();
    }
    let mut failed = Vec::new();
    for round in 0..rounds {
        let fastest = results.iter().skip(1).filter(|(peer, _)| peer.role != Role::Bound);
        let fastest = fastest.filter_map(|(_, samples)| Some(samples.first()?.wall)).min();
        for (contestant, samples) in &mut *results {
            let hopeless = match (samples.first(), fastest) {
                (Some(first), Some(fastest)) => first.wall > fastest * HOPELESS && contestant.name != OURS,
                _ => false,
            };
            if failed.contains(&contestant.name) || round > 0 && hopeless {
                continue;
            }
            // What comes out wrong is a panic.
            match catch_unwind(AssertUnwindSafe(|| job.convert(contestant))) {
                Ok(Ok(sample)) => {
                    eprintln!("  {:<24} {sample}", contestant.name);
                    samples.push(sample);
                }
                trouble => {
                    let text = match trouble {
                        Ok(Err(error)) => error,
                        Err(panic) => message(&*panic),
                        Ok(Ok(_)) => unreachable!("that was the other arm"),
                    };
                    eprintln!("  {:<24} FAILED: {text}", contestant.name);
                    troubles.push(format!("{} FAILED: {text}", contestant.name));
                    failed.push(contestant.name);
                    samples.clear();
                    job.clear();
                }
            }
        }
    }
    if !row.counted {
        return;
    }
    // Ours and the fastest peer.
    let measured = |(_, samples): &&(&Contestant, Vec<Sample>)| !samples.is_empty();
    let best = results.iter().skip(1).filter(measured).min_by_key(|(_, samples)| median(samples).wall);
    for (contestant, _) in results.iter().take(1).chain(best) {
        match job.count_calls(contestant) {
            Ok(count) => calls.push((contestant.name, count * (1 << 30) / (*data).max(1))),
            Err(error) => troubles.push(format!("{NOT_HERE}: system calls of {}: {error}", contestant.name)),
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// Where tools are, and whether those that are missing are to be installed first.
fn path(install: bool) -> OsString {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if install {
        let status = Command::new(workspace.join("scripts/peers")).stdout(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("scripts/peers failed: peers may be missing");
        }
    }
    let venv = workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into())).join("rapidgzip/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let administration = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::join_paths(env::split_paths(&path).chain(administration).chain([venv])).unwrap()
}

/// The command under test: what DISKFERRY names, or one built like this bench.
fn diskferry() -> PathBuf {
    if let Some(path) = env::var_os("DISKFERRY") {
        return Path::new(&path).canonicalize().expect("DISKFERRY names the command");
    }
    let mut build = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet", "--locked", "--package", "diskferry-cli"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the command cannot be built");
    let here = env::current_exe().unwrap();
    here.ancestors().nth(2).expect("benches lie in deps").join("diskferry")
}
