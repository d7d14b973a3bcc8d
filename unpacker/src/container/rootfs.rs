//! The root file system of a container, from its layers to `pivot_root`.
//!
//! Runs inside the container's own namespaces. Mounts are made detached and attached through
//! descriptors of targets that were resolved inside the root, so no path of an image is ever
//! followed on the host. Mount points that the image lacks come from one empty-handed layer at the
//! bottom of the stack, so that the upper folder, and with it a built layer, stays clean.
//!
//! ```text
//! <work>/overlay       overlayfs' own
//! <work>/mountpoints   the bottom layer: proc, sys, dev, etc/hosts, targets of mounts …
//! <work>/hosts         what is bound to /etc/hosts
//! <work>/resolv.conf   what is bound to /etc/resolv.conf, with a private network
//! ```

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree,
};

use crate::snapshot::overlay::{Overlay, is_impossible};

use super::devices;
use super::inside::{Inside, Kind, normal, open_beneath};
use super::launch::{Refusal, Refuse, Stage};
use super::network;
use super::procfs;
use super::spec::{ContainerSpec, Mount, Network};
use super::sys;

/// Docker's defaults: what of /proc and /sys tells or changes the host.
const MASKED: &[&str] = &[
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];
const READ_ONLY: &[&str] = &[
    "proc/bus",
    "proc/fs",
    "proc/irq",
    "proc/sys",
    "proc/sysrq-trigger",
];

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A root file system that is ready to be entered.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) fd: OwnedFd,
    /// Mount points that had to be made in the upper folder, relative to it.
    pub(crate) created: Vec<PathBuf>,
}

/// Stacks and furnishes the root.
pub(crate) fn assemble(spec: &ContainerSpec, single_id: bool) -> Result<Root, Refusal> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).refuse(Stage::Root, || "make the mounts private".into())?;
    let files = network_files(spec)?;
    let fd = stack(spec)?;
    let mut inside = Inside::new(fd.as_fd());
    let mut furnish = Furnish {
        spec,
        inside: &mut inside,
    };
    furnish.kernel_file_systems()?;
    let shm_size = spec.surroundings.shm_size;
    devices::furnish(furnish.inside, spec.process.terminal, single_id, shm_size)?;
    if !spec.surroundings.unmasked {
        furnish.masks()?;
    }
    // What covers all of /etc lies below the files that we put there, as docker has it.
    let (etc, others): (Vec<_>, Vec<_>) = spec.mounts.iter().partition(|mount| is_etc(mount));
    for mount in &etc {
        furnish.user_mount(mount)?;
    }
    furnish.network_files(&files, etc.is_empty())?;
    for mount in others {
        furnish.user_mount(mount)?;
    }
    let created = inside.into_created();
    Ok(Root { fd, created })
}

fn is_etc(mount: &Mount) -> bool {
    let names = mount.target().components();
    let names = names.filter(|name| matches!(name, Component::Normal(_)));
    names.eq([Component::Normal(OsStr::new("etc"))])
}

/// Makes the root `/` and lets go of the host's file systems.
pub(crate) fn enter(root: &OwnedFd) -> Result<(), Refusal> {
    let what = || "enter the root file system".to_owned();
    rustix::process::fchdir(root).refuse(Stage::Root, what)?;
    // The old root comes to lie on top of the new one, and is taken off.
    rustix::process::pivot_root(".", ".").refuse(Stage::Root, what)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).refuse(Stage::Root, what)?;
    rustix::process::chdir("/").refuse(Stage::Root, what)
}

/// Makes the root read-only, and nothing that is mounted in it.
pub(crate) fn close() -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    sys::set_attributes_of_one_mount(&root, libc::MOUNT_ATTR_RDONLY)
}

/// Removes what [`assemble`] put into the work folder, for whoever outlives the container.
pub(crate) fn clean_work(work: &Path) {
    let _ = std::fs::remove_dir_all(work.join("mountpoints"));
    for file in ["hosts", "resolv.conf"] {
        let _ = std::fs::remove_file(work.join(file));
    }
}

fn stack(spec: &ContainerSpec) -> Result<OwnedFd, Refusal> {
    let rootfs = &spec.rootfs;
    let points = make_mountpoints(spec).refuse(Stage::Root, || {
        format!("prepare the work folder {}", rootfs.work.display())
    })?;
    let mut lower = vec![points];
    lower.extend(rootfs.lower.iter().cloned());
    let overlay = Overlay {
        lower,
        upper: Some((rootfs.upper.clone(), rootfs.work.join("overlay"))),
        volatile: rootfs.volatile,
    };
    let what = || {
        format!(
            "stack {} layers on {}",
            rootfs.lower.len(),
            rootfs.upper.display()
        )
    };
    let stacked = match rootfs.becomes_layer {
        true => overlay.mount_detached().map_err(unstacked),
        false => overlay.mount_or_copy(),
    };
    let fd = stacked.refuse(Stage::Root, what)?;
    // It must hang somewhere to become a root; this folder is nobody's business but ours.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&fd, "", CWD, &rootfs.work, flags).refuse(Stage::Root, || {
        format!("attach the root at {}", rootfs.work.display())
    })?;
    Ok(fd)
}

/// A sandbox may have a copy in the place of an overlay, but what a step changed in one is not to be
/// told from the rest.
fn unstacked(error: io::Error) -> io::Error {
    if !is_impossible(&error) {
        return error;
    }
    let text = format!(
        "{error}; a build step needs overlayfs: put the data folder (--data, DEVPOD_DATA) on ext4, \
         xfs or btrfs, inside a container on a volume"
    );
    io::Error::new(error.kind(), text)
}

/// The bottom layer: an empty place for everything that will be mounted.
fn make_mountpoints(spec: &ContainerSpec) -> io::Result<PathBuf> {
    let work = &spec.rootfs.work;
    let points = work.join("mountpoints");
    match std::fs::remove_dir_all(&points) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::create_dir_all(work.join("overlay"))?;
    for folder in ["proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(points.join(folder))?;
    }
    std::fs::File::create(points.join("etc/hosts"))?;
    if resolves(spec.network) {
        std::fs::File::create(points.join("etc/resolv.conf"))?;
    }
    for mount in &spec.mounts {
        make_mountpoint(&points, mount)?;
    }
    Ok(points)
}

/// The folder is new and holds no links, so that a target's names are its path.
fn make_mountpoint(points: &Path, mount: &Mount) -> io::Result<()> {
    let (target, folder) = match mount {
        Mount::Bind { source, target, .. } => (target, source.is_dir()),
        Mount::Beneath {
            root,
            place,
            target,
            ..
        } => (target, is_folder(&find_beneath(root, place)?)?),
        Mount::Tmpfs { target, .. } => (target, true),
    };
    let place = points.join(normal(target));
    match place.parent() {
        _ if folder => std::fs::create_dir_all(&place),
        Some(parent) => {
            std::fs::create_dir_all(parent)?;
            std::fs::File::create(&place).map(drop)
        }
        None => Ok(()),
    }
}

/// What is bound over the image's files of those names.
struct NetworkFiles {
    hosts: OwnedFd,
    resolv_conf: Option<OwnedFd>,
}

/// Whether names are resolved by somebody.
fn resolves(network: Network) -> bool {
    match network {
        Network::Host => Path::new(RESOLV_CONF).exists(),
        Network::None => false,
        Network::Private | Network::Bridge => true,
    }
}

/// Written and taken up before the work folder is covered by the root.
fn network_files(spec: &ContainerSpec) -> Result<NetworkFiles, Refusal> {
    let own = |name: &str, text: String| {
        let path = spec.rootfs.work.join(name);
        let what = || format!("write {}", path.display());
        std::fs::write(&path, text).refuse(Stage::Root, what)?;
        read_only_tree(&path).refuse(Stage::Root, what)
    };
    let resolv_conf = match spec.network {
        Network::Private | Network::Bridge => Some(own("resolv.conf", network::resolv_conf())?),
        network if resolves(network) => {
            let path = Path::new(RESOLV_CONF);
            let what = || format!("bind {}", path.display());
            Some(read_only_tree(path).refuse(Stage::Mount, what)?)
        }
        _ => None,
    };
    Ok(NetworkFiles {
        hosts: own("hosts", hosts(spec))?,
        resolv_conf,
    })
}

/// What the network says, and then what was asked for.
fn hosts(spec: &ContainerSpec) -> String {
    let further = spec.surroundings.hosts.iter();
    let further = further.map(|line| format!("{} {}\n", line.address, line.name));
    network_hosts(spec) + &further.collect::<String>()
}

fn network_hosts(spec: &ContainerSpec) -> String {
    let host = match spec.network {
        Network::Host => std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        Network::None => "127.0.0.1 localhost\n::1 localhost\n".to_owned(),
        Network::Private | Network::Bridge => return network::hosts(&spec.hostname, &spec.wiring),
    };
    let line_end = if host.is_empty() || host.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    format!("{host}{line_end}127.0.1.1 {}\n", spec.hostname)
}

struct Furnish<'a, 'b> {
    spec: &'a ContainerSpec,
    inside: &'a mut Inside<'b>,
}

impl Furnish<'_, '_> {
    fn kernel_file_systems(&mut self) -> Result<(), Refusal> {
        self.check_folder("proc")?;
        self.check_folder("sys")?;
        let flags = hardened();
        // A /proc that is masked itself (a container around us) allows no fresh one.
        let proc = file_system("proc", &[], flags).or_else(|_| read_only_tree(Path::new("/proc")));
        let proc = proc.refuse(Stage::Mount, || "mount /proc".into())?;
        self.attach(&proc, Path::new("proc"), Kind::Folder)?;
        let sys = match self.spec.network {
            Network::None | Network::Private | Network::Bridge => {
                file_system("sysfs", &[], flags | MountAttrFlags::MOUNT_ATTR_RDONLY)
                    .or_else(|_| read_only_tree(Path::new("/sys")))
            }
            Network::Host => read_only_tree(Path::new("/sys")),
        };
        let sys = sys.refuse(Stage::Mount, || "mount /sys".into())?;
        self.attach(&sys, Path::new("sys"), Kind::Folder)
    }

    /// Through a link the kernel's files would land elsewhere, and what is masked of them with them. A folder that
    /// layers took away is made when it is mounted on.
    fn check_folder(&self, name: &str) -> Result<(), Refusal> {
        let what = || format!("look for /{name} of the image");
        match self.inside.kind_of(name) {
            Ok(FileType::Directory) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e).refuse(Stage::Mount, what),
            Ok(_) => {
                let text =
                    format!("/{name} of the image is no folder: nothing can be mounted there");
                Err(Refusal::new(Stage::Mount, text))
            }
        }
    }

    fn masks(&self) -> Result<(), Refusal> {
        for path in MASKED {
            self.mask(Path::new(path))
                .refuse(Stage::Mount, || format!("mask /{path}"))?;
        }
        for path in READ_ONLY {
            self.make_read_only(Path::new(path))
                .refuse(Stage::Mount, || format!("make /{path} read-only"))?;
        }
        Ok(())
    }

    fn mask(&self, path: &Path) -> io::Result<()> {
        let Some(target) = self.existing(path)? else {
            return Ok(());
        };
        let cover = if is_folder(&target)? {
            let flags = hardened() | MountAttrFlags::MOUNT_ATTR_RDONLY;
            file_system("tmpfs", &[("size", "0"), ("nr_inodes", "1")], flags)?
        } else {
            devices::null()?
        };
        attach_at(&cover, &target)
    }

    fn make_read_only(&self, path: &Path) -> io::Result<()> {
        let Some(target) = self.existing(path)? else {
            return Ok(());
        };
        let tree = clone_tree(target.as_fd(), Path::new(""))?;
        sys::set_mount_attributes(&tree, libc::MOUNT_ATTR_RDONLY)?;
        attach_at(&tree, &target)
    }

    fn existing(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match self.inside.find(path) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // A read-only clone of the host's may hold what nobody may look at.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// `made` says whether what is missing is made: a folder of the user's stays as it is.
    fn network_files(&mut self, files: &NetworkFiles, made: bool) -> Result<(), Refusal> {
        let all = [
            ("/etc/hosts", Some(&files.hosts)),
            ("/etc/resolv.conf", files.resolv_conf.as_ref()),
        ];
        for (path, tree) in all {
            let path = Path::new(path);
            let there = || self.existing(path).map(|found| found.is_some());
            let is_there = match made {
                true => true,
                false => there().refuse(Stage::Mount, || format!("look for {}", path.display()))?,
            };
            if let Some(tree) = tree.filter(|_| is_there) {
                attach_beside_proc(self.inside, tree, path, Kind::File)?;
            }
        }
        Ok(())
    }

    fn user_mount(&mut self, mount: &Mount) -> Result<(), Refusal> {
        match mount {
            Mount::Bind {
                source,
                target,
                read_only,
            } => {
                let what = || format!("bind {}", source.display());
                let tree = clone_tree(CWD, source).refuse(Stage::Mount, what)?;
                self.bind(&tree, source, target, *read_only)
            }
            Mount::Beneath {
                root,
                place,
                target,
                read_only,
            } => {
                let source = root.join(place);
                let what = || format!("bind {}", source.display());
                let tree = find_beneath(root, place)
                    .and_then(|found| clone_tree(found.as_fd(), Path::new("")))
                    .refuse(Stage::Mount, what)?;
                self.bind(&tree, &source, target, *read_only)
            }
            Mount::Tmpfs {
                target,
                size,
                mode,
                read_only,
            } => {
                let size = size.map(|bytes| bytes.to_string());
                let mode = format!("{:o}", mode.unwrap_or(0o1777) & 0o7777);
                let mut options = vec![("mode", mode.as_str())];
                options.extend(size.as_deref().map(|bytes| ("size", bytes)));
                let mut flags =
                    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, *read_only);
                let tree = file_system("tmpfs", &options, flags);
                let what = || format!("mount a tmpfs for {}", target.display());
                let tree = tree.refuse(Stage::Mount, what)?;
                attach_beside_proc(self.inside, &tree, target, Kind::Folder)
            }
        }
    }

    fn bind(
        &mut self,
        tree: &OwnedFd,
        source: &Path,
        target: &Path,
        read_only: bool,
    ) -> Result<(), Refusal> {
        let what = || format!("bind {}", source.display());
        if read_only {
            sys::set_mount_attributes(tree, libc::MOUNT_ATTR_RDONLY)
                .refuse(Stage::Mount, || {
                    format!("bind {} read-only", source.display())
                })?;
        }
        let folder = is_folder(tree).refuse(Stage::Mount, what)?;
        let kind = if folder { Kind::Folder } else { Kind::File };
        attach_beside_proc(self.inside, tree, target, kind)
    }

    fn attach(&mut self, tree: &OwnedFd, target: &Path, kind: Kind) -> Result<(), Refusal> {
        attach(self.inside, tree, target, kind)
    }
}

/// Mounts a detached tree on a path inside the root that the image has a say in: wherever its links lead, the
/// mount hides neither `/` nor `/proc`.
pub(crate) fn attach_beside_proc(
    inside: &mut Inside<'_>,
    tree: &OwnedFd,
    target: &Path,
    kind: Kind,
) -> Result<(), Refusal> {
    let what = || format!("mount on {} of the image", target.display());
    let place = inside.place(target, kind).refuse(Stage::Mount, what)?;
    let real = inside.path_of(&place).refuse(Stage::Mount, what)?;
    if real == Path::new("/") || procfs::is_hidden_by(&real) {
        let text = format!(
            "nothing is mounted over {}, which is where {} of the image leads",
            real.display(),
            target.display()
        );
        return Err(Refusal::new(Stage::Mount, text));
    }
    attach_at(tree, &place).refuse(Stage::Mount, what)
}

/// Mounts a detached tree on a path inside the root that leads nowhere else.
pub(crate) fn attach(
    inside: &mut Inside<'_>,
    tree: &OwnedFd,
    target: &Path,
    kind: Kind,
) -> Result<(), Refusal> {
    let what = || format!("mount on {} of the image", target.display());
    let place = inside.place(target, kind).refuse(Stage::Mount, what)?;
    attach_at(tree, &place).refuse(Stage::Mount, what)
}

pub(crate) fn attach_at(tree: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// A new instance of a kernel file system, detached.
pub(crate) fn file_system(
    kind: &str,
    options: &[(&str, &str)],
    flags: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", kind)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&fs, *key)?;
        } else {
            fsconfig_set_string(&fs, *key, *value)?;
        }
    }
    fsconfig_create(&fs)?;
    Ok(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// A detached copy of what is mounted at and below a path. Mounts of a more privileged namespace
/// can only be copied with everything below them.
pub(crate) fn clone_tree(folder: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    Ok(open_tree(folder, path, flags)?)
}

fn read_only_tree(path: &Path) -> io::Result<OwnedFd> {
    let tree = clone_tree(CWD, path)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    sys::set_mount_attributes(&tree, attributes | libc::MOUNT_ATTR_NOEXEC)?;
    Ok(tree)
}

fn hardened() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// What stands at `place` beneath a folder of the host, whatever links are on the way.
fn find_beneath(root: &Path, place: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    Ok(open_beneath(root.as_fd(), place, OFlags::PATH)?)
}

fn is_folder(fd: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

/// Enters the working folder, the last step before the program; `make` it when missing.
pub(crate) fn enter_folder(folder: &str, make: bool) -> Result<(), Refusal> {
    let path = Path::new("/").join(folder);
    let what = || format!("enter the folder {}", path.display());
    if make {
        std::fs::create_dir_all(&path).refuse(Stage::Folder, || {
            format!("make the folder {}", path.display())
        })?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).refuse(Stage::Folder, what)?;
    rustix::process::fchdir(fd).refuse(Stage::Folder, what)
}
