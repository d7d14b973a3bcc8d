//! A content store in a temporary folder, with the contract of `unpacker::content`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use unpacker::content::{Blob, Content, ContentWriter};
use unpacker::digest::{Digest, Hasher};

/// What this store says that there is room for.
pub(crate) const ROOM: u64 = 1 << 30;

pub(crate) struct Store {
    folder: tempfile::TempDir,
}

struct Writer {
    file: tempfile::NamedTempFile,
    hasher: Hasher,
    expected: Option<Digest>,
    folder: PathBuf,
    size: u64,
}

/// A writer whose file outlives it.
struct Partial {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    expected: Digest,
    target: PathBuf,
    size: u64,
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            folder: tempfile::tempdir().unwrap(),
        })
    }

    /// Checks that nothing is visible and nothing left over. The writer's thread discards an
    /// abandoned blob a moment after the error is known.
    pub(crate) fn becomes_empty(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while fs::read_dir(self.folder.path()).unwrap().count() > 0 {
            assert!(Instant::now() < end, "something was left over");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Leaves what a killed process would: the first bytes of a blob.
    pub(crate) fn leave(&self, digest: &Digest, bytes: &[u8]) {
        fs::write(self.partial(digest), bytes).unwrap();
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.folder.path().join(digest.digest()).exists()
    }

    /// Bytes of an unfinished blob.
    pub(crate) fn left(&self, digest: &Digest) -> u64 {
        fs::metadata(self.partial(digest)).map_or(0, |found| found.len())
    }

    fn partial(&self, digest: &Digest) -> PathBuf {
        self.folder
            .path()
            .join(format!("partial-{}", digest.digest()))
    }

    pub(crate) fn bytes(&self, digest: &Digest) -> Vec<u8> {
        let content: &dyn Content = self;
        content.read(digest, 1 << 30).unwrap().expect("the blob")
    }
}

impl Content for Store {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        match File::open(self.folder.path().join(digest.digest())) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some(Blob { file, size }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn writer(&self, expected: Option<&Digest>) -> io::Result<Box<dyn ContentWriter>> {
        Ok(Box::new(Writer {
            file: tempfile::NamedTempFile::new_in(self.folder.path())?,
            hasher: expected.map_or_else(Hasher::sha256, Hasher::like),
            expected: expected.cloned(),
            folder: self.folder.path().to_owned(),
            size: 0,
        }))
    }

    fn resume(&self, expected: &Digest) -> io::Result<(Box<dyn ContentWriter>, u64)> {
        let path = self.partial(expected);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut hasher = Hasher::like(expected);
        hasher.update(&bytes);
        let size = bytes.len() as u64;
        let writer = Partial {
            file,
            path,
            hasher,
            expected: expected.clone(),
            target: self.folder.path().join(expected.digest()),
            size,
        };
        Ok((Box::new(writer), size))
    }

    fn unfinished(&self, digest: &Digest) -> io::Result<u64> {
        Ok(self.left(digest))
    }

    fn free(&self) -> io::Result<Option<u64>> {
        Ok(Some(ROOM))
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ContentWriter for Partial {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        let digest = self.hasher.finish();
        if digest != self.expected {
            fs::remove_file(&self.path)?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        fs::rename(&self.path, &self.target)?;
        Ok((digest, self.size))
    }

    fn reader(&self) -> io::Result<Option<File>> {
        File::open(&self.path).map(Some)
    }

    fn discard(self: Box<Self>) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl ContentWriter for Writer {
    fn commit(self: Box<Self>) -> io::Result<(Digest, u64)> {
        let digest = self.hasher.finish();
        if self.expected.is_some_and(|expected| expected != digest) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let path = self.folder.join(digest.digest());
        self.file.persist(path).map_err(|e| e.error)?;
        Ok((digest, self.size))
    }
}
