//! A container's control groups: made before its first process, gone after its last.
//!
//! They are made only for limits that were asked for. Where a controller is of version 2, our own
//! part of the tree has to be ours to divide (delegated by systemd, or because we are root); where
//! it is of version 1, we have to be root. What cannot be had is told, and replaced by something
//! weaker where the kernel has it: see `docs/sandboxes.md`.
//!
//! ```text
//! version 1   <mount of a controller>/<our own group>/devpod/<pid>-<start time>
//! version 2   <our own group, where all of it is ours>/devpod/<pid>-<start time>
//!             <mount>/devpod/<pid>-<start time>                     as root otherwise
//! ```
//!
//! A group of version 2 that is divided may hold no processes itself, and one that holds others'
//! cannot be ours. So the daemon goes into a leaf of its group first ([`make_room`]): what it runs
//! without limits is in that leaf as well, and the group stays free to be divided later.
//!
//! A group's name is the process that made it, so that leftovers of crashes can be told from the
//! groups of the living ([`sweep`]).

mod limits;
mod places;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::record::ProcessId;
use super::resources::{How, Resources, Standing};
use limits::{Controller, Wish};
use places::{Place, Places};
pub use places::{Rung, rungs};

/// The folder of all our groups.
const OURS: &str = "devpod";
/// The kernel takes a moment to forget a group's last process.
const EMPTYING: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(2);

/// The groups of one container, one for each hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    folders: Vec<PathBuf>,
    /// Where the kernel counts what it killed for want of memory.
    memory: Option<PathBuf>,
}

impl Groups {
    /// Makes groups for what can be held by them. What can not is left in `standings` as missing.
    /// `company` is how many tasks of ours will be in them too.
    pub(crate) fn make(resources: &Resources, company: u64, standings: &mut Vec<Standing>) -> Self {
        let mut groups = Self::default();
        let wishes = limits::wishes(resources, company);
        if wishes.is_empty() {
            return groups;
        }
        let places = Places::find();
        let name = match ProcessId::own() {
            Ok(own) => format!("{}-{}", own.pid, own.start),
            Err(_) => return groups,
        };
        for wish in wishes {
            let how = match groups.hold(&places, &name, &wish) {
                Ok(by) => Standing::new(wish.limit, &wish.asked, How::Enforced, by),
                Err(why) => Standing::new(wish.limit, &wish.asked, How::Missing, why),
            };
            standings.push(how);
        }
        groups
    }

    /// Writes one limit into the group of its controller; answers who holds the container to it.
    fn hold(&mut self, places: &Places, name: &str, wish: &Wish) -> Result<String, String> {
        let place = places.of(wish.controller)?;
        let folder = place.parent.join(name);
        if !self.folders.contains(&folder) {
            make_group(&place, &folder).map_err(|e| format!("cannot make a group: {e}"))?;
            self.folders.push(folder.clone());
        }
        for setting in (wish.settings)(place.version) {
            match fs::write(folder.join(setting.file), &setting.value) {
                Err(e) if !(setting.optional && e.kind() == io::ErrorKind::NotFound) => {
                    return Err(format!("writing {} answers {e}", setting.file));
                }
                _ => {}
            }
        }
        if wish.controller == Controller::Memory {
            self.memory = Some(folder);
        }
        Ok(place.version.to_string())
    }

    /// Puts a process into them. It has no children yet that would stay outside.
    pub(crate) fn admit(&self, pid: i32) -> io::Result<()> {
        (self.folders.iter()).try_for_each(|folder| enter(folder, &pid.to_string()))
    }

    /// Puts the calling process into them for as long as the answer is kept: what it forks
    /// meanwhile stays.
    pub(crate) fn visit(&self) -> io::Result<Visit> {
        if self.folders.is_empty() {
            return Ok(Visit { back: Vec::new() });
        }
        // Opened before we go: the paths may not be there where we come back from.
        let back = (self.own_instead()?.iter())
            .map(|folder| fs::OpenOptions::new().write(true).open(folder.join(PROCS)))
            .collect::<io::Result<_>>()?;
        let visit = Visit { back };
        self.folders
            .iter()
            .try_for_each(|folder| enter(folder, "0"))?;
        Ok(visit)
    }

    /// Takes a process out of them into those of the calling process.
    pub(crate) fn release(&self, pid: i32) -> io::Result<()> {
        if self.folders.is_empty() {
            return Ok(());
        }
        (self.own_instead()?.iter()).try_for_each(|folder| enter(folder, &pid.to_string()))
    }

    /// The groups of the calling process in the hierarchies of these.
    fn own_instead(&self) -> io::Result<Vec<PathBuf>> {
        let concerned =
            |mount: &PathBuf| self.folders.iter().any(|folder| folder.starts_with(mount));
        let own = tree::own_groups()?.into_iter();
        Ok(own
            .filter(|(mount, _)| concerned(mount))
            .map(|(_, folder)| folder)
            .collect())
    }

    /// How many processes were killed because there was no memory left for them.
    pub(crate) fn out_of_memory(&self) -> u64 {
        let count = |file: &str| {
            let text = fs::read_to_string(self.memory.as_ref()?.join(file)).ok()?;
            limits::keyed(&text, "oom_kill")
        };
        // Version 2, version 1.
        count("memory.events")
            .or_else(|| count("memory.oom_control"))
            .unwrap_or(0)
    }

    /// Removes them. What still runs in them is killed first.
    pub(crate) fn remove(&self) {
        for folder in &self.folders {
            let deadline = Instant::now() + EMPTYING;
            while fs::remove_dir(folder).is_err_and(|e| e.kind() != io::ErrorKind::NotFound) {
                kill(folder);
                if Instant::now() >= deadline {
                    break;
                }
                std::thread::sleep(LOOK);
            }
        }
    }
}

const PROCS: &str = "cgroup.procs";

fn enter(folder: &Path, pid: &str) -> io::Result<()> {
    fs::write(folder.join(PROCS), pid)
}

/// Version 2 kills a whole group at once; before it each process is told.
fn kill(folder: &Path) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let members = fs::read_to_string(folder.join(PROCS)).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn make_group(place: &Place, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(&place.parent)?;
    place.divide()?;
    match fs::create_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The calling process is in a container's groups until this is dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    back: Vec<fs::File>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        use std::io::Write;
        for group in &mut self.back {
            // One that vanished meanwhile cannot be gone back to.
            let _ = group.write_all(b"0");
        }
    }
}

/// What of these limits no group holds here, in words for people.
pub fn shortfalls(resources: &Resources) -> Vec<String> {
    // Whether they hold does not depend on who else is in the groups.
    let wishes = limits::wishes(resources, 0);
    if wishes.is_empty() {
        return Vec::new();
    }
    let places = Places::find();
    let short = |wish: &Wish| {
        let why = places.of(wish.controller).err()?;
        let Wish { limit, asked, .. } = wish;
        Some(format!(
            "{limit} {asked} holds only in part, or not at all: {why}"
        ))
    };
    wishes.iter().filter_map(short).collect()
}

/// Moves this process into a leaf of its group of version 2, where that was given to us alone;
/// answers the leaf. To be called before anything is started.
pub fn make_room() -> io::Result<Option<PathBuf>> {
    Places::find().make_room()
}

/// Removes the groups of containers whose maker is gone: leftovers of crashes.
pub fn sweep() {
    for parent in Places::find().parents() {
        let Ok(entries) = fs::read_dir(&parent) else {
            continue;
        };
        for entry in entries.flatten() {
            if maker(&entry.file_name().to_string_lossy()).is_some_and(|id| id.open().is_none()) {
                kill(&entry.path());
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

fn maker(name: &str) -> Option<ProcessId> {
    let (pid, start) = name.split_once('-')?;
    Some(ProcessId {
        pid: pid.parse().ok()?,
        start: start.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_known_by_its_maker() {
        let id = maker("12-3456").unwrap();
        assert_eq!((id.pid, id.start), (12, 3456));
        for other in ["12", "a-1", "1-", "cgroup.procs"] {
            assert!(maker(other).is_none(), "{other}");
        }
    }

    #[test]
    fn nothing_asked_makes_nothing() {
        let mut standings = Vec::new();
        let groups = Groups::make(&Resources::default(), 0, &mut standings);
        assert_eq!((groups, standings), (Groups::default(), vec![]));
    }
}
