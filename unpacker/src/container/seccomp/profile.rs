//! Which system calls docker's default profile leaves to a container, in the words of
//! <https://github.com/moby/profiles> as of June 2026. Its verdicts are recorded in
//! `moby-verdicts.txt`, and a test compares every one of them with ours.
//!
//! Ours differs on purpose where a value of a wide register is a C `int` for the kernel: the upper
//! half is not looked at, so that it cannot be used to get an address family past its rule. Typing
//! into a terminal (TIOCSTI) is refused, and x32 programs are not supported.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use crate::container::capability::Capabilities;

use super::verdict::{Condition, Decision, Rule, Verdict};

/// Allowed to everybody.
const ALLOWED: &str = "\
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old \
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod \
    fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr \
    flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate \
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat \
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid \
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit \
    getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr \
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl \
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr \
    listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise \
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat \
    mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive \
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget \
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat \
    _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc \
    pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
    process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 \
    pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmmsg_time64 \
    recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall \
    rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity \
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget \
    semop semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto \
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 \
    setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 \
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt \
    setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
    signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat \
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write \
    writev";

/// Allowed with a capability, which its kernel checks again.
const WITH: &[(&str, &str)] = &[
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "ioperm iopl"),
    (
        "SYS_TIME",
        "clock_settime clock_settime64 settimeofday stime",
    ),
    ("SYS_TTY_CONFIG", "vhangup"),
    (
        "SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

#[cfg(target_arch = "x86_64")]
const OF_THIS_MACHINE: &str = "arch_prctl modify_ldt";
#[cfg(not(target_arch = "x86_64"))]
const OF_THIS_MACHINE: &str =
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Every call that the profile has a word on.
pub(super) fn mentioned() -> impl Iterator<Item = &'static str> {
    let with = WITH.iter().flat_map(|(_, names)| names.split_whitespace());
    let own = OF_THIS_MACHINE.split_whitespace();
    let ruled = ["clone", "clone3", "personality", "socket"];
    ALLOWED
        .split_whitespace()
        .chain(with)
        .chain(own)
        .chain(ruled)
}

/// What becomes of a call that the kernel knows by this name.
pub(super) fn decide(name: &str, capabilities: Capabilities) -> Decision {
    let granting = granting().get(name).map_or(&[][..], Vec::as_slice);
    let granted = granting
        .iter()
        .any(|capability| capabilities.has(capability));
    match name {
        _ if granted => Decision::always(Verdict::Allow),
        "clone" => new_namespaces(),
        // Its flags are behind a pointer, where no filter sees them: libc falls back to clone.
        "clone3" => Decision::always(Verdict::Errno(libc::ENOSYS)),
        "personality" => personality(),
        "socket" => families(),
        "ioctl" => typing(),
        _ if allowed().contains(name) => Decision::always(Verdict::Allow),
        _ => Decision::always(Verdict::Errno(libc::EPERM)),
    }
}

/// Asked hundreds of times at each start.
fn allowed() -> &'static HashSet<&'static str> {
    static ALL: OnceLock<HashSet<&str>> = OnceLock::new();
    let all = || {
        ALLOWED
            .split_whitespace()
            .chain(OF_THIS_MACHINE.split_whitespace())
    };
    ALL.get_or_init(|| all().collect())
}

/// Which capabilities let a call through.
fn granting() -> &'static HashMap<&'static str, Vec<&'static str>> {
    static ALL: OnceLock<HashMap<&str, Vec<&str>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for (capability, names) in WITH {
            for name in names.split_whitespace() {
                all.entry(name).or_default().push(*capability);
            }
        }
        all
    })
}

const NAMESPACES: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

fn new_namespaces() -> Decision {
    let none = Condition::low(0).masked(NAMESPACES as u32).is(0);
    Decision {
        rules: vec![Rule::allow(vec![none])],
        otherwise: Verdict::Errno(libc::EPERM),
    }
}

/// What programs that emulate other systems set, and the question for the current one.
fn personality() -> Decision {
    let known = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];
    let rule = |value| Rule::allow(vec![Condition::low(0).is(value), Condition::high(0).is(0)]);
    Decision {
        rules: known.into_iter().map(rule).collect(),
        otherwise: Verdict::Errno(libc::EPERM),
    }
}

/// The kernel's cryptography and sockets of virtual machines belong to the host.
fn families() -> Decision {
    let refuse = |family: i32| Rule {
        conditions: vec![Condition::low(0).is(family as u32)],
        then: Verdict::Errno(libc::EPERM),
    };
    Decision {
        rules: vec![refuse(libc::AF_ALG), refuse(libc::AF_VSOCK)],
        otherwise: Verdict::Allow,
    }
}

/// Typing into somebody else's terminal.
fn typing() -> Decision {
    Decision {
        rules: vec![Rule {
            conditions: vec![Condition::low(1).is(libc::TIOCSTI as u32)],
            then: Verdict::Errno(libc::EPERM),
        }],
        otherwise: Verdict::Allow,
    }
}
