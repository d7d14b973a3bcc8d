//! An overlay upper folder becomes a layer's tar.
//!
//! The stream depends on the folder only: entries are sorted by name, parents before children,
//! owners are numbers, and no time but the files' own is in it. Whiteouts (character device 0:0)
//! become `.wh.<name>` and opaque folders get `.wh..wh..opq`, as image-spec layer.md says.
//! Attributes of overlayfs itself and of recorded ownership never leave the machine.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Ownership;
use super::header::{self, Fields, Xattrs};
use super::ownership::OVERRIDE_STAT;
use super::root::metadata::{Kind, Metadata, Owner, Timestamp};
use super::root::{Root, attributes};
use crate::progress::{Cancel, Event, Progress, Silent};

const OVERLAY_PREFIX: &[u8] = b"user.overlay.";
const OPAQUE: &str = "user.overlay.opaque";

/// How a folder is written.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// Every time becomes this (seconds since the epoch), later or earlier: `SOURCE_DATE_EPOCH`. An
    /// earlier time may be that of a checkout, or of a build that was remembered.
    pub mtime: Option<i64>,
    pub ownership: Ownership,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffStats {
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes of the tar.
    pub bytes: u64,
    /// Sockets, which a tar cannot hold.
    pub skipped: u64,
}

/// A folder that could not be written as a layer.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} became shorter while it was read")]
    Shrunk { path: PathBuf },
    #[error("{path:?} cannot be in a layer: its name starts with .wh.")]
    WhiteoutName { path: PathBuf },
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Cancelled(#[from] crate::progress::Cancelled),
}

/// Writes `upper` as an uncompressed tar, its end marker included.
pub fn diff(
    upper: &Root,
    out: &mut dyn Write,
    options: &DiffOptions,
) -> Result<DiffStats, DiffError> {
    diff_watched(upper, out, options, &Silent, &Cancel::default())
}

/// As [`diff`], with warnings told and the cancel checked between entries.
pub fn diff_watched(
    upper: &Root,
    out: &mut dyn Write,
    options: &DiffOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<DiffStats, DiffError> {
    // Nobody changes a folder that becomes a layer.
    let steady = upper.try_clone().map_err(|source| DiffError::Read {
        path: PathBuf::from("/"),
        source,
    })?;
    let steady = steady.steady();
    let mut walk = Walk {
        upper: &steady,
        out,
        options,
        progress,
        cancel,
        links: HashMap::new(),
        stats: DiffStats::default(),
        buffer: vec![0; 128 * 1024],
    };
    walk.directory(Path::new(""))?;
    // Two zero blocks end an archive (POSIX pax, "ustar Interchange Format").
    walk.write(&[0; 1024])?;
    Ok(walk.stats)
}

struct Walk<'a> {
    upper: &'a Root,
    out: &'a mut dyn Write,
    options: &'a DiffOptions,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    /// Files with several names, by identity: the name that was written first.
    links: HashMap<(u64, u64), PathBuf>,
    stats: DiffStats,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    /// Writes a directory and everything below it. The folders still to do are kept in a stack of
    /// our own, so that no tree is too deep.
    fn directory(&mut self, top: &Path) -> Result<(), DiffError> {
        let mut todo = vec![top.to_owned()];
        while let Some(path) = todo.pop() {
            self.cancel.check()?;
            let metadata = self.read(&path, self.upper.metadata(&path))?;
            if !metadata.is_dir() {
                self.leaf(&path, &metadata)?;
                continue;
            }
            if !path.as_os_str().is_empty() || self.root_is_told(&metadata)? {
                self.entry(&path, &metadata, Fields::default())?;
            }
            if self.is_opaque(&path)? {
                self.marker(&path.join(".wh..wh..opq"))?;
            }
            let names = self.read(&path, self.upper.read_dir(&path))?;
            // Popped from the end, so the last name goes in first.
            todo.extend(names.iter().rev().map(|entry| path.join(&entry.name)));
        }
        Ok(())
    }

    /// The root has an entry only where it is not what it is without one. Its time alone, which
    /// every file created in it changes, would make equal layers differ.
    fn root_is_told(&self, metadata: &Metadata) -> Result<bool, DiffError> {
        let top = Path::new("");
        let known = self.options.ownership.of(self.upper, top, metadata);
        let plain = self.read(top, known)? == (Owner::default(), 0o755);
        Ok(!plain || !self.xattrs(top)?.is_empty())
    }

    fn leaf(&mut self, path: &Path, metadata: &Metadata) -> Result<(), DiffError> {
        let name = path.file_name().unwrap_or_default();
        if metadata.is_whiteout() {
            let hidden = [b".wh.", name.as_bytes()].concat();
            return self.marker(&path.with_file_name(OsStr::from_bytes(&hidden)));
        }
        if metadata.kind == Kind::Socket {
            self.stats.skipped += 1;
            let text = format!("socket {path:?} is not in the layer: a tar cannot hold it");
            self.progress.event(Event::Warning { text });
            return Ok(());
        }
        if metadata.links > 1 {
            if let Some(first) = self.links.get(&metadata.identity) {
                let fields = Fields {
                    hard_link: Some(first.clone()),
                    ..Fields::default()
                };
                return self.entry(path, metadata, fields);
            }
            self.links.insert(metadata.identity, path.to_owned());
        }
        match metadata.kind {
            Kind::File => self.file(path, metadata),
            Kind::Symlink => {
                let target = self.read(path, self.upper.read_link(path))?;
                let fields = Fields {
                    symlink: Some(target),
                    ..Fields::default()
                };
                self.entry(path, metadata, fields)
            }
            _ => self.entry(path, metadata, Fields::default()),
        }
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) -> Result<(), DiffError> {
        let file = self.read(path, self.upper.open_file(path))?;
        let fields = Fields {
            size: metadata.size,
            ..Fields::default()
        };
        self.entry(path, metadata, fields)?;
        let mut left = metadata.size;
        let mut file = file.take(left);
        while left > 0 {
            let read = match file.read(&mut self.buffer) {
                Ok(0) => {
                    return Err(DiffError::Shrunk {
                        path: path.to_owned(),
                    });
                }
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return self.read(path, Err(source)),
            };
            self.out
                .write_all(&self.buffer[..read])
                .map_err(DiffError::Write)?;
            self.stats.bytes += read as u64;
            left -= read as u64;
            self.cancel.check()?;
        }
        let padding = metadata.size.next_multiple_of(512) - metadata.size;
        self.write(&[0; 512][..usize::try_from(padding).unwrap_or(0)])
    }

    /// Writes the header of what is there.
    fn entry(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        mut fields: Fields,
    ) -> Result<(), DiffError> {
        // The image's own file would hide others: the format has no way to say such a name.
        if path
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(b".wh."))
        {
            return Err(DiffError::WhiteoutName {
                path: path.to_owned(),
            });
        }
        let ownership = self.options.ownership;
        let (owner, mode) = self.read(path, ownership.of(self.upper, path, metadata))?;
        fields.owner = owner;
        fields.mode = mode;
        fields.kind = metadata.kind;
        fields.node = metadata.node;
        fields.mtime = self.time(metadata.mtime);
        if fields.hard_link.is_none() {
            fields.xattrs = self.xattrs(path)?;
        }
        self.header(path, &fields)
    }

    /// An empty file whose name says everything.
    fn marker(&mut self, path: &Path) -> Result<(), DiffError> {
        self.header(path, &Fields::default())
    }

    fn header(&mut self, path: &Path, fields: &Fields) -> Result<(), DiffError> {
        self.stats.entries += 1;
        let bytes = header::encode(path, fields);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DiffError> {
        self.stats.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(DiffError::Write)
    }

    fn time(&self, mtime: Timestamp) -> Timestamp {
        self.options.mtime.map_or(mtime, Timestamp::from_seconds)
    }

    fn is_opaque(&self, path: &Path) -> Result<bool, DiffError> {
        let value = self.read(path, self.upper.xattr(path, OsStr::new(OPAQUE)))?;
        Ok(value.as_deref() == Some(b"y"))
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, DiffError> {
        let place = self.read(path, self.upper.place(path))?;
        let all = attributes::xattrs_in(place.dir.as_fd(), &place.name);
        let all = self.read(path, all)?;
        Ok(all
            .into_iter()
            .filter_map(|(name, value)| Some((exported(name.as_bytes())?, value)))
            .collect())
    }

    fn read<T>(&self, path: &Path, result: io::Result<T>) -> Result<T, DiffError> {
        result.map_err(|source| DiffError::Read {
            path: Path::new("/").join(path),
            source,
        })
    }
}

/// The name of an attribute in the layer; `None` for what means something on this machine only.
fn exported(name: &[u8]) -> Option<Vec<u8>> {
    if let Some(rest) = name.strip_prefix(OVERLAY_PREFIX) {
        // What an image had under our prefix is kept escaped (overlayfs.rst, "Nesting").
        let escaped = rest.strip_prefix(b"overlay.")?;
        return Some([OVERLAY_PREFIX, escaped].concat());
    }
    let local = name == OVERRIDE_STAT.as_bytes()
        || name.starts_with(b"trusted.")
        || matches!(
            name,
            b"security.selinux" | b"security.ima" | b"security.evm"
        );
    (!local).then(|| name.to_vec())
}
