//! Torture: every system call of a job made to fail, one after the other. Whatever fails, there is an error with its exit code and
//! nothing to be seen, or the right disk. `scripts/torture` runs all of it; every day some jobs meet some calls.
//!
//! `strace` counts the calls of each thread by themselves: the k-th call of every thread fails, until the job ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

/// `scripts/test` leaves this out, loudly, where system calls cannot be traced.
mod traced {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Output;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use crate::common::judge::{Feed, Outcome, Stage, State, To, injected, not_durable};

    const SIZE: u64 = (3 << 20) + 512;
    const AT_ONCE: usize = 2;

    /// A job: its image, how that comes in, and where the disk goes.
    type Reference = (&'static str, Feed, To);

    const FILES: [Reference; 4] = [
        ("raw", Feed::File, To::New),
        ("qcow2", Feed::File, To::Existing),
        ("qcow2.xz", Feed::Pipe, To::New),
        ("vmdk.gz", Feed::File, To::Existing),
    ];
    const DOWNLOADS: [Reference; 1] = [("qcow2", Feed::Http, To::New)];
    const STDOUTS: [Reference; 2] = [("vdi.zst", Feed::File, To::Stdout), ("vmdk", Feed::Pipe, To::Stdout)];
    const DEVICES: [Reference; 2] = [("qcow2", Feed::File, To::Device), ("raw.bz2", Feed::Pipe, To::Device)];

    /// A system call, what it may fail with, and how the job may end then.
    struct Call {
        /// Several that do the same, with commas between, are counted as one.
        name: &'static str,
        errors: &'static [&'static str],
        ends: Ends,
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Ends {
        /// With one of these exit codes. What starts programs makes such calls too, and then says so itself.
        With(&'static [i32]),
        /// In any way: there is no memory. The program may be aborted.
        Anyhow,
    }

    const TARGET: Ends = Ends::With(&[5]);
    const EITHER: Ends = Ends::With(&[1, 4, 5]);

    const RENAMES: &str = "rename,renameat,renameat2";
    const UNLINKS: &str = "unlink,unlinkat";

    /// What the target is asked for, mostly.
    const EVERY_DAY: &[Call] = &[
        Call { name: "pwrite64", errors: &["EIO"], ends: TARGET },
        Call { name: "fallocate", errors: &["ENOSPC"], ends: TARGET },
        Call { name: "ftruncate", errors: &["ENOSPC"], ends: TARGET },
        Call { name: "fsync", errors: &["EIO"], ends: TARGET },
        Call { name: "fdatasync", errors: &["EIO"], ends: TARGET },
        Call { name: RENAMES, errors: &["EROFS"], ends: TARGET },
        Call { name: "flock", errors: &["ENOLCK"], ends: TARGET },
        Call { name: "statx", errors: &["EIO"], ends: EITHER },
    ];

    const CALLS: &[Call] = &[
        Call { name: "pwrite64", errors: &["EIO", "ENOSPC", "EDQUOT", "EINTR"], ends: TARGET },
        Call { name: "fallocate", errors: &["ENOSPC", "EIO", "EOPNOTSUPP", "EINTR"], ends: TARGET },
        Call { name: "ftruncate", errors: &["ENOSPC", "EFBIG", "EIO", "EINTR"], ends: TARGET },
        Call { name: "fsync", errors: &["EIO", "ENOSPC"], ends: TARGET },
        Call { name: "fdatasync", errors: &["EIO", "ENOSPC"], ends: TARGET },
        Call { name: RENAMES, errors: &["EROFS", "EIO", "ENOENT"], ends: TARGET },
        Call { name: "link,linkat", errors: &["EROFS"], ends: TARGET },
        Call { name: "flock", errors: &["ENOLCK", "EAGAIN", "EINTR"], ends: TARGET },
        Call { name: "fchmod", errors: &["EPERM", "EIO"], ends: TARGET },
        Call { name: "chmod,fchmodat", errors: &["EPERM"], ends: TARGET },
        Call { name: UNLINKS, errors: &["EIO"], ends: Ends::Anyhow },
        Call { name: "write", errors: &["EIO", "ENOSPC", "EPIPE", "EINTR"], ends: TARGET },
        Call { name: "writev", errors: &["EIO"], ends: TARGET },
        Call { name: "read", errors: &["EIO", "EINTR", "ENOMEM"], ends: EITHER },
        Call { name: "readv", errors: &["EIO"], ends: EITHER },
        Call { name: "pread64", errors: &["EIO", "EINTR", "ENOMEM"], ends: EITHER },
        Call { name: "preadv", errors: &["EIO"], ends: EITHER },
        Call { name: "lseek", errors: &["EIO", "EINVAL"], ends: EITHER },
        Call { name: "copy_file_range", errors: &["EIO", "ENOSPC", "EXDEV"], ends: EITHER },
        Call { name: "ioctl", errors: &["EIO", "ENOTTY", "ENOSPC"], ends: EITHER },
        Call { name: "openat", errors: &["EIO", "EMFILE", "EACCES", "ENOENT"], ends: EITHER },
        Call { name: "open", errors: &["EIO", "EMFILE"], ends: EITHER },
        Call { name: "close", errors: &["EIO", "EINTR"], ends: EITHER },
        Call { name: "fcntl", errors: &["EINVAL", "EMFILE"], ends: EITHER },
        Call { name: "fstat", errors: &["EIO"], ends: EITHER },
        Call { name: "newfstatat", errors: &["EIO", "EACCES"], ends: EITHER },
        Call { name: "statx", errors: &["EIO", "EACCES", "ENOSYS"], ends: EITHER },
        Call { name: "statfs", errors: &["EIO"], ends: EITHER },
        Call { name: "fstatfs", errors: &["EIO"], ends: EITHER },
        Call { name: "getdents64", errors: &["EIO"], ends: EITHER },
        Call { name: "readlink", errors: &["EIO"], ends: EITHER },
        Call { name: "readlinkat", errors: &["EIO"], ends: EITHER },
        Call { name: "poll", errors: &["EINTR", "ENOMEM"], ends: EITHER },
        Call { name: "sched_getaffinity", errors: &["EPERM"], ends: EITHER },
        // Where it does not exist there is no sandbox. Here there is one, which keeps the standard library from /dev/urandom.
        Call { name: "getrandom", errors: &["ENOSYS"], ends: Ends::Anyhow },
        Call { name: "pipe2", errors: &["EMFILE"], ends: EITHER },
        Call { name: "socketpair", errors: &["EMFILE"], ends: EITHER },
        Call { name: "rt_sigaction", errors: &["EINVAL"], ends: Ends::Anyhow },
        Call { name: "sigaltstack", errors: &["ENOMEM"], ends: Ends::Anyhow },
        Call { name: "clone3", errors: &["EAGAIN"], ends: EITHER },
        Call { name: "mmap", errors: &["ENOMEM"], ends: Ends::Anyhow },
        Call { name: "mremap", errors: &["ENOMEM"], ends: Ends::Anyhow },
        Call { name: "mprotect", errors: &["ENOMEM"], ends: Ends::Anyhow },
        Call { name: "madvise", errors: &["ENOMEM"], ends: Ends::Anyhow },
        // The kernel has no error for it: it says where the end was left.
        Call { name: "brk", errors: &["retval=0"], ends: Ends::Anyhow },
    ];

    /// What a download asks for besides. Only such errors as the kernel has for it: the runtime ends with the others.
    const NETWORK: &[Call] = &[
        Call { name: "clone3", errors: &["EAGAIN"], ends: EITHER },
        Call { name: "socket", errors: &["EMFILE", "EACCES"], ends: EITHER },
        Call { name: "connect", errors: &["ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL"], ends: EITHER },
        Call { name: "setsockopt", errors: &["ENOMEM"], ends: EITHER },
        Call { name: "getsockopt", errors: &["ENOBUFS"], ends: EITHER },
        Call { name: "sendto,writev", errors: &["ECONNRESET", "EPIPE", "EINTR"], ends: EITHER },
        // A connection that is lost is in the matrix. The signals' thread waits in the same call, for one that cannot be.
        Call { name: "recvfrom", errors: &["EINTR"], ends: EITHER },
        Call { name: "shutdown", errors: &["ENOTCONN"], ends: EITHER },
        Call { name: "epoll_create1,eventfd2", errors: &["EMFILE"], ends: EITHER },
        Call { name: "epoll_ctl", errors: &["ENOSPC"], ends: EITHER },
        Call { name: "epoll_wait", errors: &["EINTR"], ends: EITHER },
    ];

    fn stage((name, feed, to): Reference) -> Stage {
        Stage::new(SIZE, name, feed, to)
    }

    fn is_full() -> bool {
        std::env::var("DISKFERRY_TORTURE").is_ok_and(|wanted| wanted == "full")
    }

    /// How often each call is made, by the thread that makes most of them.
    fn counts(stage: &Stage, calls: &[Call]) -> BTreeMap<String, usize> {
        stage.target.reset();
        let log = stage.scratch.path("log");
        // Calls that this machine does not have are asked for all the same.
        let names = calls.iter().flat_map(|call| call.name.split(','));
        let trace = names.map(|name| format!("?{name}")).collect::<Vec<_>>().join(",");
        let trace = format!("trace={trace}");
        let output = stage.run(&["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace]).unwrap();
        let outcome = stage.judge(&output, &[]).unwrap();
        assert_eq!(outcome.how, "done");
        let mut threads: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let log = fs::read_to_string(log).unwrap();
        for line in log.lines() {
            let (thread, rest) = line.split_once(' ').unwrap();
            let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
            let Some(call) = calls.iter().find(|call| call.name.split(',').any(|one| one == name)) else {
                continue;
            };
            *threads.entry((thread, call.name)).or_default() += 1;
        }
        let mut counts = BTreeMap::new();
        for ((_, name), count) in threads {
            let most = counts.entry(name.to_owned()).or_default();
            *most = count.max(*most);
        }
        counts
    }

    /// Runs with the k-th call, or those from there on, failing. `None` if none did.
    fn fail(stage: &Stage, call: &Call, error: &str, when: &str) -> Result<Option<Outcome>, String> {
        stage.target.reset();
        let log = stage.scratch.path("log");
        let names = call.name.split(',').map(|name| format!("?{name}")).collect::<Vec<_>>().join(",");
        let error = if error.contains('=') { error.to_owned() } else { format!("error={error}") };
        let (trace, inject) = (format!("trace={names}"), format!("inject={names}:{error}:when={when}"));
        let strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
        let mut output = stage.run(&strace)?;
        if call.name == "write" && output.stderr.is_empty() {
            // Nobody could say anything.
            output.stderr = b"diskferry: \n".to_vec();
        }
        let log = fs::read_to_string(&log).unwrap();
        if injected(&log) == 0 {
            return Ok(None);
        }
        if let (true, Some(call)) = (output.status.success(), not_durable(&log)) {
            return Err(format!("done, in spite of {call}"));
        }
        let outcome = match call.ends {
            Ends::With(_) if is_not_started(&output) => stage.judge_cut_off(&output)?,
            Ends::With(codes) => stage.judge(&output, codes)?,
            Ends::Anyhow if output.status.success() && call.name != UNLINKS => stage.judge(&output, &[])?,
            Ends::Anyhow => {
                let outcome = stage.judge_cut_off(&output)?;
                if !stage.leftovers().is_empty() {
                    // The next run takes it away.
                    let again = stage.run(&[])?;
                    stage.judge(&again, &[])?;
                }
                let how = output.status.signal().map_or_else(
                    || format!("exit code {}", output.status.code().unwrap_or_default()),
                    |signal| format!("signal {signal}"),
                );
                Outcome { how: format!("{how}, {}", outcome.how), ..outcome }
            }
        };
        Ok(Some(outcome))
    }

    /// The loader has found a library missing.
    fn is_not_started(output: &Output) -> bool {
        output.status.code() == Some(127)
            && String::from_utf8_lossy(&output.stderr).contains("error while loading shared libraries")
    }

    /// Every call of these jobs, each time that it is made.
    fn torture(references: &[Reference], calls: &'static [Call]) {
        let jobs: Vec<Reference> = references.to_vec();
        let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(&reference) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = torture_one(reference, calls);
                        wrong.lock().unwrap().extend(found);
                    }
                });
            }
        });
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn torture_one(reference: Reference, calls: &[Call]) -> Vec<String> {
        let stage = stage(reference);
        let counts = counts(&stage, calls);
        let (mut runs, mut wrong) = (0, Vec::new());
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for call in calls {
            let count = counts.get(call.name).copied().unwrap_or(0);
            for (error, k) in call.errors.iter().flat_map(|error| (1..=count).map(move |k| (error, k))) {
                // One that fails for ever is another matter than one that fails once.
                let whens = if is_full() { vec![k.to_string(), format!("{k}+")] } else { vec![k.to_string()] };
                for when in whens.into_iter().filter(|when| *error != "EINTR" || !when.ends_with('+')) {
                    match fail(&stage, call, error, &when) {
                        Ok(None) => {}
                        Ok(Some(outcome)) => {
                            runs += 1;
                            *outcomes.entry(outcome.to_string()).or_default() += 1;
                        }
                        Err(what) => {
                            runs += 1;
                            wrong.push(format!("{reference:?}: {} {error} {when}: {what}", call.name));
                        }
                    }
                }
            }
        }
        eprintln!("{reference:?}: {runs} runs, {} wrong: {outcomes:?}", wrong.len());
        assert!(runs > 0, "nothing failed");
        wrong
    }

    #[test]
    fn whatever_call_fails_a_file_is_what_it_was_or_the_disk() {
        if is_full() { torture(&FILES, CALLS) } else { torture(&FILES[1..3], EVERY_DAY) }
    }

    #[test]
    fn whatever_call_of_a_download_fails_a_file_is_what_it_was_or_the_disk() {
        torture(&DOWNLOADS, if is_full() { NETWORK } else { &NETWORK[..3] });
    }

    #[test]
    fn whatever_call_fails_stdout_has_a_beginning_of_the_disk() {
        let write: &[Call] = &[Call { name: "write", errors: &["EIO"], ends: TARGET }];
        if is_full() { torture(&STDOUTS, CALLS) } else { torture(&STDOUTS[1..], write) }
    }

    /// The lines of a log of system calls in which `name` is called and `has` stands.
    fn positions(log: &str, name: &str, has: &str) -> Vec<usize> {
        let is_it = |line: &str| line.contains(&format!(" {name}(")) && line.contains(has);
        log.lines().enumerate().filter(|(_, line)| is_it(line)).map(|(at, _)| at).collect()
    }

    fn logged(stage: &Stage, scratch: &Path) -> String {
        stage.target.reset();
        let log = scratch.join("order");
        let trace = "trace=pwrite64,fsync,fdatasync,fallocate,?rename,?renameat,?renameat2,exit_group";
        let output = stage.run(&["strace", "-f", "-qq", "-y", "-o", log.to_str().unwrap(), "-e", trace]).unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::read_to_string(log).unwrap()
    }

    #[test]
    fn a_file_is_durable_before_it_has_its_name_and_its_name_is_before_the_end() {
        let stage = stage(FILES[1]);
        let log = logged(&stage, stage.scratch.dir());
        let at = |name, has| positions(&log, name, has);
        let (writes, syncs, renames) =
            (at("pwrite64", ""), at("fsync", ""), [at("rename", ""), at("renameat", ""), at("renameat2", "")].concat());
        // Another thread that the end of the process finds at work is logged as if it had called for it.
        let (main, _) = log.lines().nth(syncs[0]).unwrap().split_once(' ').unwrap();
        let mut ends = at("exit_group", "");
        ends.retain(|&at| log.lines().nth(at).unwrap().split(' ').next() == Some(main));
        assert_eq!((syncs.len(), renames.len(), ends.len()), (2, 1, 1), "{log}");
        let order = [writes.last().unwrap(), &syncs[0], &renames[0], &syncs[1], &ends[0]];
        assert!(order.is_sorted(), "{order:?} in {log}");
    }

    #[test]
    fn a_name_that_cannot_be_made_durable_is_an_error_and_the_disk_is_there() {
        for reference in [FILES[0], FILES[1]] {
            let stage = stage(reference);
            stage.target.reset();
            let log = stage.scratch.path("log");
            let inject = ["-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=2"];
            let strace = [&["strace", "-f", "-qq", "-y", "-o", log.to_str().unwrap()], &inject[..]].concat();
            let output = stage.run(&strace).unwrap();
            let outcome = stage.judge(&output, &[5]).unwrap();
            assert_eq!(outcome, Outcome { how: "exit code 5".into(), state: State::Complete }, "{reference:?}");
            let log = fs::read_to_string(log).unwrap();
            let directory = format!("<{}>", stage.scratch.path("to").display());
            assert!(injected(&log) == 1 && not_durable(&log).unwrap().contains(&directory), "{log}");
        }
    }

    /// These need loop devices as well.
    mod device {
        use std::process::Command;

        use diskferry_testkit::oracle::Scratch;
        use diskferry_testkit::places::Mount;
        use diskferry_testkit::random::Random;

        use super::*;

        #[test]
        fn whatever_call_fails_a_device_is_what_it_was_or_unfinished_or_the_disk() {
            if is_full() { torture(&DEVICES, CALLS) } else { torture(&DEVICES[..1], EVERY_DAY) }
        }

        #[test]
        fn a_disk_is_made_on_ext4_though_no_block_can_be_reserved_for_it() {
            let mount = Mount::made_by(&["mkfs.ext4", "-q", "-b", "4096"], 16 << 20);
            let (scratch, noise) = (Scratch::new(), Random::new(1).bytes(1 << 20));
            let (image, log) = (scratch.write("disk.img", &noise), scratch.path("log"));
            let target = mount.path.join("disk.raw");
            for how in ["error=ENOSPC", "error=EIO", "error=EOPNOTSUPP", "error=EINTR:when=1..3"] {
                let inject = format!("inject=fallocate:{how}");
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-e", "trace=fallocate", "-e", &inject, "-o"]).arg(&log);
                command.args([env!("CARGO_BIN_EXE_diskferry"), "convert", "-f", "raw"]).args([&image, &target]);
                let output = command.output().unwrap();
                assert!(output.status.success(), "{how}: {output:?}");
                assert!(fs::read(&target).unwrap() == noise, "{how}");
                let failed = injected(&fs::read_to_string(&log).unwrap());
                assert!(failed > 0, "{how}: nothing was reserved");
            }
        }

        #[test]
        fn a_devices_first_page_is_written_when_all_the_rest_is_durable() {
            let stage = stage(DEVICES[0]);
            let log = logged(&stage, stage.scratch.dir());
            let syncs = positions(&log, "fdatasync", "");
            let writes = positions(&log, "pwrite64", "/dev/loop");
            let first = positions(&log, "pwrite64", ", 4096, 0)");
            let rest = positions(&log, "pwrite64", ", 1044480, 4096)");
            let ends = positions(&log, "exit_group", "");
            assert_eq!((syncs.len(), first.len(), rest.len()), (4, 1, 1), "{log}");
            let body = writes.iter().filter(|&at| *at < rest[0]).max().unwrap();
            let order = [syncs[0], *body, syncs[1], rest[0], syncs[2], first[0], syncs[3], ends[0]];
            assert!(order.is_sorted(), "{order:?} in {log}");
        }
    }
}
