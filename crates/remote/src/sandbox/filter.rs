//! The system calls that a thread keeps which decodes, and a process around it, for the kernel's
//! [filter](https://docs.kernel.org/userspace-api/seccomp_filter.html).
//!
//! The thread works on what is open: reads, writes, memory, other threads of its kind, and time. No call takes a path, makes a socket,
//! starts a program or asks for another process. What is not listed fails with `EPERM`, so that a job ends with an error and not by a signal.

use std::collections::BTreeMap;
use std::process;

use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, CLONE_THREAD,
    CLONE_VM, ENOSYS, EPERM, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, MSG_DONTWAIT, O_CREAT, O_EXCL, O_PATH, O_TMPFILE,
    PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PROT_EXEC, c_long,
};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
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
    // Its arguments lie in memory, where a filter cannot look: see `without_clone3`.
    libc::SYS_clone3,
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

/// For a thread that decodes. In front of it comes [`without_clone3`].
pub(super) fn decoding() -> Result<BpfProgram, BackendError> {
    granted(rules_of_decoding()?)
}

/// For all threads of a process whose source and target are open, and here. In front of it comes the same.
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

/// Says that there is no `clone3`, as on old kernels: then threads are started by `clone`, whose flags can be seen.
pub(super) fn without_clone3() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(ENOSYS.unsigned_abs()))
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

fn program(rules: Rules, otherwise: SeccompAction, listed: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, listed, std::env::consts::ARCH.try_into()?)?.try_into()
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
