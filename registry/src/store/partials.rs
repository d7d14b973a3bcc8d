//! Unfinished downloads: `<content>/uploads/d-<algorithm>-<hex>` holds the first bytes of a blob that
//! another registry sends.
//!
//! The name says which blob it will be, so whoever wants that blob next goes on where the last one
//! stopped, also after a killed process. Nothing is believed of the bytes: they are hashed again when
//! they are taken up, and the commit checks the whole. A power cut may leave zeros in place of them;
//! then the digest is wrong, and the download begins anew. When the blob is here, however it came,
//! nobody needs its beginning: that goes at once, or with the writer that has it in hand.

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

    /// Removes downloads whose blob is here by now, and those that nobody went on with for a long
    /// time; answers how many.
    pub(crate) fn expire_partials(&self, now: SystemTime) -> io::Result<u64> {
        let mut expired = 0;
        for name in names(self.uploads())? {
            let Some(digest) = digest_of_partial(&name) else {
                continue;
            };
            let Some(file) = self.open_partial(&name)? else {
                continue;
            };
            let touched = file.metadata()?.modified()?;
            if !is_fresh(touched, now, KEPT_FOR) || self.stat(&digest)?.is_some() {
                expired += u64::from(self.remove_partial(&file, &name)?);
            }
        }
        Ok(expired)
    }

    /// The blob is here: removes what there is of an unfinished download of it, unless somebody has
    /// it in hand. What cannot be removed now goes with the next that expire.
    pub(super) fn forget_partial(&self, digest: &Digest) {
        let name = partial_name(digest);
        if let Ok(Some(file)) = self.open_partial(&name) {
            let _ = self.remove_partial(&file, &name);
        }
    }

    /// Removes an unfinished download that nobody has in hand; false where somebody has.
    fn remove_partial(&self, file: &File, name: &str) -> io::Result<bool> {
        let goes = is_ours(file)? && self.is_named(file, name)?;
        if goes {
            unlinkat(self.uploads(), name, AtFlags::empty())?;
        }
        Ok(goes)
    }

    /// Whether the name in the folder of unfinished content still means this file.
    pub(super) fn is_named(&self, file: &File, name: &str) -> io::Result<bool> {
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

/// The blob that an unfinished download will be; `None` for other names.
pub(super) fn digest_of_partial(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix(PARTIAL)?.split_once('-')?;
    parse_digest(&format!("{algorithm}:{hex}")).ok()
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
    fn the_name_of_the_next_download_survives_the_last_ones_end() {
        let (_folder, blobs) = blobs();
        let digest = digest_of(Algorithm::Sha256, b"content");
        let mut first = blobs.partial(&digest).unwrap();
        first.write_all(b"content").unwrap();
        // As its commit does, before the writer itself is dropped.
        first.discard_on_drop();
        first.publish(&digest).unwrap();
        // Somebody takes the blob away, and somebody else fetches it again.
        blobs.unlink(&digest).unwrap();
        let mut second = blobs.partial(&digest).unwrap();
        second.write_all(b"con").unwrap();
        drop(first);
        assert_eq!(blobs.partial_size(&digest).unwrap(), 3);
        second.write_all(b"tent").unwrap();
        second.commit(Some(&digest)).unwrap();
        assert!(blobs.is_whole(&digest).unwrap());
    }

    #[test]
    fn what_came_another_way_needs_no_beginning() {
        let (folder, blobs) = blobs();
        let left = || {
            std::fs::read_dir(folder.path().join("uploads"))
                .unwrap()
                .count()
        };
        let digest = digest_of(Algorithm::Sha256, b"content");
        let begin = || {
            let mut writer = blobs.partial(&digest).unwrap();
            writer.write_all(b"con").unwrap();
            writer
        };
        // Nobody has it in hand: it goes with the commit.
        drop(begin());
        assert_eq!(left(), 1);
        blobs.put(b"content", Algorithm::Sha256).unwrap();
        assert_eq!(left(), 0);
        // Somebody has: it goes with that writer, and not before.
        blobs.unlink(&digest).unwrap();
        let held = begin();
        blobs.put(b"content", Algorithm::Sha256).unwrap();
        assert_eq!(blobs.partial_size(&digest).unwrap(), 3);
        assert_eq!(blobs.expire_partials(SystemTime::now()).unwrap(), 0);
        drop(held);
        assert_eq!(left(), 0);
        // A process that was killed in between left it: it goes with the next round.
        let name = partial_name(&digest);
        std::fs::write(folder.path().join("uploads").join(name), b"con").unwrap();
        assert_eq!(blobs.expire_partials(SystemTime::now()).unwrap(), 1);
        assert_eq!(left(), 0);
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
