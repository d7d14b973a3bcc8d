//! The folders that a build may read: its context, behind an ignore file, and named ones.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use unpacker::layer::root::Root;
use unpacker::layer::root::metadata::Metadata;
use unpacker::progress::Cancel;

use crate::cache::files::{self, Asked, FileHashes, Hashed, Stat};
use crate::ignore::{Ignore, IgnoreError};
use crate::source::read_beside;

/// An ignore file larger than this is none.
const MAX_IGNORE_FILE: u64 = 1 << 20;
const IGNORE_FILE: &str = ".dockerignore";

/// One folder of the host.
#[derive(Debug)]
pub struct Context {
    pub root: Root,
    pub ignore: Ignore,
    hashes: Mutex<FileHashes>,
}

/// Why an ignore file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {file}")]
    IgnoreFile {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("{file}")]
    Ignore {
        file: String,
        #[source]
        source: IgnoreError,
    },
}

impl Context {
    /// Opens a folder. `dockerfile` is where the Dockerfile is, if it is a file: the ignore file
    /// beside it, `<Dockerfile>.dockerignore`, comes before the context's own.
    pub fn open(
        folder: &Path,
        dockerfile: Option<&Path>,
        cache: &Path,
    ) -> Result<Self, ContextError> {
        let open = || {
            let path = folder.canonicalize()?;
            Ok((Root::open(&path)?, path))
        };
        let (root, path) = open().map_err(|source| ContextError::Open {
            path: folder.to_owned(),
            source,
        })?;
        let ignore = match beside(folder, dockerfile)? {
            Some(ignore) => ignore,
            None => own(&root)?,
        };
        Ok(Self {
            root,
            ignore,
            hashes: Mutex::new(FileHashes::open(cache, &path)),
        })
    }

    /// The content of one of its files, given what was found of it: from memory where nothing changed;
    /// nothing where the work was stopped.
    pub fn hash(
        &self,
        found: &Metadata,
        open: impl FnOnce() -> io::Result<File>,
        cancel: &Cancel,
    ) -> io::Result<Option<Hashed>> {
        let stat = Stat::from(found);
        let known = self.hashes().get(&stat);
        if let Some(known) = known {
            return Ok(Some(Hashed::known(stat, &known)));
        }
        let mut file = open()?;
        // It may be another one by now.
        let asked = Asked::of(&file)?;
        // Others may look up and read meanwhile.
        let Some(hash) = files::hash(&mut file, cancel)? else {
            return Ok(None);
        };
        self.hashes().learn(&asked, &hash);
        Ok(Some(Hashed::new(&asked, &hash)))
    }

    /// Keeps what was learned for the next build.
    pub fn remember(&self) -> io::Result<()> {
        self.hashes().save()
    }

    fn hashes(&self) -> std::sync::MutexGuard<'_, FileHashes> {
        // A poisoned lock means that another thread died while hashing; the table is whole.
        self.hashes.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn beside(context: &Path, dockerfile: Option<&Path>) -> Result<Option<Ignore>, ContextError> {
    let Some(dockerfile) = dockerfile else {
        return Ok(None);
    };
    let mut name = dockerfile.as_os_str().to_owned();
    name.push(IGNORE_FILE);
    let file = PathBuf::from(name);
    let name = file.display().to_string();
    match read_beside(context, &file, MAX_IGNORE_FILE) {
        Ok(bytes) => parse(&name, &bytes).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ContextError::IgnoreFile { file: name, source }),
    }
}

fn own(root: &Root) -> Result<Ignore, ContextError> {
    match root.read_small(Path::new(IGNORE_FILE), MAX_IGNORE_FILE) {
        Ok(bytes) => parse(IGNORE_FILE, &bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Ignore::default()),
        Err(source) => Err(ContextError::IgnoreFile {
            file: IGNORE_FILE.to_owned(),
            source,
        }),
    }
}

fn parse(file: &str, bytes: &[u8]) -> Result<Ignore, ContextError> {
    Ignore::parse(bytes).map_err(|source| ContextError::Ignore {
        file: file.to_owned(),
        source,
    })
}
