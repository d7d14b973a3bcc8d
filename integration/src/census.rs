//! What a place holds at a moment, counted from outside: what is left over shows as a difference.
//!
//! Nothing of ours is asked: processes and mounts are the kernel's words, files are looked at.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::appliance::Place;

/// The namespaces that a process is in, by the names below `/proc/<pid>/ns`.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// What is under way, beside temporary files; a place at rest has nothing in any of them.
const WORK: [&str; 4] = [
    "snapshots/.staging",
    "snapshots/.trash",
    "snapshots/.locks",
    "sandboxes",
];

/// A process that belongs to a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: i32,
    /// Its arguments, with spaces between.
    pub command: String,
}

/// What a place at rest must not have more of than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    pub processes: Vec<Process>,
    /// Namespaces of those processes that are not ours who count.
    pub namespaces: usize,
    /// Mounts on or of the place's data, in any namespace.
    pub mounts: BTreeSet<String>,
    /// Files and folders of work under way, below the data folder.
    pub work: BTreeSet<PathBuf>,
    /// Control groups of containers whose maker is one of those processes, or has ended.
    pub groups: BTreeSet<PathBuf>,
}

impl Census {
    /// Counts. A place's processes are known by their program (its own copy of `devpod`), or by a
    /// word of their environment; root sees all of them.
    pub fn of(place: &Place, word: &str) -> Self {
        let processes = processes(place, word);
        Self {
            namespaces: namespaces(&processes),
            mounts: mounts(&place.data()),
            work: work(&place.data()),
            groups: groups(&processes),
            processes,
        }
    }

    /// Whether nothing is left but this process.
    pub fn is_only(&self, pid: u32) -> bool {
        let alone = self
            .processes
            .iter()
            .all(|process| process.pid as u32 == pid);
        alone && self.mounts.is_empty() && self.work.is_empty() && self.groups.is_empty()
    }
}

/// All processes of a place, helpers and those in sandboxes too.
pub fn processes(place: &Place, word: &str) -> Vec<Process> {
    let mut found: Vec<Process> = pids()
        .filter(|pid| runs(*pid, place.program()) || has_word(*pid, word))
        .map(|pid| Process {
            pid,
            command: command(pid),
        })
        .collect();
    found.sort();
    found
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Resident memory of a process in KiB, without what is shared with its file.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The most resident memory that a process ever had, in KiB.
pub fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// A program that was replaced since has ` (deleted)` behind its name.
fn runs(pid: i32, program: &Path) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = exe.to_string_lossy();
    Path::new(name.trim_end_matches(" (deleted)")) == program
}

fn has_word(pid: i32, word: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    (environment.split(|byte| *byte == 0)).any(|line| line == word.as_bytes())
}

fn command(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

fn namespaces(processes: &[Process]) -> usize {
    let of = |pid: &str| {
        let link =
            |name: &str| fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|data| data.ino());
        let all: BTreeSet<u64> = NAMESPACES
            .iter()
            .filter_map(|name| link(name).ok())
            .collect();
        all
    };
    let own = of("self");
    let theirs: BTreeSet<u64> = processes
        .iter()
        .flat_map(|process| of(&process.pid.to_string()))
        .collect();
    theirs.difference(&own).count()
}

/// A mount namespace is looked at once for each process in it; lines repeat and are kept once.
fn mounts(data: &Path) -> BTreeSet<String> {
    let data = data.to_string_lossy();
    let tables = pids().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok());
    let mut found = BTreeSet::new();
    for table in tables {
        let of_place = table.lines().filter(|line| line.contains(&*data));
        found.extend(of_place.map(str::to_owned));
    }
    found
}

/// A group is called as the process that made it: `<pid>-<start time>`. One whose maker has ended is a
/// leftover, whoever's: it goes with its sandbox, or when any daemon starts.
fn groups(processes: &[Process]) -> BTreeSet<PathBuf> {
    let is_ours = |pid: i32| processes.iter().any(|process| process.pid == pid);
    let counts = |folder: &PathBuf| {
        let name = folder.file_name().and_then(|name| name.to_str());
        let maker = name.and_then(|name| name.split_once('-'));
        maker.is_some_and(|(pid, start)| match pid.parse() {
            Ok(pid) => is_ours(pid) || start_time(pid).is_none_or(|time| time != start),
            Err(_) => false,
        })
    };
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hierarchies = table.lines().filter(|line| line.contains(" - cgroup"));
    let mut found = BTreeSet::new();
    for mount in hierarchies.filter_map(|line| line.split(' ').nth(4)) {
        let mut folders = vec![PathBuf::from(mount)];
        while let Some(folder) = folders.pop() {
            let below = below(&folder);
            match folder.ends_with("devpod") {
                true => found.extend(below.into_iter().filter(counts)),
                false => folders.extend(below),
            }
        }
    }
    found
}

/// Groups come and go while this looks.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// Field 22 of `/proc/<pid>/stat`; the program's name before it may hold anything.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

fn work(data: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for folder in ["", "content", "cache"] {
        for entry in fs::read_dir(data.join(folder)).into_iter().flatten() {
            let name = entry.expect("an entry").file_name();
            if name.to_string_lossy().starts_with(".tmp") {
                found.insert(Path::new(folder).join(name));
            }
        }
    }
    for folder in WORK {
        for entry in fs::read_dir(data.join(folder)).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            found.insert(path.strip_prefix(data).expect("below").to_owned());
        }
    }
    found
}

/// One number for a tree: names, kinds, modes, link targets and contents, sorted. Times are left
/// out, because what a command made has its own, and owners, which are others for each user. `None`
/// for a tree that was taken away meanwhile.
pub fn tree(root: &Path) -> Option<u64> {
    let mut lines = Vec::new();
    match describe(root, Path::new(""), &mut lines) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !root.exists() => return None,
        described => described.expect("a tree that can be read"),
    }
    lines.sort();
    Some(hash(lines.join("\n").as_bytes()))
}

/// Nobody tries to deceive this one, and it is quick also where nothing is optimised.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn describe(root: &Path, below: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    let path = root.join(below);
    let data = fs::symlink_metadata(&path)?;
    let content = if data.is_file() {
        format!("{:x}", hash(&fs::read(&path)?))
    } else if data.is_symlink() {
        fs::read_link(&path)?.display().to_string()
    } else {
        data.rdev().to_string()
    };
    lines.push(format!("{} {:o} {content}", below.display(), data.mode()));
    if data.is_dir() {
        for entry in fs::read_dir(&path)? {
            describe(root, &below.join(entry?.file_name()), lines)?;
        }
    }
    Ok(())
}
