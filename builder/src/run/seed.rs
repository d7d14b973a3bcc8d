//! The folder of a cache mount comes into being whole: it is filled under another name, which nobody
//! mounts, and gets its own by one rename.
//!
//! `<folder>.new` is flocked by whoever fills it, and who wants the same cache meanwhile waits for that
//! one. A kill leaves such a folder behind without its lock; whoever comes next begins anew.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with, syncfs};
use rustix::io::Errno;
use unpacker::layer::root::Root;
use unpacker::progress::Cancel;

use crate::copy::CopyError;
use crate::error::StepError;

/// What follows a cache's name while it is filled.
pub(crate) const UNFINISHED: &str = ".new";
const LOOK: Duration = Duration::from_millis(20);

/// Makes the folder `name` below `caches`, unless it is there. `fill` gets the name of the folder that
/// becomes it.
pub(super) fn make(
    caches: &Path,
    name: &str,
    cancel: &Cancel,
    fill: impl FnOnce(&str) -> Result<(), StepError>,
) -> Result<(), StepError> {
    let failed = || StepError::io("make the folder of a cache mount");
    loop {
        cancel.check().map_err(CopyError::Cancelled)?;
        if caches.join(name).exists() {
            return Ok(());
        }
        if let Some(unfinished) = Unfinished::begin(caches, name).map_err(failed())? {
            // Whoever was before this one may have published it since the look above.
            if caches.join(name).exists() {
                return Ok(());
            }
            fill(&unfinished.name)?;
            return unfinished.publish(name).map_err(failed());
        }
        std::thread::sleep(LOOK);
    }
}

/// A folder that is being filled. Dropping it takes it away.
struct Unfinished {
    caches: PathBuf,
    name: String,
    /// The folder itself, flocked; nothing once it has its own name.
    lock: Option<File>,
}

impl Unfinished {
    /// `None` where somebody else is at it, or where it is to be looked at once more.
    fn begin(caches: &Path, name: &str) -> io::Result<Option<Self>> {
        let name = format!("{name}{UNFINISHED}");
        let path = caches.join(&name);
        let own = match fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        let lock = match File::open(&path) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Its last holder may have given it its own name, or taken it away, before this lock.
        if !is_at(&lock, &path) {
            return Ok(None);
        }
        let unfinished = Self {
            caches: caches.to_owned(),
            name,
            lock: Some(lock),
        };
        // What a killed build left is dropped, and so removed.
        Ok(own.then_some(unfinished))
    }

    fn publish(mut self, name: &str) -> io::Result<()> {
        let (from, to) = (self.caches.join(&self.name), self.caches.join(name));
        // A name that survives a power cut without what it names would be taken for whole ever after.
        syncfs(File::open(&self.caches)?)?;
        match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => {
                drop(self.lock.take());
                Ok(())
            }
            // One that came meanwhile stays, and this one goes.
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What cannot be removed is tried again by whoever wants this cache next.
            let _ =
                Root::open(&self.caches).and_then(|root| root.remove_all(Path::new(&self.name)));
        }
    }
}

/// Whether this folder is the one that has the name now.
fn is_at(folder: &File, path: &Path) -> bool {
    let id = |data: fs::Metadata| (data.dev(), data.ino());
    matches!(
        (folder.metadata().map(id), fs::metadata(path).map(id)),
        (Ok(mine), Ok(now)) if mine == now
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const NAME: &str = "ab12";

    fn names(caches: &Path) -> Vec<String> {
        let entries = fs::read_dir(caches).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.collect()
    }

    #[test]
    fn nobody_sees_half_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let caches = dir.path();
        let (begun, begins) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let stopped = Cancel::default();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                make(caches, NAME, &Cancel::default(), |name| {
                    fs::write(caches.join(name).join("first"), "").unwrap();
                    begun.send(()).unwrap();
                    goes.recv().unwrap();
                    fs::write(caches.join(name).join("last"), "").unwrap();
                    Ok(())
                })
                .unwrap();
            });
            begins.recv().unwrap();
            assert!(!caches.join(NAME).exists());
            // Who waits can be stopped, and that disturbs nobody.
            let stopped = &stopped;
            let waiter =
                scope.spawn(move || make(caches, NAME, stopped, |_| panic!("it is filled")));
            stopped.cancel();
            assert!(waiter.join().unwrap().is_err());
            let second = scope.spawn(move || {
                make(caches, NAME, &Cancel::default(), |_| panic!("it is filled")).unwrap();
                assert!(caches.join(NAME).join("last").exists());
            });
            go.send(()).unwrap();
            second.join().unwrap();
        });
        assert_eq!(names(caches), [NAME]);
    }

    #[test]
    fn what_failed_or_was_killed_is_filled_anew() {
        let dir = tempfile::tempdir().unwrap();
        let caches = dir.path();
        let left = caches.join(format!("{NAME}{UNFINISHED}"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("half"), "").unwrap();
        let failed = make(caches, NAME, &Cancel::default(), |name| {
            fs::create_dir(caches.join(name).join("deep")).unwrap();
            Err(StepError::io("fill")(io::Error::other("full")))
        });
        assert!(failed.is_err());
        assert_eq!(names(caches), [""; 0]);
        make(caches, NAME, &Cancel::default(), |name| {
            fs::write(caches.join(name).join("whole"), "").unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(names(&caches.join(NAME)), ["whole"]);
        make(caches, NAME, &Cancel::default(), |_| panic!("it is there")).unwrap();
    }
}
