//! The system calls that a role may make: everything else is refused.
//!
//! The lists were made by tracing every end-to-end test, and completed with what the C library may
//! use in place of what it used there. Where an argument decides what a call does, it is part of
//! the list: no thread opens a file for writing, makes memory executable or opens a socket of a
//! family that it has no use for. (Names of files lie in memory, where a filter cannot look.)

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{PrivilegeError, Role};

/// A system call, and what must be so of one of its arguments.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: c_long,
    condition: Option<Condition>,
}

/// `argument & mask == value`, on the lower 32 bits: all that the arguments below have.
#[derive(Debug, Clone, Copy)]
struct Condition {
    argument: u8,
    mask: u32,
    value: u32,
}

const fn any(number: c_long) -> Call {
    Call { number, condition: None }
}

const fn equal(number: c_long, argument: u8, value: i32) -> Call {
    masked(number, argument, -1, value)
}

const fn masked(number: c_long, argument: u8, mask: i32, value: i32) -> Call {
    let condition = Condition { argument, mask: mask as u32, value: value as u32 };
    Call { number, condition: Some(condition) }
}

const fn without(number: c_long, argument: u8, bits: i32) -> Call {
    masked(number, argument, bits, 0)
}

/// What any flag of open(2) says that changes something: to write, to make, to cut.
const CHANGES: i32 =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Memory, time, waiting, its own name and end; files that are read, such as the C library's list
/// of processors and what a panic says of itself; descriptors that are open already.
const EVERY_THREAD: &[Call] = &[
    // Memory, none of it executable.
    any(libc::SYS_brk),
    without(libc::SYS_mmap, 2, libc::PROT_EXEC),
    without(libc::SYS_mprotect, 2, libc::PROT_EXEC),
    any(libc::SYS_munmap),
    any(libc::SYS_mremap),
    any(libc::SYS_madvise),
    any(libc::SYS_membarrier),
    // How much there is: some C libraries ask before they sort.
    any(libc::SYS_sysinfo),
    // Other threads, and time.
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_getcpu),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_getres),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_nanosleep),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_ppoll),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_getrandom),
    // Signals that arrive, and an abort.
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_tgkill),
    // A thread's start and end.
    any(libc::SYS_gettid),
    any(libc::SYS_getpid),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    equal(libc::SYS_prctl, 0, libc::PR_SET_NAME),
    // A name for anonymous memory, which newer C libraries give.
    equal(libc::SYS_prctl, 0, libc::PR_SET_VMA),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    // Open descriptors.
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_pread64),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_lseek),
    any(libc::SYS_close),
    any(libc::SYS_fstat),
    equal(libc::SYS_fcntl, 1, libc::F_GETFD),
    equal(libc::SYS_fcntl, 1, libc::F_GETFL),
    equal(libc::SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC),
    // Whether one is a terminal.
    equal(libc::SYS_ioctl, 1, libc::TCGETS as i32),
    // Files, to read.
    without(libc::SYS_openat, 2, CHANGES),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_readlinkat),
    any(libc::SYS_faccessat),
    any(libc::SYS_faccessat2),
    any(libc::SYS_getcwd),
];

/// As above, by the names that only older architectures have for it.
#[cfg(target_arch = "x86_64")]
const EVERY_THREAD_OLD: &[Call] = &[
    any(libc::SYS_poll),
    without(libc::SYS_open, 1, CHANGES),
    any(libc::SYS_stat),
    any(libc::SYS_lstat),
    any(libc::SYS_access),
    any(libc::SYS_readlink),
    any(libc::SYS_time),
];
#[cfg(not(target_arch = "x86_64"))]
const EVERY_THREAD_OLD: &[Call] = &[];

/// Talking over a connected socket.
const CONNECTED: &[Call] = &[
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_sendmsg),
    any(libc::SYS_getsockopt),
    any(libc::SYS_setsockopt),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
    any(libc::SYS_shutdown),
    equal(libc::SYS_ioctl, 1, libc::FIONBIO as i32),
    equal(libc::SYS_fcntl, 1, libc::F_SETFL),
];

/// Taking peers. The listening sockets are there already.
const ACCEPTING: &[Call] = &[any(libc::SYS_accept4), any(libc::SYS_accept)];

/// Going to a peer.
const CONNECTING_UNIX: &[Call] =
    &[equal(libc::SYS_socket, 0, libc::AF_UNIX), any(libc::SYS_connect)];
const CONNECTING_TCP: &[Call] = &[
    equal(libc::SYS_socket, 0, libc::AF_INET),
    equal(libc::SYS_socket, 0, libc::AF_INET6),
    any(libc::SYS_connect),
];

/// Threads, and never processes: all of these flags together make a thread of this one.
const THREADS: &[Call] = &[
    masked(libc::SYS_clone, 0, THREAD_FLAGS, THREAD_FLAGS),
    // Its flags lie in memory: see `install`.
    any(libc::SYS_clone3),
];
const THREAD_FLAGS: i32 = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;

/// Removing what the program has made: sockets and pins.
#[cfg(target_arch = "x86_64")]
const REMOVING: &[Call] = &[any(libc::SYS_unlinkat), any(libc::SYS_unlink), any(libc::SYS_rmdir)];
#[cfg(not(target_arch = "x86_64"))]
const REMOVING: &[Call] = &[any(libc::SYS_unlinkat)];

/// Looking at devices: routing and ethtool requests, the claim on a device.
const DEVICES: &[Call] = &[
    equal(libc::SYS_socket, 0, libc::AF_NETLINK),
    equal(libc::SYS_socket, 0, libc::AF_INET),
    equal(libc::SYS_socket, 0, libc::AF_UNIX),
    any(libc::SYS_bind),
    any(libc::SYS_listen),
    any(libc::SYS_connect),
    equal(libc::SYS_ioctl, 1, libc::SIOCETHTOOL as i32),
    equal(libc::SYS_ioctl, 1, libc::SIOCGIFINDEX as i32),
];

/// Loading and attaching programs, reading and writing maps, pins.
const PROGRAMS: &[Call] = &[
    any(libc::SYS_bpf),
    any(libc::SYS_mkdirat),
    any(libc::SYS_statfs),
    any(libc::SYS_fstatfs),
    // Comparators that share a NIC take turns at the mirror's pins.
    any(libc::SYS_flock),
    any(libc::SYS_getdents64),
    any(libc::SYS_uname),
    any(libc::SYS_geteuid),
    // To lock more memory where the kernel still counts maps that way.
    equal(libc::SYS_prlimit64, 0, 0),
    // Waiting for the debug log of the programs.
    any(libc::SYS_epoll_pwait),
];
#[cfg(target_arch = "x86_64")]
const PROGRAMS_OLD: &[Call] =
    &[any(libc::SYS_mkdir), any(libc::SYS_epoll_wait), any(libc::SYS_getrlimit)];
#[cfg(not(target_arch = "x86_64"))]
const PROGRAMS_OLD: &[Call] = &[];

/// Opening the socket of a device's queue.
const QUEUES: &[Call] = &[
    equal(libc::SYS_socket, 0, libc::AF_XDP),
    // libxdp asks for the interface's index with one.
    equal(libc::SYS_socket, 0, libc::AF_UNIX),
    equal(libc::SYS_ioctl, 1, libc::SIOCGIFINDEX as i32),
    equal(libc::SYS_ioctl, 1, libc::SIOCETHTOOL as i32),
    any(libc::SYS_bind),
];

/// The C library's resolver, whose modules are loaded when they are first needed.
const RESOLVING: &[Call] = &[
    equal(libc::SYS_socket, 0, libc::AF_UNIX),
    equal(libc::SYS_socket, 0, libc::AF_NETLINK),
    any(libc::SYS_bind),
    any(libc::SYS_sendmmsg),
    any(libc::SYS_recvmmsg),
    any(libc::SYS_uname),
    any(libc::SYS_getuid),
    any(libc::SYS_geteuid),
    any(libc::SYS_getgid),
    any(libc::SYS_getegid),
    any(libc::SYS_getdents64),
    equal(libc::SYS_ioctl, 1, libc::FIONREAD as i32),
    any(libc::SYS_mmap),
    any(libc::SYS_mprotect),
];

/// The lists that hold for a role.
fn lists(role: Role) -> Vec<&'static [Call]> {
    let mut lists = vec![EVERY_THREAD, EVERY_THREAD_OLD];
    match role {
        Role::Supervisor { devices } => {
            lists.extend([CONNECTED, DEVICES, REMOVING]);
            if devices {
                lists.extend([PROGRAMS, PROGRAMS_OLD]);
            }
        }
        Role::Lane { devices, .. } => {
            lists.extend([CONNECTED, ACCEPTING, CONNECTING_UNIX, CONNECTING_TCP, REMOVING]);
            if devices {
                lists.push(QUEUES);
            }
        }
        Role::Control => lists.extend([CONNECTED, ACCEPTING, THREADS]),
        Role::Signals => lists.push(CONNECTED),
        Role::UnixPeer { connects: true } => lists.extend([CONNECTED, CONNECTING_UNIX]),
        Role::UnixPeer { connects: false } => lists.extend([CONNECTED, ACCEPTING]),
        Role::TcpPeer => lists.extend([CONNECTED, ACCEPTING, CONNECTING_TCP, RESOLVING]),
        Role::Command | Role::Reader => {}
    }
    lists
}

/// Installs the filter of `role` on the calling thread; `refusal` is what becomes of other calls.
pub(super) fn install(role: Role, refusal: SeccompAction) -> Result<(), PrivilegeError> {
    let failed = |error: &dyn std::fmt::Display| {
        PrivilegeError::Filter(format!("installing a seccomp filter: {error}"))
    };
    if role == Role::Control {
        // In its own filter, for an answer of its own: "there is no such call", on which every C
        // library goes back to clone(2), whose flags can be seen.
        let number = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let answer = SeccompAction::Errno(libc::ENOSYS as u32);
        let program = program(number, SeccompAction::Allow, answer);
        apply_filter(&program.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    let rules = rules(&lists(role)).map_err(|error| failed(&error))?;
    let program = program(rules, refusal, SeccompAction::Allow).map_err(|error| failed(&error))?;
    apply_filter(&program).map_err(|error| failed(&error))
}

fn program(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, listed, architecture)?.try_into()
}

/// The lists as one: of several entries for a call, one that fits is enough.
fn rules(lists: &[&[Call]]) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let calls = || lists.iter().flat_map(|list| list.iter());
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls() {
        let rules = rules.entry(call.number).or_default();
        if let Some(Condition { argument, mask, value }) = call.condition {
            let operator = SeccompCmpOp::MaskedEq(mask.into());
            let condition =
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())?;
            rules.push(SeccompRule::new(vec![condition])?);
        }
    }
    for call in calls().filter(|call| call.condition.is_none()) {
        // No condition at all is how an unconditional call is written.
        rules.insert(call.number, Vec::new());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 13] = [
        Role::Supervisor { devices: true },
        Role::Supervisor { devices: false },
        Role::Lane { devices: true, connects: true },
        Role::Lane { devices: true, connects: false },
        Role::Lane { devices: false, connects: true },
        Role::Lane { devices: false, connects: false },
        Role::Control,
        Role::Signals,
        Role::UnixPeer { connects: true },
        Role::UnixPeer { connects: false },
        Role::TcpPeer,
        Role::Command,
        Role::Reader,
    ];

    #[test]
    fn no_role_may_start_a_program_trace_mount_load_or_change_what_it_is() {
        for role in ROLES {
            let rules = rules(&lists(role)).expect("well formed");
            for number in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_pidfd_getfd,
                libc::SYS_mount,
                libc::SYS_umount2,
                libc::SYS_unshare,
                libc::SYS_setns,
                libc::SYS_pivot_root,
                libc::SYS_chroot,
                libc::SYS_init_module,
                libc::SYS_finit_module,
                libc::SYS_kexec_load,
                libc::SYS_capset,
                libc::SYS_setuid,
                libc::SYS_setresuid,
                libc::SYS_keyctl,
                libc::SYS_io_uring_setup,
                libc::SYS_userfaultfd,
                libc::SYS_perf_event_open,
                libc::SYS_memfd_create,
                libc::SYS_seccomp,
                libc::SYS_kill,
                libc::SYS_fchmodat,
                libc::SYS_fchownat,
                libc::SYS_linkat,
                libc::SYS_symlinkat,
                libc::SYS_renameat2,
            ] {
                assert!(!rules.contains_key(&number), "{role:?} may make call {number}");
            }
            let programs = role == Role::Supervisor { devices: true };
            assert_eq!(rules.contains_key(&libc::SYS_bpf), programs, "{role:?}");
            let threads = role == Role::Control;
            assert_eq!(rules.contains_key(&libc::SYS_clone), threads, "{role:?}");
            assert_eq!(rules.contains_key(&libc::SYS_clone3), threads, "{role:?}");
            assert!(!rules[&libc::SYS_openat].is_empty(), "{role:?} may open files for writing");
            let modules = role == Role::TcpPeer;
            assert_eq!(rules[&libc::SYS_mmap].is_empty(), modules, "{role:?}");
        }
    }

    #[test]
    fn of_two_entries_for_a_call_the_one_without_condition_counts_in_any_order() {
        let narrow: &[Call] = &[equal(libc::SYS_socket, 0, 1), equal(libc::SYS_socket, 0, 2)];
        let wide: &[Call] = &[any(libc::SYS_socket)];
        assert_eq!(rules(&[narrow]).expect("well formed")[&libc::SYS_socket].len(), 2);
        for lists in [[narrow, wide], [wide, narrow]] {
            assert!(rules(&lists).expect("well formed")[&libc::SYS_socket].is_empty());
        }
    }
}
