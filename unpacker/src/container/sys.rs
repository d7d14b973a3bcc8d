//! The system calls that rustix does not have, or has not for a process that forks.
//!
//! Everything here is called by single-threaded helpers of ours only; that is what makes the
//! forks sound. No policy lives here.

use std::ffi::{CString, c_char, c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

/// The sides of a fork.
#[derive(Debug)]
pub(crate) enum Forked {
    Child,
    /// The child and a descriptor of it that no reuse of its number can confuse.
    Parent(Pid, OwnedFd),
}

/// Forks, into new namespaces when `flags` has `CLONE_NEW*` bits. The caller has one thread.
pub(crate) fn fork(flags: c_int) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: (flags | libc::CLONE_PIDFD) as u64,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM the child has a copy of this memory; this process has one thread,
    // so no lock of another one is copied in a held state. `args` and `pidfd` outlive the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel just made this descriptor for us, nobody else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = Pid::from_raw(pid as i32).ok_or_else(|| io::Error::other("no process id"))?;
            Ok(Forked::Parent(pid, pidfd))
        }
    }
}

/// Ends the process at once, without running what its parent copy registered.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Waits for a child of ours. `None` with `WNOHANG` when there is nothing to tell.
pub(crate) fn wait(pid: i32, options: c_int) -> io::Result<Option<(i32, c_int)>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let done = unsafe { libc::waitpid(pid, &raw mut status, options) };
        match done {
            0 => return Ok(None),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            pid => return Ok(Some((pid, status))),
        }
    }
}

/// Sends a signal through a process descriptor.
pub(crate) fn send_signal(pidfd: impl AsFd, signal: c_int) -> io::Result<()> {
    send_signal_to(pidfd, signal, 0)
}

/// Sends a signal to the process group that the process behind a descriptor leads, even when that
/// process was reaped. EINVAL before Linux 6.9.
pub(crate) fn send_group_signal(pidfd: impl AsFd, signal: c_int) -> io::Result<()> {
    // See <linux/pidfd.h>; libc does not have it for every target yet.
    const PIDFD_SIGNAL_PROCESS_GROUP: c_uint = 1 << 2;
    send_signal_to(pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP)
}

fn send_signal_to(pidfd: impl AsFd, signal: c_int, flags: c_uint) -> io::Result<()> {
    // SAFETY: a null siginfo is what the call documents for a plain signal.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    check(done)
}

/// Sends a signal to the process group with this number. The caller knows that it is still taken.
pub(crate) fn send_signal_to_group_number(group: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: kill has no memory to get wrong.
    check(unsafe { libc::kill(-group.as_raw_nonzero().get(), signal) }.into())
}

/// Changes attributes of a whole mount tree, see mount_setattr(2).
pub(crate) fn set_mount_attributes(tree: impl AsFd, set: u64) -> io::Result<()> {
    change_mounts(tree, set, libc::AT_RECURSIVE)
}

/// Changes attributes of one mount and of nothing below it.
pub(crate) fn set_attributes_of_one_mount(mount: impl AsFd, set: u64) -> io::Result<()> {
    change_mounts(mount, set, 0)
}

fn change_mounts(tree: impl AsFd, set: u64, recursive: c_int) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a literal, `attributes` outlives the call and its size is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(done)
}

/// Marks every descriptor from `first` on to be closed by an exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: only flags of descriptors change, none is closed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            c_int::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    check(done)
}

/// Closes every descriptor from 3 on but these. For a fresh process: a helper that has opened
/// nothing yet, or a fork that never returns to the code which owns the others. What its parent
/// holds must not stay open in it.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.into_iter().chain([c_int::MAX]) {
        if fd > first {
            // SAFETY: these descriptors have no owner in this process, or one on stack frames to
            // which the caller never returns, so none is used or closed again.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = first.max(fd.saturating_add(1));
    }
    Ok(())
}

/// Installs a seccomp program. Needs CAP_SYS_ADMIN in the user namespace: privileges that setuid
/// programs gain are wanted here, so `no_new_privs` is not set.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel only reads the program and copies it before it returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const fprog,
        )
    };
    check(done)
}

/// As [`install_filter`], with the descriptor on which what the program leaves open is asked.
pub(crate) fn install_listened_filter(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let fprog = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel only reads the program and copies it before it returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const fprog,
        )
    };
    check(done)?;
    // SAFETY: the kernel just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(done as RawFd) })
}

/// The next question of a filter; `None` when whoever asked is gone already.
pub(crate) fn next_notification(
    listener: BorrowedFd<'_>,
) -> io::Result<Option<libc::seccomp_notif>> {
    // SAFETY: all-zero bytes are a valid `seccomp_notif`, and what the kernel wants to be given.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: `asked` is what the call writes to, and outlives it.
    let done = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &raw mut asked,
        )
    };
    match check(done.into()) {
        Ok(()) => Ok(Some(asked)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lets whoever asked go on, with success or with this error.
pub(crate) fn answer_notification(
    listener: BorrowedFd<'_>,
    id: u64,
    answer: Result<(), rustix::io::Errno>,
) -> io::Result<()> {
    let mut response = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: answer.err().map_or(0, |error| -error.raw_os_error()),
        flags: 0,
    };
    // SAFETY: `response` is an initialised `seccomp_notif_resp` and outlives the call.
    let done = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND as _,
            &raw mut response,
        )
    };
    check(done.into())
}

/// Takes over a terminal as controlling terminal of this session.
pub(crate) fn take_terminal(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// Executes; returns only with the error.
pub(crate) fn execve(program: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both arrays end with a null pointer and point to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let pointers = strings.iter().map(|s| s.as_ptr());
    pointers.chain([std::ptr::null()]).collect()
}

/// Blocks every signal, so that [`next_signal`] gets them.
pub(crate) fn block_signals() -> io::Result<()> {
    set_signal_mask(true)
}

/// Signals as a fresh program expects them: default dispositions, none blocked.
pub(crate) fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition. SIGKILL, SIGSTOP and the libc's own signals
        // refuse, which is as wanted.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_signal_mask(false)
}

fn set_signal_mask(all: bool) -> io::Result<()> {
    let set = signal_set(all);
    // SAFETY: `set` is initialised and outlives the call.
    let done =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    check(done.into())
}

fn signal_set(all: bool) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: both calls initialise the whole set.
    unsafe {
        if all {
            libc::sigfillset(set.as_mut_ptr());
        } else {
            libc::sigemptyset(set.as_mut_ptr());
        }
        set.assume_init()
    }
}

/// Waits for the next blocked signal.
pub(crate) fn next_signal() -> c_int {
    let set = signal_set(true);
    loop {
        // SAFETY: `set` outlives the call, no information is asked for.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        if signal > 0 {
            return signal;
        }
    }
}

/// Sets the loopback interface up. The caller is in its own network namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is an initialised `ifreq`, as SIOCSIFFLAGS expects.
    let done = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    check(done.into())
}

/// Leaves namespaces. The caller has one thread.
pub(crate) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: no flag that unshares descriptors or memory is passed by any caller, and there are
    // no other threads that could be surprised.
    check(unsafe { libc::unshare(flags) }.into())
}

fn check(done: libc::c_long) -> io::Result<()> {
    if done == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
