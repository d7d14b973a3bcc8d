//! A content store in a temporary folder, with the contract of `unpacker::content`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use unpacker::content::{Blob, Content, ContentWriter};
use unpacker::digest::{Digest, Hasher};

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
