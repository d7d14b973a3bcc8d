//! What a process of a container may do: capabilities, limits and user.
//!
//! The order matters and is kept by [`confine`] and [`become_user`]: the filter needs
//! CAP_SYS_ADMIN, which leaves with the change of the user or with the exec.

use std::os::fd::AsFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, CpuSet, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, sched_getaffinity, sched_setaffinity, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::capability::Capabilities;
use super::idmap::IdMap;
use super::launch::{Refusal, Refuse, Stage};
use super::seccomp::{self, Changes};
use super::spec::{Confinement, User};
use super::sys;
use super::wire::Wire;

/// Descriptors that a process may open before it asks for more; some programs walk over all.
const OPEN_FILES: u64 = 65536;

/// Bounding set and system call filter, with what becomes of calls that expect more ids than there
/// are. What changes are recorded by is told over `recorder`.
pub(crate) fn confine(
    confinement: &Confinement,
    changes: Changes,
    recorder: Option<&Wire>,
) -> Result<(), Refusal> {
    let refuse = |what: &'static str| move || what.to_owned();
    let Confinement {
        capabilities,
        seccomp,
        ..
    } = confinement;
    drop_capabilities(*capabilities).refuse(Stage::Confine, refuse("drop capabilities"))?;
    if let (Changes::Pretended, Some(recorder)) = (changes, recorder)
        && let Some(program) = seccomp::program(seccomp, *capabilities, Changes::Recorded)?
        // Inside of another container that listens, or on an old kernel, nobody can.
        && let Ok(listener) = sys::install_listened_filter(&program)
    {
        return recorder
            .send(&"listen", &[listener.as_fd()])
            .refuse(Stage::Confine, refuse("have owners recorded"));
    }
    if let Some(program) = seccomp::program(seccomp, *capabilities, changes)? {
        sys::install_filter(&program)
            .refuse(Stage::Confine, refuse("install the system call filter"))?;
    }
    Ok(())
}

/// What a program may use, and whether it may gain privileges: nothing for a process of ours.
pub(crate) fn limit(confinement: &Confinement) -> Result<(), Refusal> {
    clamp_limits().refuse(Stage::Limits, || "set the limits".into())?;
    for ulimit in &confinement.ulimits {
        let limit = Rlimit {
            current: ulimit.soft,
            maximum: ulimit.hard,
        };
        setrlimit(ulimit.kind.resource(), limit)
            .refuse(Stage::Limits, || format!("set the limit {ulimit}"))?;
    }
    if let Some(count) = confinement.processors {
        keep_on_processors(count).refuse(Stage::Limits, || "choose processors".into())?;
    }
    if confinement.no_new_privileges {
        set_no_new_privs(true).refuse(Stage::Confine, || "give up new privileges".into())?;
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

/// So many of those that we may use; which ones differs from container to container.
fn keep_on_processors(count: u32) -> rustix::io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let usable: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let first = rustix::process::getpid().as_raw_nonzero().get() as usize;
    let mut chosen = CpuSet::new();
    for cpu in usable
        .iter()
        .cycle()
        .skip(first % usable.len().max(1))
        .take(count as usize)
    {
        chosen.set(*cpu);
    }
    sched_setaffinity(None, &chosen)
}

/// Bounding set restricted, inheritable and ambient empty. What the process still holds itself
/// goes with its exec: the effective set of root is then the bounding set.
fn drop_capabilities(kept: Capabilities) -> rustix::io::Result<()> {
    for capability in (CapabilitySet::all() - kept.set()).iter() {
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

/// For a process of ours that stays in the container and executes nothing: what the container has,
/// and to pass signals on to anybody.
pub(crate) fn keep_few_capabilities(kept: Capabilities) -> rustix::io::Result<()> {
    let kept = kept.with("KILL").set();
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept & held.effective,
            permitted: kept & held.permitted,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Whether the ids exist here, told before anything is done with them.
pub(crate) fn check_user(ids: &IdMap, user: &User) -> Result<(), Refusal> {
    if ids.is_single() {
        // The one id can be called anything: see `rename_the_id`.
        return Ok(());
    }
    if !ids.has_uid(user.uid) {
        return Err(missing("user", user.uid));
    }
    let mut groups = std::iter::once(&user.gid).chain(&user.groups);
    match groups.find(|gid| !ids.has_gid(**gid)) {
        Some(gid) => Err(missing("group", *gid)),
        None => Ok(()),
    }
}

fn missing(what: &str, id: u32) -> Refusal {
    let why = "it is beyond the range that /etc/subuid and /etc/subgid give";
    Refusal::new(Stage::User, format!("cannot run as {what} {id}: {why}"))
}

/// Where only one id exists, a process of another user than root gets a user namespace of its own
/// in which that id is called as the user is: it sees itself and all files as that user's, and it
/// is not root. To be done before the filter, which forbids new user namespaces.
///
/// Everybody in the container is that one id and may look into what is dumpable, so the process is
/// not made so, not even for a moment: its files in /proc belong to the root of the namespace in
/// which our binary was executed, which is that same id. So it may write its own maps.
pub(crate) fn rename_the_id(ids: &IdMap, user: &User) -> Result<(), Refusal> {
    if !ids.is_single() || (user.uid == 0 && user.gid == 0) {
        return Ok(());
    }
    let what = || format!("call the only id {}:{}", user.uid, user.gid);
    sys::unshare(libc::CLONE_NEWUSER).refuse(Stage::User, what)?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{} 0 1", user.uid)),
        ("gid_map", format!("{} 0 1", user.gid)),
    ] {
        std::fs::write(format!("/proc/self/{file}"), text).refuse(Stage::User, what)?;
    }
    Ok(())
}

/// Takes on the ids for good. Without other ids there is nothing to take on.
pub(crate) fn become_user(ids: &IdMap, user: &User) -> Result<(), Refusal> {
    if ids.is_single() {
        return Ok(());
    }
    let gid = rustix::process::Gid::from_raw(user.gid);
    let uid = rustix::process::Uid::from_raw(user.uid);
    // With its own group among them: nobody gains by leaving it (as docker and containerd have it).
    let others = user.groups.iter().copied().filter(|id| *id != user.gid);
    let groups: Vec<_> = std::iter::once(user.gid)
        .chain(others)
        .map(rustix::process::Gid::from_raw)
        .collect();
    let what = || format!("become user {}:{}", user.uid, user.gid);
    set_thread_groups(&groups).refuse(Stage::User, what)?;
    set_thread_res_gid(gid, gid, gid).refuse(Stage::User, what)?;
    set_thread_res_uid(uid, uid, uid).refuse(Stage::User, what)
}
