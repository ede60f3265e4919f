//! What threads that decode can still do: what the kernel has to confine them, and what they have called, as `strace -f` has recorded it. They
//! have given up everything that takes a path or makes a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// What the kernel has, which is asked by another program than ours. The filter of system calls is everywhere; Landlock may be left out of a
/// kernel, or not switched on.
pub fn layers() -> Vec<&'static str> {
    // landlock_create_ruleset, which says its version.
    const ASK: &str = "exit(syscall(444, 0, 0, 1) > 0 ? 0 : 3)";
    static HAS_LANDLOCK: LazyLock<bool> = LazyLock::new(|| {
        let status = Command::new("perl").args(["-e", ASK]).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 3)), "{status}");
        status.success()
    });
    if *HAS_LANDLOCK { vec!["landlock", "seccomp"] } else { vec!["seccomp"] }
}

/// What has to be recorded, for strace's `-e`.
pub const CALLS: &str = "trace=%file,%network,prctl,seccomp,clone,read,pread64,write,pwrite64,copy_file_range";

/// The calls with a path or a socket of the threads that decode, from when they have given them up, and how much they have read and
/// written.
pub fn strays(log: &Path) -> (Vec<String>, usize) {
    const WORK: [&str; 5] = ["read(", "pread64(", "write(", "pwrite64(", "copy_file_range("];
    const OTHERS: [&str; 3] = ["prctl(", "seccomp(", "clone("];
    let text = fs::read_to_string(log).unwrap();
    let (mut named, mut confined) = (BTreeSet::new(), BTreeSet::new());
    let (mut strays, mut work) = (Vec::new(), 0);
    for (thread, call) in calls(&text) {
        if confined.contains(thread)
            && call.contains("clone")
            && let Some((_, child)) = call.rsplit_once("= ")
        {
            confined.extend(child.trim().parse::<u32>().ok().map(|child| child.to_string()));
        }
        if call.starts_with("prctl(PR_SET_NAME, \"decoder\"") {
            named.insert(thread);
        } else if call.starts_with("seccomp(") && named.contains(thread) {
            confined.insert(thread.to_owned());
        } else if confined.contains(thread) {
            if WORK.iter().any(|work| call.starts_with(work)) {
                work += 1;
            } else if !OTHERS.iter().any(|other| call.starts_with(other)) && !is_of_glibc(&call) {
                strays.push(call);
            }
        }
    }
    assert!(!confined.is_empty(), "{text}");
    (strays, work)
}

/// The calls of a record, each with its thread, in the order in which they have ended: where another thread came in between, strace tears
/// them in two.
pub fn calls(text: &str) -> Vec<(&str, String)> {
    let (mut calls, mut begun) = (Vec::new(), BTreeMap::new());
    for line in text.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or(("", line));
        let call = call.trim_start();
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, beginning);
        } else if let Some((_, end)) = call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>")) {
            calls.push((thread, format!("{}{end}", begun.remove(thread).unwrap_or_default())));
        } else {
            calls.push((thread, call.to_owned()));
        }
    }
    calls.extend(begun.into_iter().map(|(thread, beginning)| (thread, beginning.to_owned())));
    calls
}

/// glibc would like to know how memory is counted before it gives some back, and does without.
pub fn is_of_glibc(call: &str) -> bool {
    call.contains("\"/proc/sys/vm/overcommit_memory\"") && call.ends_with("= -1 EPERM (Operation not permitted)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_are_torn_are_mended() {
        let text = "12  openat(AT_FDCWD, \"a\", O_RDONLY <unfinished ...>\n345 read(3, \"\", 1) = 0\n\
            12  <... openat resumed>) = -1 EPERM\n345 write(1 <unfinished ...>";
        let expected = [
            ("345", "read(3, \"\", 1) = 0"),
            ("12", "openat(AT_FDCWD, \"a\", O_RDONLY) = -1 EPERM"),
            ("345", "write(1"),
        ];
        assert_eq!(calls(text), expected.map(|(thread, call)| (thread, call.to_owned())));
    }
}
