//! Unfinished downloads: `<content>/uploads/d-<algorithm>-<hex>` holds the first bytes of a blob that
//! another registry sends.
//!
//! The name says which blob it will be, so whoever wants that blob next goes on where the last one
//! stopped, also after a killed process. Nothing is believed of the bytes: they are hashed again when
//! they are taken up, and the commit checks the whole. A power cut may leave zeros in place of them;
//! then the digest is wrong, and the download begins anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use config::name::parse_digest;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, statat, unlinkat};

use crate::digest::{Algorithm, Digest};
use crate::store::blobs::{BLOB_MODE, Blobs, hash_file, names};
use crate::store::sessions::is_fresh;
use crate::store::writer::BlobWriter;

/// Names of unfinished downloads begin so.
const PARTIAL: &str = "d-";
/// Nobody comes back for the rest after so long.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

impl Blobs {
    /// Goes on with the unfinished download of `digest`, or begins it; `written` tells how much is
    /// there. Dropping the writer keeps what it has. While another writer has the file in hand, this
    /// one is as [`Blobs::writer`].
    pub fn partial(&self, digest: &Digest) -> io::Result<BlobWriter> {
        let algorithm = Algorithm::of(digest).unwrap_or_default();
        self.room()?;
        let name = partial_name(digest);
        let flags =
            OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let file = File::from(openat(self.uploads(), &name, flags, BLOB_MODE)?);
            if !is_ours(&file)? {
                return self.writer(algorithm);
            }
            // Whoever had it in hand may have made it a blob since it was opened here.
            if self.is_named(&file, &name)? {
                let state = hash_file(&file, algorithm)?;
                return Ok(BlobWriter::resumed(self, file, name, state));
            }
        }
    }

    /// Bytes of the unfinished download of `digest`; zero where there is none.
    pub fn partial_size(&self, digest: &Digest) -> io::Result<u64> {
        let found = self.stat_partial(&partial_name(digest))?;
        Ok(found.map_or(0, |metadata| metadata.len()))
    }

    /// Removes downloads that nobody went on with for a long time; answers how many.
    pub(crate) fn expire_partials(&self, now: SystemTime) -> io::Result<u64> {
        let mut expired = 0;
        for name in names(self.uploads())? {
            if !is_partial(&name) {
                continue;
            }
            let Some(file) = self.open_partial(&name)? else {
                continue;
            };
            let touched = file.metadata()?.modified()?;
            let goes = !is_fresh(touched, now, KEPT_FOR) && is_ours(&file)?;
            if goes && self.is_named(&file, &name)? {
                unlinkat(self.uploads(), &name, AtFlags::empty())?;
                expired += 1;
            }
        }
        Ok(expired)
    }

    /// Whether the name still means this file.
    fn is_named(&self, file: &File, name: &str) -> io::Result<bool> {
        match statat(self.uploads(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(stat.st_ino == file.metadata()?.ino()),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn stat_partial(&self, name: &str) -> io::Result<Option<std::fs::Metadata>> {
        let file = self.open_partial(name)?;
        file.map(|file| file.metadata()).transpose()
    }

    fn open_partial(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(self.uploads(), name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn partial_name(digest: &Digest) -> String {
    format!("{PARTIAL}{}-{}", digest.algorithm(), digest.digest())
}

fn is_partial(name: &str) -> bool {
    let digest = name
        .strip_prefix(PARTIAL)
        .and_then(|rest| rest.split_once('-'));
    digest.is_some_and(|(algorithm, hex)| parse_digest(&format!("{algorithm}:{hex}")).is_ok())
}

/// Whether nobody else has the file in hand; from now on it is in ours.
fn is_ours(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::digest::digest_of;
    use crate::store::sessions::Sessions;
    use crate::store::step::Steps;

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Steps::default()).unwrap();
        (folder, blobs)
    }

    #[test]
    fn a_download_goes_on_where_it_stopped() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let (folder, blobs) = blobs();
            let digest = digest_of(algorithm, b"content");
            assert_eq!(blobs.partial_size(&digest).unwrap(), 0);
            let mut first = blobs.partial(&digest).unwrap();
            first.write_all(b"con").unwrap();
            drop(first);
            // What a start sweeps is not this.
            let sessions = Sessions::new(blobs.clone());
            sessions.sweep(SystemTime::now(), Duration::ZERO).unwrap();
            assert_eq!(blobs.partial_size(&digest).unwrap(), 3);
            let mut second = blobs.partial(&digest).unwrap();
            assert_eq!(second.written(), 3);
            second.write_all(b"tent").unwrap();
            let (committed, size) = second.commit(Some(&digest)).unwrap();
            assert_eq!((committed, size), (digest.clone(), 7));
            let left = std::fs::read_dir(folder.path().join("uploads")).unwrap();
            assert_eq!(left.count(), 0);
        }
    }

    #[test]
    fn wrong_bytes_are_not_kept() {
        let (_folder, blobs) = blobs();
        let digest = digest_of(Algorithm::Sha256, b"content");
        let mut writer = blobs.partial(&digest).unwrap();
        writer.write_all(b"contend").unwrap();
        assert!(writer.commit(Some(&digest)).is_err());
        assert_eq!(blobs.partial_size(&digest).unwrap(), 0);
        assert_eq!(blobs.partial(&digest).unwrap().written(), 0);
    }

    #[test]
    fn two_writers_never_share_a_file() {
        let (_folder, blobs) = blobs();
        let digest = digest_of(Algorithm::Sha256, b"content");
        let mut first = blobs.partial(&digest).unwrap();
        first.write_all(b"con").unwrap();
        let mut second = blobs.partial(&digest).unwrap();
        assert_eq!(second.written(), 0);
        second.write_all(b"content").unwrap();
        second.commit(Some(&digest)).unwrap();
        first.write_all(b"tent").unwrap();
        first.commit(Some(&digest)).unwrap();
        assert!(blobs.is_whole(&digest).unwrap());
    }

    #[test]
    fn what_nobody_comes_back_for_goes() {
        let (folder, blobs) = blobs();
        let digest = digest_of(Algorithm::Sha256, b"content");
        drop(blobs.partial(&digest).unwrap());
        let held = digest_of(Algorithm::Sha256, b"held");
        let writer = blobs.partial(&held).unwrap();
        let stranger = folder.path().join("uploads/d-sha256-zz");
        std::fs::write(&stranger, b"x").unwrap();
        let now = SystemTime::now();
        assert_eq!(blobs.expire_partials(now + KEPT_FOR / 2).unwrap(), 0);
        assert_eq!(blobs.expire_partials(now + 2 * KEPT_FOR).unwrap(), 1);
        drop(writer);
        assert_eq!(blobs.expire_partials(now + 2 * KEPT_FOR).unwrap(), 1);
        assert!(stranger.exists());
    }
}
