//! What the journal does with blob files: gives them their names again, and makes them durable.

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{
    AtFlags, Mode, OFlags, fdatasync, fsync, linkat, openat, renameat, statat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::is_full;
use super::record::Entry;
use crate::digest::{Algorithm, Digest};
use crate::store::blobs::{BLOB_MODE, TEMPORARY, hash_file, random_hex};

/// Up to this many files are synced one by one; more are synced with their whole file system, which
/// costs as much as a few of them.
const ONE_BY_ONE: usize = 16;

/// A blob file of a sealed batch that is not yet durable under its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) digest: Digest,
    /// The durable name in the uploads folder that stands in for the final one; `None` where the
    /// journal has the bytes.
    pub(crate) name: Option<String>,
}

impl Kept {
    pub(crate) fn of(entry: &Entry) -> Self {
        let name = match entry {
            Entry::Bytes { .. } => None,
            Entry::Named { name, .. } => Some(name.clone()),
        };
        Self {
            digest: entry.digest().clone(),
            name,
        }
    }
}

/// The content folder as the journal sees it.
pub(crate) trait Contents: Debug + Send + Sync + 'static {
    /// Gives an entry's blob its final name. Twice is as good as once. Nothing is durable before
    /// [`Contents::settle`].
    fn restore(&self, entry: &Entry) -> io::Result<()>;
    /// Makes these blobs and their final names durable. One that was unlinked since is passed over.
    fn settle(&self, kept: &[Kept]) -> io::Result<()>;
    /// Drops the names that stood in for the final ones.
    fn forget(&self, kept: &[Kept]);
}

/// The entries of a replay, the last one of each digest: an earlier one says nothing more, and giving
/// each file its name in turn would cost a reading of each.
#[derive(Debug, Default)]
pub(super) struct Latest(HashMap<Digest, Entry>);

impl Latest {
    pub(super) fn take(&mut self, entries: Vec<Entry>) {
        let keyed = entries.into_iter().map(|it| (it.digest().clone(), it));
        self.0.extend(keyed);
    }

    /// Gives all of them their names; answers what is to be settled.
    pub(super) fn restore(self, contents: &dyn Contents) -> io::Result<Vec<Kept>> {
        let mut kept = Vec::with_capacity(self.0.len());
        for entry in self.0.into_values() {
            contents.restore(&entry)?;
            kept.push(Kept::of(&entry));
        }
        Ok(kept)
    }
}

/// The real folder. Opened when it is first needed: most checkpoints of a registry that is only
/// read, and every open after a clean close, need none.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    /// See `Blobs::naming`.
    naming: Naming,
}

/// Held shared by who gives a blob's file its final name, alone by who takes one away.
pub(crate) type Naming = Arc<RwLock<()>>;

impl Folder {
    pub(crate) fn new(content: &Path, naming: Naming) -> Self {
        let path = content.to_owned();
        Self { path, naming }
    }

    fn open(&self, name: &str) -> io::Result<OwnedFd> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        Ok(File::open(path)?.into())
    }

    fn blobs(&self, algorithm: Algorithm) -> io::Result<OwnedFd> {
        self.open(&format!("blobs/{}", algorithm.name()))
    }

    fn uploads(&self) -> io::Result<OwnedFd> {
        self.open("uploads")
    }

    fn restore_bytes(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let uploads = self.uploads()?;
        self.place(&uploads, digest, |temporary| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(&uploads, temporary, flags, BLOB_MODE)?;
            File::from(file).write_all(bytes)
        })
    }

    fn restore_named(&self, digest: &Digest, name: &str) -> io::Result<()> {
        let uploads = self.uploads()?;
        let folder = self.blobs(Algorithm::of(digest).unwrap_or_default())?;
        let inode =
            |folder: &OwnedFd, name: &str| match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Ok(Some(stat.st_ino)),
                Err(Errno::NOENT) => Ok(None),
                Err(error) => Err(io::Error::from(error)),
            };
        let Some(held) = inode(&uploads, name)? else {
            // Checkpointed before; the blob is under its final name or was deleted since.
            return Ok(());
        };
        match inode(&folder, digest.digest())? {
            Some(there) if there == held => return Ok(()),
            // A writer may have healed what was damaged behind this name.
            // What the disk does not give is not whole either.
            Some(_) if !is_whole(&uploads, name, digest).unwrap_or(false) => return Ok(()),
            _ => {}
        }
        self.place(&uploads, digest, |temporary| {
            Ok(linkat(
                &uploads,
                name,
                &uploads,
                temporary,
                AtFlags::empty(),
            )?)
        })
    }

    /// Gives its final name to what `make` makes under a temporary one, of which nothing stays.
    fn place(
        &self,
        uploads: &OwnedFd,
        digest: &Digest,
        make: impl FnOnce(&str) -> io::Result<()>,
    ) -> io::Result<()> {
        let temporary = format!("{TEMPORARY}{}", random_hex()?);
        let placed = make(&temporary).and_then(|()| self.name(uploads, &temporary, digest));
        if placed.is_err() {
            // On a full disk this is tried again and again.
            let _ = unlinkat(uploads, &temporary, AtFlags::empty());
        }
        placed
    }

    fn name(&self, uploads: &OwnedFd, temporary: &str, digest: &Digest) -> io::Result<()> {
        let folder = self.blobs(Algorithm::of(digest).unwrap_or_default())?;
        let _naming = self.naming.read().unwrap_or_else(PoisonError::into_inner);
        Ok(renameat(uploads, temporary, &folder, digest.digest())?)
    }

    /// Whether the file under the final name is what the digest says.
    fn is_there(&self, digest: &Digest) -> io::Result<bool> {
        let folder = self.blobs(Algorithm::of(digest).unwrap_or_default())?;
        match is_whole(&folder, digest.digest(), digest) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            whole => whole,
        }
    }

    fn settle_in(&self, algorithm: Algorithm, kept: &[&Kept]) -> io::Result<()> {
        if kept.is_empty() {
            return Ok(());
        }
        let folder = self.blobs(algorithm)?;
        let with_bytes = || kept.iter().filter(|kept| kept.name.is_none());
        if with_bytes().count() > ONE_BY_ONE {
            return Ok(syncfs(&folder)?);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for kept in with_bytes() {
            match openat(&folder, kept.digest.digest(), flags, Mode::empty()) {
                Ok(file) => fdatasync(file)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(fsync(folder)?)
    }
}

/// Whether the file `name` is what `digest` says.
fn is_whole(folder: &OwnedFd, name: &str, digest: &Digest) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(folder, name, flags, Mode::empty())?);
    let algorithm = Algorithm::of(digest).unwrap_or_default();
    Ok(hash_file(&file, algorithm)?.0.finish() == *digest)
}

impl Contents for Folder {
    fn restore(&self, entry: &Entry) -> io::Result<()> {
        match entry {
            Entry::Bytes { digest, bytes } => match self.restore_bytes(digest, bytes) {
                // A full disk must not keep out who only reads: what is there need not be written.
                Err(error) if is_full(&error) && self.is_there(digest)? => Ok(()),
                restored => restored,
            },
            Entry::Named { digest, name } => self.restore_named(digest, name),
        }
    }

    fn settle(&self, kept: &[Kept]) -> io::Result<()> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let of = |kept: &&Kept| Algorithm::of(&kept.digest).unwrap_or_default() == algorithm;
            let kept: Vec<&Kept> = kept.iter().filter(of).collect();
            self.settle_in(algorithm, &kept)?;
        }
        Ok(())
    }

    fn forget(&self, kept: &[Kept]) {
        let names = kept.iter().filter_map(|kept| kept.name.as_deref());
        let names: Vec<&str> = names.collect();
        if let (false, Ok(uploads)) = (names.is_empty(), self.uploads()) {
            for name in names {
                // What stays is swept at the next open.
                let _ = unlinkat(&uploads, name, AtFlags::empty());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_of;

    /// What cannot get its name leaves no second copy behind, however often it is tried.
    #[test]
    fn a_failed_restore_leaves_nothing() {
        let content = tempfile::tempdir().unwrap();
        let folder = Folder::new(content.path(), Naming::default());
        let digest = digest_of(Algorithm::Sha256, b"abc");
        // A folder in the way: no file can take its place.
        let taken = content.path().join("blobs/sha256").join(digest.digest());
        fs::create_dir_all(&taken).unwrap();
        let uploads = content.path().join("uploads");
        fs::create_dir_all(&uploads).unwrap();
        fs::write(uploads.join("p-1"), b"abc").unwrap();
        let bytes = b"abc".to_vec();
        let (named, held) = ("p-1".to_owned(), digest.clone());
        for entry in [
            Entry::Bytes { digest, bytes },
            Entry::Named {
                digest: held,
                name: named,
            },
        ] {
            folder.restore(&entry).unwrap_err();
            assert_eq!(fs::read_dir(&uploads).unwrap().count(), 1);
        }
        fs::remove_dir(&taken).unwrap();
        let digest = digest_of(Algorithm::Sha256, b"abc");
        let bytes = b"abc".to_vec();
        folder.restore(&Entry::Bytes { digest, bytes }).unwrap();
        assert_eq!(fs::read(taken).unwrap(), b"abc");
    }
}
