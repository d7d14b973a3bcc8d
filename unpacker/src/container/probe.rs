//! What this host offers to containers, as data and in sentences.
//!
//! Nothing is decided here: whoever meets a refusal finds the words for it, and `doctor` commands
//! find the whole picture.

use std::fs;
use std::io;
use std::path::Path;

use super::idmap::IdMap;
use super::memory::Layers;
use super::subid;

/// The settings of the host that commonly forbid user namespaces: file, value, remedy.
const SWITCHES: &[(&str, &str, &str)] = &[
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "sysctl user.max_user_namespaces=15000",
    ),
];

/// Which ids the calling process can give to containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// All of the host's.
    Whole,
    /// So many user ids.
    Range(u64),
    /// Root's alone; what the host lacks for more.
    Single { missing: Vec<&'static str> },
}

/// What the calling process finds. As the daemon sees it, after `idmap::enter`.
#[derive(Debug)]
pub struct Host {
    pub ids: Ids,
    /// Whether layers can be stacked in the folder that was tried.
    pub layers: Layers,
    /// Commands that would lift restrictions on user namespaces.
    pub userns_remedies: Vec<&'static str>,
}

impl Host {
    /// Looks around. Layers are tried in a new folder below `scratch`, which is removed again.
    pub fn look(scratch: &Path) -> io::Result<Self> {
        Ok(Self {
            ids: ids(&IdMap::current()?),
            layers: Layers::possible(scratch)?,
            userns_remedies: userns_remedies(),
        })
    }

    /// One sentence for each finding.
    pub fn sentences(&self) -> Vec<String> {
        let mut said = vec![match &self.ids {
            Ids::Whole => "Containers can use every user id of this host.".to_owned(),
            Ids::Range(count) => format!("Containers can use {count} user ids."),
            Ids::Single { missing } => format!(
                "Containers have one user id, so every file belongs to it and changes of owner \
                 have no effect. For more this host lacks: {}.",
                missing.join(", ")
            ),
        }];
        said.push(match &self.layers {
            Layers::OnDisk => "Layers are stacked by overlayfs.".to_owned(),
            Layers::InMemory(why) => {
                format!("Layers are stacked by overlayfs in memory, because here {why}.")
            }
            Layers::Nowhere(why) => format!("Layers cannot be stacked by overlayfs here: {why}."),
        });
        let remedy = |remedy| format!("User namespaces are restricted; as root run: {remedy}");
        said.extend(self.userns_remedies.iter().map(remedy));
        said
    }
}

fn ids(map: &IdMap) -> Ids {
    if map.is_whole() {
        return Ids::Whole;
    }
    if !map.is_single() {
        return Ids::Range(map.uids.iter().map(|range| u64::from(range.count)).sum());
    }
    let programs = ["newuidmap", "newgidmap"];
    let absent = |program: &&str| subid::find_program(program).is_none();
    let mut missing: Vec<_> = programs.into_iter().filter(absent).collect();
    if missing.is_empty() {
        missing.push("a range for this user in /etc/subuid and /etc/subgid");
    }
    Ids::Single { missing }
}

/// The commands that would allow user namespaces, as far as settings forbid them.
pub fn userns_remedies() -> Vec<&'static str> {
    let forbids = |file: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(|text| text.trim() == value)
    };
    (SWITCHES.iter())
        .filter(|(file, value, _)| forbids(file, value))
        .map(|(_, _, remedy)| *remedy)
        .collect()
}

/// What to do when user namespaces are refused.
pub(crate) fn userns_hint() -> String {
    let remedies = userns_remedies();
    if remedies.is_empty() {
        "no kernel setting of this host forbids user namespaces, so inside another container its \
         seccomp profile does: run that with --security-opt seccomp=unconfined (Kubernetes: \
         seccompProfile: {type: Unconfined})"
            .to_owned()
    } else {
        format!("as root of the host run: {}", remedies.join("; "))
    }
}
