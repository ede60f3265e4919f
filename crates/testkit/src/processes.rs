//! What can be seen of processes from outside while they run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::thread;
use std::time::Duration;

/// A process that was looked at until it ended.
#[derive(Debug)]
pub struct Watched {
    /// What it said.
    pub output: Output,
    /// How often it, or one that it has started, was looked at.
    pub looks: usize,
    /// Where one of the secrets stood: `cmdline`, `environ` or `comm` in `/proc/PID`, the last one of every thread.
    pub shown: BTreeSet<&'static str>,
}

/// Looks at `child`, and at every process below it, for `secrets` until it ends.
pub fn watch(child: Child, secrets: &[&str]) -> Watched {
    let root = child.id();
    let waiting = thread::spawn(move || child.wait_with_output().unwrap());
    let (mut looks, mut shown) = (0, BTreeSet::new());
    while !waiting.is_finished() {
        for dir in family(root) {
            let threads = fs::read_dir(dir.join("task")).into_iter().flatten().flatten();
            let names = threads.map(|thread| ("comm", thread.path().join("comm")));
            for (what, path) in ["cmdline", "environ"].map(|what| (what, dir.join(what))).into_iter().chain(names) {
                // It may be gone by now.
                let Ok(bytes) = fs::read(path) else { continue };
                looks += usize::from(what == "cmdline" && !bytes.is_empty());
                let text = String::from_utf8_lossy(&bytes);
                if secrets.iter().any(|secret| text.contains(secret)) {
                    shown.insert(what);
                }
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    Watched { output: waiting.join().unwrap(), looks, shown }
}

/// The directories in /proc of the process `root` and of all below it.
fn family(root: u32) -> Vec<PathBuf> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = numbers.filter_map(|number| Some((number, parent(number)?))).collect();
    let mut known = vec![root];
    let mut next = 0;
    while let Some(&of) = known.get(next) {
        known.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(number, _)| *number));
        next += 1;
    }
    known.iter().map(|number| Path::new("/proc").join(number.to_string())).collect()
}

fn parent(number: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // A program's name may have parentheses and blanks.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_grandchild_is_told_is_seen() {
        let shown = |script: &str| {
            let mut command = Command::new("sh");
            let child = command.args(["-c", script]).env("KNOWN", "se-").stdout(Stdio::piped()).spawn().unwrap();
            let watched = watch(child, &["se-cret"]);
            assert!(watched.looks > 1 && watched.output.status.success(), "{watched:?}");
            watched.shown.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(shown("sleep 0.2; true"), [""; 0]);
        assert_eq!(shown(r#"SECRET="${KNOWN}cret" sh -c 'sleep 0.2; true'; true"#), ["environ"]);
        assert_eq!(shown(r#"sh -c 'sleep 0.2; true' "${KNOWN}cret"; true"#), ["cmdline"]);
    }
}
