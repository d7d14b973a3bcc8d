//! The person's own files (requirements D3, D4).
//!
//! ```text
//! ~/.devpod/                 0700
//!   workspaces/NAME.json     0600, replaced whole: written beside, synced, renamed
//!   workspaces/NAME.lock     held while a command changes the workspace
//!   logs/NAME-<time>.log     see `logs`
//! ```
//!
//! Everything is reached through the descriptors of the folders, and no link is followed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::workspace::WorkspaceName;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::failure::{Class, Fault};
use super::logs::Logs;
use super::meta::{Meta, Source};

/// A record is a few kilobytes; the environment that it remembers may be long.
const MAX_RECORD: u64 = 4 * 1024 * 1024;

/// How long a lock is waited for, and in what steps.
const GLANCE: Duration = Duration::from_millis(20);
const GLANCES: u32 = 10;

/// `~/.devpod`.
#[derive(Debug)]
pub struct Store {
    /// For messages.
    path: PathBuf,
    workspaces: OwnedFd,
    logs: Logs,
}

/// A name and what is behind it, or why that cannot be told.
pub type Listed<T> = (WorkspaceName, Result<T, Fault>);

/// While it lives, nobody else changes the workspace.
#[derive(Debug)]
pub struct Lock {
    file: OwnedFd,
}

impl Drop for Lock {
    /// Gives it back by name: closing is not enough while a process that another thread just forked
    /// still has its copy of the descriptor, until it executes its program.
    fn drop(&mut self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Store {
    /// Opens the folder, which is made when it is missing.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let fault = |error: io::Error| Fault::io(format!("cannot open {}", path.display()), &error);
        std::fs::create_dir_all(path).map_err(fault)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| fault(e.into()))?;
        // The folder may hold keys later; who made it with a wider mask is corrected.
        rustix::fs::fchmod(&root, Mode::RWXU).map_err(|e| fault(e.into()))?;
        Ok(Self {
            workspaces: folder(&root, "workspaces").map_err(fault)?,
            logs: Logs::new(folder(&root, "logs").map_err(fault)?),
            path: path.to_owned(),
        })
    }

    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// `None` when there is no such workspace.
    pub fn load(&self, name: &WorkspaceName) -> Result<Option<Meta>, Fault> {
        let file = file_name(name);
        let text = match read(&self.workspaces, &file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.fault("cannot read", &file, &error)),
        };
        let meta: Meta = serde_json::from_slice(&text).map_err(|e| self.corrupt(&file, &e))?;
        if meta.name != name.as_str() {
            let other = format!("the record inside is of workspace {:?}", meta.name);
            return Err(self.corrupt(&file, &other));
        }
        Ok(Some(meta))
    }

    /// The record, or a fault that says how to find out what there is.
    pub fn require(&self, name: &WorkspaceName) -> Result<Meta, Fault> {
        self.load(name)?.ok_or_else(|| {
            let known = self.names().unwrap_or_default();
            let hint =
                config::suggest::hint(name.as_str(), known.iter().map(WorkspaceName::as_str));
            Fault::new(
                Class::NotFound,
                format!("there is no workspace {:?}{hint}", name.as_str()),
            )
            .suggest("See them all with `devpod list`.")
        })
    }

    /// Whole and durable when it returns; the old record until then.
    pub fn save(&self, name: &WorkspaceName, meta: &Meta) -> Result<(), Fault> {
        let file = file_name(name);
        let fault = |error: io::Error| self.fault("cannot write", &file, &error);
        let mut text = serde_json::to_vec_pretty(meta).map_err(|e| fault(e.into()))?;
        text.push(b'\n');
        replace(&self.workspaces, &file, &text).map_err(fault)
    }

    /// A missing record is no fault.
    pub fn delete(&self, name: &WorkspaceName) -> Result<(), Fault> {
        for file in [file_name(name), lock_name(name)] {
            match unlinkat(&self.workspaces, &file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(self.fault("cannot delete", &file, &error.into())),
            }
        }
        rustix::fs::fsync(&self.workspaces)
            .map_err(|error| self.fault("cannot sync", "workspaces", &error.into()))
    }

    /// Every name that has a record, sorted.
    pub fn names(&self) -> Result<Vec<WorkspaceName>, Fault> {
        let fault = |error: Errno| self.fault("cannot list", "workspaces", &error.into());
        let mut names = Vec::new();
        let folder = rustix::fs::Dir::read_from(&self.workspaces).map_err(fault)?;
        for entry in folder {
            let entry = entry.map_err(fault)?;
            let text = entry.file_name().to_string_lossy();
            let name = text.strip_suffix(".json").map(str::parse::<WorkspaceName>);
            names.extend(name.and_then(Result::ok));
        }
        names.sort();
        Ok(names)
    }

    /// Every workspace, the broken ones as their faults.
    pub fn list(&self) -> Result<Vec<Listed<Meta>>, Fault> {
        let loaded = self.names()?.into_iter().filter_map(|name| {
            let meta = self.load(&name).transpose()?;
            Some((name, meta))
        });
        Ok(loaded.collect())
    }

    /// The workspace of a source, if one has it.
    pub fn find(&self, source: &Source) -> Result<Option<WorkspaceName>, Fault> {
        let same =
            |meta: &Result<Meta, Fault>| meta.as_ref().is_ok_and(|m| m.source.is_same(source));
        Ok(self
            .list()?
            .into_iter()
            .find_map(|(name, meta)| same(&meta).then_some(name)))
    }

    /// Keeps others from changing the workspace. `None` when somebody does already.
    pub fn try_lock(&self, name: &WorkspaceName) -> Result<Option<Lock>, Fault> {
        let file = lock_name(name);
        let fault = |error: Errno| self.fault("cannot lock", &file, &error.into());
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            let lock = openat(&self.workspaces, &file, flags, private()).map_err(fault)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if still_named(&self.workspaces, &file, &lock).map_err(fault)? => {
                    return Ok(Some(Lock { file: lock }));
                }
                // Deleted with its workspace between the opening and the locking.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(fault(error)),
            }
        }
    }

    /// Waits a moment, because a glance at the workspace (`status`) takes the lock too.
    pub fn lock(&self, name: &WorkspaceName) -> Result<Lock, Fault> {
        for _ in 0..GLANCES {
            if let Some(lock) = self.try_lock(name)? {
                return Ok(lock);
            }
            std::thread::sleep(GLANCE);
        }
        self.try_lock(name)?.ok_or_else(|| {
            Fault::new(
                Class::Conflict,
                format!(
                    "another command is at work on workspace {:?}",
                    name.as_str()
                ),
            )
            .suggest("Wait until it is done; `devpod status` tells how far it is.")
        })
    }

    fn fault(&self, verb: &str, file: &str, error: &io::Error) -> Fault {
        let path = self.path.join("workspaces").join(file);
        Fault::io(format!("{verb} {}", path.display()), error)
    }

    fn corrupt(&self, file: &str, reason: &dyn std::fmt::Display) -> Fault {
        let path = self.path.join("workspaces").join(file);
        let mut fault = Fault::new(
            Class::Invalid,
            format!("{} is no record of a workspace", path.display()),
        );
        fault.causes.push(reason.to_string());
        fault.suggest("Repair the file, or delete the workspace with `devpod delete --force`.")
    }
}

fn private() -> Mode {
    Mode::RUSR | Mode::WUSR
}

fn file_name(name: &WorkspaceName) -> String {
    format!("{name}.json")
}

fn lock_name(name: &WorkspaceName) -> String {
    format!("{name}.lock")
}

fn folder(root: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(root, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat(root, name, flags, Mode::empty())?)
}

fn read(folder: impl AsFd, file: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(openat(folder, file, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_RECORD {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}

fn replace(folder: impl AsFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    // The lock keeps a second writer away, so one name for the new file is enough; what a crash left
    // under it is overwritten.
    let fresh = format!(".{name}.new");
    let flags =
        OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(openat(&folder, &fresh, flags, private())?);
    file.write_all(bytes)?;
    file.sync_all()?;
    renameat(&folder, &fresh, &folder, name)?;
    Ok(rustix::fs::fsync(&folder)?)
}

fn still_named(folder: impl AsFd, name: &str, file: &OwnedFd) -> Result<bool, Errno> {
    let ours = rustix::fs::fstat(file)?;
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok(named.st_ino == ours.st_ino && named.st_dev == ours.st_dev),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn meta(name: &str) -> Meta {
        let source = Source::Folder {
            path: format!("/src/{name}").into(),
        };
        Meta::new(
            name,
            "0a1b2c3d".into(),
            "2026-11-21T04:00:00Z".into(),
            source,
        )
    }

    fn name(text: &str) -> WorkspaceName {
        text.parse().unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join(".devpod")).unwrap();
        (home, store)
    }

    #[test]
    fn a_record_with_a_user_in_its_address_is_found() {
        let (_home, store) = store();
        let source = |url: &str, branch: Option<&str>| Source::Repository {
            url: url.to_owned(),
            branch: branch.map(str::to_owned),
        };
        let mut saved = meta("app");
        saved.source = source("https://token@h/o/app", Some("dev"));
        store.save(&name("app"), &saved).unwrap();
        let wanted = source("https://h/o/app", Some("dev"));
        assert_eq!(store.find(&wanted).unwrap(), Some(name("app")));
        for other in [
            source("https://h/o/app", None),
            source("https://h/o/other", Some("dev")),
            source("http://h/o/app", Some("dev")),
        ] {
            assert_eq!(store.find(&other).unwrap(), None, "{other:?}");
        }
        // Ssh's user is who is asked for.
        saved.source = source("ssh://me@h/app", None);
        store.save(&name("app"), &saved).unwrap();
        assert_eq!(store.find(&source("ssh://h/app", None)).unwrap(), None);
    }

    #[test]
    fn keeps_exactly_what_was_saved() {
        let (home, store) = store();
        let mut saved = meta("app");
        saved
            .further
            .insert("later".into(), serde_json::json!({"x": 1}));
        store.save(&name("app"), &saved).unwrap();
        assert_eq!(store.load(&name("app")).unwrap(), Some(saved.clone()));
        assert_eq!(store.find(&saved.source).unwrap(), Some(name("app")));
        let path = home.path().join(".devpod/workspaces/app.json");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for key in [
            "name",
            "id",
            "createdAt",
            "status",
            "devSandboxId",
            "builderSandboxId",
            "volumeId",
            "imageRef",
            "configPath",
        ] {
            assert!(json.get(key).is_some(), "{key} is missing");
        }
        assert_eq!(json["status"], "creating");
        assert_eq!(json["later"]["x"], 1);
        store.delete(&name("app")).unwrap();
        store.delete(&name("app")).unwrap();
        assert_eq!(store.load(&name("app")).unwrap(), None);
    }

    #[test]
    fn a_broken_record_is_named_and_hides_no_other() {
        let (home, store) = store();
        store.save(&name("good"), &meta("good")).unwrap();
        let folder = home.path().join(".devpod/workspaces");
        std::fs::write(folder.join("bad.json"), "{\"name\": ").unwrap();
        std::fs::write(
            folder.join("liar.json"),
            serde_json::to_vec(&meta("good")).unwrap(),
        )
        .unwrap();
        std::fs::write(folder.join("UPPER.json"), "x").unwrap();
        std::os::unix::fs::symlink("good.json", folder.join("link.json")).unwrap();
        let listed = store.list().unwrap();
        let names: Vec<_> = listed
            .iter()
            .map(|(n, m)| (n.as_str(), m.is_ok()))
            .collect();
        assert_eq!(
            names,
            [
                ("bad", false),
                ("good", true),
                ("liar", false),
                ("link", false)
            ]
        );
        let fault = store.load(&name("bad")).unwrap_err().to_string();
        assert!(
            fault.contains("workspaces/bad.json is no record"),
            "{fault}"
        );
    }

    #[test]
    fn an_unknown_name_is_answered_with_a_near_one() {
        let (_home, store) = store();
        store.save(&name("backend"), &meta("backend")).unwrap();
        let fault = store.require(&name("bakend")).unwrap_err();
        assert_eq!(fault.class, Class::NotFound);
        assert!(
            fault.message.contains("did you mean \"backend\"?"),
            "{fault}"
        );
    }

    #[test]
    fn one_command_at_a_time() {
        let (_home, store) = store();
        let held = store.lock(&name("app")).unwrap();
        assert_eq!(store.lock(&name("app")).unwrap_err().class, Class::Conflict);
        assert!(store.lock(&name("other")).is_ok());
        store.delete(&name("app")).unwrap();
        drop(held);
        assert!(store.lock(&name("app")).is_ok());
    }

    #[test]
    fn a_lock_that_is_given_back_is_free_beside_a_fork() {
        let (_home, store) = store();
        let held = store.try_lock(&name("app")).unwrap().unwrap();
        // What a child has between its fork and its program.
        let forked = held.file.try_clone().unwrap();
        drop(held);
        assert!(store.try_lock(&name("app")).unwrap().is_some());
        drop(forked);
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_record() {
        let (home, store) = store();
        store.save(&name("app"), &meta("app")).unwrap();
        let folder = home.path().join(".devpod/workspaces");
        std::fs::write(folder.join(".app.json.new"), "{\"half\":").unwrap();
        assert_eq!(store.load(&name("app")).unwrap(), Some(meta("app")));
        assert_eq!(store.names().unwrap(), [name("app")]);
        store.save(&name("app"), &meta("app")).unwrap();
    }
}
