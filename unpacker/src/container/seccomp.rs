//! The system calls that a container does not have.
//!
//! Docker's default profile turned round: what it withholds from a container without extra
//! capabilities is refused with EPERM here, what is newer than its list and makes namespaces or
//! mounts too, and `clone3`, whose flags no filter can see, is absent (ENOSYS), so that libc falls
//! back to `clone`. With one id only, a further program lets the calls that change owners and
//! identities succeed without doing anything: packages install, everything belongs to that id.
//!
//! Programs of another architecture (32 bit, x32) are not supported: foreign ones are killed.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::launch::{Refusal, Refuse, Stage};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refused whatever their arguments are.
const REFUSED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS__sysctl,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
/// kexec_file_load, which libc does not name on every architecture.
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[294];

/// Succeed without effect where only one id exists.
const PRETENDED: &[i64] = &[
    libc::SYS_capset,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
];

#[cfg(target_arch = "x86_64")]
const PRETENDED_HERE: &[i64] = &[libc::SYS_chown, libc::SYS_lchown];
#[cfg(not(target_arch = "x86_64"))]
const PRETENDED_HERE: &[i64] = &[];

/// The calls that make nodes, and where their mode stands.
#[cfg(target_arch = "x86_64")]
const MKNOD: &[(i64, u8)] = &[(libc::SYS_mknod, 1), (libc::SYS_mknodat, 2)];
#[cfg(not(target_arch = "x86_64"))]
const MKNOD: &[(i64, u8)] = &[(libc::SYS_mknodat, 2)];

/// The request's type differs between C libraries.
#[allow(clippy::unnecessary_cast, reason = "a cast for musl only")]
const TIOCSTI: u64 = libc::TIOCSTI as u64;

const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// The programs, to be installed in this order.
pub(crate) fn programs(single_id: bool) -> Result<Vec<BpfProgram>, Refusal> {
    let eperm = SeccompAction::Errno(libc::EPERM as u32);
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let absent = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    let mut programs = vec![foreign_numbers(), compile(absent, enosys)?];
    if single_id {
        programs.push(compile(pretended()?, SeccompAction::Errno(0))?);
    }
    // Last: it refuses nothing that installing needs, but filters run newest first and the
    // strictest answer wins, so the order changes no result.
    programs.push(compile(refused()?, eperm)?);
    Ok(programs)
}

fn compile(rules: Rules, matched: SeccompAction) -> Result<BpfProgram, Refusal> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).refuse(Stage::Confine, || {
        "filter calls of this architecture".into()
    })?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, matched, arch);
    let filter = filter.refuse(Stage::Confine, || "make the system call filter".into())?;
    BpfProgram::try_from(filter).refuse(Stage::Confine, || "compile the filter".into())
}

fn refused() -> Result<Rules, Refusal> {
    let always = REFUSED.iter().chain(REFUSED_HERE);
    let mut rules: Rules = always.map(|number| (*number, vec![])).collect();
    let new_namespace = |bit: &i32| rule(0, mask(*bit as u64), *bit as u64);
    let clone: Result<_, _> = NAMESPACES.iter().map(new_namespace).collect();
    rules.insert(libc::SYS_clone, clone?);
    // Docker's argument rules: kernel crypto and virtual machine sockets.
    let families = [libc::AF_ALG, libc::AF_VSOCK];
    let sockets: Result<_, _> = (families.iter())
        .map(|family| rule(0, SeccompCmpOp::Eq, *family as u64))
        .collect();
    rules.insert(libc::SYS_socket, sockets?);
    // Typing into somebody else's terminal.
    rules.insert(libc::SYS_ioctl, vec![rule(1, SeccompCmpOp::Eq, TIOCSTI)?]);
    Ok(rules)
}

fn pretended() -> Result<Rules, Refusal> {
    let always = PRETENDED.iter().chain(PRETENDED_HERE);
    let mut rules: Rules = always.map(|number| (*number, vec![])).collect();
    for (number, argument) in MKNOD {
        let format = mask(u64::from(libc::S_IFMT));
        let devices = [libc::S_IFCHR, libc::S_IFBLK];
        let devices: Result<_, _> = (devices.iter())
            .map(|device| rule(*argument, format.clone(), u64::from(*device)))
            .collect();
        rules.insert(*number, devices?);
    }
    Ok(rules)
}

fn mask(bits: u64) -> SeccompCmpOp {
    SeccompCmpOp::MaskedEq(bits)
}

fn rule(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, Refusal> {
    let what = || "make a rule of the system call filter".to_owned();
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
        .refuse(Stage::Confine, what)?;
    SeccompRule::new(vec![condition]).refuse(Stage::Confine, what)
}

/// x32 programs are of the same architecture but have numbers of their own, from 2^30 on. A list
/// of refused numbers would let them through.
fn foreign_numbers() -> BpfProgram {
    const FIRST_X32: u32 = 0x4000_0000;
    let step = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, FIRST_X32),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_compile_and_fit() {
        for single_id in [false, true] {
            let programs = programs(single_id).unwrap();
            assert_eq!(programs.len(), if single_id { 4 } else { 3 });
            assert!(programs.iter().all(|p| !p.is_empty() && p.len() < 4096));
        }
    }
}
