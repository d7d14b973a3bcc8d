//! Which control groups there are, and in which of them this process is. Reads /proc alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    /// What of the hierarchy is mounted there.
    root: PathBuf,
    /// Controllers and names of version 1; `None` for version 2.
    pub(super) controllers: Option<Vec<String>>,
}

impl Hierarchy {
    /// The folder of a group, where it can be seen through this mount.
    pub(super) fn folder(&self, group: &Path) -> Option<PathBuf> {
        let below = group.strip_prefix(&self.root).ok()?;
        Some(self.mount.join(below))
    }
}

/// The hierarchies of a mount table as `/proc/self/mountinfo` has it.
pub(super) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo.lines().filter_map(hierarchy).collect()
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, mount) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let version_one = match kind.next()? {
        "cgroup" => true,
        "cgroup2" => false,
        _ => return None,
    };
    let options = kind.nth(1).unwrap_or_default();
    let known = options
        .split(',')
        .filter(|option| !matches!(*option, "rw" | "ro"));
    Some(Hierarchy {
        mount: unescape(mount).into(),
        root: unescape(root).into(),
        controllers: version_one.then(|| known.map(str::to_owned).collect()),
    })
}

/// The kernel writes spaces and the like in octal.
fn unescape(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"]
        .iter()
        .fold(text.to_owned(), |text, pair| {
            text.replace(&pair[..4], &pair[4..])
        })
}

/// The group of a controller in the text of `/proc/self/cgroup`; without a controller, of
/// version 2.
pub(super) fn group(text: &str, controller: Option<&str>) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match controller {
            Some(controller) => names.split(',').any(|name| name == controller),
            None => number == "0" && names.is_empty(),
        };
        found.then(|| PathBuf::from(path))
    })
}

/// The folders of all groups that this process is in, each with where its hierarchy is mounted.
pub(super) fn own_groups() -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let hierarchies = hierarchies(&fs::read_to_string("/proc/self/mountinfo")?);
    let own = |hierarchy: &Hierarchy| {
        let first = hierarchy.controllers.as_ref().map(|names| names.first());
        let group = match first {
            Some(name) => group(&groups, Some(name?)),
            None => group(&groups, None),
        };
        Some((hierarchy.mount.clone(), hierarchy.folder(&group?)?))
    };
    Ok(hierarchies.iter().filter_map(own).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_both_versions_are_found() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            41 31 0:38 /outer /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n\
            bad line\n";
        let found = hierarchies(text);
        assert_eq!(found.len(), 2);
        let controllers = found[0].controllers.clone().unwrap();
        assert_eq!(controllers, ["cpu", "cpuacct"]);
        assert_eq!(found[1].controllers, None);
        let folder = found[1].folder(Path::new("/outer/a"));
        assert_eq!(folder, Some("/sys/fs/cgroup/uni fied/a".into()));
        assert_eq!(found[1].folder(Path::new("/elsewhere")), None);
    }

    #[test]
    fn own_groups_are_found() {
        let text = "4:memory:/a/b\n3:cpu,cpuacct:/\n1:name=systemd:/s\n0::/user.slice/x:y\n";
        let found = |controller| group(text, controller);
        assert_eq!(found(Some("memory")), Some("/a/b".into()));
        assert_eq!(found(Some("cpuacct")), Some("/".into()));
        assert_eq!(found(Some("pids")), None);
        assert_eq!(found(None), Some("/user.slice/x:y".into()));
    }
}
