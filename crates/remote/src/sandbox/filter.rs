//! The system calls that a thread keeps which decodes, and a process around it, for the kernel's
//! [filter](https://docs.kernel.org/userspace-api/seccomp_filter.html).
//!
//! The thread works on what is open: reads, writes, memory, other threads of its kind, and time. No call takes a path, makes a socket,
//! starts a program or asks for another process. What is not listed fails with `EPERM`, so that a job ends with an error and not by a signal.

use std::collections::BTreeMap;
use std::process;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS,
    CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, CLONE_THREAD, CLONE_VM, ENOSYS, EPERM, F_DUPFD_CLOEXEC, F_GETFD,
    F_GETFL, MSG_DONTWAIT, O_CREAT, O_EXCL, O_PATH, O_TMPFILE, PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PROT_EXEC, c_long,
};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

/// `TCGETS`, `TCGETS2` and `TIOCGWINSZ`: whether there is a terminal, and how large. Their types differ from one C library to another.
const TERMINAL: [u64; 3] = [0x5401, 0x802c_542a, 0x5413];

const NAMESPACES: i32 =
    CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWUTS;

/// Calls that are granted whatever they are given.
const GRANTED: &[c_long] = &[
    // What is open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_copy_file_range,
    libc::SYS_lseek,
    libc::SYS_fadvise64,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_close,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // Threads, and their signals.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
];

/// What a process keeps besides that decodes what is open, and publishes it: names of files, its end, and giving up more.
const PUBLISHING: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_fchmod,
    // What is not finished is locked, and the disk is no more.
    libc::SYS_flock,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_rt_sigaction,
    libc::SYS_exit_group,
    libc::SYS_seccomp,
    libc::SYS_landlock_restrict_self,
];

/// By these a process makes new files, and which argument says how.
const OPENING: &[(c_long, u8)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
    (libc::SYS_openat, 2),
];

/// For a thread that decodes.
pub(super) fn decoding() -> Result<BpfProgram, BackendError> {
    granted(rules_of_decoding()?)
}

/// For all threads of a process whose source and target are open, and here.
pub(super) fn publishing() -> Result<BpfProgram, BackendError> {
    granted(publishing_rules()?)
}

/// For a thread that decodes in a process that goes on with [`publishing`]: no call that this grants and [`decoding`] does not. Of calls that
/// both grant in part, the process could only say once more that it gives up privileges. The kernel looks at every call that there is for each
/// program, and is done with a short one sooner.
pub(super) fn not_publishing() -> Result<BpfProgram, BackendError> {
    let mut rules = publishing_rules()?;
    let kept = rules_of_decoding()?;
    rules.retain(|call, _| !kept.contains_key(call));
    rules.values_mut().for_each(Vec::clear);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM.unsigned_abs()))
}

fn publishing_rules() -> Result<Rules, BackendError> {
    let mut rules = rules_of_decoding()?;
    rules.extend(PUBLISHING.iter().map(|call| (*call, Vec::new())));
    // A file that is new, by a name of its own or without one: nothing that is there is opened.
    let new = |argument| -> Result<Vec<SeccompRule>, BackendError> {
        [O_CREAT | O_EXCL, O_TMPFILE]
            // A handle that is no more than a name would be had of what is there, whatever else is asked for.
            .map(|flags| rule(&[(argument, Dword, MaskedEq(bits(flags | O_PATH)), bits(flags))]))
            .into_iter()
            .collect()
    };
    for (call, argument) in OPENING {
        rules.insert(*call, new(*argument)?);
    }
    rules.entry(libc::SYS_prctl).or_default().push(rule(&[(0, Dword, Eq, bits(PR_SET_NO_NEW_PRIVS))])?);
    // Signals are heard of over a pair of sockets.
    rules.insert(libc::SYS_recvfrom, vec![rule(&[(4, Qword, Eq, 0)])?]);
    let asked = TERMINAL.map(|what| rule(&[(1, Dword, Eq, what)]));
    rules.insert(libc::SYS_ioctl, asked.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// Keeps everything, and is short: whether the kernel takes programs at all.
pub(super) fn anything() -> Result<BpfProgram, BackendError> {
    program(Rules::new(), SeccompAction::Allow, SeccompAction::Errno(EPERM.unsigned_abs()))
}

fn granted(rules: Rules) -> Result<BpfProgram, BackendError> {
    program(rules, SeccompAction::Errno(EPERM.unsigned_abs()), SeccompAction::Allow)
}

/// Calls, and what must hold of their arguments: one of some rules, or nothing.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn rules_of_decoding() -> Result<Rules, BackendError> {
    let thread = bits(CLONE_THREAD | CLONE_VM);
    let is = |argument, value: i32| rule(&[(argument, Dword, Eq, bits(value))]);
    let no_code = || rule(&[(2, Dword, MaskedEq(bits(PROT_EXEC)), 0)]);
    // A process of its own, or another view of the system, is more than a thread.
    let new_thread = rule(&[(0, Dword, MaskedEq(thread | bits(NAMESPACES)), thread)]);
    // The handler of a signal tells of it over a pair of sockets that is there; whom it goes to cannot be named.
    let told = rule(&[(3, Dword, Eq, bits(MSG_DONTWAIT)), (4, Qword, Eq, 0)]);
    let mut rules: Rules = GRANTED.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend([
        (libc::SYS_clone, vec![new_thread?]),
        (libc::SYS_mmap, vec![no_code()?]),
        (libc::SYS_mprotect, vec![no_code()?]),
        // A second descriptor of what is open, and what the standard library asks before it closes one.
        (libc::SYS_fcntl, vec![is(1, F_DUPFD_CLOEXEC)?, is(1, F_GETFD)?, is(1, F_GETFL)?]),
        (libc::SYS_prctl, vec![is(0, PR_SET_NAME)?]),
        (libc::SYS_sendto, vec![told?]),
        // To this process alone: abort() ends it so.
        (libc::SYS_tgkill, vec![rule(&[(0, Dword, Eq, process::id().into())])?]),
    ]);
    Ok(rules)
}

/// A program that does with a call what `listed` says if it is in `rules`, and one of these holds, and otherwise what `otherwise` says.
///
/// Of each call that there is the kernel finds out what every program does with it that it takes. So those that have nothing to hold take one
/// instruction here, and not the library's five: they stand where its program would end, with all others.
fn program(rules: Rules, otherwise: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, BackendError> {
    let (whole, in_part): (Rules, Rules) = rules.into_iter().partition(|(_, rules)| rules.is_empty());
    let arch = std::env::consts::ARCH.try_into()?;
    let mut program: BpfProgram = SeccompFilter::new(in_part, otherwise.clone(), listed.clone(), arch)?.try_into()?;
    program.pop();
    // Its number comes first in what the kernel lets a program look at.
    program.push(instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0));
    // The arguments of `clone3` lie in memory, where no program can look. It is as if it were not there, as on old kernels: then threads are
    // started by `clone`, whose flags can be seen.
    program.extend([is(libc::SYS_clone3, 0, 1)?, returned(&SeccompAction::Errno(ENOSYS.unsigned_abs()))]);
    let behind = u8::try_from(whole.len()).map_err(|_| BackendError::FilterTooLarge(whole.len()))?;
    for (call, behind) in whole.keys().zip((1..=behind).rev()) {
        program.push(is(*call, behind, 0)?);
    }
    program.extend([returned(&otherwise), returned(&listed)]);
    Ok(program)
}

/// If the call has this number, so many instructions are passed over, otherwise so many others.
fn is(call: c_long, jt: u8, jf: u8) -> Result<sock_filter, BackendError> {
    let number = call.try_into().map_err(|_| BackendError::InvalidArgumentNumber)?;
    Ok(instruction(BPF_JMP | BPF_JEQ | BPF_K, number, jt, jf))
}

fn returned(action: &SeccompAction) -> sock_filter {
    instruction(BPF_RET | BPF_K, action.clone().into(), 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// What must hold of arguments: which one, how much of it the kernel takes, how it compares, and with what.
fn rule(conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let condition = |(argument, len, how, value): &(u8, SeccompCmpArgLen, SeccompCmpOp, u64)| {
        SeccompCondition::new(*argument, len.clone(), how.clone(), *value)
    };
    SeccompRule::new(conditions.iter().map(condition).collect::<Result<_, _>>()?)
}

fn bits(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use libc::{BPF_ALU, BPF_AND, BPF_JA, BPF_JGE, BPF_JGT};

    use super::*;

    /// What the kernel does with a call of this number and with these arguments, for a program of that processor.
    fn outcome(program: &BpfProgram, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        // An instruction pointer lies before them, at which no program looks.
        let halves: Vec<u64> = args.iter().flat_map(|arg| [arg & u64::from(u32::MAX), arg >> 32]).collect();
        let (mut at, mut held) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |holds| usize::from(if holds { jt } else { jf });
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    held = match k {
                        0 => number,
                        4 => arch,
                        at => u32::try_from(halves[(at as usize - 16) / 4]).unwrap(),
                    };
                }
                code if code == BPF_ALU | BPF_AND | BPF_K => held &= k,
                code if code == BPF_JMP | BPF_JA => at += k as usize,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(held == k),
                code if code == BPF_JMP | BPF_JGT | BPF_K => at += jump(held > k),
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(held >= k),
                code if code == BPF_RET | BPF_K => return k,
                code => panic!("{code:#x} at {at}"),
            }
        }
    }

    #[test]
    fn calls_that_are_granted_in_part_are_granted_for_these_arguments_alone() {
        const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
        const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | 1;
        let (read, code) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_EXEC);
        let thread = CLONE_VM | CLONE_THREAD | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND;
        let own = process::id().cast_signed();
        let new = libc::O_WRONLY | libc::O_CLOEXEC | O_CREAT | O_EXCL;
        let both = |outcome| (outcome, outcome);
        // What decodes may do, and what publishes.
        let cases = [
            (libc::SYS_mmap, [0, 4096, read, 0, 0, 0], both(ALLOW)),
            (libc::SYS_mmap, [0, 4096, code, 0, 0, 0], both(REFUSE)),
            (libc::SYS_mprotect, [0, 4096, read, 0, 0, 0], both(ALLOW)),
            (libc::SYS_mprotect, [0, 4096, code, 0, 0, 0], both(REFUSE)),
            (libc::SYS_clone, [thread, 0, 0, 0, 0, 0], both(ALLOW)),
            (libc::SYS_clone, [thread | CLONE_NEWUSER, 0, 0, 0, 0, 0], both(REFUSE)),
            (libc::SYS_clone, [CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0, 0], both(REFUSE)),
            (libc::SYS_clone, [libc::SIGCHLD, 0, 0, 0, 0, 0], both(REFUSE)),
            (libc::SYS_clone, [CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0, 0], both(REFUSE)),
            (libc::SYS_tgkill, [own, 7, libc::SIGABRT, 0, 0, 0], both(ALLOW)),
            (libc::SYS_tgkill, [1, 1, libc::SIGABRT, 0, 0, 0], both(REFUSE)),
            (libc::SYS_fcntl, [3, F_GETFL, 0, 0, 0, 0], both(ALLOW)),
            (libc::SYS_fcntl, [3, F_DUPFD_CLOEXEC, 0, 0, 0, 0], both(ALLOW)),
            (libc::SYS_fcntl, [3, libc::F_SETFL, libc::O_NONBLOCK, 0, 0, 0], both(REFUSE)),
            (libc::SYS_fcntl, [3, libc::F_SETPIPE_SZ, 1 << 20, 0, 0, 0], both(REFUSE)),
            (libc::SYS_prctl, [PR_SET_NAME, 0, 0, 0, 0, 0], both(ALLOW)),
            (libc::SYS_prctl, [libc::PR_SET_DUMPABLE, 1, 0, 0, 0, 0], both(REFUSE)),
            (libc::SYS_prctl, [libc::PR_SET_SECCOMP, 2, 0, 0, 0, 0], both(REFUSE)),
            (libc::SYS_prctl, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0], (REFUSE, ALLOW)),
            (libc::SYS_sendto, [3, 0, 1, MSG_DONTWAIT, 0, 0], both(ALLOW)),
            (libc::SYS_sendto, [3, 0, 1, MSG_DONTWAIT, 64, 16], both(REFUSE)),
            (libc::SYS_recvfrom, [3, 0, 1, 0, 0, 0], (REFUSE, ALLOW)),
            (libc::SYS_recvfrom, [3, 0, 1, 0, 64, 0], both(REFUSE)),
            (libc::SYS_openat, [libc::AT_FDCWD, 64, new, 0o600, 0, 0], (REFUSE, ALLOW)),
            (libc::SYS_openat, [libc::AT_FDCWD, 64, libc::O_RDWR | O_TMPFILE, 0o600, 0, 0], (REFUSE, ALLOW)),
            (libc::SYS_openat, [libc::AT_FDCWD, 64, libc::O_RDONLY, 0, 0, 0], both(REFUSE)),
            (libc::SYS_openat, [libc::AT_FDCWD, 64, libc::O_RDWR | O_CREAT, 0o600, 0, 0], both(REFUSE)),
            (libc::SYS_openat, [libc::AT_FDCWD, 64, libc::O_RDWR | O_EXCL, 0o600, 0, 0], both(REFUSE)),
            (libc::SYS_openat, [libc::AT_FDCWD, 64, new | O_PATH, 0o600, 0, 0], both(REFUSE)),
            (libc::SYS_openat, [libc::AT_FDCWD, 64, O_TMPFILE | O_PATH, 0o600, 0, 0], both(REFUSE)),
            (libc::SYS_ioctl, [1, 0x5401, 64, 0, 0, 0], (REFUSE, ALLOW)),
            // TIOCSTI: to type at a terminal.
            (libc::SYS_ioctl, [1, 0x5412, 64, 0, 0, 0], both(REFUSE)),
        ];
        let (decoding, publishing) = (decoding().unwrap(), publishing().unwrap());
        let arch = decoding[1].k;
        for (call, args, expected) in cases {
            // What a call does not look at may be anything, and so may the half of a number that it does not take.
            for above in [0, 0xffff_ffff_0000_0000] {
                let is_address = [(libc::SYS_sendto, 4), (libc::SYS_recvfrom, 4)];
                let mut wide = args.map(bits);
                for (argument, value) in (0..).zip(&mut wide) {
                    *value |= if is_address.contains(&(call, argument)) { 0 } else { above };
                }
                let of = |program| outcome(program, arch, u32::try_from(call).unwrap(), wide);
                assert_eq!((of(&decoding), of(&publishing)), expected, "call {call} with {args:x?}, {above:x}");
            }
        }
    }

    #[test]
    fn every_call_has_the_outcome_that_is_listed() {
        let (allow, refuse) = (u32::from(SeccompAction::Allow), u32::from(SeccompAction::Errno(EPERM.unsigned_abs())));
        let not_there = u32::from(SeccompAction::Errno(ENOSYS.unsigned_abs()));
        let kept = publishing_rules().unwrap();
        let programs = [
            (decoding().unwrap(), rules_of_decoding().unwrap(), allow, refuse),
            (publishing().unwrap(), kept.clone(), allow, refuse),
            (anything().unwrap(), Rules::new(), refuse, allow),
            (
                not_publishing().unwrap(),
                kept.into_iter().filter(|(call, _)| !rules_of_decoding().unwrap().contains_key(call)).collect(),
                refuse,
                allow,
            ),
        ];
        for (program, mut listed, is_listed, otherwise) in programs {
            // The library has this processor's number in its second instruction.
            let arch = program[1].k;
            if otherwise == allow {
                listed.values_mut().for_each(Vec::clear);
            }
            let ones = [u64::MAX; 6];
            for number in 0..1000 {
                let expected = match listed.get(&number) {
                    _ if number == libc::SYS_clone3 => not_there,
                    Some(rules) if rules.is_empty() => is_listed,
                    // Ones are what no rule asks for.
                    _ => otherwise,
                };
                let number = u32::try_from(number).unwrap();
                assert_eq!(outcome(&program, arch, number, ones), expected, "{number} of {}", program.len());
                assert_eq!(outcome(&program, arch ^ 1, number, ones), libc::SECCOMP_RET_KILL_PROCESS);
            }
        }
    }
}
