//! The files under the journal: the index itself and two segments that take turns.
//!
//! This trait is the whole of what the journal asks of a disk, so that a simulated one can lose
//! power between any two calls.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, StatVfs, fallocate, fstatvfs};
use rustix::io::Errno;

use super::overlay::PAGE;
use crate::store::step::{Step, Steps};

/// Set aside for each segment on a disk that has many bytes: enough for a dozen deletions.
const RESERVE: u64 = 1 << 20;
/// Of a small disk, so many hundredths.
const RESERVE_HUNDREDTHS: u64 = 3;
/// With fewer bytes left a segment is cut after its checkpoint. More than pushes leave free.
const SHORT: u64 = 2 * crate::store::space::RESERVE;

/// A file of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Part {
    /// `registry.redb`.
    Index,
    /// `registry.journal.0` or `.1`, by the lowest bit.
    Segment(u64),
}

/// Reads and writes at offsets. A write is durable once a later [`Medium::sync`] of its part has
/// succeeded; before that a power cut may keep any of its sectors.
pub(crate) trait Medium: Debug + Send + Sync + 'static {
    fn len(&self, part: Part) -> io::Result<u64>;
    /// Fills `out`; what lies behind the end reads as zeros.
    fn read(&self, part: Part, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, part: Part, length: u64) -> io::Result<()>;
    /// Makes data and length durable.
    fn sync(&self, part: Part) -> io::Result<()>;
    /// Sets space aside for the beginning of both segments, so that what frees space on a full disk
    /// finds some. Does what it can.
    fn reserve(&self);
    /// Gives these pages of the index a place on the disk.
    fn allocate(&self, pages: &mut dyn Iterator<Item = u64>) -> io::Result<()>;
    /// Whether the disk has so little space left that a segment should give back what it does not
    /// need.
    fn is_short(&self) -> bool;
}

/// Real files. Their names are durable once this is open.
#[derive(Debug)]
pub(crate) struct Disk {
    index: File,
    segments: [File; 2],
    steps: Steps,
}

impl Disk {
    /// Opens the index at `path`, which must exist, and its segments, which are made.
    pub(crate) fn open(path: &Path, steps: Steps) -> io::Result<Self> {
        let open = |path: &Path, create: bool| {
            let mut options = OpenOptions::new();
            // Segments hold bytes of blobs.
            options.mode(0o600);
            options.read(true).write(true).create(create).open(path)
        };
        let disk = Self {
            index: open(path, false)?,
            segments: [
                open(&segment_path(path, 0), true)?,
                open(&segment_path(path, 1), true)?,
            ],
            steps,
        };
        File::open(folder_of(path))?.sync_all()?;
        Ok(disk)
    }

    /// The index is where tests look: each write and each sync of it is a step.
    fn told(&self, part: Part, step: Step) -> io::Result<()> {
        match part {
            Part::Index => self.steps.at(step),
            Part::Segment(_) => Ok(()),
        }
    }

    fn disk(&self) -> Option<StatVfs> {
        fstatvfs(&self.index).ok()
    }

    fn file(&self, part: Part) -> &File {
        let [even, odd] = &self.segments;
        match part {
            Part::Index => &self.index,
            Part::Segment(number) if number % 2 == 0 => even,
            Part::Segment(_) => odd,
        }
    }
}

/// Where the segment with this number lies.
pub(crate) fn segment_path(index: &Path, number: u64) -> PathBuf {
    index.with_extension(format!("journal.{}", number % 2))
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl Medium for Disk {
    fn len(&self, part: Part) -> io::Result<u64> {
        Ok(self.file(part).metadata()?.len())
    }

    fn read(&self, part: Part, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        while !out.is_empty() {
            match self.file(part).read_at(out, at) {
                Ok(0) => {
                    out.fill(0);
                    return Ok(());
                }
                Ok(count) => {
                    at += count as u64;
                    out = out.get_mut(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.told(part, Step::IndexWriting)?;
        self.file(part).write_all_at(bytes, offset)
    }

    fn set_len(&self, part: Part, length: u64) -> io::Result<()> {
        self.told(part, Step::IndexWriting)?;
        self.file(part).set_len(length)
    }

    fn sync(&self, part: Part) -> io::Result<()> {
        self.told(part, Step::IndexSyncing)?;
        self.file(part).sync_data()
    }

    fn reserve(&self) {
        let bytes = self.disk().map_or(0, |disk| {
            let hundredth = (disk.f_blocks / 100).saturating_mul(disk.f_frsize);
            hundredth.saturating_mul(RESERVE_HUNDREDTHS).min(RESERVE)
        });
        for segment in &self.segments {
            // Not every file system can; there the reserve of the pushes has to do.
            let _ = fallocate(segment, FallocateFlags::KEEP_SIZE, 0, bytes);
        }
    }

    fn allocate(&self, pages: &mut dyn Iterator<Item = u64>) -> io::Result<()> {
        for page in pages {
            let (at, length) = (page * PAGE as u64, PAGE as u64);
            // Not every file system can; there it is the checkpoint that fails.
            let placed = fallocate(&self.index, FallocateFlags::KEEP_SIZE, at, length);
            if let Err(Errno::NOSPC | Errno::DQUOT) = placed {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }

    fn is_short(&self) -> bool {
        self.disk().is_some_and(|disk| {
            disk.f_blocks > 0 && disk.f_bavail.saturating_mul(disk.f_frsize) < SHORT
        })
    }
}
