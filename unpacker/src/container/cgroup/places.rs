//! Where groups for containers can be made, for each controller, or why not.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::limits::Controller;
use super::tree::{self, Hierarchy};
use super::{OURS, PROCS};

/// Where our own processes go when our group is divided: a group of version 2 that gives its
/// controllers on may hold no processes itself.
const LEAF: &str = "devpod-daemon";
const CONTROL: &str = "cgroup.subtree_control";

/// Of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "cgroup v1",
            Self::Two => "cgroup v2",
        })
    }
}

/// Where the groups of containers are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    /// It and the groups in it are ours.
    pub(super) parent: PathBuf,
}

impl Place {
    /// Gives the controllers on to the groups in `parent`.
    pub(super) fn divide(&self) -> io::Result<()> {
        match self.version {
            Version::One => Ok(()),
            Version::Two => give_on(&self.parent),
        }
    }
}

/// What there is on this host, as this process sees it.
#[derive(Debug)]
pub(super) struct Places {
    hierarchies: Vec<Hierarchy>,
    /// `/proc/self/cgroup`
    groups: String,
}

impl Places {
    pub(super) fn find() -> Self {
        let read = |file| fs::read_to_string(file).unwrap_or_default();
        Self {
            hierarchies: tree::hierarchies(&read("/proc/self/mountinfo")),
            groups: read("/proc/self/cgroup"),
        }
    }

    /// Where a controller's groups can be made.
    pub(super) fn of(&self, controller: Controller) -> Result<Place, String> {
        match self.version_one(controller.name()) {
            Some(own) => version_one(&own?),
            None => self.version_two(controller),
        }
    }

    /// Every folder that may hold groups of ours.
    pub(super) fn parents(&self) -> Vec<PathBuf> {
        let mut parents: Vec<_> = (Controller::ALL.iter())
            .filter_map(|controller| Some(self.of(*controller).ok()?.parent))
            .collect();
        parents.sort();
        parents.dedup();
        parents
    }

    /// Our own group of a controller of version 1; `None` where it is none.
    fn version_one(&self, controller: &str) -> Option<Result<PathBuf, String>> {
        let has = |hierarchy: &&Hierarchy| {
            let controllers = hierarchy.controllers.as_ref();
            controllers.is_some_and(|all| all.iter().any(|name| name == controller))
        };
        let hierarchy = self.hierarchies.iter().find(has)?;
        let own = tree::group(&self.groups, Some(controller));
        let folder = own.and_then(|own| hierarchy.folder(&own));
        Some(folder.ok_or_else(|| unseen(hierarchy)))
    }

    fn hierarchy_two(&self) -> Option<&Hierarchy> {
        (self.hierarchies.iter()).find(|all| all.controllers.is_none())
    }

    /// Our own group of version 2, as far as it can be seen through this mount.
    fn own_of(&self, two: &Hierarchy) -> Option<PathBuf> {
        tree::group(&self.groups, None).and_then(|own| two.folder(&own))
    }

    /// Leaves a group of version 2 that was given to us alone, for a leaf in it: what is started
    /// from here on is in the leaf too, so that nobody stands in the way when it is divided.
    /// `None` where there is nothing to leave.
    pub(super) fn make_room(&self) -> io::Result<Option<PathBuf>> {
        let own = self.hierarchy_two().and_then(|two| self.own_of(two));
        match own {
            Some(own) if !own.ends_with(LEAF) && delegated(&own).is_ok() => {
                move_into_leaf(&own).map(|()| Some(own.join(LEAF)))
            }
            _ => Ok(None),
        }
    }

    fn version_two(&self, controller: Controller) -> Result<Place, String> {
        let none = || format!("this host has no {} controller", controller.name());
        let two = self.hierarchy_two().ok_or_else(none)?;
        let own = self.own_of(two).ok_or_else(|| unseen(two))?;
        // Above the leaf that we have gone into.
        let own = match own.ends_with(LEAF) {
            true => own.parent().unwrap_or(&own).to_owned(),
            false => own,
        };
        let candidates = [delegated(&own), top(&two.mount)];
        let mut why = None;
        for candidate in candidates {
            match candidate {
                Ok(folder) if has_controller(&folder, controller) => {
                    return Ok(Place {
                        version: Version::Two,
                        parent: folder.join(OURS),
                    });
                }
                Ok(_) => why = why.or_else(|| Some(none())),
                Err(reason) => why = why.or(Some(reason)),
            }
        }
        Err(why.unwrap_or_else(none))
    }
}

fn unseen(hierarchy: &Hierarchy) -> String {
    let mount = hierarchy.mount.display();
    format!("our own group is outside of what is mounted at {mount}")
}

fn is_writable(folder: &Path) -> bool {
    access(folder.join(PROCS), Access::WRITE_OK).is_ok() && access(folder, Access::WRITE_OK).is_ok()
}

fn version_one(own: &Path) -> Result<Place, String> {
    if !is_writable(own) {
        return Err("groups of cgroup v1 can be made by root alone".to_owned());
    }
    Ok(Place {
        version: Version::One,
        parent: own.join(OURS),
    })
}

/// Our own group, where it was given to us and holds nobody else.
fn delegated(own: &Path) -> Result<PathBuf, String> {
    if !own.join("cgroup.type").exists() {
        return Err("our group is the root of all groups".to_owned());
    }
    if !is_writable(own) {
        return Err("our group of cgroup v2 is not delegated to us".to_owned());
    }
    match others(own) {
        0 => Ok(own.to_owned()),
        count => Err(format!(
            "our group of cgroup v2 holds {count} other processes"
        )),
    }
}

/// The top of all groups: root's, as docker's own driver has it.
fn top(mount: &Path) -> Result<PathBuf, String> {
    match is_writable(mount) {
        true => Ok(mount.to_owned()),
        false => Err("the root of all groups is not ours".to_owned()),
    }
}

fn has_controller(folder: &Path, controller: Controller) -> bool {
    let text = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace()
        .any(|name| name == controller.name())
}

/// Processes of a group that do not run our own binary.
fn others(group: &Path) -> usize {
    let exe = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = exe("self");
    let members = fs::read_to_string(group.join(PROCS)).unwrap_or_default();
    members.lines().filter(|pid| exe(pid) != own).count()
}

/// Lets the groups in `parent` have what limits need. Its own parent comes first, and empties
/// itself into a leaf where the kernel wants that.
fn give_on(parent: &Path) -> io::Result<()> {
    let above = parent.parent().unwrap_or(parent);
    for folder in [above, parent] {
        let missing = missing_controllers(folder);
        if missing.is_empty() {
            continue;
        }
        let text = missing
            .iter()
            .map(|name| format!("+{name}"))
            .collect::<Vec<_>>()
            .join(" ");
        let write = || fs::write(folder.join(CONTROL), &text);
        match write() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                move_into_leaf(folder)?;
                write()?;
            }
            done => done?,
        }
    }
    Ok(())
}

/// What a group has, limits need, and its children lack.
fn missing_controllers(folder: &Path) -> Vec<&'static str> {
    let words = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (has, gives) = (words("cgroup.controllers"), words(CONTROL));
    let names = Controller::ALL.iter().map(|controller| controller.name());
    names
        .filter(|name| {
            has.iter().any(|word| word == name) && !gives.iter().any(|word| word == name)
        })
        .collect()
}

fn move_into_leaf(folder: &Path) -> io::Result<()> {
    let leaf = folder.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    for pid in fs::read_to_string(folder.join(PROCS))?.lines() {
        match fs::write(leaf.join(PROCS), pid) {
            // It has ended meanwhile.
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// What a controller stands on here, for people who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// `cpu`, `memory`, `pids`.
    pub controller: &'static str,
    /// Which version enforces it and where, or why none does.
    pub stands: Result<String, String>,
}

/// What limits of containers can be enforced by, as this process sees it. Changes nothing.
pub fn rungs() -> Vec<Rung> {
    let places = Places::find();
    let rung = |controller: &Controller| Rung {
        controller: controller.name(),
        stands: (places.of(*controller))
            .map(|place| format!("{} in {}", place.version, place.parent.display())),
    };
    Controller::ALL.iter().map(rung).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a group of version 2.
    fn group(folder: &Path, controllers: &str, procs: &str) {
        fs::create_dir_all(folder).unwrap();
        for (file, text) in [
            ("cgroup.controllers", controllers),
            (CONTROL, ""),
            (PROCS, procs),
            ("cgroup.type", "domain\n"),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
    }

    fn places(mount: &Path, own: &str) -> Places {
        let line = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw", mount.display());
        Places {
            hierarchies: tree::hierarchies(&line),
            groups: format!("0::{own}\n"),
        }
    }

    #[test]
    fn a_delegated_group_is_used_and_divided() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("user/devpod.scope");
        group(
            &own,
            "cpu memory pids io",
            &format!("{}\n", std::process::id()),
        );
        let place = places(dir.path(), "/user/devpod.scope");
        let place = place.of(Controller::Memory).unwrap();
        assert_eq!(place.parent, own.join("devpod"));
        group(&place.parent, "cpu memory pids", "");
        place.divide().unwrap();
        for folder in [&own, &place.parent] {
            let given = fs::read_to_string(folder.join(CONTROL)).unwrap();
            assert_eq!(given, "+cpu +memory +pids");
        }
        // From the leaf that a division puts us into the same place is found.
        fs::create_dir(own.join(LEAF)).unwrap();
        let leaf = places(dir.path(), "/user/devpod.scope/devpod-daemon");
        assert_eq!(leaf.of(Controller::Pids).unwrap().parent, place.parent);
    }

    #[test]
    fn what_runs_without_limits_does_not_take_the_group_away() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("devpod.scope");
        let us = format!("{}\n", std::process::id());
        group(&own, "cpu memory pids", &us);
        let leaf = places(dir.path(), "/devpod.scope").make_room().unwrap();
        let leaf = leaf.expect("the group is ours");
        assert_eq!(leaf, own.join(LEAF));
        let moved = fs::read_to_string(leaf.join(PROCS)).unwrap();
        assert_eq!(moved, us.trim());
        // The kernel's part: we are in the leaf now, and so is a program that we start.
        fs::write(own.join(PROCS), "").unwrap();
        fs::write(leaf.join(PROCS), format!("{us}2\n")).unwrap();
        let from_the_leaf = places(dir.path(), "/devpod.scope/devpod-daemon");
        let place = from_the_leaf.of(Controller::Memory).unwrap();
        assert_eq!(place.parent, own.join(OURS));
        assert_eq!(from_the_leaf.make_room().unwrap(), None);
    }

    #[test]
    fn nobody_leaves_a_group_that_is_shared_or_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let us = format!("{}\n", std::process::id());
        group(&dir.path().join("a"), "cpu", &format!("{us}2\n"));
        group(dir.path(), "cpu", &us);
        fs::remove_file(dir.path().join("cgroup.type")).unwrap();
        for own in ["/a", "/", "/gone"] {
            let room = places(dir.path(), own).make_room();
            assert_eq!(room.unwrap(), None, "{own}");
        }
    }

    #[test]
    fn a_shared_group_is_not_ours_to_divide() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("session.scope");
        // Process 2 is the kernel's.
        group(
            &own,
            "cpu memory pids",
            &format!("{}\n2\n", std::process::id()),
        );
        let why = places(dir.path(), "/session.scope").of(Controller::Cpu);
        assert!(why.unwrap_err().contains("1 other process"), "not told");
    }

    #[test]
    fn root_falls_back_to_the_top_and_a_missing_controller_is_told() {
        let dir = tempfile::tempdir().unwrap();
        group(dir.path(), "cpu", "2\n");
        group(&dir.path().join("a"), "cpu", "2\n");
        let places = places(dir.path(), "/a");
        assert_eq!(
            places.of(Controller::Cpu).unwrap().parent,
            dir.path().join("devpod")
        );
        assert!(places.of(Controller::Pids).is_err());
    }
}
