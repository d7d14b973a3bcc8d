//! `RUN --mount`: what a command sees beside its root file system.
//!
//! A bind is a private copy of its source, so that the ignore file holds, and so that changes of a
//! writable one are thrown away. A cache is a folder below `<cache>/mounts`, named by a hash of its
//! id, shared by all builds; a `locked` one is held by one step at a time, and a step that finds a
//! `private` one held takes the next of that name. A secret is a copy with the owner and mode that
//! were asked for, an ssh agent a socket of ours that leads to the caller's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use unpacker::container::spec::Mount;
use unpacker::digest::sha256;
use unpacker::layer::Ownership;
use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Owner;
use unpacker::progress::Cancel;
use unpacker::snapshot::store::Staging;

use crate::cache::mount_names;
use crate::copy::CopyError;
use crate::copy::changes::Changes;
use crate::copy::place::{Placement, place};
use crate::copy::select::Match;
use crate::dockerfile::mount::Sharing;
use crate::error::StepError;
use crate::plan::Dest;

use super::agent::Proxy;
use super::seed;

/// Steps at one time that have a cache of one name for themselves; a further one waits.
const MAX_PRIVATE: usize = 64;

/// Everything that one command sees, kept as long as it runs.
#[derive(Debug)]
pub struct Furnished {
    pub mounts: Vec<Mount>,
    /// Secrets as variables.
    pub variables: Vec<String>,
    /// Holds copies; removed with this value.
    pub scratch: Staging,
    locks: Vec<File>,
    agents: Vec<Proxy>,
    count: usize,
}

/// Owner and mode of what is mounted.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    pub owner: Owner,
    pub mode: u32,
}

impl Furnished {
    /// `scratch` is private to its owner, and reaped after a crash: it may hold secrets.
    pub fn new(scratch: Staging) -> Self {
        Self {
            mounts: Vec::new(),
            variables: Vec::new(),
            scratch,
            locks: Vec::new(),
            agents: Vec::new(),
            count: 0,
        }
    }

    fn next(&mut self) -> PathBuf {
        self.count += 1;
        self.scratch.fs().join(self.count.to_string())
    }

    fn bind_folder(&mut self, source: PathBuf, target: &str, read_only: bool) {
        self.mounts.push(Mount::Bind {
            source,
            target: PathBuf::from(target),
            read_only,
        });
    }

    pub fn tmpfs(&mut self, target: &str, size: Option<u64>) {
        let target = PathBuf::from(target);
        self.mounts.push(Mount::Tmpfs {
            target,
            size,
            mode: None,
            read_only: false,
        });
    }

    /// Copies what was selected of an origin and mounts the copy.
    pub fn bind(
        &mut self,
        placement: &BindSource<'_>,
        target: &str,
        writable: bool,
    ) -> Result<(), StepError> {
        let folder = self.next();
        fs::create_dir(&folder).map_err(StepError::io("make a folder for a bind"))?;
        let to = Root::open(&folder).map_err(StepError::io("open a folder for a bind"))?;
        let dest = Dest {
            path: "/bound".to_owned(),
            directory: false,
        };
        let copy = Placement {
            from: placement.from,
            from_context: placement.from_context,
            to: &to,
            dest: &dest,
            owner: None,
            mode: None,
            ownership: placement.ownership,
            changes: placement.changes,
            cancel: placement.cancel,
        };
        place(&copy, placement.matches)?;
        if let [folder] = placement.matches
            && folder.is_dir()
        {
            // A copy's destination has the usual mode; what is mounted is the folder itself.
            copy.attributes(&folder.path, &folder.metadata, Path::new(&dest.path))?;
        }
        self.bind_folder(folder.join("bound"), target, !writable);
        Ok(())
    }

    /// Waits until nobody else has these caches. All that a step needs at once and in one order: two
    /// steps would wait for each other otherwise.
    pub fn hold(
        &mut self,
        caches: &Path,
        ids: &BTreeSet<&str>,
        cancel: &Cancel,
    ) -> Result<(), StepError> {
        for id in ids {
            fs::create_dir_all(caches).map_err(StepError::io("lock a cache mount"))?;
            let file = lock_file(caches, sha256(id.as_bytes()).digest())?;
            self.locks.push(wait(file, cancel)?);
        }
        Ok(())
    }

    /// A folder that outlives the build. `fill` makes what a new one begins with. A `locked` one is
    /// held already.
    pub fn cache(
        &mut self,
        caches: &Path,
        cache: &CacheFolder<'_>,
        target: &str,
        cancel: &Cancel,
        fill: impl FnOnce(&Path) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let what = "make the folder of a cache mount";
        fs::create_dir_all(caches).map_err(StepError::io(what))?;
        let mut name = sha256(cache.id.as_bytes()).digest().to_owned();
        if cache.sharing == Sharing::Private {
            name = self.hold_own(caches, name, cancel)?;
        }
        seed::make(caches, &name, cancel, |new| {
            fill(&caches.join(new))?;
            give(caches, new, cache.access, cache.ownership)
        })?;
        mount_names::used(caches, &name, cache.id).map_err(StepError::io(what))?;
        self.bind_folder(caches.join(&name), target, cache.read_only);
        Ok(())
    }

    /// The name of a cache that nobody else uses, held.
    fn hold_own(
        &mut self,
        caches: &Path,
        name: String,
        cancel: &Cancel,
    ) -> Result<String, StepError> {
        for number in 0..MAX_PRIVATE {
            let own = match number {
                0 => name.clone(),
                number => format!("{name}-{number}"),
            };
            let lock = lock_file(caches, &own)?;
            if try_lock(&lock)? {
                self.locks.push(lock);
                return Ok(own);
            }
        }
        self.locks.push(wait(lock_file(caches, &name)?, cancel)?);
        Ok(name)
    }

    /// A file with a secret, a variable, or both.
    pub fn secret(
        &mut self,
        bytes: &[u8],
        secret: &SecretFile<'_>,
        target: &str,
    ) -> Result<(), StepError> {
        if let Some(variable) = secret.variable {
            let value = String::from_utf8_lossy(bytes);
            self.variables.push(format!("{variable}={value}"));
        }
        if !secret.file {
            return Ok(());
        }
        let copy = self.next();
        fs::write(&copy, bytes).map_err(StepError::io("copy a secret"))?;
        let name = self.count.to_string();
        give(&self.scratch.fs(), &name, secret.access, secret.ownership)?;
        self.bind_folder(copy, target, true);
        Ok(())
    }

    /// A socket that leads to an ssh agent.
    pub fn agent(
        &mut self,
        agent: &Path,
        access: Access,
        ownership: Ownership,
        target: &str,
    ) -> Result<(), StepError> {
        let socket = self.next();
        let name = self.count.to_string();
        let proxy = Proxy::start(&self.scratch.fs(), &name, agent)?;
        give(&self.scratch.fs(), &name, access, ownership)?;
        self.agents.push(proxy);
        self.bind_folder(socket, target, false);
        Ok(())
    }
}

/// What a bind shows.
#[derive(Debug)]
pub struct BindSource<'a> {
    pub from: &'a Root,
    pub from_context: bool,
    pub matches: &'a [Match],
    pub ownership: Ownership,
    pub changes: &'a Changes,
    pub cancel: &'a Cancel,
}

/// A cache mount.
#[derive(Debug)]
pub struct CacheFolder<'a> {
    pub id: &'a str,
    pub sharing: Sharing,
    pub read_only: bool,
    pub access: Access,
    pub ownership: Ownership,
}

/// A secret mount.
#[derive(Debug)]
pub struct SecretFile<'a> {
    pub variable: Option<&'a str>,
    pub file: bool,
    pub access: Access,
    pub ownership: Ownership,
}

fn give(folder: &Path, name: &str, access: Access, how: Ownership) -> Result<(), StepError> {
    let given = Root::open(folder)
        .and_then(|root| how.give(&root, Path::new(name), access.owner, access.mode));
    given.map_err(StepError::io("set the owner of a mount"))
}

fn lock_file(caches: &Path, name: &str) -> Result<File, StepError> {
    let file = File::create(caches.join(format!("{name}.lock")));
    file.map_err(StepError::io("lock a cache mount"))
}

/// Waits for the only holder of a cache.
fn wait(file: File, cancel: &Cancel) -> Result<File, StepError> {
    loop {
        cancel.check().map_err(CopyError::Cancelled)?;
        if try_lock(&file)? {
            return Ok(file);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn try_lock(file: &File) -> Result<bool, StepError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(StepError::io("lock a cache mount")(e.into())),
    }
}
