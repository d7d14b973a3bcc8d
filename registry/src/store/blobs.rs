//! Content-addressed files: `<content>/blobs/<algorithm>/<hex>`.
//!
//! A blob under its final name is whole: it was hashed while it was written, and either its data and
//! its folder are synced, or the index's journal vouches for it until they are (see `store::writer`
//! and `store::journal`). A blob
//! never changes; it may be unlinked while somebody reads it. A commit over an existing blob
//! replaces its file, so pushing a damaged blob again heals it, and two writers of one digest both
//! succeed.
//!
//! All work goes through directory descriptors and names that come out of a parsed digest; no path
//! from a request is ever joined.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::name::parse_digest;
use rustix::fs::{
    AtFlags, Mode, OFlags, fstat, fsync, linkat, openat, statat, unlinkat, utimensat,
};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::store::guard::Guards;
use crate::store::journal::Naming;
use crate::store::pool::{Pool, stand_in};
use crate::store::sessions::SessionId;
use crate::store::step::{Step, Steps};
use crate::store::writer::{BlobWriter, CommitError, NOW};

/// Readers of a whole file take this much at a time.
const READ_BUFFER: usize = 256 * 1024;
pub(super) const BLOB_MODE: Mode = Mode::from_raw_mode(0o644);

/// The folder of blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<Folders>);

#[derive(Debug)]
struct Folders {
    sha256: OwnedFd,
    sha512: OwnedFd,
    uploads: OwnedFd,
    quarantine: OwnedFd,
    /// Shared by who gives a file its final name, alone by who takes a damaged one's away: so no
    /// file that heals is taken for the one that it replaced.
    naming: Naming,
    steps: Steps,
    pool: OnceLock<Pool>,
    guards: Guards,
}

/// A blob's file as a listing of the folder shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobFile {
    pub digest: Digest,
    pub size: u64,
    /// When it was last committed.
    pub committed: SystemTime,
}

impl Blobs {
    /// Opens the folder `content`, making what is absent.
    pub fn open(content: &Path, steps: Steps) -> io::Result<Self> {
        let folder = |name: &str| -> io::Result<OwnedFd> {
            let path = content.join(name);
            fs::create_dir_all(&path)?;
            Ok(File::open(path)?.into())
        };
        let folders = Folders {
            sha256: folder("blobs/sha256")?,
            sha512: folder("blobs/sha512")?,
            uploads: folder("uploads")?,
            quarantine: folder("quarantine")?,
            naming: Naming::default(),
            steps,
            pool: OnceLock::new(),
            guards: Guards::default(),
        };
        // The folders themselves must outlive a power cut before anything inside them can.
        fsync(File::open(content.join("blobs"))?)?;
        fsync(File::open(content)?)?;
        Ok(Self(Arc::new(folders)))
    }

    pub(super) fn steps(&self) -> &Steps {
        &self.0.steps
    }

    /// Who may unlink and who relies on a file.
    pub(super) fn guards(&self) -> &Guards {
        &self.0.guards
    }

    /// The folder of unfinished content.
    pub(super) fn uploads(&self) -> &OwnedFd {
        &self.0.uploads
    }

    pub(super) fn folder(&self, algorithm: Algorithm) -> &OwnedFd {
        match algorithm {
            Algorithm::Sha256 => &self.0.sha256,
            Algorithm::Sha512 => &self.0.sha512,
        }
    }

    /// The folder of damaged blobs.
    pub(super) fn damaged(&self) -> &OwnedFd {
        &self.0.quarantine
    }

    /// Held by who gives a file its final name, and only for that.
    pub(super) fn naming(&self) -> RwLockReadGuard<'_, ()> {
        self.0.naming.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock itself, for the journal, which gives names again.
    pub(super) fn naming_lock(&self) -> Naming {
        Arc::clone(&self.0.naming)
    }

    /// Held by who takes a damaged file's name away.
    pub(super) fn renaming(&self) -> RwLockWriteGuard<'_, ()> {
        let naming = &self.0.naming;
        naming.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blob's size, or `None` where it is not here.
    pub fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let Some(algorithm) = Algorithm::of(digest) else {
            return Ok(None);
        };
        let folder = self.folder(algorithm);
        match statat(folder, digest.digest(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(u64::try_from(found.st_size).ok()),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The blob and its size, or `None` where it is not here.
    pub fn get(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        let found = self.open_file(digest)?;
        Ok(found.map(|(file, metadata)| (file, metadata.len())))
    }

    /// The blob and what the file system knows of it, or `None` where it is not here.
    pub(super) fn open_file(&self, digest: &Digest) -> io::Result<Option<(File, Metadata)>> {
        let Some(algorithm) = Algorithm::of(digest) else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(
            self.folder(algorithm),
            digest.digest(),
            flags,
            Mode::empty(),
        ) {
            Ok(fd) => {
                let file = File::from(fd);
                let metadata = file.metadata()?;
                Ok(Some((file, metadata)))
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a blob under a temporary name. Dropping the writer discards it.
    pub fn writer(&self, algorithm: Algorithm) -> io::Result<BlobWriter> {
        self.room()?;
        let (name, file) = self.begin(|id| format!("{TEMPORARY}{id}"))?.1;
        Ok(BlobWriter::begun(self, file, name, Hasher::new(algorithm)))
    }

    /// Makes the names of the digest's folder durable.
    pub(super) fn sync_names(&self, digest: &Digest) -> io::Result<()> {
        Ok(fsync(
            self.folder(Algorithm::of(digest).unwrap_or_default()),
        )?)
    }

    /// Makes stand-in names from now on. The folder must be swept by now.
    pub(super) fn start_pool(&self) -> io::Result<()> {
        let pool = Pool::start(self.0.uploads.try_clone()?)?;
        // A second call keeps the first pool.
        let _ = self.0.pool.set(pool);
        Ok(())
    }

    /// Makes an empty file in the folder of unfinished content, named after a new identifier; where
    /// there is one it is a stand-in's file. Answers the identifier, the name and the file.
    pub(super) fn begin(
        &self,
        name: impl FnOnce(&SessionId) -> String,
    ) -> io::Result<(SessionId, (String, File))> {
        let pooled = self.0.pool.get().and_then(Pool::take);
        if let Some(id) = pooled {
            let name = name(&id);
            return self.begin_pooled(&id, &name).map(|file| (id, (name, file)));
        }
        let id = SessionId::random()?;
        let name = name(&id);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.0.uploads, &name, flags, BLOB_MODE)?;
        Ok((id, (name, file.into())))
    }

    fn begin_pooled(&self, id: &SessionId, name: &str) -> io::Result<File> {
        let (uploads, held) = (&self.0.uploads, stand_in(id.as_str()));
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(uploads, &held, flags, Mode::empty())?;
        linkat(uploads, &held, uploads, name, AtFlags::empty())?;
        // It was made a while ago; a session's age counts from now.
        utimensat(uploads, name, &NOW, AtFlags::empty())?;
        Ok(file.into())
    }

    /// Stores bytes that are already in memory.
    pub fn put(&self, bytes: &[u8], algorithm: Algorithm) -> Result<Digest, CommitError> {
        let mut writer = self.writer(algorithm)?;
        writer.write_all(bytes)?;
        writer.commit(None).map(|(digest, _)| digest)
    }

    /// Takes the blob's name away; readers keep what they opened. Absent is fine.
    pub(super) fn unlink(&self, digest: &Digest) -> io::Result<()> {
        self.0.steps.at(Step::Unlinking)?;
        let Some(algorithm) = Algorithm::of(digest) else {
            return Ok(());
        };
        let (folder, name) = (self.folder(algorithm), digest.digest());
        // While it is open no other file can have its number.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(folder, name, flags, Mode::empty()) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let left = fstat(&found)?;
        if left.st_nlink > 0 {
            // Until the next checkpoint a stand-in would keep its space.
            self.forget_stand_ins(left.st_ino)?;
        }
        Ok(())
    }

    /// Every blob, in the folder's own order; no file is opened. Strange names are passed over, and
    /// so is what goes meanwhile; what comes meanwhile may be seen or not.
    pub(super) fn list(&self) -> io::Result<impl Iterator<Item = io::Result<BlobFile>>> {
        let mut folders = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let entries = rustix::fs::Dir::read_from(self.folder(algorithm))?;
            folders.push((algorithm, entries));
        }
        let names = folders.into_iter().flat_map(|(algorithm, entries)| {
            entries.map(move |entry| {
                let entry = entry?;
                let name = entry.file_name().to_str().unwrap_or_default();
                Ok(parse_digest(&format!("{}:{name}", algorithm.name())).ok())
            })
        });
        Ok(names.filter_map(|name| match name {
            Ok(digest) => self.stat(&digest?).transpose(),
            Err(error) => Some(Err(error)),
        }))
    }

    /// The blob's file as it is now, without opening it.
    pub(crate) fn stat(&self, digest: &Digest) -> io::Result<Option<BlobFile>> {
        let Some(algorithm) = Algorithm::of(digest) else {
            return Ok(None);
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match statat(self.folder(algorithm), digest.digest(), flags) {
            Ok(stat) => Ok(Some(BlobFile {
                digest: digest.clone(),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                committed: time(stat.st_mtime, stat.st_mtime_nsec),
            })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The blob's file counts as committed now. Absent is fine.
    pub(super) fn touch(&self, digest: &Digest) -> io::Result<()> {
        let Some(algorithm) = Algorithm::of(digest) else {
            return Ok(());
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match utimensat(self.folder(algorithm), digest.digest(), &NOW, flags) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the blob again and tells whether it still is what its name says.
    pub(super) fn is_whole(&self, digest: &Digest) -> io::Result<bool> {
        let (Some((file, _)), Some(algorithm)) = (self.get(digest)?, Algorithm::of(digest)) else {
            return Ok(false);
        };
        let (hasher, _) = hash_file(&file, algorithm)?;
        Ok(hasher.finish() == *digest)
    }
}

/// A time before 1970 is taken for 1970: it is old in any case.
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    UNIX_EPOCH + Duration::new(seconds, nanoseconds.try_into().unwrap_or(0))
}

/// Names of unfinished content that no session owns begin so; what a crash leaves is swept at open.
pub(super) const TEMPORARY: &str = "w-";

/// 128 random bits.
pub(crate) fn random_hex() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| io::Error::other("the system's random source failed"))?;
    Ok(crate::digest::hex(&bytes))
}

/// The names in a folder, without `.` and `..`.
pub(super) fn names(folder: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Hashes a file from its beginning; leaves it positioned at its end.
pub(super) fn hash_file(mut file: &File, algorithm: Algorithm) -> io::Result<(Hasher, u64)> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; READ_BUFFER];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher, size)),
            count => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                size += count as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest_of;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Steps::default()).unwrap();
        (folder, blobs)
    }

    fn leftovers(blobs: &Blobs) -> Vec<String> {
        names(blobs.uploads()).unwrap()
    }

    #[test]
    fn commits_and_reads_back_in_both_algorithms() {
        let (_folder, blobs) = blobs();
        for hashed in [Algorithm::Sha256, Algorithm::Sha512] {
            for wanted in [Algorithm::Sha256, Algorithm::Sha512] {
                let expected = digest_of(wanted, b"content");
                let mut writer = blobs.writer(hashed).unwrap();
                writer.write_all(b"con").unwrap();
                writer.write_all(b"tent").unwrap();
                let committed = writer.commit(Some(&expected)).unwrap();
                assert_eq!(committed, (expected.clone(), 7));
                let (mut file, size) = blobs.get(&expected).unwrap().unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!((text.as_str(), size), ("content", 7));
            }
        }
        assert!(leftovers(&blobs).is_empty());
    }

    #[test]
    fn a_wrong_digest_leaves_nothing() {
        let (_folder, blobs) = blobs();
        let expected = digest_of(Algorithm::Sha256, b"something else");
        let mut writer = blobs.writer(Algorithm::Sha256).unwrap();
        writer.write_all(b"content").unwrap();
        let error = writer.commit(Some(&expected)).unwrap_err();
        assert!(matches!(error, CommitError::Digest { .. }));
        assert_eq!(blobs.list().unwrap().count(), 0);
        assert!(leftovers(&blobs).is_empty());
    }

    #[test]
    fn a_dropped_writer_leaves_nothing() {
        let (_folder, blobs) = blobs();
        let mut writer = blobs.writer(Algorithm::Sha256).unwrap();
        writer.write_all(b"content").unwrap();
        assert_eq!(leftovers(&blobs).len(), 1);
        drop(writer);
        assert!(leftovers(&blobs).is_empty());
    }

    #[test]
    fn a_second_push_heals_a_damaged_blob() {
        let (folder, blobs) = blobs();
        let digest = blobs.put(b"content", Algorithm::Sha256).unwrap();
        let path = folder.path().join("blobs/sha256").join(digest.digest());
        fs::write(path, b"cXntent").unwrap();
        assert!(!blobs.is_whole(&digest).unwrap());
        blobs.put(b"content", Algorithm::Sha256).unwrap();
        assert!(blobs.is_whole(&digest).unwrap());
    }

    #[test]
    fn many_writers_of_one_blob_all_succeed() {
        let (_folder, blobs) = blobs();
        let expected = digest_of(Algorithm::Sha256, &[7; 100_000]);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let committed = blobs.put(&[7; 100_000], Algorithm::Sha256).unwrap();
                    assert_eq!(committed, expected);
                });
            }
        });
        assert!(blobs.is_whole(&expected).unwrap());
        assert!(leftovers(&blobs).is_empty());
    }
}
