//! What may be served: a blob's file is looked at before it leaves.
//!
//! A row says which blob a repository shows; the file decides whether it can be had. A file of
//! another size than its row is hashed at once. A manifest is hashed when it is first read, and
//! again when its file is another one; larger blobs are hashed by the scrub and by whoever pulls
//! them. What turns out damaged goes to the quarantine folder and is absent from then on.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{PoisonError, RwLock};

use crate::digest::{Algorithm, Digest, digest_of};
use crate::store::index::held;
use crate::store::{Store, StoreError};

/// So many manifests are remembered as verified, at some 200 bytes each; then all are forgotten and
/// hashed once more, which costs some microseconds each.
const REMEMBERED: usize = 16_384;

/// The files, nearly all of manifests, that were hashed since this process began.
#[derive(Debug, Default)]
pub(super) struct Verified(RwLock<HashMap<Digest, Stamp>>);

/// A file that was changed or replaced has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Verified {
    fn knows(&self, digest: &Digest, stamp: Stamp) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(digest) == Some(&stamp)
    }

    fn add(&self, digest: &Digest, stamp: Stamp) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(digest.clone(), stamp);
    }
}

impl Store {
    /// The size of a blob that rows say has `size` bytes; `None` where it is not here or damaged.
    pub fn stat_blob(&self, digest: &Digest, size: u64) -> Result<Option<u64>, StoreError> {
        match self.blobs.size(digest)? {
            Some(found) if found != size => Ok(self.open_blob(digest, size)?.map(|(_, size)| size)),
            found => Ok(found),
        }
    }

    /// A blob that rows say has `size` bytes, open at its beginning, and its size; `None` where it
    /// is not here or damaged.
    pub fn open_blob(&self, digest: &Digest, size: u64) -> Result<Option<(File, u64)>, StoreError> {
        match self.blobs.get(digest)? {
            Some((file, found)) if found != size => self.suspect(digest, file, found),
            found => Ok(found),
        }
    }

    /// A file that is not as long as a row says: one of the two is wrong.
    fn suspect(
        &self,
        digest: &Digest,
        mut file: File,
        size: u64,
    ) -> Result<Option<(File, u64)>, StoreError> {
        let stamp = Stamp::of(&file.metadata()?);
        if !self.verified.knows(digest, stamp) {
            if self.condemn(digest, &file)? {
                return Ok(None);
            }
            // The row is wrong: an earlier program linked a damaged file, which has healed since.
            self.verified.add(digest, stamp);
        }
        io::Seek::rewind(&mut file)?;
        Ok(Some((file, size)))
    }

    /// Reads an open blob again and, if it is damaged, takes it out of the way; answers whether it
    /// is.
    pub(super) fn condemn(&self, digest: &Digest, file: &File) -> Result<bool, StoreError> {
        let damaged = self.blobs.is_damaged(digest, file)?;
        if damaged {
            self.put_aside(digest, file)?;
        }
        Ok(damaged)
    }

    /// Takes the file out of the way, and what is kept of earlier ones within bounds.
    pub(super) fn put_aside(&self, digest: &Digest, file: &File) -> Result<(), StoreError> {
        if self.blobs.quarantine(digest, file, self.now())? {
            self.forget_oldest()?;
        }
        Ok(())
    }

    /// The bytes of a manifest of at most `limit` bytes, verified; `None` where they are not here
    /// or damaged.
    pub fn read_manifest(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((file, metadata)) = self.blobs.open_file(digest)? else {
            return Ok(None);
        };
        // To its end and no further: one more look for bytes would cost a call of the system.
        let length = metadata.len().min(limit as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        (&file).take(length).read_to_end(&mut bytes)?;
        let stamp = Stamp::of(&metadata);
        if self.verified.knows(digest, stamp) {
            return Ok(Some(bytes));
        }
        let algorithm = Algorithm::of(digest).unwrap_or_default();
        if digest_of(algorithm, &bytes) == *digest {
            self.verified.add(digest, stamp);
            return Ok(Some(bytes));
        }
        self.condemn(digest, &file)?;
        Ok(None)
    }

    /// Those whose file is not here: whoever needs them must wait until they are pushed again.
    pub(super) fn absent(&self, digests: &[Digest]) -> io::Result<Vec<Digest>> {
        let mut absent = Vec::new();
        for digest in digests {
            if self.blobs.size(digest)?.is_none() {
                absent.push(digest.clone());
            }
        }
        Ok(absent)
    }

    /// The size of a blob that is to get one more row; what the rows of others say of it must be
    /// true. `None` where it is not here or damaged.
    pub(super) fn linkable(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        match self.index.read(|rows| held::size(rows, digest))? {
            Some(size) => self.stat_blob(digest, size),
            None => {
                // Whoever wrote it may not have synced its name yet, and no row of the journal says
                // where else it is.
                let size = self.blobs.size(digest)?;
                if size.is_some() {
                    self.blobs.sync_names(digest)?;
                }
                Ok(size)
            }
        }
    }
}
