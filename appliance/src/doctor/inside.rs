//! What a daemon sees: ids, layers, control groups.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use unpacker::container::cgroup;
use unpacker::container::launch::Launcher;
use unpacker::container::memory::Layers;
use unpacker::container::network::probe::{Found, Rung};
use unpacker::container::probe::{Host, Ids};

use crate::doctor::{Finding, State};
use crate::error::Outcome;

pub(super) fn look(scratch: &Path) -> Outcome<Vec<Finding>> {
    let host = Host::look(scratch)?;
    let mut findings = vec![
        Finding::ok("user namespaces", "containers are made in their own"),
        ids(&host.ids),
        overlay(&host.layers, scratch),
        reflink(scratch),
        calls(),
    ];
    findings.extend(networks());
    findings.extend(cgroup::rungs().into_iter().map(limit));
    Ok(findings)
}

fn networks() -> [Finding; 2] {
    let found = Found::look(&Launcher::this());
    let found = found.unwrap_or_else(|error| Found::missing(&error.to_string()));
    [private_networks(found.private), bridges(found.bridge)]
}

/// Nobody misses one: what it adds is seldom needed.
fn bridges(found: Result<(), String>) -> Finding {
    const WHAT: &str = "bridges";
    match found {
        Ok(()) => Finding::ok(
            WHAT,
            "sandboxes can have devices of their own: --network bridge",
        ),
        Err(why) => Finding::reduced(WHAT, format!("no --network bridge: {why}")).lift(
            "a daemon of root with the capability NET_ADMIN, and a kernel with bridge, veth and \
             nft_masq; private networks need none of them",
        ),
    }
}

fn private_networks(rung: Rung) -> Finding {
    const WHAT: &str = "private networks";
    match rung {
        Rung::Whole => Finding::ok(WHAT, "sandboxes reach the world without a device or helper"),
        Rung::PortsTaken => Finding::reduced(WHAT, "inside, the registry's port cannot be used")
            .lift("a kernel with nft_socket and nft_reject"),
        Rung::Eager => Finding::reduced(
            WHAT,
            "inside, a connection that is refused opens and breaks off",
        )
        .lift("a kernel with nft_log and nfnetlink_log"),
        Rung::Missing(why) => Finding::missing(WHAT, why)
            .lift("a kernel with nf_tables and nft_tproxy; until then --network host"),
    }
}

fn ids(ids: &Ids) -> Finding {
    const WHAT: &str = "user ids";
    match ids {
        Ids::Whole => Finding::ok(WHAT, "containers have every id of this host"),
        Ids::Range(count) if *count > 65_535 => {
            Finding::ok(WHAT, format!("containers have {count} ids"))
        }
        Ids::Range(count) => Finding::reduced(
            WHAT,
            format!("containers have {count} ids; images may use 65536"),
        )
        .lift("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"),
        Ids::Single { missing } => Finding::reduced(
            WHAT,
            format!(
                "containers have one id, every file belongs to it, and changes of owner are \
                 noted for layers only; missing: {}",
                missing.join(", ")
            ),
        )
        .lift(
            "as root: install newuidmap (Debian: apt-get install uidmap), then usermod \
             --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
        ),
    }
}

fn overlay(layers: &Layers, scratch: &Path) -> Finding {
    const WHAT: &str = "overlayfs";
    const LIFT: &str = "put the data folder (--data, DEVPOD_DATA) on ext4, xfs or btrfs: inside a \
        container on a volume (docker run -v, Kubernetes emptyDir)";
    let here = scratch.display();
    match layers {
        Layers::OnDisk => Finding::ok(WHAT, "layers are stacked without copying (userxattr)"),
        Layers::InMemory(why) => Finding::reduced(
            WHAT,
            format!(
                "unpacked layers and build steps are kept in memory, and sandboxes are copies: \
                 layers cannot be stacked in {here}: {why}"
            ),
        )
        .lift(LIFT),
        Layers::Nowhere(why) => Finding::missing(
            WHAT,
            format!("layers cannot be stacked in {here}, nor in memory: {why}"),
        )
        .lift(LIFT),
    }
}

fn reflink(scratch: &Path) -> Finding {
    const WHAT: &str = "reflinks";
    match try_reflink(scratch) {
        Ok(()) => Finding::ok(WHAT, "copies share their blocks"),
        Err(why) => Finding::new(
            WHAT,
            State::Reduced,
            format!("copies of files take room of their own: {why}"),
        )
        .lift("xfs and btrfs have them; nothing fails without"),
    }
}

fn try_reflink(scratch: &Path) -> std::io::Result<()> {
    let mut from = tempfile::tempfile_in(scratch)?;
    from.write_all(&[7; 8192])?;
    let to: File = tempfile::tempfile_in(scratch)?;
    Ok(rustix::fs::ioctl_ficlone(&to, &from)?)
}

/// What containers cannot do without, each tried.
fn calls() -> Finding {
    const WHAT: &str = "system calls";
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = rustix::fs::openat2(rustix::fs::CWD, "/", flags, Mode::empty(), resolve);
    let mount = rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC);
    let own = rustix::process::getpid();
    let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty());
    let tried = [
        ("openat2", open.err()),
        ("fsopen", mount.err()),
        ("pidfd_open", pidfd.err()),
    ];
    let failed: Vec<_> = (tried.iter())
        .filter_map(|(name, error)| Some(format!("{name} answers {}", (*error)?)))
        .collect();
    if failed.is_empty() {
        let names: Vec<_> = tried.iter().map(|(name, _)| *name).collect();
        return Finding::ok(WHAT, format!("{} work", names.join(", ")));
    }
    Finding::missing(WHAT, failed.join(", ")).lift(
        "Linux 5.8 or newer; inside another container, one without its seccomp profile \
         (--security-opt seccomp=unconfined)",
    )
}

fn limit(rung: cgroup::Rung) -> Finding {
    let what = format!("{} limits", rung.controller);
    let instead = match rung.controller {
        "memory" => "each process is limited alone",
        "pids" => "each user in a container is limited alone",
        _ => "containers are kept on whole processors",
    };
    match rung.stands {
        Ok(by) => Finding::ok(&what, by),
        Err(why) => Finding::reduced(&what, format!("{why}; {instead}")).lift(
            "with cgroup v2 and systemd start the daemon in a group of its own: systemd-run --user \
             --scope -p Delegate=yes devpod serve",
        ),
    }
}
