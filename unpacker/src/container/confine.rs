//! What a process of a container may do: capabilities, limits and user.
//!
//! The order matters and is kept by [`confine`] and [`become_user`]: the filter needs
//! CAP_SYS_ADMIN, which leaves with the change of the user or with the exec.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::idmap::IdMap;
use super::launch::{Refusal, Refuse, Stage};
use super::seccomp;
use super::spec::User;
use super::sys;

/// Docker's default set: <https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities>.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Descriptors that a process may open before it asks for more; some programs walk over all.
const OPEN_FILES: u64 = 65536;

/// Limits, bounding set and system call filters; `pretend` for programs that expect more ids than
/// there are.
pub(crate) fn confine(pretend: bool) -> Result<(), Refusal> {
    let refuse = |what: &'static str| move || what.to_owned();
    clamp_limits().refuse(Stage::Confine, refuse("set the limits"))?;
    drop_capabilities().refuse(Stage::Confine, refuse("drop capabilities"))?;
    for program in seccomp::programs(pretend)? {
        sys::install_filter(&program)
            .refuse(Stage::Confine, refuse("install the system call filter"))?;
    }
    Ok(())
}

/// Hard limits stay as they are: raising them needs a privilege of the host.
fn clamp_limits() -> rustix::io::Result<()> {
    let files = getrlimit(Resource::Nofile);
    let most = files.maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(most),
            maximum: files.maximum,
        },
    )
}

/// Bounding set restricted, inheritable and ambient empty. What the process still holds itself
/// goes with its exec: the effective set of root is then the bounding set.
fn drop_capabilities() -> rustix::io::Result<()> {
    for capability in (CapabilitySet::all() - KEPT).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Err(rustix::io::Errno::INVAL) | Ok(()) => {}
            Err(e) => return Err(e),
        }
    }
    clear_ambient_capability_set()?;
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            inheritable: CapabilitySet::empty(),
            ..held
        },
    )
}

/// For a process of ours that stays in the container and executes nothing.
pub(crate) fn keep_few_capabilities() -> rustix::io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets {
            effective: KEPT,
            permitted: KEPT,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Whether the ids exist here, told before anything is done with them.
pub(crate) fn check_user(ids: &IdMap, user: &User) -> Result<(), Refusal> {
    if !ids.has_uid(user.uid) {
        return Err(missing("user", user.uid, ids));
    }
    let mut groups = std::iter::once(&user.gid).chain(&user.groups);
    match groups.find(|gid| !ids.has_gid(**gid)) {
        // With one id only, every file belongs to it, so further groups would mean nothing.
        Some(gid) if !ids.is_single() || *gid == user.gid => Err(missing("group", *gid, ids)),
        _ => Ok(()),
    }
}

fn missing(what: &str, id: u32, ids: &IdMap) -> Refusal {
    let why = if ids.is_single() {
        "only id 0 exists because /etc/subuid and /etc/subgid give this user no range, or \
         newuidmap and newgidmap are missing"
    } else {
        "it is beyond the range that /etc/subuid and /etc/subgid give"
    };
    Refusal::new(Stage::User, format!("cannot run as {what} {id}: {why}"))
}

/// Takes on the ids for good. Without other ids there is nothing to take on.
pub(crate) fn become_user(ids: &IdMap, user: &User) -> Result<(), Refusal> {
    if ids.is_single() {
        return Ok(());
    }
    let gid = rustix::process::Gid::from_raw(user.gid);
    let uid = rustix::process::Uid::from_raw(user.uid);
    let groups: Vec<_> = (user.groups.iter().copied())
        .map(rustix::process::Gid::from_raw)
        .collect();
    let what = || format!("become user {}:{}", user.uid, user.gid);
    set_thread_groups(&groups).refuse(Stage::User, what)?;
    set_thread_res_gid(gid, gid, gid).refuse(Stage::User, what)?;
    set_thread_res_uid(uid, uid, uid).refuse(Stage::User, what)
}
